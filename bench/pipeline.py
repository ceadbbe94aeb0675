"""The whole pipeline under a steady load: an order's way from the log to the venue's first answer in it.

`python -m app run` of this checkout, and of another one in turn with it, each on its own Kafka. The seconds
while Kafka's Java and everything else warm up are told apart. What is used, and how many transactions there
are, is counted behind them, until the last order is sent.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from app.devkafka.artifacts import market_data_csv
from bench.broker import THIS_TREE, Broker, broker
from bench.contenders import EXACTLY_ONCE, Contender, python_module
from bench.kafka import Cluster
from bench.latency import percentile
from bench.plan import Load, Plan
from bench.processes import BenchError, child
from bench.report import Row, ratio, show, spread, times
from bench.run import Bench
from bench.trace import HOPS, trace, transactions
from bench.usage import KAFKA, Sample, inside, sample, used
from feed.main import Options
from feed.replay import GAP_MS_MAX, Replay

SECONDS_USUAL, SECONDS_OF_CURVE = 50, 40
WARM_UP_SECONDS = 20.0
RUN_SECONDS_MAX, RUN_SECONDS_MAX_A_SECOND = 180.0, 4.0
"""How long a run may take, and how much longer for each second in which orders are sent."""

SAMPLE_SECONDS = 1.0
P99_MS_MAX = 1_000.0
SENT_MIN = 0.9
RATES_MAX = 40
TITLE = "Pipeline: an order's way to the venue's first answer; ms"
TITLE_HOPS = "Pipeline: the same way hop by hop, p50 / p99 in ms"
TITLE_USED = "Pipeline: processor ms an order, and memory in MiB, by process"
TITLE_CURVE = f"Pipeline: the highest rate with a p99 of up to {P99_MS_MAX / 1e3:.0f} s"


class Case(NamedTuple):
    """One row."""

    tree: Path
    partitions: int
    rate: int

    @property
    def other(self) -> str:
        """What marks the rows of another checkout."""
        return "" if self.tree == THIS_TREE else f", tree {self.tree.name}"

    @property
    def name(self) -> str:
        return f"pipeline, {self.partitions} partitions, {self.rate:,} orders/s{self.other}"

    @property
    def contender(self) -> Contender:
        return Contender(self.name, EXACTLY_ONCE, python_module("bench.in_tree", str(self.tree)))


class Measured(NamedTuple):
    """Of one run: milliseconds by order, of those that came in the warm-up and of those behind it.

    An order is settled when risk or compliance has refused it, or the venue has answered. What is settled and
    used is of the time behind the warm-up, up to the last order; orders are sent from the first one on.
    """

    sent_per_second: float
    settled_per_second: float
    warming: Sequence[float]
    warm: Sequence[float]
    hops: Mapping[str, Sequence[float]]
    transactions_per_second: Mapping[str, float]
    cpu_ms: Mapping[str, float]
    memory_mib: Mapping[str, float]

    def __repr__(self) -> str:
        return f"{self.settled_per_second:.0f} orders/s settled, p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms"

    @property
    def p50(self) -> float:
        return percentile(self.warm, 50)

    @property
    def p99(self) -> float:
        return percentile(self.warm, 99)

    @property
    def cpu_ms_of_all(self) -> float:
        return sum(self.cpu_ms.values())

    @property
    def transactions_of_all(self) -> float:
        return sum(self.transactions_per_second.values())


Runs = Mapping[int, Measured]
"""Results by round."""


def run(bench: Bench, plan: Plan) -> list[Row]:
    if plan.load.step is not None:
        return _curves(bench, plan)
    load = plan.load
    cases = [
        Case(tree, partitions, rate)
        for partitions in load.partitions
        for rate in load.rates
        for tree in _trees(load)
    ]
    return _rows(_measured(bench, plan, cases, load.seconds or SECONDS_USUAL))


def _curves(bench: Bench, plan: Plan) -> list[Row]:
    """For each number of partitions, let the rate rise until no tree stands it; tell the highest ones."""
    load = plan.load
    results: dict[Case, Runs] = {}
    highest: dict[Case, int] = {}
    for partitions in load.partitions:
        standing = _trees(load)
        highest |= {Case(tree, partitions, 0): 0 for tree in standing}
        for rate in rates(load):
            cases = [Case(tree, partitions, rate) for tree in standing]
            found = _measured(bench, plan, cases, load.seconds or SECONDS_OF_CURVE)
            results |= found
            standing = [case.tree for case, runs in found.items() if stands(case, runs)]
            highest |= {Case(tree, partitions, 0): rate for tree in standing}
            if not standing:
                break
    rows = _rows(results)
    show(TITLE_CURVE, [_row_of_curve(case, rate) for case, rate in highest.items()])
    return rows


def _row_of_curve(case: Case, rate: int) -> Row:
    name = f"pipeline, {case.partitions} partitions{case.other}"
    return Row("pipeline", name, EXACTLY_ONCE, shown={"orders/s": f"{rate:,}" if rate else "none"})


def rates(load: Load) -> Iterator[int]:
    """Those that were named, or from the only one on by the step."""
    if len(load.rates) > 1 or load.step is None:
        yield from sorted(load.rates)
        return
    rate = float(load.rates[0])
    for _ in range(RATES_MAX):
        yield round(rate)
        rate = rate * load.step if load.factor else rate + load.step


def stands(case: Case, runs: Runs) -> bool:
    """Whether a rate is not too much. A feed that is itself too slow sends less than it was told to."""
    sent = median(run.sent_per_second for run in runs.values())
    return sent >= SENT_MIN * case.rate and pooled(runs, 99) <= P99_MS_MAX


def _trees(load: Load) -> list[Path]:
    return [THIS_TREE] if load.tree is None else [THIS_TREE, load.tree]


def _measured(bench: Bench, plan: Plan, cases: Sequence[Case], seconds: float) -> dict[Case, Runs]:
    by_contender = {case.contender: case for case in cases}

    def measure(contender: Contender) -> Measured:
        return _measure(bench, contender, by_contender[contender], seconds)

    results = plan.rounds(list(by_contender), measure)
    return {by_contender[contender]: runs for contender, runs in results.items()}


def _measure(bench: Bench, contender: Contender, case: Case, seconds: float) -> Measured:
    directory = bench.directory / bench.new_app_id(contender)
    directory.mkdir()
    try:
        with broker(directory, case.tree) as kafka:
            samples = trade(contender, case, kafka, directory, seconds)
            return measured(kafka, samples)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def trade(contender: Contender, case: Case, kafka: Broker, directory: Path, seconds: float) -> list[Sample]:
    """Run the pipeline until every order has ended; raises BenchError unless all invariants hold."""
    orders = round(case.rate * seconds)
    command = [
        *contender.command(directory),
        "run",
        f"--orders={orders}",
        f"--speed={speed(orders, seconds):.3f}",
        f"--partitions={case.partitions}",
        "--exit",
        f"--data-dir={directory / 'data'}",
    ]
    samples = []
    with child(contender.name, command, directory / "log", {"KAFKA_BOOTSTRAP": kafka.bootstrap}) as process:
        seconds_max = RUN_SECONDS_MAX + seconds * RUN_SECONDS_MAX_A_SECOND
        while not process.ends_within(SAMPLE_SECONDS):
            samples.append(sample(process.pid, kafka.process.pid))
            if time.monotonic() - process.started_at > seconds_max:
                raise process.error(f"did not end in {seconds_max:.0f} s")
        process.finish(0)
    return samples


def speed(orders: int, seconds: float) -> float:
    """How many times its own speed the market has to go for so many orders in so many seconds."""
    market = Replay.load(market_data_csv())
    ticks = math.ceil(orders / Options.orders_per_tick)
    return sum(min(market.gap_ms(tick), GAP_MS_MAX) for tick in range(1, ticks + 1)) / 1e3 / seconds


def measured(kafka: Broker, samples: Sequence[Sample]) -> Measured:
    cluster = Cluster(kafka.bootstrap)
    found = trace(cluster, kafka.data_dir)
    came, settled = found.came, found.settled
    began, ended = min(came.values()), max(came.values())
    warm_at = began + 1e3 * WARM_UP_SECONDS
    warm = [order for order in found.answered if came[order] >= warm_at]
    warming = [order for order in found.answered if came[order] < warm_at]
    watched = inside(samples, warm_at, ended)
    if not (warming and warm and watched):
        raise BenchError(f"no order has reached the venue before, or after, {WARM_UP_SECONDS:.0f} s")
    first, last = watched
    settled_watched = _count(settled, first.at_ms, last.at_ms)
    if not settled_watched:
        raise BenchError("no order was settled behind the warm-up")
    seconds = (ended - warm_at) / 1e3
    return Measured(
        sent_per_second=1e3 * len(came) / (ended - began),
        settled_per_second=_count(settled, warm_at, ended) / seconds,
        warming=[found.answered[order] - came[order] for order in warming],
        warm=[found.answered[order] - came[order] for order in warm],
        hops=found.hops(warm),
        transactions_per_second={
            service: count / seconds
            for service, count in sorted(transactions(cluster, warm_at, ended).items())
        },
        cpu_ms={name: 1e3 * spent / settled_watched for name, spent in used(first, last).items()},
        memory_mib=last.memory_mib,
    )


def _count(times: Mapping[str, float], began_ms: float, ended_ms: float) -> int:
    return sum(began_ms <= at < ended_ms for at in times.values())


def pooled(runs: Runs, percent: int) -> float:
    """A percentile of all orders of all rounds, behind the warm-up."""
    return percentile([value for run in runs.values() for value in run.warm], percent)


def _rows(results: Mapping[Case, Runs]) -> list[Row]:
    """All that was measured; what does not fit beside the main figures is shown in tables of its own."""
    rows, hops, costs = [], [], []
    for case, runs in results.items():
        found = figures(case, runs)
        others = [results[each] for each in results if each != case and each[1:] == case[1:]]
        to_tree = ratios(runs, others[0]) if others and case.tree == THIS_TREE else {}
        found |= {"ratio_to_tree": to_tree} if to_tree else {}
        rows.append(Row("pipeline", case.name, EXACTLY_ONCE, found, _shown(found) | _shown_ratios(to_tree)))
        hops.append(Row("pipeline", case.name, EXACTLY_ONCE, shown=_shown_hops(found)))
        costs.append(Row("pipeline", case.name, EXACTLY_ONCE, shown=_shown_used(found)))
    if rows:
        show(TITLE_HOPS, hops)
        show(TITLE_USED, costs)
    return rows


def figures(case: Case, runs: Runs) -> dict[str, Any]:
    """What goes to JSON: medians over rounds, and percentiles of the orders of all rounds."""
    done = list(runs.values())
    by_round = {name: spread([of(run) for run in done]) for name, of in RATIOS.items()}
    return {
        "runs": len(done),
        "tree": str(case.tree),
        "partitions": case.partitions,
        "rate": case.rate,
        "stands": stands(case, runs),
        "sent_per_second": median(run.sent_per_second for run in done),
        "orders_per_second": median(run.settled_per_second for run in done),
        "orders_per_second_per_core": by_round["orders_per_second_per_core"]["median"],
        "latency_ms_warm": _percentiles([run.warm for run in done]),
        "latency_ms_warming": _percentiles([run.warming for run in done]),
        "latency_ms_by_hop": {hop: _percentiles([run.hops[hop] for run in done]) for hop in HOPS},
        "transactions_per_second": by_round["transactions_per_second"]["median"],
        "transactions_per_second_by_service": _medians([run.transactions_per_second for run in done]),
        "cpu_ms_per_order": by_round["cpu_ms_per_order"]["median"],
        "cpu_ms_per_order_by_process": _medians([run.cpu_ms for run in done]),
        "memory_mib_by_process": _medians([run.memory_mib for run in done]),
        "spread": by_round,
    }


RATIOS: Mapping[str, Callable[[Measured], float]] = {
    "p50": lambda run: run.p50,
    "p99": lambda run: run.p99,
    "transactions_per_second": lambda run: run.transactions_of_all,
    "cpu_ms_per_order": lambda run: run.cpu_ms_of_all,
    "cpu_ms_per_order_of_kafka": lambda run: run.cpu_ms[KAFKA],
    "orders_per_second_per_core": lambda run: 1e3 / run.cpu_ms_of_all,
}
"""What two trees are compared by, and how it comes out of a run."""


def ratios(runs: Runs, others: Runs) -> dict[str, float | None]:
    """This tree to the other, the median over rounds; None where no round has both."""
    return {
        name: ratio(
            {number: of(run) for number, run in runs.items()},
            {number: of(run) for number, run in others.items()},
        )
        for name, of in RATIOS.items()
    }


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By name; a name that a run lacks counts there as 0."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: median(run.get(name, 0.0) for run in runs) for name in names}


def _percentiles(runs: Sequence[Sequence[float]]) -> dict[str, float]:
    values = [value for run in runs for value in run]
    return {f"p{percent}": percentile(values, percent) for percent in (50, 99)} if values else {}


def _shown(found: Mapping[str, Any]) -> dict[str, str]:
    warm, warming = found["latency_ms_warm"], found["latency_ms_warming"]
    return {
        "sent/s": f"{found['sent_per_second']:.0f}",
        "settled/s": f"{found['orders_per_second']:.0f}",
        "p50": f"{warm['p50']:.0f}",
        "p99": f"{warm['p99']:.0f}",
        f"first {WARM_UP_SECONDS:.0f} s": _pair(warming),
        "transactions/s": f"{found['transactions_per_second']:.0f}",
        "CPU ms/order": f"{found['cpu_ms_per_order']:.2f}",
        "of Kafka": f"{found['cpu_ms_per_order_by_process'][KAFKA]:.2f}",
        "orders/s per core": f"{found['orders_per_second_per_core']:.0f}",
    }


def _shown_ratios(to_tree: Mapping[str, float | None]) -> dict[str, str]:
    names = {
        "p50": "p50 to tree",
        "p99": "p99 to tree",
        "transactions_per_second": "transactions to tree",
        "cpu_ms_per_order": "CPU to tree",
        "cpu_ms_per_order_of_kafka": "of Kafka to tree",
    }
    return {shown: times(to_tree[name]) for name, shown in names.items()} if to_tree else {}


def _shown_hops(found: Mapping[str, Any]) -> dict[str, str]:
    return {hop: _pair(taken) for hop, taken in found["latency_ms_by_hop"].items()}


def _shown_used(found: Mapping[str, Any]) -> dict[str, str]:
    memory = found["memory_mib_by_process"]
    return {
        name: f"{cpu_ms:.2f}, {memory[name]:.0f} MiB"
        for name, cpu_ms in sorted(found["cpu_ms_per_order_by_process"].items())
    }


def _pair(taken: Mapping[str, float]) -> str:
    return f"{taken['p50']:.0f} / {taken['p99']:.0f}" if taken else ""
