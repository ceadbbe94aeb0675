"""`python -m bench`: run the benchmarks asked for on a broker of their own, print tables, write JSON."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.allowed import PARTITIONS_ALLOWED, partition_count
from bench import (
    compliance,
    failover,
    growth,
    idle,
    latency,
    memory,
    overhead,
    pipeline,
    restore,
    risk,
    throughput,
    whatif,
)
from bench.broker import THIS_TREE, broker
from bench.contenders import JOB
from bench.kafka import Cluster, KafkaException
from bench.pipeline import SECONDS_USUAL
from bench.plan import Load, Plan
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
    "whatif": Benchmark(whatif.TITLE, whatif.run),
    "idle": Benchmark(idle.TITLE, idle.run),
    "failover": Benchmark(failover.TITLE, failover.run),
}


def main() -> int:
    parser = make_parser()
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in BENCHMARKS and not any(starting(name))]
    if unknown:
        parser.error(f"--only: neither a benchmark nor the start of a contender's name: {', '.join(unknown)}")
    end_on_sigterm()
    asked = [name for name in options.only if name in BENCHMARKS] or list(BENCHMARKS)
    names = [name for name in options.only if name not in BENCHMARKS]
    plan = Plan(options.runs, options.records, names, load(options))
    rows: list[Row] = []
    try:
        with scratch_directory() as directory, broker(directory) as kafka:
            bench = Bench(Cluster(kafka.bootstrap), directory)
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


def make_parser() -> argparse.ArgumentParser:
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
    _pipeline_arguments(parser)
    return parser


def _pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the benchmark pipeline").add_argument
    add(
        "--partitions",
        type=_counts(PARTITIONS_ALLOWED, partition_count),
        default=[8],
        metavar="N,N",
        help=f"each is a row, of failover and idle too: {PARTITIONS_ALLOWED}; default 8",
    )
    add(
        "--rate",
        type=_counts("a whole number above 0", _positive),
        default=[200],
        metavar="N,N",
        help="orders a second, each is a row; default 200",
    )
    add("--seconds", type=float, metavar="S", help=f"how long orders are sent; default {SECONDS_USUAL}")
    add(
        "--tree",
        type=_tree,
        metavar="PATH",
        help="another checkout, such as that of the commit before: measured in turn with this one",
    )
    add(
        "--curve",
        type=_step,
        nargs="?",
        const=(200.0, False),
        metavar="STEP",
        help="raise the rate, from --rate on, until p99 is above 1 s: by so many orders a second (default "
        "200), or x1.5 by a factor; with several rates, those are taken",
    )


def load(options: argparse.Namespace) -> Load:
    step, factor = options.curve or (None, False)
    return Load(options.partitions, options.rate, options.seconds, options.tree, step, factor)


def _counts(allowed: str, read: Callable[[str], int]) -> Callable[[str], list[int]]:
    def counts(text: str) -> list[int]:
        try:
            return [read(each) for each in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r}: allowed is {allowed}, several with commas between"
            ) from None

    return counts


def _positive(text: str) -> int:
    if (count := int(text)) <= 0:
        raise ValueError(text)
    return count


def _tree(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "app" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout of this project")
    if path == THIS_TREE:
        raise argparse.ArgumentTypeError(f"{text!r} is this checkout; allowed is another one")
    return path


def _step(text: str) -> tuple[float, bool]:
    factor = text.startswith("x")
    try:
        step = float(text.removeprefix("x"))
    except ValueError:
        step = 0.0
    if step <= factor:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a number above 0, or x and one above 1")
    return step, factor


if __name__ == "__main__":
    sys.exit(main())
