"""A worker that is stuck is ended; one that waits, or was stopped, is not."""

import asyncio
import signal

import pytest

from app.engine.core.watchdog import EXIT_STATUS
from tests.engine.conftest import MakeWorld
from tests.engine.running import committed_more, directories, load, workers
from tests.engine.service import Number
from tests.engine.waiting import until


@pytest.mark.parametrize("then", ["hang", "wait"])
async def test_a_stuck_worker_is_ended_and_says_what_is_stuck(make_world: MakeWorld, then: str) -> None:
    """An agent that keeps the event loop for itself, and one that awaits what never comes."""
    world = await make_world(stuck_s_max=3.0)
    with workers() as start:
        process = start(world, "a")
        await world.send(*world.more(20))
        await world.all_processed()
        await world.send(Number("stuck", "key-1", 1, then=then))
        assert await process.ended() == EXIT_STATUS
        assert "stuck for more than 3 s: " in process.said()
        assert ("misbehave" in process.said()) == (then == "hang")  # where the event loop is


async def test_a_worker_in_the_grip_of_a_call_into_c_is_ended_too(make_world: MakeWorld) -> None:
    world = await make_world(stuck_s_max=1.0)
    with workers() as start:
        process = start(world, "a")
        await world.send(*world.more(20))
        await world.all_processed()
        await world.send(Number("stuck", "key-1", 1, then="grip"))
        assert await process.ended() == 1
        assert "Timeout (0:00:03)!" in process.said()


async def test_a_worker_that_was_stopped_or_has_nothing_to_do_is_not_stuck(make_world: MakeWorld) -> None:
    world = await make_world(partitions=2, stuck_s_max=2.0)
    with workers() as start:
        process = start(world, "a")
        await world.send(*world.more(20))
        await world.all_processed()
        process.signal(signal.SIGSTOP)
        await process.frozen()
        await asyncio.sleep(4.0)
        process.signal(signal.SIGCONT)
        await asyncio.sleep(3.0)
        async with load(world):
            await committed_more(world, 100)
        await world.all_processed()
        await until(lambda: process.exit_code is None)
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await world.faults(directories=directories(world, "a")) == []
