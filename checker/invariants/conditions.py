"""I7: nothing is approved that the state of the world forbids; cancels it never does.

Not on a stale price, not when it is too old, not while the kill switch is on, trading is halted or the
instrument is restricted. Limits and the kill switch reach risk in its own input: they bind from its answer
on. Halts, restrictions and accounts reach a service beside it: they bind within BINDS_WITHIN_MS.
"""

from collections.abc import Iterator
from typing import NamedTuple

from checker.findings import Findings
from checker.history import Shared, Slice, Traces
from checker.records import (
    AccountRegistered,
    HaltInForce,
    Limits,
    OrderComplianceApproved,
    OrderRiskApproved,
    ReplaceComplianceApproved,
    ReplaceRiskApproved,
    RestrictionInForce,
)
from checker.reference import BINDS_WITHIN_MS, EVERYBODY, Reference, Unreadable
from models.values import PartyStatus

I7 = "I7"
CLOCK_SKEW_MS_MAX = 1_000
"""How far a client's clock may run ahead of the broker's."""


Approval = OrderRiskApproved | ReplaceRiskApproved


class _Approved(NamedTuple):
    """What risk has approved (`what`): an order, or a replace of one."""

    approval: Approval
    what: str
    identity: str
    account_id: str
    symbol: str
    submitted_at_ms: int
    logged_at_ms: int


def check_conditions(history: Slice, traces: Traces, shared: Shared) -> Findings:
    """Judge every approval of risk and of compliance by what was in force when it was made."""
    found = Findings()
    for approved in (*_approved_orders(history), *_approved_replaces(history)):
        limits = shared.limits.find(approved.account_id, approved.approval.limits_version)
        if limits is not None:
            for message in _switch_and_ages(approved, limits):
                found.violate(I7, message, approved.identity)
        for message in _controls(approved, shared.reference):
            found.violate(I7, message, approved.identity)
        received_at_ms = _received_at_ms(approved, traces)
        if received_at_ms is not None:
            _check_price(approved, received_at_ms, shared, found)
    for judged in history.compliance:
        if isinstance(judged.event, OrderComplianceApproved):
            order = judged.event.order
            if _is_restricted(order.symbol, judged.timestamp_ms, shared.reference):
                found.violate(I7, "an order in a restricted instrument was approved", order.order_id)
    for passed in history.asked_compliance:
        approval = passed.event
        if isinstance(approval, ReplaceComplianceApproved) and _is_restricted(
            approval.symbol, passed.timestamp_ms, shared.reference
        ):
            found.violate(I7, "a replace in a restricted instrument was approved", approval.venue_id)
    return found


def _approved_orders(history: Slice) -> Iterator[_Approved]:
    for decision in history.risk:
        approval = decision.event
        if isinstance(approval, OrderRiskApproved):
            order = approval.order
            yield _Approved(
                approval,
                "an order",
                order.order_id,
                order.account_id,
                order.symbol,
                order.submitted_at_ms,
                decision.timestamp_ms,
            )


def _approved_replaces(history: Slice) -> Iterator[_Approved]:
    for decision in history.asked_risk:
        approval = decision.event
        if isinstance(approval, ReplaceRiskApproved):
            request = approval.request
            yield _Approved(
                approval,
                "a replace",
                request.request_id,
                request.account_id,
                approval.symbol,
                request.submitted_at_ms,
                decision.timestamp_ms,
            )


def _received_at_ms(approved: _Approved, traces: Traces) -> int | None:
    """When its record was logged; None where there is none."""
    if isinstance(approved.approval, OrderRiskApproved):
        trace = traces.get(approved.identity)
        return trace.received.timestamp_ms if trace is not None and trace.received is not None else None
    asking = traces.requests.get(approved.identity)
    return asking.received.timestamp_ms if asking is not None and asking.received is not None else None


def decided_at_ms(approval: Approval, logged_at_ms: int) -> int:
    """When it was made: when the worker says, but not after it stood in the log."""
    return min(approval.decided_at_ms or logged_at_ms, logged_at_ms)


def _switch_and_ages(approved: _Approved, limits: Limits) -> Iterator[str]:
    approval, what = approved.approval, approved.what
    decided = approval.decided_at_ms
    if limits.kill_switch:
        yield f"{what} was approved while the kill switch was on"
    if approval.price_age_ms > limits.price_age_ms_max:
        yield f"{what} was approved on a stale price"
    if not decided:  # a release that did not tell
        return
    if decided < approval.received_at_ms:
        yield f"{what} was approved before it was received"
    if approved.submitted_at_ms > approval.received_at_ms + CLOCK_SKEW_MS_MAX:
        yield f"{what} that comes from the future was approved"
    if decided - min(approved.submitted_at_ms, approval.received_at_ms) > limits.order_age_ms_max:
        yield f"{what} was approved that was too old"


def _controls(approved: _Approved, reference: Reference) -> Iterator[str]:
    account_id, what, logged_at_ms = approved.account_id, approved.what, approved.logged_at_ms
    since_ms, until_ms = logged_at_ms - BINDS_WITHIN_MS, logged_at_ms
    if all(each is True for each in reference.switches.between(account_id, since_ms, until_ms)):
        yield f"{what} was approved after risk had answered that the kill switch is on"
    decided = decided_at_ms(approved.approval, logged_at_ms)
    if is_halted(reference, account_id, decided - BINDS_WITHIN_MS, decided):
        yield f"{what} was approved while trading was halted"
    status = reference.accounts.between(account_id, decided - BINDS_WITHIN_MS, decided)
    if approved.approval.decided_at_ms and all(is_suspended(each) for each in status):
        yield f"{what} of a suspended account was approved"


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


def _is_restricted(symbol: str, at_ms: int, reference: Reference) -> bool:
    """Whether an instrument had been restricted for long enough by then."""
    told = reference.restricted.between(symbol, at_ms - BINDS_WITHIN_MS, at_ms)
    return all(restricts(each) for each in told)


def restricts(restriction: RestrictionInForce | Unreadable | None) -> bool:
    return isinstance(restriction, Unreadable) or (restriction is not None and restriction.restricted)


def _check_price(approved: _Approved, received_at_ms: int, shared: Shared, found: Findings) -> None:
    approval, symbol = approved.approval, approved.symbol
    sequence = approval.reference_tick_sequence
    ticks = shared.market.find(symbol, approval.reference_tick_epoch, sequence)
    at_ms = approval.decided_at_ms or received_at_ms
    if not ticks and not shared.market_is_whole:
        found.skip(I7, "the tick of an approval is gone from the log", f"{symbol}:{sequence}")
    elif not ticks:
        found.violate(I7, "an approval names a tick that is not in the log", approved.identity)
    elif approval.reference_price_ticks not in {price_ticks for price_ticks, _ in ticks}:
        found.violate(I7, "the reference price of an approval is not its tick's", approved.identity)
    elif approval.price_age_ms not in {max(0, at_ms - observed) for _, observed in ticks}:
        found.violate(I7, "the price age of an approval is not that of its tick", approved.identity)
