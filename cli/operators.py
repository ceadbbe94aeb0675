"""The options of the operators' commands; light on imports, so that `--help` is quick."""

import argparse
import re
from collections.abc import Callable, Coroutine
from pathlib import Path

from app.allowed import is_address
from app.operators.texts import is_text

KIND_NAMES = ("instruments", "accounts", "counterparties", "restrictions", "halts")
WAIT_S = 10.0
MOMENT = "such as 2026-01-31T08:00:00Z, or ms since 1970"


def run_refdata(options: argparse.Namespace) -> int:
    from app.operators.refdata import ACTIONS

    return _run(ACTIONS[options.action], options)


def run_limits(options: argparse.Namespace) -> int:
    from app.operators.controls import LIMITS_ACTIONS

    return _run(LIMITS_ACTIONS[options.action], options)


def run_halt(options: argparse.Namespace) -> int:
    from app.operators.controls import halt

    return _run(halt, options)


def run_resume(options: argparse.Namespace) -> int:
    from app.operators.controls import resume

    return _run(resume, options)


def run_restrict(options: argparse.Namespace) -> int:
    from app.operators.controls import restrict

    return _run(restrict, options)


def run_sequence(options: argparse.Namespace) -> int:
    from app.operators.controls import sequence

    return _run(sequence, options)


def run_trace(options: argparse.Namespace) -> int:
    from app.operators.trace import trace

    return _run(trace, options)


def run_state(options: argparse.Namespace) -> int:
    from app.operators.state import state

    return _run(state, options)


def run_whatif(options: argparse.Namespace) -> int:
    from app.operators.whatif import whatif

    return _run(whatif, options)


def _run(
    action: Callable[[argparse.Namespace], Coroutine[object, object, int]], options: argparse.Namespace
) -> int:
    from app.config import settings
    from app.operators.desk import silence
    from cli.stopping import run_until_stopped, until_head_has_enough

    silence()
    options.bootstrap = options.bootstrap or settings().bootstrap
    return until_head_has_enough(lambda: run_until_stopped(action(options)))


def refdata_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `refdata`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    load = actions.add_parser("load", help="put a file of reference data in force, all of it or nothing")
    load.add_argument("file", type=Path, metavar="FILE", help="CSV (one kind) or JSON")
    _person(load, why="default: names the file")
    diff = actions.add_parser("diff", help="what loading a file would change; status 1 if anything")
    diff.add_argument("file", type=Path, metavar="FILE", help="CSV (one kind) or JSON")
    show = actions.add_parser("show", help="what is in force")
    show.add_argument("kind", nargs="?", choices=KIND_NAMES, metavar="KIND", help=", ".join(KIND_NAMES))
    for each in (load, diff, show):
        _common(each)


def limits_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `limits`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    change = actions.add_parser("set", help="change limits of an account; those not named stay")
    change.add_argument("account", metavar="ACCOUNT")
    change.add_argument(
        "values",
        nargs="+",
        metavar="NAME=VALUE",
        help="such as open_orders_max=50, order_age_ms_max=45s, order_notional_micros_max=700USD, "
        "price_collar_bps=5%%, kill_switch=on",
    )
    _person(change)
    show = actions.add_parser("show", help="the limits of an account that are in force")
    show.add_argument("account", metavar="ACCOUNT")
    for each in (change, show):
        _common(each)


def halt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `halt` and `resume`."""
    parser.add_argument("account", nargs="?", metavar="ACCOUNT", help="default: all accounts")
    _person(parser)
    _common(parser)


def restrict_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `restrict`."""
    parser.add_argument("symbol", metavar="SYMBOL")
    parser.add_argument("--lift", action="store_true", help="take it off the restricted list")
    _person(parser)
    _common(parser)


def sequence_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sequence`."""
    parser.add_argument("account", metavar="ACCOUNT")
    parser.add_argument(
        "last_sequence", type=_sequence, metavar="N", help="what shall count as its last order"
    )
    _person(parser)
    _common(parser)


def trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `trace`."""
    parser.add_argument("order", metavar="ORDER", help="an order's id, such as newcomer-1")
    _common(parser)


def state_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `state`."""
    parser.add_argument("--account", required=True, metavar="A")
    parser.add_argument("--at", type=_moment, metavar="TIME", help=f"{MOMENT}; default: now")
    _common(parser)


def whatif_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `whatif`."""
    parser.add_argument(
        "--limits",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON such as {"*": {"open_orders_max": 5}}: by account, or for all, the limits to change',
    )
    parser.add_argument(
        "--from", dest="since", type=_moment, metavar="TIME", help=f"{MOMENT}; default: the beginning"
    )
    parser.add_argument("--until", type=_moment, metavar="TIME", help="not after; default: the end")
    parser.add_argument("--account", metavar="A", help="only this one")
    _common(parser)


def _person(parser: argparse.ArgumentParser, why: str | None = None) -> None:
    parser.add_argument("--who", type=_note, metavar="NAME", help="who wants it; default: your login name")
    parser.add_argument(
        "--why", type=_note, required=why is None, metavar="TEXT", help=why or "the reason, for the audit"
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--bootstrap", type=_addresses, metavar="HOST:PORT", help="Kafka; default: KAFKA_BOOTSTRAP"
    )
    parser.add_argument(
        "--wait", type=_seconds, default=WAIT_S, metavar="S", help=f"for an answer; default: {WAIT_S:g} s"
    )


def _addresses(text: str) -> str:
    if not all(re.fullmatch(r"\S+:[0-9]+", each) and is_address(each) for each in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is host:port, or several with commas between")
    return text


def _note(text: str) -> str:
    if not text.strip() or len(text) > 1024 or not is_text(text):
        raise argparse.ArgumentTypeError("allowed is a text of 1 to 1,024 characters")
    return text


def _moment(text: str) -> int:
    from app.operators.moments import when

    try:
        return when(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}; allowed is {MOMENT}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a number of seconds above 0, up to 3600")
    return seconds


def _sequence(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 2**62):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from 0 to {2**62}")
    return int(text)
