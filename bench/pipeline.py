"""The whole pipeline, from an order's place in the log to the venue's first answer in it, at 200 orders/s.

`python -m app run` on a Kafka of its own; times are the broker's. The first seconds, while Kafka's Java and
everything else warms up, are told apart.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.broker import broker
from bench.contenders import EXACTLY_ONCE, Contender, python_module
from bench.kafka import Cluster
from bench.latency import percentile
from bench.plan import Plan
from bench.processes import BenchError, child
from bench.report import Row
from bench.run import Bench
from bench.worker import end_with_parent

ORDERS = 10_000
SPEED = 33
"""Times the market's own: with it the accounts send about 200 orders a second."""
WARM_UP_SECONDS = 20.0
RUN_SECONDS_MAX = 240.0
TITLE = f"Pipeline: an order's way to the venue's first answer, {ORDERS:,} orders; ms"
PIPELINE = Contender("pipeline", EXACTLY_ONCE, python_module("bench.pipeline"))


class Times(NamedTuple):
    """Milliseconds by order, of those that came while everything warmed up and of those behind them."""

    orders_per_second: float
    warming: list[float]
    warm: list[float]

    def __repr__(self) -> str:
        p50, p99 = percentile(self.warm, 50), percentile(self.warm, 99)
        return f"{self.orders_per_second:.0f} orders/s, warm p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def run(bench: Bench, plan: Plan) -> list[Row]:
    def measure(contender: Contender) -> Times:
        directory = bench.directory / bench.new_app_id(contender)
        directory.mkdir()
        try:
            with broker(directory) as bootstrap:
                trade(contender, bootstrap, directory)
                return times(Cluster(bootstrap))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    results = plan.rounds([PIPELINE], measure)
    return [_row(contender, list(runs.values())) for contender, runs in results.items()]


def trade(contender: Contender, bootstrap: str, directory: Path) -> None:
    """Run the pipeline until every order has ended; raises BenchError unless all invariants hold."""
    options = (f"--orders={ORDERS}", f"--speed={SPEED}", "--exit", f"--data-dir={directory / 'data'}")
    command = [*contender.command(directory), "run", *options]
    with child(str(contender), command, directory / "log", {"KAFKA_BOOTSTRAP": bootstrap}) as process:
        process.finish(RUN_SECONDS_MAX)


def times(cluster: Cluster) -> Times:
    came = first_ms(_orders(cluster))
    answered = first_ms(
        (dict(message.headers() or ())["correlation-id"].decode(), message.timestamp()[1])
        for message in cluster.messages("executions")
    )
    began, ended = min(came.values()), max(came.values())
    warm_at = began + 1e3 * WARM_UP_SECONDS
    taken = Times(1e3 * len(came) / (ended - began), [], [])
    for order, at in answered.items():
        (taken.warming if came[order] < warm_at else taken.warm).append(at - came[order])
    if not (taken.warming and taken.warm):
        raise BenchError(f"no order has reached the venue before, or after, {WARM_UP_SECONDS:.0f} s")
    return taken


def first_ms(seen: Iterator[tuple[str, int]]) -> dict[str, int]:
    """When each order was first seen."""
    first: dict[str, int] = {}
    for order, at in seen:
        first[order] = min(at, first.get(order, at))
    return first


def _orders(cluster: Cluster) -> Iterator[tuple[str, int]]:
    for message in cluster.messages("orders"):
        with suppress(ValueError, TypeError, KeyError, RecursionError):  # one of the accounts sends garbage
            yield json.loads(message.value())["order_id"], message.timestamp()[1]


def _row(contender: Contender, runs: Sequence[Times]) -> Row:
    rate = median(run.orders_per_second for run in runs)
    figures: dict[str, object] = {"runs": len(runs), "orders_per_second": rate}
    shown = {"orders/s": f"{rate:.0f}"}
    for part, label in (("warm", "warm"), ("warming", f"first {WARM_UP_SECONDS:.0f} s")):
        pooled = [value for run in runs for value in getattr(run, part)]
        found = {f"p{percent}": percentile(pooled, percent) for percent in (50, 99)}
        figures[f"latency_ms_{part}"] = found
        shown |= {f"{label}, {key}": f"{value:.0f}" for key, value in found.items()}
    return Row("pipeline", contender.name, contender.guarantee, figures, shown)


def main() -> None:
    """`python -m app` that ends with the bench."""
    from cli.main import main as app_main

    end_with_parent()
    sys.exit(app_main())


if __name__ == "__main__":
    main()
