"""A real marketdata worker on a real broker, and a tick that it refuses."""

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from app.engine.admin import ensure_topics
from app.kafka_node import start_guarded
from app.topics import DEAD_LETTERS, MARKET_DATA, PRICES, TOPICS
from feed.wire import tick_record
from tests.builders import a_tick
from tests.engine.waiting import until
from tests.engine.world import read_all
from tests.integration.topics import remove_topics


@pytest.fixture
async def topics(bootstrap: str) -> AsyncIterator[None]:
    """The pipeline's topics, of one partition each."""
    await remove_topics(bootstrap)
    await ensure_topics(bootstrap, TOPICS, partitions=1, replication_factor=1, client_id="test")
    yield
    await remove_topics(bootstrap)


@pytest.mark.usefixtures("topics")
async def test_a_refused_tick_is_a_dead_letter_and_the_symbol_goes_on(
    bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for tick in (a_tick(), a_tick(sequence=2, price_ticks=0), a_tick(sequence=3)):
            record = tick_record(tick)
            await producer.send_and_wait(MARKET_DATA.name, record.value, record.key, headers=record.headers)

    async def prices() -> list[tuple[int, int]]:
        found = [json.loads(each.value or b"") for each in await read_all(bootstrap, PRICES.name)]
        return [(each["tick_sequence"], each["gaps"]) for each in found]

    async def third_has_come() -> bool:
        return (await prices())[-1:] == [(3, 1)]

    monkeypatch.setitem(os.environ, "KAFKA_BOOTSTRAP", bootstrap)
    monkeypatch.setitem(os.environ, "PIPELINE_PARTITIONS", "1")
    command = [sys.executable, "-m", "faust", "-A", "app.marketdata", "--datadir", str(tmp_path / "data")]
    with (
        (tmp_path / "worker.log").open("wb") as output,
        start_guarded([*command, "worker", "--without-web"], grace_s=5, output=output),
    ):
        await until(third_has_come)
    (letter,) = await read_all(bootstrap, DEAD_LETTERS.name)
    headers = dict(letter.headers)
    assert headers["dead-letter-offset"] == b"1"
    assert b"its price is 0 ticks" in headers["dead-letter-error"]
