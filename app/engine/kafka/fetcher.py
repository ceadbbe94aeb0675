"""One fetcher reads many partitions for many readers: at each node one long poll at a time for all of them.

Each node has a main line, a connection with a fetch session: an idle poll costs the same however many
partitions it covers. What is to be read while that poll waits, as it is new or its reader has room again, is
fetched at once over a side line, without a session. What has nothing to give there joins the main line at its
next turn: a side line's poll ends shortly before the main one does.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from aiokafka import errors

from app.engine.kafka.cluster import (
    READ_COMMITTED,
    RETRIABLE,
    RETRY_PAUSE_S,
    TP,
    Cluster,
    Fetched,
    committed_records,
)
from app.engine.kafka.fetching import Bounds, Fetch, Part, Session, parts_of

log = logging.getLogger(__name__)

WAIT_S = 0.5
"""How long a poll waits for the first record."""
EARLIER_S = 0.01
"""How much earlier than the main line's poll a side line's ends."""
PATIENCE_S = 0.025
"""How long a partition that has had nothing to give may wait for the main line's turn."""
ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""What one answer may bring of all partitions; those that it leaves out come first next time."""
AGAIN = (*RETRIABLE, errors.FetchSessionIdNotFound, errors.InvalidFetchSessionEpoch)
"""Failures of a fetch that say nothing about what was asked for."""


class Reader(Protocol):
    """Who reads partitions. It is told of each only what was fetched for it, in order; nothing here waits."""

    def is_full(self) -> bool:
        """Whether nothing more is to be fetched before the reading goes on."""

    def take_in(self, fetched: Fetched) -> None:
        """Take what comes next in a partition."""

    def hear(self, tp: TP, position: int, high: int, stable: int) -> None:
        """Note what an answer said of a partition: where its reading goes on, its ends."""

    def fail(self, tp: TP, error: Exception) -> None:
        """The reading is over: `tp` cannot be read."""


class _Place:
    """A partition of one reading, and from where it is to be read next.

    `line` is where it is being read; `heard` says whether any answer has told of it. `not_before` and
    `patient_until` (monotonic) say how long nothing shall be asked, and how long the main line's turn may be
    waited for.
    """

    def __init__(self, reading: "Reading", tp: TP, position: int) -> None:
        self.reading = reading
        self.tp = tp
        self.position = position
        self.line: _Line | None = None
        self.heard = False
        self.not_before = 0.0
        self.patient_until = 0.0


class _Line:
    """A connection to a node, and the poll under way on it. With a session, what it reads stays on it.

    `due` is when the poll ends at the latest (monotonic), None when there is none. `standing` holds the ends
    of the partitions of which somebody's open transaction is all that is left to read.
    """

    def __init__(self, node: int, lane: tuple[str, int], session: Session | None) -> None:
        self.node = node
        self.lane = lane
        self.session = session
        self.places: dict[TP, _Place] = {}
        self.due: float | None = None
        self.standing: dict[TP, tuple[int, int]] = {}
        self._changed: dict[TP, None] = {}

    def add(self, place: _Place) -> None:
        """Read a place here too.

        The node would say nothing of a partition that it remembers from another reading, until it has
        something new: then the session begins anew, and its first answer tells of all.
        """
        if self.session is not None and not place.heard and self.session.knows(place.tp):
            self.session.lose()
        self.places[place.tp] = place
        self._changed[place.tp] = None
        place.line = self

    def remove(self, place: _Place) -> None:
        del self.places[place.tp]
        self.standing.pop(place.tp, None)
        self._changed[place.tp] = None
        place.line = None

    def move(self, place: _Place, position: int) -> None:
        """Go on from `position`, behind those that have had nothing."""
        place.position = position
        self.places[place.tp] = self.places.pop(place.tp)
        self._changed[place.tp] = None

    def request(self, bounds: Bounds, isolation: int) -> Fetch:
        changed, self._changed = self._changed, {}
        if self.session is None:
            return Fetch({tp: place.position for tp, place in self.places.items()}, bounds, isolation)
        shown = self.places if self.session.epoch == 0 else [tp for tp in changed if tp in self.places]
        positions = {tp: self.places[tp].position for tp in shown}
        return self.session.request(positions, changed, bounds, isolation)


class Reading:
    """Some partitions on their way to one reader, from the positions given until closed."""

    def __init__(self, fetcher: "Fetcher", reader: Reader, positions: Mapping[TP, int]) -> None:
        self.reader = reader
        self.places = [_Place(self, tp, position) for tp, position in positions.items()]
        self.paused: list[_Place] = []
        self._fetcher = fetcher

    def go_on(self) -> None:
        """The reader has room again."""
        if self.paused:
            paused, self.paused = self.paused, []
            for place in paused:
                place.patient_until = 0.0
            self._fetcher.let_loose(paused)

    def close(self) -> None:
        """Read no more; what is on its way is dropped."""
        self.paused = []
        self._fetcher.end(self)

    def fail(self, tp: TP, error: Exception) -> None:
        self.close()
        self.reader.fail(tp, error)


class Fetcher:
    """Reads committed records for readers, which take no notice of each other.

    A partition without a leader, one that cannot be read, and a node that is away hold up no other one.
    """

    def __init__(self, cluster: Cluster, name: str, partition_bytes_max: int) -> None:
        self.isolation = READ_COMMITTED
        self.name = name
        self._cluster = cluster
        self._partition_bytes_max = partition_bytes_max
        self._readings: dict[Reading, None] = {}
        self._loose: dict[_Place, None] = {}
        self._lines: dict[int, list[_Line]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._refreshing = False
        self._looking: asyncio.Handle | None = None
        self._looks_at = 0.0

    def read(self, reader: Reader, positions: Mapping[TP, int]) -> Reading:
        """Begin to read partitions, each exactly from its position on."""
        reading = Reading(self, reader, positions)
        self._readings[reading] = None
        self.let_loose(reading.places)
        return reading

    def close(self) -> None:
        """End every reading, and what is under way."""
        for reading in list(self._readings):
            reading.close()
        self._do_not_look()
        for each in self._running:
            each.cancel()

    def let_loose(self, places: list[_Place]) -> None:
        """Fetch for `places` as soon as whoever else is to be fetched for now has been named too."""
        self._loose.update(dict.fromkeys(places))
        self._look_in(0.0)

    def end(self, reading: Reading) -> None:
        self._readings.pop(reading, None)
        for place in reading.places:
            self._loose.pop(place, None)
            if place.line is not None:
                place.line.remove(place)

    # -- what is fetched next

    def _look_in(self, pause_s: float) -> None:
        """Look after `pause_s`, or earlier."""
        at = time.monotonic() + pause_s
        if self._looking is None or at < self._looks_at:
            self._do_not_look()
            self._looks_at = at
            self._looking = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _do_not_look(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        """See to it that everything that may be read is being asked for."""
        self._do_not_look()
        now = time.monotonic()
        aside: dict[int, dict[TP, _Place]] = {}
        waits: list[float] = []
        for place in list(self._loose):
            if place.reading.reader.is_full():
                del self._loose[place]
                place.reading.paused.append(place)
            elif place.not_before > now:
                waits.append(place.not_before - now)
            elif (node := self._cluster.leader(place.tp)) is None:
                self._refresh()
            else:
                main = self._lines_at(node)[0]
                if main.due is None and place.tp not in main.places:
                    del self._loose[place]
                    main.add(place)
                elif place.patient_until > now:
                    waits.append(place.patient_until - now)
                elif place.tp not in (theirs := aside.setdefault(node, {})):
                    del self._loose[place]
                    theirs[place.tp] = place
        for node, theirs in aside.items():
            self._poll_aside(node, theirs, now)
        for main, *_ in self._lines.values():
            if main.due is None and main.places:
                self._start(main, now, WAIT_S)
        if waits:
            self._look_in(min(waits))

    def _lines_at(self, node: int) -> list[_Line]:
        """The lines to a node, the main one first."""
        if node not in self._lines:
            self._lines[node] = [_Line(node, (self.name, 0), Session())]
        return self._lines[node]

    def _poll_aside(self, node: int, places: Mapping[TP, _Place], now: float) -> None:
        main, *side = self._lines_at(node)
        line = next((each for each in side if each.due is None), None)
        if line is None:
            line = _Line(node, (self.name, len(side) + 1), None)
            self._lines[node].append(line)
        for place in places.values():
            line.add(place)
        left_s = 0.0 if main.due is None else main.due - now
        self._start(line, now, left_s - EARLIER_S if left_s > 2 * EARLIER_S else WAIT_S)

    def _start(self, line: _Line, now: float, wait_s: float) -> None:
        line.due = now + wait_s
        self._run(self._poll(line, int(wait_s * 1000)))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._ended)

    def _ended(self, running: "asyncio.Task[None]") -> None:
        """Tell every reader of a failure that nobody expects."""
        self._running.discard(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            for reading in list(self._readings):
                reading.fail(reading.places[0].tp, failure)

    def _refresh(self) -> None:
        """Ask for the leaders anew, once at a time."""
        if not self._refreshing:
            self._refreshing = True
            self._run(self._refreshed())

    async def _refreshed(self) -> None:
        try:
            await self._cluster.refresh()
            await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            self._refreshing = False
        self._look()

    # -- what comes

    async def _poll(self, line: _Line, wait_ms: int) -> None:
        """Fetch once; whatever came, all of the line's partitions are then to be looked after again."""
        bounds = Bounds(wait_ms, ANSWER_BYTES_MAX, self._partition_bytes_max)
        try:
            request = line.request(bounds, self.isolation)
            response = await self._cluster.send(line.node, request, line.lane)
            if line.session is not None:
                line.session.answered(response)
            await self._take_in(line, response)
        except AGAIN as error:
            log.debug("the fetcher of %s waits for node %s: %r", self.name, line.node, error)
            self._lose(line)
        finally:
            line.due = None
        if line.session is None:
            self._release(line)
        self._look()

    async def _take_in(self, line: _Line, response: Any) -> None:
        named = set()
        for part in parts_of(response):
            place = line.places.get(part.tp)
            if place is None:  # its reading is over
                continue
            named.add(part.tp)
            if part.code:
                self._refused(line, place, part.code)
                continue
            place.patient_until = 0.0 if part.data else time.monotonic() + PATIENCE_S
            if part.data and not self._deliver(line, place, part):
                continue
            place.heard = True
            place.reading.reader.hear(part.tp, place.position, part.high, part.stable)
            if part.stable < part.high and place.position >= part.stable:
                line.standing[part.tp] = (part.high, part.stable)
            else:
                line.standing.pop(part.tp, None)
            if part.data:
                self._pause_if_full(line, place.reading)
                await asyncio.sleep(0)  # unpacking takes time
        for tp in line.standing.keys() - named:
            place = line.places[tp]
            place.reading.reader.hear(tp, place.position, *line.standing[tp])

    def _deliver(self, line: _Line, place: _Place, part: Part) -> bool:
        """Unpack what has come for a place and hand it to its reader; false if that ended the reading."""
        position, reading = place.position, place.reading
        try:
            records, after = committed_records(part.data, part.aborted, position)
        except Exception as error:  # it says something of this partition alone
            reading.fail(place.tp, error)
            return False
        line.move(place, after)
        reading.reader.take_in(Fetched(place.tp, position, after, part.stable, records, len(part.data)))
        return True

    def _pause_if_full(self, line: _Line, reading: Reading) -> None:
        if line.session is not None and reading.reader.is_full():
            for place in reading.places:
                if place.line is line:
                    line.remove(place)
                    reading.paused.append(place)

    def _refused(self, line: _Line, place: _Place, code: int) -> None:
        """Read a partition at its new leader, or end its reading."""
        error = errors.for_code(code)
        log.info("fetch of %s-%s at %s: %s", *place.tp, place.position, error.__name__)
        if not issubclass(error, AGAIN):
            place.reading.fail(place.tp, error())
            return
        line.remove(place)
        place.not_before = time.monotonic() + RETRY_PAUSE_S
        self._loose[place] = None
        self._refresh()

    def _lose(self, line: _Line) -> None:
        """What the node remembers is unknown: begin anew with all that the line reads, wherever it is led."""
        if line.session is not None:
            line.session.lose()
        now = time.monotonic()
        for place in line.places.values():
            place.not_before = now + RETRY_PAUSE_S
        self._release(line)
        self._refresh()

    def _release(self, line: _Line) -> None:
        for place in list(line.places.values()):
            line.remove(place)
            self._loose[place] = None
