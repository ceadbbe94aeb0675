"""Events a second of every contender on the job: 4 partitions, one worker."""

from collections.abc import Mapping

from bench.contenders import ENGINE, JOB, STOCK, Contender
from bench.plan import Plan
from bench.report import Row, ratio, spread, times
from bench.run import Bench, Speed, speed

PARTITIONS = 4
TITLE = "Job: decode, read-modify-write in a RocksDB table with changelog, emit; 4 partitions, one worker"


def run(bench: Bench, plan: Plan) -> list[Row]:
    def measure(contender: Contender) -> Speed:
        records = contender.records(plan.records)
        return speed(bench, contender, bench.input(records, PARTITIONS), records, PARTITIONS)

    return rows("job", plan.rounds(plan.chosen(JOB), measure), stock=STOCK, ours=ENGINE[0])


def rows(
    benchmark: str, results: Mapping[Contender, Mapping[int, Speed]], stock: Contender, ours: Contender
) -> list[Row]:
    """One row a contender; ratios are medians of the ratios within a round."""
    rates = {
        contender: {number: run.events_per_second for number, run in runs.items()}
        for contender, runs in results.items()
    }
    return [
        _row(
            benchmark,
            contender,
            list(results[contender].values()),
            to_stock=ratio(rate, rates.get(stock, {})),
            ours_to_it=ratio(rates.get(ours, {}), rate),
        )
        for contender, rate in rates.items()
    ]


def _row(
    benchmark: str, contender: Contender, runs: list[Speed], to_stock: float | None, ours_to_it: float | None
) -> Row:
    rate = spread([run.events_per_second for run in runs])
    cpu = spread([run.cpu_us_per_event for run in runs])
    parts = {name: spread([run.parts[name] for run in runs])["median"] for name in runs[0].parts}
    return Row(
        benchmark,
        contender.name,
        contender.guarantee,
        figures={
            "events_per_second": rate["median"],
            "ratio_to_stock": to_stock,
            "engine_to_this": ours_to_it,
            "min": rate["min"],
            "max": rate["max"],
            "runs": rate["runs"],
            "cpu_us_per_event": cpu["median"],
            "us_per_event_by_part": parts,
        },
        shown={
            "events/s": f"{rate['median']:,.0f}",
            "min–max": f"{rate['min']:,.0f}–{rate['max']:,.0f}",
            "to stock": times(to_stock),
            "engine to this": times(ours_to_it),
            "CPU µs/event": f"{cpu['median']:.1f}",
            "µs/event by part": ", ".join(f"{name} {value:.1f}" for name, value in parts.items()),
        },
    )
