"""Batches, records and the unit of work: what an agent sees of the engine."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from app.engine.core.dead_letter import QUARANTINE
from app.engine.errors import AnswerFailed, CannotGoOn, Fenced, NewerRelease, Poison, Transient
from app.engine.kafka.cluster import TP, route
from app.engine.kafka.transaction import Header, Outbox, TransactionFailed
from app.engine.topics import CORRELATION_ID, EVENT_ID, EVENT_TYPE, SCHEMA_VERSION, TRACEPARENT, TopicSpec

if TYPE_CHECKING:
    from app.engine.core.task import Task
    from app.engine.state.table import Table, TaskTable

_MISSING: Any = object()
ENDINGS_MAX = 100
ID_BYTES_MAX = 512
"""A longer id of an input, which every event made of it would carry, gives way to its SHA-256."""


Item = tuple[TopicSpec, Any]
"""The topic a record came from, and the record as it came from the log."""


class Chunk:
    """Consecutive records of a task's inputs: what one transaction takes in.

    `begin` and `end` are the offsets of each input partition before and after it.
    """

    __slots__ = ("begin", "end", "items")

    def __init__(self, items: list[Item], begin: dict[TP, int], end: dict[TP, int]) -> None:
        self.items = items
        self.begin = begin
        self.end = end

    def split(self, index: int, partition: int) -> list["Chunk"]:
        """Part at `index` into the records before it, the record itself and those behind."""
        parts = []
        begin = dict(self.begin)
        for items in (self.items[:index], self.items[index : index + 1], self.items[index + 1 :]):
            if items:
                ends = {TP(spec.name, partition): raw.offset + 1 for spec, raw in items}
                parts.append(Chunk(items, {tp: begin[tp] for tp in ends}, ends))
                begin.update(ends)
        for tp, end in self.end.items():  # markers behind the last record belong to the last part that has it
            last = next((part for part in reversed(parts) if tp in part.end), parts[-1])
            last.begin.setdefault(tp, self.begin[tp])
            last.end[tp] = end
        return parts


class Record(msgspec.Struct, frozen=True, gc=False):
    """A decoded input record. `timestamp_ms` is the broker's append time where the topic says so.

    `value` is None for a tombstone, which reaches an agent where the topic has `tombstones`.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: Any
    headers: dict[str, bytes]

    @property
    def source(self) -> str:
        """Where the record stands: topic/partition/offset, an id that is unique for ever."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class Batch:
    """One delivery of records to an agent; `unit_of_work(batch)` opens it."""

    def __init__(
        self,
        task: "Task",
        chunk: Chunk,
        poison: BaseException | None = None,
        attempts: int = 0,
        *,
        brief: bool = False,
        unanswered: bool = False,
    ) -> None:
        self.task = task
        self.chunk = chunk
        self.poison = poison
        self.attempts = attempts
        self.brief = brief
        self.unanswered = unanswered
        self.index = 0
        self.done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def __len__(self) -> int:
        return len(self.chunk.items)

    def finish(self, error: BaseException | None) -> None:
        if not self.done.done():
            self.done.set_result(error)


class TableView:
    """One table inside a unit of work: committed records under the changes made so far.

    Values are replaced, never edited in place: assign the new value. Keys are text.
    """

    __slots__ = ("_table", "changes")

    def __init__(self, table: "TaskTable") -> None:
        self._table = table
        self.changes: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        value = self.changes.get(key, _MISSING)
        if value is _MISSING:
            value = self._table.get(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes[key] = value

    def __delitem__(self, key: str) -> None:
        self.changes[key] = None


class Endings(dict[int, bytes]):
    """What the event ids of a service end in, by their count within a record: formatted once."""

    def __init__(self, app_id: str) -> None:
        self._app_id = app_id

    def __missing__(self, number: int) -> bytes:
        ending = f":{self._app_id}:{number}".encode()
        if number < ENDINGS_MAX:
            self[number] = ending
        return ending


_Put = Callable[[bytes, bytes, list[Header], int], None]


class _Puts(dict[bytes, _Put]):
    """By key, what takes the records for one topic; found when the first of a key comes."""

    def __init__(self, outbox: Outbox, topic: str, partitions: int) -> None:
        self._outbox, self._topic, self._partitions = outbox, topic, partitions

    def __missing__(self, key: bytes) -> _Put:
        self[key] = put = self._outbox.lane(route(self._topic, key, self._partitions)).append
        return put


class UnitOfWork:
    """Everything that one batch changes and emits: it all happens, or none of it does.

    async with unit_of_work(batch) as work:
        for record in work.records():
            work[TABLE][key] = ...
            work.emit(TOPIC, value)
    """

    def __init__(self, task: "Task", batch: Batch | None) -> None:
        self.task = task
        self.batch = batch
        self.outbox = Outbox(task.transactional)
        self.views: dict[str, TableView] = {}
        self.callbacks: list[Callable[[], None]] = []
        self._record: Record | None = None
        self._spec: Any = None
        self._id_of: Callable[[Any], str] | None = None
        self._place = b""
        self._emitted = 0
        self._origin = b""
        self._endings = task.endings
        self._puts: dict[str, _Puts] = {}
        self._all_read = batch is None or not len(batch)
        self._now_ms = time.time_ns() // 1_000_000
        self._turn = task.companion_turn if batch is None else task.agent_turn

    def __getitem__(self, table: "Table") -> TableView:
        view = self.views.get(table.name)
        if view is None:
            view = self.views[table.name] = TableView(self.task.tables[table.name])
        return view

    def records(self) -> Iterator[Record]:
        """Yield the batch's records in order, decoded; what can't be decoded becomes a dead letter.

        Raises NewerRelease for a record that this build is too old for: the task waits in front of it.
        """
        assert self.batch is not None, "a unit of work without a batch has no records"
        batch, task, dead_letters = self.batch, self.task, self.task.dead_letters
        partition, at_home = task.partition, task.at_home
        some_held = dead_letters.held_keys > 0
        spec = None
        for index, (source, raw) in enumerate(batch.chunk.items):
            batch.index = index
            if source is not spec:
                self._spec = spec = source
                self._id_of = spec.id_of
                self._place = b"%b/%d/" % (spec.name.encode(), partition)
                topic, key_of, decode = spec.name, spec.key_of, spec.codec.decode
            key = raw.key
            if key not in at_home and (stray := task.stray(key, topic)) is not None:
                self._refuse(raw, stray, quarantine=False)
                continue
            if some_held and not spec.protects and dead_letters.holds(self, spec, raw):
                continue
            if batch.poison is not None:
                holds_key = not isinstance(batch.poison, Poison) or batch.poison.holds_key
                self._refuse(raw, batch.poison, batch.attempts, quarantine=holds_key)
                continue
            try:
                data, headers = raw.value, raw.headers
                headers = dict(headers) if headers else {}
                if data is not None:
                    value = decode(headers.get(EVENT_TYPE, b""), headers.get(SCHEMA_VERSION, b""), data)
                    if key_of is not None and key != key_of(value):
                        raise ValueError(f"the key {key!r} is not the one of the value, {key_of(value)!r}")
                else:
                    value = None
                    _require_tombstone(spec, key)
            except NewerRelease:
                raise
            except Exception as error:  # a codec raises ValueError, but garbage finds its other errors too
                self._refuse(raw, error, quarantine=not spec.edge)
                some_held = some_held or QUARANTINE in self.views
                continue
            self._record = record = Record(topic, partition, raw.offset, raw.timestamp, key, value, headers)
            self._emitted = 0
            yield record
        self._record = None
        self._all_read = True
        batch.index = len(batch) // 2  # what fails from here on may be anyone's fault

    def refuse(self, error: Exception) -> None:
        """Make the record in hand a dead letter that holds no key, in this unit of work: no other one waits.

        It costs no run of its own, as `Poison` does. Call it before anything is changed or emitted for the
        record, and go on with the next.
        """
        assert self.batch is not None, "a unit of work without a batch has no records"
        assert self._record is not None, "there is no record in hand"
        _, raw = self.batch.chunk.items[self.batch.index]
        self._refuse(raw, error, quarantine=False)
        self._record = None

    def _refuse(self, raw: Any, error: BaseException, attempts: int = 1, *, quarantine: bool) -> None:
        """Make the record a dead letter, and let the service answer it (`App.buried`) in the same commit."""
        spec, task, batch = self._spec, self.task, self.batch
        quarantine = quarantine and not spec.protects
        task.dead_letters.bury(self, spec, raw, error, attempts, quarantine=quarantine)
        if not task.buried or (batch is not None and batch.unanswered):
            return
        headers = dict(raw.headers or ())
        self._record = Record(spec.name, task.partition, raw.offset, raw.timestamp, raw.key, None, headers)
        self._emitted = 0
        try:
            for fun in task.buried:
                fun(self, spec, raw, error)
        except (Transient, NewerRelease, Fenced, CannotGoOn):
            raise
        except Exception as failure:
            raise AnswerFailed(f"the answer to the dead letter {self._record.source} failed") from failure
        self._record = None

    def bury(
        self,
        source: str,
        key: bytes | None,
        value: bytes,
        error: BaseException,
        *,
        headers: Iterable[Header] = (),
    ) -> None:
        """Make a dead letter of something that did not come from Kafka; `source` says where it did come from.

        It quarantines nothing: what depends on it only the service knows.
        """
        self.task.dead_letters.bury_outside(self, source, key, value, error, headers)

    def emit(
        self,
        topic: TopicSpec,
        value: Any,
        *,
        key: str | bytes | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Send `value` to `topic` when the unit of work commits.

        Without `key` it is the topic's own for that value. `event_id` defaults to the id of the record being
        processed, the service and a count: the same for the same input.
        """
        event_type, version, data = topic.codec.encode(value)
        if key is None:
            if topic.key_of is None:
                raise ValueError(f"{topic.name} has no key of its own: pass one")
            key = topic.key_of(value)
        elif isinstance(key, str):
            key = key.encode()
        record = self._record
        if event_id is not None:
            id_bytes = event_id.encode()
        elif record is None:
            raise ValueError("outside a record emit() needs an event_id")
        else:
            number = self._emitted
            self._emitted = number + 1
            if number:
                origin = self._origin
            elif self._id_of is None and not record.headers:
                origin = self._origin = b"%b%d" % (self._place, record.offset)
            else:
                origin = self._origin = self._identify(record)
            id_bytes = origin + self._endings[number]
        headers = [(EVENT_TYPE, event_type), (SCHEMA_VERSION, version), (EVENT_ID, id_bytes)]
        inherited = record.headers if record is not None else {}
        if inherited or correlation_id is not None:
            _inherit(headers, inherited, correlation_id)
        puts = self._puts.get(topic.name)
        if puts is None:
            puts = self._puts[topic.name] = self._puts_to(topic)
        puts[key](key, data, headers, self._now_ms)

    def _identify(self, record: Record) -> bytes:
        """The record's id: its topic's own for the value, else its `event-id`, else where it stands."""
        if self._id_of is not None and record.value is not None:
            origin = self._id_of(record.value).encode()
        else:
            origin = record.headers.get(EVENT_ID) or record.source.encode()
        return origin if len(origin) <= ID_BYTES_MAX else sha256(origin).hexdigest().encode()

    def _puts_to(self, topic: TopicSpec) -> _Puts:
        count = self.task.partition_counts.get(topic.name)
        if count is None:
            raise ValueError(f"topic {topic.name} is not among the `topics` of its App: add it")
        return _Puts(self.outbox, topic.name, count)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when what this unit of work did is committed; not if the process dies."""
        self.callbacks.append(callback)

    async def __aenter__(self) -> "UnitOfWork":
        if self.batch is not None:
            self._turn.end()  # it is somebody else's now
        await self.task.lock.acquire()
        self._turn.begin()
        if self.task.closed:
            self._turn.end()
            self.task.lock.release()
            raise Fenced(f"{self.task}: no longer ours")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                error = await self._commit()
            elif isinstance(error, CannotGoOn):
                self.task.give_up(error)
        finally:
            self._turn.end()
            self.task.lock.release()
        if self.batch is not None:
            self.batch.finish(error)
        if error is None:
            for callback in self.callbacks:
                callback()
        elif self.batch is None and kind is None:
            raise error
        return self.batch is not None and isinstance(error, Exception)

    async def _commit(self) -> Exception | None:
        try:
            self._require_all_read()
            self._turn.end()
            await self.task.commit(self)
        except (Fenced, CannotGoOn) as error:
            self.task.give_up(error)
            return error
        except asyncio.CancelledError:
            self.task.give_up(Fenced("a commit was cancelled: what became of it a new take-over finds out"))
            raise
        except Exception as error:
            try:
                await self.task.abort()
            except Exception as worse:
                self.task.give_up(worse)
                return worse
            return Transient(str(error)) if isinstance(error, TransactionFailed) else error
        return None

    def _require_all_read(self) -> None:
        if not self._all_read:
            raise RuntimeError("the agent left records of its batch unread")


def unit_of_work(origin: "Batch | Task") -> UnitOfWork:
    """Open the unit of work of a batch, or of a task for input that comes from outside Kafka.

    With a batch, an exception inside is the engine's to handle: nothing is committed and the batch comes
    again. With a task it is raised to the caller, who must try again from the last committed state.
    """
    if isinstance(origin, Batch):
        return UnitOfWork(origin.task, origin)
    return UnitOfWork(origin, None)


def _require_tombstone(spec: TopicSpec, key: bytes | None) -> None:
    """Raises ValueError where a record without a value means nothing."""
    if not spec.tombstones:
        raise ValueError("the record has no value")
    if key is None:
        raise ValueError("the record has neither key nor value")


def _inherit(headers: list[Header], inherited: dict[str, bytes], correlation_id: str | None) -> None:
    if correlation_id is not None:
        headers.append((CORRELATION_ID, correlation_id.encode()))
    elif CORRELATION_ID in inherited:
        headers.append((CORRELATION_ID, inherited[CORRELATION_ID]))
    if TRACEPARENT in inherited:
        headers.append((TRACEPARENT, inherited[TRACEPARENT]))
