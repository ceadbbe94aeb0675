"""Turns raw records into the typed history: one `take` for each topic, which appends what it reads."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TypeVar

import msgspec

from checker.findings import Findings
from checker.history import Commanded, Shared, Slice
from checker.invariants.ticks import Ticks
from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    INTENTS_CHANGELOG,
    MARKET_DATA,
    ORDERS,
    POSITIONS_CHANGELOG,
    PRICES,
    RECENT_ORDERS_CHANGELOG,
    RESERVATIONS_CHANGELOG,
    RISK_DECISIONS,
    RISK_LIMITS,
    RISK_LIMITS_CHANGELOG,
    SESSIONS_CHANGELOG,
    ComplianceDecision,
    DeadLetter,
    Event,
    Logged,
    OrderAcknowledged,
    OrderCancelled,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderExpired,
    OrderRiskApproved,
    OrderRiskRejected,
    Origin,
    PriceUpdated,
    Raw,
    Report,
    RiskDecision,
    TradeExecuted,
    VenueRejected,
    Wire,
    read_limits,
    read_order,
)

E = TypeVar("E", bound=Event)
Take = Callable[[Sequence[Raw]], None]

PREFIX = "dead-letter-"
FIRST_OF_OWN = "dead-letter-service"
I5 = "I5"

RISK_WIRE: Wire[RiskDecision] = Wire(OrderRiskApproved, OrderRiskRejected)
COMPLIANCE_WIRE: Wire[ComplianceDecision] = Wire(OrderComplianceApproved, OrderComplianceRejected)
REPORTS_WIRE: Wire[Report] = Wire(
    OrderAcknowledged, TradeExecuted, OrderCancelled, OrderExpired, VenueRejected
)
PRICES_WIRE: Wire[PriceUpdated] = Wire(PriceUpdated)


def slice_takes(history: Slice) -> dict[str, Take]:
    """How to take in the topics of one partition, by topic."""
    return {
        ORDERS: _orders_into(history.orders),
        RISK_DECISIONS: _events_into(history.risk, RISK_WIRE),
        COMPLIANCE_DECISIONS: _events_into(history.compliance, COMPLIANCE_WIRE),
        EXECUTIONS: _events_into(history.executions, REPORTS_WIRE),
        POSITIONS_CHANGELOG: changelog_into(history.positions),
        RESERVATIONS_CHANGELOG: changelog_into(history.reservations),
        RISK_LIMITS_CHANGELOG: changelog_into(history.risk_limits),
        RECENT_ORDERS_CHANGELOG: changelog_into(history.recent_orders),
        INTENTS_CHANGELOG: changelog_into(history.intents),
        SESSIONS_CHANGELOG: changelog_into(history.sessions),
    }


def shared_takes(shared: Shared, market_data: Ticks) -> dict[str, Take]:
    """How to take in what all partitions have in common, by topic."""

    def limits(records: Sequence[Raw]) -> None:
        for record in records:
            commanded = shared.commanded.setdefault(record.partition, Commanded())
            commanded.last_offset = record.offset
            command, _ = read_limits(record.key, record.value, record.headers)
            if command is not None:
                shared.limits.add(command)
                commanded.add(command)

    def ticks(records: Sequence[Raw]) -> None:
        for tick in market_data.look(records):
            shared.market.add(tick.symbol, tick.sequence, tick.price_ticks, tick.observed_at_ms)

    def prices(records: Sequence[Raw]) -> None:
        """Prices stand in for ticks that are gone; while all are there, only ticks count."""
        for record in records:
            price = PRICES_WIRE.read(record.value, record.headers)
            if price is None:
                continue
            shared.last_prices[price.symbol] = price
            if not shared.market_is_whole:
                shared.market.add(price.symbol, price.tick_sequence, price.price_ticks, price.observed_at_ms)

    return {RISK_LIMITS: limits, MARKET_DATA: ticks, PRICES: prices}


def _orders_into(orders: list[Logged[Event]] | list[Logged[E]]) -> Take:
    def take(records: Sequence[Raw]) -> None:
        for record in records:
            order, strict = read_order(record.key, record.value, record.headers)
            orders.append(Logged(record.offset, record.timestamp, record.key, order, strict))  # type: ignore[arg-type]

    return take


def _events_into(events: list[Logged[E]], wire: Wire[E]) -> Take:
    def take(records: Sequence[Raw]) -> None:
        read, append = wire.read, events.append
        for record in records:
            event = read(record.value, record.headers)
            ours = event is not None or any(name == "event-id" for name, _ in record.headers)
            append(Logged(record.offset, record.timestamp, record.key, event, ours))

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


def letters_into(letters: list[DeadLetter], found: Findings) -> Take:
    """Take in dead letters; one that does not tell its origin is a violation at once."""

    def take(records: Sequence[Raw]) -> None:
        for record in records:
            letter = read_letter(record)
            if letter is None:
                place = Origin(record.topic, record.partition, record.offset)
                found.violate(I5, "a dead letter does not tell where it comes from", place)
            else:
                letters.append(letter)

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


def read_letter(record: Raw) -> DeadLetter | None:
    """Read a dead letter; None when its headers do not tell its origin.

    The service's own headers stand last: whatever is called like one of them before is the original's.
    """
    own = _own_headers(record.headers)
    why = {name.removeprefix(PREFIX): text for name, text in record.headers[own:] if text is not None}
    try:
        origin = Origin(why["topic"].decode(), int(why["partition"]), int(why["offset"]))
        behind = Origin.parse(why["held-behind"].decode()) if "held-behind" in why else None
        service = why["service"].decode()
    except (KeyError, ValueError):
        return None
    digest = _digest(record, record.headers[:own])
    return DeadLetter(record.offset, service, origin, behind, record.key, digest)


def _own_headers(headers: Sequence[tuple[str, bytes]]) -> int:
    """The index of the first header that the service has added to those of the original."""
    starts = [index for index, (name, _) in enumerate(headers) if name == FIRST_OF_OWN]
    return starts[-1] if starts else len(headers)


def digest_of(record: Raw) -> bytes:
    """A digest of key, value and headers."""
    return _digest(record, record.headers)


def _digest(record: Raw, headers: Sequence[tuple[str, bytes]]) -> bytes:
    return sha256(msgspec.msgpack.encode((record.key, record.value, headers))).digest()
