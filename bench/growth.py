"""What an event costs as keys and partitions become more."""

from dataclasses import replace

from bench import job
from bench.contenders import ENGINE, Contender
from bench.plan import Plan
from bench.report import Row, spread
from bench.run import Bench, Speed, speed

KEYS = (100, 1_000, 10_000, 100_000, 1_000_000)
PARTITIONS = (1, 2, 4, 8, 16, 32)
PARTITIONS_USUAL = 4
SHARE = 1 / 2
RUNS_MAX = 3
TITLE = "Growth: cost of an event as keys and partitions become more"


def run(bench: Bench, plan: Plan) -> list[Row]:
    cases = {
        **{f"{keys:,} keys": (keys, PARTITIONS_USUAL) for keys in KEYS},
        **{f"{count} partitions": (job.ACCOUNTS, count) for count in PARTITIONS},
    }
    named = {
        replace(contender, name=f"{contender.name}, {case}"): case
        for contender in plan.chosen(ENGINE[:1])
        for case in cases
    }

    def measure(each: Contender) -> Speed:
        keys, partitions = cases[named[each]]
        records = each.records(int(plan.records * SHARE))
        topic = bench.input(records, partitions, accounts=keys, warm=True)
        return speed(bench, each, topic, records, partitions, skip=keys)

    results = plan.rounds(list(named), measure, runs=min(plan.runs, RUNS_MAX))
    return [_row(each, *cases[named[each]], list(runs.values())) for each, runs in results.items() if runs]


def _row(contender: Contender, keys: int, partitions: int, runs: list[Speed]) -> Row:
    rate = spread([run.events_per_second for run in runs])
    cpu_us = spread([run.cpu_us_per_event for run in runs])["median"]
    figures = {
        "events_per_second": rate["median"],
        "min": rate["min"],
        "max": rate["max"],
        "runs": rate["runs"],
        "us_per_event": 1e6 / rate["median"],
        "cpu_us_per_event": cpu_us,
        "keys": keys,
        "partitions": partitions,
    }
    shown = {
        "µs/event": f"{figures['us_per_event']:.1f}",
        "CPU µs/event": f"{cpu_us:.1f}",
        "events/s": f"{rate['median']:,.0f}",
    }
    return Row("growth", contender.name, contender.guarantee, figures, shown)
