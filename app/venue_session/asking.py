"""Cancels and replaces on their way to the venue: each behind its order, and all until they are answered."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from app.domain.exchange import (
    Intent,
    Request,
    Sent,
    is_awaited,
    last_look_at_request,
    replace_withheld,
)
from app.engine import Table, Task, UnitOfWork
from app.venue_session.outgoing import REQUESTS_ROUTE, Outgoing
from app.venue_session.status import Tally
from models.events import OrderReceived, ReplaceWithheld
from models.reasons import WithheldReason


class RequestTables(NamedTuple):
    """What is known of a task's requests and their orders."""

    requests: Table[Request]
    intents: Table[Intent]
    sent: Table[Sent]


class Asking:
    """The requests of one task. `look` is the last look at an order, at a time of the worker's."""

    def __init__(
        self,
        task: Task,
        tables: RequestTables,
        orders: Outgoing[Intent],
        look: Callable[[OrderReceived, int], WithheldReason | None],
        tally: Tally,
    ) -> None:
        self._task = task
        self._tables = tables
        self._orders = orders
        self._look = look
        self._tally = tally
        pending = {row.request_id: row for _, row in task.table(tables.requests).items()}
        self.outgoing = Outgoing(task, tables.requests, REQUESTS_ROUTE, pending, self._count)
        self._awaited: set[str] = set()
        self._note_awaited(pending.values())

    def submit(self, orders: Iterable[str], requests: Iterable[Request]) -> None:
        """Take over requests that have just been committed, and orders that were submitted."""
        self._awaited.difference_update(orders)
        added = {each.request_id: each for each in requests}
        self._note_awaited(added.values())
        self.outgoing.add(added)

    def _note_awaited(self, requests: Iterable[Request]) -> None:
        """Remember whose order is still to come.

        It is awaited until it is submitted, a moment after its intent can be seen in the table. For in that
        moment an intent that is not among the orders to send would look like one that the venue has.
        """
        for request in requests:
            if self._is_to_come(request):
                self._awaited.add(request.order_id)

    def _is_to_come(self, request: Request) -> bool:
        return is_awaited(request, self._task.table(self._tables.sent).get(request.account_id))

    def _intent(self, request: Request) -> Intent | None:
        return self._task.table(self._tables.intents).get(f"{request.account_id}/{request.order_id}")

    def _waits(self, request: Request) -> bool:
        """Whether the order is not known to be at the venue, and not over either."""
        if request.order_id in self._awaited:
            if self._intent(request) is not None or self._is_to_come(request):
                return True
            self._awaited.discard(request.order_id)  # it was refused, or given up
        return request.order_id in self._orders

    @property
    def has_turn(self) -> bool:
        """Whether there are requests that wait for no order."""
        return bool(self.outgoing.in_doubt) or any(
            not self._waits(each) for each in self.outgoing.fresh.values()
        )

    def next(self, count: int, may_look: Callable[[str], bool]) -> dict[str, Request]:
        """The first requests that may leave or be withheld; `may_look` tells it of an account's replaces."""
        found: dict[str, Request] = {}
        for request_id, request in self.outgoing.fresh.items():
            if len(found) == count:
                break
            if not self._waits(request) and (request.is_cancel or may_look(request.account_id)):
                found[request_id] = request
        return found

    async def withhold(self, requests: dict[str, Request]) -> bool:
        """Take out replaces that must not leave; True if there were any."""
        return await self.outgoing.withhold(requests, self._withheld)

    def _withheld(self, request: Request, now_ms: int) -> ReplaceWithheld | None:
        reason = last_look_at_request(request, self._intent(request), lambda order: self._look(order, now_ms))
        return None if reason is None else replace_withheld(request, reason, now_ms)

    # -- cancels of orders that the venue never had

    def cancelled_orders(self) -> set[str]:
        """Orders for which a cancel is on its way."""
        pending = (*self.outgoing.fresh.values(), *self.outgoing.in_doubt.values())
        return {each.order_id for each in pending if each.is_cancel}

    def fulfil(self, work: UnitOfWork, order_id: str) -> None:
        """Withheld, the order is as good as cancelled: its cancels are done, in the same commit.

        The venue has never had them, not even one in doubt: a cancel leaves behind its order.
        """
        pending = {**self.outgoing.fresh, **self.outgoing.in_doubt}
        done = [each for each in pending.values() if each.is_cancel and each.order_id == order_id]
        for request in done:
            del work[self._tables.requests][request.key]
        work.after_commit(lambda: self._forget(done))

    def _forget(self, done: list[Request]) -> None:
        self.outgoing.drop(each.request_id for each in done)
        for request in done:
            self._count(request, "done with the order")

    def _count(self, request: Request, outcome: str) -> None:
        self._tally.requests[f"{request.kind} {outcome}"] += 1
