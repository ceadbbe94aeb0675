"""`python -m scripts.kafka_20734`: kill releases of Kafka under load, and count what that has doubled.

The release that the pipeline runs and one with KAFKA-20734 get the same load and the same kills: those of the
test `test_a_broker_killed_again_and_again…`. A worker adds numbers up, exactly once, on eight partitions.
Kafka is one node. It is killed by SIGKILL and started again at once, as anybody would: the embedded Kafka's
precaution (`fence_former_self`) is left out, unless it is asked for.
"""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from app.arguments import whole
from app.devkafka.artifacts import KAFKA_20734_VERSION, KAFKA_VERSION, kafka_classpath
from app.devkafka.server import KafkaServer
from app.errors import UserError
from tests.engine.running import kill_again_and_again, options_of_kills, started, workers
from tests.engine.world import World

WITHOUT_MARKERS: Final = "can be skipped"
"""What a coordinator logs of a transaction that it ends without writing its markers."""

HEAD: Final = ("Kafka", "kills", "outputs", "doubled outputs", "transactions without markers", "")
ROW: Final = "{:<24} {:>6} {:>8} {:>16} {:>29}  {}"


class Row(NamedTuple):
    """What became of a release. `trouble` is what kept the worker from processing everything, or empty."""

    release: str
    kills: int
    outputs: int
    doubled: int
    without_markers: int
    trouble: str = ""


SESSION: Final = "broker.session.timeout.ms=9000\nbroker.heartbeat.interval.ms=2000\n"
"""Kafka's defaults. Less would be over before a slow machine's broker has begun to lead its partitions."""


class OtherKafka(KafkaServer):
    """A node of the release with this class path."""

    def __init__(self, class_path: str, fences: bool, data_dir: Path, port: int) -> None:
        super().__init__(data_dir, port)
        self._class_path = class_path
        self._fences = fences

    def _prepare(self) -> None:
        super()._prepare()
        with (self.data_dir / "server.properties").open("a") as properties:  # the last value of a name counts
            properties.write(SESSION)

    def _java_flags(self) -> tuple[str, ...]:
        return ("-cp", self._class_path)

    def _fence_former_self(self) -> None:
        if self._fences:
            super()._fence_former_self()


async def measure(release: str, class_path: str, kills: int, *, fences: bool) -> Row:
    """Kill a release so many times while a worker is at work."""
    nodes: list[OtherKafka] = []
    with tempfile.TemporaryDirectory(prefix="kafka-20734-") as name, workers() as start:
        directory = Path(name)

        def on_port(port: int) -> OtherKafka:
            nodes.append(OtherKafka(class_path, fences, directory / "kafka", port))
            return nodes[-1]

        broker: KafkaServer = await started(on_port(0))
        async with World(options_of_kills(broker.bootstrap, directory)) as world:
            worker, trouble = start(world, "worker"), ""
            try:
                await kill_again_and_again(world, broker, on_port, kills)
            except (AssertionError, TimeoutError) as error:
                trouble = last_error(worker.said()) or str(error)
            worker.kill()
            await world.markers_written()
            ids = [total.id for _, total in await world.totals_out()]
        await nodes[-1].stop()
        logs = [each.read_text(errors="replace") for each in (directory / "kafka").glob("kafka.log*")]
    return Row(release, kills, len(ids), doubled(ids), sum(map(without_markers, logs)), trouble)


def doubled(ids: Iterable[str]) -> int:
    """How many outputs there are beside the first of each id."""
    return sum(count - 1 for count in Counter(ids).values())


def without_markers(log: str) -> int:
    """How many transactions Kafka has ended without their markers, by its log."""
    return sum(WITHOUT_MARKERS in each for each in log.splitlines())


def last_error(said: str) -> str:
    """The worker's last line that says why it ended, or empty."""
    return next((line for line in reversed(said.splitlines()) if line.startswith("error: ")), "")


def line(row: Sequence[object]) -> str:
    """One line of the table."""
    return ROW.format(*row).rstrip()


def releases(jars: Sequence[Path]) -> dict[str, str]:
    """Class paths by release: of directories of jars, or of the two that are pinned; raises UserError."""
    if jars:
        return {str(each): class_path_of(each) for each in jars}
    return {version: kafka_classpath(version) for version in (KAFKA_VERSION, KAFKA_20734_VERSION)}


def class_path_of(directory: Path) -> str:
    """All jars of a directory, such as `libs` of Kafka's distribution."""
    jars = sorted(directory.absolute().glob("*.jar"))
    if not jars:
        raise UserError(f"{directory} has no jars; name the directory `libs` of a release of Kafka")
    return os.pathsep.join(map(str, jars))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.kafka_20734",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--kills", type=whole(1, 1_000), default=3, help="of each release; default 3")
    parser.add_argument("--fence", action="store_true", help="with the embedded Kafka's precaution")
    parser.add_argument(
        "--jars", type=Path, nargs="+", default=[], metavar="DIR", help="other releases, by their jars"
    )
    return parser


def main() -> int:
    options = make_parser().parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that Kafka is away is no news
    try:
        found = releases(options.jars)
        print(line(HEAD), flush=True)
        for release, class_path in found.items():
            row = asyncio.run(measure(release, class_path, options.kills, fences=options.fence))
            print(line(row), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
