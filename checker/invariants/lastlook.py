"""I7 at the last look: no order or replace left for the venue that had to be withheld.

Nothing tells when an order left. It was not before compliance had approved it and the exchange had intended
it, and not after the venue's first report of it; a replace not after the venue's answer. What held during all
of that time held when it left: that is a violation. What held only at its end may have begun behind the
order: that is noted as unverifiable.
"""

from collections.abc import Iterator
from typing import NamedTuple

from checker.findings import Findings
from checker.history import LimitsBook, Shared, Slice, Trace, Traces
from checker.invariants.conditions import CLOCK_SKEW_MS_MAX, is_halted, is_suspended, restricts
from checker.records import InstrumentListed, ReplaceComplianceApproved
from checker.reference import BINDS_WITHIN_MS, Reference, Unreadable
from checker.requests import Asking
from models.values import InstrumentStatus

I7 = "I7"
ORDER = "an order"
LATE = "an order was first reported when it was too old to leave, but may have left before"
LATE_REPLACE = "a replace was answered when it was too old to leave, but may have left before"


class _Leave(NamedTuple):
    """What left (`what`: an order or a replace), the earliest and the latest time that it can have.

    `intended_at_ms` is by the exchange's own clock, 0 when that is not told.
    """

    what: str
    identity: str
    account_id: str
    symbol: str
    submitted_at_ms: int
    received_at_ms: int
    intended_at_ms: int
    since_ms: int
    until_ms: int


def check_last_look(history: Slice, traces: Traces, shared: Shared) -> Findings:
    """Judge what the venue has reported or answered by what held while it can have left."""
    found = Findings()
    orders = (_leave(history, trace) for trace in traces)
    replaces = (_leave_of_replace(asking) for asking in traces.requests)
    for leave in (*orders, *replaces):
        if leave is None:
            continue
        for message in _faults(leave, shared):
            found.violate(I7, message, leave.identity)
        age_ms_max = _longest_age_ms(shared.limits, leave.account_id)
        if age_ms_max is None:
            continue
        if _oldest_ms(leave, leave.intended_at_ms or leave.since_ms) > age_ms_max:
            found.violate(I7, f"{leave.what} was sent that was too old", leave.identity)
        elif _oldest_ms(leave, leave.until_ms) > age_ms_max:
            found.skip(I7, LATE if leave.what == ORDER else LATE_REPLACE, leave.identity)
    return found


def _oldest_ms(leave: _Leave, at_ms: int) -> int:
    """The age of an order at that time of the exchange, for certain.

    By the client's clock as it stands, as the exchange reckons; by the broker's less what clocks may differ.
    """
    return max(
        at_ms - leave.submitted_at_ms,
        max(at_ms, leave.since_ms) - leave.received_at_ms - CLOCK_SKEW_MS_MAX,
    )


def _leave(history: Slice, trace: Trace) -> _Leave | None:
    if not trace.reports or trace.received is None or trace.order is None or not trace.compliance_approved:
        return None
    key = f"{trace.order.account_id}/{trace.order_id}".encode()
    intended_at_ms = history.intended_at_ms.get(key, 0)
    since_ms = max(trace.compliance[0].timestamp_ms, intended_at_ms)
    until_ms = max(since_ms, trace.reports[0].timestamp_ms)
    order = trace.order
    return _Leave(
        ORDER,
        order.order_id,
        order.account_id,
        order.symbol,
        order.submitted_at_ms,
        trace.received.timestamp_ms,
        intended_at_ms,
        since_ms,
        until_ms,
    )


def _leave_of_replace(asking: Asking) -> _Leave | None:
    """When a replace left that the venue has answered."""
    passed, received = asking.passed, asking.received
    if not isinstance(passed, ReplaceComplianceApproved) or received is None:
        return None
    if not asking.answers or asking.is_withheld:
        return None
    request, since_ms = passed.request, asking.judged[0].timestamp_ms
    until_ms = max(since_ms, asking.answers[0].timestamp_ms)
    return _Leave(
        "a replace",
        request.request_id,
        request.account_id,
        passed.symbol,
        request.submitted_at_ms,
        received.timestamp_ms,
        0,
        since_ms,
        until_ms,
    )


def _faults(leave: _Leave, shared: Shared) -> Iterator[str]:
    account_id, symbol = leave.account_id, leave.symbol
    bound_ms = leave.since_ms - BINDS_WITHIN_MS
    if is_halted(shared.reference, account_id, bound_ms, leave.until_ms):
        yield f"{leave.what} was sent while trading was halted"
    if all(each is True for each in shared.reference.switches.between(account_id, bound_ms, leave.until_ms)):
        yield f"{leave.what} was sent while the kill switch was on"
    yield from _reference_faults(leave, shared.reference, bound_ms)
    price_age_ms_max = max(
        (limits.price_age_ms_max for limits in shared.limits.all_of(account_id)), default=None
    )
    if price_age_ms_max is not None and shared.market_is_whole:
        since_ms = leave.since_ms - price_age_ms_max - CLOCK_SKEW_MS_MAX
        if not shared.market.was_seen(symbol, since_ms, leave.until_ms):
            yield f"{leave.what} was sent on a stale price"


def _reference_faults(leave: _Leave, reference: Reference, bound_ms: int) -> Iterator[str]:
    """What the order's account and instrument forbade all that time, as far as the log tells."""
    accounts = reference.accounts.between(leave.account_id, bound_ms, leave.until_ms)
    if all(isinstance(each, Unreadable) or is_suspended(each) for each in accounts):
        yield f"{leave.what} of a suspended account was sent"
    instruments = reference.instruments.between(leave.symbol, bound_ms, leave.until_ms)
    if all(_takes_none(each, leave) for each in instruments):
        yield f"{leave.what} was sent in an instrument that takes none"
    restrictions = reference.restricted.between(leave.symbol, bound_ms, leave.until_ms)
    if all(restricts(each) for each in restrictions):
        yield f"{leave.what} was sent in a restricted instrument"


def _takes_none(listed: InstrumentListed | Unreadable | None, leave: _Leave) -> bool:
    """Whether the instrument took no orders whenever it was that this one left, by any clock."""
    if listed is None:
        return False
    if isinstance(listed, Unreadable) or listed.instrument.status is not InstrumentStatus.ACTIVE:
        return True
    begins_ms, ends_ms = listed.instrument.valid_from_ms, listed.instrument.valid_until_ms
    is_over = ends_ms is not None and leave.since_ms - CLOCK_SKEW_MS_MAX >= ends_ms
    return is_over or (begins_ms is not None and leave.until_ms + CLOCK_SKEW_MS_MAX < begins_ms)


def _longest_age_ms(limits: LimitsBook, account_id: str) -> int | None:
    """The oldest that an order may be by any limits that the account ever had."""
    return max((each.order_age_ms_max for each in limits.all_of(account_id)), default=None)
