"""What the supervisor and hot standbys cost: the risk service's events a second, with and without them.

Two workers of the real service, started as the pipeline starts them, take the orders of `bench.risk`. The
first part of them, during which the two come to share the partitions, is not measured. The processor time is
that of the workers and the supervisor, without the broker's.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace

from bench.contenders import Contender
from bench.plan import Plan
from bench.report import Row, ratio, spread, times
from bench.risk import ENGINE_RISK, PARTITIONS, prepare
from bench.run import Bench, Speed, speed

SKIPPED = 1 / 4
TITLE = f"Overhead: the risk agent on two workers, {PARTITIONS} partitions"


def workers(name: str, *, supervised: bool, standbys: int) -> Contender:
    flags = [f"--supervised={supervised:d}", f"--standbys={standbys}"]
    command = [sys.executable, "-m", "bench.overhead_workers", *flags]
    return replace(ENGINE_RISK, name=f"engine, {name}", command=lambda _: command)


BARE = workers("bare", supervised=False, standbys=0)
OVERHEADS = [
    BARE,
    workers("supervised", supervised=True, standbys=0),
    workers("standbys", supervised=False, standbys=1),
    workers("supervised, standbys", supervised=True, standbys=1),
]


def run(bench: Bench, plan: Plan) -> list[Row]:
    contenders = plan.chosen(OVERHEADS)
    records = ENGINE_RISK.records(plan.records)
    skipped = int(records * SKIPPED)
    if contenders:
        prepare(bench, records)

    def measure(contender: Contender) -> Speed:
        try:
            return speed(bench, contender, "orders", records - skipped, PARTITIONS, skip=skipped)
        finally:
            bench.cluster.delete_group("risk")

    results = plan.rounds(contenders, measure)
    bare = results.get(BARE, {})
    return [_row(contender, runs, bare) for contender, runs in results.items()]


def _row(contender: Contender, by_round: Mapping[int, Speed], bare: Mapping[int, Speed]) -> Row:
    runs = list(by_round.values())
    to_bare = ratio(_rates(by_round), _rates(bare))
    cpu_to_bare = ratio(_costs(by_round), _costs(bare))
    rate = spread([run.events_per_second for run in runs])
    cpu_us = spread([run.cpu_us_per_event for run in runs])["median"]
    figures = {
        "events_per_second": rate["median"],
        "ratio_to_bare": to_bare,
        "min": rate["min"],
        "max": rate["max"],
        "runs": rate["runs"],
        "cpu_us_per_event": cpu_us,
        "cpu_ratio_to_bare": cpu_to_bare,
    }
    shown = {
        "events/s": f"{rate['median']:,.0f}",
        "min–max": f"{rate['min']:,.0f}–{rate['max']:,.0f}",
        "to bare": times(to_bare),
        "CPU µs/event": f"{cpu_us:.1f}",
        "CPU to bare": times(cpu_to_bare),
    }
    return Row("overhead", contender.name, contender.guarantee, figures, shown)


def _rates(runs: Mapping[int, Speed]) -> dict[int, float]:
    return {number: run.events_per_second for number, run in runs.items()}


def _costs(runs: Mapping[int, Speed]) -> dict[int, float]:
    return {number: run.cpu_us_per_event for number, run in runs.items()}
