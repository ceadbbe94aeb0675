"""One partition of the log as a whole, and the life of each order in it.

Everything about an account stands on one partition number, in every topic, and in one session of the venue,
its key shard, which belongs to that partition; so a checker may take one partition after the other.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import msgspec

from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
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
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    Origin,
    PriceUpdated,
    RiskDecision,
    TradeAllocated,
    TradeExecuted,
    VenueLetter,
    VenueRejected,
    VenueReport,
)
from checker.reference import Reference

RISK, COMPLIANCE, EXCHANGE, ALLOCATION = "risk", "compliance", "exchange", "allocation"

ENDINGS = (OrderCancelled, OrderExpired, VenueRejected, OrderWithheld)


@dataclass
class Slice:
    """Partition `partition` of the topics, each in the order of its offsets; `dead_letters` by their origin.

    The services' tables hold the last value of each key of their changelogs. `whole` says that the log still
    has its first records. `quiet` says that the services have taken in every record of the log, `ended` that
    the venue has nothing left either: every order has ended. When not quiet, effects are read before their
    causes, and approvals at offsets from `risk_cut` on may know of executions that are not here.

    `strays` are, by topic and offset, the orders (or keys) of records whose key belongs to another partition;
    `repeats` counts exact repeats, by somebody else, of what a service has written: they are in none of the
    topics here. `intended_at_ms` is when the exchange intended to send an order, by account/order;
    `looks_last` says that it has tables for a last look before it sends, `allocates` that there is a service
    which allocates fills.
    """

    partition: int = 0
    partitions: int = 1
    orders: list[Logged[Order]] = field(default_factory=list)
    risk: list[Logged[RiskDecision]] = field(default_factory=list)
    compliance: list[Logged[ComplianceDecision]] = field(default_factory=list)
    executions: list[Logged[Execution]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    venue_letters: list[VenueLetter] = field(default_factory=list)
    strays: dict[str, dict[int, str]] = field(default_factory=dict)
    repeats: int = 0
    positions: dict[bytes, bytes] = field(default_factory=dict)
    reservations: dict[bytes, bytes] = field(default_factory=dict)
    risk_limits: dict[bytes, bytes] = field(default_factory=dict)
    recent_orders: dict[bytes, bytes] = field(default_factory=dict)
    open_orders: dict[bytes, bytes] = field(default_factory=dict)
    intents: dict[bytes, bytes] = field(default_factory=dict)
    sessions: dict[bytes, bytes] = field(default_factory=dict)
    controls: dict[bytes, bytes] = field(default_factory=dict)
    sent: dict[bytes, bytes] = field(default_factory=dict)
    intended_at_ms: dict[bytes, int] = field(default_factory=dict)
    looks_last: bool = False
    allocations: list[Logged[TradeAllocated]] = field(default_factory=list)
    allocates: bool = False
    risk_cut: int | None = None
    whole: bool = True
    quiet: bool = True
    ended: bool = True

    def topic(self, name: str) -> Sequence[Logged[Event]]:
        """The records of one of the four topics of an order's way."""
        topics: dict[str, Sequence[Logged[Event]]] = {
            ORDERS: self.orders,
            RISK_DECISIONS: self.risk,
            COMPLIANCE_DECISIONS: self.compliance,
            EXECUTIONS: self.executions,
        }
        return topics.get(name, ())

    def letters(self, service: str, *topics: str) -> Iterator[DeadLetter]:
        """The dead letters of a service from these topics, those held included."""
        for letter in self.dead_letters:
            if letter.service == service and letter.origin.topic in topics:
                yield letter


class Trace:
    """The life of one order id: the record that became the order, and what was said of it, in log order.

    `received` is the record that was approved, the first one where none was. `refusals` are risk's of it,
    `repeat_refusals` those of the other records with the id (`repeats`), `stray_refusals` name a source that
    is no record of this order. `reports` are the venue's, `withheld` ours instead of them. `stuck` orders
    have a decision that is a dead letter or waits behind one, or a report of the venue that is one; `ended`
    ones have reached a terminal state.
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
        self.ended = False

    @property
    def order(self) -> Order | None:
        return self.received.event if self.received else None

    def judged(self, decision: Logged[ComplianceDecision]) -> None:
        """Add a decision of compliance."""
        self.compliance += (decision,)
        if isinstance(decision.event, OrderComplianceApproved):
            self.compliance_approved = True
        else:
            self.compliance_rejected = self.ended = True

    @property
    def executions(self) -> list[Logged[Execution]]:
        """What stands on `executions` of it, in the order of the log."""
        if not self.withheld:
            return list(self.reports)
        return sorted((*self.reports, *self.withheld), key=lambda each: each.offset)

    def executed(self, record: Logged[Execution]) -> None:
        """Add a report of the venue, or that the order was withheld."""
        if isinstance(record.event, OrderWithheld):
            self.withheld += (cast(Logged[OrderWithheld], record),)
        else:
            self.reports.append(cast(Logged[VenueReport], record))
        if isinstance(record.event, TradeExecuted):
            self.filled_lots += record.event.quantity_lots
        self.ended = self.ended or ends(record.event)


def ends(report: Execution | None) -> bool:
    """Whether an execution is terminal."""
    if isinstance(report, TradeExecuted):
        return report.leaves_lots == 0
    return isinstance(report, ENDINGS)


@dataclass
class Traces:
    """The traces of a slice by order id.

    `buried` are the offsets of `orders` that risk has made dead letters or holds behind one.
    """

    by_id: dict[str, Trace]
    buried: frozenset[int]

    def __iter__(self) -> Iterator[Trace]:
        return iter(self.by_id.values())

    def get(self, order_id: str) -> Trace | None:
        return self.by_id.get(order_id)

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
        if report.event is not None:
            _at(traces, report.event.order_id).executed(report)
    for order_id in stuck_ids(history):
        _at(traces, order_id).stuck = True
    return traces


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


def source_offset(source: str, partition: int | None = None) -> int | None:
    """The offset in `orders`; None when it is not the place of a record there (on `partition`)."""
    try:
        origin = Origin.parse(source)
    except ValueError:
        return None
    if origin.topic != ORDERS or (partition is not None and origin.partition != partition):
        return None
    return origin.offset


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


_read_reported = msgspec.json.Decoder(_Reported).decode


def reported_id(letter: VenueLetter) -> str | None:
    """The order of a report that is a dead letter; None when it does not even tell that."""
    try:
        return _read_reported(letter.value).order_id
    except ValueError:
        return None


def order_id_of(event: Event | None) -> str:
    match event:
        case Order(order_id=order_id) | VenueReport(order_id=order_id) | OrderWithheld(order_id=order_id):
            return order_id
        case TradeAllocated(order_id=order_id):
            return order_id
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
