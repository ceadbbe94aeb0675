"""An operator's desk: sends commands as they have to be sent, and waits for what the services answer.

Right means: the key and the headers of the topic, on the partition of Kafka's default partitioner (murmur2),
under an id of its own, which the answer names again as its correlation id.
"""

import asyncio
import contextlib
import getpass
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from app.engine.errors import NewerRelease
from app.engine.kafka.cluster import LATEST, TP, Cluster, partition_of, retry
from app.engine.topics import CORRELATION_ID, EVENT_ID, EVENT_TYPE, SCHEMA_VERSION, TopicSpec
from app.errors import UserError
from app.log_reader import FETCH_BYTES, bounds, decoded, header, read_up_to
from app.topics import COMMAND_ANSWERS
from models.events import CommandAnswered

T = TypeVar("T")

ANSWER_S_MAX: Final = 10.0
"""How long a command waits for its answer, and any single question to Kafka."""
ANSWER_POLL_MS: Final = 200
STOP_S_MAX: Final = 2.0
VERSION_MAX: Final = 2**53
"""What `models.commands.Version` allows."""


class Unreadable(NamedTuple):
    """A value that this build can't read, and why."""

    reason: str


class Sent(NamedTuple):
    """A command that stands in its topic, and where."""

    topic: str
    partition: int
    offset: int
    command: Any
    subject: str
    id: str


class NotAnswered(UserError):
    """Commands that stand in the log and have no answer yet; `answers` are those of the others."""

    def __init__(self, missing: Sequence[Sent], answers: Sequence[CommandAnswered], within_s: float) -> None:
        self.answers = answers
        first = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        super().__init__(
            f"no answer within {within_s:g} s to {type(first.command).__name__} of {first.subject!r}{more}, "
            f"which stands in {first.topic}/{first.partition}/{first.offset} and will be judged when its "
            "service runs: see that it does, then look at what is in force before you send it again"
        )


class Desk:
    """A connection to one cluster. Everything is bounded by `wait_s` and raises UserError."""

    def __init__(self, bootstrap: str, wait_s: float = ANSWER_S_MAX) -> None:
        self.bootstrap = bootstrap
        self.wait_s = wait_s
        self._cluster = Cluster(bootstrap, "operator")
        self._topics: set[str] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, bootstrap: str, wait_s: float = ANSWER_S_MAX) -> "AsyncIterator[Desk]":
        desk = cls(bootstrap, wait_s)
        try:
            await desk._ask(desk._cluster.start())
            desk._topics = set(await desk._ask(desk._list_topics()))
            yield desk
        finally:
            await desk._cluster.stop()

    # -- reading

    async def in_force(self, spec: TopicSpec) -> dict[str, Any]:
        """Every key's last value, decoded; `Unreadable` where this build can't."""
        records = await self._last_records(spec.name)
        found = {_text(key): _decoded(spec, record) for key, record in records.items()}
        return {key: value for key, value in found.items() if value is not None}

    async def last_of(self, spec: TopicSpec, key: str) -> Any:
        """One key's last value: None where there is none, `Unreadable` where this build can't read it."""
        data = _bytes(key)
        record = (await self._last_records(spec.name, await self._home(spec.name, data))).get(data)
        return None if record is None else _decoded(spec, record)

    async def last_record(self, topic: str, key: str) -> Any:
        """The last record of one key, None where there is none or it is deleted."""
        data = _bytes(key)
        return (await self.last_records(topic, await self._home(topic, data))).get(data)

    async def last_records(self, topic: str, partition: int | None = None) -> dict[bytes, Any]:
        """The last record of each key that is not deleted, of one partition or of all."""
        records = await self._last_records(topic, partition)
        return {key: record for key, record in records.items() if record.value is not None}

    async def records_of(self, topic: str, key: str) -> AsyncIterator[tuple[TP, Any]]:
        """Every record with this key that the topic has now, in their order, and where they stand."""
        data = _bytes(key)
        async for tp, record in self.records(topic, await self._home(topic, data)):
            if record.key == data:
                yield tp, record

    async def records(self, topic: str, partition: int) -> AsyncIterator[tuple[TP, Any]]:
        """Every record that one partition has now, in their order, and where they stand."""
        tp = TP(topic, partition)
        pieces = aiter(read_up_to(self._cluster, *await self._ask(bounds(self._cluster, [tp], None))))
        while (piece := await self._ask(_next(pieces))) is not None:
            for record in piece:
                yield tp, record

    async def begins_at(self, topic: str, partition: int) -> int:
        """The first offset that a partition still has: above 0 where retention has deleted some."""
        tp = TP(topic, partition)
        starts, _ = await self._ask(bounds(self._cluster, [tp], None))
        return starts[tp]

    async def _last_records(self, topic: str, partition: int | None = None) -> dict[bytes, Any]:
        """The same, with the records without a value."""
        count = await self.partition_count(topic)
        numbers = range(count) if partition is None else [partition]
        starts, ends = await self._ask(bounds(self._cluster, [TP(topic, each) for each in numbers], None))
        last: dict[bytes, Any] = {}
        pieces = aiter(read_up_to(self._cluster, starts, ends))
        while (piece := await self._ask(_next(pieces))) is not None:
            last.update((record.key, record) for record in piece if record.key is not None)
        return last

    async def home(self, topic: str, key: str) -> int:
        """The partition of a key."""
        return await self._home(topic, _bytes(key))

    async def _home(self, topic: str, key: bytes) -> int:
        return partition_of(key, await self.partition_count(topic))

    async def partition_count(self, topic: str) -> int:
        if topic not in self._topics:
            raise UserError(
                f"Kafka at {self.bootstrap} has no topic {topic!r}: start the pipeline once "
                "('python -m app run' or 'up'), or set KAFKA_BOOTSTRAP to its Kafka"
            )
        return await self._ask(self._cluster.partition_count(topic))

    def has_topic(self, topic: str) -> bool:
        return topic in self._topics

    # -- commands

    async def order(self, spec: TopicSpec, commands: Sequence[Any]) -> list[CommandAnswered]:
        """Send commands and wait for their answers, in this order. Raises NotAnswered when some stay away."""
        subjects = [_subject(spec, command) for command in commands]
        answers = await self.partition_count(COMMAND_ANSWERS.name)
        tps = {TP(COMMAND_ANSWERS.name, partition_of(each.encode(), answers)) for each in subjects}
        positions = await self._ask(self._cluster.offsets(sorted(tps), LATEST))
        sent = await self._send(spec, list(zip(commands, subjects, strict=True)))
        found: dict[str, CommandAnswered] = {}
        try:
            async with asyncio.timeout(self.wait_s):
                await self._await_answers({each.id for each in sent}, positions, found)
        except TimeoutError:
            missing = [each for each in sent if each.id not in found]
            known = [found[each.id] for each in sent if each.id in found]
            raise NotAnswered(missing, known, self.wait_s) from None
        return [found[each.id] for each in sent]

    async def _send(self, spec: TopicSpec, commands: Sequence[tuple[Any, str]]) -> list[Sent]:
        count = await self.partition_count(spec.name)
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, client_id="operator", enable_idempotence=True, acks="all"
        )
        try:
            await self._ask(producer.start())
            waiting = []
            for command, subject in commands:
                sent = Sent(
                    spec.name, partition_of(subject.encode(), count), -1, command, subject, uuid.uuid4().hex
                )
                value, headers = record_of(spec, command, sent.id)
                future = await self._ask(
                    producer.send(spec.name, value, subject.encode(), sent.partition, headers=headers)
                )
                waiting.append((sent, future))
            return [
                sent._replace(offset=(await self._ask(_result(future))).offset) for sent, future in waiting
            ]
        except UserError as error:
            raise UserError(
                f"{error}; the command may have arrived: look at what is in force before you send it again"
            ) from None
        finally:
            await _stop(producer)

    async def _await_answers(
        self, wanted: set[str], positions: Mapping[TP, int], found: dict[str, CommandAnswered]
    ) -> None:
        at = dict(positions)
        while not wanted <= found.keys():
            for fetched in await retry(
                lambda: self._cluster.fetch_from_one(
                    at, wait_ms=ANSWER_POLL_MS, partition_bytes_max=FETCH_BYTES, lane="answers"
                )
            ):
                at[fetched.tp] = fetched.next_position
                for record in fetched.records:
                    correlation_id = header(record, CORRELATION_ID).decode("utf-8", "replace")
                    if correlation_id in wanted and correlation_id not in found:
                        found[correlation_id] = _answer(record)

    async def _ask(self, question: Awaitable[T]) -> T:
        """Await an answer of Kafka's, not for ever."""
        try:
            async with asyncio.timeout(self.wait_s):
                return await question
        except TimeoutError:
            raise UserError(
                f"Kafka at {self.bootstrap} does not answer within {self.wait_s:g} s: is it running? "
                "KAFKA_BOOTSTRAP or --bootstrap says where it is"
            ) from None
        except KafkaError as error:
            raise UserError(f"Kafka at {self.bootstrap}: {error or type(error).__name__}") from None

    async def _list_topics(self) -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, client_id="operator")
        try:
            await admin.start()
            return list(await admin.list_topics())
        finally:
            await admin.close()


def record_of(spec: TopicSpec, command: Any, command_id: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A command's value and headers. Its answer has `command_id` as its correlation id."""
    event_type, version, value = spec.codec.encode(command)
    return value, [
        (EVENT_TYPE, event_type),
        (SCHEMA_VERSION, version),
        (EVENT_ID, command_id.encode()),
        (CORRELATION_ID, command_id.encode()),
    ]


def next_version(in_force: int | None, *, always_takes: bool = False) -> int:
    """The version above the one in force; 1 where there is none.

    Raises UserError behind the highest one, but for a command that `always_takes`, whatever its version.
    """
    version = (in_force or 0) + 1
    if always_takes:
        return min(version, VERSION_MAX)
    if version > VERSION_MAX:
        raise UserError(f"version {in_force} is in force, the highest there is: nothing can follow it")
    return version


def login_name() -> str:
    """Who is at the keyboard."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise UserError("nobody knows who you are on this machine: say it with --who") from None


def silence() -> None:
    """Kafka's client says nothing of connections that fail: whoever waits for them says it in a line."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)


def _subject(spec: TopicSpec, command: Any) -> str:
    key_of: Callable[[Any], bytes] | None = spec.key_of
    assert key_of is not None, f"{spec.name} has no keys"
    return key_of(command).decode()


def _decoded(spec: TopicSpec, record: Any) -> Any:
    """A record's value, `Unreadable` if it can't be read; None: it removes its key, as the topic allows."""
    if record.value is None:
        return None if spec.tombstones else Unreadable("somebody has removed it; its service never does")
    try:
        return decoded(spec, record)
    except NewerRelease as error:
        raise UserError(str(error)) from None
    except ValueError as error:
        return Unreadable(str(error))


def _answer(record: Any) -> CommandAnswered:
    answer = _decoded(COMMAND_ANSWERS, record)
    if isinstance(answer, Unreadable):
        raise UserError(f"the answer in {COMMAND_ANSWERS.name} can't be read: {answer.reason}")
    assert isinstance(answer, CommandAnswered)
    return answer


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _bytes(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError:  # what a shell hands on when it is no text
        raise UserError(f"{key!r} is no text") from None


async def _next(pieces: AsyncIterator[list[Any]]) -> list[Any] | None:
    return await anext(pieces, None)


async def _result(future: Awaitable[T]) -> T:
    return await future


async def _stop(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError, TimeoutError):  # each record's result has been awaited before
        await asyncio.wait_for(producer.stop(), STOP_S_MAX)
