"""What `run` and `up` can be asked for. Light on imports: `--help` has to be quick."""

import argparse
from pathlib import Path
from typing import Any, Final

from app.allowed import PARTITIONS_ALLOWED, partition_count
from app.arguments import directory, port_number, whole
from app.errors import UserError
from app.run.plan import Plan, RunOptions
from app.topology import SERVICES

COUNT_MAX: Final = 1_000_000_000
WORKERS_MAX: Final = 32


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `run`."""
    add = parser.add_argument
    add("--orders", type=whole(1, COUNT_MAX), metavar="N", help="stop feeding after N orders; default: never")
    add("--speed", type=_speed, default="10", metavar="X", help="times real speed, or 'max'; default: 10")
    add("--exit", action="store_true", help="with --orders: end when all is quiet, and check")
    add("--json", type=Path, metavar="FILE", help="with --exit: write the result there")
    add("--requests", type=whole(0, 100), metavar="P", help="cancels and replaces in 100 turns; default: 10")
    add("--seed", type=whole(0, COUNT_MAX), metavar="S", help="of the accounts' dice; default: 1")
    add(
        "--partitions", type=_partitions, metavar="N", help=f"of new topics, {PARTITIONS_ALLOWED}; default: 8"
    )
    add("--port", type=port_number, metavar="P", help="Kafka's; default: 9092, or a free one")
    up_arguments(parser)


def up_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `up`."""
    parser.add_argument(
        "--workers",
        action="append",
        default=[],
        type=_workers,
        metavar="SERVICE=N",
        help=f"processes of a service ({', '.join(SERVICES)}); default: one each; may be repeated",
    )
    parser.add_argument(
        "--data-dir", type=directory, metavar="D", help="default: PIPELINE_DATA_DIR, else .data"
    )


def run_options(parsed: argparse.Namespace) -> RunOptions:
    """Raises UserError for options that do not go together."""
    if parsed.exit and parsed.orders is None:
        raise UserError("--exit needs --orders: without it the feed has no end")
    if parsed.json is not None and not parsed.exit:
        raise UserError("--json needs --exit: the result is known when all is quiet")
    return RunOptions(
        plan=_plan(parsed, partitions=parsed.partitions, port=parsed.port),
        orders=parsed.orders,
        speed=parsed.speed,
        seed=parsed.seed,
        requests=parsed.requests,
        exit=parsed.exit,
        json=parsed.json,
    )


def up_plan(parsed: argparse.Namespace) -> Plan:
    """The services alone."""
    return _plan(parsed, embedded=False)


def _plan(parsed: argparse.Namespace, **more: Any) -> Plan:
    from app.config import settings

    data_dir = (parsed.data_dir or settings().data_dir).absolute()
    return Plan(data_dir=data_dir, workers=dict(parsed.workers), **more)


def _partitions(text: str) -> int:
    try:
        return partition_count(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is {PARTITIONS_ALLOWED}") from None


def _speed(text: str) -> str:
    try:
        good = text == "max" or 0 < float(text) <= 1e6
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is 'max' or a number above 0")
    return text


def _workers(text: str) -> tuple[str, int]:
    service, _, count = text.partition("=")
    if service not in SERVICES or not count.isdecimal() or not 0 < int(count) <= WORKERS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed is SERVICE=N with N from 1 to {WORKERS_MAX} and SERVICE one of "
            f"{', '.join(SERVICES)}"
        )
    return service, int(count)
