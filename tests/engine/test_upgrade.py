"""The release before commits by partition: its group is upgraded worker by worker, and lets it in no more."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from app.engine.core.ownership import ByWorker
from app.engine.kafka.cluster import Cluster
from tests.engine.conftest import MakeWorld
from tests.engine.running import committed_more, directories, load, workers
from tests.engine.waiting import until
from tests.engine.workers import RELEASE_BEFORE, WorkerProcess
from tests.engine.world import World


async def owners(world: World) -> list[list[str]]:
    """By partition, what the register says."""
    cluster = Cluster(world.options.bootstrap, "unit")
    await cluster.start()
    try:
        way = ByWorker(cluster, world.options.id, world.quarantine_changelog, 1_000)
        found = await way.owners(range(world.options.partitions))
    finally:
        await cluster.stop()
    return [found[partition] for partition in sorted(found)]


def works(process: WorkerProcess, *others: WorkerProcess) -> Callable[[], bool]:
    """Whether each of the workers has said that it is ready since the last one began."""
    return lambda: all("ready: partitions" in each.said() for each in (process, *others))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_group_is_upgraded_worker_by_worker_and_loses_and_doubles_nothing(
    number: signal.Signals, make_world: MakeWorld
) -> None:
    world = await make_world(partitions=4)
    with workers() as start:
        old = [start(world, name, mutant=RELEASE_BEFORE) for name in "ab"]
        await until(works(*old))
        async with load(world, corrections=True):
            await committed_more(world, 100)
            for name, each in zip("ab", list(old), strict=True):
                assert await owners(world) == [[]] * 4, "no worker owns a partition beside the old release"
                each.signal(number)
                await each.ended()
                old.append(start(world, name))
                await until(works(old[-1]))
                await committed_more(world, 100)

            async def all_new() -> bool:
                return all(len(each) == 1 for each in await owners(world))

            await until(all_new)
            await committed_more(world, 100)
            old[-1].signal(signal.SIGKILL)
            await committed_more(world, 100)
        await world.all_processed()
        late = start(world, "late", mutant=RELEASE_BEFORE)
        assert await late.ended() != 0, "the release before is let in"
        assert "has members of another release" in late.said()
        old[-2].signal(signal.SIGTERM)
        assert await old[-2].ended() == 0
    assert await world.faults(directories=directories(world, "a", "b")) == []


async def test_the_way_back_leads_through_a_stop(make_world: MakeWorld) -> None:
    """All workers stop; when their transactions have timed out, the release before goes on."""
    world = await make_world(partitions=2, transaction_timeout_ms=1_000, session_timeout_s=1.0)
    with workers() as start:
        new = start(world, "a")
        async with load(world):
            await committed_more(world, 100)
            new.kill()
        await asyncio.sleep(3.0)
        old = start(world, "a", mutant=RELEASE_BEFORE)
        await world.send(*world.more(100))
        await world.all_processed()
        old.signal(signal.SIGTERM)
        assert await old.ended() == 0
    assert await world.faults(directories=directories(world, "a")) == []
