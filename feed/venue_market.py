"""Tells the venue how the replayed market moves: POST /market, in chunks, beside everything else."""

import asyncio
import logging
from collections import deque
from functools import partial
from itertools import islice

import aiohttp

from app.engine.retries import Pauses
from app.errors import UserError
from app.venue_session.client import READ_FOR_EXCERPT_BYTES, excerpt

log = logging.getLogger(__name__)

TICKS_A_CALL_MAX = 1_000
WAITING_TICKS_MAX = 50_000
CALL_TIMEOUT_S = 10.0
PAUSES = Pauses(0.05, 1.0)


class VenueAway(Exception):
    """The venue has not taken a call."""


class VenueMarket:
    """A queue of ticks for the venue, and the task that empties it.

    While the venue is away ticks wait, and the calls go on with growing pauses; above WAITING_TICKS_MAX the
    oldest are dropped and counted. The venue skips ticks that it has, so a call without answer is repeated.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._url = f"{url.rstrip('/')}/market"
        self._token = token
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._waiting: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.sent = 0
        self.dropped = 0

    def offer(self, ticks: list[bytes]) -> None:
        """Queue ticks in JSON."""
        self._waiting.extend(ticks)
        while len(self._waiting) > WAITING_TICKS_MAX:
            self._waiting.popleft()
            self.dropped += 1
        self._empty.clear()
        self._more.set()

    async def drained(self, within_s: float) -> bool:
        """Wait until the venue has every tick; False when it takes longer than that."""
        try:
            await asyncio.wait_for(self._empty.wait(), within_s)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Empty the queue until cancelled. Raises UserError when the venue refuses us for good."""
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            while True:
                await self._more.wait()
                self._more.clear()
                while self._waiting:
                    await self._send_some(session)
                self._empty.set()

    async def _send_some(self, session: aiohttp.ClientSession) -> None:
        ticks = list(islice(self._waiting, TICKS_A_CALL_MAX))
        dropped = self.dropped
        await self._post(session, b'{"ticks":[' + b",".join(ticks) + b"]}")
        for _ in range(len(ticks) - (self.dropped - dropped)):
            self._waiting.popleft()
        self.sent += len(ticks)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> None:
        """Repeat the call until the venue has taken it."""
        await PAUSES.until_done(VenueAway, partial(self._call, session, body))

    async def _call(self, session: aiohttp.ClientSession, body: bytes) -> None:
        try:
            async with session.post(self._url, data=body) as answer:
                if answer.status < 300:
                    return
                if 400 <= answer.status < 500 and answer.status not in (408, 429):
                    raise UserError(await self._refusal(answer))
                log.warning("the venue answers %d: trying again", answer.status)
                raise VenueAway(str(answer.status))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = f"{type(error).__name__}: {error}"  # its repr may have the headers, and so the token
            log.warning("the venue is away: %s; trying again", why)
            raise VenueAway(why) from None

    async def _refusal(self, answer: aiohttp.ClientResponse) -> str:
        if answer.status in (401, 403):
            return (
                f"the venue at {self._url} refuses our token ({answer.status}): set VENUE_TOKEN to its token"
            )
        said = excerpt(await answer.content.read(READ_FOR_EXCERPT_BYTES), self._token)
        return f"the venue at {self._url} refuses our ticks ({answer.status}): {said}"
