"""How fast a worker with an empty disk gets its table back from the changelog."""

import time
from typing import NamedTuple

from bench import job
from bench.contenders import ENGINE, KAFKA_STREAMS, STOCK, Contender
from bench.kafka import Reader
from bench.plan import Plan
from bench.processes import BenchError
from bench.report import Row, ratio, spread, times
from bench.run import RUN_SECONDS_MAX, Bench

PARTITIONS = 4
SHARE = 5 / 8
RUNS_MAX = 3
TITLE = "Restore: a changelog of the job's table into an empty RocksDB, 4 partitions, one worker"


class Restored(NamedTuple):
    """Records a second while restoring, and seconds from the process's start to its first decision."""

    records_per_second: float
    start_to_decision_seconds: float


def run(bench: Bench, plan: Plan) -> list[Row]:
    records = int(plan.records * SHARE)

    def measure(contender: Contender) -> Restored:
        return restored(bench, contender, records)

    contenders = plan.chosen([STOCK, ENGINE[0], KAFKA_STREAMS[0]])
    results = plan.rounds(contenders, measure, runs=min(plan.runs, RUNS_MAX))
    rates = {
        contender: {number: run.records_per_second for number, run in runs.items()}
        for contender, runs in results.items()
    }
    return [
        _row(contender, records, list(runs.values()), ratio(rates[contender], rates.get(STOCK, {})))
        for contender, runs in results.items()
    ]


def restored(bench: Bench, contender: Contender, records: int) -> Restored:
    """Start a worker on a changelog and one order; its decision shows whether the table is back."""
    app_id = bench.new_app_id(contender)
    changelog = f"{app_id}-positions-changelog"
    bench.cluster.create_topic(changelog, PARTITIONS, {"cleanup.policy": "compact"})
    bench.cluster.fill(changelog, job.changelog_records(records))
    decisions: list[bytes] = []
    input_topic = bench.input(1, PARTITIONS)
    bench.cluster.commit_start(app_id, input_topic, PARTITIONS)
    with (
        bench.worker(contender, input_topic, PARTITIONS, app_id) as worker,
        Reader(bench.cluster, worker.output, PARTITIONS, decisions.append) as reader,
    ):
        worker.process.wait_until(
            lambda: reader.poll(0.1, records_max=1) > 0, RUN_SECONDS_MAX, "restore its table"
        )
        took = time.monotonic() - worker.process.started_at
        worker.process.wait_until(lambda: bool(worker.process.marks("restored")), 5, "tell its restore")
        seconds = worker.process.marks("restored")[-1]["seconds"]
    decision = job.decode_decision(decisions[0])
    if decision.orders != 2:
        raise BenchError(f"{contender} decided on order {decision.orders} of an account that has one already")
    return Restored(records / seconds, took)


def _row(contender: Contender, records: int, runs: list[Restored], to_stock: float | None) -> Row:
    rate = spread([run.records_per_second for run in runs])
    took = spread([run.start_to_decision_seconds for run in runs])["median"]
    figures = {
        "events_per_second": rate["median"],
        "ratio_to_stock": to_stock,
        "min": rate["min"],
        "max": rate["max"],
        "runs": rate["runs"],
        "records": records,
        "start_to_decision_seconds": took,
    }
    shown = {
        "records": f"{records:,}",
        "records/s": f"{rate['median']:,.0f}",
        "min–max": f"{rate['min']:,.0f}–{rate['max']:,.0f}",
        "to stock": times(to_stock),
        "start to first decision": f"{took:.1f} s",
    }
    return Row("restore", contender.name, contender.guarantee, figures, shown)
