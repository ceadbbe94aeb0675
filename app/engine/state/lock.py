"""One live owner for a data directory: a lock that dies with its last holder and says who that is."""

import contextlib
import fcntl
import json
import os
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from app.engine.errors import DirectoryInUse, Misconfigured

DYING_HOLDER_WAIT_S = 3.0
POLL_S = 0.02
PF_EXITING = 0x4
SIGKILL_BIT = 1 << 8


class DirectoryLock:
    """An exclusive `flock` on `<directory>/lock`, whose content names pid, command and start time.

    The lock belongs to the open file: a child that inherits `fileno()` holds it as well, so the
    directory stays locked until the last of them has ended, however they end. The file is never removed.
    A live holder is waited for `patience_s`. `path` is another place for the file. It is not the library
    filelock's: that one has no descriptor to inherit, and its release unlocks the file for the children too.
    """

    def __init__(self, directory: Path, patience_s: float = 0.0, path: Path | None = None) -> None:
        self.directory = directory
        self._path = path or directory / "lock"
        self._patience_s = patience_s
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise DirectoryInUse naming the holder; Misconfigured for no usable directory.

        A holder that is dying, or is dead and has a child that is still ending, is waited for.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Misconfigured(
                f"data directory {self.directory} can't be used: {error.strerror}; choose another one"
            ) from error
        try:
            self._lock_or_raise(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        self._write_holder(file)

    def release(self) -> None:
        """Give this process's hold up; a child that inherited the file keeps its own."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def detach(self) -> int | None:
        """Hand the open file over, and with it the hold."""
        file, self._file = self._file, None
        return file

    def fileno(self) -> int:
        """The descriptor that a child has to inherit to hold the lock too."""
        assert self._file is not None, "the lock is not held"
        return self._file

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _lock_or_raise(self, file: int) -> None:
        begun = time.monotonic()
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(file)
                lives = _is_alive(holder.get("pid"))
                patience_s = self._patience_s if lives else max(self._patience_s, DYING_HOLDER_WAIT_S)
                if time.monotonic() - begun >= patience_s:
                    raise DirectoryInUse(self._refusal(holder)) from None
            time.sleep(POLL_S)

    def _refusal(self, holder: dict[str, object]) -> str:
        who = (
            f"pid {holder['pid']} ({holder['command']}), started {holder['started']}"
            if {"pid", "command", "started"} <= holder.keys()
            else "another process"
        )
        return f"data directory {self.directory} is in use by {who}; stop it or choose another directory"

    @staticmethod
    def _write_holder(file: int) -> None:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "command": shlex.join(sys.orig_argv), "started": started}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode() + b"\n", 0)


def _read_holder(file: int) -> dict[str, object]:
    with contextlib.suppress(ValueError):
        holder = json.loads(os.pread(file, 65536, 0))
        if isinstance(holder, dict):
            return holder
    return {}


def _is_alive(pid: object) -> bool:
    """Whether a process of that number is there, and is not being killed: that takes it a moment."""
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_dying(pid)


def _is_dying(pid: int) -> bool:
    """What Linux says of it; False where there is no /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    killed = any(int(mask, 16) & SIGKILL_BIT for mask in pending)
    return killed or state in "ZX" or bool(int(fields[5]) & PF_EXITING)
