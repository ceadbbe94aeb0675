"""Follows the log from outside and counts what happens: for the display, and to see when all is quiet.

Reads committed records only, some times a second; it has no part in any consumer group.
"""

import asyncio
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiokafka import errors
from mode import Service

from app.engine.cluster import EARLIEST, LATEST, RETRIABLE, RETRY_PAUSE_S, TP, Cluster
from app.engine.dead_letter import PREFIX
from app.engine.topics import EVENT_ID, EVENT_TYPE, TopicSpec
from app.topics import COMPLIANCE_DECISIONS, DEAD_LETTERS, EXECUTIONS, ORDERS, RISK_DECISIONS

log = logging.getLogger(__name__)
T = TypeVar("T")

FOLLOWED: Final = (ORDERS, RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS, DEAD_LETTERS)
FETCH_WAIT_MS: Final = 250
FETCH_BYTES: Final = 1024 * 1024


class _Refusal(msgspec.Struct):
    reason: str


_refusal = msgspec.json.Decoder(_Refusal)
_REPORT: Final = re.compile(rb"venue/([0-9]{1,3})/([0-9]{1,19})")


class Monitor(Service):
    """Counts since its start, or since the beginning of the log.

    `records` by topic, `events` by event type, `rejected` by reason, `dead_letters` by (service, topic);
    `venue_sequences` holds the last report of each session that is booked, or a dead letter.
    """

    followed: tuple[TopicSpec, ...] = FOLLOWED
    pause_s = 0.2
    """Between two looks: people read the counts, and a look at each record costs more than the record."""

    def __init__(self, cluster: Cluster, *, from_beginning: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.records: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.dead_letters: Counter[tuple[str, str]] = Counter()
        self.venue_sequences: dict[int, int] = {}
        self.positions: dict[TP, int] = {}
        self.last_outcome_at_ms = 0
        """The broker's time of the last decision or execution."""
        self.first_order_at_ms: int | None = None
        """The broker's time of the first order since `mark`."""
        self.new_orders = 0
        """Records on `orders` since `mark`."""
        self._marked: dict[TP, int] | None = None
        self._cluster = cluster
        self._from = EARLIEST if from_beginning else LATEST

    async def on_start(self) -> None:
        tps = [
            TP(spec.name, number)
            for spec in self.followed
            for number in range(await self._cluster.partition_count(spec.name))
        ]
        self.positions = await self._cluster.offsets(tps, self._from)

    async def mark(self) -> None:
        """Orders from here on are new ones."""
        self._marked = await self._cluster.offsets(
            [tp for tp in self.positions if tp.topic == ORDERS.name], LATEST
        )

    @property
    def approved(self) -> int:
        """Orders that compliance has let pass: those that the venue is to get."""
        return self.events["OrderComplianceApproved"]

    @property
    def executed(self) -> int:
        return self.events["TradeExecuted"]

    def has_read(self, ends: Mapping[TP, int]) -> bool:
        """Whether everything below these ends is counted."""
        return all(self.positions.get(tp, end) >= end for tp, end in ends.items())

    @Service.task
    async def _follow(self) -> None:
        while not self.should_stop:
            by_node: dict[int | None, dict[TP, int]] = defaultdict(dict)
            for tp, position in self.positions.items():
                by_node[self._cluster.leader(tp)][tp] = position
            wait_ms = FETCH_WAIT_MS // len(by_node)
            fetches = [self._fetch(node, theirs, wait_ms) for node, theirs in by_node.items()]
            if not any(await asyncio.gather(*fetches)):
                await self.sleep(self.pause_s)

    async def _fetch(self, node: int | None, positions: dict[TP, int], wait_ms: int) -> bool:
        """Count what one node has; returns whether that was so much that there may be more."""
        try:
            if node is None:
                raise errors.LeaderNotAvailableError(str(list(positions)))
            fetched = await self._cluster.fetch(
                node, positions, wait_ms=wait_ms, partition_bytes_max=FETCH_BYTES, lane=("monitor", node)
            )
        except RETRIABLE as error:
            log.debug("the monitor waits: %r", error)
            await self._cluster.refresh()
            await asyncio.sleep(RETRY_PAUSE_S)
            return False
        for each in fetched:
            self.take(each.tp, each.records)
            self.positions[each.tp] = each.next_position
            await asyncio.sleep(0)
        return any(each.size_bytes > FETCH_BYTES // 2 for each in fetched)

    def take(self, tp: TP, records: list[Any]) -> None:
        """Count records that have come, those of one partition in their order."""
        topic = tp.topic
        self.records[topic] += len(records)
        if topic == DEAD_LETTERS.name:
            self.dead_letters.update(_origin(dict(record.headers)) for record in records)
            self._note_reports(dict(record.headers).get(f"{PREFIX}source") for record in records)
        elif topic == ORDERS.name:
            self._note_new(tp, records)
        elif records:
            self._count_events(records)
            self.last_outcome_at_ms = max(self.last_outcome_at_ms, records[-1].timestamp)
            if topic == EXECUTIONS.name:
                self._note_reports(dict(record.headers).get(EVENT_ID) for record in records)

    def _note_new(self, tp: TP, records: list[Any]) -> None:
        if self._marked is None:
            return
        new = [record.timestamp for record in records if record.offset >= self._marked[tp]]
        if new:
            self.new_orders += len(new)
            self.first_order_at_ms = min(new[0], self.first_order_at_ms or new[0])

    def _count_events(self, records: list[Any]) -> None:
        for record in records:
            event = (dict(record.headers).get(EVENT_TYPE) or b"").decode(errors="replace")
            self.events[event] += 1
            if event.endswith("Rejected") and (refusal := _decoded(_refusal, record)) is not None:
                self.rejected[refusal.reason] += 1

    def _note_reports(self, names: Iterable[bytes | None]) -> None:
        """Take in the venue's reports by their names, `venue/<session>/<venue_sequence>`."""
        for name in names:
            if found := _REPORT.fullmatch(name or b""):
                session, sequence = int(found[1]), int(found[2])
                self.venue_sequences[session] = max(sequence, self.venue_sequences.get(session, 0))


def _decoded(decoder: msgspec.json.Decoder[T], record: Any) -> T | None:
    """The value, None where a stranger has written what the services make dead letters of."""
    try:
        return decoder.decode(record.value or b"")
    except (ValueError, RecursionError) as error:  # no JSON, text that is no UTF-8, brackets without end
        log.warning("%s at offset %s is passed over: %s", record.key, record.offset, error)
        return None


def _origin(headers: dict[str, bytes | None]) -> tuple[str, str]:
    service, topic = (headers.get(f"{PREFIX}{name}") or b"" for name in ("service", "topic"))
    return service.decode(errors="replace"), topic.decode(errors="replace")
