"""What all contenders' worker processes share: one command line, marks on stdout, an end with the parent."""

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """A worker reads `input`, writes `output`, keeps its state in `data_dir`, and runs until SIGTERM.

    `goal` is what it may be set up for: "throughput" or "latency". Kafka knows it by its `client_id`.
    """

    bootstrap: str
    input: str
    output: str
    app_id: str
    client_id: str
    data_dir: Path
    guarantee: str
    partitions: int
    goal: str


def options(argv: Sequence[str] | None = None) -> Options:
    """Parse the command line, and from now on end when stdin does: the parent is gone then."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "input", "output", "app-id", "client-id"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--guarantee", choices=("exactly_once", "at_least_once"), required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--goal", choices=("throughput", "latency"), default="throughput")
    parsed = Options(**vars(parser.parse_args(argv)))
    end_with_parent()
    return parsed


def mark(name: str, **values: object) -> None:
    """Tell the harness something: one JSON line on stdout."""
    os.write(1, json.dumps({"mark": name, **values}).encode() + b"\n")


def end_with_parent() -> None:
    """End this process when stdin ends."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
