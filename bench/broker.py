"""The bench's own broker: the embedded Kafka of a checkout in the scratch directory, gone with the bench."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.processes import Child, child

START_SECONDS_MAX = 90.0
LISTENS = re.compile(r"Kafka listens on (\S+),")
THIS_TREE = Path(__file__).resolve().parents[1]


class Broker(NamedTuple):
    """Where it listens, its process, and the directory with its data."""

    bootstrap: str
    process: Child
    data_dir: Path


@contextmanager
def broker(directory: Path, tree: Path = THIS_TREE) -> Iterator[Broker]:
    """A running broker for the time of a `with` block."""
    data_dir = directory / "kafka"
    command = [
        sys.executable,
        "-m",
        "bench.in_tree",
        str(tree),
        "kafka",
        f"--data-dir={data_dir}",
        "--port=0",
    ]
    with child("broker", command, directory / "broker.log") as process:

        def address() -> re.Match[str] | None:
            return LISTENS.search(process.log.read_text(errors="replace"))

        process.wait_until(lambda: address() is not None, START_SECONDS_MAX, "come up")
        found = address()
        assert found is not None
        yield Broker(found[1], process, data_dir)
