"""Waiting for a newer build: what a task does about a record, or a table's value, that it can't read."""

import asyncio
import logging

from app.engine.core.owned import OwnedPartition
from app.engine.errors import NewerRelease

log = logging.getLogger(__name__)

NEWER_PAUSE_S = 2.0
"""How often a task that needs a newer build looks whether it still does."""


class NewerReleaseWaits:
    """Who of a task's agent and companions waits for a newer build, and what for."""

    def __init__(self, task: OwnedPartition) -> None:
        self._task = task
        self._lines: dict[str, str] = {}

    @property
    def first(self) -> str | None:
        """Why the task waits for a newer build, in one line; None when it does not."""
        return next(iter(self._lines.values()), None)

    def note(self, who: str, error: NewerRelease, at: str = "") -> None:
        """Take note of what `who` waits for from now on, and log it once."""
        line = f"{self._task} waits{at}: {error}"
        if self._lines.get(who) != line:
            log.error("%s", line)
            self._lines[who] = line

    async def pause(self) -> bool:
        """Wait a little; returns whether the task goes on."""
        await self._task.pause(NEWER_PAUSE_S)
        return not self._task.stopping

    def over_soon(self, who: str) -> asyncio.TimerHandle:
        """Take note that `who` does not wait any more when it has gone on for as long as a wait."""
        return asyncio.get_running_loop().call_later(NEWER_PAUSE_S, self.over, who)

    def over(self, who: str) -> None:
        """Take note that `who` does not wait any more."""
        self._lines.pop(who, None)
