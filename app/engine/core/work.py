"""Batches, records and the unit of work: what an agent sees of the engine."""

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic

import msgspec
from typing_extensions import TypeVar

from app.engine.core.chunk import Chunk
from app.engine.core.dead_letter import QUARANTINE
from app.engine.core.effects import Effects
from app.engine.core.event_ids import shortened
from app.engine.core.owned import OwnedPartition
from app.engine.errors import AnswerFailed, CannotGoOn, Fenced, InDoubt, NewerRelease, Poison, Transient
from app.engine.kafka.cluster import RawRecord, route
from app.engine.kafka.transaction import Header, Outbox, TransactionFailed
from app.engine.topics import CORRELATION_ID, EVENT_ID, EVENT_TYPE, SCHEMA_VERSION, TRACEPARENT, TopicSpec

V = TypeVar("V", default=Any)
W = TypeVar("W")


class Record(msgspec.Struct, Generic[V], frozen=True, gc=False):
    """A decoded input record. `timestamp_ms` is the broker's append time where the topic says so.

    `value` is None for a tombstone, which reaches an agent where the topic has `tombstones`.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: V
    headers: dict[str, bytes | None]

    @property
    def source(self) -> str:
        """Where the record stands: topic/partition/offset, an id that is unique for ever."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class Batch(Generic[V]):
    """One delivery of records to an agent; `unit_of_work(batch)` opens it.

    `poison` is why its one record has to be a dead letter, after `attempts`; `brief`: it goes there cut.
    `answers` are what the service does about a dead letter.
    """

    def __init__(
        self,
        task: OwnedPartition,
        chunk: Chunk,
        poison: BaseException | None = None,
        attempts: int = 0,
        *,
        brief: bool = False,
        answers: Sequence["Buried"] = (),
    ) -> None:
        self.task = task
        self.chunk = chunk
        self.poison = poison
        self.attempts = attempts
        self.brief = brief
        self.answers = answers
        self.index = 0
        self.done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def __len__(self) -> int:
        return len(self.chunk.items)

    def finish(self, error: BaseException | None) -> None:
        if not self.done.done():
            self.done.set_result(error)


Buried = Callable[["UnitOfWork[Any]", TopicSpec, RawRecord, BaseException], None]
"""What a service does about a dead letter: see App.buried."""

Batches = AsyncIterable[Batch[V]]
"""What an agent iterates over; `V` is what the records may hold: a union, with None for tombstones."""


_Put = Callable[[bytes, bytes, list[Header], int], None]


class _Puts(dict[bytes, _Put]):
    """By key, what takes the records for one topic; found when the first of a key comes."""

    def __init__(self, outbox: Outbox, topic: str, partitions: int) -> None:
        self._outbox, self._topic, self._partitions = outbox, topic, partitions

    def __missing__(self, key: bytes) -> _Put:
        self[key] = put = self._outbox.lane(route(self._topic, key, self._partitions)).append
        return put


class UnitOfWork(Effects, Generic[V]):
    """Everything that one batch changes and emits: it all happens, or none of it does.

    async with unit_of_work(batch) as work:
        for record in work.records():
            work[TABLE][key] = ...
            work.emit(TOPIC, value)
    """

    def __init__(self, task: OwnedPartition, batch: Batch[V] | None) -> None:
        chunk, brief = (None, False) if batch is None else (batch.chunk, batch.brief)
        super().__init__(task.tables, chunk, transactional=task.transactional, brief=brief)
        self.task = task
        self.batch = batch
        self._record: Record[Any] | None = None
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

    def records(self) -> Iterator[Record[V]]:
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
                self.make_dead_letter(raw, stray, quarantine=False)
                continue
            if some_held and not spec.passes(raw.headers) and dead_letters.holds(self, spec, raw):
                continue
            if batch.poison is not None:
                holds_key = not isinstance(batch.poison, Poison) or batch.poison.holds_key
                self.make_dead_letter(raw, batch.poison, batch.attempts, quarantine=holds_key)
                continue
            try:
                data, headers = raw.value, dict(raw.headers)
                if data is not None:
                    value = decode(headers.get(EVENT_TYPE) or b"", headers.get(SCHEMA_VERSION) or b"", data)
                    if key_of is not None and key != key_of(value):
                        raise ValueError(_other_key(key, key_of(value)))
                else:
                    value = None
                    _require_tombstone(spec, key)
            except NewerRelease:
                raise
            except Exception as error:  # a codec raises ValueError, but garbage finds its other errors too
                self.make_dead_letter(raw, error, quarantine=not spec.edge)
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
        self.make_dead_letter(raw, error, quarantine=False)
        self._record = None

    def make_dead_letter(
        self, raw: RawRecord, error: BaseException, attempts: int = 1, *, quarantine: bool
    ) -> None:
        """Make the record a dead letter, and let the service answer it (`App.buried`) in the same commit."""
        spec, task, batch = self._spec, self.task, self.batch
        quarantine = quarantine and not spec.passes(raw.headers)
        task.dead_letters.bury(self, spec, raw, error, attempts, quarantine=quarantine)
        if batch is None or not batch.answers:
            return
        headers = dict(raw.headers)
        self._record = Record(spec.name, task.partition, raw.offset, raw.timestamp, raw.key, None, headers)
        self._emitted = 0
        try:
            for answer in batch.answers:
                answer(self, spec, raw, error)
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
        topic: TopicSpec[W],
        value: W,
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
        headers: list[Header] = [(EVENT_TYPE, event_type), (SCHEMA_VERSION, version), (EVENT_ID, id_bytes)]
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
        return shortened(origin)

    def _puts_to(self, topic: TopicSpec) -> _Puts:
        count = self.task.partition_counts.get(topic.name)
        if count is None:
            raise ValueError(f"topic {topic.name} is not among the `topics` of its App: add it")
        return _Puts(self.outbox, topic.name, count)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when what this unit of work did is committed; not if the process dies."""
        self.callbacks.append(callback)

    async def __aenter__(self) -> "UnitOfWork[V]":
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
                error = await self.finish()
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

    async def finish(self) -> Exception | None:
        """Commit; returns what came in between."""
        try:
            self._require_all_read()
            self._turn.end()
            await self.task.commit(self)
        except (Fenced, CannotGoOn) as error:
            self.task.give_up(error)
            return error
        except asyncio.CancelledError:
            self.task.give_up(InDoubt("a commit was cancelled: what became of it a new take-over finds out"))
            raise
        except Exception as error:
            return Transient(str(error)) if isinstance(error, TransactionFailed) else error
        return None

    def _require_all_read(self) -> None:
        if not self._all_read:
            raise RuntimeError("the agent left records of its batch unread")


def unit_of_work(origin: Batch[V] | OwnedPartition) -> UnitOfWork[V]:
    """Open the unit of work of a batch, or of a task for input that comes from outside Kafka.

    With a batch, an exception inside is the engine's to handle: nothing is committed and the batch comes
    again. With a task it is raised to the caller, who must try again from the last committed state.
    """
    if isinstance(origin, Batch):
        return UnitOfWork(origin.task, origin)
    return UnitOfWork(origin, None)


def _other_key(key: bytes | None, meant: bytes) -> str:
    meant_text = meant.decode(errors="backslashreplace")
    if key is None:
        return f"the record has no key, and the one of the value is '{meant_text}'"
    return f"the key '{key.decode(errors='backslashreplace')}' is not the one of the value, '{meant_text}'"


def _require_tombstone(spec: TopicSpec, key: bytes | None) -> None:
    """Raises ValueError where a record without a value means nothing."""
    if not spec.tombstones:
        raise ValueError("the record has no value")
    if key is None:
        raise ValueError("the record has neither key nor value")


def _inherit(headers: list[Header], inherited: dict[str, bytes | None], correlation_id: str | None) -> None:
    if correlation_id is not None:
        headers.append((CORRELATION_ID, correlation_id.encode()))
    elif CORRELATION_ID in inherited:
        headers.append((CORRELATION_ID, inherited[CORRELATION_ID]))
    if TRACEPARENT in inherited:
        headers.append((TRACEPARENT, inherited[TRACEPARENT]))
