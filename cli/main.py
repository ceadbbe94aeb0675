"""The command line: a table of subcommands, and what every one of them does with errors and Ctrl-C.

What the user can put right is one line on standard error and exit status 2. Ctrl-C and SIGTERM let the
command clean up and give 130 and 143; after Ctrl-C a run that has no other end gives 0. A second one ends it
at once. What a command needs is imported when it runs: `--help` stays quick.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from app.arguments import directory, port_number
from app.errors import UserError
from checker.errors import CheckerError
from checker.options import check_arguments
from cli.operators import (
    halt_arguments,
    limits_arguments,
    refdata_arguments,
    restrict_arguments,
    run_halt,
    run_limits,
    run_refdata,
    run_restrict,
    run_resume,
    run_sequence,
    run_state,
    run_trace,
    run_whatif,
    sequence_arguments,
    state_arguments,
    trace_arguments,
    whatif_arguments,
)
from cli.options import run_arguments, run_options, up_arguments, up_plan
from cli.stopping import EXIT_INTERRUPTED, run_until_stopped, until_head_has_enough
from storm.options import storm_arguments, storm_options

EXIT_USER_ERROR = 2


class Command(NamedTuple):
    """A subcommand: `arguments` declares its options, `run` does the work and gives the exit status."""

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def kafka_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=directory, metavar="D", help="default: kafka in PIPELINE_DATA_DIR")
    parser.add_argument(
        "--port", type=port_number, metavar="P", default=9092, help="default: 9092; 0: a free one"
    )


def run_kafka(options: argparse.Namespace) -> int:
    from app.config import settings
    from app.devkafka.server import run_alone

    return run_until_stopped(run_alone(options.data_dir or settings().data_dir / "kafka", options.port))


def run_pipeline(options: argparse.Namespace) -> int:
    from app.run.job import run
    from checker.verdict import judge

    ctrl_c = EXIT_INTERRUPTED if options.exit else 0  # a run without end has no other one
    return run_until_stopped(run(run_options(options), judge), ctrl_c=ctrl_c)


def run_services(options: argparse.Namespace) -> int:
    from app.run.job import up

    return run_until_stopped(up(up_plan(options)))


def topology_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for machines")
    form.add_argument("--dot", action="store_true", help="a graph for Graphviz: | dot -Tsvg")


def run_topology(options: argparse.Namespace) -> int:
    from cli.topology import show

    return until_head_has_enough(partial(show, as_json=options.json, as_dot=options.dot))


def run_storm(options: argparse.Namespace) -> int:
    import uvloop

    from storm.run import storm

    return run_until_stopped(storm(storm_options(options)), uvloop.new_event_loop)


def run_checker(options: argparse.Namespace) -> int:
    from app.config import settings
    from checker.check import run_check

    options.bootstrap = options.bootstrap or settings().bootstrap
    options.data_dir = options.data_dir or settings().data_dir
    return run_check(options)


COMMANDS = (
    Command("run", "run everything: Kafka, venue, services, feed", run_arguments, run_pipeline),
    Command("up", "run the services alone, on the Kafka of KAFKA_BOOTSTRAP", up_arguments, run_services),
    Command("check", "check the invariants I1 to I7", check_arguments, run_checker),
    Command("storm", "break everything while orders flow, and check", storm_arguments, run_storm),
    Command("kafka", "run the embedded Kafka alone", kafka_arguments, run_kafka),
    Command("topology", "the services, their topics and tables", topology_arguments, run_topology),
    Command(
        "refdata", "instruments, accounts, counterparties: load, show, diff", refdata_arguments, run_refdata
    ),
    Command("limits", "set or show the limits of an account", limits_arguments, run_limits),
    Command("halt", "halt trading of an account, or of all", halt_arguments, run_halt),
    Command("resume", "end a halt", halt_arguments, run_resume),
    Command(
        "restrict", "put an instrument on the restricted list, or off it", restrict_arguments, run_restrict
    ),
    Command("trace", "the life of an order, as the log tells it", trace_arguments, run_trace),
    Command("state", "what an account had at a time, as the log tells it", state_arguments, run_state),
    Command(
        "whatif", "what risk would have decided in the past under other limits", whatif_arguments, run_whatif
    ),
    Command(
        "sequence", "set right which order counts as an account's last", sequence_arguments, run_sequence
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status."""
    options = parser().parse_args(arguments)
    try:
        command: Command = options.command
        return command.run(options)
    except (UserError, CheckerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        print(f"error: {error}; use .venv/bin/python, which `make run` has made", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="The trading pipeline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(subparser)
        subparser.set_defaults(command=command)
    return parser
