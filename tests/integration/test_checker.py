"""The checker on a real Kafka: a tiny history in transactions, aborted ones unseen, repeats, violations."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.devkafka.server import KafkaServer
from app.domain.allocation import BlockOrder, fill
from app.domain.reference import Known
from checker.check import check
from checker.errors import CheckerError
from checker.invariants.tables import LiveTable, digest
from checker.report import CheckResult
from checker.shards import hash_of, shard_of
from cli.main import main
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    CommandAnswered,
    InstrumentListed,
    OrderAcknowledged,
    OrderComplianceApproved,
    OrderReceived,
    OrderRiskApproved,
    OrderRiskRejected,
    PriceUpdated,
    TickReceived,
    TradeExecuted,
)
from models.reasons import RiskReason
from models.values import Frozen, Instrument, Liquidity, PartyStatus
from tests.builders import NOW_MS, PRICE_TICKS, a_tick, limits
from tests.integration.topics import write_odd_header
from venue.book import Filled, OrderStatus
from venue.book import Order as VenueOrder
from venue.ledger import Ledger
from venue.reports import NumberedReport
from venue.terms import TradeTerms

TOPICS = (
    *("orders", "risk-decisions", "compliance-decisions", "executions", "dead-letters"),
    *("market-data", "prices", "risk-limits", "restrictions", "account-commands", "operator-commands"),
    *("command-answers", "instruments", "accounts", "halts", "restricted-list"),
    *("allocation-instructions", "allocations"),
    *("risk-positions-changelog", "risk-reservations-changelog", "risk-risk_limits-changelog"),
    *("compliance-recent_orders-changelog", "compliance-open_orders-changelog"),
    *("exchange-intents-changelog", "exchange-sessions-changelog"),
    *("exchange-controls-changelog", "exchange-sent-changelog"),
)
POSITIONS = "risk-positions-changelog"
RESERVATIONS = "risk-reservations-changelog"
PARTITIONS = 2
SHARD = shard_of(b"acc")
PARTITION = SHARD % PARTITIONS


class Writer:
    """Writes to a cluster, in transactions or as a tool that knows none; each key to its partition."""

    def __init__(self, bootstrap: str, *, transactional: bool = True) -> None:
        transactional_id = "a-test" if transactional else None
        self._producer: Any = AIOKafkaProducer(
            bootstrap_servers=bootstrap, transactional_id=transactional_id, transaction_timeout_ms=10_000
        )

    @asynccontextmanager
    async def transaction(self, *, abort: bool = False) -> AsyncIterator[None]:
        await self._producer.begin_transaction()
        yield
        await self._producer.flush()
        await (self._producer.abort_transaction() if abort else self._producer.commit_transaction())

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def put(self, topic: str, event: Frozen, key: str = "acc") -> Any:
        headers = [("event-type", type(event).__name__.encode()), ("schema-version", b"1")]
        return await self.put_raw(topic, event.model_dump_json().encode(), key.encode(), headers)

    async def put_raw(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = b"acc",
        headers: list[tuple[str, bytes]] | None = None,
        *,
        home: bytes | None = None,
    ) -> Any:
        """Write a record to the partition of `home`, by default its key."""
        partition = hash_of(home or key or b"acc") % PARTITIONS
        return await self._producer.send_and_wait(
            topic, value=value, key=key, partition=partition, headers=headers or []
        )


def an_order(sequence: int) -> OrderReceived:
    return OrderReceived.model_validate(
        {
            "order_id": f"acc-{sequence}",
            "account_id": "acc",
            "sequence": sequence,
            "symbol": "BTC-USD",
            "side": "buy",
            "quantity_lots": 10,
            "price_ticks": PRICE_TICKS,
            "submitted_at_ms": NOW_MS,
        }
    )


TRADED, REFUSED, LOST = an_order(1), an_order(2), an_order(3)
TICK: TickReceived = a_tick()
PRICE = PriceUpdated(
    symbol="BTC-USD",
    price_ticks=TICK.price_ticks,
    tick_sequence=TICK.sequence,
    observed_at_ms=TICK.observed_at_ms,
)
LIMITS: SetRiskLimits = limits(
    account_id="acc", version=1, price_age_ms_max=10**12, order_age_ms_max=10**12, who="ops", why="test"
)
ANSWER = CommandAnswered(
    command="SetRiskLimits", subject="acc", version=1, accepted=True, who="ops", why="test"
)
ACCOUNT = AccountRegistered(
    account_id="acc", owner="o", firm="f", base_currency="USD", status=PartyStatus.ACTIVE, version=1
)
LISTED = InstrumentListed(
    instrument=Instrument(
        symbol="BTC-USD", base="BTC", currency="USD", tick=Decimal("0.01"), lot=Decimal("0.0001")
    ),
    version=1,
)
COMMON: dict[str, Any] = {
    "order_id": TRADED.order_id,
    "account_id": "acc",
    "symbol": "BTC-USD",
    "side": "buy",
    "venue_order_id": "V1",
}
ACKNOWLEDGED = OrderAcknowledged(**COMMON, venue_sequence=1)
TERMS = TradeTerms(1_700_000_000_000, "2023-11-14", 90, "USD", "MARKET", Liquidity.REMOVED)
EXECUTED = TradeExecuted(
    **COMMON,
    venue_sequence=2,
    trade_id="T1B",
    quantity_lots=10,
    price_ticks=PRICE_TICKS,
    leaves_lots=0,
    **TERMS._asdict(),
)
ALLOCATED = fill(BlockOrder(leaves_lots=0, micros_per_tick_lot=1, given=()), None, EXECUTED, Known({}, {}))[
    1
][0]
BOOKS = msgspec.json.encode(
    {
        "last_sequence": 2,
        "open_orders": 0,
        "holdings": {
            "BTC-USD": {
                "position_lots": 10,
                "open_buy_lots": 0,
                "open_sell_lots": 0,
                "reference_price_ticks": PRICE_TICKS,
                "profit": {
                    "since_venue_sequence": 2,
                    "cost_tick_lots": 10 * PRICE_TICKS,
                    "fee_micros": 90,
                    "fee_currency": "USD",
                },
            }
        },
    }
)


async def create_topics(bootstrap: str) -> None:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    config = {"message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=config) for name in TOPICS])
    await admin.close()


async def write_history(writer: Writer) -> None:
    """One order traded, one refused, one dead letter, and an abort between any two steps."""
    async with writer.transaction():
        await writer.put("instruments", LISTED, key="BTC-USD")
        await writer.put("accounts", ACCOUNT)
        await writer.put("market-data", TICK, key="BTC-USD")
        await writer.put("prices", PRICE, key="BTC-USD")
        await writer.put("risk-limits", LIMITS)
        await writer.put("command-answers", ANSWER)
        traded = await writer.put("orders", TRADED)
        refused = await writer.put("orders", REFUSED)
        garbage = await writer.put_raw("orders", b"\xff", headers=[("x", b"1")])
    approval = OrderRiskApproved(
        order=TRADED,
        reference_price_ticks=PRICE_TICKS,
        reference_tick_sequence=1,
        price_age_ms=traded.timestamp - TICK.observed_at_ms,
        limits_version=1,
        received_at_ms=traded.timestamp,
        decided_at_ms=traded.timestamp,
    )
    source = f"orders/{PARTITION}/{refused.offset}"
    refusal = OrderRiskRejected(order=REFUSED, reason=RiskReason.POSITION_LIMIT, source=source)
    for abort in (True, False):
        async with writer.transaction(abort=abort):
            await writer.put("risk-decisions", approval)
            await writer.put("risk-decisions", refusal)
            await writer.put_raw("dead-letters", b"\xff", headers=letter_headers(garbage.offset))
            await writer.put_raw(RESERVATIONS, b"{}", key=b"acc/acc-1", home=b"acc")
    for abort in (True, False):
        async with writer.transaction(abort=abort):
            await writer.put("compliance-decisions", OrderComplianceApproved(order=TRADED))
    for abort in (True, False):
        async with writer.transaction(abort=abort):
            await writer.put("executions", ACKNOWLEDGED)
            await writer.put("executions", EXECUTED)
            await writer.put("allocations", ALLOCATED)
    async with writer.transaction():
        await writer.put_raw(POSITIONS, BOOKS)
        await writer.put_raw(RESERVATIONS, None, key=b"acc/acc-1", home=b"acc")
        await writer.put_raw("risk-risk_limits-changelog", LIMITS.model_dump_json().encode())
        await writer.put_raw("compliance-recent_orders-changelog", b'{"$v":2,"last_sequence":1}')
        await writer.put_raw("exchange-controls-changelog", b'{"version":1,"kill_switch":false}')
        await writer.put_raw("exchange-sent-changelog", b'{"order_sequence_last":1}')
        await writer.put_raw("exchange-intents-changelog", None, key=b"acc/acc-1", home=b"acc")
        sequence = b'{"venue_sequence_last":2}'
        await writer.put_raw("exchange-sessions-changelog", sequence, key=str(SHARD).encode(), home=b"acc")
    async with writer.transaction(abort=True):
        await writer.put("orders", LOST)
        await writer.put_raw(POSITIONS, b"never")


def letter_headers(offset: int) -> list[tuple[str, bytes]]:
    told = {"service": "risk", "topic": "orders", "partition": str(PARTITION), "offset": str(offset)}
    return [("x", b"1"), *((f"dead-letter-{name}", text.encode()) for name, text in told.items())]


def write_ledger(path: Path) -> None:
    path.parent.mkdir(parents=True)
    order = VenueOrder(
        TRADED.order_id,
        "acc",
        SHARD,
        "BTC-USD",
        TRADED.side,
        10,
        PRICE_TICKS,
        TRADED.time_in_force,
        arrival=1,
        filled_lots=10,
        status=OrderStatus.FILLED,
    )
    ledger = Ledger(path)
    with ledger.transaction():
        ledger.save_orders([order])
        fill = Filled(order, "T1B", 10, PRICE_TICKS, 0, TERMS.liquidity, with_market=True)
        ledger.add_trades([(fill, TERMS, 2)])
        for event in (ACKNOWLEDGED, EXECUTED):
            kind = type(event).__name__
            body = json.dumps({"type": kind, **event.model_dump(mode="json")})
            ledger.add_reports([NumberedReport(SHARD, event.venue_sequence, kind, event.order_id, body)])
    ledger.close()


def broken(report: CheckResult) -> set[str]:
    return {each.invariant for each in report.violations}


@pytest.mark.timeout(300)
async def test_a_history_on_a_real_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "data" / "venue" / "ledger.sqlite"
    write_ledger(ledger)
    async with KafkaServer(tmp_path / "kafka") as broker:
        await broker.ready()
        with pytest.raises(CheckerError, match="there is no topic 'orders'"):
            await asyncio.to_thread(check, broker.bootstrap, ledger)
        await create_topics(broker.bootstrap)
        writer = Writer(broker.bootstrap)
        await writer.start()
        await write_history(writer)
        await write_odd_header(broker.bootstrap, "prices", b"stranger", b"no json")

        await finds_nothing_in_the_legal_history(broker.bootstrap, ledger)
        await compares_live_tables(broker.bootstrap, ledger)
        await speaks_json_and_status(broker.bootstrap, tmp_path / "data", capsys)
        await lets_a_tool_repeat(broker.bootstrap, ledger)
        async with writer.transaction():
            await writer.put("orders", LOST)
        await finds_what_is_lost(broker.bootstrap, ledger)
        await lets_orders_move(broker.bootstrap, ledger)
        async with writer.transaction():
            await writer.put("compliance-decisions", OrderComplianceApproved(order=TRADED))
        await finds_what_a_service_doubles(broker.bootstrap, ledger)
        async with writer.transaction():
            await write_stray(writer)
        await finds_what_stands_on_a_wrong_partition(broker.bootstrap, ledger)
        await writer.stop()


async def finds_nothing_in_the_legal_history(bootstrap: str, ledger: Path) -> None:
    report = await asyncio.to_thread(check, bootstrap, ledger)
    assert report.violations == []
    assert [each.invariant for each in report.unverifiable] == ["I6"]  # no live table to compare
    counts = report.counts
    assert (counts.orders, counts.approved, counts.executed, counts.dead_letters) == (3, 1, 1, 1)
    assert (counts.terminal, counts.in_flight) == (2, 0)
    assert counts.rejected == {"position_limit": 1}


async def compares_live_tables(bootstrap: str, ledger: Path) -> None:
    count, hexdigest = digest({b"acc": BOOKS})
    good = LiveTable("positions", PARTITION, POSITIONS, 2, count, hexdigest)
    tables = (good, LiveTable("reservations", PARTITION, RESERVATIONS, 5, *digest({})))
    report = await asyncio.to_thread(check, bootstrap, ledger, live_state=tables)
    assert (report.violations, report.unverifiable, report.counts.live_tables) == ([], [], 2)
    for offset, live_count in ((1_000, count), (2, 7)):  # ahead of its changelog; another content
        wrong = LiveTable("positions", PARTITION, POSITIONS, offset, live_count, hexdigest)
        report = await asyncio.to_thread(check, bootstrap, ledger, live_state=[wrong])
        assert broken(report) == {"I6"}
    behind = LiveTable("reservations", PARTITION, RESERVATIONS, 0, *digest({}))
    report = await asyncio.to_thread(check, bootstrap, ledger, live_state=[behind])
    assert broken(report) == {"I6"}


async def speaks_json_and_status(bootstrap: str, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["check", "--json", "--ended", "--bootstrap", bootstrap, "--data-dir", str(data_dir)]
    capsys.readouterr()
    assert await asyncio.to_thread(main, options) == 0
    assert json.loads(capsys.readouterr().out)["terminal"] == 2


async def finds_what_is_lost(bootstrap: str, ledger: Path) -> None:
    report = await asyncio.to_thread(check, bootstrap, ledger)
    assert {(each.invariant, each.ids) for each in report.violations if each.invariant == "I1"} == {
        ("I1", (LOST.order_id,))
    }


async def lets_orders_move(bootstrap: str, ledger: Path) -> None:
    """No group has committed anything here: all is on its way, and nothing contradicts."""
    for quiet in (None, False):
        report = await asyncio.to_thread(check, bootstrap, ledger, quiet=quiet)
        assert report.violations == []
        assert report.counts.in_flight == 1


async def lets_a_tool_repeat(bootstrap: str, ledger: Path) -> None:
    """Word for word, but in no transaction: as our services would not."""
    tool = Writer(bootstrap, transactional=False)
    await tool.start()
    await tool.put("compliance-decisions", OrderComplianceApproved(order=TRADED))
    await tool.put("executions", EXECUTED)
    await tool.stop()
    report = await asyncio.to_thread(check, bootstrap, ledger)
    assert (report.violations, report.counts.repeats) == ([], 2)


async def finds_what_a_service_doubles(bootstrap: str, ledger: Path) -> None:
    report = await asyncio.to_thread(check, bootstrap, ledger, quiet=False)
    assert [each.message for each in report.violations] == ["compliance has decided an order more than once"]


async def write_stray(writer: Writer) -> None:
    """A command whose account belongs to the other partition; one of its readers made a dead letter of it."""
    names = (b"%d" % number for number in range(100))
    other = next(name for name in names if hash_of(name) % PARTITIONS != PARTITION)
    stray = await writer.put_raw("risk-limits", b"{}", key=other, home=b"acc")
    told = {
        "service": "risk",
        "topic": "risk-limits",
        "partition": str(PARTITION),
        "offset": str(stray.offset),
    }
    headers = [(f"dead-letter-{name}", text.encode()) for name, text in told.items()]
    await writer.put_raw("dead-letters", b"{}", key=other, headers=headers)


async def finds_what_stands_on_a_wrong_partition(bootstrap: str, ledger: Path) -> None:
    report = await asyncio.to_thread(check, bootstrap, ledger)
    what = "exchange has no dead letter of a command on another partition than its key's"
    assert what in {each.message for each in report.violations}
