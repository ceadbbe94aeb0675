"""What this worker owns and how far it is: `GET /status` as JSON, `GET /metrics` for Prometheus."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from app.engine.core.take_over import Restored
from app.engine.core.task import Task

UNREADABLE_SHOWN_MAX = 50
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Owned(msgspec.Struct, frozen=True):
    """A partition that the group has given to this worker.

    `state` is "ready", "restoring" (whatever comes before that included) or "fenced"; `stalled_s` is how long
    the work in hand has made no progress, 0 when there is none. `epoch` grows with every take-over, and
    `records` and `batches` count from there, as do `dead_letters`, by topic and error. `lag` is in offsets up
    to the high watermark, by input; `waits` says what the task waits for: somebody's open transaction, or a
    newer release.
    """

    partition: int
    state: str
    epoch: int
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


class Measure(NamedTuple):
    """A metric of the service's own: its name, what it means, and (labels, value) pairs.

    A name that ends in `_total` is a counter, any other a gauge.
    """

    name: str
    meaning: str
    samples: Sequence[tuple[Mapping[str, str], float]]


class Status(msgspec.Struct, frozen=True):
    """This worker, now. `not_ready` has every reason why it cannot work.

    `notices` are for a person to look at, though the worker works.
    `not_ready_times` is how often it has become so, by kind of reason.
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
        return Owned(partition, "restoring", 0, 0, 0.0, None)
    state = "fenced" if task.fenced else "ready" if task.ready.is_set() else "restoring"
    return Owned(
        partition,
        state,
        task.epoch,
        task.counts.records,
        task.stalled_s,
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


def metrics(found: Status, measured: Iterable[Measure] = ()) -> str:
    """The same in Prometheus' text format, and what the service measures of its own."""
    own = (_own(found.service, each) for each in measured)
    return "".join([*_of_worker(found), *_of_tasks(found.service, found.partitions), *own])


def _own(service: str, measure: Measure) -> str:
    kind = "counter" if measure.name.endswith("_total") else "gauge"
    samples = (({"service": service, **labels}, value) for labels, value in measure.samples)
    return _family(kind, measure.name, measure.meaning, samples)


def _of_worker(found: Status) -> list[str]:
    service, tables = found.service, found.global_tables
    return [
        _gauge(
            "engine_worker_ready",
            "Whether the worker can work; engine_not_ready has the number of reasons why not.",
            [({"service": service}, int(found.ready))],
        ),
        _gauge(
            "engine_not_ready",
            "How many reasons there are why the worker cannot work; /ready and /status name them.",
            [({"service": service}, len(found.not_ready))],
        ),
        _counter(
            "engine_not_ready_total",
            "How often the worker has become not ready, by kind of reason.",
            [
                ({"service": service, "reason": kind}, times)
                for kind, times in sorted(found.not_ready_times.items())
            ],
        ),
        _gauge(
            "engine_global_table_unreadable_keys",
            "Keys of a global table whose last record can't be read; /status has the reasons.",
            [({"service": service, "topic": each.topic}, each.unreadable_keys) for each in tables],
        ),
        _counter(
            "engine_global_table_refused_total",
            "Records of a global table that could not be read, by error.",
            [
                ({"service": service, "topic": each.topic, "error": error}, count)
                for each in tables
                for error, count in sorted(each.refused.items())
            ],
        ),
        _gauge(
            "engine_standby_lag_offsets",
            "Changelog offsets that are committed and that the standby has not applied yet.",
            _lags(service, found.standbys, "table"),
        ),
    ]


def _of_tasks(service: str, owned: Sequence[Owned]) -> list[str]:
    restored = [(each.partition, each.restored) for each in owned if each.restored is not None]
    return [
        _gauge(
            "engine_task_ready",
            "Whether a task of this worker is restored and processing.",
            [(_labels(service, each.partition), int(each.state == "ready")) for each in owned],
        ),
        _gauge(
            "engine_task_waits",
            "How many open transactions, and newer releases, a task waits for.",
            [(_labels(service, each.partition), len(each.waits)) for each in owned],
        ),
        _gauge(
            "engine_task_stalled_seconds",
            "Seconds that the work in hand of a task has made no progress, 0 when there is none.",
            [(_labels(service, each.partition), each.stalled_s) for each in owned],
        ),
        _gauge(
            "engine_task_records",
            "Records that a task has processed since it took its partition over.",
            [(_labels(service, each.partition), each.records) for each in owned],
        ),
        _gauge(
            "engine_task_transactions",
            "Transactions of a task since it took its partition over.",
            [(_labels(service, each.partition), each.batches) for each in owned],
        ),
        _gauge(
            "engine_input_lag_offsets",
            "Offsets of an input up to its high watermark that a task has not processed, by its last fetch.",
            _lags(service, owned, "topic"),
        ),
        _gauge(
            "engine_quarantined_keys",
            "Keys whose records wait behind a dead letter.",
            [(_labels(service, each.partition), each.quarantined_keys) for each in owned],
        ),
        _counter(
            "engine_dead_letters_total",
            "Dead letters of a task since it took its partition over, by error; held: behind another one.",
            [
                ({**_labels(service, each.partition), "topic": topic, "error": error}, count)
                for each in owned
                for topic, errors in sorted(each.dead_letters.items())
                for error, count in sorted(errors.items())
            ],
        ),
        _gauge(
            "engine_restore_records",
            "Records applied by the last restore of a task.",
            [(_labels(service, partition), each.records) for partition, each in restored],
        ),
        _gauge(
            "engine_restore_seconds",
            "Seconds that the last restore of a task took.",
            [(_labels(service, partition), each.seconds) for partition, each in restored],
        ),
    ]


def _labels(service: str, partition: int) -> dict[str, str]:
    return {"service": service, "partition": str(partition)}


def _lags(
    service: str, partitions: Iterable[Owned | Followed], label: str
) -> list[tuple[Mapping[str, str], float]]:
    return [
        ({**_labels(service, each.partition), label: name}, lag)
        for each in partitions
        for name, lag in each.lag.items()
    ]


def _gauge(name: str, meaning: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    return _family("gauge", name, meaning, samples)


def _counter(name: str, meaning: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    return _family("counter", name, meaning, samples)


def _family(kind: str, name: str, meaning: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{pairs}}} {round(value, 3)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
