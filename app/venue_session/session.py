"""One task's talk with the venue, on the sessions of its key shards: intents out once, reports in once.

An order goes out only after its intent is committed, after a last look, while its reports can be heard, and
while its task waits for no newer build. Whether an order reached the venue is asked for, never guessed,
whenever it is in doubt: after a restart, and after a call that gave no answer. Only what the venue never had
may be withheld. Cancels and replaces go by the same rules, in calls of their own before those with orders: a
refused call of the one kind delays the other by a moment only. Reports carry a sequence by session; how far
they are read is committed in the transaction that makes executions of them.

Every call names the epoch of the sessions that it speaks for, which is raised and committed before the first
one and after each that gave no answer: who has lost the task cannot raise it. The venue refuses an epoch
below one it has seen, so that neither one that slept while it lost the task nor a call that comes late can
send after the question.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from app.domain.errors import ReportGap
from app.domain.exchange import (
    NEW_SESSION,
    Controls,
    Intent,
    Request,
    Sent,
    Session,
    Surroundings,
    carried_over,
    claimed,
    last_look,
    to_venue_order,
    to_venue_request,
    withheld,
)
from app.engine import Fenced, Table, Task, Transient, UnitOfWork, unit_of_work
from app.engine.retries import Pauses
from app.topics import RISK_LIMITS
from app.venue_session.asking import Asking, RequestTables
from app.venue_session.booking import Booking
from app.venue_session.client import (
    REPORTS,
    VenueAway,
    VenueClient,
    VenueRefuses,
    describe_error,
    is_away,
    refusal,
)
from app.venue_session.gathering import ORDERS, ORDERS_PER_CALL_MAX, OrderCalls, RefusedTogether
from app.venue_session.listening import all_of, listen
from app.venue_session.outgoing import ANSWER_FIELDS, ORDERS_ROUTE, REQUESTS, Outgoing, Withheld, first
from app.venue_session.reports import Reported
from app.venue_session.status import AWAY_S_MAX, Troubles
from models.events import OrderReceived, OrderWithheld
from models.reasons import WithheldReason

log = logging.getLogger(__name__)

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
    requests: Table[Request]
    sent: Table[Sent]


@dataclass
class _Line:
    """Orders or requests on their way out. After a refusal a line rests for a while.

    `send` makes a call, or withholds instead. It returns False when nothing may leave now; `waits` then says
    whether anything is left.
    """

    name: str
    outgoing: Outgoing[Any]
    has_turn: Callable[[], bool]
    send: Callable[[], Awaitable[bool]]
    refusals: int = 0
    rests_until_s: float = 0.0
    waits: bool = False


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
        self.intents, self.sessions, self._controls, self._requests, sent = tables
        self._around = around
        self._venue = venue
        self._calls = calls
        self._tally = venue.tally
        self._troubles = troubles
        self.epoch = 0
        self._alone = False
        in_doubt = {
            intent.order.order_id: intent
            for _, intent in task.table(self.intents).items()
            if intent.may_be_unknown
        }
        self.orders = Outgoing(task, self.intents, ORDERS_ROUTE, in_doubt, self._count)
        known = RequestTables(self._requests, self.intents, sent)
        self._asking = Asking(task, known, self.orders, self._look, self._tally)
        self._lines = (
            _Line("requests", self._asking.outgoing, lambda: self._asking.has_turn, self._send_requests),
            _Line("orders", self.orders, lambda: len(self.orders) > 0, self._send_orders),
        )
        self._has_read_limits = False
        self._limits_awaited_since_s = 0.0
        self._listening = asyncio.Event()
        self._gaps: dict[int, int] = {}
        self._work_to_do = asyncio.Event()
        self._work_to_do.set()
        self._booking = Booking(task, self.intents, self.sessions, self._requests, self._tally)

    @property
    def fresh(self) -> dict[str, Intent]:
        """Orders that the venue never had, by id."""
        return self.orders.fresh

    @property
    def in_doubt(self) -> dict[str, Intent]:
        """Orders that the venue may have, by id."""
        return self.orders.in_doubt

    @property
    def waiting(self) -> int:
        """Orders that are not known to be at the venue."""
        return len(self.orders)

    @property
    def requests_waiting(self) -> int:
        """Cancels and replaces that are not known to be at the venue."""
        return len(self._asking.outgoing)

    @property
    def disputed(self) -> set[str]:
        """Orders in dispute, by account/order."""
        return self._booking.disputed

    def submit(self, intents: Iterable[Intent], requests: Iterable[Request] = ()) -> None:
        """Take over intents and requests that have just been committed; look again at those that wait."""
        orders = {intent.order.order_id: intent for intent in intents}
        self.orders.add(orders)
        self._asking.submit(orders, requests)
        self._work_to_do.set()

    async def run(self) -> None:
        try:
            await self._carry_over()
            async with self._venue, asyncio.TaskGroup() as group:
                group.create_task(self._keep_sending())
                group.create_task(self._keep_reading())
        finally:
            for what in ("orders", "requests", "limits", "reports", "gaps"):
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
        with suppress(Fenced):
            while not self.task.closed:
                await self._work_to_do.wait()
                self._work_to_do.clear()
                while any(line.has_turn() for line in self._lines) and not self.task.closed:
                    await self._send_some()
                    for line in self._lines:
                        if not line.has_turn():
                            self._is_well(line)

    async def _send_some(self) -> None:
        """Let each line make a call in turn, so that none waits for the other's end; or let a moment pass."""
        if self._is_held:
            try:
                await self._hold()
            except Transient as error:
                log.warning("%s could not commit for the venue: %s", self.task, error)
                await asyncio.sleep(RETRY_S_MIN)
            return
        for line in self._lines:
            await self._send_line(line)
        if any(line.waits for line in self._lines):
            await self._wait_for_limits()
            return
        self._limits_awaited_since_s = 0.0
        self._well("limits")
        rests_s = [line.rests_until_s - time.monotonic() for line in self._lines if line.has_turn()]
        if rests_s and min(rests_s) > 0:
            await self._more_work(min(rests_s))

    async def _send_line(self, line: _Line) -> None:
        """Let the line make a call, unless it rests; after any failure we speak under a new epoch."""
        line.waits = False
        if not line.has_turn() or time.monotonic() < line.rests_until_s:
            return
        try:
            has_called = await line.send()
        except VenueAway as error:  # the breaker makes the pauses
            self._ill(line.name, error)
        except Transient as error:
            log.warning("%s could not commit for the venue: %s", self.task, error)
        except RefusedTogether as error:
            log.info("%s sends alone: %s", self.task, error)
            self._alone = True
        except VenueRefuses as error:
            self._ill(line.name, error)
            if error.status in BLAMES_THE_BODY:
                line.outgoing.halve()
            line.refusals += 1
            line.rests_until_s = time.monotonic() + REFUSED.after(line.refusals)
        else:
            if not has_called:
                self._is_well(line)
                line.waits = line.has_turn()
            return
        self.epoch = 0
        await asyncio.sleep(RETRY_S_MIN)

    def _is_well(self, line: _Line) -> None:
        """Nothing keeps it up: all that it had has left, or was taken out."""
        self._well(line.name)
        line.refusals, line.rests_until_s = 0, 0.0

    async def _send_requests(self) -> bool:
        """Send cancels, and the replaces that pass a last look right before they leave; see `_Line.send`."""
        asking, requests = self._asking, self._asking.outgoing
        if not self.epoch:
            await asking.withhold(asking.next(ORDERS_PER_CALL_MAX, self._may_look))
            await self.claim()
        await requests.settle(self.call, self.epoch)
        if not asking.has_turn:
            return False
        await self._venue.admitted()
        if self._is_held:
            return False
        knows_limits = self._knows_limits
        chunk = asking.next(requests.per_call, lambda account: knows_limits and self._may_look(account))
        if chunk and not await asking.withhold(chunk):
            bodies = [to_venue_request(each) for each in chunk.values()]
            await requests.send(chunk, bodies, self.call, self.epoch)
        return bool(chunk)

    async def _send_orders(self) -> bool:
        """Send orders that pass a last look right before they leave; see `_Line.send`."""
        await self._withhold(self._cancelled())
        if not self.epoch:
            await self._withhold(self._next())  # the venue may keep them waiting
            await self.claim()
        await self.settle_doubts()
        has_called = await self._send_fresh()
        self._alone = self._alone and has_called and bool(self.fresh)
        return has_called

    @property
    def _is_held(self) -> bool:
        """Whether nothing may leave at all.

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
        """Let a moment pass in which nothing leaves; what grows too old meanwhile is withheld."""
        await self._withhold({**self._next(), **self._cancelled()})
        await self._asking.withhold(self._asking.next(ORDERS_PER_CALL_MAX, self._may_look))
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
        await self._more_work(RETRY_S_MIN)

    async def _more_work(self, within_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._work_to_do.wait(), within_s)
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
        """Ask which of the orders in doubt the venue has."""
        await self.orders.settle(self.call, self.epoch)

    async def _send_fresh(self) -> bool:
        """Look at a call's orders right before they leave, behind all that may make them wait."""
        if not self.fresh:
            return False
        await self._venue.admitted()
        if self._is_held or not self._knows_limits:
            return False
        chunk = self._next(self.orders.per_call)
        if chunk and not await self._withhold(chunk):
            bodies = [to_venue_order(each) for each in chunk.values()]
            await self.orders.send(chunk, bodies, self.call, self.epoch)
        return bool(chunk)

    def _next(self, count: int = ORDERS_PER_CALL_MAX) -> dict[str, Intent]:
        """The first orders that may be looked at.

        While limits may come, those of an account without controls wait for them, all in their order.
        """
        if not self.task.is_behind(RISK_LIMITS):
            return first(self.fresh, count)
        accounts = {intent.account_id for intent in self.fresh.values()}
        looked_at = {account_id for account_id in accounts if self._has_controls(account_id)}
        fresh = self.fresh.items()
        return first({id_: each for id_, each in fresh if each.account_id in looked_at}, count)

    def _may_look(self, account_id: str) -> bool:
        return self._has_controls(account_id) or not self.task.is_behind(RISK_LIMITS)

    def _has_controls(self, account_id: str) -> bool:
        return self.task.table(self._controls).get(account_id) is not None

    def _cancelled(self) -> dict[str, Intent]:
        """Orders that the venue never had, and that are to be cancelled."""
        cancelled = self._asking.cancelled_orders()
        return {order_id: self.fresh[order_id] for order_id in cancelled if order_id in self.fresh}

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the venue when the breaker lets us, or send at once: orders together with those of other tasks.

        Raises VenueAway, VenueRefuses or RefusedTogether.
        """
        if self.task.closed:
            raise VenueAway("the task is no longer ours")
        if path == ORDERS:
            answer = await self._calls.post(self.task, body, alone=self._alone)
        elif path == REQUESTS:
            answer = await self._venue.request(path, body, self._venue.permit_now(path))
        else:
            answer = await self._venue.post(path, body)
        self._tally.note_unknown(path, answer.keys() - ANSWER_FIELDS[path])
        return answer

    # -- the last look

    async def _withhold(self, intents: dict[str, Intent]) -> bool:
        """Take out what must not leave: commit OrderWithheld for it. True if there was any.

        Only for orders that the venue never had.
        """
        cancelled = self._asking.cancelled_orders()

        def look(intent: Intent, now_ms: int) -> OrderWithheld | None:
            order = intent.order
            is_cancelled = order.order_id in cancelled
            reason = WithheldReason.CANCEL_REQUESTED if is_cancelled else self._look(order, now_ms)
            return None if reason is None else withheld(order, reason, now_ms)

        return await self.orders.withhold(intents, look, self._fulfil)

    def _look(self, order: OrderReceived, now_ms: int) -> WithheldReason | None:
        controls = self.task.table(self._controls).get(order.account_id)
        return last_look(order, now_ms=now_ms, controls=controls, around=self._around)

    def _fulfil(self, work: UnitOfWork, event: Withheld) -> None:
        if event.reason == WithheldReason.CANCEL_REQUESTED:
            self._asking.fulfil(work, event.order_id)

    def _count(self, intent: Intent, outcome: str) -> None:
        self._tally.orders[outcome] += 1

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
            listening = asyncio.create_task(listen(socket, arrived))
            try:
                while reports := await all_of(arrived):
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


def _handshake(error: aiohttp.WSServerHandshakeError) -> VenueAway | VenueRefuses:
    """What it means that the report stream did not open."""
    if is_away(error.status):
        return VenueAway(f"the venue answers {error.status} to {REPORTS}")
    return refusal(error.status, REPORTS)
