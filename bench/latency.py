"""One order alone: how long until its decision can be read, with nothing else under way."""

import random
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any, NamedTuple

from bench import job
from bench.contenders import ENGINE, KAFKA_STREAMS, STOCK, Contender
from bench.kafka import Cluster, Reader
from bench.plan import Plan
from bench.report import Row
from bench.run import START_SECONDS_MAX, Bench

PARTITIONS = 4
SAMPLES_MIN = 500
WARM_UP = 100
ANSWER_SECONDS_MAX = 10.0
PAUSE_SECONDS_MAX = 0.02
TITLE = "Latency: one order alone, until a read_committed reader has its decision; ms"


class Times(NamedTuple):
    """Milliseconds until the reader has the decision, since the order was sent and acknowledged."""

    from_send: list[float]
    from_ack: list[float]

    def __repr__(self) -> str:
        return f"p50 {percentile(self.from_ack, 50):.1f} ms, p99 {percentile(self.from_ack, 99):.1f} ms"


class Probe:
    """Sends an order, waits for what comes out of it, sends the next."""

    def __init__(self, cluster: Cluster, input_topic: str, output: str, partitions: int) -> None:
        self._input = input_topic
        self._producer = cluster.producer(**{"linger.ms": 0})
        self._read: list[bytes] = []
        self._reader = Reader(cluster, output, partitions, self._read.append)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    def once(self, record: tuple[bytes, bytes], seconds_max: float) -> tuple[float, float]:
        """Milliseconds from the sending, and from its acknowledgement, to the answer."""
        key, value = record
        self._read.clear()
        sent = time.perf_counter()
        self._producer.produce(self._input, value, key)
        self._producer.flush(seconds_max)
        acknowledged = time.perf_counter()
        while not self._read:
            if time.perf_counter() - sent > seconds_max:
                raise TimeoutError(f"no decision on an order in {seconds_max:.0f} s")
            self._reader.poll(0.5, records_max=1)
        answered = time.perf_counter()
        return 1e3 * (answered - sent), 1e3 * (answered - acknowledged)


def run(bench: Bench, plan: Plan) -> list[Row]:
    samples = max(SAMPLES_MIN // plan.runs, 100)

    def measure(contender: Contender) -> Times:
        input_topic = bench.new_topic("orders-one-by-one", PARTITIONS)
        with bench.worker(contender, input_topic, PARTITIONS, goal="latency") as worker:
            try:
                return times(bench.cluster, worker.input, worker.output, samples)
            except TimeoutError as error:
                raise worker.process.error(str(error)) from error

    contenders = plan.chosen([*ENGINE, KAFKA_STREAMS[0], STOCK])
    results = plan.rounds(contenders, measure)
    topic = bench.new_topic("probe-alone", PARTITIONS)
    alone = times(bench.cluster, topic, topic, SAMPLES_MIN)
    return [
        *(_row(each.name, each.guarantee, list(runs.values())) for each, runs in results.items()),
        _row("probe alone", "none", [alone]),
    ]


def times(cluster: Cluster, input_topic: str, output: str, samples: int) -> Times:
    """Warm up, then take so many samples, at moments that keep no step with anybody's timers."""
    taken = Times([], [])
    rng = random.Random(samples)
    with Probe(cluster, input_topic, output, PARTITIONS) as probe:
        for number, record in enumerate(job.records(WARM_UP + samples)):
            answer = probe.once(record, ANSWER_SECONDS_MAX if number else START_SECONDS_MAX)
            if number >= WARM_UP:
                taken.from_send.append(answer[0])
                taken.from_ack.append(answer[1])
            time.sleep(rng.random() * PAUSE_SECONDS_MAX)
    return taken


def percentile(values: Sequence[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _row(name: str, guarantee: str, runs: Sequence[Times]) -> Row:
    figures: dict[str, Any] = {"runs": len(runs), "samples": sum(len(run.from_ack) for run in runs)}
    shown = {"samples": str(figures["samples"])}
    for origin in Times._fields:
        pooled = [value for run in runs for value in getattr(run, origin)]
        found = {f"p{percent}": percentile(pooled, percent) for percent in (50, 99)} | {"max": max(pooled)}
        figures[f"latency_ms_{origin}"] = found
        label = "since sent" if origin == "from_send" else "since acknowledged"
        shown |= {f"{key} {label}": f"{value:.1f}" for key, value in found.items()}
    return Row("latency", name, guarantee, figures, shown)
