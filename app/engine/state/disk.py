"""Room on the disk where the tables are: a worker stops before it is full, and goes on when there is some.

Nothing is acknowledged meanwhile: a task waits before its transaction, restores and standbys before they
write.
"""

import asyncio
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_S = 0.5


class Disk:
    """Watches free bytes at `path`, looking at most every LOOK_S; `free_bytes_min` 0 never waits."""

    def __init__(self, path: Path, free_bytes_min: int) -> None:
        self.path = path
        self._free_bytes_min = free_bytes_min
        self._look_at = 0.0
        self._full = False

    @property
    def is_full(self) -> bool:
        """Whether there is less room than there has to be; said in the log when it changes."""
        now = time.monotonic()
        if self._free_bytes_min and now >= self._look_at:
            self._look_at = now + LOOK_S
            self._note(_free_bytes(self.path))
        return self._full

    def _note(self, free_bytes: int) -> None:
        full = free_bytes < self._free_bytes_min
        if full and not self._full:
            log.error(
                "disk full: %s has %s bytes free and disk_free_bytes_min is %s. Nothing is processed or "
                "acknowledged from here; it goes on by itself when there is room",
                *(self.path, free_bytes, self._free_bytes_min),
            )
        elif self._full and not full:
            log.info("%s has %s bytes free again: going on", self.path, free_bytes)
        self._full = full

    async def room(self, told_to_stop: asyncio.Event | None = None) -> bool:
        """Wait until there is room; False when told to stop instead."""
        while self.is_full:
            if told_to_stop is not None and told_to_stop.is_set():
                return False
            await asyncio.sleep(LOOK_S)
        return True


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
