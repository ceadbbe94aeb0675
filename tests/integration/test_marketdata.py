"""A real marketdata worker on a real broker: ticks that it refuses, and ticks that come fast."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.engine.kafka.admin import ensure_topics
from app.processes.guarded import start_guarded
from app.topics import DEAD_LETTERS, INSTRUMENTS, MARKET_ALERTS, MARKET_DATA, PRICES, TOPICS
from app.topology import MARKETDATA
from feed.wire import command_record, tick_record
from models.events import TickReceived
from tests.builders import BTC, NOW_MS, PRICE_TICKS, a_tick
from tests.engine.waiting import until
from tests.engine.world import read_all
from tests.integration.topics import remove_topics


@pytest.fixture
async def topics(bootstrap: str) -> AsyncIterator[None]:
    """The pipeline's topics, of one partition each; one instrument is listed."""
    await remove_topics(bootstrap)
    await ensure_topics(bootstrap, TOPICS, partitions=1, replication_factor=1, client_id="test")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        record = command_record(INSTRUMENTS, BTC)
        await producer.send_and_wait(INSTRUMENTS.name, record.value, record.key, headers=record.headers)
    yield
    await remove_topics(bootstrap)


@contextmanager
def a_worker(bootstrap: str, directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "faust", "-A", "app.marketdata", "--datadir", str(directory / "data")]
    with (
        pytest.MonkeyPatch.context() as patch,
        (directory / "worker.log").open("wb") as output,
    ):
        patch.setitem(os.environ, "KAFKA_BOOTSTRAP", bootstrap)
        patch.setitem(os.environ, "PIPELINE_PARTITIONS", "1")
        with start_guarded([*command, "worker", "--without-web"], grace_s=5, output=output):
            yield


async def send(producer: AIOKafkaProducer, tick: TickReceived) -> None:
    record = tick_record(tick)
    await producer.send_and_wait(MARKET_DATA.name, record.value, record.key, headers=record.headers)


async def prices(bootstrap: str) -> list[tuple[int, int]]:
    """Tick sequence and gaps of every price."""
    found = [json.loads(each.value or b"") for each in await read_all(bootstrap, PRICES.name)]
    return [(each["tick_sequence"], each["gaps"]) for each in found]


@pytest.mark.usefixtures("topics")
async def test_a_refused_tick_is_a_dead_letter_and_the_symbol_goes_on(bootstrap: str, tmp_path: Path) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for tick in (a_tick(), a_tick(sequence=2, price_ticks=0), a_tick(sequence=3)):
            await send(producer, tick)

    async def third_has_come() -> bool:
        return (await prices(bootstrap))[-1:] == [(3, 1)]

    with a_worker(bootstrap, tmp_path):
        await until(third_has_come)
    (letter,) = await read_all(bootstrap, DEAD_LETTERS.name)
    headers = dict(letter.headers)
    assert headers["dead-letter-offset"] == b"1"
    assert b"its price is 0 ticks" in headers["dead-letter-error"]


@pytest.mark.usefixtures("topics")
async def test_a_flood_of_ticks_that_are_refused_costs_few_transactions(
    bootstrap: str, tmp_path: Path
) -> None:
    """A feed sends what nobody has listed: the prices of all others wait for it as little as may be."""
    refused, good = 1_000, 10
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(refused + good):
            is_good = number % (refused // good + 1) == 0
            tick = a_tick(sequence=number + 1) if is_good else a_tick(symbol=f"NO-{number}")
            record = tick_record(tick)
            await producer.send(MARKET_DATA.name, record.value, record.key, headers=record.headers)

    async def last_has_come() -> bool:
        told = await prices(bootstrap)
        return bool(told) and told[-1][0] == refused + good - refused // good

    with a_worker(bootstrap, tmp_path):
        await until(last_has_come)
    assert len(await read_all(bootstrap, DEAD_LETTERS.name)) == refused
    letters = TopicPartition(DEAD_LETTERS.name, 0)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        ends = await consumer.end_offsets([letters])
    assert ends[letters] - refused < 10, "each transaction leaves a marker behind its records"


@pytest.mark.usefixtures("topics")
async def test_a_wild_sequence_a_wild_price_and_a_feed_that_starts_again_are_said_and_survived(
    bootstrap: str, tmp_path: Path
) -> None:
    odd = [
        a_tick(sequence=7),
        a_tick(sequence=10**12, observed_at_ms=NOW_MS + 1),
        a_tick(sequence=8, observed_at_ms=NOW_MS + 2, price_ticks=PRICE_TICKS * 1_000),
        *(a_tick(sequence=n, observed_at_ms=NOW_MS + 2 + n) for n in (1, 2, 3)),
    ]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for tick in odd:
            await send(producer, tick)

    async def last_has_come() -> bool:
        return (await prices(bootstrap))[-1:] == [(3, 6)]

    with a_worker(bootstrap, tmp_path):
        await until(last_has_come)
    alerts = [json.loads(each.value or b"") for each in await read_all(bootstrap, MARKET_ALERTS.name)]
    assert [(each["fault"], each["sequence"]) for each in alerts] == [
        ("sequence_jump", 10**12),
        ("price_far_off", 8),
        ("sequence_reset", 2),
    ]
    assert all(each["detail"] for each in alerts)
    told = [json.loads(each.value or b"")["price_ticks"] for each in await read_all(bootstrap, PRICES.name)]
    assert set(told) == {PRICE_TICKS}
    assert await read_all(bootstrap, DEAD_LETTERS.name) == []


@pytest.mark.usefixtures("topics")
async def test_however_fast_ticks_come_a_price_is_told_so_often_and_it_is_the_last_one(
    bootstrap: str, tmp_path: Path
) -> None:
    ticks = 100

    async def last_has_come() -> bool:
        return (await prices(bootstrap))[-1:] == [(ticks, 0)]

    async def first_has_come() -> bool:
        return len(await prices(bootstrap)) == 1

    with a_worker(bootstrap, tmp_path):
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            await send(producer, a_tick())
            await until(first_has_come)
            for sequence in range(2, ticks + 1):
                await send(producer, a_tick(sequence=sequence))
                await asyncio.sleep(0.003)
        await until(last_has_come)
    told_ms = [each.timestamp for each in await read_all(bootstrap, PRICES.name)]
    came_ms = [each.timestamp for each in await read_all(bootstrap, MARKET_DATA.name)]
    interval_ms = 1000 * MARKETDATA.gathers_s
    assert len(told_ms) <= (told_ms[-1] - told_ms[1]) / interval_ms + 3
    ages_ms = [
        at - came_ms[sequence - 1] for at, (sequence, _) in zip(told_ms, await prices(bootstrap), strict=True)
    ]
    assert median(ages_ms) < interval_ms
    assert median(later - earlier for earlier, later in pairwise(told_ms[1:])) < 3 * interval_ms
