"""A table that every worker reads whole: committed values only, garbage changes nothing."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from app.engine import GlobalTable
from app.engine.cluster import Cluster
from app.engine.topics import EVENT_TYPE, SCHEMA_VERSION
from tests.engine.service import Total
from tests.engine.waiting import until
from tests.engine.world import World


@pytest.fixture
async def cluster(bootstrap: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(bootstrap, "test")
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture
async def writer(world: World) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=world.options.bootstrap,
        transactional_id=f"writer-{world.options.id}",
        transaction_timeout_ms=10_000,
    )
    await producer.start()
    yield producer
    await producer.stop()


def packed(key: str, count: int) -> bytes:
    return msgspec.json.encode(Total(f"{key}-{count}", key, count, count))


async def test_it_is_ready_when_it_knows_what_stood_there_and_then_follows(
    world: World, cluster: Cluster, writer: AIOKafkaProducer
) -> None:
    topic = world.totals.name
    async with writer.transaction():
        for key, count in (("a", 1), ("b", 1), ("a", 2), ("gone", 1)):
            await writer.send_and_wait(topic, packed(key, count), key.encode())
        await writer.send_and_wait(topic, None, b"gone")
    await writer.begin_transaction()
    await writer.send_and_wait(topic, packed("a", 66), b"a")
    await writer.abort_transaction()
    await writer.begin_transaction()
    await writer.send_and_wait(topic, packed("a", 77), b"a")
    table = GlobalTable(world.totals)
    following = asyncio.create_task(table.run(cluster))
    await asyncio.wait_for(table.ready.wait(), 20)
    assert {key: total.count for key, total in table.values().items()} == {"a": 2, "b": 1}
    await writer.abort_transaction()
    async with writer.transaction():
        for value, name in ((b"no json", b"b"), (packed("", 9), None), (packed("a", 3), b"a")):
            await writer.send_and_wait(topic, value, name, partition=0)
        unnamed = [(EVENT_TYPE, None), (SCHEMA_VERSION, None)]
        await writer.send_and_wait(topic, b"[]", b"b", partition=0, headers=unnamed)
    await until(lambda: table.get("a").count == 3)
    await asyncio.sleep(0.1)
    assert table.get("b").count == 1, "garbage keeps the old value"
    assert set(table.values()) == {"a", "b"}
    assert table.get("gone") is None
    assert not following.done()
    following.cancel()


async def test_an_empty_topic_is_known_at_once(world: World, cluster: Cluster) -> None:
    table = GlobalTable(world.totals)
    following = asyncio.create_task(table.run(cluster))
    await asyncio.wait_for(table.ready.wait(), 20)
    assert table.values() == {}
    following.cancel()
