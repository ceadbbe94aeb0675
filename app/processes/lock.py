"""The engine's lock on a directory, for those whose errors are UserErrors."""

from app.engine.errors import DirectoryInUse, Misconfigured
from app.engine.state.lock import DirectoryLock as EngineLock
from app.errors import DirectoryLockedError, UserError


class DirectoryLock(EngineLock):
    """One live owner for a data directory, see `app/engine/state/lock.py`."""

    def acquire(self) -> None:
        """Take the lock; raises DirectoryLockedError, or UserError for a directory that cannot be used."""
        try:
            super().acquire()
        except DirectoryInUse as error:
            raise DirectoryLockedError(str(error)) from None
        except Misconfigured as error:
            raise UserError(str(error)) from error
