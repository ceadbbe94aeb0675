"""Reads whole partitions of the log, committed records only, from the first to the last stable offset."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError

from checker.errors import CheckerError
from checker.lenient import LenientRecords, MarkedRecords
from checker.records import Raw

FETCH_BYTES_MAX = 16 * 1024 * 1024
PATIENCE_S = 60.0
"""How long to wait for the broker without getting on."""
COORDINATOR_PATIENCE_S = 20.0

if TYPE_CHECKING:  # aiokafka has no types

    class TP(NamedTuple):
        """A topic and a partition number."""

        topic: str
        partition: int

else:
    TP = TopicPartition

Take = Callable[[Sequence[Raw]], None]

# A consumer has no option for this: here its fetcher finds what it unpacks and makes records with.
fetcher.MemoryRecords = LenientRecords
fetcher.PartitionRecords = MarkedRecords


class Log:
    """A cluster's log. Raises CheckerError when it can't be reached or stops answering.

    `cut` fixes how far a partition is read; what is not cut is read up to its end at that time.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer: Any = None
        self._partition_counts: dict[str, int] = {}
        self._ends: dict[TP, int] = {}
        self._beginnings: dict[TP, int] = {}

    async def __aenter__(self) -> "Log":
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            check_crcs=False,
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
            fetch_max_bytes=4 * FETCH_BYTES_MAX,
            fetch_max_wait_ms=50,
        )
        try:
            self._partition_counts = await _partition_counts(self._bootstrap)
            await self._consumer.start()
            await asyncio.sleep(0)  # its task has to have begun, or stop() raises CancelledError
        except KafkaError as error:
            await self._consumer.stop()
            raise CheckerError(f"no Kafka answers at {self._bootstrap}: start it or name another") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    def partitions(self, topic: str) -> list[TP]:
        """The partitions that a topic had at the start; none when there was no such topic."""
        return [TP(topic, number) for number in range(self._partition_counts.get(topic, 0))]

    async def committed(self, group: str) -> dict[TP, int]:
        """How far a consumer group has read, by its own account."""
        give_up_at = time.monotonic() + COORDINATOR_PATIENCE_S
        while True:
            try:
                return await _committed(self._bootstrap, group)
            except KafkaError as error:  # the first such question makes Kafka create a topic
                if not error.retriable or time.monotonic() > give_up_at:
                    raise CheckerError(
                        f"{self._bootstrap} does not tell how far {group!r} is: {error}"
                    ) from error
                await asyncio.sleep(0.2)

    async def cut(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Fix the last stable offset of these partitions as the end to read to."""
        wanted = list(tps)
        ends: dict[TP, int] = await self._consumer.end_offsets(wanted) if wanted else {}
        self._ends |= ends
        return ends

    async def beginnings(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The first offset of each that is still there, as first asked."""
        wanted = list(tps)
        unknown = [tp for tp in wanted if tp not in self._beginnings]
        if unknown:
            self._beginnings |= await self._consumer.beginning_offsets(unknown)
        return {tp: self._beginnings[tp] for tp in wanted}

    async def read(self, takes: Mapping[TP, Take]) -> None:
        """Hand every committed record of these partitions to its `take`, in order, some at a time."""
        await self.cut(tp for tp in takes if tp not in self._ends)
        goals = {tp: self._ends[tp] for tp in takes}
        beginnings = await self.beginnings(takes)
        behind = {tp for tp in takes if beginnings[tp] < goals[tp]}
        if not behind:
            return
        self._consumer.assign(sorted(behind))
        for tp in behind:
            self._consumer.seek(tp, beginnings[tp])
        moved_at = time.monotonic()
        while behind:
            fetched = await self._consumer.getmany(timeout_ms=100)
            for tp, records in fetched.items():
                _hand_over(records, goals[tp], takes[tp])
            arrived = {tp for tp in behind if await self._consumer.position(tp) >= goals[tp]}
            self._consumer.pause(*arrived)
            behind -= arrived
            if fetched or arrived:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > PATIENCE_S:
                raise CheckerError(f"{self._bootstrap} gives nothing more of {_named(behind)}: is it up?")


async def _committed(bootstrap: str, group: str) -> dict[TP, int]:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {TP(*tp): found.offset for tp, found in offsets.items()}


async def _partition_counts(bootstrap: str) -> dict[str, int]:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        described = await admin.describe_topics()
    finally:
        await admin.close()
    return {each["topic"]: len(each["partitions"]) for each in described}


def _hand_over(records: Sequence[Raw], goal: int, take: Take) -> None:
    if records[-1].offset < goal:
        take(records)
    else:
        take([record for record in records if record.offset < goal])


def _named(tps: Iterable[TP]) -> str:
    return ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(tps))
