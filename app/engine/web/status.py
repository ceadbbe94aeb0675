"""What this worker owns and how far it is: `GET /status`, as JSON."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from app.engine.core.take_over import Restored
from app.engine.core.task import Task

UNREADABLE_SHOWN_MAX = 50


class Owned(msgspec.Struct, frozen=True):
    """A partition that the group has given to this worker.

    `state` is "ready", "restoring" (whatever comes before that included) or "fenced"; `stalled_s` is how long
    the work in hand has made no progress, 0 when there is none. `records` and `batches` count from the
    take-over on, as do `dead_letters`, by topic and error. `lag` is in offsets up to the high watermark, by
    input; `waits` says what the task waits for: somebody's open transaction, or a newer release.
    """

    partition: int
    state: str
    records: int
    stalled_s: float
    restored: Restored | None
    batches: int = 0
    quarantined_keys: int = 0
    lag: Mapping[str, int] = {}
    waits: Sequence[str] = ()
    dead_letters: Mapping[str, Mapping[str, int]] = {}


class ReadWhole(msgspec.Struct, frozen=True):
    """A global table. `unreadable` has the reasons by key, some of them where there are many.

    `refused` counts the records that could not be read, by error, since the worker began.
    """

    topic: str
    keys: int
    unreadable_keys: int
    unreadable: Mapping[str, str]
    refused: Mapping[str, int]


class Followed(msgspec.Struct, frozen=True):
    """A partition this worker is a standby of; `lag` is in changelog offsets, by table, {} at its start."""

    partition: int
    lag: Mapping[str, int]
    waits: Sequence[str] = ()


class Status(msgspec.Struct, frozen=True):
    """This worker, now. `not_ready` has every reason why it cannot work.

    `notices` are for a person to look at, though the worker works.
    `not_ready_times` is how often it has become so, by kind of reason. `transactions` counts those that this
    worker has committed for all its tasks.
    """

    service: str
    client_id: str
    ready: bool
    partitions: list[Owned]
    standbys: list[Followed]
    not_ready: Sequence[str] = ()
    not_ready_times: Mapping[str, int] = {}
    notices: Sequence[str] = ()
    global_tables: Sequence[ReadWhole] = ()
    transactions: int = 0


def status(app: Any) -> Status:
    """Look at the worker's tasks and standbys; reads memory only."""
    manager = app.tables
    not_ready = app.not_ready()
    return Status(
        service=app.conf.id,
        client_id=app.conf.broker_client_id,
        ready=not not_ready,
        partitions=[_owned(number, manager.tasks.get(number)) for number in sorted(manager.wanted)],
        standbys=[
            Followed(number, dict(each.lag), each.watermarks.waiting)
            for number, each in sorted(manager.standbys.items())
        ],
        not_ready=not_ready,
        not_ready_times=dict(manager.health.times),
        notices=[line for fun in app.noticed for line in fun()],
        global_tables=[_read_whole(table) for table in app.global_tables],
        transactions=manager.transactions,
    )


def _read_whole(table: Any) -> ReadWhole:
    return ReadWhole(
        table.topic.name,
        len(table.values()),
        len(table.unreadable),
        dict(islice(table.unreadable.items(), UNREADABLE_SHOWN_MAX)),
        dict(table.refused),
    )


def _owned(partition: int, task: Task | None) -> Owned:
    if task is None:
        return Owned(partition, "restoring", 0, 0.0, None)
    state = "fenced" if task.fenced else "ready" if task.ready.is_set() else "restoring"
    return Owned(
        partition,
        state,
        task.counts.records,
        round(task.stalled_s, 3),
        task.restored,
        task.counts.batches,
        task.dead_letters.held_keys,
        task.lag,
        [*filter(None, [task.waits_for]), *task.watermarks.waiting],
        _by_topic(task.dead_letters.counts),
    )


def _by_topic(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (topic, error), count in counts.items():
        found.setdefault(topic, {})[error] = count
    return found
