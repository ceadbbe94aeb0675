"""Follows the log from outside and counts what happens: for the display, and to see when all is quiet.

Reads committed records only, some times a second; it has no part in any consumer group. Counts are those of
the whole log: they are kept in a file from one run to the next, with the positions that they belong to.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiokafka import errors
from mode import Service

from app.engine.core.dead_letter import PREFIX
from app.engine.kafka.cluster import EARLIEST, LATEST, RETRIABLE, RETRY_PAUSE_S, TP, Cluster, RawRecord
from app.engine.topics import EVENT_TYPE
from app.processes.supervisor import Dispensable
from app.run.kept_counts import Counts, read_counts, write_counts
from app.topics import COMPLIANCE_DECISIONS, DEAD_LETTERS, EXECUTIONS, ORDERS, RISK_DECISIONS
from models.reasons import WithheldReason

log = logging.getLogger(__name__)
T = TypeVar("T")

CURSORS: Final = "exchange-sessions-changelog"
"""How far the venue's reports are booked, or buried: by session, the table of the exchange."""

FOLLOWED: Final = (
    *(each.name for each in (ORDERS, RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS, DEAD_LETTERS)),
    CURSORS,
)
FETCH_WAIT_MS: Final = 250
FETCH_BYTES: Final = 1024 * 1024
KEEP_EVERY_S: Final = 2.0


class _Refusal(msgspec.Struct):
    reason: str


class _Fill(msgspec.Struct):
    leaves_lots: int


class _Order(msgspec.Struct):
    account_id: str
    sequence: int


class _Request(msgspec.Struct):
    account_id: str
    sequence: int = 0


class _Approval(msgspec.Struct):
    """Of an order, a replace or a cancel: that has a number of its own."""

    order: _Order | None = None
    request: _Request | None = None
    number: int = 0


class _Cursor(msgspec.Struct):
    venue_sequence_last: int = 0


WITHHELD: Final = "OrderWithheld"
REQUESTS: Final = frozenset({"CancelRequested", "ReplaceRequested"})
WITH_REASON: Final = frozenset(
    {
        "OrderRiskRejected",
        "OrderComplianceRejected",
        "VenueRejected",
        WITHHELD,
        "CancelRefused",
        "ReplaceRiskRejected",
        "ReplaceComplianceRejected",
        "CancelRejected",
        "ReplaceRejected",
        "ReplaceWithheld",
    }
)

_refusal = msgspec.json.Decoder(_Refusal)
_fill = msgspec.json.Decoder(_Fill)
_cursor = msgspec.json.Decoder(_Cursor)
_approval = msgspec.json.Decoder(_Approval)
APPROVED: Final = "OrderComplianceApproved"
TO_THE_VENUE: Final = frozenset({APPROVED, "ReplaceComplianceApproved", "CancelAccepted"})
"""What compliance lets pass: the venue is to get it."""
PASSED_ON: Final = "cancels and replaces passed on"
CANCELLED_UNSENT: Final = "orders withheld for a cancel"
"""Counted among the events, though they are none."""


class Monitor(Service):
    """Counts since the beginning of the log, or since its own start.

    `records` by topic, `events` by event type, `rejected` by reason, `dead_letters` by (service, topic);
    `filled` orders have nothing left to fill, `venue_sequences` holds how far each session is booked. `kept`
    is the file in which counts are kept, None for none.
    """

    followed: tuple[str, ...] = FOLLOWED
    pause_s = 0.2
    """Between two looks: people read the counts, and a look at each record costs more than the record."""

    def __init__(
        self, cluster: Cluster, *, from_beginning: bool, kept: Path | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.records: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.dead_letters: Counter[tuple[str, str]] = Counter()
        self.filled = 0
        self.venue_sequences: dict[int, int] = {}
        self.positions: dict[TP, int] = {}
        self._approved_up_to: dict[tuple[str, bool], int] = {}
        self.last_outcome_at_ms = 0
        """The broker's time of the last decision or execution."""
        self.first_order_at_ms: int | None = None
        """The broker's time of the first order since `mark`."""
        self.new_orders = 0
        """Records on `orders` since `mark`."""
        self._marked: dict[TP, int] | None = None
        self._cluster = cluster
        self._from = EARLIEST if from_beginning else LATEST
        self._kept = kept
        self._keeping = Dispensable()

    async def on_start(self) -> None:
        tps = [
            TP(topic, number)
            for topic in self.followed
            for number in range(await self._cluster.partition_count(topic))
        ]
        self.positions = await self._cluster.offsets(tps, self._from)
        if self._kept is not None and (counts := read_counts(self._kept)) is not None:
            ends = await self._cluster.offsets(tps, LATEST)
            if counts.fit(self.positions, ends):
                self._go_on_from(counts)

    async def on_stop(self) -> None:
        self.keep()

    def _go_on_from(self, counts: Counts) -> None:
        self.positions = counts.by_partition()
        self.records.update(counts.records)
        self.events.update(counts.events)
        self.rejected.update(counts.rejected)
        self.dead_letters.update(counts.by_origin())
        self.filled = counts.filled
        self.venue_sequences.update(counts.venue_sequences)

    def keep(self) -> None:
        """Write what is counted, and up to where; a full disk is no reason to stop counting."""
        if self._kept is not None and self.positions:
            counts = Counts.of(
                self.positions,
                self.dead_letters,
                records=dict(self.records),
                events=dict(self.events),
                rejected=dict(self.rejected),
                filled=self.filled,
                venue_sequences=self.venue_sequences,
            )
            with self._keeping.writing(self._kept):
                write_counts(self._kept, counts)

    @Service.task
    async def _keep_now_and_then(self) -> None:
        while not self.should_stop:
            await self.sleep(KEEP_EVERY_S)
            self.keep()

    async def mark(self) -> None:
        """Orders from here on are new ones."""
        self._marked = await self._cluster.offsets(
            [tp for tp in self.positions if tp.topic == ORDERS.name], LATEST
        )

    @property
    def orders_before(self) -> int | None:
        """Records on `orders` before `mark`: None until the log is read as far as that."""
        if self._marked is None or not self.has_read(self._marked):
            return None
        return self.records[ORDERS.name] - self.new_orders

    @property
    def approved(self) -> int:
        """Orders that compliance has let pass: those that the venue is to get."""
        return self.events[APPROVED]

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

    def take(self, tp: TP, records: Sequence[RawRecord]) -> None:
        """Count records that have come, those of one partition in their order."""
        topic = tp.topic
        self.records[topic] += len(records)
        if topic == DEAD_LETTERS.name:
            self.dead_letters.update(_origin(dict(record.headers)) for record in records)
        elif topic == ORDERS.name:
            self.events.update(each for record in records if (each := _event(record)) in REQUESTS)
            self._note_new(tp, records)
        elif topic == CURSORS:
            self._note_cursors(records)
        elif records:
            self._count_events(topic, records)
            self.last_outcome_at_ms = max(self.last_outcome_at_ms, records[-1].timestamp)

    def _note_new(self, tp: TP, records: Sequence[RawRecord]) -> None:
        if self._marked is None:
            return
        new = [record.timestamp for record in records if record.offset >= self._marked[tp]]
        if new:
            self.new_orders += len(new)
            self.first_order_at_ms = min(new[0], self.first_order_at_ms or new[0])

    def _count_events(self, topic: str, records: Sequence[RawRecord]) -> None:
        for record in records:
            event = _event(record)
            if topic == COMPLIANCE_DECISIONS.name and event in TO_THE_VENUE:
                if not self._has_counted(record):
                    self.events[APPROVED if event == APPROVED else PASSED_ON] += 1
                continue
            self.events[event] += 1
            if event in WITH_REASON and (refusal := _decoded(_refusal, record)) is not None:
                self.rejected[refusal.reason] += 1
                self.events[CANCELLED_UNSENT] += (
                    event == WITHHELD and refusal.reason == WithheldReason.CANCEL_REQUESTED
                )
            elif event == "TradeExecuted" and (fill := _decoded(_fill, record)) is not None:
                self.filled += fill.leaves_lots == 0

    def _has_counted(self, record: Any) -> bool:
        """Whether it was let pass before: a tool may write that twice, it goes to the venue once."""
        approval = _decoded(_approval, record)
        about = approval and (approval.order or approval.request)
        if not approval or not about:
            return False
        number = approval.number or about.sequence
        of = (about.account_id, approval.number > 0)
        if number <= self._approved_up_to.get(of, 0):
            return True
        self._approved_up_to[of] = number
        return False

    def _note_cursors(self, records: Sequence[RawRecord]) -> None:
        for record in records:
            session, cursor = (record.key or b"").decode(errors="replace"), _decoded(_cursor, record)
            if cursor is not None and session.isdecimal():
                self.venue_sequences[int(session)] = cursor.venue_sequence_last


def _decoded(decoder: msgspec.json.Decoder[T], record: Any) -> T | None:
    """The value, None where a stranger has written what the services make dead letters of."""
    try:
        return decoder.decode(record.value or b"")
    except (ValueError, RecursionError) as error:  # no JSON, text that is no UTF-8, brackets without end
        log.warning("%s at offset %s is passed over: %s", record.key, record.offset, error)
        return None


def _event(record: Any) -> str:
    return (dict(record.headers).get(EVENT_TYPE) or b"").decode(errors="replace")


def _origin(headers: dict[str, bytes | None]) -> tuple[str, str]:
    service, topic = (headers.get(f"{PREFIX}{name}") or b"" for name in ("service", "topic"))
    return service.decode(errors="replace"), topic.decode(errors="replace")
