"""The supervisor with real processes: restarts, giving up, the order of an end, and no orphans."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.errors import ProcessError
from app.processes.supervisor import Child, Restarts, Supervisor

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
DIES = "import sys; print('no luck', flush=True); sys.exit(3)"
MISCONFIGURED = "import sys; sys.exit(print('error: SPEED is \\'x\\'', flush=True) or 2)"
IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


class Program(Child):
    """A child that runs a line of Python and notes in `ends` that it has ended."""

    grace_s = 0.5

    def __init__(self, name: str, code: str, logs: Path, ends: Path | None = None) -> None:
        super().__init__(name, logs, restarts=Restarts(deaths_max=3))
        self._code = code
        self._ends = ends
        self.deaths = 0

    def command(self) -> list[str]:
        if self._ends is None:
            return [sys.executable, "-I", "-c", self._code]
        note = f"open({str(self._ends)!r}, 'a').write({self.name!r} + ' ')"
        stop = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: ({note}, sys.exit()))"
        return [sys.executable, "-I", "-c", f"{stop}; {self._code}"]

    async def after_death(self) -> None:
        self.deaths += 1


@asynccontextmanager
async def supervised(*stages: tuple[Child, ...], record: Path | None = None) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(record)
    await supervisor.start()
    try:
        for stage in stages:
            await supervisor.add(*stage)
        yield supervisor
    finally:
        await supervisor.stop()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.01)
    return condition()


def pid_of(child: Child) -> int:
    assert child.pid is not None
    return child.pid


async def test_a_killed_child_is_started_again_and_its_death_is_told(tmp_path: Path) -> None:
    record = tmp_path / "processes.json"
    child = Program("child", SLEEPS, tmp_path)

    async with supervised((child,), record=record):
        first = pid_of(child)
        assert json.loads(record.read_text()) == {"child": first}
        os.kill(first, signal.SIGKILL)

        assert await until(lambda: child.pid not in (None, first))
        assert (child.deaths, child.starts) == (1, 2)
        assert json.loads(record.read_text()) == {"child": child.pid}
    assert not record.exists()


async def test_a_child_that_never_worked_and_keeps_dying_crashes_the_supervisor_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child = Program("wretch", DIES, tmp_path)

    assert await crash_of(child) == (
        f"wretch keeps dying, last with exit status 3: no luck; see {tmp_path}/wretch.log"
    )
    assert re.search(
        r"wretch has ended after \S+ s, exit status 3: no luck: starting again in 0.05 s", caplog.text
    )
    assert child.starts == 3


async def crash_of(child: Child) -> str:
    async with supervised((child,)) as supervisor:
        await asyncio.wait_for(supervisor.wait_until_stopped(), 10)
        assert isinstance(supervisor.crash_reason, ProcessError)
        return str(supervisor.crash_reason)


async def test_a_wrong_configuration_is_told_at_once_and_not_tried_again(tmp_path: Path) -> None:
    child = Program("wretch", MISCONFIGURED, tmp_path)

    assert await crash_of(child) == f"wretch can't work: SPEED is 'x'; see {tmp_path}/wretch.log"
    assert child.starts == 1


@pytest.mark.parametrize("whom", ["the child", "its guard"])
async def test_no_number_of_kills_ends_the_supervisor(tmp_path: Path, whom: str) -> None:
    child = Program("child", SLEEPS, tmp_path)
    child._restarts = Restarts(deaths_max=2, pause_s_max=0.05)

    async with supervised((child,)) as supervisor:
        for _ in range(5):
            first = pid_of(child)
            os.kill(first if whom == "the child" else guard_of(first), signal.SIGKILL)
            assert await until(lambda: child.pid not in (None, first))  # noqa: B023
            assert not is_running(first)
        assert not supervisor.crashed
    assert child.starts == 6


async def test_a_child_that_has_worked_is_started_again_for_ever(tmp_path: Path) -> None:
    """Its cause may pass: Kafka's disk is full, the memory is short, a stranger holds its port."""
    child = Program("wretch", DIES, tmp_path)
    child._restarts = Restarts(deaths_max=2, pause_s_max=0.05)
    child.has_worked = True

    async with supervised((child,)) as supervisor:
        assert await until(lambda: child.starts > 5)
        assert not supervisor.crashed


def guard_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def test_a_child_goes_on_though_its_words_find_no_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would wait for ever in front of a full pipe if nobody took them."""
    ends, log = tmp_path / "ends", tmp_path / "worker.log"
    talks = f"print('word ' * 200_000, flush=True); open({str(ends)!r}, 'w').write('said'); {SLEEPS}"
    log.symlink_to("/dev/full")
    child = Program("worker", talks, tmp_path)
    async with supervised((child,)):
        assert await until(ends.exists)
        assert await until(lambda: child.output.last_lines(1) == ["up"])
    assert caplog.text.count(f"{log} is not written, everything else goes on: [Errno 28]") == 1


async def test_a_full_disk_keeps_no_child_from_starting_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, unfinished = tmp_path / "processes.json", tmp_path / "processes.json.new"
    child = Program("child", SLEEPS, tmp_path)

    async with supervised((child,), record=record) as supervisor:
        before = record.read_text()
        unfinished.symlink_to("/dev/full")
        await die_and_start_again(child)
        assert not supervisor.crashed
        assert record.read_text() == before
        assert caplog.text.count(f"{record} is not written") == 1
        unfinished.unlink()
        await die_and_start_again(child)
        assert json.loads(record.read_text()) == {"child": child.pid}


async def die_and_start_again(child: Child) -> None:
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)
    assert await until(lambda: child.pid not in (None, first))


async def test_stages_stop_in_the_opposite_order_and_gently(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    first, second, third = (Program(name, SLEEPS, tmp_path, ends) for name in ("venue", "worker", "feed"))

    async with supervised((first,), (second,), (third,)):
        assert await until(lambda: all(each.output.last_lines() == ["up"] for each in (first, second, third)))

    assert ends.read_text().split() == ["feed", "worker", "venue"]


async def test_a_child_that_does_not_stop_is_killed_when_its_grace_is_over(tmp_path: Path) -> None:
    child = Program("deaf", IGNORES_SIGTERM, tmp_path)

    async with supervised((child,)):
        assert await until(lambda: child.output.last_lines() == ["up"])
        pid = pid_of(child)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert not is_running(pid)


async def test_a_stop_between_death_and_restart_leaves_nothing_behind(tmp_path: Path) -> None:
    before = guards()
    child = Program("child", SLEEPS, tmp_path)

    async with supervised((child,)):
        os.kill(pid_of(child), signal.SIGKILL)
        assert await until(lambda: child.deaths == 1)

    await asyncio.sleep(0.3)
    assert child.pid is None
    assert guards() <= before


async def test_children_are_gone_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    program = f"""if True:
        import asyncio, sys
        from pathlib import Path
        from app.processes.supervisor import Child, Supervisor

        class Sleeper(Child):
            def command(self):
                return [sys.executable, "-I", "-c", {IGNORES_SIGTERM!r}]

        async def main():
            supervisor, child = Supervisor(), Sleeper("sleeper", Path({str(tmp_path)!r}))
            await supervisor.start()
            await supervisor.add(child)
            print(child.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    child = int(await supervisor.stdout.readline())
    assert is_running(child)

    supervisor.kill()
    await supervisor.communicate()

    assert await until(lambda: not is_running(child), within_s=5)


def guards() -> set[int]:
    """The guards that this process has started and that still run."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {int(each) for each in children if b"guard.py" in Path(f"/proc/{each}/cmdline").read_bytes()}
