"""One partition of the log as a whole, and the life of each order in it.

Everything about an account stands on one partition number, in every topic and in the venue's session of
that number; so a checker may take one partition after the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
    ComplianceDecision,
    DeadLetter,
    Event,
    Limits,
    Logged,
    Order,
    OrderCancelled,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderExpired,
    OrderRiskApproved,
    OrderRiskRejected,
    Origin,
    PriceUpdated,
    Report,
    RiskDecision,
    TradeExecuted,
    VenueRejected,
)

RISK, COMPLIANCE, EXCHANGE = "risk", "compliance", "exchange"

ENDINGS = (OrderCancelled, OrderExpired, VenueRejected)


@dataclass
class Slice:
    """Partition `partition` of the topics, each in the order of its offsets; `dead_letters` by their origin.

    The services' tables hold the last value of each key of their changelogs. `whole` says that the log still
    has its first records. `quiet` says that the services have taken in every record of the log, `ended` that
    the venue has nothing left either: every order has ended. When not quiet, effects are read before their
    causes, and approvals at offsets from `risk_cut` on may know of executions that are not here.
    """

    partition: int = 0
    orders: list[Logged[Order]] = field(default_factory=list)
    risk: list[Logged[RiskDecision]] = field(default_factory=list)
    compliance: list[Logged[ComplianceDecision]] = field(default_factory=list)
    executions: list[Logged[Report]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    positions: dict[bytes, bytes] = field(default_factory=dict)
    reservations: dict[bytes, bytes] = field(default_factory=dict)
    risk_limits: dict[bytes, bytes] = field(default_factory=dict)
    recent_orders: dict[bytes, bytes] = field(default_factory=dict)
    intents: dict[bytes, bytes] = field(default_factory=dict)
    sessions: dict[bytes, bytes] = field(default_factory=dict)
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
    """The life of one order id: its first sound record, and everything that was said of it, in log order.

    `refusals` are risk's of that first record, `repeat_refusals` those of the later records with the id
    (`repeats`), `stray_refusals` name a source that is no record of this order. `stuck` orders have a
    decision that is a dead letter or waits behind one; `ended` ones have reached a terminal state.
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
        self.reports: list[Logged[Report]] = []
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

    def reported(self, record: Logged[Report], report: Report) -> None:
        """Add a report of the venue."""
        self.reports.append(record)
        if isinstance(report, TradeExecuted):
            self.filled_lots += report.quantity_lots
        self.ended = self.ended or ends(report)


def ends(report: Report | None) -> bool:
    """Whether a report of the venue is terminal."""
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
    for decision in history.risk:
        if decision.event is not None:
            _trace_risk(_at(traces, decision.event.order.order_id), decision, history.partition)
    for judged in history.compliance:
        if judged.event is not None:
            _at(traces, judged.event.order.order_id).judged(judged)
    for report in history.executions:
        if report.event is not None:
            _at(traces, report.event.order_id).reported(report, report.event)
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
    """Orders that cannot go on: the decision that the next service needs is a dead letter or held."""
    ids = set()
    for service, topic in ((COMPLIANCE, RISK_DECISIONS), (EXCHANGE, COMPLIANCE_DECISIONS)):
        offsets = {letter.origin.offset for letter in history.letters(service, topic)}
        if offsets:
            ids |= {order_id_of(each.event) for each in history.topic(topic) if each.offset in offsets}
    return ids


def order_id_of(event: Event | None) -> str:
    match event:
        case Order(order_id=order_id) | Report(order_id=order_id):
            return order_id
        case OrderRiskApproved(order=order) | OrderRiskRejected(order=order):
            return order.order_id
        case OrderComplianceApproved(order=order) | OrderComplianceRejected(order=order):
            return order.order_id
    return "?"


class Market:
    """Ticks by symbol and sequence, from `prices` and `market-data`: (price_ticks, observed_at_ms).

    A sequence may have come twice with different contents: any of them may have been used.
    """

    def __init__(self) -> None:
        self._ticks: dict[str, dict[int, tuple[int, int]]] = {}
        self._others: dict[tuple[str, int], list[tuple[int, int]]] = {}

    def add(self, symbol: str, sequence: int, price_ticks: int, observed_at_ms: int) -> None:
        tick = (price_ticks, observed_at_ms)
        known = self._ticks.setdefault(symbol, {}).setdefault(sequence, tick)
        if known != tick:
            self._others.setdefault((symbol, sequence), []).append(tick)

    def find(self, symbol: str, sequence: int) -> list[tuple[int, int]]:
        tick = self._ticks.get(symbol, {}).get(sequence)
        return [] if tick is None else [tick, *self._others.get((symbol, sequence), ())]


class LimitsBook:
    """Every SetRiskLimits that is still in the log, by account and version."""

    def __init__(self, commands: Iterable[Limits] = ()) -> None:
        self._by_version: dict[tuple[str, int], Limits] = {}
        self._ambiguous: set[tuple[str, int]] = set()
        self._latest: dict[str, int] = {}
        for command in commands:
            self.add(command)

    def add(self, limits: Limits) -> None:
        identity = (limits.account_id, limits.version)
        if self._by_version.setdefault(identity, limits) != limits:
            self._ambiguous.add(identity)
        latest = self._latest.get(limits.account_id, limits.version)
        self._latest[limits.account_id] = max(latest, limits.version)

    def find(self, account_id: str, version: int) -> Limits | None:
        """The limits; None when they are gone, or when two commands with this version disagree."""
        identity = (account_id, version)
        return None if identity in self._ambiguous else self._by_version.get(identity)

    def latest(self, account_id: str) -> int | None:
        return self._latest.get(account_id)


@dataclass
class Commanded:
    """What one partition of `risk-limits` asks for: the highest version of each account.

    `last_offset` is that of its last record, -1 without one.
    """

    versions: dict[str, int] = field(default_factory=dict)
    last_offset: int = -1

    def add(self, limits: Limits) -> None:
        version = self.versions.get(limits.account_id, limits.version)
        self.versions[limits.account_id] = max(version, limits.version)


@dataclass
class Shared:
    """What all partitions have in common; `market_is_whole`: no tick of the log is gone.

    `commanded` is what `limits` come to by partition, `last_prices` are those of `prices`, by symbol.
    """

    limits: LimitsBook = field(default_factory=LimitsBook)
    commanded: dict[int, Commanded] = field(default_factory=dict)
    market: Market = field(default_factory=Market)
    market_is_whole: bool = True
    last_prices: dict[str, PriceUpdated] = field(default_factory=dict)
