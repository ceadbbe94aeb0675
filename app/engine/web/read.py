"""Reads this worker's committed tables for people: in short slices, so that processing goes on meanwhile."""

import asyncio
import heapq
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from app.engine.core.dead_letter import QUARANTINE
from app.engine.core.task import Task
from app.engine.errors import StoreFailed
from app.engine.state.standby import Standby
from app.engine.state.table import Table, TaskTable

SLICE_S = 0.002
"""How long a scan may keep the event loop before others have their turn."""

SLICE_RECORDS = 64
SCANS_AT_ONCE_MAX = 4
SCAN_RECORDS_MAX = 50_000
SCAN_S_MAX = 1.0
COUNT_S_MAX = 0.5
LOCK_WAIT_S_MAX = 5.0

LIMIT_DEFAULT, LIMIT_MAX = 50, 500
QUERY_CHARS_MAX = 200
KEY_BYTES_MAX = 512
VALUE_BYTES_MAX = 2_000
TEXT_CHARS_MAX = 200
PAGE_BYTES_MAX = 512 * 1024

Match = Literal["anywhere", "start"]


class Query(msgspec.Struct, frozen=True):
    """Which keys: those above `after` that contain `text`, or start with it, at most `limit`."""

    text: str = ""
    match: Match = "anywhere"
    after: str | None = None
    limit: int = LIMIT_DEFAULT


NULL = msgspec.Raw(b"null")


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record in a list. Too long a value gives way to the `text` it begins with, too long a key is cut."""

    key: str
    partition: int
    bytes: int
    value: msgspec.Raw = NULL
    text: str | None = None
    key_cut: bool = False

    @property
    def cursor(self) -> str:
        """The `after` that goes on behind this record; behind a cut key, behind all that begin like it."""
        return self.key + "\U0010ffff" if self.key_cut else self.key


class Rows(msgspec.Struct, frozen=True):
    """What one worker found in `partitions`, in the order of keys, having looked at `searched` records.

    `reached` is the cursor up to which it has looked; None when there is nothing above.
    """

    records: list[Row]
    partitions: list[int]
    searched: int
    reached: str | None


class Found(msgspec.Struct, frozen=True):
    """One record, whole."""

    partition: int
    value: msgspec.Raw


class Lookup(msgspec.Struct, frozen=True):
    """What one worker, having looked into `partitions`, knows of a key."""

    partitions: list[int]
    found: Found | None


class Count(msgspec.Struct, frozen=True):
    """A table's records in one partition; `exact` False means that there are more than counted."""

    table: str
    partition: int
    count: int
    exact: bool
    changelog_offset: int


class TaskState(msgspec.Struct, frozen=True):
    """How a task of this worker is; `positions` are the next offsets of its inputs, by topic, `lag` the
    records behind them."""

    partition: int
    ready: bool
    fenced: str | None
    records: int
    batches: int
    positions: dict[str, int]
    waits: Sequence[str] = ()
    lag: Mapping[str, int] = {}


class WorkerState(msgspec.Struct, frozen=True):
    """What a worker tells of itself."""

    service: str
    ready: bool
    tasks: list[TaskState]
    counts: list[Count]
    not_ready: Sequence[str] = ()


class TableState(msgspec.Struct, frozen=True):
    """A table's partition at one moment: what it holds when its changelog is applied up to `offset`."""

    table: str
    partition: int
    changelog_topic: str
    offset: int
    count: int
    sha256: str


class Busy(Exception):
    """A task did not come to rest in time to be read."""


class Reader:
    """The committed state of the tasks that are this worker's at the moment."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._turn = asyncio.Semaphore(SCANS_AT_ONCE_MAX)
        self._counts: dict[tuple[str, int], Count] = {}

    def tables(self) -> list[Table]:
        """The service's own, then the engine's."""
        declared: list[Table] = self._app.tables.declared
        return sorted(declared, key=lambda table: table.name == QUARANTINE)

    def tasks(self, partitions: Iterable[int] | None = None) -> list[Task]:
        """The restored tasks of the partitions, None for all, that are still ours."""
        wanted = None if partitions is None else set(partitions)
        return [
            task
            for partition, task in sorted(self._app.tables.tasks.items())
            if task.ready.is_set() and not task.closed and (wanted is None or partition in wanted)
        ]

    def find(self, table: str, key: str) -> Lookup:
        tasks = self.tasks()
        return Lookup([task.partition for task in tasks], _find(tasks, table, key))

    async def rows(self, table: str, partitions: Iterable[int] | None, query: Query) -> Rows:
        """One more row than the limit, if there is one, so that the asker knows whether a page follows."""
        async with self._turn:
            return await self._rows(table, self.tasks(partitions), query)

    async def _rows(self, table: str, tasks: list[Task], query: Query) -> Rows:
        needle = query.text.encode()
        matches = bytes.startswith if query.match == "start" else bytes.__contains__
        found: list[Row] = []
        searched, size, reached = 0, 0, None
        pace = Pace(SCAN_S_MAX)
        for key, value, partition in heapq.merge(*(_scan(task, table, query) for task in tasks)):
            if matches(key, needle):
                found.append(_row(key, value, partition))
                size += min(len(key), KEY_BYTES_MAX) + min(len(value), VALUE_BYTES_MAX)
            elif query.match == "start":
                break
            searched += 1
            over = len(found) > query.limit or size > PAGE_BYTES_MAX or searched >= SCAN_RECORDS_MAX
            if over or (searched % SLICE_RECORDS == 0 and await pace.is_over()):
                reached = _row(key, b"", partition).cursor
                break
        return Rows(found, [task.partition for task in tasks], searched, reached)

    async def report(self) -> WorkerState:
        tasks = [_report(task) for _, task in sorted(self._app.tables.tasks.items())]
        counts, reasons = await self.counts(), self._app.not_ready()
        return WorkerState(self._app.conf.id, not reasons, tasks, counts, reasons)

    async def counts(self) -> list[Count]:
        """Count every table; what has not changed since it was counted is not counted again."""
        async with self._turn:
            pace = Pace(COUNT_S_MAX)
            counts = []
            for task in self.tasks():
                with _giving_up(task):
                    counts += [
                        await self._count(table, pace) for table in task.tables.values() if not task.closed
                    ]
        self._counts = {(count.table, count.partition): count for count in counts}
        return counts

    async def _count(self, table: TaskTable, pace: "Pace") -> Count:
        partition, offset = table.changelog.partition, table.offset
        known = self._counts.get((table.name, partition))
        if known is not None and known.exact and known.changelog_offset == offset:
            return known
        count = 0
        for _ in table.scan():
            count += 1
            if count % SLICE_RECORDS == 0 and await pace.is_over():
                return Count(table.name, partition, count, False, offset)
        return Count(table.name, partition, count, True, offset)

    async def states(self) -> list[TableState]:
        """Every table with its digest, each task at one moment. Raises Busy."""
        return [state for task in self.tasks() for state in await self._states_of(task)]

    async def standby_states(self) -> list[TableState]:
        """The same of every standby that stands still meanwhile: of another one there is nothing to say."""
        standbys = list(self._app.tables.standbys.values())
        return [state for standby in standbys for state in await self._states_of_standby(standby)]

    async def _states_of_standby(self, standby: Standby) -> list[TableState]:
        tables = standby.tables
        before = _offsets(tables)
        try:
            states = await asyncio.to_thread(_states, standby.partition, tables)
        except StoreFailed as error:
            standby.give_up(error)
            return []
        except Exception:
            if standby.tables:
                raise
            return []  # its tables were closed under the reader
        return states if standby.tables and _offsets(tables) == before else []

    async def _states_of(self, task: Task) -> list[TableState]:
        """Between two units of work, in a thread: hashing takes a while."""
        try:
            await asyncio.wait_for(task.lock.acquire(), LOCK_WAIT_S_MAX)
        except TimeoutError:
            raise Busy(
                f"partition {task.partition} has been at one batch for {LOCK_WAIT_S_MAX:g} s"
            ) from None
        try:
            with _giving_up(task):
                return [] if task.closed else await asyncio.to_thread(_states, task.partition, task.tables)
        finally:
            task.lock.release()


class Pace:
    """Gives way to the event loop after each slice; is over after `seconds` altogether."""

    def __init__(self, seconds: float) -> None:
        now = time.perf_counter()
        self._slice_end = now + SLICE_S
        self._end = now + seconds

    async def is_over(self) -> bool:
        now = time.perf_counter()
        if now >= self._slice_end:
            await asyncio.sleep(0)
            self._slice_end = time.perf_counter() + SLICE_S
        return now >= self._end


@contextmanager
def _giving_up(task: Task) -> Iterator[None]:
    """A reader that finds the task's store damaged sees to it that it is restored. Raises Busy then."""
    try:
        yield
    except StoreFailed as error:
        task.give_up(error)
        raise Busy(f"partition {task.partition} is about to be restored: {error}") from error


def _find(tasks: list[Task], table: str, key: str) -> Found | None:
    for task in tasks:
        held = task.tables[table]
        with _giving_up(task):
            value = held.raw(key)
        if value is not None:
            return Found(task.partition, _as_json(value))
    return None


def _scan(task: Task, table: str, query: Query) -> Iterator[tuple[bytes, bytes, int]]:
    """The records from where the query begins; a snapshot of the moment of the first."""
    after = None if query.after is None else query.after.encode()
    if query.match == "start" and query.text:
        before = just_before(query.text.encode())
        after = before if after is None else max(before, after)
    with _giving_up(task):
        for key, value in task.tables[table].scan(after):
            yield key, value, task.partition


def just_before(key: bytes) -> bytes:
    """Below `key` and above every UTF-8 text below it: no text has the byte 0xff."""
    return key[:-1] + bytes([key[-1] - 1]) + b"\xff" if key[-1] else key[:-1]


def _row(key: bytes, value: bytes, partition: int) -> Row:
    name = key[:KEY_BYTES_MAX].decode(errors="ignore")
    key_cut = len(key) > KEY_BYTES_MAX
    if len(value) <= VALUE_BYTES_MAX:
        return Row(name, partition, len(value), value=_as_json(value), key_cut=key_cut)
    text = value[: 4 * TEXT_CHARS_MAX].decode(errors="ignore")[:TEXT_CHARS_MAX]
    return Row(name, partition, len(value), text=text, key_cut=key_cut)


def _as_json(value: bytes) -> msgspec.Raw:
    """A value as it is; one that is no JSON, as somebody else may write into a changelog, as a text."""
    try:
        msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(value.decode(errors="backslashreplace")))
    return msgspec.Raw(value)


def _report(task: Task) -> TaskState:
    return TaskState(
        partition=task.partition,
        ready=task.ready.is_set(),
        fenced=None if task.fenced is None else str(task.fenced),
        records=task.counts.records,
        batches=task.counts.batches,
        positions={tp.topic: offset for tp, offset in task.positions.items()},
        waits=[*filter(None, [task.waits_for]), *task.watermarks.waiting],
        lag=task.lag,
    )


def _states(partition: int, tables: Mapping[str, TaskTable]) -> list[TableState]:
    return [
        TableState(name, partition, table.changelog.topic, table.offset, *table.digest())
        for name, table in tables.items()
    ]


def _offsets(tables: Mapping[str, TaskTable]) -> list[int]:
    return [table.offset for table in tables.values()]
