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

from app.errors import DirectoryLockedError, UserError

DYING_HOLDER_WAIT_S = 3.0


class DirectoryLock:
    """An exclusive `flock` on `<directory>/lock`, whose content names pid, command and start time.

    The lock belongs to the open file: a child that inherits `fileno()` holds it as well, so the
    directory stays locked until the last of them has ended, however they end. The file is never removed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise DirectoryLockedError naming the holder.

        A holder that is already dead may have a child that is still ending: that is waited for.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(
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

    def fileno(self) -> int:
        """The descriptor that a child has to inherit to hold the lock too."""
        assert self._file is not None, "the lock is not held"
        return self._file

    def __enter__(self) -> "DirectoryLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _lock_or_raise(self, file: int) -> None:
        deadline = time.monotonic() + DYING_HOLDER_WAIT_S
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(file)
                if _is_alive(holder.get("pid")) or time.monotonic() > deadline:
                    raise DirectoryLockedError(self._refusal(holder)) from None
            time.sleep(0.02)

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
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
