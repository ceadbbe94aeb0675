"""Reads committed records of whole partitions up to an end that was fixed before, for tools."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final

from app.engine.kafka.cluster import EARLIEST, LATEST, TP, Cluster, retry
from app.engine.topics import EVENT_TYPE, SCHEMA_VERSION, TopicSpec

FETCH_WAIT_MS: Final = 20
FETCH_BYTES: Final = 1024 * 1024


async def read_up_to(
    cluster: Cluster, positions: Mapping[TP, int], ends: Mapping[TP, int]
) -> AsyncIterator[list[Any]]:
    """Yield the records from `positions` to `ends` in pieces, in the order of each partition."""
    at = dict(positions)
    while behind := {tp: offset for tp, offset in at.items() if offset < ends[tp]}:
        read = partial(
            cluster.fetch_from_one,
            behind,
            wait_ms=FETCH_WAIT_MS,
            partition_bytes_max=FETCH_BYTES,
            lane="log reader",
        )
        for fetched in await retry(read):
            at[fetched.tp] = fetched.next_position
            yield [each for each in fetched.records if each.offset < ends[fetched.tp]]


def header(record: Any, name: str) -> bytes:
    """A record's header; empty where there is none, and where it is null, as any client may write it."""
    return dict(record.headers).get(name) or b""


def decoded(spec: TopicSpec, record: Any) -> Any:
    """A record's value as its topic has it; raises what the codec raises."""
    return spec.codec.decode(header(record, EVENT_TYPE), header(record, SCHEMA_VERSION), record.value or b"")


async def bounds(cluster: Cluster, tps: list[TP], last: int | None) -> tuple[dict[TP, int], dict[TP, int]]:
    """Where to begin and to end: the whole of each partition, or its `last` offsets."""
    starts, ends = await cluster.offsets(tps, EARLIEST), await cluster.offsets(tps, LATEST)
    if last is not None:
        starts = {tp: max(start, ends[tp] - last) for tp, start in starts.items()}
    return starts, ends
