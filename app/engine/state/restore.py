"""Bring a task's tables up to the end of their changelogs, in bulk."""

import asyncio
import logging
import time
from collections.abc import Mapping

from app.engine.errors import ChangelogMismatch
from app.engine.kafka.cluster import (
    EARLIEST,
    LATEST,
    READ_UNCOMMITTED,
    RETRIABLE,
    RETRY_PAUSE_S,
    TP,
    Cluster,
    Fetched,
    Hear,
)
from app.engine.state.disk import Disk
from app.engine.state.store import TaskStore

log = logging.getLogger(__name__)

FETCH_BYTES = 4 * 1024 * 1024
RESTORE_WAIT_MS = 100
FOLLOW_WAIT_MS = 500
STAMP_S = 3600.0
FORGET_AFTER_MS = 12 * 3600 * 1000
"""A local table older than this is restored whole: deletions leave a compacted log after a day."""


async def restore(
    store: TaskStore, cluster: Cluster, changelogs: Mapping[str, TP], lane: object, disk: Disk | None = None
) -> int:
    """Apply what each table's changelog has beyond the local offset; returns the number of records.

    Reads committed records up to the last stable offset; transaction markers and aborted records count as
    read. Raises ChangelogMismatch when the local table cannot be a prefix of the log.
    """
    tables = {tp: table for table, tp in changelogs.items()}
    positions, ends = await bounds(store, cluster, tables)
    count = 0
    started = time.monotonic()
    while behind := {tp: at for tp, at in positions.items() if at < ends[tp]}:
        if disk is not None:
            await disk.room()
        for fetched in await fetch(cluster, behind, lane, RESTORE_WAIT_MS) or ():
            count += _apply(store, tables[fetched.tp], fetched)
            positions[fetched.tp] = fetched.next_position
            await asyncio.sleep(0)
    if count:
        log.info("restored %s records into %s in %.2f s", count, store.path, time.monotonic() - started)
    return count


async def follow(
    store: TaskStore,
    cluster: Cluster,
    changelogs: Mapping[str, TP],
    lane: object,
    lag: dict[str, int],
    disk: Disk | None = None,
    hear: Hear | None = None,
) -> None:
    """Keep the tables of a partition that another worker owns close to the end of their changelogs, for ever.

    `lag` is kept at the number of changelog offsets, by table, that are committed and not yet applied.
    """
    tables = {tp: table for table, tp in changelogs.items()}
    positions, ends = await bounds(store, cluster, tables)
    lag.update({table: max(0, ends[tp] - positions[tp]) for tp, table in tables.items()})
    known_at = time.monotonic()
    heard_at_ms = _now_ms()
    while True:
        if disk is not None:
            await disk.room()
        if time.monotonic() - known_at > STAMP_S:
            known_at = time.monotonic()
            await _stamp(store, cluster, tables, positions)
        found = await fetch(cluster, positions, lane, FOLLOW_WAIT_MS, hear)
        if found is None:
            continue
        silent_ms, heard_at_ms = _now_ms() - heard_at_ms, _now_ms()
        if silent_ms > FORGET_AFTER_MS:  # deletions since then may be gone from the log
            positions, _ = await bounds(store, cluster, tables)
            continue
        for fetched in found:
            table = tables[fetched.tp]
            _apply(store, table, fetched)
            positions[fetched.tp] = fetched.next_position
            lag[table] = max(0, fetched.end - fetched.next_position)
            await asyncio.sleep(0)


async def _stamp(
    store: TaskStore, cluster: Cluster, tables: Mapping[TP, str], positions: Mapping[TP, int]
) -> None:
    """Note that the tables that are at the end of their changelogs are as fresh as can be, written or not."""
    ends = await cluster.offsets(tables, LATEST)
    store.apply({}, {table: positions[tp] for tp, table in tables.items() if positions[tp] >= ends[tp]})


async def bounds(
    store: TaskStore, cluster: Cluster, tables: Mapping[TP, str]
) -> tuple[dict[TP, int], dict[TP, int]]:
    """Where to begin in each changelog, and where what is stable ends now.

    A table may be ahead of that by what this worker has just committed: the broker answers a commit before it
    has written the marker that makes it stable. It can't be ahead of the log's end.
    """
    begins, ends, stable = await asyncio.gather(
        cluster.offsets(tables, EARLIEST),
        cluster.offsets(tables, LATEST, READ_UNCOMMITTED),
        cluster.offsets(tables, LATEST),
    )
    return {tp: _start(store, table, tp, begins[tp], ends[tp]) for tp, table in tables.items()}, stable


def _apply(store: TaskStore, table: str, fetched: Fetched) -> int:
    changes = {record.key: record.value for record in fetched.records if record.key is not None}
    store.apply({table: changes}, {table: fetched.next_position})
    return len(fetched.records)


def _start(store: TaskStore, table: str, tp: TP, begin: int, end: int) -> int:
    applied = store.applied(table)
    if applied is not None and _now_ms() - applied.at_ms > FORGET_AFTER_MS:
        log.info("local table %s is older than %s h: restoring it whole", table, FORGET_AFTER_MS // 3_600_000)
        store.forget(table)
        applied = None
    if applied is None:
        return begin
    if applied.next_offset > end:
        raise ChangelogMismatch(
            f"{tp.topic}-{tp.partition} ends at {end} but {store.path} has applied it up to "
            f"{applied.next_offset}: the topic was recreated or truncated. If that was meant, remove "
            f"{store.path} and start again; if not, bring the topic back first."
        )
    if applied.next_offset < begin:
        raise ChangelogMismatch(
            f"{tp.topic}-{tp.partition} begins at {begin} but {store.path} needs it from "
            f"{applied.next_offset}: records are gone. A changelog must be compacted, never deleted from; "
            "restore the topic from a backup."
        )
    return applied.next_offset


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def fetch(
    cluster: Cluster, positions: Mapping[TP, int], lane: object, wait_ms: int, hear: Hear | None = None
) -> list[Fetched] | None:
    """What one of the leaders has next; None when it is away."""
    try:
        return await cluster.fetch_from_one(
            positions, wait_ms=wait_ms, partition_bytes_max=FETCH_BYTES, lane=lane, hear=hear
        )
    except RETRIABLE as error:
        log.debug("restore waits: %r", error)
        await asyncio.sleep(RETRY_PAUSE_S)
        return None
