"""I3 for what stands besides risk's books: the intents, the sessions, the open orders, the limits in force.

`positions` has its own module. Each of these tables is the fold of the log too: what the exchange has at
stake at the venue and how far it has read its reports, what compliance knows as open, and which limits risk
goes by.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from checker.findings import Findings
from checker.history import COMPLIANCE, EXCHANGE, RISK, Commanded, Slice, Trace, Traces, ends
from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    RISK_LIMITS,
    Order,
    OrderAcknowledged,
    OrderComplianceApproved,
)
from models.values import Side, TimeInForce

I3 = "I3"

T = TypeVar("T")


class Intent(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `intents`."""

    state: str
    open_lots: int


class Session(msgspec.Struct, frozen=True):
    """A value of the changelog of `sessions`."""

    venue_sequence_last: int


class OpenOrder(msgspec.Struct, frozen=True):
    """What compliance keeps of an approved order until it ends."""

    symbol: str
    side: Side
    price_ticks: int
    rests: bool


class Account(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `recent_orders`."""

    open_orders: dict[str, OpenOrder]


class InForce(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `risk_limits`."""

    version: int


class _Open(NamedTuple):
    """An order that compliance has approved and the venue has not ended; `offsets` are its approvals'."""

    order: Order
    trace: Trace
    offsets: frozenset[int]


_read_intent = msgspec.json.Decoder(Intent).decode
_read_session = msgspec.json.Decoder(Session).decode
_read_account = msgspec.json.Decoder(Account).decode
_read_in_force = msgspec.json.Decoder(InForce).decode

NOTHING_OPEN = Account({})


def check_standing(history: Slice, traces: Traces, commanded: Commanded) -> Findings:
    """Compare the tables, as their changelogs have them, with what the log makes of them.

    `commanded` is this partition of `risk-limits`. Only a quiet history has changelogs and events at one cut,
    and only a whole one has all the events. Accounts are left out where a dead letter keeps their service
    from what the log has.
    """
    found = Findings()
    if not history.quiet:
        found.skip(I3, "books are compared with the log only when all is quiet", history.partition)
        return found
    _check_limits(history, commanded, found)
    if not history.whole:
        found.skip(I3, "the first records of what books are made of are gone", history.partition)
        return found
    opened = list(_open(traces))
    _check_intents(history, opened, found)
    _check_sessions(history, found)
    _check_open_orders(history, opened, found)
    return found


def _open(traces: Traces) -> Iterator[_Open]:
    for trace in traces:
        if not trace.compliance_approved or (trace.ended and _is_over(trace)):
            continue
        approvals = {
            each.offset: each.event.order
            for each in trace.compliance
            if isinstance(each.event, OrderComplianceApproved)
        }
        yield _Open(next(iter(approvals.values())), trace, frozenset(approvals))


def _is_over(trace: Trace) -> bool:
    return any(ends(each.event) for each in reversed(trace.reports))


def _check_intents(history: Slice, opened: Iterable[_Open], found: Findings) -> None:
    """An intent is there from compliance's approval, unless that is a dead letter, to the order's end."""
    unread = {letter.origin.offset for letter in history.letters(EXCHANGE, COMPLIANCE_DECISIONS)}
    expected = {
        f"{each.order.account_id}/{each.order.order_id}".encode(): _intent(each)
        for each in opened
        if not each.offsets <= unread
    }
    for key in sorted(history.intents.keys() | expected.keys()):
        identity, value, ours = _text(key), history.intents.get(key), expected.get(key)
        if value is None:
            found.violate(I3, "an approved order that has not ended has no intent", identity)
        elif ours is None:
            found.violate(I3, "an intent without an approved order that is open", identity)
        elif (
            theirs := _decoded(
                _read_intent, value, "a value of intents that nobody can read", identity, found
            )
        ) is None:
            continue
        elif theirs.open_lots != ours.open_lots:
            message = "the open lots of an intent are not what its executions leave"
            found.violate(I3, message, f"{identity}: {theirs.open_lots}, not {ours.open_lots}")
        elif theirs.state != ours.state:
            message = "an intent is not acknowledged exactly when its order is"
            found.violate(I3, message, f"{identity}: {theirs.state}, not {ours.state}")


def _intent(each: _Open) -> Intent:
    acknowledged = any(isinstance(report.event, OrderAcknowledged) for report in each.trace.reports)
    open_lots = each.order.quantity_lots - each.trace.filled_lots
    return Intent("acknowledged" if acknowledged else "pending", open_lots)


def _check_sessions(history: Slice, found: Findings) -> None:
    """A session is read as far as its highest report is in executions; there is none of another partition."""
    own = str(history.partition).encode()
    highest = max((each.event.venue_sequence for each in history.executions if each.event), default=0)
    for key in sorted(history.sessions.keys() | {own}):
        identity, expected, last = _text(key), highest if key == own else 0, 0
        if key in history.sessions:
            theirs = _decoded(
                _read_session,
                history.sessions[key],
                "a value of sessions that nobody can read",
                identity,
                found,
            )
            if theirs is None:
                continue
            last = theirs.venue_sequence_last
        if last != expected:
            message = "a session is not read as far as its reports are in executions"
            found.violate(I3, message, f"{identity}: {last}, not {expected}")


def _check_open_orders(history: Slice, opened: Iterable[_Open], found: Findings) -> None:
    """Compliance has open what it has approved until it ends, on the terms that it has approved."""
    blind = _blind(history, COMPLIANCE, EXECUTIONS)
    for key in blind:
        found.skip(I3, "compliance has an execution of this account as a dead letter", _text(key))
    expected: dict[bytes, dict[str, OpenOrder]] = {}
    for each in opened:
        own = expected.setdefault(each.order.account_id.encode(), {})
        own[each.order.order_id] = _open_order(each.order)
    for key in sorted((history.recent_orders.keys() | expected.keys()) - blind):
        value = history.recent_orders.get(key)
        account = NOTHING_OPEN
        if value is not None:
            read = _decoded(
                _read_account, value, "a value of recent_orders that nobody can read", _text(key), found
            )
            if read is None:
                continue
            account = read
        _compare_open_orders(account.open_orders, expected.get(key, {}), found)


def _compare_open_orders(
    theirs: Mapping[str, OpenOrder], ours: Mapping[str, OpenOrder], found: Findings
) -> None:
    for order_id in ours.keys() - theirs.keys():
        found.violate(I3, "compliance does not have an order as open that is", order_id)
    for order_id in theirs.keys() - ours.keys():
        found.violate(I3, "compliance has an order as open that is not", order_id)
    for order_id in theirs.keys() & ours.keys():
        if theirs[order_id] != ours[order_id]:
            found.violate(I3, "compliance has an open order on other terms than approved", order_id)


def _open_order(order: Order) -> OpenOrder:
    rests = order.time_in_force is not TimeInForce.IOC
    return OpenOrder(order.symbol, order.side, order.price_ticks, rests)


def _check_limits(history: Slice, commanded: Commanded, found: Findings) -> None:
    """Risk goes by the highest version that was ever set, and has limits of each account that was given any.

    A version above those in the log is no violation: compaction keeps an account's last record, not its
    highest version, and a lenient reader may have understood more than the checker.
    """
    blind = _blind(history, RISK, RISK_LIMITS)
    for key in blind:
        found.skip(I3, "risk has limits of this account as a dead letter", _text(key))
    wanted = {account_id.encode(): version for account_id, version in commanded.versions.items()}
    for key, value in history.risk_limits.items():
        if key in blind:
            continue
        theirs = _decoded(
            _read_in_force, value, "a value of risk_limits that nobody can read", _text(key), found
        )
        if theirs is None:
            continue
        version = wanted.get(key)
        if version is None or theirs.version > version:
            found.skip(I3, "the limits in force are gone from the compacted topic", _text(key))
        elif theirs.version < version:
            message = "limits in force are older than the newest that were set"
            found.violate(I3, message, f"{_text(key)}: {theirs.version}, not {version}")
    for key in sorted(wanted.keys() - history.risk_limits.keys() - blind):
        found.violate(I3, "an account has no limits in force though some were set", _text(key))


def _blind(history: Slice, service: str, topic: str) -> set[bytes]:
    """The accounts of which this service has a record of this topic as a dead letter, or holds one."""
    return {letter.key for letter in history.letters(service, topic) if letter.key is not None}


def _decoded(
    read: Callable[[bytes], T], value: bytes, unreadable: str, identity: str, found: Findings
) -> T | None:
    """Read a value; one that nobody can read is a violation."""
    try:
        return read(value)
    except ValueError:
        found.violate(I3, unreadable, identity)
        return None


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
