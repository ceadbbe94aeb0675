"""Whole workers in processes of their own: killed at every step, frozen, joined and left by others."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import msgspec
import pytest

from app.devkafka.server import KafkaServer
from app.engine.state.store import TaskStore
from storm.steps import STARTING, WORKING, Step
from tests.engine.conftest import MakeWorld
from tests.engine.running import (
    committed_more,
    directories,
    kill_again_and_again,
    load,
    options_of_kills,
    started,
    workers,
)
from tests.engine.waiting import until
from tests.engine.workers import WorkerProcess
from tests.engine.world import World
from tests.tied import end_with_parent

QUICKLY_S = 0.6


async def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(make_world: MakeWorld) -> None:
    world = await make_world(partitions=2, session_timeout_s=QUICKLY_S)
    starting = [(step, 1) for step in STARTING]
    working = [(step, 2) for step in WORKING]
    with workers() as start:
        await world.send(*world.more(40))
        first = start(world, "a")
        await world.all_processed()
        first.kill()
        for number, at in enumerate([*working, *starting]):
            await world.send(*world.more(40))
            name = "ab"[number % 2] if at in working else at[0].name  # with something to restore
            process = start(world, name, kill_at=[(*at, "kill")])
            assert await process.ended() == -signal.SIGKILL, f"{at} was never reached:\n{process.said()}"
        last = start(world, "a")
        await world.all_processed()
        last.signal(signal.SIGTERM)
        assert await last.ended() == 0
    assert await world.faults(directories=directories(world, "a", "b")) == []


PROMOTION = (Step.BEFORE_PROMOTION, Step.BEFORE_TAIL, Step.IN_TAIL, Step.PROMOTED)
REBALANCE = (Step.IN_REVOCATION, Step.BEFORE_REBALANCE, Step.AFTER_REBALANCE)


@pytest.mark.parametrize("step", [*PROMOTION, *REBALANCE])
async def test_a_standby_killed_while_it_takes_over_loses_and_doubles_nothing(
    step: Step, make_world: MakeWorld
) -> None:
    world = await make_world(session_timeout_s=QUICKLY_S)
    with workers() as start:
        first = start(world, "a", kill_at=[(Step.AFTER_PRODUCE, 6, "kill")])
        await until(lambda: "is ours" in first.said())
        second = start(world, "b", kill_at=[(step, 2 if step in REBALANCE else 1, "kill")])
        await until(lambda: "assigned partitions" in second.said())
        async with load(world):
            assert await first.ended() == -signal.SIGKILL
            assert await second.ended() == -signal.SIGKILL, f"{step} was never reached:\n{second.said()}"
        last = start(world, "b")
        await world.all_processed()
        last.signal(signal.SIGTERM)
        assert await last.ended() == 0
    assert await world.faults(directories=directories(world, "a", "b")) == []


async def test_workers_that_come_and_go_under_load_lose_and_double_nothing(make_world: MakeWorld) -> None:
    world = await make_world(partitions=4)
    with workers() as start:
        first = start(world, "a")
        async with load(world):
            for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
                second = start(world, "b")
                await until(lambda: "is ours" in second.said())  # noqa: B023
                await committed_more(world, 200)
                second.signal(end)
                await second.ended()
                await committed_more(world, 100)
            third = start(world, "c")
            await until(lambda: "is ours" in third.said())
            first.signal(signal.SIGTERM)
            assert await first.ended() == 0
            await committed_more(world, 100)
        await world.all_processed()
        third.signal(signal.SIGTERM)
        assert await third.ended() == 0
    assert await world.faults(directories=directories(world, "a", "b", "c")) == []


async def test_a_worker_frozen_in_its_commit_is_fenced_and_joins_again(make_world: MakeWorld) -> None:
    world = await make_world(partitions=2)
    with workers() as start:
        async with load(world):
            frozen = start(world, "frozen", kill_at=[(Step.BEFORE_COMMIT, 5, "freeze")])
            await frozen.frozen()
            awake = start(world, "awake")
            await until(lambda: awake.said().count("is ours") >= 2)
            await committed_more(world, 200)
            frozen.signal(signal.SIGCONT)
            await until(lambda: "is fenced" in frozen.said())
            await until(lambda: "is ours" in frozen.said().split("is fenced")[-1])
            await until(lambda: shared_out([frozen, awake], 2))
            await committed_more(world, 200)
            awake.kill()
            await committed_more(world, 100)
        await world.all_processed()
        frozen.signal(signal.SIGTERM)
        assert await frozen.ended() == 0
    assert await world.faults(directories=directories(world, "frozen", "awake")) == []


async def test_zombies_are_fenced_and_work_again_under_load_and_when_idle(make_world: MakeWorld) -> None:
    """Both inputs flow; in turn each worker sleeps past its session and wakes up as if it owned all."""
    world = await make_world(partitions=4)
    with workers() as start:
        pair = [start(world, name) for name in "ab"]
        await until(lambda: shared_out(pair, 4))
        await until(lambda: all(ours(p) in each.said() for each in pair for p in given(each)[0]))
        for number, (zombie, other) in enumerate([pair, pair[::-1], pair]):
            idle = number == 2
            async with nullcontext() if idle else load(world, corrections=True):
                zombie.signal(signal.SIGSTOP)
                await zombie.frozen()
                await until(lambda: not given(other)[1])  # the group has given it everything  # noqa: B023
                if not idle:
                    await committed_more(world, 200)
                before = len(zombie.said())
                zombie.signal(signal.SIGCONT)
                await until(lambda: "is fenced" in zombie.said()[before:])  # noqa: B023
                await until(lambda: shared_out(pair, 4))
                await until(
                    lambda: all(ours(partition) in zombie.said()[before:] for partition in given(zombie)[0])  # noqa: B023
                )
            await world.send(*world.more(100))
            await world.all_processed()
        for each in pair:
            each.signal(signal.SIGTERM)
            assert await each.ended() == 0
    assert await world.faults(directories=directories(world, "a", "b")) == []


async def test_a_partition_that_moves_is_worked_at_until_its_new_owner_has_the_tables(
    make_world: MakeWorld,
) -> None:
    world = await make_world(partitions=4, session_timeout_s=20.0)
    with workers() as start:
        first = start(world, "first")
        await world.send(*world.more(400, keys=97))
        await world.all_processed()
        second = start(world, "second", kill_at=[(Step.IN_RESTORE, 1, "freeze")])
        await second.frozen()  # assigned, in the middle of its tables
        await world.send(*world.more(100, keys=97))
        await world.all_processed()
        assert "is fenced" not in first.said()
        second.signal(signal.SIGCONT)
        await until(lambda: second.said().count("is ours") == 2)
        await until(lambda: first.said().count("is fenced") == 2)  # idle as it is
        await world.send(*world.more(100, keys=97))
        await world.all_processed()
    assert await world.faults(directories=directories(world, "first", "second")) == []


async def test_a_killed_worker_s_partitions_go_to_the_workers_that_followed_them(
    make_world: MakeWorld,
) -> None:
    world = await make_world(partitions=4)
    with workers() as start:
        async with load(world):
            running = [start(world, name) for name in "abc"]
            await until(lambda: shared_out(running, 4))
            await committed_more(world, 200)
            assert shared_out(running, 4), [given(each) for each in running]
            dead, *living = running
            owned, followed = given(dead)[0], [given(each)[1] for each in living]
            dead.kill()
            await until(lambda: shared_out(living, 4))
            await committed_more(world, 100)
        for process, standbys in zip(living, followed, strict=True):
            assert owned & given(process)[0] <= standbys
        await world.all_processed()
    assert await world.faults(directories=directories(world, "b", "c")) == []


def ours(partition: int) -> str:
    """What a worker says when it has taken a partition over."""
    return f"-{partition} is ours"


def given(process: WorkerProcess) -> tuple[set[int], set[int]]:
    """The partitions that the group has given to a worker last, and those to follow."""
    found = re.findall(r"assigned partitions \[(.*)\], standbys of \[(.*)\]", process.said()) or [("", "")]
    actives, standbys = ({int(each) for each in text.split(",") if each} for text in found[-1])
    return actives, standbys


def shared_out(running: Sequence[WorkerProcess], partitions: int) -> bool:
    """Whether each partition has one owner and one standby, and each worker owns some."""
    parts = [given(each) for each in running]
    everything = list(range(partitions))
    return all(actives for actives, _ in parts) and all(
        sorted(partition for part in parts for partition in part[kind]) == everything for kind in (0, 1)
    )


async def test_at_least_once_nothing_is_lost_when_workers_are_killed(make_world: MakeWorld) -> None:
    world = await make_world(partitions=2, exactly_once=False, session_timeout_s=QUICKLY_S)
    with workers() as start:
        for step in (Step.BEFORE_PRODUCE, Step.AFTER_PRODUCE, Step.AFTER_APPLY, Step.IN_RESTORE):
            await world.send(*world.more(40))
            number = 1 if step is Step.IN_RESTORE else 3
            process = start(world, step.name, kill_at=[(step, number, "kill")])
            await world.send(*world.more(40))
            while process.exit_code is None:
                await world.send(*world.more(5))
                await asyncio.sleep(0.02)
        second = start(world, "second")
        async with load(world):
            last = start(world, "last")
            await until(lambda: "is ours" in last.said())
            await committed_more(world, 100)
            second.kill()
            await committed_more(world, 100)
        await world.all_processed()
    assert await world.faults(exactly_once=False) == []


async def test_an_agent_that_fails_outside_its_unit_of_work_starts_again(make_world: MakeWorld) -> None:
    """If one task meets all failures, they are still fewer than make a record a dead letter."""
    world = await make_world(partitions=2, stumbles=2)
    with workers() as start:
        process = start(world, "a")
        async with load(world, count=2):
            await committed_more(world, 100)
        await world.all_processed()
        assert process.said().count("stumbles outside its unit of work") >= 4
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await world.faults(directories=directories(world, "a")) == []


async def test_a_companion_works_between_the_batches(make_world: MakeWorld) -> None:
    world = await make_world(partitions=2, ticks=40)
    world.expect_ticks()
    with workers() as start:
        async with load(world):
            first = start(world, "a", kill_at=[(Step.BEFORE_COMMIT, 40, "kill")])
            assert await first.ended() == -signal.SIGKILL
            start(world, "b")
            await committed_more(world, 300)
        await world.all_processed()

        async def ticked() -> bool:
            table = await world.table()
            return all(key in table and table[key].count == 40 for key in ("tick-0", "tick-1"))

        await until(ticked)
    assert await world.faults(directories=directories(world, "b")) == []


async def test_a_mutant_is_as_wrong_in_a_worker_of_its_own(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.send(*world.more(40))
    with workers() as start:
        dies = [(Step.BEFORE_COMMIT, 2, "kill")]
        process = start(world, "a", kill_at=dies, mutant="store_before_commit")
        assert await process.ended() == -signal.SIGKILL
    assert any("tables/0 sums" in each for each in await world.wrong_stores(*directories(world, "a")))


async def test_a_table_ahead_of_its_changelog_stops_the_worker(make_world: MakeWorld) -> None:
    world = await make_world()
    path = Path(world.options.directory) / "a" / "v1" / "tables" / "0"
    store = TaskStore(path)
    store.apply({}, {"sums": 1000})
    store.close()
    with workers() as start:
        process = start(world, "a")
        assert await process.ended() not in (0, None)
        (line,) = [each for each in process.said().splitlines() if each.startswith("error: ")]
        assert "ends at 0 but" in line
        assert process.exit_code == 1


async def test_faust_runs_the_service_and_a_signal_ends_it(make_world: MakeWorld, tmp_path: Path) -> None:
    world = await make_world(partitions=2)
    await world.send(*world.more(50))
    options = msgspec.structs.replace(world.options, directory=str(tmp_path / "a"))
    command = [sys.executable, "-m", "faust", "-A", "tests.engine.worker", "worker", "-l", "info"]
    environment = {**os.environ, "TEST_SERVICE": msgspec.json.encode(options).decode()}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  (one that lives on)
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
        )
    try:
        await world.all_processed()
        process.send_signal(signal.SIGTERM)
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    assert await world.faults(directories=directories(world, "a")) == []


@pytest.mark.timeout(180)
async def test_a_broker_killed_again_and_again_costs_nothing_and_a_worker_ends_without_it(
    tmp_path: Path,
) -> None:
    """The coordinator must end all transactions when it is back."""
    on_port = partial(KafkaServer, tmp_path / "kafka")
    broker = await started(on_port(0))
    async with World(options_of_kills(broker.bootstrap, tmp_path)) as world:
        with workers() as start:
            process = start(world, "a")
            broker = await kill_again_and_again(world, broker, on_port, kills=3)
            assert process.exit_code is None
            assert await world.faults() == []
            assert "can be skipped" not in broker.log_file.read_text()  # markers, see artifacts.py
            await broker.kill()
            process.signal(signal.SIGTERM)
            await process.ended()
