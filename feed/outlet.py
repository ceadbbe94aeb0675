"""The feed's way into Kafka: whole batches a partition, idempotent, patient while the broker is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import cycle
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2

from app.engine.retries import Pauses
from feed.wire import Record

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_BYTES_MAX = 256_000
LARGE_BYTES = 200_000
"""A record above this goes out by itself: should the broker refuse it, no other record is harmed."""

LARGE_BYTES_MAX = 16_000_000
REQUEST_TIMEOUT_MS = 30_000
RETRY_SECONDS = 0.5
PATIENCE = Pauses(0.1, RETRY_SECONDS)

NextOffsets = dict[int, int]
"""By partition: the offset after the last record sent."""


async def patiently(attempt: Callable[[], Awaitable[T]], what: str) -> T:
    """Try until Kafka is there."""

    async def logged() -> T:
        try:
            return await attempt()
        except KafkaError as error:
            log.warning("%s: %r; trying again", what, error)
            raise

    return await PATIENCE.until_done(KafkaError, logged)


class Outlet:
    """Sends records and comes back when the broker has them all, however long that takes.

    Two producers: an idempotent one for all that matters, which retries without making duplicates, and a
    plain one for records so large that the broker may refuse them, which would leave a hole in the numbering
    of the first. Should the idempotent one give up, a new one sends again what had no answer: a record may
    then be in the topic twice.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._producer: Any = None
        self._large_producer: Any = None
        self._partition_of: dict[tuple[str, bytes], int] = {}
        self._keyless = cycle(range(1 << 30))
        self.refused = 0

    async def start(self) -> None:
        self._producer = await patiently(self._started_producer, "connecting to Kafka")

    async def stop(self, within_s: float = 5.0) -> None:
        for producer in filter(None, (self._producer, self._large_producer)):
            await _stop(producer, within_s)
        self._producer = self._large_producer = None

    async def send(self, topic: str, records: Iterable[Record]) -> NextOffsets:
        """Send in order of each partition; return where the partitions that got something now end."""
        partitions = len(await self._producer.partitions_for(topic))
        waiting = self._by_partition(topic, records, partitions)
        ends: NextOffsets = {}
        while waiting:
            outcomes = await asyncio.gather(
                *(self._send_partition(topic, each, waiting[each]) for each in waiting),
                return_exceptions=True,
            )
            waiting = await self._sort_out(waiting, outcomes, ends)
        return ends

    def _by_partition(
        self, topic: str, records: Iterable[Record], partitions: int
    ) -> dict[int, list[Record]]:
        grouped: dict[int, list[Record]] = {}
        for record in records:
            grouped.setdefault(self._partition(topic, record.key, partitions), []).append(record)
        return grouped

    def _partition(self, topic: str, key: bytes | None, partitions: int) -> int:
        """Kafka's default: murmur2 of the key; records without one take turns."""
        if key is None:
            return next(self._keyless) % partitions
        known = self._partition_of.get((topic, key))
        if known is None:
            known = self._partition_of[topic, key] = (murmur2(key) & 0x7FFFFFFF) % partitions
        return known

    async def _send_partition(self, topic: str, partition: int, records: list[Record]) -> int:
        """Return the offset after the last record, or -1 when there is none."""
        delivered, end = [], -1
        batch = self._producer.create_batch()
        for record in records:
            if record.value is not None and len(record.value) > LARGE_BYTES:
                end = max(end, await self._send_large(topic, partition, record))
            elif not _append(batch, record):
                delivered.append(await self._producer.send_batch(batch, topic, partition=partition))
                batch = self._producer.create_batch()
                _append(batch, record)
        if batch.record_count():
            count = batch.record_count()
            delivered.append(await self._producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*delivered)
            end = max(end, delivered[-1].result().offset + count)
        return end

    async def _send_large(self, topic: str, partition: int, record: Record) -> int:
        self._large_producer = self._large_producer or await self._started_large_producer()
        try:
            sent = await self._large_producer.send_and_wait(
                topic, record.value, record.key, partition, headers=record.headers
            )
        except MessageSizeTooLargeError:
            self.refused += 1
            return -1
        return int(sent.offset) + 1

    async def _sort_out(
        self, sent: Mapping[int, list[Record]], outcomes: Iterable[int | BaseException], ends: NextOffsets
    ) -> dict[int, list[Record]]:
        """Note what arrived; return what did not, when trying again is of use."""
        again: dict[int, list[Record]] = {}
        failed = False
        for (partition, records), outcome in zip(sent.items(), outcomes, strict=True):
            if isinstance(outcome, int):
                ends[partition] = max(outcome, ends.get(partition, -1))
            elif isinstance(outcome, KafkaError):
                again[partition] = records
                failed = failed or not isinstance(outcome, KafkaTimeoutError)
            else:
                raise outcome
        if failed:
            await self._replace_producer()
        return again

    async def _replace_producer(self) -> None:
        log.warning("the producer gave up: a new one takes over")
        await _stop(self._producer, within_s=1.0)
        await asyncio.sleep(RETRY_SECONDS)
        await self.start()

    async def _started_producer(self) -> AIOKafkaProducer:
        return await _started(
            AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                enable_idempotence=True,
                acks="all",
                max_batch_size=BATCH_BYTES_MAX,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                retry_backoff_ms=50,
            )
        )

    async def _started_large_producer(self) -> AIOKafkaProducer:
        return await _started(
            AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                max_request_size=LARGE_BYTES_MAX,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
        )


def _append(batch: Any, record: Record) -> bool:
    """False when the batch is full."""
    taken = batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    return taken is not None


async def _started(client: Any) -> Any:
    """Start a client of aiokafka; one that can't start is closed, so that it leaves no warning behind."""
    try:
        await client.start()
    except BaseException:
        await _stop(client, within_s=1.0)
        raise
    return client


async def _stop(client: Any, within_s: float) -> None:
    try:
        await asyncio.wait_for(client.stop(), within_s)
    except (KafkaError, TimeoutError) as error:
        log.warning("a Kafka client did not stop in an orderly way: %r", error)
