"""What comes out of the services, and when: the measure of every outage. Looks at the log only."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from app.engine.core.dead_letter import PREFIX
from app.engine.kafka.cluster import TP, RawRecord
from app.engine.topics import CORRELATION_ID, EVENT_ID, EVENT_TYPE
from app.run.monitor import FOLLOWED, Monitor
from app.topics import (
    COMPLIANCE_DECISIONS,
    DEAD_LETTERS,
    ORDERS,
    PRICES,
    RISK_DECISIONS,
    TOPICS,
)
from app.topology import SERVICES
from storm.poison import NAME_PREFIX
from storm.release import RELEASE

OUTPUT: Final = {name: each.outputs[0] for name, each in SERVICES.items() if each.steady}
"""The topic that tells that a service works."""

INPUT: Final = {"risk": ORDERS.name, "compliance": RISK_DECISIONS.name, "exchange": COMPLIANCE_DECISIONS.name}
ANSWERED: Final = {
    RISK_DECISIONS.name: b"OrderRiskApproved",
    COMPLIANCE_DECISIONS.name: b"OrderComplianceApproved",
}
"""What the next service answers, where that is not everything."""

NEXT: Final = f'"release":"{RELEASE}"'.encode()
INSIDE: Final = {spec.name for spec in TOPICS if not spec.edge}
SERVICE: Final = {topic: service for service, topic in OUTPUT.items()}
KEPT: Final = 4_096
INPUTS_KEPT: Final = 50_000
POLL_S: Final = 0.004
LIVE_S: Final = 3.0
"""A partition from which nothing has come for so long has nothing to do."""


class Seen(NamedTuple):
    """A committed output: the broker's clock when it was appended, ours when it could be read (Unix ms).

    `asked_ms` is when the input that it answers was appended, 0 when that is not known.
    """

    appended_ms: int
    seen_ms: float
    asked_ms: int


class Asked(NamedTuple):
    """An input that is not answered yet: when it was appended, by the broker's clock, and where."""

    ms: int
    partition: int
    source: str


class Gap(NamedTuple):
    """A time without output though there was work, by the broker's clock; it ends with an output.

    It begins with the output before, or with the arrival of the input when that came later.
    """

    service: str
    partition: int
    ended_ms: int
    ms: int


class Observer(Monitor):
    """A monitor that also keeps the last output of every partition of every service, with its times.

    `of_next` counts, by topic, what the next release has written; `lost` are the dead letters that nobody's
    poison explains: records between our services, and orders that could be read and then cost their account.
    """

    followed = (*FOLLOWED, PRICES.name)
    pause_s = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: dict[TP, deque[Seen]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._inputs: dict[str, dict[str, Asked]] = defaultdict(dict)
        self._gaps: deque[Gap] = deque(maxlen=10 * KEPT)
        self.of_next: Counter[str] = Counter()
        self.lost: deque[str] = deque(maxlen=KEPT)

    def take(self, tp: TP, records: Sequence[RawRecord]) -> None:
        seen_ms = time.time() * 1000
        for record in records:
            headers = dict(record.headers)
            if tp.topic in SERVICE:
                asked_ms = self._match(tp, record, headers)
                self._seen[tp].append(Seen(record.timestamp, seen_ms, asked_ms))
                self.of_next[tp.topic] += NEXT in (record.value or b"")
            elif tp.topic == DEAD_LETTERS.name:
                self._bury(record.key, headers)
            if tp.topic in INPUT.values():
                self._await_answer(tp, record, headers)
        if tp.topic != PRICES.name:
            super().take(tp, records)

    def _match(self, tp: TP, record: Any, headers: dict[str, bytes | None]) -> int:
        """Find the input that an output answers: by the event id, at the exchange by the order."""
        service = SERVICE[tp.topic]
        if service not in INPUT:
            return 0
        if service == "exchange":
            answered = _text(headers, CORRELATION_ID)
        else:  # the id of the input, the service and a count
            answered = _text(headers, EVENT_ID).rsplit(":", 2)[0]
        asked = self._inputs[INPUT[service]].pop(answered, None)
        asked_ms = asked.ms if asked is not None else 0
        if asked_ms:
            begun_ms = max(asked_ms, self._last(service, tp.partition).appended_ms)
            self._gaps.append(Gap(service, tp.partition, record.timestamp, record.timestamp - begun_ms))
        return asked_ms

    def _await_answer(self, tp: TP, record: Any, headers: dict[str, bytes | None]) -> None:
        if tp.topic in ANSWERED and headers.get(EVENT_TYPE) != ANSWERED[tp.topic]:
            return
        source = f"{tp.topic}/{tp.partition}/{record.offset}"
        waiting = self._inputs[tp.topic]
        name = _id_of(tp.topic, record.value, headers) or source
        waiting[name] = Asked(record.timestamp, tp.partition, source)
        if len(waiting) > INPUTS_KEPT:
            del waiting[next(iter(waiting))]

    def _bury(self, key: bytes | None, headers: dict[str, bytes | None]) -> None:
        """A dead letter answers its record."""
        topic, partition, offset = (
            _text(headers, f"{PREFIX}{part}") for part in ("topic", "partition", "offset")
        )
        source = f"{topic}/{partition}/{offset}"
        waiting = self._inputs[topic]
        for name in [name for name, asked in waiting.items() if asked.source == source]:
            del waiting[name]
        held = f"{PREFIX}held-behind" in headers
        costly = topic == ORDERS.name and (held or _text(headers, f"{PREFIX}attempts") != "1")
        if (costly or topic in INSIDE) and not (key or b"").startswith(NAME_PREFIX.encode()):
            self.lost.append(f"{source} by {_text(headers, f'{PREFIX}service')}")

    def live(self, service: str, partitions: Iterable[int]) -> list[int]:
        """Those of the partitions that had output lately."""
        since_ms = (time.time() - LIVE_S) * 1000
        return [each for each in partitions if self._last(service, each).seen_ms > since_ms]

    def _last(self, service: str, partition: int) -> Seen:
        seen = self._seen.get(TP(OUTPUT[service], partition))
        return seen[-1] if seen else Seen(0, 0, 0)

    async def outage_ms(
        self, service: str, partitions: Iterable[int], since_ms: float, within_s: float
    ) -> float | None:
        """The longest time from `since_ms` (Unix) until a partition has output that was written after it.

        Where nothing was waiting then, the time counts from the arrival of the first record that is answered.
        0 without partitions, None when it does not come within the time.
        """
        waiting, outage_ms = set(partitions), 0.0
        while waiting:
            for partition in list(waiting):
                first = self._first(service, partition, since_ms)
                if first is not None:
                    waiting.discard(partition)
                    outage_ms = max(outage_ms, first.seen_ms - max(since_ms, first.asked_ms))
            if time.time() * 1000 - since_ms > within_s * 1000:
                return None
            await asyncio.sleep(POLL_S)
        return outage_ms

    def _first(self, service: str, partition: int, since_ms: float) -> Seen | None:
        last = None
        for seen in reversed(self._seen.get(TP(OUTPUT[service], partition), ())):
            if seen.appended_ms <= since_ms:
                break
            last = seen
        return last

    def longest_gaps_ms(self, since_ms: float, until_ms: float) -> dict[tuple[str, int], int]:
        """By service and partition: the longest gap that began or lasted in that time (Unix)."""
        longest: dict[tuple[str, int], int] = {}
        for gap in (*self._gaps, *self._unfinished()):
            if since_ms <= gap.ended_ms and gap.ended_ms - gap.ms <= until_ms:
                place = (gap.service, gap.partition)
                longest[place] = max(longest.get(place, 0), gap.ms)
        return longest

    def waiting_ms(self) -> int:
        """For how long the partition that has waited longest has had no output."""
        return max((gap.ms for gap in self._unfinished()), default=0)

    def _unfinished(self) -> Iterator[Gap]:
        """Partitions that have had no output since an input came."""
        now_ms = time.time_ns() // 1_000_000
        for service, topic in INPUT.items():
            for asked in self._inputs[topic].values():
                if asked.ms > self._last(service, asked.partition).appended_ms:
                    yield Gap(service, asked.partition, now_ms, now_ms - asked.ms)


class _Named(msgspec.Struct):
    order_id: str


_named = msgspec.json.Decoder(_Named).decode


def _id_of(topic: str, value: bytes | None, headers: dict[str, bytes | None]) -> str:
    """What the answer to an input names it by; empty where it has no id of its own."""
    if topic == COMPLIANCE_DECISIONS.name:
        return _text(headers, CORRELATION_ID)
    if topic != ORDERS.name:
        return _text(headers, EVENT_ID)
    try:
        return _named(value or b"").order_id
    except (ValueError, RecursionError):
        return ""


def _text(headers: dict[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode(errors="replace")
