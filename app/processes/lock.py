"""The engine's lock on a directory, for those whose errors are UserErrors. It shuts the release before out.

That one wants a file `lock` in its data directory, knows no versions of tables, and would make dead letters
of what it does not understand. Where `lock` is a directory it refuses in one line and touches nothing.
"""

from pathlib import Path
from typing import Final

from app.engine.errors import DirectoryInUse, Misconfigured
from app.engine.state.lock import DirectoryLock as EngineLock
from app.errors import DirectoryLockedError, UserError

HOLDER: Final = "holder"
NOTE: Final = """\
This is a directory so that the releases that would damage what is beside it refuse to start.
The way back to them is a copy from before the upgrade: see docs/evolution.md.
"""


class DirectoryLock(EngineLock):
    """One live owner for a data directory, see `app/engine/state/lock.py`."""

    def __init__(self, directory: Path, patience_s: float = 0.0) -> None:
        super().__init__(directory, patience_s)
        self._place = directory / "lock"

    def acquire(self) -> None:
        """Take the lock; raises DirectoryLockedError, or UserError for a directory that cannot be used."""
        self._path = self._place / HOLDER if self._place.is_dir() else self._place
        try:
            super().acquire()
        except DirectoryInUse as error:
            raise DirectoryLockedError(str(error)) from None
        except Misconfigured as error:
            raise UserError(str(error)) from error
        if self._path == self._place and self._place.is_dir():  # its former holder has just shut it
            self.release()
            self.acquire()

    def shut_out_release_before(self) -> None:
        """Make a directory of the lock file, held all the time; raises UserError where that can't be."""
        if self._place.is_dir():
            return
        made = self.directory / "lock.new"
        shut = EngineLock(self.directory, path=made / HOLDER)
        try:
            made.mkdir(exist_ok=True)
            (made / "README").write_text(NOTE, encoding="utf-8")
            shut.acquire()
            self._place.unlink()
            made.rename(self._place)
        except OSError as error:
            shut.release()
            raise UserError(f"data directory {self.directory} can't be used: {error.strerror}") from error
        self.release()
        self._file = shut.detach()
