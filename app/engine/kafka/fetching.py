"""Fetch requests in sessions (KIP-227): the broker remembers what is read, and is told only what changes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aiokafka import errors
from aiokafka.protocol.api import Request
from aiokafka.protocol.fetch import FetchRequest_v11

from app.engine.kafka.cluster import TP

NO_SESSION, BEGIN, END = 0, 0, -1
"""The id that stands for no session; the epochs that begin one, and that end it or ask for none."""
EPOCH_MAX = 2**31 - 1
NO_EPOCH, NO_OFFSET = -1, -1


class Bounds(NamedTuple):
    """How long a fetch waits for the first record, how much it may bring in all and of one partition."""

    wait_ms: int
    bytes_max: int
    partition_bytes_max: int


class Fetch(Request[FetchRequest_v11]):  # type: ignore[misc]
    """Read from `positions` on, and in a session from those named before, but for what is `forgotten`."""

    API_KEY = 1

    def __init__(
        self,
        positions: Mapping[TP, int],
        bounds: Bounds,
        isolation: int,
        *,
        session_id: int = NO_SESSION,
        epoch: int = END,
        forgotten: Iterable[TP] = (),
    ) -> None:
        self.positions = positions
        self.bounds = bounds
        self.isolation = isolation
        self.session_id = session_id
        self.epoch = epoch
        self.forgotten = list(forgotten)

    def build(self, request_struct_class: type[FetchRequest_v11]) -> FetchRequest_v11:
        wait_ms, bytes_max, partition_bytes_max = self.bounds
        topics: dict[str, list[tuple[int, int, int, int, int]]] = defaultdict(list)
        for tp, position in self.positions.items():
            topics[tp.topic].append((tp.partition, NO_EPOCH, position, NO_OFFSET, partition_bytes_max))
        forgotten: dict[str, list[int]] = defaultdict(list)
        for tp in self.forgotten:
            forgotten[tp.topic].append(tp.partition)
        return request_struct_class(
            -1,
            wait_ms,
            1,
            bytes_max,
            self.isolation,
            self.session_id,
            self.epoch,
            list(topics.items()),
            list(forgotten.items()),
            "",
        )


class Session:
    """What the broker remembers of the fetches over one connection.

    Whoever does not hear an answer calls `lose`: what the broker remembers is then unknown.
    """

    def __init__(self) -> None:
        self.id = NO_SESSION
        self.epoch = BEGIN
        self._known: set[TP] = set()

    def request(
        self, positions: Mapping[TP, int], changed: Iterable[TP], bounds: Bounds, isolation: int
    ) -> Fetch:
        """A fetch from all of `positions`; `changed` are those that are not as they were in the last one."""
        if self.epoch == BEGIN:
            self._known = set(positions)
            return Fetch(dict(positions), bounds, isolation, session_id=self.id, epoch=BEGIN)
        changed = list(changed)
        news = {tp: positions[tp] for tp in changed if tp in positions}
        forgotten = [tp for tp in changed if tp not in positions and tp in self._known]
        self._known.update(news)
        self._known.difference_update(forgotten)
        return Fetch(news, bounds, isolation, session_id=self.id, epoch=self.epoch, forgotten=forgotten)

    def knows(self, tp: TP) -> bool:
        """Whether the broker remembers a partition, and so answers for it only when something is new."""
        return self.epoch != BEGIN and tp in self._known

    def answered(self, response: Any) -> None:
        """Take note of an answer; raises what it says of the whole session."""
        if response.error_code:
            self.lose()
            raise errors.for_code(response.error_code)()
        self.id = response.session_id
        if self.id == NO_SESSION:  # the broker has no room for one more
            self.epoch = BEGIN
        else:
            self.epoch = 1 if self.epoch == EPOCH_MAX else self.epoch + 1

    def lose(self) -> None:
        """Begin a new session next, in the place of this one."""
        self.epoch = BEGIN


class Part(NamedTuple):
    """What an answer says of one partition: an error's code, how far its log goes, and record batches."""

    tp: TP
    code: int
    high: int
    stable: int
    aborted: list[tuple[int, int]]
    data: bytes


def parts_of(response: Any) -> Iterator[Part]:
    """The partitions of an answer. A session's answer leaves out those of which there is nothing new."""
    for topic, partitions in response.topics:
        for partition, code, high, stable, _, aborted, _, data in partitions:
            yield Part(TP(topic, partition), code, high, stable, aborted or [], data or b"")
