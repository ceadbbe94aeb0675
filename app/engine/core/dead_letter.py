"""Dead letters and quarantine: what to do with a record that can't be processed, in the same transaction.

The record goes to the dead-letter topic as it came, with headers that tell its origin and the error. Its key
is then quarantined: later records of that key follow it there, marked `dead-letter-held-behind`, in order,
while other keys flow. The quarantine is a table of its own and survives like any other. What nobody can
depend on holds no key: garbage at the edge, a record on a partition that is not its key's, and poison that
says so. A topic that `protects` passes a quarantine and never causes one.

What did not come from Kafka (`UnitOfWork.bury`) goes there too: `dead-letter-source` says where from.

What is too large for the dead-letter topic goes there cut, marked `dead-letter-cut`: the whole still stands
where `dead-letter-topic`, `-partition` and `-offset` say.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from app.engine.errors import ERROR_CHARS_MAX
from app.engine.kafka.cluster import TP, partition_of
from app.engine.shards import KEY_BYTES_MAX
from app.engine.topics import TopicSpec

if TYPE_CHECKING:
    from app.engine.core.work import UnitOfWork
    from app.engine.state.table import Table

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

    def __init__(self, service: str, topic: TopicSpec, quarantine: "Table", partition: int) -> None:
        self._service = service
        self._topic = topic
        self._quarantine = quarantine
        self._partition = partition
        self.held_keys = 0
        self._second = self._said = self._unsaid = 0
        self.counts: Counter[tuple[str, str]] = Counter()

    def holds(self, work: "UnitOfWork", spec: TopicSpec, raw: Any) -> bool:
        """Put the record behind the dead letter of its key, if there is one."""
        if raw.key is None:
            return False
        name = _name(raw.key)
        entry = work[self._quarantine].get(name)
        if entry is None:
            return False
        work[self._quarantine][name] = {"behind": entry["behind"], "held": entry["held"] + 1}
        self._append(work, spec, raw, [("held-behind", entry["behind"])])
        self._count(work, spec.name, HELD)
        return True

    def bury(
        self,
        work: "UnitOfWork",
        spec: TopicSpec,
        raw: Any,
        error: BaseException,
        attempts: int,
        *,
        quarantine: bool = True,
    ) -> None:
        """Make the record a dead letter and, unless told otherwise, quarantine its key."""
        source = f"{spec.name}/{self._partition}/{raw.offset}"
        text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
        self._append(work, spec, raw, [("error", text), ("attempts", str(attempts))])
        self._count(work, spec.name, type(error).__name__)
        if not quarantine or raw.key is None:
            self._say("dead letter %s: %s", source, text)
            return
        name = _name(raw.key)
        self._say("dead letter %s, later records of key %r wait behind it: %s", source, name[:64], text)
        work[self._quarantine][name] = {"behind": source, "held": 0}

    def bury_outside(
        self,
        work: "UnitOfWork",
        source: str,
        key: bytes | None,
        value: bytes,
        error: BaseException,
        headers: Iterable[tuple[str, bytes]],
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
        kept = _few(came)
        if len(key or b"") > KEY_BYTES_MAX or len(value) > OUTSIDE_BYTES_MAX or kept != came:
            origin.append(("cut", _told(key, value, came)))
            key, value = _cut(key), value[:KEY_BYTES_MAX]
        self._send(work, key, value, kept, now_ms, origin)
        self._count(work, OUTSIDE, type(error).__name__)
        self._say("dead letter of %s: %s", source[:ERROR_CHARS_MAX], text)

    def _say(self, line: str, *values: object) -> None:
        """Log a line, unless there were many within this second: a flood would be a flood of lines, too."""
        second = int(time.monotonic())
        if second != self._second:
            if self._unsaid:
                log.warning("%d more dead letters that were not logged one by one", self._unsaid)
            self._second, self._said, self._unsaid = second, 0, 0
        if self._said < LINES_A_SECOND:
            self._said += 1
            log.warning(line, *values)
        else:
            self._unsaid += 1

    def _count(self, work: "UnitOfWork", where: str, why: str) -> None:
        work.after_commit(partial(self.counts.update, [(where, why)]))

    def _append(self, work: "UnitOfWork", spec: TopicSpec, raw: Any, why: list[tuple[str, str]]) -> None:
        origin = [
            ("service", self._service),
            ("topic", spec.name),
            ("partition", str(self._partition)),
            ("offset", str(raw.offset)),
            ("timestamp", str(raw.timestamp)),
            *why,
        ]
        batch = work.batch
        key, value, headers = raw.key, raw.value, raw.headers
        if batch is not None and batch.brief:
            origin.append(("cut", _told(key, value, headers)))
            key, value, headers = _cut(key), _cut(value), _few(headers)
        self._send(work, key, value, headers, raw.timestamp, origin)

    def _send(
        self,
        work: "UnitOfWork",
        key: bytes | None,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes]],
        timestamp_ms: int,
        origin: list[tuple[str, str]],
    ) -> None:
        told = [*headers, *((PREFIX + name, text.encode()) for name, text in origin)]
        count = work.task.partition_counts[self._topic.name]
        to = partition_of(key[:KEY_BYTES_MAX], count) if key is not None else self._partition % count
        work.outbox.append(TP(self._topic.name, to), key, value, told, timestamp_ms)


def _name(key: bytes) -> str:
    """The key as text, another one for each key, not too long for a table."""
    with suppress(UnicodeDecodeError):
        if len(key) <= NAME_BYTES_MAX:
            return key.decode()
    return f"{key[:NAME_BYTES_MAX].decode('utf-8', 'backslashreplace')}#{sha256(key).hexdigest()}"


def _cut(data: bytes | None) -> bytes | None:
    return data if data is None else data[:KEY_BYTES_MAX]


def _few(headers: Any) -> list[Any]:
    """As many headers as fit."""
    kept, size = [], 0
    for name, value in headers:
        size += len(name) + len(value or b"")
        if size <= KEY_BYTES_MAX:
            kept.append((name, value))
    return kept


def _told(key: bytes | None, value: bytes | None, headers: Any) -> str:
    key, value = key or b"", value or b""
    return (
        f"too large for the topic: the first {KEY_BYTES_MAX} bytes of a key of {len(key)} and a value of "
        f"{len(value)} (SHA-256 {sha256(value).hexdigest()}), and some of {len(list(headers))} headers"
    )
