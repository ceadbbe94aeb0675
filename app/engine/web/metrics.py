"""The metrics of a worker: the engine's own and what its service measures, each with the label `service`.

An app has a `CollectorRegistry` of its own, `app.metrics`, so that several in one process do not mix. Names
follow Prometheus: a counter ends in `_total`, a unit is a base unit and stands in the name.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

from prometheus_client import CollectorRegistry, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.engine.core.work import Batch
from app.engine.web.status import Followed, Owned, Status, status

BATCH_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 4_000)
BATCH_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

STRANGE_VERSION: Final = re.compile(r"version=(?![0-9]{1,9}(?:\.[0-9]{1,9}){0,3}\s*(?:[;,]|$))")
"""In an Accept header: the library compares versions as numbers."""

Samples = Iterable[tuple[Sequence[str], float]]
"""The values of the labels, in the order of their names, and what was measured."""


class Measured(Collector):
    """What a function measures whenever somebody asks."""

    def __init__(self, fun: Callable[[], Iterable[Metric]]) -> None:
        self._fun = fun

    def collect(self) -> Iterable[Metric]:
        return self._fun()


class WorkerMetrics(Collector):
    """Everything that `/metrics` of an app tells."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        found = status(self._app)
        for metric in chain(engine_metrics(found), self._app.metrics.collect()):
            yield _of_service(found.service, metric)


class BatchMetrics:
    """How large the batches of an app are and how long each takes, from its delivery to its commit."""

    def __init__(self, metrics: CollectorRegistry) -> None:
        self._records = Histogram(
            "engine_batch_records",
            "Records of a batch that the agent was given, and that is committed.",
            registry=metrics,
            buckets=BATCH_RECORDS,
        )
        self._seconds = Histogram(
            "engine_batch_seconds",
            "How long a batch took from its delivery to the agent to its commit.",
            registry=metrics,
            buckets=BATCH_SECONDS,
        )

    def watch(self, batch: Batch) -> Batch:
        """Measure the batch when it is done; returns it."""
        batch.done.add_done_callback(partial(self._measure, len(batch), time.perf_counter()))
        return batch

    def _measure(self, records: int, began: float, done: "asyncio.Future[BaseException | None]") -> None:
        if not done.cancelled() and done.result() is None:
            self._records.observe(records)
            self._seconds.observe(time.perf_counter() - began)


def registry() -> CollectorRegistry:
    """A registry for one app, with the memory, processor time and open files of the process."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    return made


def exposed(metrics: Collector, accepted: str) -> tuple[bytes, str]:
    """The metrics and their content type, in the format that an Accept header asks for.

    Whoever asks for a version that is no number gets plain text.
    """
    encode, content_type = choose_encoder("" if STRANGE_VERSION.search(accepted) else accepted)
    return encode(metrics), content_type


def counter(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> Metric:
    """A counter; `name` ends in `_total`."""
    return _filled(CounterMetricFamily(name, meaning, labels=labels), samples)


def gauge(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(name, meaning, labels=labels), samples)


def engine_metrics(found: Status) -> Iterator[Metric]:
    """What the engine tells of a worker and its tasks."""
    yield from _of_worker(found)
    yield from _of_tasks(found.partitions)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _of_service(service: str, metric: Metric) -> Metric:
    """The metric with the label `service`, without the times at which its series began."""
    labelled = Metric(metric.name, metric.documentation, metric.type)
    labelled.samples = [
        each._replace(labels={"service": service, **each.labels})
        for each in metric.samples
        if each.name != f"{metric.name}_created"
    ]
    return labelled


def _of_worker(found: Status) -> Iterator[Metric]:
    tables = found.global_tables
    yield gauge(
        "engine_worker_ready",
        "Whether the worker can work; engine_not_ready_reasons has the number of reasons why not.",
        (),
        [((), int(found.ready))],
    )
    yield gauge(
        "engine_not_ready_reasons",
        "How many reasons there are why the worker cannot work; /ready and /status name them.",
        (),
        [((), len(found.not_ready))],
    )
    yield counter(
        "engine_not_ready_total",
        "How often the worker has become not ready, by kind of reason.",
        ("reason",),
        [((kind,), times) for kind, times in sorted(found.not_ready_times.items())],
    )
    yield gauge(
        "engine_global_table_unreadable_keys",
        "Keys of a global table whose last record can't be read; /status has the reasons.",
        ("topic",),
        [((each.topic,), each.unreadable_keys) for each in tables],
    )
    yield counter(
        "engine_global_table_refused_total",
        "Records of a global table that could not be read, by error.",
        ("topic", "error"),
        [((each.topic, error), count) for each in tables for error, count in sorted(each.refused.items())],
    )
    yield counter(
        "engine_transactions_total",
        "Transactions of this worker, each with whatever its tasks had ready.",
        (),
        [((), found.transactions)],
    )
    yield gauge(
        "engine_standby_lag_offsets",
        "Changelog offsets that are committed and that the standby has not applied yet.",
        ("partition", "table"),
        _lags(found.standbys),
    )


def _of_tasks(owned: Sequence[Owned]) -> Iterator[Metric]:
    yield _task_gauge(
        "engine_task_ready",
        "Whether a task of this worker is restored and processing.",
        owned,
        lambda each: int(each.state == "ready"),
    )
    yield _task_gauge(
        "engine_task_waits",
        "How many open transactions, and newer releases, a task waits for.",
        owned,
        lambda each: len(each.waits),
    )
    yield _task_gauge(
        "engine_task_stalled_seconds",
        "How long the work in hand of a task has made no progress, 0 when there is none.",
        owned,
        lambda each: each.stalled_s,
    )
    yield counter(
        "engine_task_records_total",
        "Records that a task has processed since it took its partition over.",
        ("partition",),
        [((str(each.partition),), each.records) for each in owned],
    )
    yield counter(
        "engine_task_commits_total",
        "Commits of a task since it took its partition over; a transaction has those of several tasks.",
        ("partition",),
        [((str(each.partition),), each.batches) for each in owned],
    )
    yield gauge(
        "engine_input_lag_offsets",
        "Offsets of an input up to its high watermark that a task has not processed, by its last fetch.",
        ("partition", "topic"),
        _lags(owned),
    )
    yield _task_gauge(
        "engine_quarantined_keys",
        "Keys whose records wait behind a dead letter.",
        owned,
        lambda each: each.quarantined_keys,
    )
    yield counter(
        "engine_dead_letters_total",
        "Dead letters of a task since it took its partition over, by error; held: behind another one.",
        ("partition", "topic", "error"),
        [
            ((str(each.partition), topic, error), count)
            for each in owned
            for topic, errors in sorted(each.dead_letters.items())
            for error, count in sorted(errors.items())
        ],
    )
    restored = [(str(each.partition), each.restored) for each in owned if each.restored is not None]
    yield gauge(
        "engine_restore_records",
        "Records applied by the last restore of a task.",
        ("partition",),
        [((partition,), each.records) for partition, each in restored],
    )
    yield gauge(
        "engine_restore_seconds",
        "How long the last restore of a task took.",
        ("partition",),
        [((partition,), each.seconds) for partition, each in restored],
    )


def _task_gauge(name: str, meaning: str, owned: Sequence[Owned], value: Callable[[Owned], float]) -> Metric:
    return gauge(name, meaning, ("partition",), [((str(each.partition),), value(each)) for each in owned])


def _lags(partitions: Iterable[Owned | Followed]) -> Samples:
    return [((str(each.partition), name), lag) for each in partitions for name, lag in each.lag.items()]
