"""One task per partition number: fence, restore, then take records in, decide and commit, for ever."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec
from aiokafka import errors

from app.engine.core.dead_letter import QUARANTINE, DeadLetters
from app.engine.core.watchdog import Turn
from app.engine.core.work import Batch, Chunk, Endings, Item, UnitOfWork, unit_of_work
from app.engine.errors import (
    AnswerFailed,
    EngineError,
    Fenced,
    NewerRelease,
    OffsetsLost,
    Poison,
    PositionGap,
    Transient,
)
from app.engine.kafka.cluster import EARLIEST, RETRIABLE, RETRY_PAUSE_S, TP, Cluster, Fetched
from app.engine.kafka.transaction import (
    Outbox,
    Producer,
    RecordRefused,
    TransactionFailed,
    all_done,
    read_note,
    write_note,
)
from app.engine.kafka.watermarks import Watermarks
from app.engine.shards import misplaced, require_shardable, shard_named, shards_of
from app.engine.state.disk import Disk
from app.engine.state.restore import restore
from app.engine.state.store import TaskStore, open_store, store_failure
from app.engine.state.table import Table, TaskTable
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

FETCH_WAIT_MS = 500
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 5.0
FINISH_S_MAX = 5.0
NEWER_PAUSE_S = 2.0
"""How often a task that needs a newer build looks whether it still does."""

HOME_KEYS_MAX = 65_536
HOME_KEY_BYTES_MAX = 128
AGENT = "agent"
DEFER_S_MAX = 0.5
"""How long offsets of batches without any effect may wait for a transaction that has one."""


Buried = Callable[[UnitOfWork, TopicSpec, Any, BaseException], None]
"""What a service does about a dead letter: see App.buried."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine needs to know of its surroundings.

    `attempts_max` is how often a record may fail for no transient reason before it is a dead letter;
    `inbox_records_max` and `inbox_bytes_max` bound what a task holds beyond the batch it works on: nothing is
    fetched while one of them is reached. `fetch_bytes_max` bounds what one fetch brings of one partition,
    though a single larger record comes whole. `standby_replicas` is how many other workers, as far as there
    are any, keep a copy of each partition's tables warm. `disk_free_bytes_min` is the room that the tables'
    disk has to have: with less, the worker waits. `stuck_s_max` bounds how long the event loop, or the
    service's code with a batch in its hands, may be stuck before the worker is ended; 0 for ever.
    `commit_interval_s` is how long records gather behind a committed batch, unless the next one is full.
    `partitions` has to be a power of two up to 256: ValueError otherwise.
    """

    bootstrap: str
    dead_letters: TopicSpec
    exactly_once: bool = True
    partitions: int = 8
    replication_factor: int = 1
    transaction_timeout_ms: int = 10_000
    session_timeout_s: float = 6.0
    heartbeat_interval_s: float = 0.1
    batch_records_max: int = 4_000
    inbox_records_max: int = 8_000
    inbox_bytes_max: int = 16 * 1024 * 1024
    fetch_bytes_max: int = 2 * 1024 * 1024
    attempts_max: int = 3
    standby_replicas: int = 1
    disk_free_bytes_min: int = 64 * 1024 * 1024
    stuck_s_max: float = 10.0
    commit_interval_s: float = 0.0

    def __post_init__(self) -> None:
        require_shardable(self.partitions)


@dataclass
class Counts:
    """What a task has done: the records it took in, and how many commits that took."""

    records: int = 0
    batches: int = 0


class Restored(msgspec.Struct, frozen=True):
    """What a restore has applied, and how long it took, opening the tables included."""

    records: int
    seconds: float


@dataclass
class _Trial:
    """What the tries of a part of a batch have shown so far.

    `poison` is why its one record has to be a dead letter, `brief` that it is too large for the topic whole,
    `unanswered` that the service's answer to it fails.
    """

    attempts: int = 0
    waits: int = 0
    poison: BaseException | None = None
    brief: bool = False
    unanswered: bool = False


class _Fetching(NamedTuple):
    """A fetch under way at one node, and from where."""

    result: "asyncio.Task[list[Fetched]]"
    positions: dict[TP, int]


class Task:
    """The serial processor of one partition number of a service.

    Everything it changes is under `transactional.id` `<service>-<partition>`: taking that id over is what
    makes a worker the owner, whatever the group believes.
    """

    def __init__(
        self,
        *,
        app_id: str,
        partition: int,
        cluster: Cluster,
        settings: EngineSettings,
        inputs: Sequence[TopicSpec],
        tables: Sequence[Table],
        partition_counts: Mapping[str, int],
        directory: Path,
        deliver: Callable[[Batch], Awaitable[None]],
        membership: Callable[[], tuple[int, str]],
        buried: Sequence[Buried] = (),
        store: TaskStore | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.app_id = app_id
        self.partition = partition
        self.settings = settings
        self.partition_counts = partition_counts
        self.transactional = settings.exactly_once
        self.buried = buried
        self.at_home: dict[bytes | None, None] = {}
        self.endings = Endings(app_id)
        self.lock = asyncio.Lock()
        self.ready = asyncio.Event()
        self.closed = False
        self.fenced: Fenced | None = None
        self.broken: Exception | None = None
        self.counts = Counts()
        self.agent_turn, self.companion_turn = Turn(), Turn()
        self.restored: Restored | None = None
        self._in_hand = True
        self._progress_at = time.monotonic()
        self._committed_at = 0.0
        self._starts_anew = False
        self._waits: dict[str, str] = {}
        self._notes_anew = False
        self._deferred: dict[TP, int] = {}
        self._deferred_until = 0.0
        self.tables: dict[str, TaskTable] = {}
        self._declared = tables
        self._cluster = cluster
        self._inputs = {TP(spec.name, partition): spec for spec in inputs}
        self._path = directory / str(partition)
        self._deliver = deliver
        self._membership = membership
        self._lane = f"{app_id}-{partition}"
        self._store = store
        self._disk = disk or Disk(directory, settings.disk_free_bytes_min)
        self.positions: dict[TP, int] = {}
        self.watermarks = Watermarks(cluster, str(self), self._lane)
        self._inbox: dict[TP, deque[Fetched]] = {tp: deque() for tp in self._inputs}
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._producer = Producer(
            cluster,
            self._lane if self.transactional else None,
            app_id,
            settings.transaction_timeout_ms,
            self._lane,
        )
        quarantine = next(table for table in tables if table.name == QUARANTINE)
        self.dead_letters = DeadLetters(app_id, settings.dead_letters, quarantine, partition)

    def __repr__(self) -> str:
        return f"task {self._lane}"

    def table(self, table: Table) -> TaskTable:
        """The committed state of a table in this partition."""
        return self.tables[table.name]

    @property
    def partitions(self) -> int:
        """How many partitions the service's inputs and tables have."""
        return self.partition_counts[next(iter(self._inputs)).topic]

    @property
    def shards(self) -> range:
        """The key shards whose keys lie on this partition."""
        return shards_of(self.partition, self.partitions)

    @property
    def waits_for(self) -> str | None:
        """Why the task waits for a newer build, in one line; None when it does not."""
        return next(iter(self._waits.values()), None)

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

    @property
    def epoch(self) -> int:
        """Grows with every take-over of this task, anywhere: what an outside party needs to fence by."""
        return self._producer.generation

    @property
    def stalled_s(self) -> float:
        """How long the restore or the batch in hand has made no progress; 0 when there is neither."""
        if not self._in_hand:
            return 0.0
        written_at = 0.0 if self._store is None else self._store.written_at
        return time.monotonic() - max(self._progress_at, written_at)

    @property
    def lag(self) -> dict[str, int]:
        """By input: offsets up to the high watermark not processed yet, as far as the last fetch knew."""
        return {tp.topic: self.watermarks.lag(tp, at) for tp, at in self.positions.items()}

    def is_behind(self, topic: TopicSpec) -> bool:
        """Whether an input may have records that are not processed yet: also while nobody has heard of it."""
        tp = TP(topic.name, self.partition)
        return self.watermarks.is_behind(tp, self.positions[tp])

    # -- life

    async def run(self) -> None:
        """Own the partition until stopped or fenced; raises CannotGoOn and whatever else nobody expects."""
        fetching: asyncio.Task[None] | None = None
        in_work: AbstractAsyncContextManager[Any] = self.lock
        try:
            await self._take_over()
            self._in_hand = False
            self.ready.set()
            fetching = asyncio.create_task(self._keep_fetching())
            await self._process_until_stopped(fetching)
        except Fenced as error:
            self.give_up(error)
        except asyncio.CancelledError:
            in_work = nullcontext()  # a commit that waits for a broker may wait for ever
            raise
        finally:
            self.closed = True
            self.ready.clear()
            self.watermarks.close()
            if fetching is not None:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)
            async with in_work:
                self._close_store()
        if self.broken is not None:
            raise self.broken

    async def _take_over(self) -> None:
        """Rule 1: fence, then the committed offsets, then the tables, and only then the first fetch."""
        marks = [time.monotonic()]
        if self.transactional:
            await self._producer.begin()
        marks.append(time.monotonic())
        self.positions = await self._committed_positions()
        marks.append(time.monotonic())
        self._store = self._store or await open_store(self._path)
        changelogs = {table.name: TP(table.changelog, self.partition) for table in self._declared}
        restored = await restore(self._store, self._cluster, changelogs, self._lane)
        marks.append(time.monotonic())
        self.restored = Restored(restored, marks[-1] - marks[-2])
        self.tables = {table.name: TaskTable(table, self._store, self.partition) for table in self._declared}
        self.dead_letters.held_keys = sum(1 for _ in self.tables[QUARANTINE].scan())
        if self._starts_anew:
            await self._require_empty_tables()
            await self._commit_start()
        elif self._notes_anew:
            await self._commit_start()
        fenced_s, asked_s, restored_s = (later - earlier for earlier, later in pairwise(marks))
        log.info(
            "%s is ours after %.3f s: %.3f to fence, %.3f for offsets, %.3f to restore %s records",
            *(self, time.monotonic() - marks[0], fenced_s, asked_s, restored_s, restored),
        )

    async def _committed_positions(self) -> dict[TP, int]:
        """Where each input goes on. One that no commit has named is new, and begins where its topic does."""
        committed = await self._cluster.group_offsets(self.app_id, list(self._inputs))
        known = {name for each in committed.values() if each is not None for name in read_note(each.note)}
        fresh = [tp for tp, each in committed.items() if each is None]
        self._starts_anew = len(fresh) == len(committed)
        lost = [] if self._starts_anew else [tp.topic for tp in fresh if tp.topic in known]
        if lost:
            await self._refuse(
                f"no committed offsets of {', '.join(lost)}, which it has read before, but of its other "
                "inputs: they have expired or were deleted. Set them to where the tables stand."
            )
        begins = await self._cluster.offsets(fresh, EARLIEST) if fresh else {}
        if begins and not self._starts_anew:
            told = ", ".join(f"{tp.topic} (offset {offset})" for tp, offset in begins.items())
            log.warning(
                "%s has inputs that are new to it and reads them from where they begin: %s", self, told
            )
        named = known | {tp.topic for tp in self._inputs}
        self._notes_anew = named != known
        self._producer.note = write_note(named)
        return {tp: begins[tp] if each is None else each.offset for tp, each in committed.items()}

    async def _require_empty_tables(self) -> None:
        """Tables that hold something belong to offsets: without them every record would count twice."""
        filled = [table.name for table in self.tables.values() if next(table.scan(), None) is not None]
        if filled:
            await self._refuse(
                f"no committed offsets, but its tables {', '.join(filled)} hold records: the "
                "group's offsets have expired or were deleted. Set them to where the tables stand, or "
                f"delete the changelogs and {self._path} to count everything anew."
            )

    async def _refuse(self, why: str) -> NoReturn:
        """Raise OffsetsLost. Who slept since it asked for offsets, and has a successor, is only fenced."""
        if self.transactional:
            await self._producer.renew()
        raise OffsetsLost(f"{self} has {why}")

    async def _commit_start(self) -> None:
        """Commit where we begin, before any table holds anything: from now on offsets can only be lost."""
        if not self.transactional:
            await self._producer.commit_offsets(self.positions, *self._membership())
            return
        while True:
            try:
                await self._commit_transaction(Outbox(transactional=True), self.positions)
                return
            except TransactionFailed as error:
                log.warning("%s cannot commit where it begins, and tries again: %s", self, error)
                await self._producer.abort()
                await asyncio.sleep(BACKOFF_S_MAX)

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def give_up(self, error: Exception) -> None:
        """Write nothing more: the task has another owner (rule 5), or going on would make the books wrong."""
        if isinstance(error, Fenced):
            if self.fenced is None:
                log.warning("%s is fenced: %s", self, error)
            self.fenced = error
        else:
            self.broken = self.broken or error
        self.closed = True
        self._stopping.set()

    def stop(self) -> None:
        """Finish the batch in hand, then end."""
        self._stopping.set()

    async def renew(self) -> None:
        """Find out whether the task has another owner, by asking for a new epoch between transactions."""
        async with self.lock:
            if self.closed or not self.ready.is_set():
                return
            try:
                await self._producer.renew()
            except Fenced as error:
                self.give_up(error)
            except TransactionFailed as error:
                log.info("%s cannot be renewed now: %s", self, error)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    # -- reading

    async def _keep_fetching(self) -> None:
        """Fill the inbox from the task's own positions: nobody else's fetch can get into it (rule 10)."""
        positions = dict(self.positions)
        pending: dict[int, _Fetching] = {}
        try:
            while True:
                while self._is_full():
                    self._room.clear()
                    await self._room.wait()
                await self._start_fetches(positions, pending)
                under_way = [fetching.result for fetching in pending.values()]
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for node in [node for node, fetching in pending.items() if fetching.result.done()]:
                    for fetched in pending.pop(node).result.result():
                        del positions[fetched.tp]  # to the end: who had much lets the others go first
                        positions[fetched.tp] = fetched.next_position
                        self._inbox[fetched.tp].append(fetched)
                        self._arrived.set()
        finally:
            for fetching in pending.values():
                fetching.result.cancel()

    async def _start_fetches(self, positions: dict[TP, int], pending: dict[int, "_Fetching"]) -> None:
        """See to it that a fetch is under way at each leader that has something to give."""
        while True:
            asked = {tp for fetching in pending.values() for tp in fetching.positions}
            by_node: dict[int | None, dict[TP, int]] = {}
            for tp, position in positions.items():
                if tp not in asked:
                    by_node.setdefault(self._cluster.leader(tp), {})[tp] = position
            for node, theirs in by_node.items():
                if node is not None and node not in pending:
                    pending[node] = _Fetching(asyncio.create_task(self._fetch(node, theirs)), theirs)
            if None in by_node:
                await self._cluster.refresh()
            if pending:
                return
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _fetch(self, node: int, positions: dict[TP, int]) -> list[Fetched]:
        try:
            return await self._cluster.fetch(
                node,
                positions,
                wait_ms=FETCH_WAIT_MS,
                partition_bytes_max=self.settings.fetch_bytes_max,
                lane=(self._lane, "fetch"),
                hear=self.watermarks.hear,
            )
        except errors.OffsetOutOfRangeError:
            raise PositionGap(
                f"{self}: one of {positions} is not in its log any more: records were deleted before they "
                "were processed, or the topic was recreated. If that was meant, reset the group's offsets."
            ) from None
        except RETRIABLE as error:
            log.debug("%s waits for node %s: %r", self, node, error)
            await self._cluster.refresh()
            await asyncio.sleep(RETRY_PAUSE_S)
            return []

    def _is_full(self) -> bool:
        bytes_held = sum(fetched.size_bytes for queue in self._inbox.values() for fetched in queue)
        return (
            self._records_held() >= self.settings.inbox_records_max
            or bytes_held >= self.settings.inbox_bytes_max
        )

    def _records_held(self) -> int:
        return sum(len(fetched.records) for queue in self._inbox.values() for fetched in queue)

    def _take(self) -> Chunk:
        """Take what the next transaction takes in: topics in the order of the service's inputs."""
        items: list[Item] = []
        begin: dict[TP, int] = {}
        end: dict[TP, int] = {}
        for tp, queue in self._inbox.items():
            spec = self._inputs[tp]
            while queue and (room := self.settings.batch_records_max - len(items)) > 0:
                fetched = queue.popleft()
                begin.setdefault(tp, fetched.position)
                records, end[tp] = fetched.records, fetched.next_position
                if len(records) > room:
                    end[tp] = records[room - 1].offset + 1
                    queue.appendleft(fetched._replace(position=end[tp], records=records[room:]))
                    records = records[:room]
                items += [(spec, record) for record in records]
        self._room.set()
        return Chunk(items, begin, end)

    # -- processing

    async def _process_until_stopped(self, fetching: "asyncio.Task[None]") -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                if not self._arrived.is_set():
                    arriving = asyncio.create_task(self._arrived.wait())
                    done, _ = await asyncio.wait(
                        {arriving, stopping, fetching},
                        timeout=DEFER_S_MAX if self._deferred else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    arriving.cancel()
                    if not done:
                        await self._commit_deferred()
                        continue
                if fetching.done():
                    fetching.result()
                await self._let_gather()
                if self._stopping.is_set():
                    break
                chunk = self._take()
                if not any(self._inbox.values()):
                    self._arrived.clear()
                if chunk.end:
                    await self._process(chunk)
                self._in_hand = False
            if self._deferred and not self.closed:
                await self._commit_deferred()
        finally:
            stopping.cancel()

    async def _let_gather(self) -> None:
        """Wait until the commit interval is over, unless there is a full batch already."""
        wait_s = self._committed_at + self.settings.commit_interval_s - time.monotonic()
        if wait_s > 0 and self._records_held() < self.settings.batch_records_max:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _process(self, chunk: Chunk) -> None:
        """Commit every record of the chunk: as a whole, or in parts around the one that fails."""
        self._in_hand, self._progress_at = True, time.monotonic()
        parts = deque([chunk])
        trial = _Trial()
        while parts and not self._stopping.is_set():
            part = parts.popleft()
            failure = await self._attempt(part, trial)
            if failure is None:
                trial = _Trial()
                self._waits.pop(AGENT, None)
                continue
            if self.closed:
                return
            error, index = failure
            if isinstance(error, NewerRelease) and index == 0:
                parts.appendleft(part)
                await self._hold(AGENT, error, part.items[0] if part.items else None)
            elif isinstance(error, Transient) or not isinstance(error, Exception):
                parts.appendleft(part)
                trial.waits += 1
                await self._back_off(trial.waits, error)
            elif len(part.items) > 1:
                parts.extendleft(reversed(part.split(index, self.partition)))
            else:
                parts.appendleft(part)
                await self._try_otherwise(trial, error)

    async def _try_otherwise(self, trial: _Trial, error: Exception) -> None:
        """Decide how a record that has failed alone is tried next."""
        if isinstance(error, RecordRefused) and not trial.brief:
            trial.brief = True  # if it is a dead letter that is too large, a shorter one will do
            return
        if isinstance(error, AnswerFailed) and not trial.unanswered:
            trial.unanswered = True
            log.error("%s: a dead letter goes without its answer: %s", self, error, exc_info=error.__cause__)
            return
        trial.attempts += 1
        hopeless = trial.attempts >= self.settings.attempts_max or isinstance(error, Poison)
        if hopeless and trial.poison is None:
            trial.poison, trial.brief = error, False
            if not isinstance(error, Poison):
                log.error("%s gives a record up", self, exc_info=error)
        else:
            await self._back_off(trial.attempts, error)

    async def _attempt(self, part: Chunk, trial: _Trial) -> tuple[BaseException, int] | None:
        """Deliver a part; returns None when it is committed, else the error and the index of its record.

        What has proved to be poison is buried here: the agent, which may be what fails, has no part in it.
        """
        poison = trial.poison
        batch = Batch(self, part, poison, trial.attempts, brief=trial.brief, unanswered=trial.unanswered)
        self.agent_turn.begin()
        try:
            if poison is None:
                await self._deliver(batch)
            else:
                async with unit_of_work(batch) as work:
                    for _ in work.records():
                        raise AssertionError("a batch that is poison has no records")
            error = await batch.done
        finally:
            self.agent_turn.end()
        return None if error is None else (error, batch.index)

    async def _hold(self, who: str, error: NewerRelease, item: Item | None = None) -> bool:
        """Wait a little for a newer build, and say once what for; returns whether the task goes on."""
        at = "" if item is None else f" at {item[0].name}/{self.partition}/{item[1].offset}"
        line = f"{self} waits{at}: {error}"
        if self._waits.get(who) != line:
            log.error("%s", line)
            self._waits[who] = line
        if self._deferred and item is not None:
            await self._commit_deferred()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), NEWER_PAUSE_S)
        return not self._stopping.is_set()

    async def accompany(self, fun: Callable[["Task"], Awaitable[None]]) -> None:
        """Run a companion; one that meets what a newer release has written waits, and begins again."""
        who = f"companion {getattr(fun, '__qualname__', fun)}"
        goes_on = True
        while goes_on:
            try:
                await self._run_companion(fun, who)
                self._waits.pop(who, None)
                return
            except NewerRelease as error:
                newer = error
            except BaseExceptionGroup as group:
                found, others = group.split(NewerRelease)
                if found is None or others is not None:
                    raise
                newer = _first_of(found)
            goes_on = await self._hold(who, newer)

    async def _run_companion(self, fun: Callable[["Task"], Awaitable[None]], who: str) -> None:
        """Run it; when it has lived longer than a pause it does not wait any more."""
        lives = asyncio.get_running_loop().call_later(NEWER_PAUSE_S, self._waits.pop, who, None)
        try:
            await fun(self)
        finally:
            lives.cancel()

    async def _back_off(self, attempt: int, error: BaseException) -> None:
        """Wait exponentially longer with each attempt, with jitter, unless told to stop."""
        pause_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        log.warning("%s tries again in %.2f s (%s): %r", self, pause_s, attempt, error)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)

    # -- committing

    async def commit(self, work: UnitOfWork) -> None:
        """Make a unit of work real: in Kafka first, then in RocksDB. The caller holds the lock."""
        chunk = work.batch.chunk if work.batch is not None else Chunk([], {}, {})
        self._require_continuity(chunk)
        changes = self._encode_changes(work)
        offsets = {**self._deferred, **chunk.end}
        if self._may_wait(work):
            self._deferred = offsets
            self.positions.update(chunk.end)
            self.counts.records += len(chunk.items)
            return
        if not await self._disk.room(self._stopping):
            raise Transient(f"{self} was told to stop while it waited for room on the disk")
        if self.transactional:
            ends = await self._commit_transaction(work.outbox, offsets)
        else:
            ends = await self._producer.send(work.outbox)
        try:
            self._apply(work, changes, ends)
        except Exception as error:
            raise store_failure(self._path, error) from error
        if not self.transactional and offsets:
            await self._producer.commit_offsets(offsets, *self._membership())
        self._deferred = {}
        self._deferred_until = time.monotonic() + DEFER_S_MAX
        self.positions.update(chunk.end)
        self._progress_at = time.monotonic()
        if work.batch is not None:
            self._committed_at = self._progress_at
        self.counts.records += len(chunk.items)
        self.counts.batches += 1

    def _may_wait(self, work: UnitOfWork) -> bool:
        """Whether a batch that changed and emitted nothing may leave its offsets to the next transaction.

        They go with whatever this task commits next, so that nothing is ever committed past them; a task
        that falls idle commits them by themselves.
        """
        if work.batch is None or work.outbox.partitions or work.callbacks:
            return False
        if not self._deferred:
            self._deferred_until = time.monotonic() + DEFER_S_MAX
        return time.monotonic() < self._deferred_until

    async def _commit_deferred(self) -> None:
        with suppress(Transient):  # the next transaction takes them along
            async with unit_of_work(self):
                pass

    def _require_continuity(self, chunk: Chunk) -> None:
        for tp, begin in chunk.begin.items():
            if begin != self.positions[tp]:
                raise PositionGap(f"{self}: {tp} goes on at {begin}, not at {self.positions[tp]}")

    def _encode_changes(self, work: UnitOfWork) -> dict[str, dict[bytes, bytes | None]]:
        changes: dict[str, dict[bytes, bytes | None]] = {}
        now_ms = time.time_ns() // 1_000_000
        for name, view in work.views.items():
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
                    work.outbox.append(table.changelog, key, data, [], now_ms)
                if encoded:
                    changes[name] = encoded
        return changes

    def _require_own_shards(self, table: str, keys: Iterable[str]) -> None:
        for key in keys:
            if shard_named(key) not in self.shards:
                raise ValueError(
                    f"table {table}: {key!r} is no key shard of {self}; its shards are {self.shards}"
                )

    async def _commit_transaction(self, outbox: Outbox, offsets: dict[TP, int]) -> dict[TP, int]:
        producer = self._producer
        await producer.add(outbox.partitions, offsets)
        ends: dict[TP, int]
        ends, _ = await all_done(producer.send(outbox), producer.send_offsets(offsets))
        if outbox.partitions or offsets:
            await producer.commit()
        return ends

    def _apply(
        self, work: UnitOfWork, changes: dict[str, dict[bytes, bytes | None]], ends: dict[TP, int]
    ) -> None:
        if not changes or self._store is None:
            return
        if QUARANTINE in changes:
            for key, entry in work.views[QUARANTINE].changes.items():
                was_held = self.tables[QUARANTINE].get(key) is not None
                self.dead_letters.held_keys += (entry is not None) - was_held
        self._store.apply(changes, {name: ends[self.tables[name].changelog] for name in changes})
        for name in changes:
            self.tables[name].committed(work.views[name].changes)

    async def abort(self) -> None:
        """End what a failed commit has left open. Waits for the coordinator as long as it takes."""
        if self.transactional:
            await self._producer.abort()


def _first_of(group: BaseExceptionGroup[NewerRelease]) -> NewerRelease:
    """One of those that a group of tasks has raised."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, NewerRelease)
    return found
