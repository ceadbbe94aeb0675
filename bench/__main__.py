"""`python -m bench`: run the benchmarks asked for on a broker of their own, print tables, write JSON."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench import compliance, failover, growth, latency, memory, overhead, pipeline, restore, risk, throughput
from bench.broker import broker
from bench.contenders import JOB
from bench.kafka import Cluster, KafkaException
from bench.plan import Plan
from bench.processes import BenchError, end_on_sigterm, scratch_directory
from bench.report import Row, show, write_json
from bench.run import Bench


class Benchmark(NamedTuple):
    title: str
    run: Callable[[Bench, Plan], list[Row]]


BENCHMARKS = {
    "job": Benchmark(throughput.TITLE, throughput.run),
    "risk": Benchmark(risk.TITLE, risk.run),
    "compliance": Benchmark(compliance.TITLE, compliance.run),
    "overhead": Benchmark(overhead.TITLE, overhead.run),
    "latency": Benchmark(latency.TITLE, latency.run),
    "pipeline": Benchmark(pipeline.TITLE, pipeline.run),
    "restore": Benchmark(restore.TITLE, restore.run),
    "memory": Benchmark(memory.TITLE, memory.run),
    "growth": Benchmark(growth.TITLE, growth.run),
    "failover": Benchmark(failover.TITLE, failover.run),
}


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in BENCHMARKS and not any(starting(name))]
    if unknown:
        parser.error(f"--only: neither a benchmark nor the start of a contender's name: {', '.join(unknown)}")
    end_on_sigterm()
    asked = [name for name in options.only if name in BENCHMARKS] or list(BENCHMARKS)
    plan = Plan(options.runs, options.records, [name for name in options.only if name not in BENCHMARKS])
    rows: list[Row] = []
    try:
        with scratch_directory() as directory, broker(directory) as bootstrap:
            bench = Bench(Cluster(bootstrap), directory)
            for name in asked:
                found = BENCHMARKS[name].run(bench, plan)
                if found:
                    show(BENCHMARKS[name].title, found)
                rows += found
    except (BenchError, KafkaException, TimeoutError) as error:
        plan.lost.append(str(error))
    except KeyboardInterrupt:
        return 130
    finally:
        if options.json:
            write_json(rows, options.json)
    for failure in plan.failures:
        print(f"failed: {failure}", file=sys.stderr)
    for lost in plan.lost:
        print(f"error: not measured: {lost}", file=sys.stderr)
    return 1 if plan.lost else 0


def starting(name: str) -> Iterator[str]:
    """The contenders whose names start so."""
    return (contender.name for contender in JOB if contender.name.startswith(name))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as a JSON list")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each benchmark; default 5")
    parser.add_argument(
        "--records", type=int, default=800_000, help="orders for the fastest contenders; default 800,000"
    )
    parser.add_argument(
        "--only",
        type=lambda names: names.split(","),
        default=[],
        metavar="NAMES",
        help=f"benchmarks ({', '.join(BENCHMARKS)}) and contenders, by the start of a name, with commas",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
