"""Child processes that can't outlive the bench, and can't make it wait for ever."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

STOP_SECONDS_MAX = 15.0
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 15


class BenchError(Exception):
    """A contender or the broker failed; the message ends with its last log lines."""


class Child:
    """A process whose output goes to a log file and that ends when its stdin does."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None):
        self.name = name
        self.log = log
        self.started_at = time.monotonic()
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise `BenchError` if the process has ended."""
        status = self._process.poll()
        if status is not None:
            raise self.error(f"ended with status {status}")

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end, for so long at most; whether it has come."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def finish(self, seconds_max: float) -> None:
        """Wait for the end; raise `BenchError` when it does not come in time, or is a failure."""
        try:
            status = self._process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise self.error(f"did not end in {seconds_max:.0f} s") from None
        if status:
            raise self.error(f"ended with status {status}")

    def error(self, problem: str) -> BenchError:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return BenchError(
            "\n    ".join([f"{problem}; the last lines of {self.name}:", *(lines or ["(none)"])])
        )

    def wait_until(self, true: Callable[[], bool], seconds_max: float, what: str) -> None:
        """Wait for a condition; raise `BenchError` when the process ends before, or time is up."""
        deadline = time.monotonic() + seconds_max
        while not true():
            self.check()
            if time.monotonic() > deadline:
                raise self.error(f"did not {what} in {seconds_max:.0f} s")
            time.sleep(POLL_SECONDS)

    def marks(self, name: str) -> list[dict[str, Any]]:
        """What the process told with `worker.mark(name, ...)` so far."""
        marks = []
        for line in self.log.read_text(errors="replace").splitlines():
            _, found, after = line.partition('{"mark"')  # Faust's spinner may stand before it
            if found:
                with suppress(ValueError):
                    marks.append(json.loads(found + after))
        return [mark for mark in marks if mark["mark"] == name]

    def memory_mib(self) -> float:
        """Proportional set size of the process and its children (Linux)."""
        return sum(_pss_kib(pid) for pid in (self.pid, *descendants(self.pid))) / 1024

    def cpu_seconds(self) -> float:
        """Processor time of the process and its children so far (Linux)."""
        return sum(map(cpu_seconds, (self.pid, *descendants(self.pid))))

    def seconds_on_cpu(self) -> float:
        """The same of the threads that live, to the nanosecond (Linux): for what uses little."""
        return sum(map(_thread_seconds, (self.pid, *descendants(self.pid))))

    def kill(self) -> float:
        """SIGKILL; returns when it is gone, with the moment just before the signal."""
        at = time.monotonic()
        self._process.kill()
        self._process.wait()
        return at

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole group after `STOP_SECONDS_MAX`."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS_MAX)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


@contextmanager
def child(
    name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """A `Child` for the time of a `with` block."""
    process = Child(name, command, log, env)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A temporary directory that a second process removes, however this one ends."""
    path = Path(tempfile.mkdtemp(prefix="trading-bench-"))
    janitor = subprocess.Popen(
        [sys.executable, "-m", "bench.processes", str(path)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield path
    finally:
        janitor.communicate()


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack like Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def descendants(pid: int) -> list[int]:
    """All that the process has started and that has not ended (Linux)."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            found += map(int, children.read_text().split())
    return found + [grandchild for child in found for grandchild in descendants(child)]


def cpu_seconds(pid: int) -> float:
    """Processor time of one process so far; 0 when it has ended (Linux)."""
    return _cpu_ticks(pid) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Resident memory of one process; 0 when it has ended (Linux)."""
    with suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def _pss_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _cpu_ticks(pid: int) -> int:
    """User and system time: fields 14 and 15 of proc(5)'s stat, counted behind the name in brackets."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _thread_seconds(pid: int) -> float:
    """The first field of each thread's schedstat: nanoseconds on a processor."""
    nanoseconds = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended meanwhile
            nanoseconds += int(schedstat.read_text().split()[0])
    return nanoseconds / 1e9


def _remove_when_stdin_ends(path: Path) -> None:
    """The janitor: wait for the parent's end, then remove its directory, still being written to or not."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    for _ in range(40):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            break
        time.sleep(0.5)


if __name__ == "__main__":
    _remove_when_stdin_ends(Path(sys.argv[1]))
