"""A compacted topic held whole in memory by every worker: the last committed value of each key.

Keys are checked like those of every input. What can't be read makes its key unreadable, until a good record
of that key comes: whoever decides by the table has to refuse what depends on such a key. A record without a
value removes its key where the topic has `tombstones`; elsewhere it is one that can't be read.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Generic, NamedTuple

from typing_extensions import TypeVar

from app.engine.errors import ERROR_CHARS_MAX, NewerRelease
from app.engine.kafka.cluster import EARLIEST, LATEST, TP, Cluster, Fetched, RawRecord
from app.engine.kafka.fetcher import Fetcher
from app.engine.kafka.watermarks import Watermarks
from app.engine.shards import KEY_BYTES_MAX, misplaced
from app.engine.topics import EVENT_TYPE, SCHEMA_VERSION, TopicSpec

log = logging.getLogger(__name__)

V = TypeVar("V", default=Any)

SHOWN_MAX = 64


class _Place(NamedTuple):
    """Where a record stands, and when it was written."""

    partition: int
    offset: int
    timestamp_ms: int


class _Bad(NamedTuple):
    """A record that can't be taken at its word, and why. `names` are the keys that it may be meant for."""

    place: _Place
    names: frozenset[str]
    why: str
    newer: bool


_Origin = tuple[int, bytes | frozenset[str]]
"""The partition and key of a record, which a later one of the same replaces; without a key, what it names."""


class GlobalTable(Generic[V]):
    """Read-only. It is not replayed: a decision that uses it must put what it used into its output.

    `unreadable` gives the reason by key, `refused` counts bad records since the start, by their error's name.
    """

    def __init__(self, topic: TopicSpec[V]) -> None:
        self.topic = topic
        self.ready = asyncio.Event()
        self.unreadable: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        self._values: dict[str, V] = {}
        self._partitions = 1
        self._good: dict[str, _Place] = {}
        self._bad: dict[_Origin, _Bad] = {}
        self._doubts: dict[str, dict[_Origin, _Bad]] = {}
        self._newer: dict[str, str] = {}
        self._watermarks: Watermarks | None = None
        self._unread: dict[TP, int] = {}
        self._failed: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> list[str]:
        """One line for each open transaction that is being waited for."""
        return [] if self._watermarks is None else self._watermarks.waiting

    def get(self, key: str) -> V | None:
        """The last good value, None where there is none. Ask `is_unreadable` too."""
        return self._values.get(key)

    def values(self) -> Mapping[str, V]:
        return self._values

    def is_unreadable(self, key: str) -> bool:
        """Whether a record of this key that is newer than its last good one, which `get` gives, is bad."""
        return key in self.unreadable

    @property
    def waits_for(self) -> str | None:
        """Which key needs a newer build to be read, in one line; None when none does."""
        return next(iter(self._newer.values()), None)

    async def run(self, cluster: Cluster, fetcher: Fetcher) -> None:
        """Follow the topic for ever; `ready` is set when what stood there at the start is known."""
        self._partitions = await cluster.partition_count(self.topic.name)
        tps = [TP(self.topic.name, p) for p in range(self._partitions)]
        positions = await cluster.offsets(tps, EARLIEST)
        ends = await cluster.offsets(tps, LATEST)
        self._unread = {tp: end for tp, end in ends.items() if end > positions[tp]}
        self._see_whether_ready()
        self._watermarks = Watermarks(cluster, f"global table {self.topic.name}", ("global", self.topic.name))
        self._failed = asyncio.get_running_loop().create_future()
        with closing(self._watermarks), closing(fetcher.read(self, positions)):
            await self._failed

    def _see_whether_ready(self) -> None:
        if not self._unread:
            self.ready.set()

    # -- as a reader of the fetcher's

    def is_full(self) -> bool:
        """Never: what is read is kept, by its key."""
        return False

    def take_in(self, fetched: Fetched) -> None:
        """Take what comes next in a partition."""
        for record in fetched.records:
            self._take(fetched.tp, record)
        if fetched.tp in self._unread and fetched.next_position >= self._unread[fetched.tp]:
            del self._unread[fetched.tp]
            self._see_whether_ready()

    def hear(self, tp: TP, position: int, high: int, stable: int) -> None:
        """Note what an answer said of a partition."""
        if self._watermarks is not None:
            self._watermarks.hear(tp, position, high, stable)

    def fail(self, tp: TP, error: Exception) -> None:
        """End `run`: `tp` cannot be read."""
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _take(self, tp: TP, record: RawRecord) -> None:
        place = _Place(tp.partition, record.offset, record.timestamp)
        key = None if record.key is None or len(record.key) > KEY_BYTES_MAX else record.key
        name = None if key is None else _name(key)
        names = set() if name is None else {name}
        try:
            value = self._read(tp.partition, record, names)
        except Exception as error:  # a codec raises ValueError, but garbage finds its other errors too
            why = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
            self.refused[type(error).__name__] += 1
            self._doubt(_Bad(place, frozenset(names), why, isinstance(error, NewerRelease)), key)
            return
        assert key is not None, "a record without a key is never good"
        assert name is not None
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value
        self._trust(name, key, place)

    def _read(self, partition: int, record: RawRecord, names: set[str]) -> V | None:
        """Decode and check a record; adds the key that its value names to `names`."""
        key, headers, value = record.key, dict(record.headers), None
        if record.value is None:
            if not self.topic.tombstones:
                raise ValueError(f"the record has no value, and nothing is removed from {self.topic.name}")
        else:
            value = self.topic.codec.decode(
                headers.get(EVENT_TYPE) or b"", headers.get(SCHEMA_VERSION) or b"", record.value
            )
            if self.topic.key_of is not None:
                meant = self.topic.key_of(value)
                if len(meant) <= KEY_BYTES_MAX:
                    names.add(_name(meant))
                if key != meant:
                    raise ValueError(f"the key {_cut(key)!r} is not the one of the value, {_cut(meant)!r}")
        if key is None:
            raise ValueError("the record has no key")
        key.decode()  # what is no text is nobody's key
        if (error := misplaced(self.topic.name, key, partition, self._partitions)) is not None:
            raise error
        return value

    def _doubt(self, bad: _Bad, key: bytes | None) -> None:
        """Take note of a bad record, which replaces an earlier one of the same key in its partition."""
        origin = (bad.place.partition, bad.names if key is None else key)
        before = self._forget(origin)
        self._bad[origin] = bad
        for name in bad.names:
            self._doubts.setdefault(name, {})[origin] = bad
        for name in before | bad.names:
            self._judge(name)
        names = sorted(name[:SHOWN_MAX] for name in bad.names if name in self.unreadable)
        told = f"unreadable until a good record comes: {names}" if names else "it changes nothing"
        level = logging.ERROR if names else logging.WARNING
        log.log(level, "%s at %s/%s: %s; %s", self.topic.name, *bad.place[:2], bad.why, told)

    def _trust(self, name: str, key: bytes, place: _Place) -> None:
        """Take note of a good record: what was bad before it counts no more."""
        self._good[name] = place
        if self._bad:
            for each in self._forget((place.partition, key)) | {name}:
                self._judge(each)

    def _forget(self, origin: _Origin) -> frozenset[str]:
        """Drop the bad record of a key in a partition; returns the names that it was bad for."""
        bad = self._bad.pop(origin, None)
        if bad is None:
            return frozenset()
        for name in bad.names:
            del self._doubts[name][origin]
            if not self._doubts[name]:
                del self._doubts[name]
        return bad.names

    def _judge(self, name: str) -> None:
        """Decide anew whether a key is unreadable: whether something bad is newer than its last good record.

        Within a partition offsets tell which is newer, between two the records' timestamps.
        """
        good = self._good.get(name)
        bads = [each for each in self._doubts.get(name, {}).values() if _is_newer(each.place, good)]
        self.unreadable.pop(name, None)
        self._newer.pop(name, None)
        for bad in bads:
            topic, where = self.topic.name, f"{bad.place.partition}/{bad.place.offset}"
            self.unreadable[name] = f"{topic}/{where}: {bad.why}"
            if bad.newer:
                self._newer[name] = f"global table {topic} at {where}, key {name[:SHOWN_MAX]!r}: {bad.why}"


def _is_newer(place: _Place, than: _Place | None) -> bool:
    if than is None:
        return True
    if place.partition == than.partition:
        return place.offset > than.offset
    return place.timestamp_ms > than.timestamp_ms


def _name(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _cut(key: bytes | None) -> bytes | None:
    return key if key is None else key[:SHOWN_MAX]
