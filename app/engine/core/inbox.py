"""What a task has fetched and not yet taken in hand."""

import asyncio
from collections import deque
from collections.abc import Mapping

from aiokafka import errors

from app.engine.core.chunk import Chunk, Item
from app.engine.core.settings import EngineSettings
from app.engine.errors import PositionGap
from app.engine.kafka.cluster import TP, Fetched
from app.engine.kafka.fetcher import Fetcher, Reading
from app.engine.kafka.watermarks import Watermarks
from app.engine.topics import TopicSpec


class Inbox:
    """The fetched records of one task, by input: bounded (rule 9), and filled by its own reading (rule 10).

    `arrived` is set while there is something to take.
    """

    def __init__(
        self,
        inputs: Mapping[TP, TopicSpec],
        fetcher: Fetcher,
        settings: EngineSettings,
        watermarks: Watermarks,
        lane: str,
    ) -> None:
        self.queues: dict[TP, deque[Fetched]] = {tp: deque() for tp in inputs}
        self.arrived = asyncio.Event()
        self._inputs = inputs
        self._fetcher = fetcher
        self._settings = settings
        self._watermarks = watermarks
        self._lane = lane
        self._reading: Reading | None = None
        self._failed: asyncio.Future[None] | None = None

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
        if self._reading is not None and not self.is_full():
            self._reading.go_on()
        if not any(self.queues.values()):
            self.arrived.clear()
        return Chunk(items, begin, end)

    async def keep_filling(self, positions: Mapping[TP, int]) -> None:
        """Have all that follows `positions` fetched, as long as there is room. Raises PositionGap."""
        self._failed = asyncio.get_running_loop().create_future()
        self._reading = self._fetcher.read(self, positions)
        try:
            await self._failed
        finally:
            self._reading.close()
            self._reading = None

    def take_in(self, fetched: Fetched) -> None:
        """Take what comes next in a partition."""
        self.queues[fetched.tp].append(fetched)
        self.arrived.set()

    def hear(self, tp: TP, position: int, high: int, stable: int) -> None:
        """Note what an answer said of a partition."""
        self._watermarks.hear(tp, position, high, stable)

    def fail(self, tp: TP, error: Exception) -> None:
        """End `keep_filling`: `tp` cannot be read."""
        if isinstance(error, errors.OffsetOutOfRangeError):
            error = PositionGap(
                f"task {self._lane}: the position in {tp} is not in its log any more: records were deleted "
                "before they were processed, or the topic was recreated. If that was meant, reset the "
                "group's offsets."
            )
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)
