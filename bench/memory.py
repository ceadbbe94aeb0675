"""What a worker holds in memory with 100,000 keys, and what each partition more costs."""

import time
from typing import NamedTuple

from bench.contenders import ENGINE, KAFKA_STREAMS, Contender
from bench.kafka import Reader
from bench.plan import Plan
from bench.processes import BenchError
from bench.report import Row, spread
from bench.run import RUN_SECONDS_MAX, START_SECONDS_MAX, Bench

ACCOUNTS = 100_000
FEW, MANY = 8, 64
POLL_SECONDS = 0.25
SETTLE_SECONDS = 2.0
RUNS_MAX = 3
TITLE = f"Memory: a worker with {ACCOUNTS:,} keys, proportional set size in MiB"


class Held(NamedTuple):
    """Memory in MiB with `FEW` partitions (at the highest, and at rest afterwards) and with `MANY`."""

    peak: float
    rest: float
    rest_many: float

    @property
    def per_partition(self) -> float:
        return (self.rest_many - self.rest) / (MANY - FEW)


def run(bench: Bench, plan: Plan) -> list[Row]:
    def measure(contender: Contender) -> Held:
        return Held(*held_mib(bench, contender, FEW), held_mib(bench, contender, MANY)[1])

    results = plan.rounds(plan.chosen([ENGINE[0], KAFKA_STREAMS[0]]), measure, runs=min(plan.runs, RUNS_MAX))
    return [_row(contender, list(runs.values())) for contender, runs in results.items()]


def held_mib(bench: Bench, contender: Contender, partitions: int) -> tuple[float, float]:
    """Memory while the worker takes two orders of every account, at the highest and at rest."""
    audit = contender.audit()
    expected = 2 * ACCOUNTS
    input_topic = bench.input(ACCOUNTS, partitions, accounts=ACCOUNTS, warm=True)
    peak = 0.0
    with (
        bench.worker(contender, input_topic, partitions) as worker,
        Reader(bench.cluster, worker.output, partitions, audit.add) as reader,
    ):
        deadline = time.monotonic() + START_SECONDS_MAX + RUN_SECONDS_MAX
        while audit.count < expected:
            worker.process.check()
            if time.monotonic() > deadline:
                raise worker.process.error(f"wrote {audit.count} of {expected} records in time")
            reader.poll(POLL_SECONDS)
            peak = max(peak, worker.process.memory_mib())
        time.sleep(SETTLE_SECONDS)
        rest = worker.process.memory_mib()
    problem = audit.problem(expected)
    if problem:
        raise BenchError(f"{contender} wrote {problem}")
    return max(peak, rest), rest


def _row(contender: Contender, runs: list[Held]) -> Row:
    figures = {
        "memory_mib_peak": spread([run.peak for run in runs]),
        "memory_mib": spread([run.rest for run in runs]),
        "memory_mib_of_many_partitions": spread([run.rest_many for run in runs]),
        "memory_mib_per_extra_partition": spread([run.per_partition for run in runs]),
    }
    medians = {name: figure["median"] for name, figure in figures.items()}
    shown = {
        f"{FEW} partitions, peak": f"{medians['memory_mib_peak']:.0f}",
        f"{FEW} partitions, at rest": f"{medians['memory_mib']:.0f}",
        f"{MANY} partitions, at rest": f"{medians['memory_mib_of_many_partitions']:.0f}",
        "per extra partition": f"{medians['memory_mib_per_extra_partition']:.1f}",
    }
    return Row("memory", contender.name, contender.guarantee, {**medians, "spread": figures}, shown)
