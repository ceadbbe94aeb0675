"""The bench's own broker: the pipeline's embedded Kafka in the scratch directory, gone with the bench."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import child
from bench.worker import end_with_parent

START_SECONDS_MAX = 90.0
LISTENS = re.compile(r"Kafka listens on (\S+),")


@contextmanager
def broker(directory: Path) -> Iterator[str]:
    """A running broker for the time of a `with` block; gives its address."""
    with child(
        "broker", [sys.executable, "-m", "bench.broker", str(directory)], directory / "broker.log"
    ) as process:

        def address() -> re.Match[str] | None:
            return LISTENS.search(process.log.read_text(errors="replace"))

        process.wait_until(lambda: address() is not None, START_SECONDS_MAX, "come up")
        found = address()
        assert found is not None
        yield found[1]


def main() -> None:
    from app.devkafka.server import run_alone
    from cli.stopping import run_until_stopped

    end_with_parent()
    sys.exit(run_until_stopped(run_alone(Path(sys.argv[1]) / "kafka", 0)))


if __name__ == "__main__":
    main()
