"""A real allocation worker on a real broker: instructions, fills, repeats, and a restart."""

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from app.engine import TopicSpec
from app.engine.kafka.admin import ensure_topics
from app.processes.guarded import start_guarded
from app.topics import (
    ACCOUNTS,
    ALLOCATION_INSTRUCTIONS,
    ALLOCATIONS,
    COMMAND_ANSWERS,
    DEAD_LETTERS,
    EXECUTIONS,
    INSTRUMENTS,
    TOPICS,
)
from models.values import Frozen
from tests.builders import BTC, PRICE_TICKS, a_fill, acknowledged, cancelled, registered
from tests.engine.waiting import until
from tests.engine.world import read_all
from tests.integration.topics import remove_topics
from tests.unit.test_allocation import instruction

ORDER = "acc-1-1"
TOLD = {"order_id": ORDER, "fee_micros": 7, "fee_currency": "USD"}


class World:
    """Writes to the worker's inputs, and reads what it says."""

    def __init__(self, bootstrap: str, producer: AIOKafkaProducer, directory: Path) -> None:
        self._bootstrap, self._producer, self._directory = bootstrap, producer, directory

    async def put(self, spec: TopicSpec, *values: Frozen) -> None:
        for value in values:
            name, version, data = spec.codec.encode(value)
            assert spec.key_of is not None
            await self.put_raw(spec, spec.key_of(value), data, name, version)

    async def put_raw(
        self, spec: TopicSpec, key: bytes, data: bytes, name: bytes, version: bytes = b"1"
    ) -> None:
        headers = [("event-type", name), ("schema-version", version)]
        await self._producer.send_and_wait(spec.name, data, key, headers=headers)

    async def said(self, spec: TopicSpec, count: int) -> list[dict[str, Any]]:
        """All that stands on a topic, once there is so much."""

        async def has_come() -> bool:
            return len(await read_all(self._bootstrap, spec.name)) >= count

        await until(has_come)
        return [json.loads(each.value or b"") for each in await read_all(self._bootstrap, spec.name)]

    async def given(self, count: int) -> list[tuple[str, int]]:
        told = await self.said(ALLOCATIONS, count)
        return [(each["allocation_id"], each["quantity_lots"]) for each in told]

    @contextmanager
    def worker(self) -> Iterator[None]:
        command = [sys.executable, "-m", "faust", "-A", "app.allocation", "--datadir", str(self._directory)]
        with (
            (self._directory.parent / "worker.log").open("ab") as output,
            start_guarded([*command, "worker", "--without-web"], grace_s=5, output=output),
        ):
            yield


@pytest.fixture
async def world(bootstrap: str, tmp_path: Path) -> AsyncIterator[World]:
    """A broker with three accounts, one of which is suspended, and one instrument."""
    await remove_topics(bootstrap)
    await ensure_topics(bootstrap, TOPICS, partitions=1, replication_factor=1, client_id="test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "KAFKA_BOOTSTRAP", bootstrap)
        patch.setitem(os.environ, "PIPELINE_PARTITIONS", "1")
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            world = World(bootstrap, producer, tmp_path / "data")
            accounts = [registered(account_id=name) for name in ("acc-1", "a", "b")]
            await world.put(ACCOUNTS, *accounts, registered(account_id="c", status="suspended"))
            await world.put(INSTRUMENTS, BTC)
            yield world
    await remove_topics(bootstrap)


@pytest.mark.timeout(180)
async def test_fills_go_to_sub_accounts_across_a_restart(world: World, bootstrap: str) -> None:
    first = a_fill(3, 20, venue_sequence=2, trade_id="t-1", **TOLD)
    second = a_fill(6, 14, venue_sequence=3, trade_id="t-2", **TOLD)
    with world.worker():
        await world.put(EXECUTIONS, acknowledged(venue_sequence=1, order_id=ORDER), first)
        assert await world.given(1) == [("t-1/acc-1", 3)]
        await world.put_raw(ALLOCATION_INSTRUCTIONS, b"acc-1", b"?", b"SetAllocation")
        await world.put(ALLOCATION_INSTRUCTIONS, instruction(order_id=ORDER))
        unread, late = await world.said(COMMAND_ANSWERS, 2)
        assert (unread["accepted"], late["accepted"]) == (False, True)
        assert late["reason"] == "counts from the next fill on, 3 lots stay allocated"
        await world.put(EXECUTIONS, first, second, first, second)
        assert (await world.given(4))[1:] == [("t-2/a", 3), ("t-2/b", 2), ("t-2/acc-1", 1)]
    with world.worker():
        await world.put(EXECUTIONS, second)
        later = instruction("average_price", order_id=ORDER, version=2)
        await world.put(ALLOCATION_INSTRUCTIONS, later, instruction(order_id=ORDER))
        *_, accepted, refused = await world.said(COMMAND_ANSWERS, 4)
        assert (accepted["accepted"], refused["accepted"]) == (True, False)
        await world.put(
            EXECUTIONS,
            a_fill(4, 10, venue_sequence=4, trade_id="t-3", **TOLD),
            a_fill(8, 2, venue_sequence=5, trade_id="t-4", price_ticks=PRICE_TICKS + 1, **TOLD),
            cancelled(2, venue_sequence=6, order_id=ORDER),
        )
        told = (await world.said(ALLOCATIONS, 7))[4:]
        assert [each["quantity_lots"] for each in told] == [6, 4, 2]
        assert sum(each["notional_micros"] for each in told) == 12 * PRICE_TICKS + 8
        assert [each["fee_micros"] for each in told] == [7, 5, 2]
        assert told[2]["diverted"] == [
            {"sub_account": "c", "quantity_lots": 2, "reason": "account_suspended"}
        ]
        await world.put(EXECUTIONS, cancelled(2, venue_sequence=6, order_id=ORDER))
        await world.put(EXECUTIONS, a_fill(5, 0, venue_sequence=7, trade_id="t-5", order_id="acc-1-2"))
        assert (await world.given(8))[7:] == [("t-5/acc-1", 5)]  # by then nothing else has come
    assert [each.value for each in await read_all(bootstrap, DEAD_LETTERS.name)] == [b"?"]
