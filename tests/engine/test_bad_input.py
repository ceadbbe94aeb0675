"""Bad input becomes dead letters, whole where Kafka takes them whole; nothing else slows or stops."""

import asyncio
import gzip
import os
import struct
import time
from hashlib import sha256

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from app.engine.kafka.cluster import TP, Cluster
from app.engine.kafka.protocol import Produce
from tests.engine.recordsets import batch, seal
from tests.engine.service import Number
from tests.engine.workers import BareWorker
from tests.engine.world import Dead, World

MB = 1024 * 1024


async def write_as_is(world: World, data: bytes) -> int:
    """Write a batch of bytes that no client would make; returns its offset."""
    cluster = Cluster(world.options.bootstrap, "test")
    await cluster.start()
    try:
        await cluster.partition_count(world.numbers.name)
        leader = cluster.leader(TP(world.numbers.name, 0))
        assert leader is not None
        request = Produce(None, 10_000, [(world.numbers.name, [(0, data)])])
        ((_, ((_, code, base, *_),)),) = (await cluster.send(leader, request)).topics
        assert code == 0
        return int(base)
    finally:
        await cluster.stop()


def source(world: World, offset: int, topic: str | None = None) -> str:
    return f"{topic or world.numbers.name}/0/{offset}"


async def processed(world: World, *, before: list[Number]) -> None:
    """One worker takes in all there is, and what comes behind it; then it starts again on its own tables."""
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.all_processed()
        await worker.stop()
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.send(*before)
        await world.all_processed()
        await worker.stop()


async def test_garbage_of_every_kind_goes_to_the_dead_letters_as_it_came(world: World) -> None:
    garbage: list[tuple[bytes | None, bytes | None]] = [
        (None, b"a tombstone's key"),
        (b"", b"empty"),
        (b"\x00\xff\xfe", b"no text"),
        (b"[" * 200_000, b"deep"),
        (b'{"id": "a", "key": "types", "number": "1"}', b"types"),
        (b'{"id": "a", "key": "absurd", "number": 1e999}', b"absurd"),
        (b'{"id": "a", "key": "mine", "number": 1}', b"another"),
        (b"{}", b"\xff\xff"),
        (b"{}", b""),
        (b"{}", None),
    ]
    letters, when = [], int(time.time() * 1000)
    for number, (value, key) in enumerate(garbage):
        await world.send(*world.more(3))
        for topic in (world.numbers.name, world.corrections.name):
            at = await world.send_raw(
                value,
                key,
                topic=topic,
                headers=[("n", b"%d" % number), ("n", b"\xff")],
                timestamp_ms=(when + 1_800_000, 1, when)[number % 3],
            )
            letters.append(Dead(source(world, at.offset, topic), attempts=1))
    await processed(world, before=world.more(30))
    assert await world.wrong_dead_letters(letters) == []
    assert await world.faults() == []


async def test_keys_that_look_alike_wait_each_behind_its_own_dead_letter(world: World) -> None:
    at = await world.send_raw(b"nonsense", b"\xff")
    innocent = Number("innocent", "\\xff", 7)
    await world.send(innocent)
    later = await world.send_raw(b"more nonsense", b"\xff")
    await processed(world, before=world.more(5))
    letters = [
        Dead(source(world, at.offset), attempts=1),
        Dead(source(world, later.offset), behind=source(world, at.offset)),
    ]
    assert await world.wrong_dead_letters(letters) == []
    assert await world.faults() == []


async def test_poison_that_nothing_depends_on_holds_no_key(world: World) -> None:
    absurd = [Number(f"absurd-{each}", "key-1", each, "absurd") for each in range(2)]
    for each in absurd:
        await world.send(*world.more(10), each)
    await processed(world, before=world.more(10))
    error = "Poison: nothing depends on this number"
    letters = [Dead(world.source(each), error, attempts=1) for each in absurd]
    assert await world.wrong_dead_letters(letters) == []
    assert await world.faults(dead=[each.id for each in absurd]) == []
    assert await world.quarantine() == {}


async def test_records_of_5_mb_that_nobody_can_read_hold_up_nobody(world: World) -> None:
    letters = []
    for number, topic in enumerate([world.numbers.name, world.corrections.name] * 3):
        await world.send(*world.more(20))
        at = await world.send_raw(os.urandom(5 * MB), b"large-%d" % number, topic=topic)
        letters.append(Dead(source(world, at.offset, topic), attempts=1))
    await processed(world, before=world.more(20))
    assert await world.wrong_dead_letters(letters) == []
    assert await world.faults() == []


async def test_what_the_dead_letter_topic_will_not_take_goes_there_cut(world: World) -> None:
    """20 MB that came compressed, a key of 9 MB, and a number so long that neither its total nor its dead
    letter fits."""
    await world.send(*world.more(10))
    large = bytes(20 * MB)
    at = await write_as_is(world, compressed(batch(0, [(0, b"bomb", large)])))
    by_key = await write_as_is(world, compressed(batch(0, [(0, bytes(9 * MB), b"v")])))
    room = 8 * MB - len(batch(0, [(0, b"long", msgspec.json.encode(Number("", "long", 1)))])) - 20
    long = Number("n" * room, "long", 1)
    world.note(long, await write_as_is(world, batch(0, [(0, b"long", msgspec.json.encode(long))])))
    behind = Number("behind", "long", 1)
    await world.send(behind)
    await processed(world, before=world.more(10))
    letters = {dict(each.headers)["dead-letter-offset"]: each for each in await world.dead()}
    assert len(letters) == 4
    bomb, key = letters[b"%d" % at], letters[b"%d" % by_key]
    assert (bomb.key, bomb.value) == (b"bomb", large[: 64 * 1024])
    told = dict(bomb.headers)["dead-letter-cut"].decode()
    assert f"a value of {len(large)} (SHA-256 {sha256(large).hexdigest()})" in told
    assert b"Error" in dict(bomb.headers)["dead-letter-error"], "why it is dead, not why it is cut"
    assert key.key is not None
    assert len(key.key) == 64 * 1024
    held = letters[world.source(behind).split("/")[2].encode()]
    assert dict(held.headers)["dead-letter-held-behind"].decode() == world.source(long)
    assert held.value == msgspec.json.encode(behind)
    assert await world.faults(dead=[long.id, behind.id]) == []


def compressed(data: bytes) -> bytes:
    """A batch as a client that compresses sends it."""
    records = gzip.compress(data[61:])
    packed = bytearray(data[:61] + records)
    packed[22] |= 1
    struct.pack_into(">i", packed, 8, len(packed) - 12)
    return seal(packed)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_records_may_come_compressed(world: World, codec: str) -> None:
    numbers = [Number(f"{codec}-{each}", "key-1", each) for each in range(20)]
    server = world.options.bootstrap
    async with AIOKafkaProducer(bootstrap_servers=server, compression_type=codec, linger_ms=20) as producer:
        data = [msgspec.json.encode(each) for each in numbers]
        sent = [await producer.send(world.numbers.name, each, b"key-1", partition=0) for each in data]
        for number, record in zip(numbers, await asyncio.gather(*sent), strict=True):
            world.note(number, record.offset)
    await processed(world, before=[])
    assert await world.faults() == []


async def test_a_header_named_by_no_text_is_only_a_header(world: World) -> None:
    number = Number("odd", "key-1", 5)
    data = bytearray(batch(0, [(0, b"key-1", msgspec.json.encode(number))], headers=[("name", b"1")]))
    data[data.find(b"name")] = 0xFF
    garbage = bytearray(batch(0, [(0, b"garbage", b"no json")], headers=[("name", b"1"), ("b", None)]))
    garbage[garbage.find(b"name")] = 0xFF
    await world.send(*world.more(10))
    at = await write_as_is(world, seal(data))
    dead_at = await write_as_is(world, seal(garbage))
    world.note(number, at)
    await processed(world, before=world.more(10))
    (letter,) = await world.dead()
    assert dict(letter.headers)["dead-letter-offset"] == b"%d" % dead_at
    assert list(letter.headers)[:2] == [("\\xffame", b"1"), ("b", None)]
    assert (letter.key, letter.value) == (b"garbage", b"no json")
    assert await world.faults() == []
