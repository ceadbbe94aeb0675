"""Orders of several tasks in one call to the venue: calls that begin in the same turn of the event loop.

A worker commits for all its tasks in one transaction, so their intents are committed at the same moment, and
their calls begin in the same turn. For each task it is as if the call were its own:

- **The last look** is taken in the turn in which the task joins a call. The call leaves in the next turn,
  whatever else happens: its first task has brought the breaker's permit along.
- **No answer:** all tasks of the call are in doubt, and ask before they send again.
- **An answer**, understood or not, goes to all of them as it is; each looks for its own orders in it.
- **A refusal** may be meant for any of them, so each sends alone from then on until all of its orders are
  out: who is meant hears it again, by itself. That is safe: the venue checks the token, the shape of the body
  and the epochs of all sessions before it takes the first order, so what it refuses has changed nothing. Nor
  does it rest on that: as after any other failure, each task asks under a higher epoch before it sends.
- **A task that ends** before the call leaves has no orders in it. A call on its way goes on without the task.
"""

import asyncio
from collections.abc import Hashable
from typing import Any, Final, Protocol

from app.domain.breaker import Permit
from app.venue_session.client import VenueAway, VenueClient, VenueRefuses

ORDERS: Final = "/orders"
ORDERS_PER_CALL_MAX: Final = 500

Body = dict[str, Any]
"""What `POST /orders` takes: `sessions`, the epoch of each, and `orders`, each with its session."""


class Sender(Hashable, Protocol):
    """A task; `closed` says that it is no longer ours."""

    closed: bool


class RefusedTogether(Exception):
    """The venue has refused a call of several tasks: each may be meant, and has to send alone."""


class _Call:
    """One request, made in the next turn. `bodies` is what each task has in it."""

    def __init__(self, venue: VenueClient, permit: Permit) -> None:
        self.bodies: dict[Sender, Body] = {}
        self.has_left = False
        self._venue = venue
        self.answer = asyncio.create_task(self._leave(permit))
        self.answer.add_done_callback(_look_at)

    def has_room(self, task: Sender, body: Body) -> bool:
        """Whether it may take this too; never two epochs of one session."""
        bodies = self.bodies.values()
        return (
            not self.has_left
            and task not in self.bodies
            and sum(len(each["orders"]) for each in (*bodies, body)) <= ORDERS_PER_CALL_MAX
            and all(each["sessions"].keys().isdisjoint(body["sessions"]) for each in bodies)
        )

    async def _leave(self, permit: Permit) -> dict[str, Any]:
        self.has_left = True
        self.bodies = {task: body for task, body in self.bodies.items() if not task.closed}
        if not self.bodies:
            self._venue.withdraw(permit)
            return {}
        bodies = list(self.bodies.values())
        sessions = {session: epoch for body in bodies for session, epoch in body["sessions"].items()}
        orders = [order for body in bodies for order in body["orders"]]
        try:
            return await self._venue.request(ORDERS, {"sessions": sessions, "orders": orders}, permit)
        except VenueRefuses as error:
            if len(bodies) > 1 and error.status:
                raise RefusedTogether(f"{error}, in a call of {len(bodies)} tasks") from None
            raise


class OrderCalls:
    """Makes the calls with orders of all tasks of a worker."""

    def __init__(self, venue: VenueClient) -> None:
        self._venue = venue
        self._last: _Call | None = None

    async def post(self, task: Sender, body: Body, *, alone: bool = False) -> dict[str, Any]:
        """The venue's answer, in which there may be orders of others.

        Raises VenueAway and VenueRefuses, as the client does, and RefusedTogether unless sent `alone`. It
        does not wait for the breaker, which would be behind the last look: while that is open it raises
        VenueAway.
        """
        call = self._last
        if alone or call is None or not call.has_room(task, body):
            call = self._begin()
            if not alone:
                self._last = call
        call.bodies[task] = body
        answer: dict[str, Any] = await asyncio.shield(call.answer)
        if task not in call.bodies:
            raise VenueAway("the task is no longer ours")
        return answer

    def _begin(self) -> _Call:
        return _Call(self._venue, self._venue.permit_now(ORDERS))


def _look_at(answer: "asyncio.Task[dict[str, Any]]") -> None:
    """Have its error noticed, though all who waited for it may have been cancelled."""
    if not answer.cancelled():
        answer.exception()
