"""How a run ends: the market is closed, and what is left is judged."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from app.errors import ProcessError
from app.run.members import Venue
from app.run.quiet import STILL_S_MAX

log = logging.getLogger(__name__)

CLOSE_POLL_S: Final = 0.2


class Verdict(Protocol):
    """What a judge has found."""

    @property
    def violations(self) -> Sequence[object]:
        """What must not be; a run with any has failed."""

    def to_text(self) -> str:
        """For people."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""


Judge = Callable[[str, Path, Mapping[str, Sequence[str]], int], Awaitable[Verdict]]
"""Judges what `Pipeline.remains` has. `app` does not know the checker: who starts a run brings it along."""


async def close_market(venue: Venue) -> None:
    """Expire every resting order; asks until the venue has done it."""
    give_up_at = time.monotonic() + STILL_S_MAX
    headers = {"Authorization": f"Bearer {venue.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while time.monotonic() < give_up_at:
            try:
                async with session.post(f"{venue.url}/close") as answer:
                    if answer.status == 200:
                        return
                    log.debug("the venue answers %s to /close", answer.status)
            except (aiohttp.ClientError, OSError) as error:
                log.debug("the venue is away: %s: %s", type(error).__name__, error)  # no headers: a token
            await asyncio.sleep(CLOSE_POLL_S)
    raise ProcessError(f"the venue did not close its market; see {venue.output.path}")
