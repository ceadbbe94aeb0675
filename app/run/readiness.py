"""Asks every worker whether it is ready, again and again, and says of those that are not for what reason.

A worker answers `GET /ready` with {"ready": true}, or {"ready": false, "reasons": ["…"]}.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import aiohttp
import msgspec
from mode import Service

from app.errors import StuckError

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
WAIT_POLL_S: Final = 0.1
ANSWER_S_MAX: Final = 1.0
PATIENCE_S: Final = 5.0
"""A worker that is not ready for longer is told of."""

REPEAT_S: Final = 60.0
"""How often the same reasons are told again."""

REASONS_MAX: Final = 3


class Asked(Protocol):
    """A worker, as far as it is asked."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def pid(self) -> int | None: ...

    has_worked: bool


class Answer(msgspec.Struct):
    """What `GET /ready` says."""

    ready: bool
    reasons: list[str] = []


class Unready(NamedTuple):
    """A worker that is not ready: since when (monotonic), and why."""

    since_s: float
    reasons: tuple[str, ...]

    def describe(self) -> str:
        more = len(self.reasons) - REASONS_MAX
        return "; ".join(self.reasons[:REASONS_MAX]) + (f"; and {more} more" if more > 0 else "")


class Ledger:
    """Who is not ready, since when and why; and which of that people have not been told yet."""

    def __init__(self) -> None:
        self.unready: dict[str, Unready] = {}
        self._told: dict[str, tuple[float, str]] = {}

    def note(self, name: str, reasons: Sequence[str], now_s: float) -> None:
        """A worker was asked just now; without reasons it is ready."""
        if reasons:
            since_s = self.unready[name].since_s if name in self.unready else now_s
            self.unready[name] = Unready(since_s, tuple(reasons))
        else:
            self.unready.pop(name, None)

    def news(self, now_s: float) -> list[str]:
        """Lines on those that are not ready for long, and on those that are ready again."""
        lines = []
        for name, each in self.unready.items():
            told_at, told = self._told.get(name, (float("-inf"), ""))
            overdue = now_s - told_at >= (PATIENCE_S if told != each.describe() else REPEAT_S)
            if now_s - each.since_s >= PATIENCE_S and overdue:
                self._told[name] = (now_s, each.describe())
                lines.append(f"{name} is not ready for {now_s - each.since_s:.0f} s: {each.describe()}")
        for name in self._told.keys() - self.unready.keys():
            del self._told[name]
            lines.append(f"{name} is ready")
        return lines


class Readiness(Service):
    """Keeps `ledger.unready` up to date for these workers, and tells of what takes long."""

    def __init__(self, workers: Sequence[Asked], tell: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ledger = Ledger()
        self._workers = workers
        self._tell = tell
        self._session: aiohttp.ClientSession | None = None
        self._looking = asyncio.Lock()

    async def on_stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def until_ready(self, within_s: float | None = None) -> None:
        """Return when every worker is ready; raises StuckError when that takes too long."""
        give_up_at = None if within_s is None else time.monotonic() + within_s
        while not await self.look():
            if give_up_at is not None and time.monotonic() > give_up_at:
                waiting = "; ".join(
                    f"{name}: {each.describe()}" for name, each in self.ledger.unready.items()
                )
                raise StuckError(f"not ready after {within_s:.0f} s: {waiting}")
            await asyncio.sleep(WAIT_POLL_S)

    async def look(self) -> bool:
        """Ask all workers once; whether all of them are ready."""
        async with self._looking:
            workers = list(self._workers)  # more may come while these are asked
            answers = await asyncio.gather(*(self._ask(each) for each in workers))
            now_s = time.monotonic()
            for worker, reasons in zip(workers, answers, strict=True):
                self.ledger.note(worker.name, reasons, now_s)
                worker.has_worked = worker.has_worked or not reasons
            for line in self.ledger.news(now_s):
                self._tell(line)
            return not self.ledger.unready

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            await self.look()
            await self.sleep(LOOK_EVERY_S)

    async def _ask(self, worker: Asked) -> list[str]:
        """Why the worker is not ready; nothing when it is."""
        if worker.pid is None:
            return ["its process has ended and is about to be started again"]
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S_MAX))
        try:
            async with self._session.get(f"{worker.url}/ready") as response:
                return reasons_of(await response.read())
        except aiohttp.ClientConnectionError:
            return [f"it starts: nothing listens on {worker.url} yet"]
        except TimeoutError:
            return [f"{worker.url}/ready does not answer within {ANSWER_S_MAX:g} s"]
        except aiohttp.ClientError as error:
            return [f"{worker.url}/ready answers strangely: {error}"]


def reasons_of(said: bytes) -> list[str]:
    """Read an answer of `/ready`."""
    try:
        answer = msgspec.json.decode(said, type=Answer)
    except msgspec.DecodeError as error:
        return [f"its answer to /ready can't be read: {error}"]
    return [] if answer.ready else answer.reasons or ["it does not say why"]
