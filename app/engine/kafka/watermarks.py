"""What a reader hears of the partitions it reads: how far their logs go, and what it has to wait for.

Behind the last stable offset somebody's transaction is open. For as long as it is, nothing of what stands
there is read, by anybody: it may still be aborted. That lasts milliseconds as a rule; a client that died with
an open transaction can make it minutes.
"""

import asyncio
import logging
import time
from typing import NamedTuple

from aiokafka.errors import KafkaError

from app.engine.kafka.cluster import TP, Cluster, OpenBatch

log = logging.getLogger(__name__)

STALL_S = 2.0
"""How long a reader may stand at an open transaction before that is worth a word."""


class Heard(NamedTuple):
    """What the last answer said of a partition."""

    high: int
    stable: int


class Stall:
    """A reader stands at `offset`, the last stable one, since `since` (monotonic) and still at `seen`."""

    def __init__(self, offset: int, now: float) -> None:
        self.offset = offset
        self.since = self.seen = now
        self.since_ms = time.time_ns() // 1_000_000
        self.text: str | None = None

    @property
    def is_long(self) -> bool:
        return self.seen - self.since > STALL_S


class Watermarks:
    """Hears each answer to a reader's fetches; `who` is the reader, for people."""

    def __init__(self, cluster: Cluster, who: str, lane: object) -> None:
        self._cluster = cluster
        self._who = who
        self._lane = (lane, "open transaction")
        self.heard: dict[TP, Heard] = {}
        self._stalls: dict[TP, Stall] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def lag(self, tp: TP, position: int) -> int:
        """Offsets up to the high watermark that are not read yet, as far as the last answer knew."""
        heard = self.heard.get(tp)
        return 0 if heard is None else max(0, heard.high - position)

    def is_behind(self, tp: TP, position: int) -> bool:
        """Whether there may be something to read: the last answer said so, or there has been none yet."""
        heard = self.heard.get(tp)
        return heard is None or heard.high > position

    @property
    def waiting(self) -> list[str]:
        """One line for each open transaction that has been waited for long."""
        return [stall.text for stall in self._stalls.values() if stall.text is not None]

    def hear(self, tp: TP, position: int, high: int, stable: int) -> None:
        """Note an answer; the reader goes on from `position`."""
        self.heard[tp] = Heard(high, stable)
        stall = self._stalls.get(tp)
        stands = stable < high and position >= stable
        if stall is not None and not (stands and stall.offset == stable):
            self._over(tp, self._stalls.pop(tp))
            stall = None
        if not stands:
            return
        now = time.monotonic()
        if stall is None:
            self._stalls[tp] = Stall(stable, now)
            return
        stall.seen = now
        if stall.is_long and stall.text is None:
            stall.text = _described(tp, stall, None)
            asking = asyncio.create_task(self._ask(tp, stall))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    def _over(self, tp: TP, stall: Stall) -> None:
        if stall.text is not None:
            waited_s = time.monotonic() - stall.since
            log.info("%s goes on: the transaction on %s-%s is over after %.1f s", self._who, *tp, waited_s)

    async def _ask(self, tp: TP, stall: Stall) -> None:
        """Find out whose transaction it is, and say so once."""
        try:
            found = await self._cluster.batch_at(tp, stall.offset, self._lane)
        except KafkaError as error:
            log.info("%s can't be told whose transaction is open on %s-%s: %r", self._who, *tp, error)
            found = None
        if self._stalls.get(tp) is stall:
            stall.text = _described(tp, stall, found)
            log.warning("%s %s; nothing behind offset %s is read before", self._who, stall.text, stall.offset)

    def close(self) -> None:
        """The reader reads no more."""
        self._stalls.clear()
        for asking in self._asking:
            asking.cancel()


def _described(tp: TP, stall: Stall, found: OpenBatch | None) -> str:
    since_ms, whose = stall.since_ms, "unknown"
    if found is not None:
        whose = str(found.producer_id)
        since_ms = found.appended_ms or since_ms
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since_ms / 1000))
    return f"waits for an open transaction since {since}, producer id {whose} on {tp.topic}-{tp.partition}"
