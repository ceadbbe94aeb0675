"""Whether this worker can work, and if not, why: for `/ready`, for people who read its log, for metrics."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

LOOK_S = 0.1
LASTS_S = 5.0
"""A reason that lasts for longer is said in the log; most are over long before."""

SAID_ELSEWHERE = ("disk", "open-transaction", "waits")
"""Kinds of reason that have lines in the log of their own, when they begin and when they are over."""

KAFKA_SILENT_S_MAX = 5.0


class Reason(NamedTuple):
    """Why a worker is not ready: one of a few kinds, and one line for people."""

    kind: str
    text: str


class Health:
    """Looks at a worker's tasks again and again: counts reasons, and says what lasts and when it is over."""

    def __init__(self, app: Any) -> None:
        self.times: Counter[str] = Counter()
        """How often the worker has become not ready, by kind of reason."""
        self._app = app
        self._seen: dict[Reason, float] = {}
        self._said: set[Reason] = set()
        self._announced = 0

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            self._look(reasons(self._app))
            await asyncio.sleep(LOOK_S)

    def _look(self, found: list[Reason]) -> None:
        before = {reason.kind for reason in self._seen}
        self.times.update({reason.kind for reason in found} - before)
        now = time.monotonic()
        self._seen = {reason: self._seen.get(reason, now) for reason in found}
        for reason, since in self._seen.items():
            is_news = reason not in self._said and reason.kind not in SAID_ELSEWHERE
            if is_news and now - since > LASTS_S:
                self._said.add(reason)
                log.warning("%s is not ready: %s", self._app.conf.id, reason.text)
        assignments = self._app.tables.assignments
        if not found and (self._said or self._announced != assignments):
            self._said.clear()
            self._announced = assignments
            self._app.announce(ready_line(self._app))


def reasons(app: Any) -> list[Reason]:
    """Every reason why the worker is not ready now; [] when it is."""
    return list(_of_engine(app.tables)) + list(_of_service(app))


def _of_engine(manager: Any) -> Iterator[Reason]:
    if not manager.has_topics:
        yield Reason("kafka", f"Kafka on {manager.app.settings.bootstrap} has not been reached yet")
    elif manager.assignments == 0:
        yield Reason("assignment", "the group has not assigned any partitions yet")
    silent_s = manager.kafka_silent_s
    if silent_s > KAFKA_SILENT_S_MAX:
        yield Reason("kafka", f"Kafka on {manager.app.settings.bootstrap} does not answer")
    for line in manager.waits:
        yield Reason("commit", line)
    for table in manager.app.global_tables:
        yield from _of_global_table(table)
    yield from _of_tasks(manager)
    if manager.disk.is_full:
        yield Reason("disk", f"disk full: too little room for tables at {manager.disk.path}")


def _of_global_table(table: Any) -> Iterator[Reason]:
    if not table.ready.is_set():
        yield Reason("global-table", f"global table {table.topic.name} is being read")
    if table.waits_for is not None:
        yield Reason("waits", table.waits_for)
    for waits in table.waiting:
        yield Reason("open-transaction", f"global table {table.topic.name} {waits}")


def _of_tasks(manager: Any) -> Iterator[Reason]:
    restoring, fenced = [], []
    for partition in sorted(manager.wanted):
        task = manager.tasks.get(partition)
        if task is not None and task.waits_for is not None:
            yield Reason("waits", f"partition {partition}: {task.waits_for}")
        elif task is not None and task.fenced:
            fenced.append(partition)
        elif task is None or not task.ready.is_set():
            restoring.append(partition)
        for waits in [] if task is None else task.watermarks.waiting:
            yield Reason("open-transaction", waits)
    if restoring:
        yield Reason("restoring", f"being restored: partitions {ranges(restoring)}")
    if fenced:
        yield Reason("fenced", f"taken over by another worker: partitions {ranges(fenced)}")


def _of_service(app: Any) -> Iterator[Reason]:
    for check in app.health_checks:
        try:
            for text in check():
                yield Reason("service", text)
        except Exception as error:  # whoever asks for reasons gets this one
            yield Reason("service", f"{getattr(check, '__name__', check)} can't tell: {error!r}")


def ready_line(app: Any) -> str:
    """What people wait for when they have started a worker."""
    manager = app.tables
    works = f"partitions {ranges(manager.wanted)}" if manager.wanted else "no partitions"
    parts = [f"ready: {works} of {app.conf.id}"]
    if manager.standbys:
        parts.append(f"standbys of {ranges(manager.standbys)}")
    if app.conf.web_enabled:
        parts.append(f"web {str(app.conf.canonical_url).rstrip('/')}")
    return ", ".join(parts)


def ranges(numbers: Iterable[int], dash: str = "-") -> str:
    """Partition numbers for people: 0-3, 5."""
    runs = []
    for _, group in groupby(enumerate(sorted(numbers)), lambda each: each[1] - each[0]):
        run = [number for _, number in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}{dash}{run[-1]}")
    return ", ".join(runs)
