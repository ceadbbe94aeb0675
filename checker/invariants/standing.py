"""I3 for what stands besides risk's books: intents, requests, sessions, open orders, the limits in force.

`positions` has its own module. Each of these tables is the fold of the log too: what the exchange has at
stake at the venue, how far it has read its reports, what it has sent and what it looks at before it sends,
what compliance knows as open, and which limits risk goes by.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from checker.findings import Findings
from checker.history import (
    COMPLIANCE,
    EXCHANGE,
    RISK,
    Commanded,
    Slice,
    Trace,
    Traces,
    Wanted,
    ends,
    reported_key,
)
from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    RISK_LIMITS,
    CancelAccepted,
    Order,
    OrderAcknowledged,
    OrderComplianceApproved,
    OrderRiskApproved,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    RequestPassed,
    VenueReport,
)
from checker.requests import Asking
from checker.shards import shard_of
from models.values import Side, TimeInForce

I3 = "I3"

T = TypeVar("T")


class Terms(msgspec.Struct, frozen=True):
    """What counts here of the order of an intent: the quantity and the price in force."""

    quantity_lots: int
    price_ticks: int


class Intent(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `intents`."""

    state: str
    open_lots: int
    order: Terms
    disputed: bool = False


class Request(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `requests`; the terms of a cancel are None."""

    request_id: str
    account_id: str
    order_id: str
    symbol: str
    side: Side
    quantity_lots: int | None = None
    price_ticks: int | None = None


class Session(msgspec.Struct, frozen=True):
    """A value of the changelog of `sessions`."""

    venue_sequence_last: int
    by_partition: bool = False


class OpenOrder(msgspec.Struct, frozen=True):
    """What compliance keeps of an approved order until it ends: a value of the changelog of `open_orders`."""

    symbol: str
    side: Side
    price_ticks: int
    rests: bool
    replace_id: str | None = None
    replace_price_ticks: int = 0


class Account(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `recent_orders`.

    `open_orders` are in what a release wrote that had no table of them, until the account is next met.
    """

    open_orders: dict[str, OpenOrder] = {}
    last_sequence: int = 0


class InForce(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `risk_limits`."""

    version: int
    kill_switch: bool = False


class Controls(msgspec.Struct, frozen=True):
    """What counts here of a value of the changelog of `controls`."""

    version: int
    kill_switch: bool


class Sent(msgspec.Struct, frozen=True):
    """A value of the changelog of `sent`."""

    order_sequence_last: int = 0
    cancel_number_last: int = 0


_OrderKey = tuple[bytes, bytes]
"""An account and the id of one of its orders."""


class _Open(NamedTuple):
    """An order that compliance has approved and the venue has not ended; `offsets` are its approvals'."""

    order: Order
    trace: Trace
    offsets: frozenset[int]


_read_intent = msgspec.json.Decoder(Intent).decode
_read_session = msgspec.json.Decoder(Session).decode
_read_open_order = msgspec.json.Decoder(OpenOrder).decode
_read_account = msgspec.json.Decoder(Account).decode
_read_in_force = msgspec.json.Decoder(InForce).decode
_read_controls = msgspec.json.Decoder(Controls).decode
_read_sent = msgspec.json.Decoder(Sent).decode
_read_request = msgspec.json.Decoder(Request).decode

NEVER_MET = Account()
UNREADABLE_LIMITS = "a value of risk_limits that nobody can read"


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
    if history.looks_last:
        _check_controls(history, commanded, found)
    if not history.whole:
        found.skip(I3, "the first records of what books are made of are gone", history.partition)
        return found
    opened = list(_open(traces))
    _check_intents(history, opened, found)
    _check_sessions(history, found)
    _check_open_orders(history, traces, opened, found)
    if history.looks_last:
        _check_sent(history, traces, found)
    _check_requests(history, traces, found)
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
    return any(ends(each.event) for each in reversed(trace.executions))


def _check_intents(history: Slice, opened: Iterable[_Open], found: Findings) -> None:
    """An intent is there from compliance's approval, unless that is a dead letter, to the order's end."""
    unread = _unread(history)
    disputed = {reported_key(letter) for letter in history.venue_letters}
    expected = {
        f"{each.order.account_id}/{each.order.order_id}".encode(): _intent(each, disputed)
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
        elif theirs.order != ours.order:
            message = "an intent is not on the terms approved or replaced last"
            found.violate(I3, message, identity)
        elif (theirs.state, theirs.disputed) != (ours.state, ours.disputed):
            message = "the state of an intent is not what the venue's reports make of it"
            found.violate(I3, message, f"{identity}: {_state(theirs)}, not {_state(ours)}")


def _unread(history: Slice) -> set[int]:
    """The approvals that are dead letters of the exchange."""
    return {letter.origin.offset for letter in history.letters(EXCHANGE, COMPLIANCE_DECISIONS)}


def _intent(each: _Open, disputed: AbstractSet[str | None]) -> Intent:
    trace, order = each.trace, each.order
    acknowledged = any(isinstance(report.event, OrderAcknowledged) for report in trace.reports)
    terms = Terms(trace.quantity_lots(order), trace.price_ticks(order))
    return Intent(
        "acknowledged" if acknowledged else "pending",
        terms.quantity_lots - trace.filled_lots,
        terms,
        f"{order.account_id}/{order.order_id}" in disputed,
    )


def _state(intent: Intent) -> str:
    return f"{intent.state} and disputed" if intent.disputed else intent.state


def _check_requests(history: Slice, traces: Traces, found: Findings) -> None:
    """A request is there from compliance's approval, unless that is a dead letter, to its answer.

    What is stuck may be there or not: its answer may be the dead letter.
    """
    unread = _unread(history)
    expected, unsure = {}, set()
    for asking in traces.requests:
        passed = asking.passed
        if passed is None:
            continue
        key = f"{passed.request.account_id}/{asking.venue_id}".encode()
        if asking.stuck:
            unsure.add(key)
        elif not asking.answers and not {each.offset for each in asking.judged} <= unread:
            expected[key] = _request(passed)
    for key in sorted((history.requests.keys() | expected.keys()) - unsure):
        identity, value, ours = _text(key), history.requests.get(key), expected.get(key)
        if value is None:
            found.violate(I3, "a request that is not answered has no row at the exchange", identity)
        elif ours is None:
            found.violate(I3, "the exchange has a request that is answered or was not let through", identity)
        else:
            unreadable = "a value of requests that nobody can read"
            theirs = _decoded(_read_request, value, unreadable, identity, found)
            if theirs is not None and theirs != ours:
                found.violate(I3, "the exchange has a request on other terms than let through", identity)


def _request(passed: RequestPassed) -> Request:
    request = passed.request
    subject = (passed.venue_id, request.account_id, request.order_id, passed.symbol, passed.side)
    if isinstance(passed, CancelAccepted):
        return Request(*subject)
    return Request(*subject, passed.request.quantity_lots, passed.request.price_ticks)


def _check_sessions(history: Slice, found: Findings) -> None:
    """Each session of the partition is read as far as its highest report is booked or a dead letter.

    Behind a release with one session for all of them, each begins where that one was read to.
    """
    highest: dict[bytes, int] = {}
    read = set()
    for number, sequence in _each_report(history):
        if number % history.partitions == history.partition:
            key = str(number).encode()
            highest[key] = max(sequence, highest.get(key, 0))
            read.add(sequence)
    for key in sorted(history.sessions.keys() | highest.keys()):
        identity, last = _text(key), 0
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
            if theirs.by_partition and last in read and last >= highest.get(key, 0):
                continue
        if last != highest.get(key, 0):
            message = "a session is not read as far as its reports are in executions"
            found.violate(I3, message, f"{identity}: {last}, not {highest.get(key, 0)}")


def _each_report(history: Slice) -> Iterator[tuple[int, int]]:
    """Session and sequence of each report that was read."""
    for record in history.executions:
        report = record.event
        if isinstance(report, VenueReport):
            yield shard_of(report.account_id.encode()), report.venue_sequence
    for letter in history.venue_letters:
        yield letter.shard, letter.sequence


def _check_sent(history: Slice, traces: Traces, found: Findings) -> None:
    """The exchange knows the last order or replace and the last cancel of each account that it has taken on.

    So a repeat changes nothing.
    """
    unreadable = "a value of sent that nobody can read"
    expected = _taken_on(history, traces)
    for key, ours in sorted(expected.items()):
        value = history.sent.get(key)
        theirs = Sent() if value is None else _decoded(_read_sent, value, unreadable, _text(key), found)
        if theirs is None:
            continue
        if theirs.order_sequence_last != ours.order_sequence_last:
            message = "the last order that was intended is not the account's last approved one"
            told = f"{theirs.order_sequence_last}, not {ours.order_sequence_last}"
            found.violate(I3, message, f"{_text(key)}: {told}")
        if theirs.cancel_number_last != ours.cancel_number_last:
            message = "the last cancel that was taken on is not the account's last accepted one"
            told = f"{theirs.cancel_number_last}, not {ours.cancel_number_last}"
            found.violate(I3, message, f"{_text(key)}: {told}")


def _taken_on(history: Slice, traces: Traces) -> dict[bytes, Sent]:
    unread = _unread(history)
    expected: dict[bytes, Sent] = {}

    def take(account_id: str, *, sequence: int = 0, number: int = 0) -> None:
        before = expected.get(account_id.encode(), Sent())
        expected[account_id.encode()] = Sent(
            max(sequence, before.order_sequence_last), max(number, before.cancel_number_last)
        )

    for trace in traces:
        for record in trace.compliance:
            approved = record.event
            if (
                isinstance(approved, OrderComplianceApproved)
                and record.offset not in unread
                and _is_told(trace)
            ):
                take(approved.order.account_id, sequence=approved.order.sequence)
    for judged in history.asked_compliance:
        match judged.event:
            case _ if judged.offset in unread:
                pass
            case ReplaceComplianceApproved(request=request):
                take(request.account_id, sequence=request.sequence)
            case CancelAccepted(request=cancel, number=number):
                take(cancel.account_id, number=number)
            case _:
                pass
    return expected


def _is_told(trace: Trace) -> bool:
    """Whether its approval is of a release that keeps what it has sent."""
    return any(
        isinstance(each.event, OrderRiskApproved) and each.event.decided_at_ms for each in trace.approvals
    )


def _check_open_orders(history: Slice, traces: Traces, opened: Iterable[_Open], found: Findings) -> None:
    """Compliance has open what it has approved until it ends, on the terms that it has approved."""
    blind = _blind(history, COMPLIANCE, EXECUTIONS)
    for key in blind:
        found.skip(I3, "compliance has an execution of this account as a dead letter", _text(key))
    ours = {
        (each.order.account_id.encode(), each.order.order_id.encode()): _open_order(
            each, traces.requests.of(each.order.order_id)
        )
        for each in opened
    }
    theirs, unreadable = _kept_open(history, found)
    judged = _judged(history, traces)
    for key in sorted((history.recent_orders.keys() | {key for key, _ in ours}) - blind):
        value = history.recent_orders.get(key)
        account = NEVER_MET if value is None else _account(value, key, found)
        if account is None:
            blind.add(key)
            continue
        for order_id, order in account.open_orders.items():
            theirs[key, order_id.encode()] = order
        if history.looks_last and account.last_sequence != judged.get(key, account.last_sequence):
            message = "the last order that compliance has judged is not the account's last that it decided"
            found.violate(I3, message, f"{_text(key)}: {account.last_sequence}, not {judged[key]}")
    for each in sorted((ours.keys() | theirs.keys()) - unreadable):
        if each[0] not in blind:
            _compare_open(theirs.get(each), ours.get(each), _text(each[1]), found)


def _kept_open(history: Slice, found: Findings) -> tuple[dict[_OrderKey, OpenOrder], set[_OrderKey]]:
    """The rows of open orders, and the keys of those that nobody can read."""
    read: dict[_OrderKey, OpenOrder] = {}
    unread = set()
    for key, value in history.open_orders.items():
        unreadable = "a value of open_orders that nobody can read"
        order = _decoded(_read_open_order, value, unreadable, _text(key), found)
        if order is None:
            unread.add(_account_and_order(key))
        else:
            read[_account_and_order(key)] = order
    return read, unread


def _account_and_order(key: bytes) -> _OrderKey:
    """The parts of a key account/order; an order's id begins with its account, slashes and all."""
    parts = key.split(b"/")
    half = len(parts) // 2
    return b"/".join(parts[:half]), b"/".join(parts[half:])


def _account(value: bytes, key: bytes, found: Findings) -> Account | None:
    return _decoded(_read_account, value, "a value of recent_orders that nobody can read", _text(key), found)


def _judged(history: Slice, traces: Traces) -> dict[bytes, int]:
    """The last order or replace of each account that compliance has decided, where its release keeps that."""
    judged: dict[bytes, int] = {}
    for record in history.compliance:
        if record.event is not None:
            order = record.event.order
            trace = traces.get(order.order_id)
            if trace is not None and _is_told(trace):
                key = order.account_id.encode()
                judged[key] = max(order.sequence, judged.get(key, 0))
    for decision in history.asked_compliance:
        match decision.event:
            case ReplaceComplianceApproved(request=request) | ReplaceComplianceRejected(request=request):
                key = request.account_id.encode()
                judged[key] = max(request.sequence, judged.get(key, 0))
            case _:
                pass
    return judged


def _compare_open(theirs: OpenOrder | None, ours: OpenOrder | None, order_id: str, found: Findings) -> None:
    if theirs is None:
        found.violate(I3, "compliance does not have an order as open that is", order_id)
    elif ours is None:
        found.violate(I3, "compliance has an order as open that is not", order_id)
    elif theirs != ours:
        found.violate(I3, "compliance has an open order on other terms than approved", order_id)


def _open_order(each: _Open, asked: Sequence[Asking]) -> OpenOrder:
    order = each.order
    rests = order.time_in_force is not TimeInForce.IOC
    opened = OpenOrder(order.symbol, order.side, each.trace.price_ticks(order), rests)
    for asking in asked:
        passed = asking.passed
        if isinstance(passed, ReplaceComplianceApproved) and not asking.answers:
            opened = replace(
                opened, replace_id=asking.venue_id, replace_price_ticks=passed.request.price_ticks
            )
    return opened


def _check_limits(history: Slice, commanded: Commanded, found: Findings) -> None:
    """Risk goes by the highest version that was ever set, and has limits of each account that was given any.

    A version above those in the log is no violation: compaction keeps an account's last record, not its
    highest version, and a lenient reader may have understood more than the checker.
    """
    blind = _blind(history, RISK, RISK_LIMITS)
    for key in blind:
        found.skip(I3, "risk has limits of this account as a dead letter", _text(key))
    in_force = {
        key: theirs
        for key, value in history.risk_limits.items()
        if key not in blind
        and (theirs := _decoded(_read_in_force, value, UNREADABLE_LIMITS, _text(key), found)) is not None
    }
    for key, limits in in_force.items():
        wanted = commanded.wanted.get(_text(key))
        if wanted is None and _text(key) in commanded.wanted:
            found.violate(I3, "limits are in force that a tombstone has removed", _text(key))
        elif wanted is None or limits.version > wanted.version:
            found.skip(I3, "the limits in force are gone from the compacted topic", _text(key))
        elif limits.version < wanted.version:
            message = "limits in force are older than the newest that were set"
            found.violate(I3, message, f"{_text(key)}: {limits.version}, not {wanted.version}")
        elif wanted.kill_switch and not limits.kill_switch:
            found.violate(I3, "a kill switch is not in force that was switched on", _text(key))
    given = {account_id.encode() for account_id, wanted in commanded.wanted.items() if wanted is not None}
    for key in sorted(given - history.risk_limits.keys() - blind):
        found.violate(I3, "an account has no limits in force though some were set", _text(key))


def _check_controls(history: Slice, commanded: Commanded, found: Findings) -> None:
    """The exchange looks last at what the newest limits say."""
    blind = _blind(history, EXCHANGE, RISK_LIMITS)
    for account_id, wanted in sorted(commanded.wanted.items()):
        key = account_id.encode()
        if key in blind or wanted is None:
            continue
        if key not in history.controls:
            found.violate(I3, "the exchange has no controls of an account though limits were set", account_id)
            continue
        unreadable = "a value of controls that nobody can read"
        theirs = _decoded(_read_controls, history.controls[key], unreadable, account_id, found)
        if theirs is not None and not _obeys(theirs, wanted):
            found.violate(I3, "the controls of the exchange are not what was set last", account_id)


def _obeys(controls: Controls, wanted: Wanted) -> bool:
    if controls.version != wanted.version:
        return controls.version > wanted.version  # set by what compaction has taken
    return controls.kill_switch or not wanted.kill_switch


def _blind(history: Slice, service: str, topic: str) -> set[bytes]:
    """The accounts of which this service has a record of this topic as a dead letter, or holds one."""
    letters = history.letters(service, topic)
    return {each.key for each in letters if each.key is not None and not each.is_wrong_partition}


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
