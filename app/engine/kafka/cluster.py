"""One worker's connection to Kafka: leaders, offsets, coordinators and committed records."""

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.partitioner import murmur2
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import _DefaultRecordBatchPy as LenientBatch
from aiokafka.record.memory_records import MemoryRecords

from app.engine.errors import Misconfigured
from app.engine.kafka.protocol import (
    ApiVersions,
    InitProducerId,
    OffsetFetch,
    Produce,
    TxnOffsetCommit,
    abilities,
)
from app.engine.kafka.repeats import Repeats
from app.engine.kafka.waits import Wait
from app.engine.retries import Pauses

log = logging.getLogger(__name__)
T = TypeVar("T")

# Two debug records a request are built even when nobody prints them: a fifth of a small transaction's time.
logging.getLogger("aiokafka").setLevel(logging.INFO)
for name in ("aiokafka", "aiokafka.consumer.group_coordinator"):
    logging.getLogger(name).addFilter(Repeats())

_send = AIOKafkaConnection.send


def _send_or_lose(connection: Any, request: Any, expect_response: bool = True) -> Any:
    """Take a connection that has just closed for a lost one.

    uvloop raises RuntimeError then, and aiokafka expects OSError (aiokafka issue 1038): its refresher of
    leaders ended of it, and whoever waited for the leaders waited for ever.
    """
    try:
        return _send(connection, request, expect_response)
    except RuntimeError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise errors.KafkaConnectionError(f"{connection} has just closed") from error


AIOKafkaConnection.send = _send_or_lose

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
EARLIEST, LATEST = -2, -1
FETCH_BYTES_MAX = 32 * 1024 * 1024
OPEN_BATCH_BYTES = 64 * 1024
NOBODY_ASKS_S = 2.0
"""Without a request for so long, none that has failed is being tried again."""
RETRY_PAUSE_S, RETRY_PAUSE_S_MAX = 0.05, 0.2
"""Kafka away means waiting; whoever waits finds out soon that it is back."""

UNSTABLE_OFFSET_COMMIT = 88
UNSTABLE_PAUSE_S = 0.002
"""An open transaction may change an offset: it is about to end, or is being ended."""

NEEDED: Final[Mapping[str, tuple[int, int]]] = {
    "Produce": (Produce.API_KEY, 7),
    "OffsetFetch": (OffsetFetch.API_KEY, 7),
    "InitProducerId": (InitProducerId.API_KEY, 4),
    "TxnOffsetCommit": (TxnOffsetCommit.API_KEY, 3),
}
"""The requests in versions that not every broker has, with their keys. Kafka has them all from 2.7 on."""

RETRIABLE = (
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
    errors.StaleMetadata,
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.UnknownTopicOrPartitionError,
    errors.CoordinatorNotAvailableError,
    errors.CoordinatorLoadInProgressError,
    errors.NotCoordinatorError,
    errors.KafkaStorageError,
    errors.NotEnoughReplicasError,
    errors.NotEnoughReplicasAfterAppendError,
    errors.CorrelationIdError,
    OSError,
)
"""Failures that say nothing about the request: the broker was away, moved or busy."""


class TP(NamedTuple):
    """A topic and a partition number."""

    topic: str
    partition: int


class Committed(NamedTuple):
    """A group's committed offset in one partition, and what whoever committed it has noted with it."""

    offset: int
    note: str


class Membership(NamedTuple):
    """As whom a worker commits offsets: its generation and member id in the group."""

    generation: int
    member: str


NO_MEMBER: Final = Membership(-1, "")
"""Nobody of the group: offsets in a transaction are then taken whatever the group's generation is."""


class _Unstable(Exception):
    """An open transaction may change an offset that was asked for."""


class OpenBatch(NamedTuple):
    """The record batch with which a transaction begins in a partition.

    `appended_ms` is the broker's clock, None where the topic has the clients' clocks.
    """

    producer_id: int
    appended_ms: int | None


Hear = Callable[[TP, int, int, int], None]
"""Is told, for each partition of an answer: where its reader goes on, the high watermark, what is stable."""


class RawRecord(Protocol):
    """A record as the log has it; `offset` and the append time `timestamp` (ms) are the broker's."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Fetched(NamedTuple):
    """The committed records of one partition from `position` up to `next_position`, markers passed over.

    `end` is the last stable offset when they were read, `size_bytes` what came over the network.
    """

    tp: TP
    position: int
    next_position: int
    end: int
    records: Sequence[RawRecord]
    size_bytes: int = 0


def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's default partitioner (murmur2)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


@lru_cache(maxsize=262_144)
def route(topic: str, key: bytes, partitions: int) -> TP:
    """Where a key goes, cached: murmur2 in Python costs more than the decision it routes."""
    return TP(topic, partition_of(key, partitions))


def committed_records(
    data: bytes, aborted: Iterable[tuple[int, int]], position: int
) -> tuple[list[RawRecord], int]:
    """Unpack a fetched record set from `position`, without aborted transactions and control markers.

    `aborted` holds (producer id, first offset) of the aborted transactions in it. Returns the records and the
    offset to go on from, which counts what was left out as read.
    """
    upcoming = sorted(aborted, key=lambda each: each[1])
    dropped: set[int] = set()
    records: list[RawRecord] = []
    batches = MemoryRecords(data)
    while batches.has_next():
        batch: Any = batches.next_batch()
        if not batch.validate_crc():
            raise errors.CorruptRecordException(f"a record batch at offset {batch.base_offset} is damaged")
        while upcoming and upcoming[0][1] <= batch.base_offset:
            dropped.add(upcoming.pop(0)[0])
        next_offset = batch.next_offset
        if batch.is_control_batch:
            if ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                dropped.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in dropped):
            found = _records_of(batch, data)
            if batch.base_offset >= position:
                records += found
            else:
                records += [record for record in found if record.offset >= position]
        position = max(position, next_offset)
    return records, position


def _records_of(batch: Any, data: bytes) -> list[RawRecord]:
    """The records of `batch`, which lies somewhere in `data`.

    Kafka lets a producer name headers by any bytes; aiokafka refuses those that are not UTF-8, and with them
    all of the log behind them.
    """
    try:
        return list(batch)
    except UnicodeDecodeError:
        at = 0
        while (base := int.from_bytes(data[at : at + 8], "big", signed=True)) != batch.base_offset:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        log.warning("the batch at offset %s has a header whose name is not UTF-8", base)
        again: Any = LenientBatch(data[at:end])
        again._maybe_uncompress()
        again._buffer = _LenientText(again._buffer)
        return list(again)


class _LenientText(bytearray):
    """Decodes whatever it holds."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _LenientText(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, "backslashreplace")


def by_topic(tps: Mapping[TP, Any]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Arrange {tp: value or values} as Kafka's requests want it: [(topic, [(partition, *values)])]."""
    topics: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for tp, value in tps.items():
        topics[tp.topic].append((tp.partition, *(value if isinstance(value, tuple) else (value,))))
    return list(topics.items())


def pauses(first_s: float) -> Pauses:
    """How long to wait before each next try."""
    return Pauses(first_s, RETRY_PAUSE_S_MAX, growth=1.5)


async def retry(attempt: Callable[[], Awaitable[T]]) -> T:
    """Await `attempt()` until it does not fail for a reason in RETRIABLE; cancellation ends it."""
    return await pauses(RETRY_PAUSE_S).until_done(RETRIABLE, attempt)


class Cluster:
    """Requests to a Kafka cluster. Every method waits through broker failures; cancel it to give up.

    `lane` names the connection a request uses: requests on one connection are answered in order, so a long
    poll needs a lane of its own.
    """

    def __init__(self, bootstrap: str, client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._client: Any = None
        self._coordinators: dict[tuple[int, str], int] = {}
        self._away_until: dict[int, float] = {}
        self._asked_at: float | None = None
        self._tried_at = 0.0
        self._pending = 0

    async def start(self) -> None:
        self._client = AIOKafkaClient(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            request_timeout_ms=30_000,
            retry_backoff_ms=int(RETRY_PAUSE_S * 1000),
        )
        await retry(self._client.bootstrap)

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def send(self, node: int, request: Any, lane: object = "default") -> Any:
        """Send to a node; all lanes together try to reach one that is away once in RETRY_PAUSE_S."""
        self._tried_at = time.monotonic()
        if self._asked_at is None:
            self._asked_at = self._tried_at
        if self._tried_at < self._away_until.get(node, 0.0):
            raise errors.NodeNotReadyError(f"node {node} was away just now")
        self._pending += 1
        try:
            response = await self._client.send(node, request, group=lane)
        except errors.NodeNotReadyError:  # nothing was sent: there is no connection
            self._away_until[node] = time.monotonic() + RETRY_PAUSE_S
            raise
        finally:
            self._pending -= 1
        self._asked_at = None
        return response

    @property
    def silent_s(self) -> float:
        """How long there has been no answer though somebody asks; long polls take up to a second."""
        now = time.monotonic()
        if self._asked_at is None or (self._pending == 0 and now - self._tried_at > NOBODY_ASKS_S):
            return 0.0
        return now - self._asked_at

    def leader(self, tp: TP) -> int | None:
        """The node that leads `tp`, or None while nobody is known to."""
        node: int | None = self._client.cluster.leader_for_partition(tp)
        return None if node == -1 else node

    async def refresh(self) -> None:
        """Ask for the leaders anew."""
        if not await self._client.force_metadata_update():
            await asyncio.sleep(RETRY_PAUSE_S)

    async def partition_count(self, topic: str) -> int:
        """How many partitions `topic` has; waits until it exists."""
        while not (partitions := self._client.cluster.partitions_for_topic(topic)):
            await self.refresh()
            await asyncio.sleep(RETRY_PAUSE_S)
        return len(partitions)

    async def exists(self, topic: str) -> bool:
        """Whether `topic` is there now."""
        await self.refresh()
        return bool(self._client.cluster.partitions_for_topic(topic))

    async def coordinator(self, kind: int, key: str) -> int:
        """The node that coordinates a group (kind 0) or a transactional id (kind 1)."""
        if (kind, key) not in self._coordinators:
            self._coordinators[kind, key] = await retry(partial(self._look_up, kind, key))
        return self._coordinators[kind, key]

    def forget_coordinator(self, kind: int, key: str) -> None:
        self._coordinators.pop((kind, key), None)

    async def _look_up(self, kind: int, key: str) -> int:
        node: int = await self._client.coordinator_lookup(kind, key)
        if self._client.cluster.broker_metadata(node) is None:
            await self.refresh()
            raise errors.StaleMetadata(f"node {node} coordinates {key}, and is not among those that live")
        return node

    async def require_versions(self) -> None:
        """Raise Misconfigured if a broker is too old. Those that are away are passed over, unless all are."""
        lacking = await retry(self._lacking)
        if lacking:
            raise Misconfigured(
                f"Kafka at {self._bootstrap} is too old for exactly-once: {'; '.join(lacking)}. "
                "Upgrade its brokers to 2.7 or newer"
            )

    async def _lacking(self) -> list[str]:
        """What the brokers lack of NEEDED, in words."""
        nodes = sorted(each.nodeId for each in self._client.cluster.brokers())
        answers = await asyncio.gather(
            *(self.send(node, ApiVersions()) for node in nodes), return_exceptions=True
        )
        failures = [each for each in answers if isinstance(each, BaseException)]
        for failure in failures:
            if len(failures) == len(answers) or not isinstance(failure, RETRIABLE):
                raise failure
        lacking = []
        for node, answer in zip(nodes, answers, strict=True):
            if not isinstance(answer, BaseException):
                newest = abilities(answer).newest
                lacking += [
                    f"broker {node} knows {name} up to version {newest.get(key, 'none')}, {needed} is needed"
                    for name, (key, needed) in NEEDED.items()
                    if newest.get(key, -1) < needed
                ]
        return lacking

    async def offsets(self, tps: Iterable[TP], which: int, isolation: int = READ_COMMITTED) -> dict[TP, int]:
        """The first (EARLIEST) or last (LATEST) offset of each partition.

        The last one is the last stable offset unless READ_UNCOMMITTED asks for the end of the log.
        """

        async def attempt() -> dict[TP, int]:
            found: dict[TP, int] = {}
            for node, wanted in self._by_leader(tps).items():
                request = OffsetRequest(-1, isolation, by_topic(dict.fromkeys(wanted, which)))
                for topic, partitions in (await self.send(node, request)).topics:
                    for partition, code, _, offset in partitions:
                        await self._raise(code)
                        found[TP(topic, partition)] = offset
            return found

        return await retry(attempt)

    def _by_leader(self, tps: Iterable[TP]) -> dict[int, list[TP]]:
        nodes: dict[int, list[TP]] = defaultdict(list)
        for tp in tps:
            node = self.leader(tp)
            if node is None:
                self._client.force_metadata_update()
                raise errors.LeaderNotAvailableError(str(tp))
            nodes[node].append(tp)
        return nodes

    async def _raise(self, code: int) -> None:
        if code:
            error = errors.for_code(code)
            if getattr(error, "invalid_metadata", False):
                await self.refresh()
            raise error()

    async def committed(self, group: str, tps: Sequence[TP]) -> dict[TP, int | None]:
        """The group's committed offset of each partition, None where it has none."""
        found = await self.group_offsets(group, tps)
        return {tp: None if each is None else each.offset for tp, each in found.items()}

    async def group_offsets(
        self, group: str, tps: Sequence[TP], *, stable: bool = False, wait: Wait | None = None
    ) -> dict[TP, Committed | None]:
        """The group's committed offset of each partition with its note, None where it has none.

        With `stable` it waits while an open transaction may still change one of them, and tells `wait`.
        """
        topics = [(topic, [each[0] for each in p]) for topic, p in by_topic(dict.fromkeys(tps, 0))]
        request = OffsetFetch(group, topics, stable)
        attempt = partial(self._fetch_offsets, group, request, wait or Wait())
        return await pauses(UNSTABLE_PAUSE_S).until_done(_Unstable, lambda: retry(attempt))

    async def _fetch_offsets(
        self, group: str, request: OffsetFetch, wait: Wait
    ) -> dict[TP, Committed | None]:
        node = await self.coordinator(0, group)
        found: dict[TP, Committed | None] = {}
        try:
            response = await self.send(node, request)
            await self._raise(response.error_code)  # then there are no topics in it
            for topic, partitions, _ in response.topics:
                for partition, offset, _, note, code, _ in partitions:
                    if code == UNSTABLE_OFFSET_COMMIT:
                        wait.because(
                            f"an open transaction may change {group}'s offset of {topic}-{partition}"
                        )
                        raise _Unstable
                    await self._raise(code)
                    known = Committed(offset, note or "") if offset >= 0 else None
                    found[TP(topic, partition)] = known
        except RETRIABLE:
            wait.no_more()
            self.forget_coordinator(0, group)
            raise
        return found

    async def fetch(
        self,
        node: int,
        positions: Mapping[TP, int],
        *,
        wait_ms: int,
        partition_bytes_max: int,
        lane: object,
        isolation: int = READ_COMMITTED,
    ) -> list[Fetched]:
        """Read committed records from `positions`, all led by `node`; waits up to `wait_ms` for the first.

        Raises OffsetOutOfRangeError when a position is not in the log, or what RETRIABLE names.
        """
        wanted = by_topic({tp: (offset, partition_bytes_max) for tp, offset in positions.items()})
        request = FetchRequest(wait_ms, 1, FETCH_BYTES_MAX, isolation, wanted)
        fetched = []
        for topic, partitions in (await self.send(node, request, lane)).topics:
            for partition, code, _, stable, _, aborted, _, data in partitions:
                tp = TP(topic, partition)
                if code:
                    log.info("fetch of %s-%s at %s: %s", *tp, positions[tp], errors.for_code(code).__name__)
                await self._raise(code)
                if data:
                    records, after = committed_records(data, aborted or (), positions[tp])
                    fetched.append(Fetched(tp, positions[tp], after, stable, records, len(data)))
        return fetched

    async def batch_at(self, tp: TP, offset: int, lane: object) -> OpenBatch | None:
        """The batch that begins at `offset`, committed or not; None if there is none any more."""

        async def attempt() -> OpenBatch | None:
            (node,) = self._by_leader([tp])
            wanted = by_topic({tp: (offset, OPEN_BATCH_BYTES)})
            request = FetchRequest(0, 0, OPEN_BATCH_BYTES, READ_UNCOMMITTED, wanted)
            ((_, ((_, code, *_, data),)),) = (await self.send(node, request, lane)).topics
            await self._raise(code)
            batches = MemoryRecords(data or b"")
            batch: Any = batches.next_batch() if batches.has_next() else None
            if batch is None or batch.producer_id < 0:
                return None
            return OpenBatch(batch.producer_id, batch.max_timestamp if batch.timestamp_type == 1 else None)

        try:
            return await retry(attempt)
        except errors.OffsetOutOfRangeError:
            return None

    async def fetch_from_one(
        self,
        positions: Mapping[TP, int],
        *,
        wait_ms: int,
        partition_bytes_max: int,
        lane: object,
    ) -> list[Fetched]:
        """`fetch` from one of the leaders, chosen by lot; with several, none is waited for long.

        Asks for the leaders anew before it raises what RETRIABLE names.
        """
        leaders = {node for tp in positions if (node := self.leader(tp)) is not None}
        try:
            if not leaders:
                raise errors.LeaderNotAvailableError(str(list(positions)))
            node = random.choice(list(leaders))
            theirs = {tp: at for tp, at in positions.items() if self.leader(tp) == node}
            wait_ms //= len(leaders)
            return await self.fetch(
                node, theirs, wait_ms=wait_ms, partition_bytes_max=partition_bytes_max, lane=lane
            )
        except RETRIABLE:
            await self.refresh()
            raise
