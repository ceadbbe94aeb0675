"""One task's talk with the venue, on the sessions of its key shards: intents out once, reports in once.

An order goes out only after its intent is committed, after a last look, while its reports can be heard, and
while its task waits for no newer build. Whether an order reached the venue is asked for, never guessed,
whenever it is in doubt: after a restart, and after a call that gave no answer. Only what the venue never had
may be withheld. Reports carry a sequence by session; how far they are read is committed in the transaction
that makes executions of them.

Every call names the epoch of the sessions that it speaks for, which is raised and committed before the first
one and after each that gave no answer: who has lost the task cannot raise it. The venue refuses an epoch
below one it has seen, so that neither one that slept while it lost the task nor a call that comes late can
send after the question.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import aiohttp

from app.domain.errors import ReportGap
from app.domain.exchange import (
    NEW_SESSION,
    Controls,
    Intent,
    Session,
    Surroundings,
    carried_over,
    claimed,
    last_look,
    to_venue_order,
    withheld,
)
from app.engine import Fenced, Table, Task, Transient, shard_of, unit_of_work
from app.engine.retries import Pauses
from app.topics import EXECUTIONS, RISK_LIMITS
from app.venue_session.booking import Booking
from app.venue_session.client import (
    REPORTS,
    VenueAway,
    VenueClient,
    VenueRefuses,
    describe_error,
    is_away,
    not_understood,
    refusal,
)
from app.venue_session.gathering import ORDERS, ORDERS_PER_CALL_MAX, OrderCalls, RefusedTogether
from app.venue_session.reports import Reported, Unreadable, read_frame
from app.venue_session.status import AWAY_S_MAX, Troubles
from models.events import OrderReceived, OrderWithheld

log = logging.getLogger(__name__)

QUERY = "/orders/query"
FRAMES_MAX = 100
RETRY_S_MIN = 0.05
REFUSED, RECONNECT = Pauses(RETRY_S_MIN, 5.0), Pauses(RETRY_S_MIN, 2.0)
LIVED_S_MIN = 1.0
"""A stream that ended sooner has not worked: the pause before the next one grows."""

GAP_RETRY_S = 5.0
HOLD_S = 0.5
LIMITS_S_MAX = 5.0
"""Orders that wait longer for limits are a reason not to be ready."""

BLAMES_THE_BODY = (400, 413, 422)
"""Answers that blame what was sent: one order may be at fault, the others need not wait for it."""


class VenueTables(NamedTuple):
    """The tables of the exchange that a session works with."""

    intents: Table[Intent]
    sessions: Table[Session]
    controls: Table[Controls]


class VenueSession:
    """Sends and reads for one partition number; ends when the task does."""

    def __init__(
        self,
        task: Task,
        tables: VenueTables,
        around: Surroundings,
        venue: VenueClient,
        calls: OrderCalls,
        troubles: Troubles,
    ) -> None:
        self.task = task
        self.intents, self.sessions, self._controls = tables
        self._around = around
        self._venue = venue
        self._calls = calls
        self._tally = venue.tally
        self._troubles = troubles
        self.epoch = 0
        self._orders_per_call = ORDERS_PER_CALL_MAX
        self._alone = False
        self.fresh: dict[str, Intent] = {}
        self.in_doubt = {
            intent.order.order_id: intent
            for _, intent in task.table(self.intents).items()
            if intent.may_be_unknown
        }
        self._has_read_limits = False
        self._limits_awaited_since_s = 0.0
        self._listening = asyncio.Event()
        self._gaps: dict[int, int] = {}
        self._work_to_do = asyncio.Event()
        self._work_to_do.set()
        self._booking = Booking(task, self.intents, self.sessions, self._tally)

    @property
    def waiting(self) -> int:
        """Orders that are not known to be at the venue."""
        return len(self.fresh) + len(self.in_doubt)

    @property
    def disputed(self) -> set[str]:
        """Orders in dispute, by account/order."""
        return self._booking.disputed

    def submit(self, intents: Iterable[Intent]) -> None:
        """Take over intents that have just been committed."""
        self.fresh.update((intent.order.order_id, intent) for intent in intents)
        self._work_to_do.set()

    async def run(self) -> None:
        try:
            await self._carry_over()
            async with self._venue, asyncio.TaskGroup() as group:
                group.create_task(self._keep_sending())
                group.create_task(self._keep_reading())
        finally:
            for what in ("orders", "limits", "reports", "gaps"):
                self._well(what)

    def _ill(self, what: str, error: VenueAway | VenueRefuses) -> None:
        if isinstance(error, VenueRefuses):
            self._troubles.note((self.task.partition, what), error.kind, str(error))
        else:
            self._troubles.note((self.task.partition, what), "away", str(error), patience_s=AWAY_S_MAX)

    def _well(self, what: str) -> None:
        self._troubles.clear((self.task.partition, what))

    async def _carry_over(self) -> None:
        """Begin where the release before has stopped, if it was the last one here; see `carried_over`."""
        table = self.task.table(self.sessions)
        known = {shard: table.get(str(shard)) for shard in self.task.shards}
        carried = carried_over(known, self.task.partition)
        while carried and not self.task.closed:
            try:
                async with unit_of_work(self.task) as work:
                    for shard, session in carried.items():
                        work[self.sessions][str(shard)] = session
            except Transient as error:
                log.warning("%s could not carry its sessions over: %s", self.task, error)
                await asyncio.sleep(RETRY_S_MIN)
            else:
                log.warning("%s goes on behind the release whose sessions were by partition", self.task)
                return

    # -- out

    async def _keep_sending(self) -> None:
        refusals = 0
        while not self.task.closed:
            await self._work_to_do.wait()
            self._work_to_do.clear()
            while (self.in_doubt or self.fresh) and not self.task.closed:
                try:
                    if self._is_held:
                        await self._hold()
                        continue
                    await self._send_all()
                    self._well("orders")
                    refusals = 0
                    self._alone = False
                    if self.fresh:
                        await self._wait_for_limits()
                    else:
                        self._limits_awaited_since_s = 0.0
                        self._well("limits")
                    continue
                except Fenced:
                    return
                except VenueAway as error:  # the breaker makes the pauses
                    self._ill("orders", error)
                except Transient as error:
                    log.warning("%s could not commit for the venue: %s", self.task, error)
                except RefusedTogether as error:
                    log.info("%s sends alone: %s", self.task, error)
                    self._alone = True
                except VenueRefuses as error:
                    self._ill("orders", error)
                    if error.status in BLAMES_THE_BODY:
                        self._orders_per_call = max(1, self._orders_per_call // 2)
                    refusals += 1
                    await asyncio.sleep(REFUSED.after(refusals))
                self.epoch = 0
                await asyncio.sleep(RETRY_S_MIN)

    async def _send_all(self) -> None:
        if not self.epoch:
            await self._withhold(self._next())  # the venue may keep them waiting
            await self.claim()
        await self.settle_doubts()
        await self._send_fresh()

    @property
    def _is_held(self) -> bool:
        """Whether no order may leave at all.

        Nobody would hear the reports of it; or the task waits for a newer build, and behind the record that
        this one cannot read there may be limits and kill switches.
        """
        return not self._listening.is_set() or self.task.waits_for is not None

    @property
    def _knows_limits(self) -> bool:
        """Whether the limits and kill switches are read that came while nobody had the task. Stays so."""
        self._has_read_limits = self._has_read_limits or not self.task.is_behind(RISK_LIMITS)
        return self._has_read_limits

    async def _hold(self) -> None:
        """Let a moment pass without any order; what grows too old meanwhile is withheld."""
        await self._withhold(self._next())
        if self._listening.is_set():
            await asyncio.sleep(HOLD_S)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), HOLD_S)

    async def _wait_for_limits(self) -> None:
        """What is left waits, as a rule for limits: look again in a moment, or at once when more has come."""
        self._limits_awaited_since_s = self._limits_awaited_since_s or time.monotonic()
        if time.monotonic() - self._limits_awaited_since_s > LIMITS_S_MAX:
            text = f"partition {self.task.partition}: orders wait until {RISK_LIMITS.name} is read"
            self._troubles.note((self.task.partition, "limits"), "limits", text)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._work_to_do.wait(), RETRY_S_MIN)
        self._work_to_do.clear()

    async def claim(self) -> None:
        """Raise the epoch of all the task's sessions, in one transaction."""
        async with unit_of_work(self.task) as work:
            known = {shard: work[self.sessions].get(str(shard), NEW_SESSION) for shard in self.task.shards}
            ours = claimed(known)
            for shard, session in ours.items():
                work[self.sessions][str(shard)] = session
        self.epoch = next(iter(ours.values())).epoch

    async def settle_doubts(self) -> None:
        """Ask which of the orders in doubt the venue has; the others are as good as never sent.

        These leave before what has come meanwhile, each account's by their numbers. They leave behind it
        while one of them may be what the venue cannot take.
        """
        if not self.in_doubt:
            return
        while chunk := _first(self.in_doubt):
            question = {"sessions": self._epochs(chunk), "client_order_ids": list(chunk)}
            answer = await self.call(QUERY, question)
            known = _texts(answer, "known", QUERY)
            for order_id, intent in chunk.items():
                del self.in_doubt[order_id]
                if order_id not in known:
                    self.fresh[order_id] = intent
        if self._orders_per_call == ORDERS_PER_CALL_MAX:
            self.fresh = dict(sorted(self.fresh.items(), key=lambda each: each[1].order.sequence))

    async def _send_fresh(self) -> None:
        """Send what passes a last look right before it leaves; a call that waits is looked at again."""
        while self.fresh and not self.task.closed:
            await self._venue.admitted()
            if self._is_held or not self._knows_limits:
                return
            chunk = self._next(self._orders_per_call)
            if not chunk:
                return
            if await self._withhold(chunk):
                continue
            for order_id in chunk:
                del self.fresh[order_id]
            self.in_doubt.update(chunk)
            orders = {
                order_id: {"session": _shard(intent.order.account_id), **to_venue_order(intent)}
                for order_id, intent in chunk.items()
            }
            body = {"sessions": self._epochs(chunk), "orders": list(orders.values())}
            answer = await self.call(ORDERS, body)
            taken = _texts(answer, "accepted", ORDERS) | _texts(answer, "duplicates", ORDERS)
            for order_id, order in orders.items():
                if order["client_order_id"] in taken:
                    del self.in_doubt[order_id]
                    self._tally.orders["sent"] += 1
            if self.in_doubt:
                raise VenueRefuses(
                    f"the venue's answer to /orders says nothing of {len(self.in_doubt)} orders, such as "
                    f"{next(iter(self.in_doubt))}: they are asked for",
                    kind="/orders incomplete",
                )
            self._orders_per_call = min(ORDERS_PER_CALL_MAX, self._orders_per_call * 2)

    def _next(self, count: int = ORDERS_PER_CALL_MAX) -> dict[str, Intent]:
        """The first orders that may be looked at.

        While limits may come, those of an account without controls wait for them, all in their order.
        """
        if not self.task.is_behind(RISK_LIMITS):
            return _first(self.fresh, count)
        controls = self.task.table(self._controls)
        accounts = {intent.order.account_id for intent in self.fresh.values()}
        waiting = {account_id for account_id in accounts if controls.get(account_id) is None}
        others = (each for each in self.fresh.items() if each[1].order.account_id not in waiting)
        return dict(islice(others, count))

    def _epochs(self, intents: dict[str, Intent]) -> dict[str, int]:
        """The sessions that these orders are sent on, with the epoch under which we speak."""
        return {str(_shard(intent.order.account_id)): self.epoch for intent in intents.values()}

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the venue when the breaker lets us, or send orders at once, together with those of other tasks.

        Raises VenueAway, VenueRefuses or RefusedTogether.
        """
        if self.task.closed:
            raise VenueAway("the task is no longer ours")
        if path == ORDERS:
            answer = await self._calls.post(self.task, body, alone=self._alone)
        else:
            answer = await self._venue.post(path, body)
        self._tally.note_unknown(path, answer.keys() - ANSWER_FIELDS[path])
        return answer

    # -- the last look

    async def _withhold(self, intents: dict[str, Intent]) -> bool:
        """Take out what must not leave: commit OrderWithheld for it. True if there was any.

        Only for orders that the venue never had.
        """
        committed = self.task.table(self.intents)
        now_ms = time.time_ns() // 1_000_000
        gone, refused = [], {}
        for order_id, intent in intents.items():
            known = committed.get(_key(intent.order))
            if known is None or not known.may_be_unknown:
                gone.append(order_id)  # a report has come, though nothing was sent: never send it
            elif (found := self._look(intent.order, now_ms)) is not None:
                refused[order_id] = found
        if refused:
            async with unit_of_work(self.task) as work:
                for order_id, found in list(refused.items()):
                    key = _key(intents[order_id].order)
                    known = work[self.intents].get(key)
                    if known is None or not known.may_be_unknown:  # a report was booked meanwhile
                        gone.append(order_id)
                        del refused[order_id]
                        continue
                    del work[self.intents][key]
                    event_id = f"{order_id}:exchange:withheld"
                    work.emit(EXECUTIONS, found, event_id=event_id, correlation_id=order_id)
        for order_id in (*gone, *refused):
            del self.fresh[order_id]
        for found in refused.values():
            self._tally.orders[f"withheld {found.reason}"] += 1
            log.info("order %s is withheld: %s", found.order_id, found.reason)
        return bool(gone or refused)

    def _look(self, order: OrderReceived, now_ms: int) -> OrderWithheld | None:
        controls = self.task.table(self._controls).get(order.account_id)
        reason = last_look(order, now_ms=now_ms, controls=controls, around=self._around)
        return None if reason is None else withheld(order, reason, now_ms)

    # -- in

    async def _keep_reading(self) -> None:
        failures = 0
        while not self.task.closed:
            began_s = time.monotonic()
            try:
                await self.read()
            except Fenced:
                return
            except (ReportGap, Transient) as error:
                log.info("%s reads the venue's reports again: %s", self.task, error)
            except (VenueAway, VenueRefuses) as error:
                self._ill("reports", error)
            except aiohttp.WSServerHandshakeError as error:
                self._ill("reports", _handshake(error))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._ill("reports", VenueAway(f"the venue's reports are away: {describe_error(error)}"))
            failures = 1 if time.monotonic() - began_s > LIVED_S_MIN else failures + 1
            await asyncio.sleep(RECONNECT.after(failures))

    async def read(self) -> None:
        """Book reports from the committed cursors on, what has come in one go, until the connection ends.

        Raises VenueAway when it has ended at once.
        """
        arrived: asyncio.Queue[list[Reported]] = asyncio.Queue()
        loop, began_s = asyncio.get_running_loop(), time.monotonic()
        async with self._venue.reports(self.cursors()) as socket:
            self._listening.set()
            timers = [loop.call_later(LIVED_S_MIN, self._well, "reports")]
            if self._gaps:
                timers.append(loop.call_later(GAP_RETRY_S, arrived.put_nowait, []))
            listening = asyncio.create_task(_listen(socket, arrived))
            try:
                while reports := await _all_of(arrived):
                    self._note_gaps(await self.book(reports))
                    self._well("reports")
            finally:
                self._listening.clear()
                for timer in timers:
                    timer.cancel()
                listening.cancel()
                await asyncio.wait([listening])
            if not listening.cancelled():
                listening.result()
        if time.monotonic() - began_s < LIVED_S_MIN:
            raise VenueAway(f"the venue closes the stream of reports at once (code {socket.close_code})")

    def cursors(self) -> dict[int, int]:
        """The last report booked of each session."""
        table = self.task.table(self.sessions)
        sessions = {shard: table.get(str(shard)) or NEW_SESSION for shard in self.task.shards}
        return {shard: session.venue_sequence_last for shard, session in sessions.items()}

    def _note_gaps(self, gaps: dict[int, ReportGap]) -> None:
        """Read again at once for a gap that is new; behind one that stays its session waits, for people."""
        cursors = self.cursors()
        self._gaps = {session: last for session, last in self._gaps.items() if cursors[session] == last}
        for session, gap in gaps.items():
            if session not in self._gaps:
                self._gaps[session] = gap.venue_sequence_last
                raise gap
        if not self._gaps:
            self._well("gaps")
            return
        where = ", ".join(f"{session} behind {last}" for session, last in sorted(self._gaps.items()))
        text = f"the venue leaves out reports of its sessions {where}: these wait until it sends them"
        self._troubles.note((self.task.partition, "gaps"), "gaps", text)

    async def book(self, reports: Sequence[Reported]) -> dict[int, ReportGap]:
        """Commit reports as executions, with what they make of the intents and the cursors.

        Returns the sessions whose reports jump, each with the gap; the others' are booked.
        """
        gaps: dict[int, ReportGap] = {}
        async with unit_of_work(self.task) as work:
            gaps.update(self._booking.book(work, reports))
        return gaps


ANSWER_FIELDS = {ORDERS: {"accepted", "duplicates"}, QUERY: {"known"}}


def _texts(answer: dict[str, Any], name: str, path: str) -> set[str]:
    """A member that has to be a list of texts; raises VenueRefuses otherwise."""
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise not_understood(path, f"no list of texts in {name!r}".encode())
    return set(found)


def _handshake(error: aiohttp.WSServerHandshakeError) -> VenueAway | VenueRefuses:
    """What it means that the report stream did not open."""
    if is_away(error.status):
        return VenueAway(f"the venue answers {error.status} to {REPORTS}")
    return refusal(error.status, REPORTS)


def _first(intents: dict[str, Intent], count: int = ORDERS_PER_CALL_MAX) -> dict[str, Intent]:
    return dict(islice(intents.items(), count))


def _key(order: OrderReceived) -> str:
    return f"{order.account_id}/{order.order_id}"


def _shard(account_id: str) -> int:
    return shard_of(account_id.encode())


async def _listen(socket: Any, arrived: "asyncio.Queue[list[Reported]]") -> None:
    """Put in what comes, frame by frame, and an empty frame at the end."""
    try:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                try:
                    reports = read_frame(message.data)
                except Unreadable as error:
                    raise VenueRefuses(str(error), kind="frame") from None
                if reports:
                    arrived.put_nowait(reports)
            while arrived.qsize() > FRAMES_MAX:  # noqa: ASYNC110  (the venue waits with us)
                await asyncio.sleep(RETRY_S_MIN)
    finally:
        arrived.put_nowait([])


async def _all_of(arrived: "asyncio.Queue[list[Reported]]") -> list[Reported]:
    """What has come: the first frame is waited for. Empty when no more will come."""
    reports = await arrived.get()
    while reports and not arrived.empty():
        more = arrived.get_nowait()
        if not more:
            arrived.put_nowait(more)
            break
        reports = reports + more
    return reports
