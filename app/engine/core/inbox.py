"""What a task has fetched and not yet taken in hand."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from aiokafka import errors

from app.engine.core.chunk import Chunk, Item
from app.engine.core.settings import EngineSettings
from app.engine.errors import PositionGap
from app.engine.kafka.cluster import RETRIABLE, RETRY_PAUSE_S, TP, Cluster, Fetched
from app.engine.kafka.watermarks import Watermarks
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

FETCH_WAIT_MS = 500


class _Fetching(NamedTuple):
    """A fetch under way at one node, and from where."""

    result: asyncio.Task[list[Fetched]]
    positions: dict[TP, int]


class Inbox:
    """The fetched records of one task, by input: bounded (rule 9), and filled by nobody else (rule 10).

    `arrived` is set while there is something to take.
    """

    def __init__(
        self,
        inputs: Mapping[TP, TopicSpec],
        cluster: Cluster,
        settings: EngineSettings,
        watermarks: Watermarks,
        lane: str,
    ) -> None:
        self.queues: dict[TP, deque[Fetched]] = {tp: deque() for tp in inputs}
        self.arrived = asyncio.Event()
        self._inputs = inputs
        self._cluster = cluster
        self._settings = settings
        self._watermarks = watermarks
        self._lane = lane
        self._room = asyncio.Event()

    @property
    def records_held(self) -> int:
        return sum(len(fetched.records) for queue in self.queues.values() for fetched in queue)

    def is_full(self) -> bool:
        """Whether nothing may be fetched until something is taken."""
        bytes_held = sum(fetched.size_bytes for queue in self.queues.values() for fetched in queue)
        return (
            self.records_held >= self._settings.inbox_records_max
            or bytes_held >= self._settings.inbox_bytes_max
        )

    def take(self, records_max: int) -> Chunk:
        """Take what the next transaction takes in: topics in the order of the service's inputs."""
        items: list[Item] = []
        begin: dict[TP, int] = {}
        end: dict[TP, int] = {}
        for tp, queue in self.queues.items():
            spec = self._inputs[tp]
            while queue and (room := records_max - len(items)) > 0:
                fetched = queue.popleft()
                begin.setdefault(tp, fetched.position)
                records, end[tp] = fetched.records, fetched.next_position
                if len(records) > room:
                    end[tp] = records[room - 1].offset + 1
                    queue.appendleft(fetched._replace(position=end[tp], records=records[room:]))
                    records = records[:room]
                items += [(spec, record) for record in records]
        self._room.set()
        if not any(self.queues.values()):
            self.arrived.clear()
        return Chunk(items, begin, end)

    async def keep_filling(self, positions: Mapping[TP, int]) -> None:
        """Fetch from `positions` on, for ever, as long as there is room. Raises PositionGap."""
        at = dict(positions)
        pending: dict[int, _Fetching] = {}
        try:
            while True:
                while self.is_full():
                    self._room.clear()
                    await self._room.wait()
                await self._start_fetches(at, pending)
                under_way = [fetching.result for fetching in pending.values()]
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for node in [node for node, fetching in pending.items() if fetching.result.done()]:
                    for fetched in pending.pop(node).result.result():
                        del at[fetched.tp]  # to the end: who had much lets the others go first
                        at[fetched.tp] = fetched.next_position
                        self.queues[fetched.tp].append(fetched)
                        self.arrived.set()
        finally:
            for fetching in pending.values():
                fetching.result.cancel()

    async def _start_fetches(self, positions: dict[TP, int], pending: dict[int, _Fetching]) -> None:
        """See to it that a fetch is under way at each leader that has something to give."""
        while True:
            asked = {tp for fetching in pending.values() for tp in fetching.positions}
            by_node: dict[int | None, dict[TP, int]] = {}
            for tp, position in positions.items():
                if tp not in asked:
                    by_node.setdefault(self._cluster.leader(tp), {})[tp] = position
            for node, theirs in by_node.items():
                if node is not None and node not in pending:
                    pending[node] = _Fetching(asyncio.create_task(self._fetch(node, theirs)), theirs)
            if None in by_node:
                await self._cluster.refresh()
            if pending:
                return
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _fetch(self, node: int, positions: dict[TP, int]) -> list[Fetched]:
        try:
            return await self._cluster.fetch(
                node,
                positions,
                wait_ms=FETCH_WAIT_MS,
                partition_bytes_max=self._settings.fetch_bytes_max,
                lane=(self._lane, "fetch"),
                hear=self._watermarks.hear,
            )
        except errors.OffsetOutOfRangeError:
            raise PositionGap(
                f"task {self._lane}: one of {positions} is not in its log any more: records were deleted "
                "before they were processed, or the topic was recreated. If that was meant, reset the "
                "group's offsets."
            ) from None
        except RETRIABLE as error:
            log.debug("task %s waits for node %s: %r", self._lane, node, error)
            await self._cluster.refresh()
            await asyncio.sleep(RETRY_PAUSE_S)
            return []
