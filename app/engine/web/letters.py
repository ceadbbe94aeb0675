"""Reads a service's last dead letters from their topic, when somebody asks: bounded in time and memory.

The worker's own connection to Kafka has no part in it, and its event loop is kept no longer than it takes to
unpack one fetch. The topic has the letters of all services: it is read backwards, in steps, until enough
letters of this one are found.
"""

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka import errors

from app.engine.core.dead_letter import PREFIX
from app.engine.kafka.cluster import EARLIEST, LATEST, TP, Cluster, Fetched, RawRecord, retry
from app.engine.state.table import Table
from app.engine.web.cluster import Missing, Workers
from app.engine.web.read import Busy, Query, Row

LETTERS_MAX: Final = 100
HELD_MAX: Final = 20
READ_S_MAX: Final = 2.0
"""How long the topic is read for a list before it shows what was found."""

KAFKA_S_MAX: Final = 5.0
"""How long Kafka may take altogether before it counts as away."""

READ_BYTES_MAX: Final = 64 * 1024 * 1024
FETCH_BYTES_MAX: Final = 256 * 1024
STEP, STEP_MIN = 256, 4
"""How many offsets a step goes back: few where records are large."""

KEY_BYTES_MAX, PREVIEW_BYTES_MAX, TEXT_CHARS_MAX = 512, 800, 2_000
VALUE_BYTES_MAX: Final = 1024 * 1024
HEADERS_MAX, HEADER_BYTES_MAX = 100, 2_048


class KafkaAway(Exception):
    """Kafka did not answer in time, or with an error."""


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as a list has it, by its own place in the topic.

    `source` is where it came from: topic/partition/offset, or what its service said. `error` and `attempts`
    are of a record that could not be processed, `behind` is the source of the letter that a sound one waits
    behind. `time_ms` is the record's own. `value_bytes` is the size of the value, `preview` how it begins,
    None where there is none; `cut` says that the topic has only a part of it.
    """

    partition: int
    offset: int
    time_ms: int
    service: str
    source: str
    key: str | None
    error: str | None
    attempts: str | None
    behind: str | None
    cut: str | None
    value_bytes: int
    preview: str | None


class Letters(msgspec.Struct, frozen=True):
    """The last letters, newest first, of the `searched` records that were looked at.

    `older` means that there are older records in the topic. `stopped` says why the search ended early, ""
    where it did not: if it did, letters may be missing that are newer than the oldest one here.
    """

    letters: Sequence[Letter] = ()
    searched: int = 0
    older: bool = False
    stopped: str = ""


class WholeLetter(msgspec.Struct, frozen=True):
    """One dead letter with its bytes; in JSON they are base64.

    What is huge is cut to its first bytes: key, value, headers. `letter.value_bytes` is the whole size.
    """

    letter: Letter
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class HeldKey(msgspec.Struct, frozen=True):
    """A key in quarantine: `held` records wait behind the dead letter of the record `behind`."""

    key: str
    partition: int
    behind: str
    held: int


class _Entry(msgspec.Struct):
    behind: str
    held: int


class DeadLetters(msgspec.Struct, frozen=True):
    """A service's last dead letters and its quarantine; `problem` is why there are none, or ""."""

    service: str
    topic: str
    found: Letters
    problem: str
    quarantine: Sequence[HeldKey]
    more_in_quarantine: bool
    missing: Sequence[Missing]


async def dead_letters(
    service: str, reader: "LetterReader", workers: Workers, quarantine: Table
) -> DeadLetters:
    """Both at once: the quarantine is known to the workers, whatever Kafka does. Raises Busy."""
    (found, problem), held = await asyncio.gather(
        _last_or_why_not(reader), workers.page(quarantine, Query(limit=HELD_MAX))
    )
    keys = [_held_key(row) for row in held.records]
    return DeadLetters(service, reader.topic, found, problem, keys, held.next is not None, held.missing)


async def _last_or_why_not(reader: "LetterReader") -> tuple[Letters, str]:
    try:
        return await reader.last(), ""
    except KafkaAway as error:
        return Letters(), str(error)


def _held_key(row: Row) -> HeldKey:
    entry = msgspec.json.decode(bytes(row.value), type=_Entry)
    return HeldKey(row.key, row.partition, entry.behind, entry.held)


class LetterReader:
    """Reads the dead letters of one service; one reader at a time."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._turn = asyncio.Lock()

    @property
    def topic(self) -> str:
        name: str = self._app.settings.dead_letters.name
        return name

    async def last(self, limit: int = LETTERS_MAX) -> Letters:
        """The service's last letters. Raises KafkaAway and Busy."""
        async with self._connection() as cluster:
            if not await cluster.exists(self.topic):
                return Letters()
            tps = [TP(self.topic, number) for number in range(await cluster.partition_count(self.topic))]
            begins, ends = await cluster.offsets(tps, EARLIEST), await cluster.offsets(tps, LATEST)
            search = _Search(cluster, self._app.conf.id, limit)
            for tp in tps:
                await search.partition(tp, begins[tp], ends[tp])
            return search.result()

    async def one(self, partition: int, offset: int) -> WholeLetter | None:
        """The letter at a place of the topic; None when there is none. Raises KafkaAway and Busy."""
        async with self._connection() as cluster:
            if not await cluster.exists(self.topic):
                return None
            if partition >= await cluster.partition_count(self.topic):
                return None
            tp = TP(self.topic, partition)
            (begin,), (end,) = [(await cluster.offsets([tp], which)).values() for which in (EARLIEST, LATEST)]
            if not begin <= offset < end:
                return None
            fetched = await _fetch(cluster, tp, offset)
        record = fetched.records[0] if fetched.records else None
        return _whole(partition, record) if record is not None and record.offset == offset else None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Cluster]:
        """A connection of its own, for as long as one reader needs it."""
        try:
            await asyncio.wait_for(self._turn.acquire(), KAFKA_S_MAX)
        except TimeoutError:
            raise Busy("others are reading the dead letters: try again soon") from None
        where = self._app.settings.bootstrap
        cluster = Cluster(where, f"{self._app.conf.id}-dead-letters")
        try:
            async with asyncio.timeout(KAFKA_S_MAX):
                await cluster.start()
                yield cluster
        except TimeoutError:
            raise KafkaAway(f"Kafka on {where} does not answer: try again when it does") from None
        except errors.KafkaError as error:  # it may have deleted what was asked for, or not allow us to read
            raise KafkaAway(f"Kafka on {where} refuses: {error!r}") from error
        finally:
            self._turn.release()
            await cluster.stop()


class _Search:
    """Looks through partitions for the last letters of a service."""

    def __init__(self, cluster: Cluster, service: str, limit: int) -> None:
        self._cluster = cluster
        self._service = service.encode()
        self._limit = limit
        self._found: list[Letter] = []
        self._more = False
        self._searched = 0
        self._bytes_left = READ_BYTES_MAX
        self._until = time.monotonic() + READ_S_MAX
        self._stopped = ""

    def result(self) -> Letters:
        return Letters(self._found, self._searched, self._more or bool(self._stopped), self._stopped)

    async def partition(self, tp: TP, begin: int, end: int) -> None:
        """Go back from `end` until there are enough letters, or `begin` is reached, or a bound."""
        low, count, step = end, 0, STEP
        while low > begin and count < self._limit and not self._is_over():
            start = max(begin, low - step)
            records = await self._between(tp, start, low)
            if records is None:
                step = max(STEP_MIN, step // 4)
                continue
            letters = [_letter(tp.partition, each) for each in records if _is_of(self._service, each)]
            count += len(letters)
            self._searched += len(records)
            self._keep(letters)
            low, step = start, min(STEP, step * 2)
        self._more = self._more or low > begin

    async def _between(self, tp: TP, start: int, low: int) -> list[RawRecord] | None:
        """The records from `start` to `low`; None where one fetch has not brought all and fewer will do."""
        records: list[RawRecord] = []
        at = start
        while at < low and not self._is_over():
            fetched = await _fetch(self._cluster, tp, at)
            self._bytes_left -= fetched.size_bytes
            at = fetched.next_position
            if at < low and low - start > STEP_MIN:
                return None
            records += [each for each in fetched.records if each.offset < low]
        return records

    def _is_over(self) -> bool:
        """Whether a bound is reached; asked while there is something left to read."""
        if self._bytes_left < 0:
            self._stopped = f"{READ_BYTES_MAX // 1024**2} MiB were read"
        elif time.monotonic() > self._until:
            self._stopped = f"it took {READ_S_MAX:g} s"
        return bool(self._stopped)

    def _keep(self, letters: Iterable[Letter]) -> None:
        together = [*self._found, *letters]
        self._more = self._more or len(together) > self._limit
        self._found = heapq.nlargest(self._limit, together, key=_age)


def _age(letter: Letter) -> tuple[int, int, int]:
    return letter.time_ms, letter.partition, letter.offset


async def _fetch(cluster: Cluster, tp: TP, offset: int) -> Fetched:
    """One fetch, which brings a record at least; the caller knows that there is something to be read."""

    async def attempt() -> Fetched:
        found = await cluster.fetch_from_one(
            {tp: offset}, wait_ms=0, partition_bytes_max=FETCH_BYTES_MAX, lane="dead letters"
        )
        if not found:
            raise errors.NotLeaderForPartitionError(f"nothing at {offset} of {tp}")
        return found[0]

    return await retry(attempt)


def _is_of(service: bytes, record: RawRecord) -> bool:
    return _origin(record).get("service") == service


def _origin(record: RawRecord) -> Mapping[str, bytes]:
    """What the engine says of a dead letter; what the record itself came with may look alike.

    The engine's headers come last, and begin with the service.
    """
    found: dict[str, bytes] = {}
    for name, value in reversed(record.headers):
        if not name.startswith(PREFIX):
            break
        found.setdefault(name.removeprefix(PREFIX), value or b"")
        if name == PREFIX + "service":
            break
    return found


def _letter(partition: int, record: RawRecord) -> Letter:
    origin = {name: value.decode("utf-8", "backslashreplace") for name, value in _origin(record).items()}
    place = [origin[name] for name in ("topic", "partition", "offset") if name in origin]
    value = record.value
    return Letter(
        partition=partition,
        offset=record.offset,
        time_ms=record.timestamp,
        service=origin.get("service", ""),
        source=(origin.get("source") or "/".join(place))[:TEXT_CHARS_MAX],
        key=None if record.key is None else _text(record.key, KEY_BYTES_MAX),
        error=_short(origin.get("error")),
        attempts=_short(origin.get("attempts")),
        behind=_short(origin.get("held-behind")),
        cut=_short(origin.get("cut")),
        value_bytes=len(value or b""),
        preview=None if value is None else _text(value, PREVIEW_BYTES_MAX),
    )


def _whole(partition: int, record: RawRecord) -> WholeLetter:
    value = record.value
    return WholeLetter(
        letter=_letter(partition, record),
        key=None if record.key is None else bytes(record.key[:VALUE_BYTES_MAX]),
        value=None if value is None else bytes(value[:VALUE_BYTES_MAX]),
        headers=[
            (name[:HEADER_BYTES_MAX], None if each is None else bytes(each[:HEADER_BYTES_MAX]))
            for name, each in record.headers[-HEADERS_MAX:]
        ],
    )


def _text(data: bytes, bytes_max: int) -> str:
    return data[:bytes_max].decode("utf-8", "backslashreplace")


def _short(text: str | None) -> str | None:
    return None if text is None else text[:TEXT_CHARS_MAX]
