"""What an account has sent of late: the last approved order of each kind, in a bounded number of rows."""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from models.values import State

DUPLICATE_WITHIN_MS: Final = 1_000
RECENT_ORDERS_MAX: Final = 64


class RecentOrder(State, frozen=True):
    """An approved order. Table `recent_kinds`, key account/number, written by compliance.

    `kind` is its symbol, side, quantity and price, `at_ms` the broker's time of it (the client's where risk
    did not tell that). `place` grows with each approved order of the account.
    """

    kind: str
    order_id: str
    at_ms: int
    place: int


class Recent:
    """The last order of each kind, at most RECENT_ORDERS_MAX, the last approved at the end.

    It forgets what came more than DUPLICATE_WITHIN_MS before a later approval, and the first when there are
    too many. A row that is forgotten stays in its table until another takes its number: the one with the
    lowest place goes first, so that whatever made others be forgotten is there as long as they are, and the
    rows alone tell what is still known.
    """

    __slots__ = ("_free", "_is_ordered", "_known", "_last_ms", "_numbers")

    def __init__(self, rows: Iterable[tuple[int, RecentOrder]] = ()) -> None:
        """Make it of the rows of an account by their numbers, which are all of those from 0 on."""
        self._known: dict[str, tuple[int, RecentOrder]] = {}
        self._free: list[tuple[int, int]] = []
        """A heap of (place, number): rows that are forgotten."""
        self._numbers = 0
        self._last_ms = 0
        self._is_ordered = True
        """Whether the times grow as the places do: then the old ones are the first ones."""
        for number, row in sorted(rows, key=_place):
            self._numbers += 1
            self._forget_for(row)
            self._known[row.kind] = number, row

    def get(self, kind: str) -> RecentOrder | None:
        known = self._known.get(kind)
        return None if known is None else known[1]

    def add(self, row: RecentOrder) -> int:
        """Take in an order, whose place is above all others; returns the number of its row."""
        self._forget_for(row)
        if self._free:
            number = heappop(self._free)[1]
        else:
            number = self._numbers
            self._numbers += 1
        self._known[row.kind] = number, row
        return number

    def rows(self) -> list[RecentOrder]:
        """What is known, in the order of the approvals."""
        return [row for _, row in self._known.values()]

    def _forget_for(self, row: RecentOrder) -> None:
        """Forget what `row` makes old, the last of its kind, and the first if there is no room otherwise."""
        known = self._known
        if row.kind in known:
            self._forget(row.kind)
        before_ms = row.at_ms - DUPLICATE_WITHIN_MS
        if self._is_ordered:
            while known and known[first := next(iter(known))][1].at_ms < before_ms:
                self._forget(first)
        else:
            for kind in [kind for kind, (_, other) in known.items() if other.at_ms < before_ms]:
                self._forget(kind)
        if len(known) == RECENT_ORDERS_MAX:
            self._forget(next(iter(known)))
        self._is_ordered = not known or (self._is_ordered and row.at_ms >= self._last_ms)
        self._last_ms = row.at_ms

    def _forget(self, kind: str) -> None:
        number, row = self._known.pop(kind)
        heappush(self._free, (row.place, number))


def _place(numbered: tuple[int, RecentOrder]) -> int:
    return numbered[1].place
