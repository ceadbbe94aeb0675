"""One task's session with the venue: intents go out once, reports come in once.

An order goes out only after its intent is committed. Whether an order reached the venue is asked for, never
guessed, whenever it is in doubt: after a restart, and after a call that gave no answer. Reports carry a
sequence; how far they are read is committed in the transaction that makes executions of them.

Every call names the session's epoch, which is raised and committed before the first one and after each that
gave no answer: who has lost the task cannot raise it. The venue refuses an epoch below one it has seen, so
that neither one that slept while it lost the task nor a call that comes late can send after the question.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

import aiohttp
import msgspec
from pydantic import TypeAdapter, ValidationError

from app.config import settings
from app.domain.breaker import CircuitBreaker
from app.domain.errors import ReportGap
from app.domain.exchange import (
    NEW_SESSION,
    Intent,
    IntentState,
    apply_venue_report,
    claimed,
    to_venue_order,
)
from app.engine import Fenced, Table, Task, Transient, unit_of_work
from app.topics import EXECUTIONS
from models.events import (
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    TradeExecuted,
    VenueRejected,
    VenueReport,
)

log = logging.getLogger(__name__)

ORDERS_PER_CALL_MAX = 500
FRAMES_MAX = 100
CALL_S_MAX = 5.0
TRY_LATER = (408, 425, 429)
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.05, 2.0
REPORT_TYPES = {
    each.__name__: TypeAdapter(each)
    for each in (OrderAcknowledged, TradeExecuted, OrderCancelled, OrderExpired, VenueRejected)
}


class VenueAway(Exception):
    """A call to the venue gave no answer: what it was to do may or may not be done."""


class VenueSession:
    """Sends and reads for one partition number; ends when the task does."""

    def __init__(self, task: Task, intents: Table, sessions: Table) -> None:
        self._task = task
        self._intents = intents
        self._sessions = sessions
        self._number = task.partition
        self._epoch = 0
        self._breaker = CircuitBreaker()
        self._fresh: dict[str, Intent] = {}
        self._in_doubt = {
            intent.order.order_id: intent
            for _, intent in task.table(intents).items()
            if intent.state is IntentState.PENDING
        }
        self._work_to_do = asyncio.Event()
        self._work_to_do.set()
        self._http: Any = None

    def submit(self, intents: Iterable[Intent]) -> None:
        """Take over intents that have just been committed."""
        self._fresh.update((intent.order.order_id, intent) for intent in intents)
        self._work_to_do.set()

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {settings().venue_token or ''}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S_MAX)
        async with (
            aiohttp.ClientSession(settings().venue_url, headers=headers, timeout=timeout) as self._http,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._keep_sending())
            group.create_task(self._keep_reading())

    # -- out

    async def _keep_sending(self) -> None:
        while not self._task.closed:
            await self._work_to_do.wait()
            self._work_to_do.clear()
            while (self._in_doubt or self._fresh) and not self._task.closed:
                try:
                    if not self._epoch:
                        await self._claim()
                    await self._settle_doubts()
                    await self._send_fresh()
                except Fenced:
                    return
                except (VenueAway, Transient) as error:
                    log.warning("session %s: %s", self._number, error)
                    self._epoch = 0
                    await asyncio.sleep(RECONNECT_S_MIN)

    async def _claim(self) -> None:
        async with unit_of_work(self._task) as work:
            session = claimed(work[self._sessions].get(str(self._number), NEW_SESSION), self._task.epoch)
            work[self._sessions][str(self._number)] = session
        self._epoch = session.epoch

    async def _settle_doubts(self) -> None:
        """Ask which of the orders in doubt the venue has; the others are as good as never sent."""
        while chunk := _first(self._in_doubt):
            answer = await self._call("/orders/query", {"client_order_ids": list(chunk)})
            known = set(answer["known"])
            for order_id, intent in chunk.items():
                del self._in_doubt[order_id]
                if order_id not in known:
                    self._fresh[order_id] = intent

    async def _send_fresh(self) -> None:
        while chunk := _first(self._fresh):
            for order_id in chunk:
                del self._fresh[order_id]
            self._in_doubt.update(chunk)
            await self._call("/orders", {"orders": [to_venue_order(intent) for intent in chunk.values()]})
            for order_id in chunk:
                del self._in_doubt[order_id]

    async def _call(self, path: str, body: dict[str, Any]) -> Any:
        """Post to the venue when the breaker lets us; raises VenueAway when there is no answer."""
        while (permit := self._breaker.allow(_now_ms())) is None:  # noqa: ASYNC110  (the breaker's clock)
            await asyncio.sleep(max(self._breaker.wait_ms(_now_ms()), 1) / 1000)
        if self._task.closed:
            raise VenueAway("the task is no longer ours")
        payload = msgspec.json.encode({"session": self._number, "epoch": self._epoch, **body})
        try:
            async with asyncio.timeout(CALL_S_MAX):
                async with self._http.post(path, data=payload) as response:
                    text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._breaker.failed(_now_ms(), permit)
            raise VenueAway(f"no answer from the venue to {path}: {told(error)}") from None
        if response.status >= 500 or response.status in TRY_LATER:
            self._breaker.failed(_now_ms(), permit)
            raise VenueAway(f"the venue answered {response.status} to {path}")
        self._breaker.succeeded(_now_ms(), permit)
        if response.status == 409:
            raise VenueAway("the venue has heard of a newer owner of this session")
        if response.status != 200:
            raise RuntimeError(f"the venue refuses {path}: {response.status} {text[:500]!r}")
        return msgspec.json.decode(text)

    # -- in

    async def _keep_reading(self) -> None:
        pause_s = RECONNECT_S_MIN
        while not self._task.closed:
            try:
                await self._read()
                pause_s = RECONNECT_S_MIN
            except Fenced:
                return
            except (ReportGap, Transient) as error:
                log.info("session %s reads again: %s", self._number, error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("session %s: the venue's reports are away: %s", self._number, told(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_S_MAX)

    async def _read(self) -> None:
        """Book reports from the committed cursor on, what has come in one go, until the connection ends."""
        session = self._task.table(self._sessions).get(str(self._number)) or NEW_SESSION
        path = f"/sessions/{self._number}/reports?after={session.venue_sequence_last}"
        arrived: asyncio.Queue[list[VenueReport]] = asyncio.Queue()
        async with self._http.ws_connect(path, heartbeat=CALL_S_MAX) as socket:
            listening = asyncio.create_task(_listen(socket, arrived))
            try:
                while reports := await _all_of(arrived):
                    await self._book(reports)
            finally:
                listening.cancel()
                await asyncio.wait([listening])
            if not listening.cancelled():
                listening.result()
        await asyncio.sleep(RECONNECT_S_MIN)

    async def _book(self, reports: list[VenueReport]) -> None:
        """Commit reports as executions, with what they make of the intents and the cursor."""
        async with unit_of_work(self._task) as work:
            session = work[self._sessions].get(str(self._number), NEW_SESSION)
            for report in reports:
                key = f"{report.account_id}/{report.order_id}"
                session, intent, is_new = apply_venue_report(session, work[self._intents].get(key), report)
                if not is_new:
                    continue
                if intent is None:
                    del work[self._intents][key]
                else:
                    work[self._intents][key] = intent
                report_id = f"venue/{self._number}/{report.venue_sequence}"
                work.emit(EXECUTIONS, report, event_id=report_id, correlation_id=report.order_id)
            work[self._sessions][str(self._number)] = session


def _first(intents: dict[str, Intent]) -> dict[str, Intent]:
    return dict(list(intents.items())[:ORDERS_PER_CALL_MAX])


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _report(fields: dict[str, Any]) -> VenueReport:
    adapter = REPORT_TYPES.get(fields.pop("type", ""))
    if adapter is None:
        raise RuntimeError(f"the venue reports something unknown: {fields}")
    try:
        report: VenueReport = adapter.validate_python(fields)
    except ValidationError as error:
        raise RuntimeError(f"the venue's report cannot be read: {error}") from None
    return report


async def _listen(socket: Any, arrived: "asyncio.Queue[list[VenueReport]]") -> None:
    """Put in what comes, frame by frame, and an empty frame at the end."""
    try:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                arrived.put_nowait([_report(each) for each in msgspec.json.decode(message.data)])
            while arrived.qsize() > FRAMES_MAX:  # noqa: ASYNC110  (the venue waits with us)
                await asyncio.sleep(RECONNECT_S_MIN)
    finally:
        arrived.put_nowait([])


async def _all_of(arrived: "asyncio.Queue[list[VenueReport]]") -> list[VenueReport]:
    """What has come: the first frame is waited for. Empty when no more will come."""
    reports = await arrived.get()
    while reports and not arrived.empty():
        more = arrived.get_nowait()
        if not more:
            arrived.put_nowait(more)
            break
        reports += more
    return reports


def told(error: BaseException) -> str:
    """What was wrong; an error's repr has the request's headers in it, and so the token."""
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError) and error.status in (401, 403):
        return f"{text}; check VENUE_TOKEN"
    return text
