"""`python -m app …` as a process of its own, for tests that watch it from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.tied import end_with_parent


class Running:
    """A command under way; its lines are collected. `tree` is the code to run, without it this one.

    Leaving the context stops it, at worst with SIGKILL.
    """

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, tree: Path | None = None
    ) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", *arguments],
            env=os.environ | (environment or {}),
            cwd=tree,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=end_with_parent,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.wait(30)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def wait(self, within_s: float) -> int:
        """The exit status; a process that takes longer is killed."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not over after {within_s} s:\n{self.said}") from None
        finally:
            self._reader.join(5)

    def until_said(self, text: str, within_s: float = 60.0) -> None:
        self.until(lambda: text in self.said, f"to say {text!r}", within_s)

    def until(self, condition: Callable[[], object], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            over = self.process.poll() is not None
            assert not over, f"never came {what}, ended with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"took too long {what}:\n{self.said}"
            time.sleep(0.02)


def processes(data_dir: Path) -> dict[str, int]:
    """The pids by name that a run on this directory tells; empty while it tells none."""
    try:
        found: dict[str, int] = json.loads((data_dir / "processes.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def mentioning(path: Path) -> list[str]:
    """Command lines of live processes that name this path: what a run has left behind."""
    return list(processes_with(path).values())


def processes_with(path: Path) -> dict[int, str]:
    """Live processes that name this path in their command line, this one aside."""
    found = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal() and int(each.name) != os.getpid():
            with suppress(OSError):
                command = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(path) in command:
                    found[int(each.name)] = command
    return found


def result(path: Path) -> dict[str, Any]:
    """The JSON object that a run has written."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
