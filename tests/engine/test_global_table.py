"""A table that every worker reads whole: committed values only; a bad record makes its key unreadable."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any, Self

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError

from app.engine import GlobalTable, TopicSpec
from app.engine.kafka.cluster import LATEST, TP, Cluster, Fetched, partition_of
from app.engine.kafka.fetcher import Fetcher
from app.engine.topics import EVENT_TYPE, SCHEMA_VERSION
from tests.engine.alone import Raw, a_key
from tests.engine.conftest import MakeWorld
from tests.engine.service import JsonCodec, Number, Total, key_of
from tests.engine.waiting import until
from tests.engine.world import World


@pytest.fixture
async def cluster(bootstrap: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(bootstrap, "test")
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture
def fetcher(cluster: Cluster) -> Iterator[Fetcher]:
    with closing(Fetcher(cluster, "inputs", 1024 * 1024)) as fetcher:
        yield fetcher


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
    world: World, cluster: Cluster, fetcher: Fetcher, writer: AIOKafkaProducer
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
    table = GlobalTable(replace(world.totals, tombstones=True))
    following = asyncio.create_task(table.run(cluster, fetcher))
    await asyncio.wait_for(table.ready.wait(), 20)
    assert {key: total.count for key, total in table.values().items()} == {"a": 2, "b": 1}
    await writer.abort_transaction()
    async with writer.transaction():
        for value, name in ((b"no json", b"b"), (packed("", 9), None), (packed("a", 3), b"a")):
            await writer.send_and_wait(topic, value, name, partition=0)
        unnamed = [(EVENT_TYPE, None), (SCHEMA_VERSION, None)]
        await writer.send_and_wait(topic, b"[]", b"b", partition=0, headers=unnamed)
    await until(lambda: table.values()["a"].count == 3)
    await asyncio.sleep(0.1)
    assert table.values()["b"].count == 1, "garbage keeps the old value"
    assert set(table.unreadable) == {"b", ""}, "and nobody has to believe it"
    assert set(table.values()) == {"a", "b"}
    assert table.get("gone") is None
    assert not following.done()
    following.cancel()


async def test_an_empty_topic_is_known_at_once(world: World, cluster: Cluster, fetcher: Fetcher) -> None:
    table = GlobalTable(world.totals)
    following = asyncio.create_task(table.run(cluster, fetcher))
    await asyncio.wait_for(table.ready.wait(), 20)
    assert table.values() == {}
    following.cancel()


async def test_a_restart_finds_unreadable_what_was_unreadable(
    make_world: MakeWorld, cluster: Cluster, fetcher: Fetcher
) -> None:
    """On another partition than its key's, and garbage; one of each is made good before the restart."""
    world = await make_world(partitions=3)  # so that the totals have 4
    key, good, bad = a_key(1), a_key(2), a_key(2, 1)
    topic = world.totals.name
    for name, partition, value in (
        (key, 3, packed(key, 2)),
        (good, 0, packed(good, 1)),
        (good, 2, packed(good, 2)),
        (bad, 2, packed(bad, 1)),
        (bad, 2, b"no json"),
        (key, 1, packed(key, 1)),
        (key, 0, packed(key, 3)),
    ):
        await world.send_raw(value, name.encode(), topic=topic, partition=partition)
        await asyncio.sleep(0.005)  # a later record has a later timestamp
    for _ in range(3):
        table = GlobalTable(world.totals)
        following = asyncio.create_task(table.run(cluster, fetcher))
        await asyncio.wait_for(table.ready.wait(), 20)
        following.cancel()
        assert set(table.unreadable) == {key, bad}
        assert {name: total.count for name, total in table.values().items()} == {key: 1, good: 2, bad: 1}


class Log:
    """A topic of which a test says where it ends, and what is read of it."""

    def __init__(self, *ends: int) -> None:
        self._ends = ends
        self.positions: Mapping[TP, int] = {}
        self.is_closed = False

    async def partition_count(self, topic: str) -> int:
        return len(self._ends)

    async def offsets(self, tps: list[TP], which: int) -> dict[TP, int]:
        return dict(zip(tps, self._ends, strict=True)) if which == LATEST else dict.fromkeys(tps, 2)

    def read(self, reader: GlobalTable[Total], positions: Mapping[TP, int]) -> Self:
        self.positions = positions
        return self

    def close(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def followed(log: Any, table: GlobalTable[Total]) -> AsyncIterator["asyncio.Task[None]"]:
    following = asyncio.create_task(table.run(log, log))
    await until(lambda: bool(log.positions))
    yield following
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert log.is_closed


async def test_it_is_ready_when_all_partitions_are_read_to_where_they_ended_at_the_start() -> None:
    """A marker at the end is no record, and what comes later is not waited for."""
    table, log = GlobalTable(TopicSpec("rules", JsonCodec(Number))), Log(2, 5, 9)
    async with followed(log, table):
        assert log.positions == {TP("rules", each): 2 for each in range(3)}
        for partition, at, to, ready in (
            (2, 2, 8, False),
            (1, 2, 7, False),
            (1, 7, 9, False),
            (2, 8, 9, True),
        ):
            table.take_in(Fetched(TP("rules", partition), at, to, 20, []))
            assert table.ready.is_set() == ready
        table.take_in(Fetched(TP("rules", 0), 2, 3, 20, []))
        assert not table.is_full()


async def test_what_cannot_be_read_ends_it() -> None:
    table, log = GlobalTable(TopicSpec("rules", JsonCodec(Number))), Log(2, 5)
    async with followed(log, table) as following:
        table.fail(TP("rules", 1), OffsetOutOfRangeError())
        table.fail(TP("rules", 0), CorruptRecordException())
        with pytest.raises(OffsetOutOfRangeError):
            await following
    assert not table.ready.is_set()


# -- what makes a key unreadable, and what makes it readable again

HOME, OTHER, AWAY = a_key(1), a_key(1, 1), a_key(2)


class Reading:
    """A table of four partitions that is handed its records, each a millisecond later than the one before."""

    def __init__(self, *, any_key: bool = False, tombstones: bool = False) -> None:
        codec = JsonCodec(Number)
        spec = TopicSpec("rules", codec, None if any_key else key_of, tombstones=tombstones)
        self.table = GlobalTable(spec)
        self.table._partitions = 4
        self._offsets = [0, 100, 200, 300]
        self._now_ms = 1_000

    def take(
        self,
        key: str | bytes | None,
        value: bytes | None,
        *,
        at: int = 1,
        now_ms: int | None = None,
        version: bytes | None = None,
    ) -> None:
        self._now_ms += 1
        self._offsets[at] += 1
        name = key.encode() if isinstance(key, str) else key
        headers = ((SCHEMA_VERSION, version),)
        record = Raw(self._offsets[at], name, value, headers, self._now_ms if now_ms is None else now_ms)
        self.table._take(TP("rules", at), record)

    def values(self) -> dict[str, int]:
        return {key: each.number for key, each in self.table.values().items()}


@pytest.fixture
def reading() -> Reading:
    return Reading()


def a_number(key: str, number: int = 1) -> bytes:
    return msgspec.json.encode(Number("n", key, number))


async def test_garbage_makes_its_key_unreadable_until_a_good_record_or_a_tombstone_comes() -> None:
    reading = Reading(tombstones=True)
    reading.take(HOME, a_number(HOME))
    for number, cure in enumerate((a_number(HOME, 2), None, a_number(HOME, 3))):
        reading.take(HOME, b"no json")
        assert reading.table.is_unreadable(HOME)
        assert reading.table.unreadable[HOME].startswith(f"rules/1/{102 + 2 * number}: DecodeError: JSON")
        assert not reading.table.is_unreadable(OTHER)
        reading.take(HOME, cure)
        assert reading.table.unreadable == {}
    assert reading.values() == {HOME: 3}
    assert reading.table.refused == {"DecodeError": 3}


async def test_a_tombstone_removes_nothing_where_the_topic_has_none_and_makes_its_key_unreadable(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    """A halt must not end because somebody's tool has removed its record."""
    reading.take(HOME, a_number(HOME))
    reading.take(HOME, None)
    reading.take(OTHER, None)
    assert reading.values() == {HOME: 1}
    assert reading.table.unreadable[HOME].startswith("rules/1/102: ValueError: the record has no value")
    assert set(reading.table.unreadable) == {HOME, OTHER}
    assert reading.table.refused == {"ValueError": 2}
    assert "unreadable until a good record comes" in caplog.text
    reading.take(HOME, a_number(HOME, 2))
    assert set(reading.table.unreadable) == {OTHER}
    assert reading.values() == {HOME: 2}


async def test_a_key_that_was_never_read_can_be_unreadable(reading: Reading) -> None:
    reading.take(HOME, b"no json")
    assert reading.table.get(HOME) is None
    assert reading.table.is_unreadable(HOME)


async def test_a_record_on_another_partition_than_its_keys_makes_it_unreadable(reading: Reading) -> None:
    reading.take(AWAY, a_number(AWAY, 7), at=2)
    reading.take(AWAY, a_number(AWAY, 8), at=1)
    assert reading.values() == {AWAY: 7}
    assert "WrongPartition: the key" in reading.table.unreadable[AWAY]
    assert "belongs on partition 2 of rules, not on 1" in reading.table.unreadable[AWAY]
    reading.take(AWAY, a_number(AWAY, 9), at=2)
    assert reading.table.unreadable == {}
    reading.take(AWAY, None, at=3)
    assert reading.table.is_unreadable(AWAY), "whoever meant to delete it has not"
    assert reading.values() == {AWAY: 9}


async def test_a_key_that_is_not_its_values_makes_both_unreadable(reading: Reading) -> None:
    """Somebody restricts one symbol under the key of another: neither can be relied on."""
    reading.take(HOME, a_number(HOME))
    reading.take(AWAY, a_number(AWAY), at=2)
    reading.take(HOME, a_number(AWAY, 5))
    assert set(reading.table.unreadable) == {HOME, AWAY}
    assert reading.values() == {HOME: 1, AWAY: 1}
    reading.take(AWAY, a_number(AWAY, 5), at=2)
    assert set(reading.table.unreadable) == {HOME}
    reading.take(HOME, a_number(HOME, 2))
    assert reading.table.unreadable == {}


async def test_both_keys_on_one_partition_are_made_good_one_by_one() -> None:
    reading = Reading(tombstones=True)
    reading.take(HOME, a_number(OTHER))
    assert set(reading.table.unreadable) == {HOME, OTHER}
    reading.take(OTHER, a_number(OTHER))
    assert set(reading.table.unreadable) == {HOME}
    reading.take(HOME, None)
    assert reading.table.unreadable == {}


async def test_a_value_without_a_key_makes_the_key_that_it_names_unreadable() -> None:
    reading = Reading(tombstones=True)
    reading.take(None, a_number(HOME), at=3)
    assert set(reading.table.unreadable) == {HOME}
    reading.take(None, b"no json", at=3)
    reading.take(None, None, at=3)
    assert set(reading.table.unreadable) == {HOME}, "what names nobody makes nothing good"
    reading.take(HOME, None)
    assert set(reading.table.unreadable) == set()
    assert reading.table.refused.total() == 3


async def test_a_key_that_is_no_text_is_nobodys(reading: Reading) -> None:
    free = Reading(any_key=True)
    free.take(b"\xff", a_number("\\xff"), at=partition_of(b"\xff", 4))
    assert set(free.table.unreadable) == {"\\xff"}
    assert free.values() == {}


async def test_a_key_without_end_is_nobodys(reading: Reading) -> None:
    reading.take(bytes(9_000_000), a_number(HOME))
    assert reading.table.refused == {"ValueError": 1}
    assert reading.table.is_unreadable(HOME)
    reading.take(bytes(9_000_000), a_number("x" * 8_000_000))
    reading.take("y" * 60_000, a_number("x" * 60_000))
    assert max(map(len, reading.table.unreadable.values())) < 3_000
    assert sum(len(each) for bad in reading.table._bad.values() for each in bad.names) < 200_000
    free = Reading(any_key=True)
    free.take(bytes(9_000_000), a_number(HOME))
    assert free.table.refused == {"KeyTooLong": 1}
    assert not free.values()
    assert not free.table.unreadable


async def test_without_a_key_of_its_own_a_topics_keys_are_still_checked_for_their_partition() -> None:
    free = Reading(any_key=True)
    free.take(HOME, a_number("whatever"))
    free.take(AWAY, a_number("whatever"))
    assert free.values() == {HOME: 1}
    assert set(free.table.unreadable) == {AWAY}


async def test_between_two_partitions_the_later_record_counts_in_whatever_order_they_are_read() -> None:
    for order in ((0, 1), (1, 0)):
        for wrong_at, unreadable in ((500, set[str]()), (501, {AWAY})):
            reading = Reading()
            records = [(2, 500), (1, wrong_at)]
            for each in order:
                at, now_ms = records[each]
                reading.take(AWAY, a_number(AWAY), at=at, now_ms=now_ms)
            assert set(reading.table.unreadable) == unreadable


async def test_within_a_partition_a_clock_that_goes_back_changes_nothing(reading: Reading) -> None:
    reading.take(HOME, a_number(HOME, 1), now_ms=9_000)
    reading.take(HOME, b"no json", now_ms=1)
    assert reading.table.is_unreadable(HOME)
    reading.take(HOME, a_number(HOME, 2), now_ms=0)
    assert reading.table.unreadable == {}
    assert reading.values() == {HOME: 2}


async def test_what_a_newer_release_wrote_is_unreadable_and_waits_for_a_newer_build(reading: Reading) -> None:
    reading.take(HOME, a_number(HOME))
    reading.take(HOME, a_number(HOME, 2), version=b"2")
    reading.take(OTHER, a_number(OTHER))
    assert set(reading.table.unreadable) == {HOME}
    assert reading.values() == {HOME: 1, OTHER: 1}
    assert reading.table.waits_for == (
        f"global table rules at 1/102, key {HOME!r}: NewerRelease: Number in version 2 "
        "was written by a newer release; this build knows up to 1: upgrade this one"
    )
    reading.take(HOME, a_number(HOME, 3))
    assert [reading.table.waits_for, *reading.table.unreadable] == [None]


async def test_a_flood_of_garbage_under_one_key_costs_one_entry(reading: Reading) -> None:
    for _ in range(1_000):
        reading.take(HOME, b"no json")
        reading.take(None, b"no json")
    assert len(reading.table._bad) == 2
    assert len(reading.table.unreadable) == 1
