"""A compacted topic held whole in memory by every worker: the last committed value of each key."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import errors

from app.engine.cluster import EARLIEST, LATEST, RETRIABLE, RETRY_PAUSE_S, TP, Cluster
from app.engine.topics import EVENT_TYPE, SCHEMA_VERSION, TopicSpec
from app.engine.watermarks import Watermarks

log = logging.getLogger(__name__)

FETCH_WAIT_MS = 500
FETCH_BYTES = 4 * 1024 * 1024


class GlobalTable:
    """Read-only. It is not replayed: a decision that uses it must put what it used into its output."""

    def __init__(self, topic: TopicSpec) -> None:
        self.topic = topic
        self.ready = asyncio.Event()
        self.waits_for: str | None = None
        self._values: dict[str, Any] = {}
        self._watermarks: Watermarks | None = None

    @property
    def waiting(self) -> list[str]:
        """One line for each open transaction that is being waited for."""
        return [] if self._watermarks is None else self._watermarks.waiting

    def get(self, key: str) -> Any:
        """The last committed value, None where there is none."""
        return self._values.get(key)

    def values(self) -> Mapping[str, Any]:
        return self._values

    async def run(self, cluster: Cluster) -> None:
        """Follow the topic for ever; `ready` is set when what stood there at the start is known."""
        tps = [TP(self.topic.name, p) for p in range(await cluster.partition_count(self.topic.name))]
        positions = await cluster.offsets(tps, EARLIEST)
        ends = await cluster.offsets(tps, LATEST)
        self._watermarks = Watermarks(cluster, f"global table {self.topic.name}", ("global", self.topic.name))
        while True:
            if all(positions[tp] >= ends[tp] for tp in tps):
                self.ready.set()
            leaders = {cluster.leader(tp) for tp in tps}
            await asyncio.gather(*(self._follow(cluster, node, positions, len(leaders)) for node in leaders))

    async def _follow(
        self, cluster: Cluster, node: int | None, positions: dict[TP, int], leaders: int
    ) -> None:
        try:
            if node is None:
                raise errors.LeaderNotAvailableError(self.topic.name)
            theirs = {tp: at for tp, at in positions.items() if cluster.leader(tp) == node}
            fetched = await cluster.fetch(
                node,
                theirs,
                wait_ms=FETCH_WAIT_MS if leaders == 1 else FETCH_WAIT_MS // 10,
                partition_bytes_max=FETCH_BYTES,
                lane=("global", self.topic.name),
                hear=None if self._watermarks is None else self._watermarks.hear,
            )
        except RETRIABLE as error:
            log.debug("global table %s waits: %r", self.topic.name, error)
            await cluster.refresh()
            await asyncio.sleep(RETRY_PAUSE_S)
            return
        for each in fetched:
            positions[each.tp] = each.next_position
            for record in each.records:
                self._take(each.tp, record)

    def _take(self, tp: TP, record: Any) -> None:
        if record.key is None:
            log.warning("%s has a record without a key at %s: ignored", tp, record.offset)
            return
        key = record.key.decode("utf-8", "backslashreplace")
        if record.value is None:
            self._values.pop(key, None)
            return
        headers = dict(record.headers)
        try:
            self._values[key] = self.topic.codec.decode(
                headers.get(EVENT_TYPE, b""), headers.get(SCHEMA_VERSION, b""), record.value
            )
        except Exception as error:  # a codec raises ValueError, but garbage finds its other errors too
            log.warning(
                "%s at %s keeps its old value, the new one cannot be read: %s", tp, record.offset, error
            )
