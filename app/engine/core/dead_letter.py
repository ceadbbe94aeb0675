"""Dead letters and quarantine: what to do with a record that can't be processed, in the same transaction.

The record goes to the dead-letter topic as it came, with headers that tell its origin and the error. Its key
is then quarantined: later records of that key follow it there, marked `dead-letter-held-behind`, in order,
while other keys flow. The quarantine is a table of its own and survives like any other. What nobody can
depend on holds no key: garbage at the edge, a record on a partition that is not its key's, and poison that
says so. What `TopicSpec.protects` passes a quarantine and never causes one.

What did not come from Kafka (`UnitOfWork.bury`) goes there too: `dead-letter-source` says where from.

What is too large for the dead-letter topic goes there cut, marked `dead-letter-cut`: the whole still stands
where `dead-letter-topic`, `-partition` and `-offset` say.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any

from app.engine.core.effects import Effects
from app.engine.errors import ERROR_CHARS_MAX
from app.engine.kafka.cluster import TP, RawRecord, partition_of
from app.engine.kafka.transaction import Header
from app.engine.shards import KEY_BYTES_MAX
from app.engine.state.table import Table
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

PREFIX = "dead-letter-"
NAME_BYTES_MAX = 1_000
OUTSIDE_BYTES_MAX = 512 * 1024
LINES_A_SECOND = 20
OUTSIDE = "outside"
HELD = "held"
QUARANTINE = "quarantine"


class DeadLetters:
    """Buries records of one task and remembers which keys wait behind one.

    A quarantine entry, by key, is `{"behind": source of the dead letter, "held": count of records behind}`.
    `counts` are the dead letters that are committed, by (topic or "outside", name of the error or "held").
    """

    def __init__(
        self,
        service: str,
        topic: TopicSpec,
        quarantine: Table[dict[str, Any]],
        partition: int,
        partition_counts: Mapping[str, int],
    ) -> None:
        self._service = service
        self._topic = topic
        self._quarantine = quarantine
        self._partition = partition
        self._partition_counts = partition_counts
        self.held_keys = 0
        self._second = self._logged = self._unlogged = 0
        self.counts: Counter[tuple[str, str]] = Counter()

    def holds(self, effects: Effects, spec: TopicSpec, raw: RawRecord) -> bool:
        """Put the record behind the dead letter of its key, if there is one."""
        if raw.key is None:
            return False
        name = quarantine_key(raw.key)
        quarantined = effects[self._quarantine]
        entry = quarantined.get(name)
        if entry is None:
            return False
        quarantined[name] = {"behind": entry["behind"], "held": entry["held"] + 1}
        self.append(effects, spec, raw, [("held-behind", entry["behind"])])
        self._count(effects, spec.name, HELD)
        return True

    def bury(
        self,
        effects: Effects,
        spec: TopicSpec,
        raw: RawRecord,
        error: BaseException,
        attempts: int,
        *,
        quarantine: bool = True,
    ) -> None:
        """Make the record a dead letter and, if `quarantine`, hold what comes later of its key behind it."""
        source = f"{spec.name}/{self._partition}/{raw.offset}"
        text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
        self.append(effects, spec, raw, [("error", text), ("attempts", str(attempts))])
        self._count(effects, spec.name, type(error).__name__)
        if not quarantine or raw.key is None:
            self._log("dead letter %s: %s", source, text)
            return
        name = quarantine_key(raw.key)
        self._log("dead letter %s, later records of key %r wait behind it: %s", source, name[:64], text)
        effects[self._quarantine][name] = {"behind": source, "held": 0}

    def bury_outside(
        self,
        effects: Effects,
        source: str,
        key: bytes | None,
        value: bytes,
        error: BaseException,
        headers: Iterable[Header],
    ) -> None:
        """Make a dead letter of what did not come from Kafka. What is large goes there cut, at once."""
        text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
        now_ms = time.time_ns() // 1_000_000
        origin = [
            ("service", self._service),
            ("source", source[:ERROR_CHARS_MAX]),
            ("timestamp", str(now_ms)),
            ("error", text),
            ("attempts", "1"),
        ]
        came = list(headers)
        kept = _those_that_fit(came)
        if len(key or b"") > KEY_BYTES_MAX or len(value) > OUTSIDE_BYTES_MAX or kept != came:
            origin.append(("cut", _sizes(key, value, came)))
            key, value = _cut(key), value[:KEY_BYTES_MAX]
        self._send(effects, key, value, kept, now_ms, origin)
        self._count(effects, OUTSIDE, type(error).__name__)
        self._log("dead letter of %s: %s", source[:ERROR_CHARS_MAX], text)

    def _log(self, line: str, *values: object) -> None:
        """Log a line, unless there were many within this second: a flood would be a flood of lines, too."""
        second = int(time.monotonic())
        if second != self._second:
            if self._unlogged:
                log.warning("%d more dead letters that were not logged one by one", self._unlogged)
            self._second, self._logged, self._unlogged = second, 0, 0
        if self._logged < LINES_A_SECOND:
            self._logged += 1
            log.warning(line, *values)
        else:
            self._unlogged += 1

    def _count(self, effects: Effects, where: str, why: str) -> None:
        effects.after_commit(partial(self.counts.update, [(where, why)]))

    def append(self, effects: Effects, spec: TopicSpec, raw: RawRecord, why: list[tuple[str, str]]) -> None:
        """Send the record to the dead-letter topic as it came, with headers for its origin and `why`."""
        origin = [
            ("service", self._service),
            ("topic", spec.name),
            ("partition", str(self._partition)),
            ("offset", str(raw.offset)),
            ("timestamp", str(raw.timestamp)),
            *why,
        ]
        key, value, headers = raw.key, raw.value, raw.headers
        if effects.brief:
            origin.append(("cut", _sizes(key, value, headers)))
            key, value, headers = _cut(key), _cut(value), _those_that_fit(headers)
        self._send(effects, key, value, headers, raw.timestamp, origin)

    def _send(
        self,
        effects: Effects,
        key: bytes | None,
        value: bytes | None,
        headers: Iterable[Header],
        timestamp_ms: int,
        origin: list[tuple[str, str]],
    ) -> None:
        all_headers = [*headers, *((PREFIX + name, text.encode()) for name, text in origin)]
        count = self._partition_counts[self._topic.name]
        to = partition_of(key[:KEY_BYTES_MAX], count) if key is not None else self._partition % count
        effects.outbox.append(TP(self._topic.name, to), key, value, all_headers, timestamp_ms)


def quarantine_key(key: bytes) -> str:
    """The key as text, another one for each key, not too long for a table."""
    with suppress(UnicodeDecodeError):
        if len(key) <= NAME_BYTES_MAX:
            return key.decode()
    return f"{key[:NAME_BYTES_MAX].decode('utf-8', 'backslashreplace')}#{sha256(key).hexdigest()}"


def _cut(data: bytes | None) -> bytes | None:
    return data if data is None else data[:KEY_BYTES_MAX]


def _those_that_fit(headers: Iterable[Header]) -> list[Header]:
    kept: list[Header] = []
    size = 0
    for name, value in headers:
        size += len(name) + len(value or b"")
        if size <= KEY_BYTES_MAX:
            kept.append((name, value))
    return kept


def _sizes(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> str:
    """How large the record is that goes there cut."""
    key, value = key or b"", value or b""
    return (
        f"too large for the topic: the first {KEY_BYTES_MAX} bytes of a key of {len(key)} and a value of "
        f"{len(value)} (SHA-256 {sha256(value).hexdigest()}), and some of {len(headers)} headers"
    )
