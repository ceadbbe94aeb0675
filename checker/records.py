"""Records of the log as the checker sees them: only the fields that it needs, strictly decoded.

The structs of events have the events' names. Their fields are a second writing of `models.events`; the tests
keep them equal.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from models import commands, events
from models.values import Frozen, Side, TimeInForce

ORDERS: Final = "orders"
RISK_DECISIONS: Final = "risk-decisions"
COMPLIANCE_DECISIONS: Final = "compliance-decisions"
EXECUTIONS: Final = "executions"
DEAD_LETTERS: Final = "dead-letters"
RISK_LIMITS: Final = "risk-limits"
PRICES: Final = "prices"
MARKET_DATA: Final = "market-data"
RESTRICTIONS: Final = "restrictions"
POSITIONS_CHANGELOG: Final = "risk-positions-changelog"
RESERVATIONS_CHANGELOG: Final = "risk-reservations-changelog"
RISK_LIMITS_CHANGELOG: Final = "risk-risk_limits-changelog"
RECENT_ORDERS_CHANGELOG: Final = "compliance-recent_orders-changelog"
INTENTS_CHANGELOG: Final = "exchange-intents-changelog"
SESSIONS_CHANGELOG: Final = "exchange-sessions-changelog"

COMPACTED: Final = frozenset({RISK_LIMITS, PRICES, RESTRICTIONS})
"""Topics in which an old record may be gone."""


class Origin(NamedTuple):
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Read `topic/partition/offset`; raises ValueError when it is not that."""
        topic, partition, offset = text.rsplit("/", 2)
        return cls(topic, int(partition), int(offset))


class Raw(Protocol):
    """A record as the consumer hands it over; `timestamp` is in ms."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


AccountId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63 - 1), le=2**63 - 1)]
Lots = Annotated[int, msgspec.Meta(le=10**15)]


class Event(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Base of what is decoded."""


class Order(Event, frozen=True, gc=False):
    """OrderReceived: the terms of an order."""

    order_id: str
    account_id: AccountId
    sequence: Int64
    symbol: str
    side: Side
    quantity_lots: int
    price_ticks: int
    submitted_at_ms: int
    time_in_force: TimeInForce = TimeInForce.GTC


class OrderRiskApproved(Event, frozen=True, gc=False):
    order: Order
    reference_price_ticks: int
    reference_tick_sequence: int
    price_age_ms: int
    limits_version: int


class OrderRiskRejected(Event, frozen=True, gc=False):
    order: Order
    reason: str
    source: str


class OrderComplianceApproved(Event, frozen=True, gc=False):
    order: Order


class OrderComplianceRejected(Event, frozen=True, gc=False):
    order: Order
    reason: str


class Report(Event, frozen=True, gc=False):
    """A report of the venue."""

    order_id: str
    account_id: str
    symbol: str
    side: Side
    venue_order_id: str
    venue_sequence: int


class OrderAcknowledged(Report, frozen=True, gc=False):
    pass


class TradeExecuted(Report, frozen=True, gc=False):
    trade_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int


class OrderCancelled(Report, frozen=True, gc=False):
    cancelled_lots: int


class OrderExpired(Report, frozen=True, gc=False):
    expired_lots: int


class VenueRejected(Report, frozen=True, gc=False):
    reason: str
    rejected_lots: int


class Limits(Event, frozen=True, gc=False):
    """SetRiskLimits."""

    account_id: AccountId
    version: int
    order_quantity_lots_max: Lots
    order_notional_micros_max: Int64
    position_lots_max: Lots
    gross_exposure_micros_max: int
    price_collar_bps: int
    price_age_ms_max: int
    open_orders_max: int
    kill_switch: bool = False


class TickReceived(Event, frozen=True, gc=False):
    symbol: str
    sequence: int
    price_ticks: Int64
    quantity_lots: int
    exchange_at_ms: int
    observed_at_ms: int


class PriceUpdated(Event, frozen=True, gc=False):
    symbol: str
    price_ticks: Int64
    tick_sequence: int
    observed_at_ms: int
    gaps: int = 0


RiskDecision = OrderRiskApproved | OrderRiskRejected
ComplianceDecision = OrderComplianceApproved | OrderComplianceRejected

E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)


class Logged(msgspec.Struct, Generic[E_co], frozen=True, gc=False):
    """An event and where it stands in its topic; `event` is None when nobody can read it.

    `timestamp_ms` is the broker's. `sound` is False for an order that only a lenient reader understands: it
    may be decided or be a dead letter; and for a record between services that none of them has written.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    event: E_co | None
    sound: bool = True


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A record of `dead-letters`: whose it is, where it came from, what it waits behind (or None).

    `digest` is of the original's bytes.
    """

    offset: int
    service: str
    origin: Origin
    behind: Origin | None
    key: bytes | None
    digest: bytes


class Wire(Generic[E]):
    """Reads the values of one topic by their `event-type`, the last one given; anything amiss gives None."""

    def __init__(self, *structs: type[E]) -> None:
        self._decoders = {struct.__name__.encode(): msgspec.json.Decoder(struct) for struct in structs}

    def read(self, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> E | None:
        event_type = b""
        for name, text in headers:
            if name == "event-type":
                event_type = text
        decoder = self._decoders.get(event_type)
        if decoder is None or value is None:
            return None
        try:
            return decoder.decode(value)
        except (ValueError, RecursionError):
            return None


class _Edge(Generic[E]):
    """Reads one topic where anything may come, as the services do: they take "5" for 5.

    `is_named` says whether a key is the one of a value.
    """

    def __init__(
        self, struct: type[E], model: type[Frozen], is_named: Callable[[E, bytes | None], bool]
    ) -> None:
        self._struct = struct
        self._model = model
        self._is_named = is_named
        self._decode = msgspec.json.Decoder(struct).decode
        self._event_type = model.__name__.encode()

    def read(
        self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> tuple[E | None, bool]:
        """What a record says, None when nobody understands it, and whether a strict reader has read it."""
        found, strict = self._read(value)
        understood = found is not None and self._is_named(found, key) and self._is_meant(headers)
        return (found if understood else None), strict

    def _is_meant(self, headers: Sequence[tuple[str, bytes]]) -> bool:
        """Whether the headers promise what is read here."""
        given = dict(headers)
        return given.get("event-type") == self._event_type and given.get("schema-version") == b"1"

    def _read(self, value: bytes | None) -> tuple[E | None, bool]:
        if value is None:
            return None, False
        try:
            return self._decode(value), True
        except (ValueError, RecursionError):
            pass
        try:
            return self._struct(**dict(self._model.model_validate_json(value))), False
        except (ValueError, RecursionError):
            return None, False


def _is_named_well(order: Order, key: bytes | None) -> bool:
    """Whether the key is the account and the id its account and sequence, which counts from 1."""
    named = order.sequence >= 1 and order.order_id == f"{order.account_id}-{order.sequence}"
    return named and _is_key(order.account_id, key)


def _is_key(name: str, key: bytes | None) -> bool:
    return name.encode("utf-8", "replace") == key


read_order: Final = _Edge(Order, events.OrderReceived, _is_named_well).read
read_tick: Final = _Edge(TickReceived, events.TickReceived, lambda tick, key: _is_key(tick.symbol, key)).read
read_limits: Final = _Edge(
    Limits, commands.SetRiskLimits, lambda limits, key: _is_key(limits.account_id, key)
).read
