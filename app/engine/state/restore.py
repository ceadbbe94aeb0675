"""Bring a task's tables up to the end of their changelogs, in bulk."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import closing, suppress

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
from app.engine.kafka.fetcher import Fetcher
from app.engine.state.disk import Disk
from app.engine.state.store import TaskStore

log = logging.getLogger(__name__)

FETCH_BYTES = 4 * 1024 * 1024
RESTORE_WAIT_MS = 100
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


class Incoming:
    """What has been fetched of some changelogs and is not applied yet, in order and within bounds."""

    def __init__(self, hear: Hear | None) -> None:
        self._hear = hear
        self._queue: deque[Fetched] = deque()
        self._bytes_held = 0
        self._arrived = asyncio.Event()
        self._failure: Exception | None = None

    def is_full(self) -> bool:
        return self._bytes_held >= FETCH_BYTES

    def take_in(self, fetched: Fetched) -> None:
        self._queue.append(fetched)
        self._bytes_held += fetched.size_bytes
        self._arrived.set()

    def hear(self, tp: TP, position: int, high: int, stable: int) -> None:
        if self._hear is not None:
            self._hear(tp, position, high, stable)

    def fail(self, tp: TP, error: Exception) -> None:
        self._failure = error
        self._arrived.set()

    async def next(self, within_s: float) -> Fetched | None:
        """What is to be applied next; None if nothing comes. Raises why a changelog cannot be read."""
        if not self._queue:
            self._arrived.clear()
            if self._failure is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(within_s):  # wait_for may lose a cancellation
                        await self._arrived.wait()
            if self._failure is not None:
                raise self._failure
            if not self._queue:
                return None
        fetched = self._queue.popleft()
        self._bytes_held -= fetched.size_bytes
        return fetched


async def follow(
    store: TaskStore,
    cluster: Cluster,
    fetcher: Fetcher,
    changelogs: Mapping[str, TP],
    lag: dict[str, int],
    disk: Disk | None = None,
    hear: Hear | None = None,
) -> None:
    """Keep the tables of a partition that another worker owns close to the end of their changelogs, for ever.

    `lag` is kept at the number of changelog offsets, by table, that are committed and not yet applied.
    """
    tables = {tp: table for table, tp in changelogs.items()}
    while True:
        positions, ends = await bounds(store, cluster, tables)
        lag.update({table: max(0, ends[tp] - positions[tp]) for tp, table in tables.items()})
        incoming = Incoming(hear)
        with closing(fetcher.read(incoming, positions)) as reading:
            async for fetched in _kept_fresh(store, cluster, tables, incoming, disk):
                if not incoming.is_full():
                    reading.go_on()
                table = tables[fetched.tp]
                if _is_old(store, table):  # deletions since then may be gone from the log
                    break
                _apply(store, table, fetched)
                positions[fetched.tp] = fetched.next_position
                lag[table] = max(0, fetched.end - fetched.next_position)
                await asyncio.sleep(0)


async def _kept_fresh(
    store: TaskStore,
    cluster: Cluster,
    tables: Mapping[TP, str],
    incoming: Incoming,
    disk: Disk | None,
) -> AsyncIterator[Fetched]:
    """What comes in, for ever, while there is room on the disk; tables that nobody writes to stay fresh."""
    stamped_at = time.monotonic()
    while True:
        if disk is not None:
            await disk.room()
        if time.monotonic() - stamped_at > STAMP_S:
            stamped_at = time.monotonic()
            await _stamp(store, cluster, tables)
        if (fetched := await incoming.next(STAMP_S)) is not None:
            yield fetched


async def _stamp(store: TaskStore, cluster: Cluster, tables: Mapping[TP, str]) -> None:
    """Note that the tables that are at the end of their changelogs are as fresh as can be, written or not."""
    ends = await cluster.offsets(tables, LATEST)
    applied = {table: store.applied(table) for table in tables.values()}
    store.apply(
        {},
        {
            table: at.next_offset
            for tp, table in tables.items()
            if (at := applied[table]) is not None and at.next_offset >= ends[tp]
        },
    )


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
    if _is_old(store, table):
        log.info("local table %s is older than %s h: restoring it whole", table, FORGET_AFTER_MS // 3_600_000)
        store.forget(table)
    applied = store.applied(table)
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


def _is_old(store: TaskStore, table: str) -> bool:
    """Whether a local table was last written, or found at the end of its changelog, too long ago."""
    applied = store.applied(table)
    return applied is not None and time.time_ns() // 1_000_000 - applied.at_ms > FORGET_AFTER_MS


async def fetch(
    cluster: Cluster, positions: Mapping[TP, int], lane: object, wait_ms: int
) -> list[Fetched] | None:
    """What one of the leaders has next; None when it is away."""
    try:
        return await cluster.fetch_from_one(
            positions, wait_ms=wait_ms, partition_bytes_max=FETCH_BYTES, lane=lane
        )
    except RETRIABLE as error:
        log.debug("restore waits: %r", error)
        await asyncio.sleep(RETRY_PAUSE_S)
        return None
