"""What has to reach the venue once: sent when it is committed, asked for when it is in doubt, or withheld.

Orders and requests go out by the same rules. What was sent without an answer is in doubt until the venue has
been asked, and only what the venue never had may be sent, or withheld in its place.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from app.engine import Table, Task, UnitOfWork, shard_of, unit_of_work
from app.topics import EXECUTIONS
from app.venue_session.client import VenueRefuses, not_understood
from app.venue_session.gathering import ORDERS, ORDERS_PER_CALL_MAX
from models.events import OrderWithheld, ReplaceWithheld

log = logging.getLogger(__name__)

REQUESTS: Final = "/requests"


class Route(NamedTuple):
    """Where the venue takes things, and tells which it has. Bodies have them as `name`, each by `id_name`."""

    path: str
    name: str
    id_name: str

    @property
    def query(self) -> str:
        return f"{self.path}/query"


ORDERS_ROUTE: Final = Route(ORDERS, "orders", "client_order_id")
REQUESTS_ROUTE: Final = Route(REQUESTS, "requests", "request_id")

ANSWER_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    path: names
    for route in (ORDERS_ROUTE, REQUESTS_ROUTE)
    for path, names in (
        (route.path, frozenset({"accepted", "duplicates"})),
        (route.query, frozenset({"known"})),
    )
}


class Sendable(Protocol):
    """A row of a table that stands for what the venue shall have."""

    @property
    def account_id(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def place(self) -> tuple[int, int]: ...

    @property
    def may_be_unknown(self) -> bool: ...


S = TypeVar("S", bound=Sendable)
Withheld = OrderWithheld | ReplaceWithheld
Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""A call to the venue: path and body."""


class Outgoing(Generic[S]):
    """The things of one kind that a task has to send, by id.

    `fresh` are those that the venue never had, in the order in which they leave; `in_doubt` those that it may
    have. `count` is told what became of each: sent, or withheld and why.
    """

    def __init__(
        self,
        task: Task,
        table: Table[S],
        route: Route,
        in_doubt: Mapping[str, S],
        count: Callable[[S, str], None],
    ) -> None:
        self.fresh: dict[str, S] = {}
        self.in_doubt = dict(in_doubt)
        self.per_call = ORDERS_PER_CALL_MAX
        self._task = task
        self._table = table
        self._route = route
        self._count = count

    def __len__(self) -> int:
        """How many are not known to be at the venue."""
        return len(self.fresh) + len(self.in_doubt)

    def __contains__(self, id_: str) -> bool:
        return id_ in self.fresh or id_ in self.in_doubt

    def add(self, things: Mapping[str, S]) -> None:
        """Take over what has just been committed."""
        self.fresh.update((id_, each) for id_, each in things.items() if id_ not in self.in_doubt)

    def drop(self, ids: Iterable[str]) -> None:
        """Forget what is no longer to be sent."""
        for id_ in ids:
            self.fresh.pop(id_, None)
            self.in_doubt.pop(id_, None)

    def halve(self) -> None:
        """Put fewer into a call: one of them may be what the venue does not take."""
        self.per_call = max(1, self.per_call // 2)

    async def settle(self, call: Call, epoch: int) -> None:
        """Ask which of those in doubt the venue has; the others are as good as never sent.

        These leave before what has come meanwhile, each account's by their places. They leave behind it
        while one of them may be what the venue cannot take.
        """
        if not self.in_doubt:
            return
        while chunk := first(self.in_doubt, ORDERS_PER_CALL_MAX):
            question = {"sessions": _epochs(chunk, epoch), f"{self._route.id_name}s": list(chunk)}
            known = _texts(await call(self._route.query, question), "known", self._route.query)
            for id_, each in chunk.items():
                del self.in_doubt[id_]
                if id_ not in known:
                    self.fresh[id_] = each
        if self.per_call == ORDERS_PER_CALL_MAX:
            self.fresh = dict(sorted(self.fresh.items(), key=lambda item: item[1].place))

    async def send(
        self, chunk: Mapping[str, S], bodies: Sequence[Mapping[str, Any]], call: Call, epoch: int
    ) -> None:
        """Send what is fresh, each as its body says. What the venue does not confirm is in doubt."""
        path, name, id_name = self._route
        for id_ in chunk:
            del self.fresh[id_]
        self.in_doubt.update(chunk)
        told = [
            {"session": _shard(each.account_id), **body}
            for each, body in zip(chunk.values(), bodies, strict=True)
        ]
        answer = await call(path, {"sessions": _epochs(chunk, epoch), name: told})
        taken = _texts(answer, "accepted", path) | _texts(answer, "duplicates", path)
        for (id_, each), body in zip(chunk.items(), told, strict=True):
            if body[id_name] in taken:
                del self.in_doubt[id_]
                self._count(each, "sent")
        if self.in_doubt:
            raise VenueRefuses(
                f"the venue's answer to {path} says nothing of {len(self.in_doubt)} {name}, such as "
                f"{next(iter(self.in_doubt))}: they are asked for",
                kind=f"{path} incomplete",
            )
        self.per_call = min(ORDERS_PER_CALL_MAX, self.per_call * 2)

    async def withhold(
        self,
        chunk: Mapping[str, S],
        look: Callable[[S, int], Withheld | None],
        and_so: Callable[[UnitOfWork, Withheld], None] = lambda work, event: None,
    ) -> bool:
        """Take out of what is fresh what must not leave, and commit the event for it. True if there was any.

        `look` gets the worker's time. `and_so` is what else belongs to the commit of an event.
        """
        committed = self._task.table(self._table)
        now_ms = time.time_ns() // 1_000_000
        gone, found = [], {}
        for id_, each in chunk.items():
            if not _is_unsent(committed.get(each.key)):
                gone.append(id_)  # a report has come, though nothing was sent: never send it
            elif (event := look(each, now_ms)) is not None:
                found[id_] = event
        if found:
            async with unit_of_work(self._task) as work:
                rows = work[self._table]
                for id_, event in list(found.items()):
                    if not _is_unsent(rows.get(chunk[id_].key)):  # a report was booked meanwhile
                        gone.append(id_)
                        del found[id_]
                        continue
                    del rows[chunk[id_].key]
                    event_id = f"{id_}:exchange:withheld"
                    work.emit(EXECUTIONS, event, event_id=event_id, correlation_id=event.order_id)
                    and_so(work, event)
        self.drop((*gone, *found))
        for id_, event in found.items():
            self._count(chunk[id_], f"withheld {event.reason}")
            log.info("%s of order %s: %s", type(event).__name__, event.order_id, event.reason)
        return bool(gone or found)


def first(things: Mapping[str, S], count: int) -> dict[str, S]:
    return dict(islice(things.items(), count))


def _is_unsent(row: Sendable | None) -> bool:
    return row is not None and row.may_be_unknown


def _shard(account_id: str) -> int:
    return shard_of(account_id.encode())


def _epochs(things: Mapping[str, S], epoch: int) -> dict[str, int]:
    """The sessions that these are sent on, with the epoch under which we speak."""
    return {str(_shard(each.account_id)): epoch for each in things.values()}


def _texts(answer: dict[str, Any], name: str, path: str) -> set[str]:
    """A member that has to be a list of texts; raises VenueRefuses otherwise."""
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise not_understood(path, f"no list of texts in {name!r}".encode())
    return set(found)
