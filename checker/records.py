"""Records of the log as the checker sees them: as lenient as the services are, and no more.

The structs of events have the events' names. Their fields are a second writing of `models`; the tests keep
them equal. Between the services an unknown field is ignored. At the edge it may be an instruction: there it
is found and named. Versions are those of `models.registry`: what a newer release has written is refused,
since only a checker of that release can judge it.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from app.topology import answerer_of
from checker.errors import CheckerError
from models import commands, events, registry
from models.registry import CONTRACTS, TABLES
from models.values import AllocationMethod, Frozen, InstrumentStatus, PartyStatus, Side, TimeInForce

ORDERS: Final = "orders"
RISK_DECISIONS: Final = "risk-decisions"
COMPLIANCE_DECISIONS: Final = "compliance-decisions"
EXECUTIONS: Final = "executions"
DEAD_LETTERS: Final = "dead-letters"
RISK_LIMITS: Final = "risk-limits"
PRICES: Final = "prices"
MARKET_DATA: Final = "market-data"
RESTRICTIONS: Final = "restrictions"
ACCOUNT_COMMANDS: Final = "account-commands"
OPERATOR_COMMANDS: Final = "operator-commands"
COMMAND_ANSWERS: Final = "command-answers"
INSTRUMENTS: Final = "instruments"
ACCOUNTS: Final = "accounts"
COUNTERPARTIES: Final = "counterparties"
RESTRICTED_LIST: Final = "restricted-list"
HALTS: Final = "halts"
ALLOCATION_INSTRUCTIONS: Final = "allocation-instructions"
ALLOCATIONS: Final = "allocations"
POSITIONS_CHANGELOG: Final = "risk-positions-changelog"
RESERVATIONS_CHANGELOG: Final = "risk-reservations-changelog"
RISK_LIMITS_CHANGELOG: Final = "risk-risk_limits-changelog"
RECENT_ORDERS_CHANGELOG: Final = "compliance-recent_orders-changelog"
OPEN_ORDERS_CHANGELOG: Final = "compliance-open_orders-changelog"
INTENTS_CHANGELOG: Final = "exchange-intents-changelog"
SESSIONS_CHANGELOG: Final = "exchange-sessions-changelog"
CONTROLS_CHANGELOG: Final = "exchange-controls-changelog"
SENT_CHANGELOG: Final = "exchange-sent-changelog"
REQUESTS_CHANGELOG: Final = "exchange-requests-changelog"

COMPACTED: Final = frozenset(
    {RISK_LIMITS, PRICES, RESTRICTIONS, INSTRUMENTS, ACCOUNTS, COUNTERPARTIES, RESTRICTED_LIST, HALTS}
)
"""Topics in which an old record may be gone."""
PROTECTING: Final = frozenset({RISK_LIMITS, ACCOUNT_COMMANDS, RESTRICTIONS, OPERATOR_COMMANDS})
"""Topics whose records never wait behind a dead letter."""
COMMANDING: Final = {topic: answerer_of(topic) for topic in (*PROTECTING, ALLOCATION_INSTRUCTIONS)}
"""The topics of commands, and the service that answers each."""


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


def source_offset(source: str, partition: int | None = None) -> int | None:
    """The offset in `orders`; None when it is not the place of a record there (on `partition`)."""
    try:
        origin = Origin.parse(source)
    except ValueError:
        return None
    if origin.topic != ORDERS or (partition is not None and origin.partition != partition):
        return None
    return origin.offset


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
    @property
    def in_transaction(self) -> bool:
        """Whether its producer wrote it in a transaction, as our services do and nobody else does."""


TABLE_MARK: Final = re.compile(rb'\{"\$v":(\d{1,9})[,}]')


class NewerVersion(CheckerError):
    """A record of a release after this checker's: whatever was judged without it might be wrong."""


AccountId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63 - 1), le=2**63 - 1)]
Lots = Annotated[int, msgspec.Meta(le=10**15)]
Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]{2,12}\Z")]
IsoDate = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])\Z")]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Note = Annotated[str, msgspec.Meta(max_length=1_024)]


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of what is decoded; fields that it does not have are ignored."""


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


class CancelRequested(Event, frozen=True, gc=False):
    """`request_id` is the client's own; the venue knows the cancel by the number that risk gives it."""

    request_id: RequestId
    account_id: AccountId
    order_id: str
    submitted_at_ms: int


class ReplaceRequested(Event, frozen=True, gc=False):
    """`quantity_lots` is the new total, what is filled included."""

    request_id: str
    account_id: AccountId
    sequence: Int64
    order_id: str
    quantity_lots: int
    price_ticks: int
    submitted_at_ms: int


class OrderRiskApproved(Event, frozen=True, gc=False):
    order: Order
    reference_price_ticks: int
    reference_tick_sequence: int
    price_age_ms: int
    limits_version: int
    reference_tick_epoch: int = 0
    received_at_ms: int = 0
    decided_at_ms: int = 0


class OrderRiskRejected(Event, frozen=True, gc=False):
    """`detail` is None in what the release before has written."""

    order: Order
    reason: str
    source: str
    detail: str | None = None


class CancelAccepted(Event, frozen=True, gc=False):
    """Risk writes it, and compliance once more, as it is."""

    request: CancelRequested
    number: int
    symbol: str
    side: Side
    source: str

    @property
    def venue_id(self) -> str:
        """The id of the request at the venue."""
        return f"{self.request.account_id}-c{self.number}"


class CancelRefused(Event, frozen=True, gc=False):
    request: CancelRequested
    reason: str
    source: str


class ReplaceRiskApproved(Event, frozen=True, gc=False):
    request: ReplaceRequested
    symbol: str
    side: Side
    reference_price_ticks: int
    reference_tick_sequence: int
    reference_tick_epoch: int
    price_age_ms: int
    limits_version: int
    received_at_ms: int
    decided_at_ms: int

    @property
    def venue_id(self) -> str:
        """The id of the request at the venue."""
        return self.request.request_id


class ReplaceRiskRejected(Event, frozen=True, gc=False):
    request: ReplaceRequested
    reason: str
    source: str
    detail: str = ""


class OrderComplianceApproved(Event, frozen=True, gc=False):
    order: Order


class OrderComplianceRejected(Event, frozen=True, gc=False):
    order: Order
    reason: str


class ReplaceComplianceApproved(Event, frozen=True, gc=False):
    request: ReplaceRequested
    symbol: str
    side: Side

    @property
    def venue_id(self) -> str:
        """The id of the request at the venue."""
        return self.request.request_id


class ReplaceComplianceRejected(Event, frozen=True, gc=False):
    request: ReplaceRequested
    reason: str

    @property
    def venue_id(self) -> str:
        """The id that the request would have had at the venue."""
        return self.request.request_id


class VenueReport(Event, frozen=True, gc=False):
    """A report of the venue."""

    order_id: str
    account_id: str
    symbol: str
    side: Side
    venue_order_id: str
    venue_sequence: int


class OrderAcknowledged(VenueReport, frozen=True, gc=False):
    pass


class TradeExecuted(VenueReport, frozen=True, gc=False):
    trade_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int
    traded_at_ms: int | None = None
    trade_date: IsoDate | None = None
    fee_micros: Int64 | None = None
    fee_currency: Currency | None = None
    counterparty: str | None = None
    liquidity: str | None = None

    @property
    def terms(self) -> tuple[int | None, str | None, int | None, str | None, str | None, str | None]:
        """What it tells of a trade that releases before did not tell."""
        return (
            self.traded_at_ms,
            self.trade_date,
            self.fee_micros,
            self.fee_currency,
            self.counterparty,
            self.liquidity,
        )


class OrderCancelled(VenueReport, frozen=True, gc=False):
    cancelled_lots: int
    request_id: str | None = None


class OrderExpired(VenueReport, frozen=True, gc=False):
    expired_lots: int


class VenueRejected(VenueReport, frozen=True, gc=False):
    reason: str
    rejected_lots: int


class OrderReplaced(VenueReport, frozen=True, gc=False):
    request_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int


class CancelRejected(VenueReport, frozen=True, gc=False):
    request_id: str
    reason: str


class ReplaceRejected(VenueReport, frozen=True, gc=False):
    request_id: str
    reason: str


class OrderWithheld(Event, frozen=True, gc=False):
    """Ours, not the venue's: an order that was never sent."""

    order_id: str
    account_id: str
    symbol: str
    side: Side
    reason: str
    withheld_lots: int
    looked_at_ms: int


class ReplaceWithheld(Event, frozen=True, gc=False):
    """Ours, not the venue's: a replace that was never sent."""

    order_id: str
    account_id: str
    symbol: str
    side: Side
    request_id: str
    reason: str
    looked_at_ms: int


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
    order_age_ms_max: int = 30_000
    who: Note = ""
    why: Note = ""


class SetAccountSequence(Event, frozen=True, gc=False):
    account_id: AccountId
    last_sequence: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    who: Note
    why: Note


class SetRestriction(Event, frozen=True, gc=False):
    symbol: Symbol
    restricted: bool
    version: Version | None = None
    who: Note = ""
    why: Note = ""


class Instrument(Event, frozen=True, gc=False):
    """An instrument's terms. A pydantic model has them as a decimal's text."""

    symbol: Symbol
    base: str
    currency: str
    tick: Decimal
    lot: Decimal
    multiplier: int = 1
    status: InstrumentStatus = InstrumentStatus.ACTIVE
    valid_from_ms: int | None = None
    valid_until_ms: int | None = None


class SetInstrument(Event, frozen=True, gc=False):
    instrument: Instrument
    version: Version
    who: Note
    why: Note


class SetAccount(Event, frozen=True, gc=False):
    account_id: AccountId
    owner: Note
    firm: Note
    base_currency: str
    version: Version
    who: Note
    why: Note
    status: PartyStatus = PartyStatus.ACTIVE


class SetCounterparty(Event, frozen=True, gc=False):
    counterparty_id: AccountId
    name: Note
    version: Version
    who: Note
    why: Note
    status: PartyStatus = PartyStatus.ACTIVE


class SetHalt(Event, frozen=True, gc=False):
    scope: AccountId
    halted: bool
    version: Version
    who: Note
    why: Note


class AllocationShare(Event, frozen=True, gc=False):
    sub_account: AccountId
    weight: Int64 | None = None
    lots: Lots | None = None


class SetAllocation(Event, frozen=True, gc=False):
    account_id: AccountId
    order_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: AllocationMethod
    shares: tuple[AllocationShare, ...]
    version: Version
    who: Note
    why: Note


class Diverted(Event, frozen=True, gc=False):
    sub_account: str | None
    quantity_lots: int
    reason: str


class AveragePrice(Event, frozen=True, gc=False):
    tick_lots: int
    lots: int


class TradeAllocated(Event, frozen=True, gc=False):
    allocation_id: str
    account_id: str
    sub_account: str
    order_id: str
    trade_id: str | None
    symbol: str
    side: Side
    quantity_lots: int
    price_ticks: int | None
    notional_micros: int | None
    fee_micros: int | None
    fee_currency: Currency | None
    trade_date: IsoDate | None
    traded_at_ms: int | None
    counterparty: str | None
    method: AllocationMethod | None
    instruction_order: str | None
    instruction_version: int | None
    average: AveragePrice | None = None
    diverted: tuple[Diverted, ...] = ()


class CommandAnswered(Event, frozen=True, gc=False):
    command: str
    subject: str
    version: int | None
    accepted: bool
    reason: str = ""
    who: str = ""
    why: str = ""


class FormerScale(Event, frozen=True, gc=False):
    scale: int
    base: str
    currency: str
    tick: Decimal
    lot: Decimal
    multiplier: int


class InstrumentListed(Event, frozen=True, gc=False):
    instrument: Instrument
    version: int
    scale: int = 1
    former: tuple[FormerScale, ...] = ()


class AccountRegistered(Event, frozen=True, gc=False):
    account_id: str
    owner: str
    firm: str
    base_currency: str
    status: PartyStatus
    version: int


class RestrictionInForce(Event, frozen=True, gc=False):
    symbol: str
    restricted: bool
    version: int | None
    who: str = ""
    why: str = ""


class HaltInForce(Event, frozen=True, gc=False):
    scope: str
    halted: bool
    version: int
    who: str = ""
    why: str = ""


class TickReceived(Event, frozen=True, gc=False):
    symbol: str
    sequence: int
    price_ticks: Int64
    quantity_lots: int
    exchange_at_ms: int
    observed_at_ms: int
    epoch: Int64 = 0


class PriceUpdated(Event, frozen=True, gc=False):
    symbol: str
    price_ticks: Int64
    tick_sequence: int
    observed_at_ms: int
    gaps: int = 0
    epoch: int = 0
    scale: int = 1


Execution = VenueReport | OrderWithheld | ReplaceWithheld
RiskDecision = OrderRiskApproved | OrderRiskRejected
ComplianceDecision = OrderComplianceApproved | OrderComplianceRejected

Request = CancelRequested | ReplaceRequested
"""What stands on `orders` besides orders: it is kept apart from them, and so is what is decided of it."""
RequestLet = CancelAccepted | ReplaceRiskApproved
RequestRefused = CancelRefused | ReplaceRiskRejected
RequestRiskDecision = RequestLet | RequestRefused
RequestPassed = CancelAccepted | ReplaceComplianceApproved
RequestJudged = RequestPassed | ReplaceComplianceRejected
Refusal = CancelRejected | ReplaceRejected | ReplaceWithheld
"""What answers a request and leaves its order as it is; it may come after the order's end."""
Asked = Request | RequestRiskDecision | RequestJudged

E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)


class Logged(msgspec.Struct, Generic[E_co], frozen=True, gc=False):
    """An event and where it stands in its topic; `event` is None when nobody can read it.

    `timestamp_ms` is the broker's. `sound` is False for an order that only a lenient reader understands: it
    may be decided or be a dead letter; and for a record between services that none of them has written.
    `ours` is False for what was not written in a transaction. `unknown` are fields of an order that nobody
    knows.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    event: E_co | None
    sound: bool = True
    ours: bool = True
    unknown: tuple[str, ...] = ()


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A record of `dead-letters`: whose it is, where it came from, what it waits behind (or None).

    `digest` is of the original's bytes, `error` the name of what was wrong.
    """

    offset: int
    service: str
    origin: Origin
    behind: Origin | None
    key: bytes | None
    digest: bytes
    error: str = ""

    @property
    def is_wrong_partition(self) -> bool:
        """Whether it blames the partition that the record stands on: such a letter holds nothing up."""
        return self.error == "WrongPartition"


class VenueLetter(msgspec.Struct, frozen=True, gc=False):
    """A report of the venue that the exchange could not use: a dead letter that did not come from Kafka.

    `shard` and `sequence` are its session and number; `value` is the report as it came.
    """

    offset: int
    shard: int
    sequence: int
    value: bytes


class Wire(Generic[E]):
    """Reads the values of one topic by their `event-type`, the last one given; anything amiss gives None.

    Raises NewerVersion for an event of a later release.
    """

    def __init__(self, *structs: type[E]) -> None:
        self._decoders = {struct.__name__.encode(): msgspec.json.Decoder(struct) for struct in structs}

    def read(self, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> E | None:
        event_type, version = b"", b""
        for name, text in headers:
            if name == "event-type":
                event_type = text
            elif name == "schema-version":
                version = text
        decoder = self._decoders.get(event_type)
        if decoder is None or value is None:
            return None
        value = _upcast(event_type.decode(), version, value)
        if value is None:
            return None
        try:
            return decoder.decode(value)
        except (ValueError, RecursionError):
            return None


def _upcast(name: str, version: bytes, value: bytes) -> bytes | None:
    """A value of today's version; None when there never was such a version."""
    contract = CONTRACTS[name]
    if version == b"%d" % contract.version:
        return value
    try:
        return contract.upcast(int(version), value)
    except registry.NewerVersion as error:
        raise NewerVersion(f"{error}: check with that release") from error
    except (ValueError, RecursionError):
        return None


def table_value(table: str, data: bytes) -> bytes:
    """A value of `<service>.<table>` in today's version, without its mark; unreadable ones as they are."""
    marked = TABLE_MARK.match(data)
    upcasts = TABLES[table]
    version, newest = int(marked[1]) if marked else 1, len(upcasts) + 1
    if version > newest:
        raise NewerVersion(
            f"a value of {table} in version {version} was written by a newer release; this checker knows up "
            f"to {newest}: check with that release"
        )
    if version == newest:
        return data
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except ValueError:
        return data
    value.pop("$v", None)
    for upcast in upcasts[max(version, 1) - 1 :]:
        value = upcast(value)
    return msgspec.json.encode(value)


class Reading(NamedTuple, Generic[E]):
    """What a record of the edge says: None when nobody understands it.

    `strict` says whether a strict reader has read it; `unknown` are top-level fields that nobody knows.
    """

    event: E | None
    strict: bool = False
    unknown: tuple[str, ...] = ()


class Edge(Generic[E]):
    """Reads one type of a topic where anything may come, as the services do: they take "5" for 5.

    `is_named` says whether a key is the one of a value. With `names_unknown` a record with unknown fields is
    understood without them, and they are named; else nobody understands it.
    """

    def __init__(
        self,
        struct: type[E],
        model: type[Frozen],
        is_named: Callable[[E, bytes | None], bool],
        *,
        names_unknown: bool = False,
    ) -> None:
        self._struct = struct
        self._model = model
        self._is_named = is_named
        self._names_unknown = names_unknown
        self._decode = msgspec.json.Decoder(struct).decode
        self._fields = frozenset(struct.__struct_fields__)
        self.event_type = model.__name__

    def read(
        self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> Reading[E]:
        """Read a record, by its headers too."""
        if value is None or not self._is_meant(headers):
            return Reading(None)
        unknown = self._unknown(value)
        if unknown and not self._names_unknown:
            return Reading(None)
        found, strict = self._read(value, unknown)
        if found is None or not self._is_named(found, key):
            return Reading(None, strict)
        return Reading(found, strict, unknown)

    def _is_meant(self, headers: Sequence[tuple[str, bytes]]) -> bool:
        """Whether the headers promise what is read here."""
        given = dict(headers)
        if given.get("event-type") != self.event_type.encode():
            return False
        version = given.get("schema-version") or b""
        return version.isdigit() and 1 <= int(version) <= CONTRACTS[self.event_type].version

    def _unknown(self, value: bytes) -> tuple[str, ...]:
        try:
            named = _fields_of(value)
        except (ValueError, RecursionError):
            return ()  # then it has no fields at all
        return tuple(name for name in named if name not in self._fields)

    def _read(self, value: bytes, unknown: tuple[str, ...]) -> tuple[E | None, bool]:
        try:
            return self._decode(value), True
        except (ValueError, RecursionError):
            pass
        try:
            fields = msgspec.json.decode(value) if unknown else None
            if fields is not None:
                value = msgspec.json.encode({name: fields[name] for name in fields.keys() - set(unknown)})
            model = self._model.model_validate_json(value)
            return msgspec.convert(dict(model), self._struct, from_attributes=True), False
        except (ValueError, RecursionError):
            return None, False


_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _is_named_well(order: Order, key: bytes | None) -> bool:
    """Whether the key is the account and the id its account and sequence, which counts from 1."""
    named = order.sequence >= 1 and order.order_id == f"{order.account_id}-{order.sequence}"
    return named and _is_key(order.account_id, key)


def _is_replace_named_well(replace: ReplaceRequested, key: bytes | None) -> bool:
    """A replace takes a number of the account, as an order does."""
    named = replace.sequence >= 1 and replace.request_id == f"{replace.account_id}-{replace.sequence}"
    return named and _is_key(replace.account_id, key)


def _is_key(name: str, key: bytes | None) -> bool:
    return name.encode("utf-8", "replace") == key


read_order: Final = Edge(Order, events.OrderReceived, _is_named_well, names_unknown=True).read
_read_cancel: Final = Edge(
    CancelRequested, events.CancelRequested, lambda it, key: _is_key(it.account_id, key)
).read
_read_replace: Final = Edge(ReplaceRequested, events.ReplaceRequested, _is_replace_named_well).read


def read_request(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> Reading[CancelRequested] | Reading[ReplaceRequested]:
    """Read a cancel or a replace."""
    cancel = _read_cancel(key, value, headers)
    return cancel if cancel.event is not None else _read_replace(key, value, headers)


read_tick: Final = Edge(TickReceived, events.TickReceived, lambda tick, key: _is_key(tick.symbol, key)).read
Command = (
    Limits
    | SetAccountSequence
    | SetRestriction
    | SetInstrument
    | SetAccount
    | SetCounterparty
    | SetHalt
    | SetAllocation
)

_COMMANDS: Final[dict[str, tuple[Edge[Any], ...]]] = {
    RISK_LIMITS: (Edge(Limits, commands.SetRiskLimits, lambda it, key: _is_key(it.account_id, key)),),
    ACCOUNT_COMMANDS: (
        Edge(SetAccountSequence, commands.SetAccountSequence, lambda it, key: _is_key(it.account_id, key)),
    ),
    RESTRICTIONS: (Edge(SetRestriction, commands.SetRestriction, lambda it, key: _is_key(it.symbol, key)),),
    OPERATOR_COMMANDS: (
        Edge(SetInstrument, commands.SetInstrument, lambda it, key: _is_key(it.instrument.symbol, key)),
        Edge(SetAccount, commands.SetAccount, lambda it, key: _is_key(it.account_id, key)),
        Edge(SetCounterparty, commands.SetCounterparty, lambda it, key: _is_key(it.counterparty_id, key)),
        Edge(SetHalt, commands.SetHalt, lambda it, key: _is_key(it.scope, key)),
    ),
    ALLOCATION_INSTRUCTIONS: (
        Edge(SetAllocation, commands.SetAllocation, lambda it, key: _is_key(it.account_id, key)),
    ),
}


class Commanding(NamedTuple):
    """A command that can be read: its type, whom or what it is about, and what it says."""

    name: str
    subject: str
    command: Command


def read_command(
    topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> Commanding | None:
    """Read a record of a topic of commands; None when nobody understands it, or when it has no value."""
    for edge in _COMMANDS[topic]:
        found = edge.read(key, value, headers).event
        if found is not None:
            return Commanding(edge.event_type, (key or b"").decode(errors="replace"), found)
    return None
