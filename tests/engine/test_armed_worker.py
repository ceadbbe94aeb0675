"""A worker process whose steps can be armed from outside while it runs, or before it starts."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from storm.steps import Step
from storm.worker import ActionName, arm
from tests.engine.conftest import MakeWorld
from tests.engine.waiting import until
from tests.engine.workers import state_of
from tests.engine.world import World
from tests.tied import end_with_parent


class ArmedWorker:
    """`python -m storm.worker` on the example service."""

    def __init__(self, world: World, **environment: str) -> None:
        directory = Path(world.options.directory) / "armed"
        directory.mkdir(exist_ok=True)
        self.log = directory / "log"
        self._arming = directory / "arm.json"
        service = msgspec.structs.replace(world.options, directory=str(directory))
        command = [*(sys.executable, "-m", "storm.worker", "-A", "tests.engine.worker")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--datadir", str(directory), "worker", "-l", "info", "--without-web"],
                env={
                    **os.environ,
                    "TEST_SERVICE": msgspec.json.encode(service).decode(),
                    "STORM_ARM": str(self._arming),
                    **environment,
                },
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )

    def arm(self, step: Step, number: int, action: ActionName) -> None:
        arm(self.process.pid, self._arming, step, number, action)

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None)
        assert self.process.returncode is not None
        return self.process.returncode

    async def said(self, text: str) -> None:
        await until(lambda: text in self.log.read_text(errors="replace"))


@contextmanager
def running(world: World, **environment: str) -> Iterator[ArmedWorker]:
    worker = ArmedWorker(world, **environment)
    try:
        yield worker
    except BaseException:
        print(worker.log.read_text(errors="replace")[-4000:])
        raise
    finally:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


async def test_a_step_armed_from_outside_kills_the_worker_there(make_world: MakeWorld) -> None:
    world = await make_world(session_timeout_s=0.6)
    with running(world) as worker:
        await world.send(*world.more(10))
        await world.all_processed()
        worker.arm(Step.BEFORE_COMMIT, 2, "kill")
        await worker.said("storm: armed: kill before the commit, time 2")
        for _ in range(2):
            assert worker.process.poll() is None
            await world.send(*world.more(5))
            await asyncio.sleep(0.5)
        assert await worker.ended() == -signal.SIGKILL
        await worker.said("storm: kill before the commit")
    with running(world):
        await world.all_processed()
    assert await world.faults() == []


async def test_a_step_armed_before_the_start_is_found_and_only_once(make_world: MakeWorld) -> None:
    world = await make_world(session_timeout_s=0.6)
    with running(world) as worker:
        worker.arm(Step.RESTORED, 1, "kill")
        await world.send(*world.more(10))
        assert await worker.ended() == -signal.SIGKILL
    with running(world):
        await world.all_processed()
    assert await world.faults() == []


async def test_a_worker_frozen_at_a_step_goes_on_when_it_is_let(make_world: MakeWorld) -> None:
    world = await make_world()
    with running(world) as worker:
        await world.send(*world.more(10))
        await world.all_processed()
        worker.arm(Step.AFTER_COMMIT, 1, "freeze")
        await worker.said("storm: armed")
        await world.send(*world.more(5))
        await until(lambda: state_of(worker.process.pid) == "T")
        worker.process.send_signal(signal.SIGCONT)
        await world.send(*world.more(5))
        await world.all_processed()
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ended() == 0
    assert await world.faults() == []


@pytest.mark.parametrize("word", ["kill", "freeze"])
def test_arming_one_that_is_gone_waits_for_the_next(word: ActionName, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    arm(gone.pid, tmp_path / "arm.json", Step.BEFORE_ADD, 1, word)
    assert (tmp_path / "arm.json").exists()
