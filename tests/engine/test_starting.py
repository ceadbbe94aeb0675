"""How a worker starts: what it shows, when it says that it works, and how it ends if somebody has to act."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.engine.errors import EXIT_CONFIGURATION
from tests.engine.conftest import MakeWorld
from tests.engine.running import load, workers
from tests.engine.service import Options
from tests.engine.waiting import until
from tests.engine.world import World
from tests.tied import end_with_parent


class Command:
    """`faust … worker` of the example service, as a person types it."""

    def __init__(self, options: Options, log: Path, *arguments: str) -> None:
        self.log = log
        faust = [sys.executable, "-m", "faust", *arguments, "-A", "tests.engine.worker"]
        command = [*faust, "worker", "--without-web"]
        environment = {**os.environ, "TEST_SERVICE": msgspec.json.encode(options).decode()}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def says(self, what: str) -> None:
        await until(lambda: what in self.said())

    async def ended(self) -> int:
        await until(lambda: self._process.poll() is not None)
        assert self._process.returncode is not None
        return self._process.returncode

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def commands(world: World, tmp_path: Path) -> Any:
    """Start commands; what is left of them at the end is killed."""
    started: list[Command] = []

    def start(*arguments: str, **more: Any) -> Command:
        options = msgspec.structs.replace(world.options, **more)
        started.append(Command(options, tmp_path / f"log-{len(started)}", *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.kill()


async def test_a_worker_shows_where_its_tables_are_and_says_once_when_it_works(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = await make_world(partitions=2)
    own = tmp_path / "own"
    with commands(world, tmp_path) as start:
        worker = start("--datadir", str(own))
        await worker.says("ready: partitions 0-1 of ")
        said = worker.said()
        assert f"ready: partitions 0-1 of {world.options.id}\n" in said
        assert re.search(rf"\| datadir +\| {own} ", said)
        assert re.search(r"\| store +\| rocksdb: ", said)
        assert "Warning" not in said
        assert (own / "v1" / "tables").is_dir()
        worker.stop()
        assert await worker.ended() == 0
        assert worker.said().count("ready: partitions") == 1


async def test_a_worker_says_again_what_it_has_after_each_assignment(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = await make_world(partitions=2)
    with commands(world, tmp_path) as start:
        first = start("--datadir", str(tmp_path / "1"))
        await first.says("ready: partitions 0-1 of ")
        second = start("--datadir", str(tmp_path / "2"))
        halves = [f"ready: partitions {own} of {world.options.id}, standbys of {1 - own}" for own in (0, 1)]
        await until(lambda: all(half in first.said() + second.said() for half in halves))
        second.kill()
        await until(lambda: first.said().count("ready: partitions 0-1 of ") == 2)


@pytest.mark.parametrize("arguments", [(), ("--datadir", "chosen")], ids=["forgotten", "the same twice"])
async def test_the_second_worker_on_a_directory_names_the_first_and_leaves_it_alone(
    world: World, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    arguments = tuple(str(tmp_path / each) if each == "chosen" else each for each in arguments)
    directory = Path(arguments[1]) if arguments else Path(world.options.directory)
    with commands(world, tmp_path) as start:
        first = start(*arguments)
        await first.says("ready: partitions")
        async with load(world):
            second = start(*arguments)
            assert await second.ended() == EXIT_CONFIGURATION
        assert f"error: data directory {directory} is in use by pid {first.pid} (" in second.said()
        assert "Traceback" not in second.said()
        assert len([line for line in second.said().splitlines() if "error: " in line]) == 1
        await world.all_processed()
        tables = [each.name for each in (directory / "v1" / "tables").iterdir()]
        assert tables == ["0"], "nothing is moved aside"
        first.stop()
        assert await first.ended() == 0


async def test_the_successor_of_a_worker_that_is_being_killed_waits_for_its_directory(world: World) -> None:
    """As a supervisor starts one when it has seen the guard die, and the kernel still ends the worker."""
    with workers() as start:
        first = start(world, "a")
        await until(lambda: "ready: partitions" in first.said())
        async with load(world):
            first.signal(signal.SIGKILL)
            second = start(world, "a")
            await until(lambda: "ready: partitions" in second.said())
        await world.all_processed()
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0
    assert await world.faults(directories=[Path(world.options.directory) / "a"]) == []


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def nameless(bootstrap: str, tmp_path: Path, number: int, **more: Any) -> Options:
    """A service whose topics nobody has made."""
    return Options(bootstrap=bootstrap, id=f"bare-{number}-{os.getpid()}", directory=str(tmp_path), **more)


@pytest.mark.parametrize(
    ("topic", "partitions", "config", "told"),
    [
        ("numbers-{}", 3, {}, "numbers-{}: 3 partitions, not a power of two up to 256"),
        (
            "{}-sums-changelog",
            8,
            {"cleanup.policy": "delete"},
            "{}-sums-changelog: cleanup.policy=delete, not compact",
        ),
    ],
)
async def test_a_worker_on_wrong_topics_ends_in_one_line_and_makes_nothing(
    bootstrap: str, tmp_path: Path, topic: str, partitions: int, config: dict[str, str], told: str
) -> None:
    options = nameless(bootstrap, tmp_path, partitions, partitions=8)
    name, told = topic.format(options.id), told.format(options.id)
    async with admin(bootstrap) as client:
        await client.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        with workers() as start:
            world: Any = SimpleNamespace(options=options)
            refused = start(world, "a")
            assert await refused.ended() == EXIT_CONFIGURATION
            (line,) = [each for each in refused.said().splitlines() if "error: " in each]
            assert line.startswith("error: topics are not what they have to be, and nothing was changed. ")
            assert told in line
            assert refused.said().rstrip().endswith(line), "the last word"
            assert "Traceback" not in refused.said()
            assert "Joined group" not in refused.said()
            ours = [each for each in await client.list_topics() if options.id in each]
            assert ours == [name]

            await client.delete_topics([name])  # the setting is mended, one way or the other

            async def gone() -> bool:
                return name not in await client.list_topics()

            await until(gone)
            mended = start(world, "a")
            await until(lambda: "ready: partitions 0-7" in mended.said())


async def test_a_worker_that_kafka_puts_off_says_why_it_is_not_ready(tmp_path: Path) -> None:
    """Nobody listens there: it waits, and tells whoever reads its log."""
    options = nameless("127.0.0.1:1", tmp_path, 0)
    with workers() as start:
        world: Any = SimpleNamespace(options=options)
        worker = start(world, "a")
        await until(lambda: "is not ready: Kafka on 127.0.0.1:1 has not been reached yet" in worker.said())
        await asyncio.sleep(0.5)
        assert worker.said().count("is not ready") == 1
        assert worker.exit_code is None
