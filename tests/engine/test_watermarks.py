"""Lag counts to the end of the log, and who has to wait for somebody's open transaction says for whose."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError

from app.engine.kafka import watermarks as module
from app.engine.kafka.cluster import TP, OpenBatch
from app.engine.kafka.watermarks import STALL_S, Watermarks
from app.engine.state.global_table import GlobalTable
from app.engine.topics import TopicSpec
from tests.engine.conftest import MakeWorld
from tests.engine.waiting import until
from tests.engine.workers import BareWorker
from tests.engine.world import World

ORDERS = TP("orders", 3)
WAITS = r"waits for an open transaction since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, producer id (\w+) on (.+)"


class Clock:
    """The time, as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Batches:
    """A cluster that knows whose batch stands where."""

    def __init__(self, found: OpenBatch | Exception | None) -> None:
        self.found = found
        self.asked: list[tuple[TP, int]] = []

    async def batch_at(self, tp: TP, offset: int, lane: object) -> OpenBatch | None:
        self.asked.append((tp, offset))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def heard(found: OpenBatch | Exception | None = None) -> tuple[Watermarks, Batches]:
    batches = Batches(found)
    cluster: Any = batches
    return Watermarks(cluster, "task risk-3", "lane"), batches


async def test_lag_counts_to_the_high_watermark() -> None:
    marks, _ = heard()
    assert marks.lag(ORDERS, 7) == 0
    marks.hear(ORDERS, 7, high=20, stable=10)
    assert marks.lag(ORDERS, 7) == 13


async def test_what_nobody_has_heard_of_may_have_something_to_read() -> None:
    marks, _ = heard()
    assert marks.is_behind(ORDERS, 0)
    marks.hear(ORDERS, 0, high=0, stable=0)
    assert not marks.is_behind(ORDERS, 0)
    marks.hear(ORDERS, 7, high=20, stable=20)
    assert marks.is_behind(ORDERS, 19)
    assert not marks.is_behind(ORDERS, 20)


async def test_an_open_transaction_is_told_once_and_once_more_when_it_is_over(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    marks, batches = heard(OpenBatch(4711, 86_400_000))
    for _ in range(8):
        marks.hear(ORDERS, 10, high=20, stable=10)
        await asyncio.sleep(0)
        clock.now += 0.5
    (told,) = marks.waiting
    assert re.fullmatch(WAITS, told)
    assert "since 1970-01-0" in told
    assert "producer id 4711 on orders-3" in told
    assert batches.asked == [(ORDERS, 10)]
    marks.hear(ORDERS, 10, high=20, stable=20)
    assert marks.waiting == []
    assert caplog.messages == [
        f"task risk-3 {told}; nothing behind offset 10 is read before",
        "task risk-3 goes on: the transaction on orders-3 is over after 4.0 s",
    ]


@pytest.mark.parametrize(
    "answers",
    [
        [(10, 20, 10 + n, 10 + n) for n in range(20)],
        [(10, 10 + n % 2, 10, 10) for n in range(20)],
        [(5, 20, 10, 5)] * 20,
    ],
    ids=["others come and go", "it ends and another begins", "there is more to read before it"],
)
async def test_short_transactions_and_a_slow_reader_are_no_stall(
    clock: Clock, answers: list[tuple[int, int, int, int]]
) -> None:
    marks, batches = heard()
    for _, high, stable, position in answers:
        marks.hear(ORDERS, position, high + 30 if high > 10 else high, stable)
        await asyncio.sleep(0)
        assert marks.waiting == []
        clock.now += 0.5
    assert batches.asked == []


async def test_silence_of_kafka_is_not_taken_for_a_transaction(clock: Clock) -> None:
    """The first answer after an outage may still show one: it has not been seen to last."""
    marks, _ = heard()
    marks.hear(ORDERS, 10, high=20, stable=10)
    clock.now += 60
    assert marks.waiting == []
    marks.hear(ORDERS, 10, high=20, stable=20)
    assert marks.waiting == []


async def test_whose_it_is_may_stay_unknown(clock: Clock) -> None:
    for found in (None, TopicAuthorizationFailedError()):
        marks, _ = heard(found)
        for _ in range(8):
            marks.hear(ORDERS, 10, high=20, stable=10)
            await asyncio.sleep(0)
            clock.now += 0.5
        assert "producer id unknown" in marks.waiting[0]


# -- on a real Kafka


@asynccontextmanager
async def client(world: World) -> AsyncIterator[AIOKafkaProducer]:
    """A client with transactions of its own, that take their time."""
    producer = AIOKafkaProducer(
        bootstrap_servers=world.options.bootstrap,
        transactional_id=f"client-{world.options.id}",
        transaction_timeout_ms=15_000,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def producer_id(producer: AIOKafkaProducer) -> int:
    manager: Any = producer._txn_manager
    return int(manager.producer_id)


async def test_a_client_that_leaves_its_transaction_open_is_named_until_it_is_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    numbers = world.numbers.name
    async with BareWorker(world.options, "only") as worker, client(world) as slow:
        await worker.own()
        await world.send(*world.more(10))
        await world.all_processed()
        task = worker.tasks[0]
        await until(lambda: task.lag[numbers] == 0)
        await slow.begin_transaction()
        await world.send_unseen(*world.more(3), by=slow)
        await world.send(*world.more(5))
        await until(lambda: f"producer id {producer_id(slow)} " in str(task.watermarks.waiting))
        (told,) = task.watermarks.waiting
        found = re.fullmatch(WAITS, told)
        assert found is not None
        assert found.groups() == (str(producer_id(slow)), f"{numbers}-0")
        assert task.lag[numbers] == 8
        await slow.abort_transaction()
        await world.all_processed()
        await until(lambda: task.watermarks.waiting == [] and task.lag[numbers] == 0)
        said = [each for each in caplog.messages if "transaction" in each and f"{numbers}-0" in each]
        assert len(said) == 2
        assert "is over after" in said[1]
        await worker.stop()
    assert await world.faults(directories=[Path(world.options.directory) / "only"]) == []


async def test_a_task_hears_of_its_inputs_though_there_is_nothing_in_them(world: World) -> None:
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        task = worker.tasks[0]
        assert task.is_behind(world.corrections)
        await until(lambda: not task.is_behind(world.corrections) and not task.is_behind(world.numbers))
        await worker.stop()


async def test_transactions_of_services_that_work_are_never_waited_for(world: World) -> None:
    """One after the other, each shorter than what counts as long, and the log never at rest."""
    async with BareWorker(world.options, "only") as worker, client(world) as upstream:
        await worker.own()
        await worker.ready()
        waited: list[str] = []
        until_s = asyncio.get_running_loop().time() + 2 * STALL_S
        while asyncio.get_running_loop().time() < until_s:
            async with upstream.transaction():
                await world.send(*world.more(2), by=upstream)
                await asyncio.sleep(0.3)
                waited += worker.tasks[0].watermarks.waiting
        await world.all_processed()
        assert waited == []


async def test_a_standby_and_a_global_table_tell_the_same(make_world: MakeWorld) -> None:
    world = await make_world(standby_replicas=1)
    no_codec: Any = SimpleNamespace(decode=lambda *_: "value")
    table = GlobalTable(TopicSpec(world.numbers.name, no_codec))
    async with BareWorker(world.options, "only") as worker, client(world) as slow:
        following = asyncio.create_task(table.run(worker._cluster, worker._inputs))
        try:
            await asyncio.wait_for(table.ready.wait(), 20)
            async with worker.standby(0) as standby:
                await slow.begin_transaction()
                await slow.send_and_wait(world.changelog, b"{}", b"key-1")
                await slow.send_and_wait(world.numbers.name, b"{}", b"key-1")
                await until(lambda: bool(standby.watermarks.waiting and table.waiting))
                assert f"on {world.changelog}-0" in standby.watermarks.waiting[0]
                assert f"on {world.numbers.name}-0" in table.waiting[0]
                await slow.abort_transaction()
                await until(lambda: not standby.watermarks.waiting and not table.waiting)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
