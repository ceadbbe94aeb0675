"""Turns raw records into the typed history: one `take` for each topic, which appends what it reads."""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final, Generic, TypeVar, cast, get_args

import msgspec

from checker.findings import Findings
from checker.history import Commanded, Shared, Slice, Unusable, order_id_of
from checker.invariants.ticks import Priced, Ticks
from checker.records import (
    ACCOUNTS,
    ALLOCATIONS,
    COMMAND_ANSWERS,
    COMMANDING,
    COMPLIANCE_DECISIONS,
    CONTROLS_CHANGELOG,
    EXECUTIONS,
    HALTS,
    INSTRUMENTS,
    INTENTS_CHANGELOG,
    MARKET_DATA,
    OPEN_ORDERS_CHANGELOG,
    ORDERS,
    POSITIONS_CHANGELOG,
    PRICES,
    RECENT_ORDERS_CHANGELOG,
    REQUESTS_CHANGELOG,
    RESERVATIONS_CHANGELOG,
    RESTRICTED_LIST,
    RISK_DECISIONS,
    RISK_LIMITS,
    RISK_LIMITS_CHANGELOG,
    SENT_CHANGELOG,
    SESSIONS_CHANGELOG,
    AccountRegistered,
    Asked,
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CommandAnswered,
    ComplianceDecision,
    DeadLetter,
    Event,
    Execution,
    HaltInForce,
    InstrumentListed,
    Limits,
    Logged,
    OrderAcknowledged,
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
    Raw,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    ReplaceWithheld,
    RequestJudged,
    RequestRiskDecision,
    RestrictionInForce,
    RiskDecision,
    TradeAllocated,
    TradeExecuted,
    VenueLetter,
    VenueRejected,
    Wire,
    read_command,
    read_order,
    read_request,
    table_value,
)
from checker.reference import Answered, Mark, Timeline, Unreadable
from checker.reference import Commanded as Given
from checker.shards import is_elsewhere

E = TypeVar("E", bound=Event)
A = TypeVar("A", bound=Event)
Take = Callable[[Sequence[Raw]], None]

PREFIX = "dead-letter-"
FIRST_OF_OWN = "dead-letter-service"
VENUE_SOURCE: Final = re.compile(r"venue/(\d{1,9})/(\d{1,18})")
I5 = "I5"

RISK_WIRE: Wire[RiskDecision | RequestRiskDecision] = Wire(
    OrderRiskApproved,
    OrderRiskRejected,
    CancelAccepted,
    CancelRefused,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
)
COMPLIANCE_WIRE: Wire[ComplianceDecision | RequestJudged] = Wire(
    OrderComplianceApproved,
    OrderComplianceRejected,
    CancelAccepted,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
)
ASKED: Final = get_args(Asked)
EXECUTIONS_WIRE: Wire[Execution] = Wire(
    OrderAcknowledged,
    TradeExecuted,
    OrderCancelled,
    OrderExpired,
    VenueRejected,
    OrderReplaced,
    CancelRejected,
    ReplaceRejected,
    OrderWithheld,
    ReplaceWithheld,
)
ALLOCATIONS_WIRE: Wire[TradeAllocated] = Wire(TradeAllocated)
PRICES_WIRE: Wire[PriceUpdated] = Wire(PriceUpdated)
ANSWERS_WIRE: Wire[CommandAnswered] = Wire(CommandAnswered)


def slice_takes(history: Slice) -> dict[str, Take]:
    """How to take in the topics of one partition, by topic."""
    return {
        ORDERS: _orders_into(history),
        RISK_DECISIONS: _events_into(history, RISK_DECISIONS, RISK_WIRE, history.risk, history.asked_risk),
        COMPLIANCE_DECISIONS: _events_into(
            history, COMPLIANCE_DECISIONS, COMPLIANCE_WIRE, history.compliance, history.asked_compliance
        ),
        EXECUTIONS: _events_into(history, EXECUTIONS, EXECUTIONS_WIRE, history.executions, []),
        ALLOCATIONS: _events_into(history, ALLOCATIONS, ALLOCATIONS_WIRE, history.allocations, []),
        POSITIONS_CHANGELOG: _table_into(history.positions, "risk.positions"),
        RESERVATIONS_CHANGELOG: _table_into(history.reservations, "risk.reservations"),
        RISK_LIMITS_CHANGELOG: _table_into(history.risk_limits, "risk.risk_limits"),
        RECENT_ORDERS_CHANGELOG: _table_into(history.recent_orders, "compliance.recent_orders"),
        OPEN_ORDERS_CHANGELOG: _table_into(history.open_orders, "compliance.open_orders"),
        INTENTS_CHANGELOG: _intents_into(history),
        SESSIONS_CHANGELOG: _table_into(history.sessions, "exchange.sessions"),
        CONTROLS_CHANGELOG: _table_into(history.controls, "exchange.controls"),
        SENT_CHANGELOG: _table_into(history.sent, "exchange.sent"),
        REQUESTS_CHANGELOG: _table_into(history.requests, "exchange.requests"),
    }


def reference_takes(shared: Shared, partitions: Mapping[str, int]) -> dict[str, Take]:
    """How to take in what is beside an order's way, by topic; `partitions` is how many each topic has.

    It has to be read before the market's data.
    """
    reference = shared.reference

    def answers(records: Sequence[Raw]) -> None:
        for record in records:
            answer = ANSWERS_WIRE.read(record.value, record.headers)
            if answer is not None:
                subject = (answer.command, answer.subject)
                reference.answers.setdefault(subject, []).append(Answered(record.timestamp, answer))

    def of(topic: str, timeline: Timeline[E], struct: type[E], name_of: Callable[[E], str]) -> Take:
        return _timeline_into(timeline, Wire(struct), name_of, partitions[topic])

    return {
        COMMAND_ANSWERS: answers,
        INSTRUMENTS: of(
            INSTRUMENTS, reference.instruments, InstrumentListed, lambda it: it.instrument.symbol
        ),
        ACCOUNTS: of(ACCOUNTS, reference.accounts, AccountRegistered, lambda it: it.account_id),
        HALTS: of(HALTS, reference.halts, HaltInForce, lambda it: it.scope),
        RESTRICTED_LIST: of(RESTRICTED_LIST, reference.restricted, RestrictionInForce, lambda it: it.symbol),
        **{topic: _commands_into(shared, topic, partitions[topic]) for topic in COMMANDING},
    }


def market_takes(shared: Shared, ticks: Ticks, partitions: Mapping[str, int]) -> dict[str, Take]:
    """How to take in the market, by topic."""

    def market_data(records: Sequence[Raw]) -> None:
        for tick in ticks.look(records, partitions[MARKET_DATA]):
            shared.market.add(tick.symbol, tick.epoch, tick.sequence, tick.price_ticks, tick.observed_at_ms)

    def prices(records: Sequence[Raw]) -> None:
        """Prices stand in for ticks that are gone; while all are there, only ticks count."""
        for record in records:
            price = PRICES_WIRE.read(record.value, record.headers)
            if price is None or is_elsewhere(record.key, record.partition, partitions[PRICES]):
                continue
            shared.last_prices[price.symbol] = price
            mark = Mark(price.price_ticks, price.scale)
            shared.reference.prices.add(price.symbol, record.timestamp, mark)
            ticks.priced.append(Priced(Origin(record.topic, record.partition, record.offset), price))
            if not shared.market_is_whole:
                shared.market.add(
                    price.symbol, price.epoch, price.tick_sequence, price.price_ticks, price.observed_at_ms
                )

    return {MARKET_DATA: market_data, PRICES: prices}


def _commands_into(shared: Shared, topic: str, partitions: int) -> Take:
    def take(records: Sequence[Raw]) -> None:
        for record in records:
            if topic == RISK_LIMITS:
                shared.commanded.setdefault(record.partition, Commanded()).last_offset = record.offset
            origin = Origin(topic, record.partition, record.offset)
            if is_elsewhere(record.key, record.partition, partitions):
                shared.unusable.append(Unusable(origin, is_stray=True))
            elif record.value is None:
                _remove(shared, topic, record)
            else:
                _give(shared, topic, record, origin)

    return take


def _remove(shared: Shared, topic: str, record: Raw) -> None:
    """A tombstone removes an account's limits; elsewhere it says nothing."""
    if topic == RISK_LIMITS and record.key is not None:
        account_id = record.key.decode(errors="replace")
        shared.commanded[record.partition].remove(account_id)
        shared.limits.removed.add(account_id)


def _give(shared: Shared, topic: str, record: Raw, origin: Origin) -> None:
    commanding = read_command(topic, record.key, record.value, record.headers)
    if commanding is None:
        shared.unusable.append(Unusable(origin, is_stray=False))
        return
    command = commanding.command
    given = Given(topic, record.partition, record.offset, record.timestamp, command)
    subject = (commanding.name, commanding.subject)
    shared.reference.commands.setdefault(subject, []).append(given)
    if isinstance(command, Limits):
        shared.limits.add(command)
        shared.commanded[record.partition].add(command)


def _timeline_into(
    timeline: Timeline[E], wire: Wire[E], name_of: Callable[[E], str], partitions: int
) -> Take:
    """Note what a compacted topic says of each key; what cannot be read or believed makes it unreadable.

    So does a record without a value: our services remove nothing from these topics.
    """

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            key, at_ms = (record.key or b"").decode(errors="replace"), record.timestamp
            value = wire.read(record.value, record.headers)
            if is_elsewhere(record.key, record.partition, partitions):
                timeline.add(key, at_ms, Unreadable())
            elif value is None or name_of(value) == key:
                timeline.add(key, at_ms, value or Unreadable())
            else:
                timeline.add(key, at_ms, Unreadable())
                timeline.add(name_of(value), at_ms, Unreadable())

    return take


def _orders_into(history: Slice) -> Take:
    orders, strays = history.orders, history.strays
    partition, partitions = history.partition, history.partitions

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            order, strict, unknown = read_order(record.key, record.value, record.headers)
            request = None if order is not None else read_request(record.key, record.value, record.headers)
            asked = request.event if request is not None else None
            if is_elsewhere(record.key, partition, partitions):
                understood = order if order is not None else asked
                name = repr(record.key) if understood is None else order_id_of(understood)
                strays.setdefault(ORDERS, {})[record.offset] = name
                order = asked = None
            if asked is not None and request is not None:
                place = (record.offset, record.timestamp, record.key)
                history.asked.append(Logged(*place, asked, request.strict, False))
                continue
            orders.append(Logged(record.offset, record.timestamp, record.key, order, strict, False, unknown))

    return take


def _events_into(
    history: Slice, topic: str, wire: Wire[E | A], events: list[Logged[E]], asked: list[Logged[A]]
) -> Take:
    """Keep what is said of orders in `events`, what is said of requests before the venue in `asked`."""
    both = cast(list[Logged[E | A]], events), cast(list[Logged[E | A]], asked)
    repeats = _Repeats(both[0]), _Repeats(both[1])

    def take(records: Sequence[Raw]) -> None:
        read = wire.read
        partition, partitions = history.partition, history.partitions
        for record in records:
            event = read(record.value, record.headers)
            sound = event is not None or any(name == "event-id" for name, _ in record.headers)
            if is_elsewhere(record.key, partition, partitions):
                name = repr(record.key) if event is None else order_id_of(event)
                history.strays.setdefault(topic, {})[record.offset] = name
                event, sound = None, False
            ours, of = record.in_transaction, isinstance(event, ASKED)
            if event is not None and not ours and repeats[of].has(record.key, event):
                history.repeats += 1
                if isinstance(event, ASKED):
                    history.repeated.add(order_id_of(event))
                continue
            both[of].append(Logged(record.offset, record.timestamp, record.key, event, sound, ours))

    return take


class _Repeats(Generic[E]):
    """Finds what stands in a topic already, word for word.

    Our services write in transactions, and nobody else on these topics: a repeat that was not written in one
    is somebody else's, and has to change nothing. One that was is a service's own double, and stays in the
    history.
    """

    def __init__(self, events: list[Logged[E]]) -> None:
        self._events = events
        self._known = 0
        self._by_id: dict[str, list[Logged[E]]] = {}

    def has(self, key: bytes | None, event: E) -> bool:
        for record in self._events[self._known :]:
            self._by_id.setdefault(order_id_of(record.event), []).append(record)
        self._known = len(self._events)
        before = self._by_id.get(order_id_of(event), ())
        return any(each.event == event and each.key == key for each in before)


class _Intended(msgspec.Struct):
    state: str


_read_intended = msgspec.json.Decoder(_Intended).decode


def _intents_into(history: Slice) -> Take:
    """Keep the last value of each key, and when an order was first intended: it cannot have left before."""
    keep = _table_into(history.intents, "exchange.intents")

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            if record.key is None or record.value is None or record.key in history.intended_at_ms:
                continue
            try:
                is_new = _read_intended(record.value).state == "pending"
            except ValueError:
                continue
            if is_new:
                history.intended_at_ms[record.key] = record.timestamp
        keep(records)

    return take


def changelog_into(values: dict[bytes, bytes]) -> Take:
    """Keep the last value of each key; a tombstone removes it."""

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            if record.key is None:
                continue
            if record.value is None:
                values.pop(record.key, None)
            else:
                values[record.key] = record.value

    return take


def _table_into(values: dict[bytes, bytes], table: str) -> Take:
    """The same, with values in today's version."""

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            if record.key is not None and record.value is not None:
                values[record.key] = table_value(table, record.value)
            elif record.key is not None:
                values.pop(record.key, None)

    return take


def letters_into(letters: list[DeadLetter], venue_letters: list[VenueLetter], found: Findings) -> Take:
    """Take in dead letters; one that does not tell its origin is a violation at once."""

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            match read_letter(record):
                case DeadLetter() as letter:
                    letters.append(letter)
                case VenueLetter() as letter:
                    venue_letters.append(letter)
                case None:
                    place = Origin(record.topic, record.partition, record.offset)
                    found.violate(I5, "a dead letter does not tell where it comes from", place)

    return take


def originals_into(originals: dict[Origin, bytes], wanted: set[int], take: Take | None) -> Take:
    """Note the digests of the records at the wanted offsets, then hand all of them on to `take`."""

    def noting(records: Sequence[Raw]) -> None:
        for record in records:
            if record.offset in wanted:
                origin = Origin(record.topic, record.partition, record.offset)
                originals[origin] = digest_of(record)
        if take is not None:
            take(records)

    return noting


def read_letter(record: Raw) -> DeadLetter | VenueLetter | None:
    """Read a dead letter; None when its headers do not tell its origin.

    The service's own headers stand last: whatever is called like one of them before is the original's.
    """
    own = _own_headers(record.headers)
    why = {name.removeprefix(PREFIX): text for name, text in record.headers[own:] if text is not None}
    if "source" in why and "topic" not in why:
        return _venue_letter(record, why["source"])
    try:
        origin = Origin(why["topic"].decode(), int(why["partition"]), int(why["offset"]))
        behind = Origin.parse(why["held-behind"].decode()) if "held-behind" in why else None
        service = why["service"].decode()
    except (KeyError, ValueError):
        return None
    digest = _digest(record, record.headers[:own])
    error = why.get("error", b"").partition(b":")[0].decode(errors="replace")
    return DeadLetter(record.offset, service, origin, behind, record.key, digest, error)


def _venue_letter(record: Raw, source: bytes) -> VenueLetter | None:
    named = VENUE_SOURCE.fullmatch(source.decode(errors="replace"))
    if named is None:
        return None
    return VenueLetter(record.offset, int(named[1]), int(named[2]), record.value or b"")


def _own_headers(headers: Sequence[tuple[str, bytes]]) -> int:
    """The index of the first header that the service has added to those of the original."""
    starts = [index for index, (name, _) in enumerate(headers) if name == FIRST_OF_OWN]
    return starts[-1] if starts else len(headers)


def digest_of(record: Raw) -> bytes:
    """A digest of key, value and headers."""
    return _digest(record, record.headers)


def _digest(record: Raw, headers: Sequence[tuple[str, bytes]]) -> bytes:
    return sha256(msgspec.msgpack.encode((record.key, record.value, headers))).digest()
