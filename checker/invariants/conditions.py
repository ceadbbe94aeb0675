"""I7: nothing is approved that the state of the world forbids.

Not on a stale price, not when it is too old, not while the kill switch is on, trading is halted or the
instrument is restricted. Limits and the kill switch reach risk in its own input: they bind from its answer
on. Halts, restrictions and accounts reach a service beside it: they bind within BINDS_WITHIN_MS.
"""

from collections.abc import Iterator

from checker.findings import Findings
from checker.history import Shared, Slice, Traces
from checker.records import (
    AccountRegistered,
    HaltInForce,
    Limits,
    Order,
    OrderComplianceApproved,
    OrderRiskApproved,
    RestrictionInForce,
)
from checker.reference import BINDS_WITHIN_MS, EVERYBODY, Reference, Unreadable
from models.values import PartyStatus

I7 = "I7"
CLOCK_SKEW_MS_MAX = 1_000
"""How far a client's clock may run ahead of the broker's."""


def check_conditions(history: Slice, traces: Traces, shared: Shared) -> Findings:
    """Judge every approval of risk and of compliance by what was in force when it was made."""
    found = Findings()
    for decision in history.risk:
        approval = decision.event
        if not isinstance(approval, OrderRiskApproved):
            continue
        order_id = approval.order.order_id
        limits = shared.limits.find(approval.order.account_id, approval.limits_version)
        if limits is not None:
            for message in _switch_and_ages(approval, limits):
                found.violate(I7, message, order_id)
        for message in _controls(approval, decision.timestamp_ms, shared.reference):
            found.violate(I7, message, order_id)
        trace = traces.get(order_id)
        if trace is not None and trace.received is not None:
            _check_price(approval, trace.received.timestamp_ms, shared, found)
    for judged in history.compliance:
        if isinstance(judged.event, OrderComplianceApproved):
            _check_restriction(judged.event.order, judged.timestamp_ms, shared.reference, found)
    return found


def decided_at_ms(approval: OrderRiskApproved, logged_at_ms: int) -> int:
    """When it was made: when the worker says, but not after it stood in the log."""
    return min(approval.decided_at_ms or logged_at_ms, logged_at_ms)


def _switch_and_ages(approval: OrderRiskApproved, limits: Limits) -> Iterator[str]:
    order, decided = approval.order, approval.decided_at_ms
    if limits.kill_switch:
        yield "an order was approved while the kill switch was on"
    if approval.price_age_ms > limits.price_age_ms_max:
        yield "an order was approved on a stale price"
    if not decided:  # a release that did not tell
        return
    if decided < approval.received_at_ms:
        yield "an order was approved before it was received"
    if order.submitted_at_ms > approval.received_at_ms + CLOCK_SKEW_MS_MAX:
        yield "an order that comes from the future was approved"
    if decided - min(order.submitted_at_ms, approval.received_at_ms) > limits.order_age_ms_max:
        yield "an order was approved that was too old"


def _controls(approval: OrderRiskApproved, logged_at_ms: int, reference: Reference) -> Iterator[str]:
    account_id = approval.order.account_id
    since_ms, until_ms = logged_at_ms - BINDS_WITHIN_MS, logged_at_ms
    if all(each is True for each in reference.switches.between(account_id, since_ms, until_ms)):
        yield "an order was approved after risk had answered that the kill switch is on"
    decided = decided_at_ms(approval, logged_at_ms)
    if is_halted(reference, account_id, decided - BINDS_WITHIN_MS, decided):
        yield "an order was approved while trading was halted"
    status = reference.accounts.between(account_id, decided - BINDS_WITHIN_MS, decided)
    if approval.decided_at_ms and all(is_suspended(each) for each in status):
        yield "an order of a suspended account was approved"


def is_halted(reference: Reference, account_id: str, since_ms: int, until_ms: int) -> bool:
    """Whether trading was halted at every moment of that time, for everybody or for the account."""
    return any(
        all(_halts(each) for each in reference.halts.between(scope, since_ms, until_ms))
        for scope in (EVERYBODY, account_id)
    )


def _halts(halt: HaltInForce | Unreadable | None) -> bool:
    return isinstance(halt, Unreadable) or (halt is not None and halt.halted)


def is_suspended(account: AccountRegistered | Unreadable | None) -> bool:
    return isinstance(account, AccountRegistered) and account.status is PartyStatus.SUSPENDED


def _check_restriction(order: Order, at_ms: int, reference: Reference, found: Findings) -> None:
    told = reference.restricted.between(order.symbol, at_ms - BINDS_WITHIN_MS, at_ms)
    if all(restricts(each) for each in told):
        found.violate(I7, "an order in a restricted instrument was approved", order.order_id)


def restricts(restriction: RestrictionInForce | Unreadable | None) -> bool:
    return isinstance(restriction, Unreadable) or (restriction is not None and restriction.restricted)


def _check_price(approval: OrderRiskApproved, received_at_ms: int, shared: Shared, found: Findings) -> None:
    symbol, sequence = approval.order.symbol, approval.reference_tick_sequence
    ticks = shared.market.find(symbol, approval.reference_tick_epoch, sequence)
    at_ms = approval.decided_at_ms or received_at_ms
    if not ticks and not shared.market_is_whole:
        found.skip(I7, "the tick of an approval is gone from the log", f"{symbol}:{sequence}")
    elif not ticks:
        found.violate(I7, "an approval names a tick that is not in the log", approval.order.order_id)
    elif approval.reference_price_ticks not in {price_ticks for price_ticks, _ in ticks}:
        found.violate(I7, "the reference price of an approval is not its tick's", approval.order.order_id)
    elif approval.price_age_ms not in {max(0, at_ms - observed) for _, observed in ticks}:
        found.violate(I7, "the price age of an approval is not that of its tick", approval.order.order_id)
