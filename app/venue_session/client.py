"""Calls to the venue: one place that knows which answers mean "ask again" and which "a person must look"."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
import msgspec

from app.config import settings
from app.domain.breaker import CircuitBreaker, Permit
from app.venue_session.status import Tally

REPORTS: Final = "/reports"
CALL_S_MAX: Final = 5.0
TRY_LATER: Final = (408, 425, 429)
EXCERPT_CHARS_MAX: Final = 200
READ_FOR_EXCERPT_BYTES: Final = 16 * 1024
"""More than is shown: a secret that is cut is not found."""

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024


class VenueAway(Exception):
    """A call to the venue gave no answer: what it was to do may or may not be done."""


class VenueRefuses(Exception):
    """The venue answers, but not as it should: until a person has looked, asking again will give the same."""

    def __init__(self, text: str, *, kind: str, status: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.status = status


class VenueClient:
    """One connection pool and one circuit breaker for all tasks of a worker: what is away is the venue.

    `async with` opens the pool for the first task that uses it, and closes it behind the last one.
    """

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._breaker = CircuitBreaker()
        self._has_outcome = asyncio.Event()
        self._users = 0
        self._http: Any = None

    async def __aenter__(self) -> "VenueClient":
        if not self._users:
            headers = {"Authorization": f"Bearer {settings().reveal_venue_token() or ''}"}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S_MAX)
            connector = aiohttp.TCPConnector(limit=0)  # each task holds one for its stream of reports
            self._http = aiohttp.ClientSession(
                settings().venue_url, headers=headers, timeout=timeout, connector=connector
            )
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            http, self._http = self._http, None
            await http.close()

    async def admitted(self) -> None:
        """Return when the breaker would let a call through now."""
        while wait_ms := self._breaker.wait_ms(_now_ms()):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._has_outcome.wait()

    def permit(self) -> Permit | None:
        """The breaker's permit for a `request`, if it lets one through now; one without use is withdrawn."""
        return self._breaker.allow(_now_ms())

    def permit_now(self, path: str) -> Permit:
        """The permit for a call that must not wait behind a last look; raises VenueAway if there is none."""
        permit = self.permit()
        if permit is None:
            raise VenueAway(f"the venue is away: {path} is not called for now")
        return permit

    def withdraw(self, permit: Permit) -> None:
        """No request was made of it, or nobody waited for its outcome."""
        self._note(self._breaker.withdrawn, permit)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a request when the breaker lets it through."""
        while (permit := self.permit()) is None:
            await self.admitted()
        return await self.request(path, body, permit)

    async def request(self, path: str, body: Mapping[str, Any], permit: Permit) -> dict[str, Any]:
        """The answer, a JSON object. Raises VenueAway, or VenueRefuses for any answer that is none to us."""
        try:
            async with asyncio.timeout(CALL_S_MAX):
                async with self._http.post(
                    path, data=msgspec.json.encode(body), allow_redirects=False
                ) as response:
                    text, status = await response.read(), response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._note(self._breaker.failed, permit)
            self.tally.calls[f"{path} no answer"] += 1
            raise VenueAway(f"no answer from the venue to {path}: {describe_error(error)}") from None
        except BaseException:
            self.withdraw(permit)
            raise
        self.tally.calls[f"{path} {status}"] += 1
        if is_away(status):
            self._note(self._breaker.failed, permit)
            raise VenueAway(f"the venue answers {status} to {path}")
        self._note(self._breaker.succeeded, permit)
        if status != 200:
            raise refusal(status, path, text)
        return self._object(path, text)

    def _note(self, outcome: Callable[[int, Permit], None], permit: Permit) -> None:
        """Tell the breaker of an outcome, and have all who wait for it look again."""
        outcome(_now_ms(), permit)
        self._has_outcome.set()
        self._has_outcome.clear()

    def _object(self, path: str, text: bytes) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise not_understood(path, text)
        return answer

    def reports(self, after: Mapping[int, int]) -> Any:
        """The WebSocket on which the reports of these sessions come, above the sequence of each."""
        named = ",".join(f"{session}:{sequence}" for session, sequence in after.items())
        return self._http.ws_connect(
            f"{REPORTS}?after={named}", heartbeat=CALL_S_MAX, max_msg_size=FRAME_BYTES_MAX
        )


def is_away(status: int) -> bool:
    """Whether an answer says that it is worth asking again by itself."""
    return status >= 500 or status in TRY_LATER


def refusal(status: int, path: str, text: bytes = b"") -> VenueRefuses:
    """What an answer other than 200 means, and what to do about it."""
    said = f": {_excerpt(text)}" if text else ""
    if status in (401, 403):
        what = "VENUE_TOKEN" if settings().reveal_venue_token() else "a call without VENUE_TOKEN"
        told = f"the venue refuses {what} ({status}): set VENUE_TOKEN to the venue's token"
        return VenueRefuses(told, kind="token", status=status)
    if status == 409 and path == REPORTS:
        told = (
            "the venue has fewer reports than are booked (409): start the venue with the ledger of this run, "
            "or the pipeline with topics of its own"
        )
    elif status == 409:
        told = (
            f"the venue has a newer owner of our sessions (409{said}): one pipeline at a venue, with the "
            "ledger of its own run"
        )
    else:
        told = f"the venue refuses {path} ({status}{said}): check VENUE_URL and the venue's release"
    return VenueRefuses(told, kind=f"{path} {status}", status=status)


def not_understood(path: str, text: bytes) -> VenueRefuses:
    said = _excerpt(text) or "it is empty"
    told = f"the venue's answer to {path} is not understood ({said}): check VENUE_URL and the venue's release"
    return VenueRefuses(told, kind=f"{path} not understood")


def _excerpt(text: bytes) -> str:
    return excerpt(text, settings().reveal_venue_token())


def excerpt(text: bytes, secret: str | None) -> str:
    """The beginning of an answer, in one line, without our secret."""
    said = " ".join(text[:READ_FOR_EXCERPT_BYTES].decode(errors="replace").split())
    return said.replace(secret or "\0", "...")[:EXCERPT_CHARS_MAX]


def describe_error(error: BaseException) -> str:
    """What was wrong; an error's repr has the request's headers in it, and so the token."""
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError) and error.status in (401, 403):
        return f"{text}; check VENUE_TOKEN"
    return text


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
