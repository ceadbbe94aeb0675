"""Who takes part: a name, a guarantee, the command of its worker, and how much it gets to do."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import engine, job, kafka_streams

Guarantee = str
RECORDS_MIN = 10_000
AT_LEAST_ONCE, EXACTLY_ONCE = "at_least_once", "exactly_once"


class Audit(Protocol):
    """Takes every output and says at the end what is wrong with them, or None."""

    count: int

    def add(self, value: bytes) -> None: ...

    def problem(self, expected: int) -> str | None: ...


@dataclass(frozen=True)
class Contender:
    """A worker that runs the job.

    `command` makes the start of its command line (it may compile into the directory given); `missing` says
    why it can't take part, or None. `share` is its part of `--records`, so that each runs about as long;
    `audit` makes what checks its outputs.
    One that can't be told where to write names its `output`, and the topics besides that are its own.
    """

    name: str
    guarantee: Guarantee
    command: Callable[[Path], list[str]]
    share: float = 1.0
    missing: Callable[[], str | None] = lambda: None
    audit: Callable[[], Audit] = job.Audit
    output: str | None = None
    owns: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.name}, {self.guarantee}"

    def records(self, records: int) -> int:
        return max(RECORDS_MIN, int(records * self.share))


def python_module(name: str, *arguments: str) -> Callable[[Path], list[str]]:
    """The command of a contender written in Python."""
    return lambda _: [sys.executable, "-m", name, *arguments]


def needs_package(name: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(name) else f"the package {name} is not installed"


STOCK = Contender("stock faust", AT_LEAST_ONCE, python_module("bench.stock_faust"), share=1 / 80)
STOCK_DEFAULTS = Contender(
    "stock faust, untuned", AT_LEAST_ONCE, python_module("bench.stock_faust_defaults"), share=1 / 80
)
ENGINE = [
    Contender("engine", guarantee, python_module("bench.engine"), missing=engine.missing)
    for guarantee in (EXACTLY_ONCE, AT_LEAST_ONCE)
]
QUIX = [
    Contender(
        "quix streams",
        guarantee,
        python_module("bench.quix"),
        share=3 / 8,
        missing=needs_package("quixstreams"),
    )
    for guarantee in (EXACTLY_ONCE, AT_LEAST_ONCE)
]
QUIX.append(
    Contender(
        "quix streams, its own JSON",
        AT_LEAST_ONCE,
        python_module("bench.quix_json"),
        share=1 / 8,
        missing=needs_package("quixstreams"),
    )
)
KAFKA_STREAMS = [
    Contender(
        "kafka streams",
        guarantee,
        kafka_streams.command,
        share=3 / 4,
        missing=kafka_streams.missing,
    )
    for guarantee in (EXACTLY_ONCE, AT_LEAST_ONCE)
]
JOB = [STOCK, STOCK_DEFAULTS, *ENGINE, *QUIX, *KAFKA_STREAMS]
