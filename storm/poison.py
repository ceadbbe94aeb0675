"""What a clumsy outside writes: records that nobody can take in, and sound ones that have to be refused.

Garbage ends as a dead letter: at both edges, and put between two services by a stranger: bytes that nobody
can read, and executions of orders that there are not, on which agents fail. Of those between two services
there are several under one key, so that all but the first have to wait behind it; a command about that key
does not. At the edges each is a dead letter alone: the ticks that come after one have to become prices. What
stands on another partition than its key's is a dead letter alone, too.

Sound and wrong are orders of accounts and instruments of our own: too old, halted, restricted, in another
currency, with a field that nobody knows, with a wild number; prices far off and numbers that jump. Sound and
right are orders in an instrument that is restricted behind them: some still wait for the exchange then. And
what a tool does that reads too far back: it writes decisions and executions a second time.
"""

import time
from collections.abc import Iterator
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.engine.kafka.cluster import partition_of
from app.engine.topics import EVENT_TYPE, SCHEMA_VERSION, TopicSpec
from app.topics import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    MARKET_DATA,
    OPERATOR_COMMANDS,
    ORDERS,
    RESTRICTIONS,
    RISK_DECISIONS,
    RISK_LIMITS,
)
from feed.demo import instruments
from feed.wire import command_record, limits_record, order_record, tick_record
from models.commands import (
    ORDER_AGE_MS_MAX,
    SetAccount,
    SetHalt,
    SetInstrument,
    SetRestriction,
    SetRiskLimits,
)
from models.events import CancelRequested, OrderAcknowledged, OrderReceived, TickReceived
from models.values import Frozen, Instrument, Side

NAME_PREFIX = "poison-"
UNREADABLE = (b"\xff\xfe no JSON", b'{"order_id": 7}', b"", b"[" * 2_000, b'{"price_ticks": "NaN"}')
TRADER, HALTED, KILLED = (f"{NAME_PREFIX}{name}" for name in ("trader", "halted", "killed"))
DOLLARS, EUROS, OPEN, CLOSING = "POISON-USD", "POISON-EUR", "POISON-OPEN", "POISON-CLOSING"
HASTY: Final = {
    f"{NAME_PREFIX}within-{age_ms}-ms": age_ms
    for age_ms in (15, 20, 28, 40, 55, 75, 100, 140, 200, 280, 400, 550, 750, 1_000)
}
"""Accounts by the oldest that their orders may be: some get past risk in time, and not to the venue."""
LATE: Final = tuple(f"{NAME_PREFIX}late-{number}" for number in range(8))
"""Accounts whose orders are approved right before their instrument is restricted, to the end of the dose."""

PRICE_TICKS: Final = 100
DOSES_MAX: Final = 100
"""So many in a storm have numbers of their own."""


class Poison(NamedTuple):
    """A record, and where to put it: on its key's partition, or `astray` on another one."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    astray: bool = False

    def place(self, partitions: int) -> int | None:
        """The partition of so many to put it on; None: where the producer puts it."""
        if not self.astray or self.key is None:
            return None
        return (partition_of(self.key, partitions) + 1) % partitions


def poison(name: str, began_at: float, index: int) -> Iterator[Poison]:
    """A dose of everything; `name` is unique to it and is the key of all garbage but a tick of each real
    symbol.

    It begins with NAME_PREFIX, which tells these records from the pipeline's own. `began_at` (Unix) and
    `index` are the storm's and the dose's: accounts and symbols go on from one dose to the next. Each record
    is made when it is asked for, and says the time of that.
    """
    number = int(began_at) % 100_000 * DOSES_MAX + index * DOSES_MAX
    yield _restriction(CLOSING, version=number, restricted=False)
    yield from _world(number)
    for account_id in LATE:
        yield _order(account_id, number + 1, CLOSING)
    yield from _garbage(name)
    yield from _strays(name)
    yield from _clumsy(number)
    yield _restriction(CLOSING, version=number + 1)


def _garbage(name: str) -> Iterator[Poison]:
    key = name.encode()
    for value in UNREADABLE:
        for topic in (ORDERS.name, MARKET_DATA.name):
            yield Poison(topic, key, value, [])
    for symbol in (name, name, *instruments()):
        yield _unbelievable(symbol)
    for value in UNREADABLE:
        for topic in (RISK_DECISIONS.name, COMPLIANCE_DECISIONS.name):
            yield Poison(topic, key, value, [])
    for venue_sequence in (1, 2):
        yield _execution_of_nobody(f"{name}-nobody", venue_sequence)
    yield _limits(name, version=1, kill_switch=True)
    yield _cancel(name)


def _cancel(account_id: str) -> Poison:
    """A cancel of an account whose records wait: it passes them by, and there is nothing to cancel."""
    request = CancelRequested(
        request_id="1", account_id=account_id, order_id=f"{account_id}-1", submitted_at_ms=_now_ms()
    )
    return Poison(ORDERS.name, *order_record(request, 0))


def _unbelievable(symbol: str) -> Poison:
    """A tick that can be read, and whose price cannot be true: market data refuses it."""
    return _tick(symbol, sequence=1, price_ticks=0)


def _execution_of_nobody(account_id: str, venue_sequence: int) -> Poison:
    """A record that services can read and their agents fail on: there is no such order.

    Its numbers are text, which our models take and the checker does not: to that it is a stranger's.
    """
    told = {
        "order_id": f"{account_id}-1",
        "account_id": account_id,
        "symbol": DOLLARS,
        "side": Side.BUY,
        "venue_order_id": "V0",
        "venue_sequence": str(venue_sequence),
    }
    headers = [(EVENT_TYPE, OrderAcknowledged.__name__.encode()), (SCHEMA_VERSION, b"1")]
    return Poison(EXECUTIONS.name, account_id.encode(), msgspec.json.encode(told), headers)


def _strays(name: str) -> Iterator[Poison]:
    """Sound records, sent by a client with another partitioner."""
    yield _order(name, 1, DOLLARS)._replace(astray=True)
    yield _limits(name, version=2)._replace(astray=True)
    yield Poison(RISK_DECISIONS.name, name.encode(), UNREADABLE[0], [], astray=True)
    for symbol in instruments():
        yield _tick(symbol, sequence=1, price_ticks=PRICE_TICKS)._replace(astray=True)


def _clumsy(number: int) -> Iterator[Poison]:
    """Orders that have to be refused, ticks that have to wait; `number` grows from dose to dose."""
    sequence = count(number + 1)
    yield _order(TRADER, next(sequence), DOLLARS)  # is restricted
    yield _order(TRADER, next(sequence), EUROS)
    yield _order(TRADER, next(sequence), DOLLARS, submitted_at_ms=int(time.time()))
    yield _with_field(_order(TRADER, next(sequence), DOLLARS), stop_price_ticks=90)
    yield _order(TRADER, number + 50_000_000, DOLLARS)
    yield _order(HALTED, number + 1, DOLLARS)
    for account_id in HASTY:
        yield _order(account_id, number + 1, OPEN)
    yield _limits(KILLED, version=number, kill_switch=True)
    yield _order(KILLED, number + 1, OPEN)


def _world(number: int) -> Iterator[Poison]:
    """What the orders need; it stays from the first dose on, and binds by the second."""
    told: dict[str, Any] = {"version": 1, "who": "storm", "why": "poison"}
    for symbol, currency in ((DOLLARS, "USD"), (EUROS, "EUR"), (OPEN, "USD"), (CLOSING, "USD")):
        terms = {"symbol": symbol, "base": "POISON", "currency": currency, "tick": "0.01", "lot": "0.01"}
        instrument = Instrument.model_validate(terms)
        yield _command(OPERATOR_COMMANDS, SetInstrument(instrument=instrument, **told))
    for account_id in (TRADER, HALTED, KILLED, *HASTY, *LATE):
        account = SetAccount(account_id=account_id, owner="", firm="", base_currency="USD", **told)
        yield _command(OPERATOR_COMMANDS, account)
        age_ms_max = HASTY.get(account_id, ORDER_AGE_MS_MAX)
        yield _limits(account_id, version=number, order_age_ms_max=age_ms_max)
    yield _command(OPERATOR_COMMANDS, SetHalt(scope=HALTED, halted=True, **told))
    yield _restriction(DOLLARS, version=1)
    for symbol in (DOLLARS, EUROS, OPEN, CLOSING):
        yield _tick(symbol, sequence=number + 1, price_ticks=PRICE_TICKS)
    yield _tick(DOLLARS, sequence=number + 2, price_ticks=10 * PRICE_TICKS)
    yield _tick(EUROS, sequence=10**12, price_ticks=PRICE_TICKS)


def _order(account_id: str, sequence: int, symbol: str, **changed: int) -> Poison:
    order = OrderReceived.model_validate(
        {
            "order_id": f"{account_id}-{sequence}",
            "account_id": account_id,
            "sequence": sequence,
            "symbol": symbol,
            "side": "buy",
            "quantity_lots": 1,
            "price_ticks": PRICE_TICKS,
            "submitted_at_ms": _now_ms(),
        }
        | changed
    )
    return Poison(ORDERS.name, *order_record(order, 0))


def _with_field(order: Poison, **more: int) -> Poison:
    return order._replace(value=msgspec.json.encode(msgspec.json.decode(order.value or b"") | more))


def _limits(
    account_id: str, version: int, *, kill_switch: bool = False, order_age_ms_max: int = ORDER_AGE_MS_MAX
) -> Poison:
    """Limits that leave room for anything of ours."""
    limits = SetRiskLimits(
        account_id=account_id,
        version=version,
        order_quantity_lots_max=1_000,
        order_notional_micros_max=10**12,
        position_lots_max=10**6,
        gross_exposure_micros_max=10**15,
        price_collar_bps=10_000,
        price_age_ms_max=60_000,
        open_orders_max=1_000,
        kill_switch=kill_switch,
        order_age_ms_max=order_age_ms_max,
        who="storm",
        why="poison",
    )
    return Poison(RISK_LIMITS.name, *limits_record(limits))


def _restriction(symbol: str, version: int, *, restricted: bool = True) -> Poison:
    command = SetRestriction(symbol=symbol, restricted=restricted, version=version, who="storm", why="poison")
    return _command(RESTRICTIONS, command)


def _tick(symbol: str, sequence: int, price_ticks: int) -> Poison:
    now_ms = _now_ms()
    tick = TickReceived(
        symbol=symbol,
        sequence=sequence,
        price_ticks=price_ticks,
        quantity_lots=1,
        exchange_at_ms=now_ms,
        observed_at_ms=now_ms,
    )
    return Poison(MARKET_DATA.name, *tick_record(tick))


def _command(topic: TopicSpec, command: Frozen) -> Poison:
    return Poison(topic.name, *command_record(topic, command))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


ECHO_S_MAX: Final = 2.0
ECHOES_MAX: Final = 20


async def echoes(bootstrap: str, partitions: int) -> list[Poison]:
    """The last decisions of compliance and executions, word for word, to be written a second time."""
    tps = [
        TopicPartition(topic.name, number)
        for topic in (COMPLIANCE_DECISIONS, EXECUTIONS)
        for number in range(partitions)
    ]
    found: list[Poison] = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed") as consumer:
        consumer.assign(tps)
        for tp, end in (await consumer.end_offsets(tps)).items():
            consumer.seek(tp, max(0, end - ECHOES_MAX))
        for tp, records in (await consumer.getmany(timeout_ms=int(ECHO_S_MAX * 1000))).items():
            found += [Poison(tp.topic, each.key, each.value, list(each.headers)) for each in records]
    return found[:ECHOES_MAX]
