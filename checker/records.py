"""Records of the log as the checker sees them: only the fields that it needs, strictly decoded.

The structs of events have the events' names. Their fields are a second writing of `models.events`; the tests
keep them equal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from models import events
from models.values import Side, TimeInForce

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


class Event(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Base of what is decoded."""


class Order(Event, frozen=True, gc=False):
    """OrderReceived: the terms of an order."""

    order_id: str
    account_id: str
    sequence: int
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

    account_id: str
    version: int
    order_quantity_lots_max: int
    order_notional_micros_max: int
    position_lots_max: int
    gross_exposure_micros_max: int
    price_collar_bps: int
    price_age_ms_max: int
    open_orders_max: int
    kill_switch: bool = False


class TickReceived(Event, frozen=True, gc=False):
    symbol: str
    sequence: int
    price_ticks: int
    quantity_lots: int
    exchange_at_ms: int
    observed_at_ms: int


class PriceUpdated(Event, frozen=True, gc=False):
    symbol: str
    price_ticks: int
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
    """Reads the values of one topic by their `event-type`; anything amiss gives None."""

    def __init__(self, *structs: type[E], names: Mapping[str, type[E]] | None = None) -> None:
        known = names or {struct.__name__: struct for struct in structs}
        self._decoders = {name.encode(): msgspec.json.Decoder(struct) for name, struct in known.items()}

    def read(self, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> E | None:
        decoder = None
        for name, text in headers:
            if name == "event-type":
                decoder = self._decoders.get(text)
                break
        if decoder is None or value is None:
            return None
        try:
            return decoder.decode(value)
        except (ValueError, RecursionError):
            return None


_ORDER_HEADERS: Final = {"event-type": b"OrderReceived", "schema-version": b"1"}
_decode_order: Final[Callable[[bytes], Order]] = msgspec.json.Decoder(Order).decode


def read_order(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> tuple[Order | None, bool]:
    """Read a record of `orders`, an edge where anything may come.

    Returns the order, None when nobody can understand the record, and whether a strict reader has read it:
    a lenient one takes "5" for 5.
    """
    given = dict(headers)
    order, strict = _order_of(value)
    understood = order is not None and _is_named_well(order, key)
    for name, text in _ORDER_HEADERS.items():
        understood = understood and given.get(name) == text
    return (order if understood else None), strict


_TICK_HEADERS: Final = {"event-type": b"TickReceived", "schema-version": b"1"}
_decode_tick: Final[Callable[[bytes], TickReceived]] = msgspec.json.Decoder(TickReceived).decode


def read_tick(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> TickReceived | None:
    """Read a record of `market-data`, an edge too; None when even a lenient reader does not understand it."""
    given = dict(headers)
    if value is None or any(given.get(name) != text for name, text in _TICK_HEADERS.items()):
        return None
    try:
        tick = _decode_tick(value)
    except (ValueError, RecursionError):
        try:
            tick = TickReceived(**dict(events.TickReceived.model_validate_json(value)))
        except (ValueError, RecursionError):
            return None
    return tick if tick.symbol.encode("utf-8", "replace") == key else None


def _is_named_well(order: Order, key: bytes | None) -> bool:
    """Whether the key is the account and the id its account and sequence."""
    account_id = order.account_id
    return account_id.encode("utf-8", "replace") == key and order.order_id == f"{account_id}-{order.sequence}"


def _order_of(value: bytes | None) -> tuple[Order | None, bool]:
    """Return the order and whether a strict reader has read it; a lenient one takes "5" for 5."""
    if value is None:
        return None, False
    try:
        return _decode_order(value), True
    except (ValueError, RecursionError):
        pass
    try:
        lenient = events.OrderReceived.model_validate_json(value)
    except (ValueError, RecursionError):
        return None, False
    return Order(**dict(lenient)), False
