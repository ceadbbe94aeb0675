"""A partition number that this worker owns: what is committed of it, and the way to commit more.

Units of work go through here one at a time, under `lock`: to Kafka first, then to RocksDB (rules 3 and 5).
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from typing_extensions import TypeVar

from app.engine.core.chunk import Chunk
from app.engine.core.committer import Share
from app.engine.core.dead_letter import QUARANTINE, DeadLetters
from app.engine.core.effects import Effects
from app.engine.core.event_ids import Endings
from app.engine.core.ownership import Ownership
from app.engine.core.settings import EngineSettings
from app.engine.core.watchdog import Turn
from app.engine.errors import EngineError, Fenced, PositionGap, Transient
from app.engine.kafka.cluster import TP, Cluster, Committed, Membership
from app.engine.kafka.fetcher import Fetcher
from app.engine.kafka.watermarks import Watermarks
from app.engine.shards import misplaced, shard_named, shards_of
from app.engine.state.disk import Disk
from app.engine.state.store import TaskStore, store_failure
from app.engine.state.table import Table, TaskTable
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

V = TypeVar("V", default=Any)

HOME_KEYS_MAX = 65_536
HOME_KEY_BYTES_MAX = 128
DEFER_S_MAX = 0.5
"""How long offsets of batches without any effect may wait for a transaction that has one."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A partition number that the group has given to this worker, and what it takes to work on it.

    `membership` is the one under which the group has given it. `ownership` is how the worker makes it its own
    and commits. `fetcher` reads the inputs of all tasks of the worker. `store` are the tables, where they are
    open already.
    """

    app_id: str
    partition: int
    cluster: Cluster
    fetcher: Fetcher
    settings: EngineSettings
    inputs: Sequence[TopicSpec]
    tables: Sequence[Table]
    partition_counts: Mapping[str, int]
    directory: Path
    membership: Membership
    ownership: Ownership
    store: TaskStore | None = None
    disk: Disk | None = None


@dataclass
class Counts:
    """What a task has done: the records it took in, and in how many commits."""

    records: int = 0
    batches: int = 0


class OwnedPartition:
    """The committed state of one partition number of a service, and the one way to change it.

    `positions` are the committed input offsets. `fenced` tells of another owner, `broken` why going on would
    make the books wrong.
    """

    def __init__(self, given: Assignment) -> None:
        settings, partition = given.settings, given.partition
        self.app_id = given.app_id
        self.partition = partition
        self.cluster = given.cluster
        self.settings = settings
        self.inputs = {TP(spec.name, partition): spec for spec in given.inputs}
        self.declared = given.tables
        self.partition_counts = given.partition_counts
        self.path = given.directory / str(partition)
        self.membership = given.membership
        self.ownership = given.ownership
        self.store = given.store
        self.lane = f"{self.app_id}-{partition}"
        self.transactional = settings.exactly_once
        self.lock = asyncio.Lock()
        self.closed = False
        self.fenced: Fenced | None = None
        self.broken: Exception | None = None
        self.stop_asked = asyncio.Event()
        self.positions: dict[TP, int] = {}
        self.deferred: dict[TP, int] = {}
        self.tables: dict[str, TaskTable[Any]] = {}
        self.at_home: dict[bytes | None, None] = {}
        self.endings = Endings(self.app_id)
        self.counts = Counts()
        self.agent_turn, self.companion_turn = Turn(), Turn()
        self.watermarks = Watermarks(self.cluster, str(self), self.lane)
        self.note = ""
        """What is committed with each offset, see `write_note`."""
        quarantine = next(table for table in given.tables if table.name == QUARANTINE)
        self.dead_letters = DeadLetters(
            self.app_id, settings.dead_letters, quarantine, partition, self.partition_counts
        )
        self.progress_at = time.monotonic()
        self._deferred_until = 0.0
        self._disk = given.disk or Disk(given.directory, settings.disk_free_bytes_min)

    def __repr__(self) -> str:
        return f"task {self.lane}"

    def table(self, table: Table[V]) -> TaskTable[V]:
        """The committed state of a table in this partition."""
        return self.tables[table.name]

    @property
    def has_more(self) -> bool:
        """Whether there are records to go on with, as far as is known here."""
        return False

    @property
    def partitions(self) -> int:
        """How many partitions the service's inputs and tables have."""
        return self.partition_counts[next(iter(self.inputs)).topic]

    @property
    def shards(self) -> range:
        """The key shards whose keys lie on this partition."""
        return shards_of(self.partition, self.partitions)

    @property
    def lag(self) -> dict[str, int]:
        """By input: offsets up to the high watermark not processed yet, as far as the last fetch knew."""
        return {tp.topic: self.watermarks.lag(tp, at) for tp, at in self.positions.items()}

    def is_behind(self, topic: TopicSpec) -> bool:
        """Whether an input may have records that are not processed yet: also while nobody has heard of it."""
        tp = TP(topic.name, self.partition)
        return self.watermarks.is_behind(tp, self.positions[tp])

    def stray(self, key: bytes | None, topic: str) -> EngineError | None:
        """What is wrong with a record of this key lying here; keys that are right are remembered."""
        if key is None:
            return None
        error = misplaced(topic, key, self.partition, self.partitions)
        if error is not None:
            return error
        if len(key) <= HOME_KEY_BYTES_MAX:
            if len(self.at_home) >= HOME_KEYS_MAX:
                for old in list(islice(self.at_home, HOME_KEYS_MAX // 4)):
                    del self.at_home[old]
            self.at_home[key] = None
        return None

    # -- whose it is

    @property
    def stopping(self) -> bool:
        return self.stop_asked.is_set()

    def stop(self) -> None:
        """Finish the batch in hand, then end."""
        self.stop_asked.set()

    async def pause(self, pause_s: float) -> None:
        """Wait, unless stopped meanwhile."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop_asked.wait(), pause_s)

    def give_up(self, error: Exception) -> None:
        """Write nothing more: the task has another owner (rule 5), or going on would make the books wrong."""
        if isinstance(error, Fenced):
            if self.fenced is None:
                log.warning("%s is fenced: %s", self, error)
            self.fenced = error
        else:
            self.broken = self.broken or error
        self.closed = True
        self.stop_asked.set()

    # -- committing

    async def commit(self, effects: Effects) -> None:
        """Make a unit of work real: in Kafka first, then in RocksDB. The caller holds the lock."""
        chunk = effects.chunk or Chunk([], {}, {})
        self.require_continuity(chunk)
        changes = self.encode_changes(effects)
        offsets = {**self.deferred, **chunk.end}
        if self._may_wait(effects):
            self.deferred = offsets
            self.positions.update(chunk.end)
            self.counts.records += len(chunk.items)
            return
        if not await self._disk.room(self.stop_asked):
            raise Transient(f"{self} was told to stop while it waited for room on the disk")
        share = Share(self, effects.outbox, self.noted(offsets))
        ends = await self.ownership.commit(share)
        try:
            self.apply(effects, changes, ends)
        except Exception as error:
            raise store_failure(self.path, error) from error
        await self.ownership.applied(share)
        self.deferred = {}
        self._deferred_until = time.monotonic() + DEFER_S_MAX
        self.positions.update(chunk.end)
        self.progress_at = time.monotonic()
        self.counts.records += len(chunk.items)
        self.counts.batches += 1

    def _may_wait(self, effects: Effects) -> bool:
        """Whether a batch that changed and emitted nothing may leave its offsets to the next transaction.

        They go with whatever this task commits next, so that nothing is ever committed past them; a task
        that falls idle commits them by themselves.
        """
        if effects.chunk is None or effects.outbox.partitions or effects.callbacks:
            return False
        if not self.deferred:
            self._deferred_until = time.monotonic() + DEFER_S_MAX
        return time.monotonic() < self._deferred_until

    def require_continuity(self, chunk: Chunk) -> None:
        """Raise PositionGap for a chunk that does not begin where the last one ended (rule 10)."""
        for tp, begin in chunk.begin.items():
            if begin != self.positions[tp]:
                raise PositionGap(f"{self}: {tp} goes on at {begin}, not at {self.positions[tp]}")

    def encode_changes(self, effects: Effects) -> dict[str, dict[bytes, bytes | None]]:
        """The changes by table as they are stored; their changelog records go into the outbox."""
        changes: dict[str, dict[bytes, bytes | None]] = {}
        now_ms = time.time_ns() // 1_000_000
        for name, view in effects.views.items():
            if view.changes:
                table = self.tables[name]
                encode = table.table.encode
                if table.table.by_shard:
                    self._require_own_shards(name, view.changes)
                encoded = {
                    key.encode(): None if value is None else encode(value)
                    for key, value in view.changes.items()
                    if not table.has(key, value)
                }
                for key, data in encoded.items():
                    effects.outbox.append(table.changelog, key, data, [], now_ms)
                if encoded:
                    changes[name] = encoded
        return changes

    def _require_own_shards(self, table: str, keys: Iterable[str]) -> None:
        for key in keys:
            if shard_named(key) not in self.shards:
                raise ValueError(
                    f"table {table}: {key!r} is no key shard of {self}; its shards are {self.shards}"
                )

    def noted(self, offsets: Mapping[TP, int]) -> dict[TP, Committed]:
        """Offsets with the note that goes with them."""
        return {tp: Committed(offset, self.note) for tp, offset in offsets.items()}

    def apply(
        self, effects: Effects, changes: dict[str, dict[bytes, bytes | None]], ends: dict[TP, int]
    ) -> None:
        """Write what is committed to the tables, with the changelog offsets that it goes up to."""
        if not changes or self.store is None:
            return
        if QUARANTINE in changes:
            for key, entry in effects.views[QUARANTINE].changes.items():
                was_held = self.tables[QUARANTINE].get(key) is not None
                self.dead_letters.held_keys += (entry is not None) - was_held
        self.store.apply(changes, {name: ends[self.tables[name].changelog] for name in changes})
        for name in changes:
            self.tables[name].committed(effects.views[name].changes)
