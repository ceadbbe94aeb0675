"""Child processes as mode services: started, watched, restarted after growing pauses, stopped in order.

    supervisor = Supervisor(record=Path("processes.json"))
    await supervisor.start()
    await supervisor.add(venue)        # one stage after the other ...
    await supervisor.add(*workers)     # ... the children of one stage side by side
    await supervisor.stop()            # workers first, then the venue

Every child runs under `guard.py`: it ends with this process, however this one ends. A child that has
never worked and keeps dying by itself crashes its supervisor with a ProcessError that has the child's own
reason, and so does, at once, one that says by its exit status that only another configuration would help.
One that has worked before, or is killed from outside, is started again for ever: what ends it may pass. A
full disk ends nobody: logs and record are not written until there is room.
"""

import asyncio
import contextlib
import io
import json
import logging
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mode import Service

from app.config import child_environment
from app.errors import ProcessError
from app.processes.guarded import guarded
from app.processes.last_words import EXTERNAL, is_alive, reason_in, signal_of, told

log = logging.getLogger(__name__)

EXIT_CONFIGURATION: Final = 2
"""What a process ends with when only another configuration helps: a wrong setting, topics that don't fit."""

ORPHAN_GRACE_S: Final = 1.0
GONE_S_MAX: Final = 5.0
GONE_POLL_S: Final = 0.01
LOG_BYTES_MAX: Final = 10 * 1024 * 1024
TAIL_BYTES: Final = 16 * 1024
LAST_LINES: Final = 200


class Restarts:
    """When a dead process starts again: soon, then after growing pauses.

    A life of `healthy_s` clears the count; `deaths_max` within `within_s` without one are too many, for a
    process that has never worked. `pause_s_max` is the longest pause of all others. Not the engine's
    `Pauses`, nor a library's loop: a life is no call, its length decides, and children of one parent need no
    chance to keep out of each other's way.
    """

    def __init__(
        self,
        *,
        deaths_max: int = 5,
        within_s: float = 30.0,
        healthy_s: float = 10.0,
        pause_s_min: float = 0.05,
        pause_s_max: float = 3.0,
    ) -> None:
        self._deaths: deque[float] = deque()
        self._deaths_max = deaths_max
        self._within_s = within_s
        self._healthy_s = healthy_s
        self._pause_s_min = pause_s_min
        self.pause_s_max = pause_s_max

    def is_healthy(self, lived_s: float) -> bool:
        """Whether this was a life and not only a start."""
        return lived_s >= self._healthy_s

    def pause_after(self, lived_s: float, now_s: float) -> float | None:
        """How long to wait after a death at `now_s`; None: these were too many."""
        if self.is_healthy(lived_s):
            self._deaths.clear()
        self._deaths.append(now_s)
        while now_s - self._deaths[0] > self._within_s:
            self._deaths.popleft()
        if len(self._deaths) >= self._deaths_max:
            return None
        return min(self.pause_s_max, self._pause_s_min * 4.0 ** (len(self._deaths) - 1))


class Dispensable:
    """Guards the writing of a file that processes can do without."""

    def __init__(self) -> None:
        self._fails = False

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Write in a `with` block; that it fails is said once, until it succeeds again."""
        try:
            yield
        except OSError as error:  # the disk is full or ill: no reason to end processes that work
            if not self._fails:
                log.warning("%s is not written, everything else goes on: %s", path, error)
            self._fails = True
        else:
            self._fails = False


class LogFile:
    """What a child writes, in a file that is moved to `<name>.1` when it is full; knows the last lines.

    Words that find no room on the disk are lost.
    """

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._tail = b""
        self._dispensable = Dispensable()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    def _open(self) -> io.FileIO:
        return self.path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        with self._dispensable.writing(self.path):
            if self._file.tell() + len(data) > self._bytes_max:
                self._rotate()
            self._file.write(data)

    def _rotate(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # moved already, when no new one could be opened
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        full, self._file = self._file, self._open()
        full.close()

    def begin(self, what: str) -> None:
        """Mark the start of another process; the last lines are its own from here on."""
        self.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n".encode())
        self._tail = b""

    def last_lines(self, count: int = LAST_LINES) -> list[str]:
        return self._tail.decode(errors="replace").splitlines()[-count:]

    def close(self) -> None:
        with self._dispensable.writing(self.path):
            self._file.close()


class Child(Service):
    """One process, kept alive until this service stops.

    Subclasses say what to run, what to do after a death, and which exit status ends their work for good.
    """

    grace_s = 10.0
    """Between SIGTERM and SIGKILL, when it is to stop."""

    def __init__(self, name: str, logs: Path, restarts: Restarts | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.pid: int | None = None
        """The process itself, while it runs; its guard is nobody's business."""
        self.starts = 0
        self.output = LogFile(logs / f"{name}.log")
        self.owner: Supervisor | None = None
        self.has_worked = False
        """Whether a life of it has been long enough to count, or its owner has seen it work."""
        self.exit_status: int | None = None
        """Of a child that is done, see `done`."""
        self.done = asyncio.Event()
        self._restarts = restarts or Restarts()
        self._changing = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None
        self._started_at = 0.0

    # -- for subclasses

    def command(self) -> list[str]:
        """What to run; asked before every start."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The environment of the next start; asked after `command`."""
        return child_environment()

    async def after_death(self) -> None:
        """Called at once when the process has ended by itself, beside its restart. Must not raise."""

    def is_done(self, status: int) -> bool:
        """Whether an end with this status is the end of the work, so that nothing is started again."""
        return False

    def is_final(self, status: int) -> bool:
        """Whether an end with this status would come again whenever it is started."""
        return status == EXIT_CONFIGURATION

    def gives_up(self, status: int) -> bool:
        """Whether an end like this one, after too many, means that it will never work."""
        return not self.has_worked and status != 0 and signal_of(status) not in EXTERNAL

    # -- life

    async def on_start(self) -> None:
        await self._launch()

    @Service.task
    async def _keep_alive(self) -> None:
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if self.should_stop:
                return
            killed, self.pid = self.pid, None
            self.add_future(self.after_death())
            if status < 0 and killed is not None:
                await until_gone(killed)  # the guard was killed, and the kernel is about to take the child
            if self.is_done(status):
                await self._finish(status)
                return
            await self._restart(status)

    async def _restart(self, status: int) -> None:
        now_s = time.monotonic()
        lived_s = now_s - self._started_at
        self.has_worked = self.has_worked or self._restarts.is_healthy(lived_s)
        why = await self._why(status)
        if self.is_final(status):
            raise ProcessError(f"{self.name} can't work: {why}; see {self.output.path}")
        pause_s = self._restarts.pause_after(lived_s, now_s)
        if pause_s is None and self.gives_up(status):
            raise ProcessError(f"{self.name} keeps dying, last with {why}; see {self.output.path}")
        if pause_s is None:
            pause_s = self._restarts.pause_s_max
        log.warning(
            "%s has ended after %.1f s, %s: starting again in %.2f s", self.name, lived_s, why, pause_s
        )
        self._note_change()
        await self.sleep(pause_s)
        await self._launch()

    async def _why(self, status: int) -> str:
        """The end in words: its signal, else the reason that the process itself gave last."""
        if signal_of(status) in EXTERNAL:
            return told(status)
        await self._drain_output()
        reason = reason_in(self.output.last_lines())
        return reason if self.is_final(status) else f"{told(status)}: {reason}"

    @property
    def reason(self) -> str:
        """Why the process ended, as far as it said so itself."""
        return reason_in(self.output.last_lines())

    async def _finish(self, status: int) -> None:
        await self._drain_output()
        self.exit_status = status
        self._note_change()
        self.done.set()

    async def _launch(self) -> None:
        async with self._changing:
            if self.should_stop:
                return
            self.starts += 1
            command = self.command()
            process = await asyncio.create_subprocess_exec(
                *guarded(command, ORPHAN_GRACE_S),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment(),
                start_new_session=True,  # Ctrl-C is for the supervisor, who stops its children in order
            )
            assert process.stdout is not None
            assert process.stderr is not None
            self._process, self._started_at = process, time.monotonic()
            self.pid = int(await process.stdout.readline() or 0) or None
            self.output.begin(f"start {self.starts} of {self.name}, pid {self.pid}")
            self._copying = asyncio.create_task(self._copy(process.stderr))
        self._note_change()

    async def on_stop(self) -> None:
        async with self._changing:  # a start that is under way is stopped right after it
            process = self._process
        if process is not None and process.returncode is None:
            await self._end(process)
        await self._drain_output()
        self.pid = None
        self.output.close()
        self._note_change()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """SIGTERM, by the guard; SIGKILL when the grace is over."""
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(f"{self.grace_s}\n".encode())
            await process.stdin.drain()
        try:
            await asyncio.wait_for(process.wait(), self.grace_s + 2)
        except TimeoutError:
            process.kill()  # the kernel takes the child with its guard
            await process.wait()

    async def _copy(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(64 * 1024):
            self.output.write(data)

    async def _drain_output(self) -> None:
        if self._copying is not None:
            await asyncio.wait([self._copying], timeout=1.0)
            self._copying.cancel()

    def _note_change(self) -> None:
        if self.owner is not None:
            self.owner.write_record()


class Supervisor(Service):
    """Owns children in stages. One that gives up crashes this service: see `crash_reason`.

    `record` is a file that tells which process runs as what, {name: pid}, and always does if there is room.
    """

    def __init__(self, record: Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.children: list[Child] = []
        self._stages: list[tuple[Child, ...]] = []
        self._record = record
        self._dispensable = Dispensable()
        self.others: Callable[[], Mapping[str, int]] = dict
        """Processes that are not ours, and are to be in the record: {name: pid}."""

    async def add(self, *children: Child) -> None:
        """Start the children of one more stage; returns when their processes run."""
        self._stages.append(children)
        for child in children:
            child.owner = self
            self.children.append(child)
            self.add_dependency(child)
        await asyncio.gather(*(child.maybe_start() for child in children))

    async def on_stop(self) -> None:
        for stage in reversed(self._stages):
            await asyncio.gather(*(child.stop() for child in stage))
        if self._record is not None:
            self._record.unlink(missing_ok=True)

    def hurry(self, grace_s: float) -> None:
        """Give children no more than this between SIGTERM and SIGKILL."""
        for child in self.children:
            child.grace_s = min(child.grace_s, grace_s)

    def write_record(self) -> None:
        if self._record is not None and not self.should_stop:
            running = {child.name: child.pid for child in self.children if child.pid is not None}
            running |= self.others()
            unfinished = self._record.with_name(f"{self._record.name}.new")
            with self._dispensable.writing(self._record):
                unfinished.write_text(json.dumps(running, indent=2) + "\n", encoding="utf-8")
                unfinished.replace(self._record)


async def until_gone(pid: int, within_s: float = GONE_S_MAX) -> None:
    """Wait, not for ever, until a process that is being killed has let go of its files and locks."""
    give_up_at = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < give_up_at:  # noqa: ASYNC110 - another process
        await asyncio.sleep(GONE_POLL_S)
