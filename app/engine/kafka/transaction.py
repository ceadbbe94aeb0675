"""Output of a task and the Kafka transaction that makes it visible, all of it or nothing.

The requests are sent one by one from here, not by a background sender as in aiokafka's producer: each step
has its place, its error and its retry, and a killed process dies at a known one.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aiokafka import errors
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from app.engine.errors import Fenced, InDoubt, StaleGeneration
from app.engine.kafka.cluster import (
    NO_MEMBER,
    RETRIABLE,
    RETRY_PAUSE_S,
    TP,
    Cluster,
    Committed,
    Membership,
    by_topic,
    pauses,
)
from app.engine.kafka.protocol import (
    Abilities,
    ApiVersions,
    EndTxn,
    InitProducerId,
    Produce,
    TxnOffsetCommit,
    abilities,
)
from app.engine.kafka.waits import Wait, Waits

log = logging.getLogger(__name__)

GROUP, TRANSACTION = 0, 1
BATCH_BYTES_MAX = 900_000
BUSY_PAUSE_S = 0.001
PRODUCE_TIMEOUT_MS = 30_000
TRANSACTION_VERSION_MAX = 2
"""The newest `transaction.version` that a producer uses, if the cluster has it."""

VERSION_2 = {Produce.API_KEY: 12, EndTxn.API_KEY: 5, TxnOffsetCommit.API_KEY: 5}
"""The requests of transaction version 2, and in which version they follow it."""

# Kafka's error codes, by what they ask of us.
FENCED = {47, 49, 90}  # INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED
CONCURRENT_TRANSACTIONS = 51  # the markers of the last transaction are still being written
BUSY = {CONCURRENT_TRANSACTIONS}
MOVED = {14, 15, 16}  # the coordinator is loading, not available, or another node
LEADER = {3, 5, 6, 7, 13, 19, 20, 56}  # the partition's leader is unknown, moving or short of replicas
NOT_TRIED = {55}  # OPERATION_NOT_ATTEMPTED: another partition of the same request has failed
REFUSED = {10, 18, 87}  # MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, INVALID_RECORD: never worth a retry
DUPLICATE_SEQUENCE = 46  # the batch is in the log already: an earlier try got through
GENERATION = {22, 25, 27}  # ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS

Header = tuple[str, bytes | None]


NOTE, NOTE_BY_WORKER = "inputs:", "by worker, inputs:"
"""How the notes of commits begin: those by partition, and those of a worker for all its partitions."""

NOTE_BYTES_MAX = 4_096
"""Kafka's default for `offset.metadata.max.bytes`."""


def write_note(inputs: Iterable[str], *, by_worker: bool) -> str:
    """Name all inputs that offsets were ever committed of: whoever lacks one's can tell lost from new.

    The release before reads no names in a note of a worker, and goes on with those that it knows.
    """
    return (NOTE_BY_WORKER if by_worker else NOTE) + ",".join(sorted(inputs))


def read_note(note: str) -> set[str]:
    """The inputs that a note names; none in one of another origin."""
    for prefix in (NOTE, NOTE_BY_WORKER):
        if note.startswith(prefix):
            return set(note.removeprefix(prefix).split(","))
    return set()


def is_by_worker(note: str) -> bool:
    """Whether the offset was committed by a worker for all its partitions."""
    return note.startswith(NOTE_BY_WORKER)


class TransactionFailed(Exception):
    """Kafka refused a step for good: abort, and try the batch again."""


class LeaderAway(TransactionFailed):
    """Some partitions had no leader that took their records, for longer than the caller would wait."""

    def __init__(self, tps: Iterable[TP], away_s: float) -> None:
        self.tps = frozenset(tps)
        names = ", ".join(f"{topic}-{partition}" for topic, partition in sorted(self.tps))
        super().__init__(f"no leader took the records for {names} in {away_s:.1f} s")


class RecordRefused(Exception):
    """Kafka will never take a record for `tp`: whatever made it is to be treated as having failed."""

    def __init__(self, tp: TP, codes: set[int]) -> None:
        self.tp = tp
        super().__init__(f"produce to {tp.topic}-{tp.partition}: {_names(codes)}")


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

    def batches(self) -> Iterator[tuple[Any, int]]:
        """Each batch, and how many records it has."""
        yield from self._full
        yield self._open, self._count


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

    def batches(self) -> Iterator[tuple[TP, Any, int]]:
        """Each batch in the order of its partition, with how many records it has."""
        for tp, lane in self._lanes.items():
            for builder, count in lane.batches():
                yield tp, builder, count


class Due(NamedTuple):
    """A batch whose turn it is: which outbox it is of, and how many records it has."""

    outbox: int
    builder: Any
    records: int


def rounds(outboxes: Iterable[Outbox]) -> Iterator[dict[TP, Due]]:
    """Yield what one produce request may hold: at most one batch a partition, in the order given."""
    queues: dict[TP, list[Due]] = defaultdict(list)
    for number, outbox in enumerate(outboxes):
        for tp, builder, count in outbox.batches():
            queues[tp].append(Due(number, builder, count))
    for turn in range(max(map(len, queues.values()), default=0)):
        yield {tp: queue[turn] for tp, queue in queues.items() if turn < len(queue)}


def has_version_2(known: Abilities) -> bool:
    """Whether the cluster has transaction version 2 (KIP-890): its brokers add what a request touches."""
    level = min(known.features.get("transaction.version", 0), TRANSACTION_VERSION_MAX)
    return level >= 2 and all(known.newest.get(key, -1) >= version for key, version in VERSION_2.items())


class Producer:
    """Writes outboxes to Kafka; with a transactional id in transactions, else plainly.

    `version2` is what the last `begin` found of the cluster: whether every transaction has an epoch of its
    own. A cluster that has taken the feature back meanwhile still knows the requests of that version.
    `waits` tells what Kafka does not take.
    """

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
        self._late: set[asyncio.Future[Any]] = set()
        self.has_unanswered = False
        self.version2 = False
        self.waits = Waits()

    async def begin(self) -> None:
        """Take the transactional id over: ends an open transaction and fences whoever had the id before."""
        known = await self._of_transaction(ApiVersions, lambda r: [r.error_code])
        self.version2 = has_version_2(abilities(known))
        self._producer_id = self._epoch = -1
        await self._initialise()

    async def renew(self) -> None:
        """Start a new epoch of our own; raises Fenced when somebody else has."""
        await self._initialise()

    async def _initialise(self) -> None:
        def request() -> Any:
            name = self.transactional_id or ""
            return InitProducerId(name, self._timeout_ms, self._producer_id, self._epoch)

        codes = _codes_of_nobody if self._producer_id < 0 else lambda r: [r.error_code]
        response = await self._of_transaction(request, codes)
        self._take_epoch(response)

    def _take_epoch(self, response: Any) -> None:
        """Go on as the answer says: sequences begin again, late requests of the last epoch are refused."""
        self._producer_id, self._epoch = response.producer_id, response.producer_epoch
        self._sequences.clear()
        self.has_unanswered = False

    async def fence(self, transactional_id: str) -> None:
        """End whatever another producer, of this id, has open, and wait until its markers are written.

        Whoever has that id finds itself fenced. Nothing of our own changes.
        """
        request = InitProducerId(transactional_id, self._timeout_ms, -1, -1)
        try:
            await self._coordinated(TRANSACTION, transactional_id, lambda: request, _codes_of_nobody)
        finally:  # most ids are asked for once
            self._cluster.forget_coordinator(TRANSACTION, transactional_id)

    def stamp(self, tp: TP, builder: Any, count: int) -> bytearray:
        if self.transactional_id is not None:
            sequence = self._sequences[tp]
            self._sequences[tp] = (sequence + count) & 0x7FFFFFFF
            builder.set_producer_state(self._producer_id, self._epoch, sequence)
        batch: bytearray = builder.build()
        return batch

    async def add(self, partitions: Iterable[TP], offsets: Iterable[TP]) -> None:
        """Tell the coordinator which partitions, and if the group's offsets, the transaction touches.

        A request that got no answer may still be on its way, and would count for the transaction that it
        meets: an offset of the last one, the end of this one in its middle (KIP-890). So what has lost an
        answer begins no other transaction: a new epoch does, and the old one's requests are refused.

        Under version 2 there is nothing to do. The brokers add what the requests touch, and each transaction
        has an epoch of its own: late records and offsets of the last one are refused, by the coordinator
        that would add them or by the marker that its end has written; a late end of it is too. A late
        request for a new epoch can still end a transaction under way: it is then fenced, and never half made.
        """
        if self.version2:
            return
        if self.has_unanswered:
            await self._initialise()
        topics = [(topic, [each[0] for each in ps]) for topic, ps in by_topic(dict.fromkeys(partitions, 0))]
        identity = (self.transactional_id or "", self._producer_id, self._epoch)
        steps: list[Awaitable[Any]] = []
        if list(offsets):
            steps.append(
                self._of_transaction(
                    lambda: AddOffsetsToTxnRequest(*identity, self._group),
                    lambda r: [r.error_code],
                )
            )
        if topics:
            steps.append(
                self._of_transaction(
                    lambda: AddPartitionsToTxnRequest(*identity, topics),
                    lambda r: [code for _, ps in r.errors for _, code in ps],
                )
            )
        await all_done(*steps)

    async def send(self, outboxes: Iterable[Outbox], patience_s: float | None = None) -> list[dict[TP, int]]:
        """Write every batch and wait for the in-sync replicas; returns, by outbox, its own next offsets.

        A partition gets its batches in the order of the outboxes. The same outboxes can be sent again once
        the transaction is aborted. Raises LeaderAway if a partition has had no leader for `patience_s`.
        """
        outboxes = list(outboxes)
        ends: list[dict[TP, int]] = [{} for _ in outboxes]
        for due in rounds(outboxes):
            batches = {tp: self.stamp(tp, builder, count) for tp, (_, builder, count) in due.items()}
            for tp, base in (await self._produce(batches, patience_s)).items():
                ends[due[tp].outbox][tp] = base + due[tp].records
        return ends

    async def send_offsets(self, offsets: Mapping[TP, Committed], membership: Membership = NO_MEMBER) -> None:
        """Put input offsets into the transaction; raises StaleGeneration if the group has moved on."""
        if not offsets:
            return
        topics = by_topic(offsets)
        await self._of_group(
            lambda: TxnOffsetCommit(
                *(self.transactional_id or "", self._group, self._producer_id, self._epoch),
                *(*membership, topics),
                adds=self.version2,
            ),
            lambda r: [code for _, ps, _ in r.topics for _, code, _ in ps],
        )

    async def commit(self) -> None:
        """Make the transaction real.

        Raises Fenced if it is certainly not committed. Raises InDoubt if it may be: an answer to an earlier
        try was lost or told of a coordinator that moves, or a refusal has another reason than a fence.
        """
        attempts = 0

        def request() -> Any:
            nonlocal attempts
            attempts += 1
            return self._end_request(True)

        try:
            await self._end(request)
        except (TransactionFailed, Fenced) as error:
            if attempts == 1 and isinstance(error, Fenced):
                raise
            raise InDoubt(f"whether the last transaction is committed has to be asked: {error}") from error

    async def abort(self) -> None:
        """End the transaction, if one is open, and start a new epoch, so that sequences begin again.

        Under version 2 the end brings the epoch.
        """
        try:
            await self._end(lambda: self._end_request(False))
        except TransactionFailed as error:
            log.debug("nothing to abort: %s", error)
        else:
            if self.version2:
                return
        await self._initialise()

    def _end_request(self, result: bool) -> Any:
        kind = EndTxn if self.version2 else EndTxnRequest
        return kind(self.transactional_id or "", self._producer_id, self._epoch, result)

    async def _end(self, request: Callable[[], Any]) -> None:
        response = await self._of_transaction(request, lambda r: [r.error_code])
        if self.version2:
            self._take_epoch(response)

    async def commit_offsets(self, offsets: Mapping[TP, Committed], membership: Membership) -> None:
        """Commit offsets outside any transaction, as the group's member; StaleGeneration if it is none."""
        topics = by_topic(offsets)
        await self._of_group(
            lambda: OffsetCommitRequest(self._group, *membership, -1, topics),
            lambda r: [code for _, ps in r.topics for _, code in ps],
        )

    async def _of_transaction(self, request: Callable[[], Any], codes: Callable[[Any], list[int]]) -> Any:
        return await self._coordinated(TRANSACTION, self.transactional_id or "", request, codes)

    async def _of_group(self, request: Callable[[], Any], codes: Callable[[Any], list[int]]) -> Any:
        return await self._coordinated(GROUP, self._group, request, codes)

    async def _coordinated(
        self, kind: int, key: str, request: Callable[[], Any], codes: Callable[[Any], list[int]]
    ) -> Any:
        """Send to the coordinator until it gives a definite answer; raises Fenced or TransactionFailed."""
        with self.waits.begin() as wait:
            return await self._until_taken(wait, kind, key, request, codes)

    async def _until_taken(
        self,
        wait: Wait,
        kind: int,
        key: str,
        request: Callable[[], Any],
        codes: Callable[[Any], list[int]],
    ) -> Any:
        busy, away = pauses(BUSY_PAUSE_S).in_turn(), pauses(RETRY_PAUSE_S).in_turn()
        while True:
            node = await self._cluster.coordinator(kind, key)
            try:
                response = await self._cluster.send(node, request(), self._lane)
            except RETRIABLE as error:
                log.debug("%s away: %r", key, error)
                self.has_unanswered |= key in (self._group, self.transactional_id)
                found = MOVED
                wait.no_more()
            else:
                found = {code for code in codes(response) if code}
                if not found:
                    return response
                wait.because(_refusal(key, found))
            if found & FENCED:
                raise Fenced(f"{key}: {_names(found)}")
            if found & GENERATION:
                raise StaleGeneration(f"{key}: {_names(found)}")
            if not found <= BUSY | MOVED | LEADER | NOT_TRIED:
                raise TransactionFailed(f"{key}: {_names(found)}")
            if found & MOVED:
                self._cluster.forget_coordinator(kind, key)
            await asyncio.sleep(next(busy if found <= BUSY | NOT_TRIED else away))

    async def _produce(self, batches: dict[TP, bytearray], patience_s: float | None) -> dict[TP, int]:
        """Write one batch a partition; returns the offset of each batch's first record."""
        with self.waits.begin() as wait:
            return await self._until_written(wait, batches, patience_s)

    async def _until_written(
        self, wait: Wait, batches: dict[TP, bytearray], patience_s: float | None
    ) -> dict[TP, int]:
        bases: dict[TP, int] = {}
        away_since: dict[TP, float] = {}
        busy_pauses, away_pauses = pauses(BUSY_PAUSE_S).in_turn(), pauses(RETRY_PAUSE_S).in_turn()
        while True:
            began_at = time.monotonic()
            written, busy = await self._produce_once(batches, patience_s)
            bases |= written
            batches = {tp: data for tp, data in batches.items() if tp not in written}
            if not batches:
                return bases
            if busy:
                wait.because(_refusal(self.transactional_id or self._group, BUSY))
            away_since = {tp: away_since.get(tp, began_at) for tp in batches if tp not in busy}
            if not away_since:
                await asyncio.sleep(next(busy_pauses))
                continue
            _require_leaders(away_since, patience_s)
            await self._cluster.refresh()
            await asyncio.sleep(next(away_pauses))

    async def _produce_once(
        self, batches: dict[TP, bytearray], patience_s: float | None
    ) -> tuple[dict[TP, int], set[TP]]:
        """Send each batch to its leader; returns what is written, and what is to be tried again at once."""
        by_node: dict[int, dict[TP, bytearray]] = defaultdict(dict)
        for tp, data in batches.items():
            node = self._cluster.leader(tp)
            if node is not None:
                by_node[node][tp] = data
        bases: dict[TP, int] = {}
        busy: set[TP] = set()
        for written, waiting in await all_done(
            *(self._produce_to(node, theirs, patience_s) for node, theirs in by_node.items())
        ):
            bases |= written
            busy |= waiting
        return bases, busy

    async def _produce_to(
        self, node: int, batches: dict[TP, bytearray], patience_s: float | None
    ) -> tuple[dict[TP, int], set[TP]]:
        """Return the base offset of each batch that is in the log, and those for which Kafka is too busy.

        The others are to be tried again once their leaders are known.
        """
        topics = by_topic(batches)
        request = Produce(self.transactional_id, PRODUCE_TIMEOUT_MS, topics, adds=self.version2)
        try:
            response = await self._within(patience_s, self._cluster.send(node, request, self._lane))
        except RETRIABLE as error:
            log.debug("produce to node %s: %r", node, error)
            self.has_unanswered = True
            return {}, set()
        bases: dict[TP, int] = {}
        busy: set[TP] = set()
        for topic, partitions, *_ in response.topics:
            for partition, code, base, *_ in partitions:
                tp = TP(topic, partition)
                if code in FENCED:
                    raise Fenced(f"{self.transactional_id}: {_names({code})}")
                if code == DUPLICATE_SEQUENCE:
                    raise TransactionFailed(f"produce to {topic}-{partition}: an earlier try got through")
                if code in REFUSED:
                    raise RecordRefused(tp, {code})
                if code == 0:
                    bases[tp] = base
                elif code in BUSY:
                    busy.add(tp)
                elif code not in LEADER:
                    raise TransactionFailed(f"produce to {topic}-{partition}: {_names({code})}")
        return bases, busy

    async def _within(self, patience_s: float | None, asked: Awaitable[Any]) -> Any:
        """Await an answer; raises RequestTimedOutError after `patience_s`, though the answer may still come.

        The request goes on by itself then: its connection is closed if there is none for long.
        """
        if patience_s is None:
            return await asked
        asking = asyncio.ensure_future(asked)
        try:
            await asyncio.wait({asking}, timeout=patience_s)
        except asyncio.CancelledError:
            asking.cancel()
            raise
        if asking.done():
            return asking.result()
        self._late.add(asking)
        asking.add_done_callback(self._forget_late)
        raise errors.RequestTimedOutError(f"no answer in {patience_s} s")

    def _forget_late(self, asked: "asyncio.Future[Any]") -> None:
        self._late.discard(asked)
        if not asked.cancelled() and (error := asked.exception()) is not None:
            log.debug("%s: nobody waits any more for what failed: %r", self.transactional_id, error)


def _codes_of_nobody(response: Any) -> list[int]:
    """The error of an InitProducerId that names no epoch: nobody can be fenced who has none.

    Kafka refuses it so for the sake of another one for the same id: it is to be sent again.
    """
    found: int = response.error_code
    return [CONCURRENT_TRANSACTIONS if found in FENCED else found]


def _require_leaders(away_since: Mapping[TP, float], patience_s: float | None) -> None:
    """Raise LeaderAway if partitions have been without a leader for too long."""
    if patience_s is None:
        return
    now = time.monotonic()
    if late := {tp: now - since for tp, since in away_since.items() if now - since >= patience_s}:
        raise LeaderAway(late, max(late.values()))


async def all_done(*steps: Awaitable[Any]) -> list[Any]:
    """Await all, so that nothing of a transaction is under way any more when one has failed; then raise."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    failures = [each for each in results if isinstance(each, BaseException)]
    if failures:
        raise min(failures, key=_rank)
    return results


def _rank(failure: BaseException) -> int:
    """What to do about several failures at once: a fence counts most, then the group's having moved on."""
    if isinstance(failure, StaleGeneration):
        return 1
    return 0 if isinstance(failure, Fenced) else 2


def _refusal(name: str, codes: set[int]) -> str:
    return f"Kafka answers, but takes no request for {name}: {_names(codes)}"


def _names(codes: set[int]) -> str:
    return ", ".join(f"{errors.for_code(code).__name__} ({code})" for code in sorted(codes))
