"""What a worker costs that has nothing to do: processor time, by the number of its partitions."""

import time
from dataclasses import replace

from bench.contenders import ENGINE, KAFKA_STREAMS, Contender
from bench.kafka import Reader
from bench.plan import Plan
from bench.processes import BenchError
from bench.report import Row, spread
from bench.run import START_SECONDS_MAX, Bench

SETTLE_SECONDS = 10.0
IDLE_SECONDS = 20.0
POLL_SECONDS = 0.25
RUNS_MAX = 3
TITLE = f"Idle: processor time of a worker without input, over {IDLE_SECONDS:.0f} s"


def run(bench: Bench, plan: Plan) -> list[Row]:
    chosen = plan.chosen([ENGINE[0], KAFKA_STREAMS[0]])
    cases = {
        replace(contender, name=f"{contender.name}, {partitions} partitions"): partitions
        for partitions in plan.load.partitions
        for contender in chosen
    }

    def measure(case: Contender) -> float:
        return cpu_ms_per_second(bench, case, cases[case])

    results = plan.rounds(list(cases), measure, runs=min(plan.runs, RUNS_MAX))
    return [_row(case, cases[case], list(runs.values())) for case, runs in results.items()]


def cpu_ms_per_second(bench: Bench, contender: Contender, partitions: int) -> float:
    """Let a worker take one order, which shows that it works, and watch it once it has been idle a while."""
    decisions: list[bytes] = []
    input_topic = bench.input(1, partitions)
    with bench.worker(contender, input_topic, partitions) as worker:
        with Reader(bench.cluster, worker.output, partitions, decisions.append) as reader:
            worker.process.wait_until(
                lambda: reader.poll(POLL_SECONDS) > 0, START_SECONDS_MAX, "take its one order"
            )
        time.sleep(SETTLE_SECONDS)
        began_at, before = time.monotonic(), worker.process.seconds_on_cpu()
        time.sleep(IDLE_SECONDS)
        ended_at, after = time.monotonic(), worker.process.seconds_on_cpu()
        worker.process.check()
    if len(decisions) != 1:
        raise BenchError(f"{contender} made {len(decisions)} decisions of one order")
    return round(1e3 * (after - before) / (ended_at - began_at), 2)


def _row(case: Contender, partitions: int, runs: list[float]) -> Row:
    found = spread(runs)
    figures = {"partitions": partitions, "cpu_ms_per_second": found["median"], "spread": found}
    shown = {
        "CPU ms/s": f"{found['median']:.1f}",
        "min–max": f"{found['min']:.1f}–{found['max']:.1f}",
    }
    return Row("idle", case.name, case.guarantee, figures, shown)
