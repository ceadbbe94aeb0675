"""One partition of the log as a whole, and the life of each order in it.

Everything about an account stands on one partition number, in every topic, and in one session of the venue,
its key shard, which belongs to that partition; so a checker may take one partition after the other.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any, NamedTuple, cast

import msgspec

from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
    Asked,
    CancelAccepted,
    CancelRefused,
    CancelRequested,
    ComplianceDecision,
    DeadLetter,
    Event,
    Execution,
    Limits,
    Logged,
    Order,
    OrderCancelled,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderExpired,
    OrderReplaced,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    Origin,
    PriceUpdated,
    Refusal,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    ReplaceWithheld,
    Request,
    RequestJudged,
    RequestRiskDecision,
    RiskDecision,
    TradeAllocated,
    TradeExecuted,
    VenueLetter,
    VenueRejected,
    VenueReport,
    source_offset,
)
from checker.reference import Reference
from checker.requests import Requests, Told, request_name, trace_requests

RISK, COMPLIANCE, EXCHANGE, ALLOCATION = "risk", "compliance", "exchange", "allocation"

ENDINGS = (OrderCancelled, OrderExpired, VenueRejected, OrderWithheld)


@dataclass
class Slice:
    """Partition `partition` of the topics, each in the order of its offsets; `dead_letters` by their origin.

    The services' tables hold the last value of each key of their changelogs. `whole` says that the log still
    has its first records. `quiet` says that the services have taken in every record of the log, `ended` that
    the venue has nothing left either: every order has ended. When not quiet, effects are read before their
    causes, and approvals at offsets from `risk_cut` on may know of executions that are not here.

    What is asked of orders, cancels and replaces, stands apart from them: `asked` on `orders`, `asked_risk`
    and `asked_compliance` what is decided of it. What the venue says of it is in `executions`.

    `strays` are, by topic and offset, the orders (or keys) of records whose key belongs to another partition;
    `repeats` counts exact repeats, by somebody else, of what a service has written: they are in none of the
    topics here, and `repeated` has the requests' ids of those. `intended_at_ms` is when the exchange intended
    to send an order, by account/order; `looks_last` says that it has tables for a last look before it sends,
    `allocates` that there is a service which allocates fills.
    """

    partition: int = 0
    partitions: int = 1
    orders: list[Logged[Order]] = field(default_factory=list)
    risk: list[Logged[RiskDecision]] = field(default_factory=list)
    compliance: list[Logged[ComplianceDecision]] = field(default_factory=list)
    executions: list[Logged[Execution]] = field(default_factory=list)
    asked: list[Logged[Request]] = field(default_factory=list)
    asked_risk: list[Logged[RequestRiskDecision]] = field(default_factory=list)
    asked_compliance: list[Logged[RequestJudged]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    venue_letters: list[VenueLetter] = field(default_factory=list)
    strays: dict[str, dict[int, str]] = field(default_factory=dict)
    repeats: int = 0
    repeated: set[str] = field(default_factory=set)
    positions: dict[bytes, bytes] = field(default_factory=dict)
    reservations: dict[bytes, bytes] = field(default_factory=dict)
    risk_limits: dict[bytes, bytes] = field(default_factory=dict)
    recent_orders: dict[bytes, bytes] = field(default_factory=dict)
    open_orders: dict[bytes, bytes] = field(default_factory=dict)
    intents: dict[bytes, bytes] = field(default_factory=dict)
    sessions: dict[bytes, bytes] = field(default_factory=dict)
    controls: dict[bytes, bytes] = field(default_factory=dict)
    sent: dict[bytes, bytes] = field(default_factory=dict)
    requests: dict[bytes, bytes] = field(default_factory=dict)
    intended_at_ms: dict[bytes, int] = field(default_factory=dict)
    looks_last: bool = False
    allocations: list[Logged[TradeAllocated]] = field(default_factory=list)
    allocates: bool = False
    risk_cut: int | None = None
    whole: bool = True
    quiet: bool = True
    ended: bool = True

    def topic(self, name: str) -> Sequence[Logged[Event]]:
        """The records of one of the four topics of an order's way, but for those about requests."""
        topics: dict[str, Sequence[Logged[Event]]] = {
            ORDERS: self.orders,
            RISK_DECISIONS: self.risk,
            COMPLIANCE_DECISIONS: self.compliance,
            EXECUTIONS: self.executions,
        }
        return topics.get(name, ())

    def asked_on(self, name: str) -> Sequence[Logged[Asked]]:
        """The records about requests of one of these topics."""
        topics: dict[str, Sequence[Logged[Asked]]] = {
            ORDERS: self.asked,
            RISK_DECISIONS: self.asked_risk,
            COMPLIANCE_DECISIONS: self.asked_compliance,
        }
        return topics.get(name, ())

    def last_offset(self, name: str) -> int:
        """The highest offset of one of these topics; -1 without any."""
        lists: tuple[Sequence[Logged[Event]], ...] = (self.topic(name), self.asked_on(name))
        return max((records[-1].offset for records in lists if records), default=-1)

    def letters(self, service: str, *topics: str) -> Iterator[DeadLetter]:
        """The dead letters of a service from these topics, those held included."""
        for letter in self.dead_letters:
            if letter.service == service and letter.origin.topic in topics:
                yield letter


def of_kinds(kinds: tuple[type, ...], *parts: Iterable[Logged[Any]]) -> Iterator[Logged[Any]]:
    """The records of a topic that are of these kinds, in log order; `parts` are all of its records."""
    found = ((each for each in part if isinstance(each.event, kinds)) for part in parts)
    return merge(*found, key=lambda each: each.offset)


class Trace:
    """The life of one order id: the record that became the order, and what was said of it, in log order.

    `received` is the record that was approved, the first one where none was. `refusals` are risk's of it,
    `repeat_refusals` those of the other records with the id (`repeats`), `stray_refusals` name a source that
    is no record of this order. `reports` are the venue's without refusals of requests, `withheld` ours
    instead of them; `replaced` is the last report of a replace. `stuck` orders have a decision that is a dead
    letter or waits behind one, or a report of the venue that is one; `ended` ones have reached a terminal
    state.
    """

    __slots__ = (
        "approvals",
        "compliance",
        "compliance_approved",
        "compliance_rejected",
        "ended",
        "filled_lots",
        "order_id",
        "received",
        "refusals",
        "repeat_refusals",
        "repeats",
        "replaced",
        "reports",
        "stray_refusals",
        "stuck",
        "withheld",
    )

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        self.received: Logged[Order] | None = None
        self.repeats: tuple[Logged[Order], ...] = ()
        self.approvals: tuple[Logged[RiskDecision], ...] = ()
        self.refusals: tuple[Logged[RiskDecision], ...] = ()
        self.repeat_refusals: tuple[Logged[RiskDecision], ...] = ()
        self.stray_refusals: tuple[Logged[RiskDecision], ...] = ()
        self.compliance: tuple[Logged[ComplianceDecision], ...] = ()
        self.reports: list[Logged[VenueReport]] = []
        self.withheld: tuple[Logged[OrderWithheld], ...] = ()
        self.stuck = False
        self.compliance_approved = False
        self.compliance_rejected = False
        self.filled_lots = 0
        self.replaced: OrderReplaced | None = None
        self.ended = False

    @property
    def order(self) -> Order | None:
        return self.received.event if self.received else None

    def quantity_lots(self, order: Order) -> int:
        """The total quantity in force: the order's own until it is replaced."""
        return order.quantity_lots if self.replaced is None else self.replaced.quantity_lots

    def price_ticks(self, order: Order) -> int:
        """The price in force."""
        return order.price_ticks if self.replaced is None else self.replaced.price_ticks

    def judged(self, decision: Logged[ComplianceDecision]) -> None:
        """Add a decision of compliance."""
        self.compliance += (decision,)
        if isinstance(decision.event, OrderComplianceApproved):
            self.compliance_approved = True
        else:
            self.compliance_rejected = self.ended = True

    def has_ended_by(self, at_ms: int) -> bool:
        """Whether an end of it stood in the log by then."""
        ends_at_ms = [each.timestamp_ms for each in (*self.refusals, *self._refused_by_compliance)]
        ends_at_ms += [each.timestamp_ms for each in self.executions if ends(each.event)]
        return any(each <= at_ms for each in ends_at_ms)

    def has_ended_before(self, offset: int) -> bool:
        """Whether an end of it stands before that offset of `executions`."""
        return any(ends(each.event) for each in self.executions if each.offset < offset)

    @property
    def _refused_by_compliance(self) -> Iterator[Logged[ComplianceDecision]]:
        return (each for each in self.compliance if isinstance(each.event, OrderComplianceRejected))

    @property
    def executions(self) -> list[Logged[Execution]]:
        """What stands on `executions` of it and moves it, in the order of the log."""
        if not self.withheld:
            return list(self.reports)
        return sorted((*self.reports, *self.withheld), key=lambda each: each.offset)

    def executed(self, record: Logged[Execution]) -> None:
        """Add a report of the venue that moves the order, or that it was withheld."""
        if isinstance(record.event, OrderWithheld):
            self.withheld += (cast(Logged[OrderWithheld], record),)
        else:
            self.reports.append(cast(Logged[VenueReport], record))
        if isinstance(record.event, TradeExecuted):
            self.filled_lots += record.event.quantity_lots
        elif isinstance(record.event, OrderReplaced):
            self.replaced = record.event
        self.ended = self.ended or ends(record.event)


def ends(report: Execution | None) -> bool:
    """Whether an execution is terminal."""
    if isinstance(report, TradeExecuted | OrderReplaced):
        return report.leaves_lots == 0
    return isinstance(report, ENDINGS)


@dataclass
class Traces:
    """The traces of a slice by order id; `requests` has what was asked of them.

    `buried` are the offsets of `orders` that risk has made dead letters or holds behind one.
    """

    by_id: dict[str, Trace]
    buried: frozenset[int]
    requests: Requests = field(default_factory=Requests)

    def __iter__(self) -> Iterator[Trace]:
        return iter(self.by_id.values())

    def get(self, order_id: str) -> Trace | None:
        return self.by_id.get(order_id)

    def is_stuck(self, order_id: str) -> bool:
        """Whether an order is known, and stuck."""
        found = self.by_id.get(order_id)
        return found is not None and found.stuck

    def source(self, decision: RiskDecision) -> int | None:
        """The offset in `orders` of the record that was decided."""
        if isinstance(decision, OrderRiskRejected):
            return source_offset(decision.source)
        trace = self.by_id.get(decision.order.order_id)
        return trace.received.offset if trace and trace.received else None


def trace(history: Slice) -> Traces:
    """Sort a slice by order id."""
    buried = frozenset(letter.origin.offset for letter in history.letters(RISK, ORDERS))
    traces = Traces({}, buried)
    _trace_orders(history, traces)
    _find_approved(history, traces)
    for decision in history.risk:
        if decision.event is not None:
            _trace_risk(_at(traces, decision.event.order.order_id), decision, history.partition)
    for judged in history.compliance:
        if judged.event is not None:
            _at(traces, judged.event.order.order_id).judged(judged)
    for report in history.executions:
        if report.event is not None and not isinstance(report.event, Refusal):
            _at(traces, report.event.order_id).executed(report)
    for order_id in stuck_ids(history):
        _at(traces, order_id).stuck = True
    traces.requests = trace_requests(_told_of_requests(history, buried), traces.is_stuck)
    return traces


def _told_of_requests(history: Slice, buried: frozenset[int]) -> Told:
    def offsets(service: str, topic: str) -> set[int]:
        return {letter.origin.offset for letter in history.letters(service, topic)}

    return Told(
        history.partition,
        history.asked,
        history.asked_risk,
        history.asked_compliance,
        history.executions,
        buried,
        offsets(COMPLIANCE, RISK_DECISIONS),
        offsets(EXCHANGE, COMPLIANCE_DECISIONS),
    )


def _at(traces: Traces, order_id: str) -> Trace:
    found = traces.by_id.get(order_id)
    if found is None:
        found = traces.by_id[order_id] = Trace(order_id)
    return found


def _trace_orders(history: Slice, traces: Traces) -> None:
    for record in history.orders:
        if record.event is None or record.offset in traces.buried:
            continue
        found = _at(traces, record.event.order_id)
        if found.received is None:
            found.received = record
        else:
            found.repeats += (record,)


def _find_approved(history: Slice, traces: Traces) -> None:
    """Let an approved order be the record that the approval names by its time of receipt.

    A record that was refused may come again and be approved: where its account was unknown, or an operator
    has set the account's sequence back.
    """
    for decision in history.risk:
        if not isinstance(decision.event, OrderRiskApproved) or not decision.event.received_at_ms:
            continue
        found = traces.get(decision.event.order.order_id)
        if found is None or not found.repeats or found.received is None:
            continue
        received_at_ms = decision.event.received_at_ms
        records = (found.received, *found.repeats)
        meant = next((each for each in records if each.timestamp_ms == received_at_ms), found.received)
        found.received = meant
        found.repeats = tuple(each for each in records if each is not meant)


def _trace_risk(found: Trace, decision: Logged[RiskDecision], partition: int) -> None:
    event = decision.event
    if isinstance(event, OrderRiskApproved):
        found.approvals += (decision,)
        return
    assert isinstance(event, OrderRiskRejected)
    offset = source_offset(event.source, partition)
    if found.received is not None and offset == found.received.offset:
        found.refusals += (decision,)
        found.ended = True
    elif any(offset == repeat.offset for repeat in found.repeats):
        found.repeat_refusals += (decision,)
    else:
        found.stray_refusals += (decision,)


def stuck_ids(history: Slice) -> set[str]:
    """Orders that cannot go on: what the next service needs to know of them is a dead letter or held."""
    ids = {name for letter in history.venue_letters if (name := reported_id(letter))}
    for service, topic in ((COMPLIANCE, RISK_DECISIONS), (EXCHANGE, COMPLIANCE_DECISIONS)):
        offsets = {letter.origin.offset for letter in history.letters(service, topic)}
        if offsets:
            ids |= {order_id_of(each.event) for each in history.topic(topic) if each.offset in offsets}
    return ids


class _Reported(msgspec.Struct):
    order_id: str


class _ReportedKey(_Reported):
    account_id: str


_read_reported = msgspec.json.Decoder(_Reported).decode
_read_reported_key = msgspec.json.Decoder(_ReportedKey).decode


def reported_id(letter: VenueLetter) -> str | None:
    """The order of a report that is a dead letter; None when it does not even tell that."""
    try:
        return _read_reported(letter.value).order_id
    except ValueError:
        return None


def reported_key(letter: VenueLetter) -> str | None:
    """The order of such a report as account/order, which is in dispute if it is known."""
    try:
        reported = _read_reported_key(letter.value)
    except ValueError:
        return None
    return f"{reported.account_id}/{reported.order_id}"


def order_id_of(event: Event | None) -> str:
    """The order that an event is about; of what is said of a request before the venue, the request's id."""
    match event:
        case Order(order_id=order_id) | VenueReport(order_id=order_id) | OrderWithheld(order_id=order_id):
            return order_id
        case TradeAllocated(order_id=order_id):
            return order_id
        case ReplaceWithheld(order_id=order_id):
            return order_id
        case CancelRequested() | ReplaceRequested():
            return request_name(event)
        case CancelRefused(request=request) | CancelAccepted(request=request):
            return request_name(request)
        case ReplaceRiskApproved(request=replace) | ReplaceRiskRejected(request=replace):
            return request_name(replace)
        case ReplaceComplianceApproved(request=replace) | ReplaceComplianceRejected(request=replace):
            return request_name(replace)
        case OrderRiskApproved(order=order) | OrderRiskRejected(order=order):
            return order.order_id
        case OrderComplianceApproved(order=order) | OrderComplianceRejected(order=order):
            return order.order_id
    return "?"


class Market:
    """Ticks by symbol, feed session and sequence: (price_ticks, observed_at_ms).

    A sequence may have come twice with different contents: any of them may have been used.
    """

    def __init__(self) -> None:
        self._ticks: dict[tuple[str, int], dict[int, tuple[int, int]]] = {}
        self._others: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
        self._observed: dict[str, list[int]] = {}

    def add(self, symbol: str, epoch: int, sequence: int, price_ticks: int, observed_at_ms: int) -> None:
        tick = (price_ticks, observed_at_ms)
        known = self._ticks.setdefault((symbol, epoch), {}).setdefault(sequence, tick)
        if known != tick:
            self._others.setdefault((symbol, epoch, sequence), []).append(tick)

    def find(self, symbol: str, epoch: int, sequence: int) -> list[tuple[int, int]]:
        tick = self._ticks.get((symbol, epoch), {}).get(sequence)
        return [] if tick is None else [tick, *self._others.get((symbol, epoch, sequence), ())]

    def was_seen(self, symbol: str, since_ms: int, until_ms: int) -> bool:
        """Whether any tick of the symbol was observed in that time, bounds included."""
        observed = self._observed.get(symbol)
        if observed is None:
            ticks = [of for (name, _), of in self._ticks.items() if name == symbol]
            observed = sorted(at for of in ticks for _, at in of.values())
            self._observed[symbol] = observed
        return bisect_left(observed, since_ms) < bisect_right(observed, until_ms)


class LimitsBook:
    """Every SetRiskLimits that is still in the log, by account and version."""

    def __init__(self, commands: Iterable[Limits] = ()) -> None:
        self._by_version: dict[tuple[str, int], Limits] = {}
        self._ambiguous: set[tuple[str, int]] = set()
        self._latest: dict[str, int] = {}
        self._of: dict[str, list[Limits]] = {}
        self.removed: set[str] = set()
        """Accounts whose limits a tombstone has removed: their versions may begin anew."""
        for command in commands:
            self.add(command)

    def add(self, limits: Limits) -> None:
        identity = (limits.account_id, limits.version)
        is_other = self._by_version.setdefault(identity, limits) != limits
        if is_other and not limits.kill_switch:  # of such a command only the switch takes
            self._ambiguous.add(identity)
        self._of.setdefault(limits.account_id, []).append(limits)
        latest = self._latest.get(limits.account_id, limits.version)
        self._latest[limits.account_id] = max(latest, limits.version)

    def find(self, account_id: str, version: int) -> Limits | None:
        """The limits; None when they are gone, or when two commands with this version disagree."""
        identity = (account_id, version)
        return None if identity in self._ambiguous else self._by_version.get(identity)

    def latest(self, account_id: str) -> int | None:
        return self._latest.get(account_id)

    def all_of(self, account_id: str) -> Iterator[Limits]:
        """Every one of an account."""
        return iter(self._of.get(account_id, ()))


class Wanted(msgspec.Struct):
    """What the commands make of one account's limits: the version, and whether its kill switch is on."""

    version: int
    kill_switch: bool = False


@dataclass
class Commanded:
    """What one partition of `risk-limits` asks for, by account; None where a tombstone removed the limits.

    `last_offset` is that of its last record, -1 without one.
    """

    wanted: dict[str, Wanted | None] = field(default_factory=dict)
    last_offset: int = -1

    def add(self, limits: Limits) -> None:
        """A version takes that is above the one in force; a kill switch that is on takes by itself."""
        before = self.wanted.get(limits.account_id)
        if before is None or limits.version > before.version:
            self.wanted[limits.account_id] = Wanted(limits.version, limits.kill_switch)
        elif limits.kill_switch:
            before.kill_switch = True

    def remove(self, account_id: str) -> None:
        self.wanted[account_id] = None


class Unusable(NamedTuple):
    """A command that has to be a dead letter, and why."""

    origin: Origin
    is_stray: bool


@dataclass
class Shared:
    """What all partitions have in common; `market_is_whole`: no tick of the log is gone.

    `commanded` is what `limits` come to by partition, `last_prices` are those of `prices`, by symbol,
    `unusable` the records of the topics of commands that no service can follow.
    """

    limits: LimitsBook = field(default_factory=LimitsBook)
    commanded: dict[int, Commanded] = field(default_factory=dict)
    market: Market = field(default_factory=Market)
    market_is_whole: bool = True
    last_prices: dict[str, PriceUpdated] = field(default_factory=dict)
    unusable: list[Unusable] = field(default_factory=list)
    reference: Reference = field(default_factory=Reference)
