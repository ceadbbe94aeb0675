"""The options of `storm`; light on imports."""

import argparse
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.arguments import whole
from app.errors import UserError

COUNT_MAX = 100_000
WORKERS_MAX = 8


class Kind(StrEnum):
    """What can be done to a running pipeline."""

    KILL = "kill"
    """SIGKILL of a worker at a random moment; its supervisor sees it."""
    KILL_AT = "kill-at"
    """The same at a named step of the engine or of the venue's session."""
    KILL_UNSEEN = "kill-unseen"
    """SIGKILL, and nobody tells the group: only the session timeout does."""
    FREEZE = "freeze"
    """SIGSTOP for longer than the session timeout, then SIGCONT."""
    FREEZE_AT = "freeze-at"
    """The same at a named step."""
    DAMAGE = "damage"
    """SIGKILL, and the dead worker's RocksDB files are damaged before it starts again."""
    BROKER = "broker"
    """SIGKILL of a Kafka node, which comes back."""
    CUT = "cut"
    """The network between a worker, or all of them, and Kafka carries nothing for a while."""
    SLOW = "slow"
    """The same network is slow for a while."""
    RESET = "reset"
    """The connections between a worker, or all of them, and Kafka are reset."""
    POISON = "poison"
    """Records that nobody can read, on the edge and between services."""
    VENUE_HANG = "venue-hang"
    """The venue's answers come late."""
    VENUE_DROP_ACK = "venue-drop-ack"
    """The venue takes orders and its answer is lost."""
    VENUE_TWICE = "venue-twice"
    """The venue sends reports twice."""
    VENUE_KILL = "venue-kill"
    """SIGKILL of the venue."""
    ROLLING = "rolling"
    """Venue and workers move to the next release, one after the other, and back."""


KILLS = (Kind.KILL, Kind.KILL_AT, Kind.KILL_UNSEEN)
"""What `--kills` counts."""


@dataclass(frozen=True, kw_only=True)
class StormOptions:
    """What the storm was asked for. `faults` holds the kinds that take part, by count where one was given."""

    kills: int
    others: int
    seed: int
    faults: dict[Kind, int | None]
    brokers: int
    workers: int
    keys: int
    speed: float
    alone: bool
    mutant: str | None
    list_mutants: bool
    data_dir: Path | None
    json: Path | None


def storm_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    add("--kills", type=whole(0, COUNT_MAX), default=20, metavar="N", help="of workers; default: 20")
    add(
        "--others",
        type=whole(0, COUNT_MAX),
        metavar="N",
        help="faults of other kinds; default: three for ten kills",
    )
    add("--seed", type=whole(0, COUNT_MAX), default=1, metavar="S", help="of the schedule; default: 1")
    add(
        "--faults",
        type=_faults,
        default=dict.fromkeys(Kind),
        metavar="LIST",
        help=f"kinds of fault that take part, KIND or KIND=COUNT with commas between; default: all of "
        f"{', '.join(Kind)}",
    )
    add("--brokers", type=int, choices=(1, 3), default=1, help="Kafka nodes; default: 1")
    add("--workers", type=whole(1, WORKERS_MAX), default=2, metavar="N", help="a service; default: 2")
    add("--keys", type=whole(0, 10_000_000), default=0, metavar="N", help="more accounts in risk's tables")
    add(
        "--speed",
        type=float,
        default=150.0,
        metavar="X",
        help="of the market; default: 150, some 400 orders/s",
    )
    add(
        "--alone",
        action="store_true",
        help="measure: every fault waits until all is well; default: one in twenty does",
    )
    add("--json", type=Path, metavar="FILE", help="write the result there")
    add("--data-dir", type=Path, metavar="D", help="default: a new one, kept when something was wrong")
    add("--mutant", metavar="NAME", help="run with a planted bug, or with each of them (all), to be caught")
    add("--list-mutants", action="store_true", help="name the planted bugs, and end")


def storm_options(parsed: argparse.Namespace) -> StormOptions:
    """Raises UserError for options that do not go together."""
    if parsed.speed <= 0:
        raise UserError(f"--speed is {parsed.speed}: allowed is a number above 0")
    others = parsed.others if parsed.others is not None else round(parsed.kills * 0.3)
    known = {name: getattr(parsed, name) for name in StormOptions.__dataclass_fields__ if name != "others"}
    return StormOptions(**known, others=others)


def _faults(text: str) -> dict[Kind, int | None]:
    found: dict[Kind, int | None] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        try:
            found[Kind(name)] = int(count) if count else None
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{part!r}: allowed is KIND or KIND=COUNT, KIND one of {', '.join(Kind)}"
            ) from None
    return found
