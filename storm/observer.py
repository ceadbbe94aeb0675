"""What comes out of the services, and when: the measure of every outage. Looks at the log only."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from app.engine.cluster import TP
from app.engine.topics import CORRELATION_ID, EVENT_ID
from app.monitor import FOLLOWED, Monitor
from app.topics import COMPLIANCE_DECISIONS, EXECUTIONS, ORDERS, PRICES, RISK_DECISIONS

OUTPUT: Final = {
    "marketdata": PRICES.name,
    "risk": RISK_DECISIONS.name,
    "compliance": COMPLIANCE_DECISIONS.name,
    "exchange": EXECUTIONS.name,
}
"""The topic that tells that a service works."""

INPUT: Final = {"risk": ORDERS.name, "compliance": RISK_DECISIONS.name, "exchange": COMPLIANCE_DECISIONS.name}
SERVICE: Final = {topic: service for service, topic in OUTPUT.items()}
KEPT: Final = 4_096
POLL_S: Final = 0.004
LIVE_S: Final = 3.0
"""A partition from which nothing has come for so long has nothing to do."""


class Seen(NamedTuple):
    """A committed record: the broker's clock when it was appended, ours when it could be read (Unix ms)."""

    appended_ms: int
    seen_ms: float


class Hop(NamedTuple):
    """How long a service took over one record, by the broker's clock: input appended to output appended."""

    service: str
    partition: int
    appended_ms: int
    took_ms: int


class Observer(Monitor):
    """A monitor that also keeps the last output of every partition of every service, with its times."""

    followed = (*FOLLOWED, PRICES)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: dict[TP, deque[Seen]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._inputs: dict[str, dict[str, int]] = defaultdict(dict)
        self._hops: deque[Hop] = deque(maxlen=10 * KEPT)

    def take(self, tp: TP, records: list[Any]) -> None:
        seen_ms = time.time() * 1000
        if tp.topic in SERVICE:
            self._seen[tp].extend(Seen(record.timestamp, seen_ms) for record in records)
        for record in records:
            self._note(tp, record)
        if tp.topic != PRICES.name:
            super().take(tp, records)

    def _note(self, tp: TP, record: Any) -> None:
        """Match outputs with their inputs: by the event id, at the exchange by the order."""
        headers = dict(record.headers)
        service = SERVICE.get(tp.topic)
        if service in INPUT:
            known = self._inputs[INPUT[service]]
            source = _text(headers, CORRELATION_ID if service == "exchange" else EVENT_ID).partition(":")[0]
            if (appended_ms := known.pop(source, None)) is not None:
                took_ms = record.timestamp - appended_ms
                self._hops.append(Hop(service, tp.partition, record.timestamp, took_ms))
        if tp.topic in INPUT.values():
            name = f"{tp.topic}/{tp.partition}/{record.offset}"
            if tp.topic == COMPLIANCE_DECISIONS.name:
                name = _text(headers, CORRELATION_ID)
            waiting = self._inputs[tp.topic]
            waiting[name] = record.timestamp
            if len(waiting) > 10 * KEPT:
                del waiting[next(iter(waiting))]

    def live(self, service: str, partitions: Iterable[int]) -> list[int]:
        """Those of the partitions that had output lately."""
        since_ms = (time.time() - LIVE_S) * 1000
        return [each for each in partitions if self._last(service, each).seen_ms > since_ms]

    def _last(self, service: str, partition: int) -> Seen:
        seen = self._seen.get(TP(OUTPUT[service], partition))
        return seen[-1] if seen else Seen(0, 0)

    async def outage_ms(
        self, service: str, partitions: Iterable[int], since_ms: float, within_s: float
    ) -> float | None:
        """From `since_ms` (Unix) until each of the partitions has output that was written after it.

        0 without partitions, None when it does not come within the time.
        """
        waiting, last_ms = set(partitions), since_ms
        while waiting:
            for partition in list(waiting):
                first = self._first(service, partition, since_ms)
                if first is not None:
                    waiting.discard(partition)
                    last_ms = max(last_ms, first.seen_ms)
            if time.time() * 1000 - since_ms > within_s * 1000:
                return None
            await asyncio.sleep(POLL_S)
        return last_ms - since_ms

    def _first(self, service: str, partition: int, since_ms: float) -> Seen | None:
        last = None
        for seen in reversed(self._seen.get(TP(OUTPUT[service], partition), ())):
            if seen.appended_ms <= since_ms:
                break
            last = seen
        return last

    def slowest_ms(self, since_ms: float, until_ms: float) -> dict[tuple[str, int], int]:
        """By service and partition: the longest wait of a record whose output was written in that time."""
        slowest: dict[tuple[str, int], int] = {}
        for hop in self._hops:
            if since_ms <= hop.appended_ms <= until_ms:
                place = (hop.service, hop.partition)
                slowest[place] = max(slowest.get(place, 0), hop.took_ms)
        return slowest


def _text(headers: dict[str, bytes], name: str) -> str:
    return (headers.get(name) or b"").decode(errors="replace")
