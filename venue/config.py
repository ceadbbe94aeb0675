"""The venue's settings: its command line, and the one place that reads its environment."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from venue.errors import StartError
from venue.terms import BASIS_POINTS, Rules


@dataclass(frozen=True, kw_only=True)
class Config:
    host: str
    port: int
    """0 takes any free port."""
    data_dir: Path
    instruments: Path
    """The file that lists them."""
    parent_pid: int | None
    """The process that this one must not outlive, if any."""
    rules: Rules
    token: str = field(repr=False)


def read_config(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Config:
    """Raises StartError when the token is missing; argparse exits 2 by itself for a wrong argument."""
    parsed = _parser().parse_args(arguments)
    token = _token(environment)
    return Config(
        host=parsed.host,
        port=parsed.port,
        data_dir=parsed.data_dir,
        instruments=parsed.instruments,
        parent_pid=parsed.die_with_parent,
        rules=Rules(
            maker_bps=parsed.maker_bps,
            taker_bps=parsed.taker_bps,
            clearing_house=parsed.clearing_house,
            zone=parsed.time_zone,
        ),
        token=token,
    )


def _token(environment: Mapping[str, str]) -> str:
    """The value of VENUE_TOKEN, else what stands in the file that VENUE_TOKEN_FILE names."""
    token, file = environment.get("VENUE_TOKEN", ""), environment.get("VENUE_TOKEN_FILE", "")
    variable = "VENUE_TOKEN"
    if file and not token:
        variable = f"the token in VENUE_TOKEN_FILE, {file!a},"
        try:
            token = Path(file).read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise StartError(f"VENUE_TOKEN_FILE is {file!a}, which can't be read: {error.strerror}") from None
    if not re.fullmatch(r"[\x21-\x7e]+", token.strip()):
        raise StartError(
            f"{variable} is not set or not usable: set it to the secret (printable characters without "
            "spaces) that every request must carry"
        )
    return token.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m venue",
        description="The simulated exchange. Its secret is VENUE_TOKEN, or in the file VENUE_TOKEN_FILE.",
    )
    parser.add_argument("--port", type=_port, required=True, help="0 takes any free port")
    parser.add_argument("--data-dir", type=Path, required=True, help="holds ledger.sqlite")
    parser.add_argument(
        "--instruments",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON: {"instruments": [...]}, such as feed/demo.json',
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--maker-bps",
        type=_bps,
        default=Rules.maker_bps,
        metavar="BPS",
        help="fee of a fill that has rested, in basis points; negative: a rebate (%(default)s)",
    )
    parser.add_argument(
        "--taker-bps",
        type=_bps,
        default=Rules.taker_bps,
        metavar="BPS",
        help="fee of a fill that takes what rests, likewise (%(default)s)",
    )
    parser.add_argument(
        "--clearing-house",
        default=Rules.clearing_house,
        metavar="ID",
        help="counterparty of trades between accounts, as the reference data have it (%(default)s)",
    )
    parser.add_argument(
        "--time-zone",
        type=_zone,
        default="UTC",
        metavar="ZONE",
        help="the zone that the date of a trade is of, such as Europe/Zurich (%(default)s)",
    )
    parser.add_argument(
        "--die-with-parent",
        nargs="?",
        type=int,
        const=os.getppid(),
        metavar="PID",
        help="stop when the process that started this one is gone; its PID also covers a death before this",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{port} is no port: 0 to 65535")
    return port


def _bps(text: str) -> int:
    bps = int(text)
    if abs(bps) > BASIS_POINTS:
        raise argparse.ArgumentTypeError(f"{bps} is more than all of the notional: {BASIS_POINTS} at most")
    return bps


def _zone(text: str) -> tzinfo:
    if text == "UTC":  # known where the machine has no zones at all
        return UTC
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time zone that this machine knows") from None
