"""What the topics already hold when the feed starts: the last tick, and who has limits."""

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from app.engine.cluster import EARLIEST, LATEST, TP, Cluster, retry
from app.errors import UserError

TOPIC_S_MAX = 10.0
FETCH_WAIT_MS = 20
FETCH_BYTES = 1024 * 1024
LAST_RECORDS = 100


async def last_tick_sequence(bootstrap: str, topic: str, symbol: str) -> int:
    """The highest tick of the symbol near the end of the topic, 0 when there is none."""
    records = await _read(bootstrap, topic, LAST_RECORDS)
    return max((_sequence(record.value) for record in records if record.key == symbol.encode()), default=0)


async def keys(bootstrap: str, topic: str) -> set[bytes]:
    """Every key of a topic that is not deleted."""
    records = await _read(bootstrap, topic, None)
    last = {record.key: record.value for record in records if record.key is not None}
    return {key for key, value in last.items() if value is not None}


def _sequence(value: bytes | None) -> int:
    """The sequence of a tick; 0 for what is none, as anybody may write to the topic."""
    try:
        found = json.loads(value or b"")["sequence"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return found if isinstance(found, int) else 0


async def _read(bootstrap: str, topic: str, last: int | None) -> list[Any]:
    """The committed records of each partition up to its present end: of the `last` offsets, or all."""
    cluster = Cluster(bootstrap, "feed")
    try:
        await cluster.start()
        tps = await _partitions(cluster, bootstrap, topic)
        starts, ends = await cluster.offsets(tps, EARLIEST), await cluster.offsets(tps, LATEST)
        if last is not None:
            starts = {tp: max(start, ends[tp] - last) for tp, start in starts.items()}
        return await _read_up_to(cluster, starts, ends)
    finally:
        await cluster.stop()


async def _partitions(cluster: Cluster, bootstrap: str, topic: str) -> list[TP]:
    try:
        count = await asyncio.wait_for(cluster.partition_count(topic), TOPIC_S_MAX)
    except TimeoutError:
        raise UserError(
            f"Kafka at {bootstrap} has no topic {topic!r}: 'python -m app run' makes it"
        ) from None
    return [TP(topic, number) for number in range(count)]


async def _read_up_to(cluster: Cluster, positions: dict[TP, int], ends: Mapping[TP, int]) -> list[Any]:
    found: list[Any] = []
    while behind := {tp: at for tp, at in positions.items() if at < ends[tp]}:
        read = partial(
            cluster.fetch_from_one,
            behind,
            wait_ms=FETCH_WAIT_MS,
            partition_bytes_max=FETCH_BYTES,
            lane="history",
        )
        for fetched in await retry(read):
            found += fetched.records
            positions[fetched.tp] = fetched.next_position
    return found
