"""Output of a task and the Kafka transaction that makes it visible, all of it or nothing.

The requests are sent one by one from here, not by a background sender as in aiokafka's producer: each step
has its place, its error and its retry, and a killed process dies at a known one.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from aiokafka import errors
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from app.engine.errors import Fenced
from app.engine.kafka.cluster import RETRIABLE, RETRY_PAUSE_S, TP, Cluster, by_topic, pauses
from app.engine.kafka.protocol import InitProducerId, Produce

log = logging.getLogger(__name__)

GROUP, TRANSACTION = 0, 1
BATCH_BYTES_MAX = 900_000
BUSY_PAUSE_S = 0.001
PRODUCE_TIMEOUT_MS = 30_000

# Kafka's error codes, by what they ask of us.
FENCED = {47, 49, 90}  # INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED
BUSY = {51}  # CONCURRENT_TRANSACTIONS: the markers of the last transaction are still being written
MOVED = {14, 15, 16}  # the coordinator is loading, not available, or another node
LEADER = {3, 5, 6, 7, 13, 19, 20, 56}  # the partition's leader is unknown, moving or short of replicas
NOT_TRIED = {55}  # OPERATION_NOT_ATTEMPTED: another partition of the same request has failed
REFUSED = {10, 18, 87}  # MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, INVALID_RECORD: never worth a retry
DUPLICATE_SEQUENCE = 46  # the batch is in the log already: an earlier try got through
GENERATION = {22, 25, 27}  # ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS

Header = tuple[str, bytes | None]


NOTE = "inputs:"
NOTE_BYTES_MAX = 4_096
"""Kafka's default for `offset.metadata.max.bytes`."""


def write_note(inputs: Iterable[str]) -> str:
    """Name all inputs that offsets were ever committed of: whoever lacks one's can tell lost from new."""
    return NOTE + ",".join(sorted(inputs))


def read_note(note: str) -> set[str]:
    """The inputs that a note names; none in one of another origin."""
    names = note.removeprefix(NOTE)
    return set() if names == note else set(names.split(","))


class TransactionFailed(Exception):
    """Kafka refused a step for good: abort, and try the batch again."""


class RecordRefused(Exception):
    """Kafka will never take one of the records: whatever made it is to be treated as having failed."""


class _Lane:
    """The records for one partition: full batches, and the one that is being filled."""

    __slots__ = ("_append", "_count", "_full", "_open", "_transactional")

    def __init__(self, transactional: bool) -> None:
        self._transactional = transactional
        self._full: list[tuple[Any, int]] = []
        self._begin()

    def _begin(self) -> None:
        self._open = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=self._transactional,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=BATCH_BYTES_MAX,
        )
        self._append = self._open.append
        self._count = 0

    def append(
        self, key: bytes | None, value: bytes | None, headers: list[Header], timestamp_ms: int
    ) -> None:
        if self._append(self._count, timestamp_ms, key, value, headers) is None:
            self._full.append((self._open, self._count))
            self._begin()
            self._append(0, timestamp_ms, key, value, headers)
        self._count += 1

    def batches(self) -> list[tuple[Any, int]]:
        """Each batch, and how many records it has."""
        return [*self._full, (self._open, self._count)]


class Outbox:
    """The records of one unit of work, built into record batches a partition at a time."""

    def __init__(self, transactional: bool) -> None:
        self._transactional = transactional
        self._lanes: dict[TP, _Lane] = {}

    def append(
        self, tp: TP, key: bytes | None, value: bytes | None, headers: list[Header], timestamp_ms: int
    ) -> None:
        self.lane(tp).append(key, value, headers, timestamp_ms)

    def lane(self, tp: TP) -> _Lane:
        """What takes the records for one partition."""
        lane = self._lanes.get(tp)
        if lane is None:
            lane = self._lanes[tp] = _Lane(self._transactional)
        return lane

    @property
    def partitions(self) -> list[TP]:
        return list(self._lanes)

    def rounds(self, producer: "Producer") -> Iterator[tuple[dict[TP, bytearray], dict[TP, int]]]:
        """Yield what one produce request may hold, at most one batch a partition, and the counts."""
        batches = {tp: lane.batches() for tp, lane in self._lanes.items()}
        for turn in range(max(map(len, batches.values()), default=0)):
            due = {tp: each[turn] for tp, each in batches.items() if turn < len(each)}
            yield (
                {tp: producer.stamp(tp, *each) for tp, each in due.items()},
                {tp: count for tp, (_, count) in due.items()},
            )


class Producer:
    """Writes outboxes to Kafka for one task; with a transactional id in transactions, else plainly."""

    def __init__(
        self, cluster: Cluster, transactional_id: str | None, group: str, timeout_ms: int, lane: object
    ) -> None:
        self._cluster = cluster
        self.transactional_id = transactional_id
        self._group = group
        self._timeout_ms = timeout_ms
        self._lane = lane
        self._producer_id = -1
        self._epoch = -1
        self._sequences: dict[TP, int] = defaultdict(int)
        self.has_unanswered = False
        self.note = ""
        """What is committed with each offset, see `write_note`."""

    async def begin(self) -> None:
        """Take the transactional id over: ends an open transaction and fences whoever had the id before."""
        self._producer_id = self._epoch = -1
        await self._initialise()

    async def renew(self) -> None:
        """Start a new epoch of our own; raises Fenced when somebody else has."""
        await self._initialise()

    async def _initialise(self) -> None:
        def request() -> Any:
            name = self.transactional_id or ""
            return InitProducerId(name, self._timeout_ms, self._producer_id, self._epoch)

        response = await self._coordinated(TRANSACTION, request, lambda r: [r.error_code])
        self._producer_id, self._epoch = response.producer_id, response.producer_epoch
        self._sequences.clear()
        self.has_unanswered = False

    @property
    def generation(self) -> int:
        """Producer id and epoch as one number that only grows: an exhausted epoch brings a larger id."""
        return max(0, self._producer_id) << 16 | max(0, self._epoch)

    def stamp(self, tp: TP, builder: Any, count: int) -> bytearray:
        if self.transactional_id is not None:
            sequence = self._sequences[tp]
            self._sequences[tp] = (sequence + count) & 0x7FFFFFFF
            builder.set_producer_state(self._producer_id, self._epoch, sequence)
        batch: bytearray = builder.build()
        return batch

    async def add(self, partitions: list[TP], offsets: Mapping[TP, int]) -> None:
        """Tell the coordinator which partitions, and if the group's offsets, the transaction touches.

        A request that got no answer may still be on its way, and would count for the transaction that it
        meets: an offset of the last one, the end of this one in its middle (KIP-890). So what has lost an
        answer begins no other transaction: a new epoch does, and the old one's requests are refused.
        """
        if self.has_unanswered:
            await self._initialise()
        topics = [(topic, [each[0] for each in ps]) for topic, ps in by_topic(dict.fromkeys(partitions, 0))]
        identity = (self.transactional_id or "", self._producer_id, self._epoch)
        steps: list[Awaitable[Any]] = []
        if offsets:
            steps.append(
                self._coordinated(
                    TRANSACTION,
                    lambda: AddOffsetsToTxnRequest(*identity, self._group),
                    lambda r: [r.error_code],
                )
            )
        if topics:
            steps.append(
                self._coordinated(
                    TRANSACTION,
                    lambda: AddPartitionsToTxnRequest(*identity, topics),
                    lambda r: [code for _, ps in r.errors for _, code in ps],
                )
            )
        await all_done(*steps)

    async def send(self, outbox: Outbox) -> dict[TP, int]:
        """Write every batch and wait for the in-sync replicas; returns each partition's next offset."""
        ends: dict[TP, int] = {}
        for batches, counts in outbox.rounds(self):
            for tp, base in (await self._produce(batches)).items():
                ends[tp] = base + counts[tp]
        return ends

    async def send_offsets(self, offsets: Mapping[TP, int]) -> None:
        """Put the input offsets into the transaction."""
        if not offsets:
            return
        topics = by_topic({tp: (offset, self.note) for tp, offset in offsets.items()})
        names = (self.transactional_id, self._group)
        await self._coordinated(
            GROUP,
            lambda: TxnOffsetCommitRequest(*names, self._producer_id, self._epoch, topics),
            lambda r: [code for _, ps in r.errors for _, code in ps],
        )

    async def commit(self) -> None:
        """Make the transaction real. If the answer leaves that in doubt, only a new take-over can tell."""
        try:
            await self._end(True)
        except TransactionFailed as error:
            raise Fenced(f"whether the last transaction is committed has to be asked: {error}") from error

    async def abort(self) -> None:
        """End the transaction, if one is open, and start a new epoch, so that sequences begin again."""
        try:
            await self._end(False)
        except TransactionFailed as error:
            log.debug("nothing to abort: %s", error)
        await self._initialise()

    async def _end(self, result: bool) -> None:
        await self._coordinated(
            TRANSACTION,
            lambda: EndTxnRequest(self.transactional_id, self._producer_id, self._epoch, result),
            lambda r: [r.error_code],
        )

    async def commit_offsets(self, offsets: Mapping[TP, int], generation: int, member: str) -> None:
        """Commit input offsets outside any transaction, as the group's member (at least once)."""
        topics = by_topic({tp: (offset, self.note) for tp, offset in offsets.items()})
        await self._coordinated(
            GROUP,
            lambda: OffsetCommitRequest(self._group, generation, member, -1, topics),
            lambda r: [code for _, ps in r.topics for _, code in ps],
        )

    async def _coordinated(
        self, kind: int, request: Callable[[], Any], codes: Callable[[Any], list[int]]
    ) -> Any:
        """Send to the coordinator until it gives a definite answer; raises Fenced or TransactionFailed."""
        key = self._group if kind == GROUP else self.transactional_id or ""
        busy, away = pauses(BUSY_PAUSE_S).in_turn(), pauses(RETRY_PAUSE_S).in_turn()
        while True:
            node = await self._cluster.coordinator(kind, key)
            try:
                response = await self._cluster.send(node, request(), self._lane)
            except RETRIABLE as error:
                log.debug("%s away: %r", key, error)
                self.has_unanswered = True
                found = MOVED
            else:
                found = {code for code in codes(response) if code}
                if not found:
                    return response
            if found & (FENCED | GENERATION):
                raise Fenced(f"{key}: {_names(found)}")
            if not found <= BUSY | MOVED | LEADER | NOT_TRIED:
                raise TransactionFailed(f"{key}: {_names(found)}")
            if found & MOVED:
                self._cluster.forget_coordinator(kind, key)
            await asyncio.sleep(next(busy if found <= BUSY | NOT_TRIED else away))

    async def _produce(self, batches: dict[TP, bytearray]) -> dict[TP, int]:
        """Write one batch a partition; returns the offset of each batch's first record."""
        bases: dict[TP, int] = {}
        waits = pauses(RETRY_PAUSE_S).in_turn()
        while batches:
            by_node: dict[int, dict[TP, bytearray]] = defaultdict(dict)
            for tp, data in batches.items():
                node = self._cluster.leader(tp)
                if node is not None:
                    by_node[node][tp] = data
            for done in await all_done(*(self._produce_to(*each) for each in by_node.items())):
                bases.update(done)
            batches = {tp: data for tp, data in batches.items() if tp not in bases}
            if batches:
                await self._cluster.refresh()
                await asyncio.sleep(next(waits))
        return bases

    async def _produce_to(self, node: int, batches: dict[TP, bytearray]) -> dict[TP, int]:
        """Return the base offset of each batch that is in the log; the others are to be tried again."""
        request = Produce(self.transactional_id, PRODUCE_TIMEOUT_MS, by_topic(batches))
        try:
            response = await self._cluster.send(node, request, self._lane)
        except RETRIABLE as error:
            log.debug("produce to node %s: %r", node, error)
            self.has_unanswered = True
            return {}
        done: dict[TP, int] = {}
        for topic, partitions in response.topics:
            for partition, code, base, *_ in partitions:
                tp = TP(topic, partition)
                if code in FENCED:
                    raise Fenced(f"{self.transactional_id}: {_names({code})}")
                if code == DUPLICATE_SEQUENCE:
                    raise TransactionFailed(f"produce to {topic}-{partition}: an earlier try got through")
                if code in REFUSED:
                    raise RecordRefused(f"produce to {topic}-{partition}: {_names({code})}")
                if code == 0:
                    done[tp] = base
                elif code not in LEADER:
                    raise TransactionFailed(f"produce to {topic}-{partition}: {_names({code})}")
        return done


async def all_done(*steps: Awaitable[Any]) -> list[Any]:
    """Await all, so that nothing of a transaction is under way any more when one has failed; then raise."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    failures = [each for each in results if isinstance(each, BaseException)]
    if failures:
        raise next((each for each in failures if isinstance(each, Fenced)), failures[0])
    return results


def _names(codes: set[int]) -> str:
    return ", ".join(f"{errors.for_code(code).__name__} ({code})" for code in sorted(codes))
