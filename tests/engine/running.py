"""Worker processes: how tests start them, what they work at, and how Kafka dies beside them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from app.devkafka.server import KafkaServer
from tests.engine.service import Options
from tests.engine.waiting import until
from tests.engine.workers import WorkerProcess
from tests.engine.world import World


def directories(world: World, *names: str) -> list[Path]:
    return [Path(world.options.directory) / name for name in names]


@contextmanager
def workers() -> Iterator[Any]:
    """Start worker processes; what is left of them at the end is killed."""
    started: list[WorkerProcess] = []

    def start(world: World, name: str, **more: Any) -> WorkerProcess:
        started.append(WorkerProcess(world.options, name, **more))
        return started[-1]

    try:
        yield start
    except BaseException:
        for each in started:
            print(f"--- {each.log}, exit code {each.exit_code}\n{each.said()[-4000:]}")
        raise
    finally:
        for each in started:
            each.kill()


@asynccontextmanager
async def load(world: World, count: int = 10, *, corrections: bool = False) -> AsyncIterator[None]:
    """Numbers keep coming in, and corrections if they shall."""
    over = asyncio.Event()

    async def send() -> None:
        while not over.is_set():
            await world.send(*world.more(count, keys=23))
            if corrections:
                await world.send(*world.more(count, keys=23), topic=world.corrections.name)
            await asyncio.sleep(0.03)

    sending = asyncio.create_task(send())
    try:
        yield
        over.set()
        await sending
    finally:
        sending.cancel()


async def committed_more(world: World, count: int) -> None:
    """Wait until the group has committed `count` more inputs than it has now."""

    async def done() -> int:
        return sum(at for at, _ in (await world.progress()).values())

    goal = await done() + count

    async def reached() -> bool:
        return await done() >= goal

    await until(reached)


def options_of_kills(bootstrap: str, directory: Path) -> Options:
    """A service whose transactions time out while Kafka is away."""
    return Options(
        bootstrap=bootstrap,
        id="sum",
        directory=str(directory),
        partitions=8,
        transaction_timeout_ms=1_000,
        stuck_s_max=4.0,
    )


async def started(broker: KafkaServer) -> KafkaServer:
    """Start a Kafka and wait until it serves."""
    await broker.start()
    await broker.ready()
    return broker


async def kill_again_and_again(
    world: World, broker: KafkaServer, on_port: Callable[[int], KafkaServer], kills: int
) -> KafkaServer:
    """Kill Kafka so many times while a worker is at work, and start it again as `on_port` makes it.

    Each kill meets transactions in every state. Returns the Kafka that runs when everything is processed.
    """
    port = int(broker.bootstrap.rpartition(":")[2])
    async with load(world):
        await committed_more(world, 100)
    for _ in range(kills):
        await world.send_nowait(*world.more(1_500, keys=100))
        await broker.kill()
        broker = await started(on_port(port))
        await committed_more(world, 100)
    async with load(world):
        await committed_more(world, 100)
    await world.take_the_log_at_its_word()
    await world.all_processed()
    return broker
