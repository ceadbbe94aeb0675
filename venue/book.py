"""Price-time-priority matching of our accounts' orders around the replayed market: no clock, no I/O.

`Market` holds one `OrderBook` a symbol. Everything is integers: prices in ticks, quantities in lots. Each
call changes the books and returns the facts that came of it, in the order in which they happened.

- An incoming order first trades with resting orders of *other* accounts, best price first, then earliest
  arrival, at the resting order's price; own orders are skipped. Then it takes what is left of the last
  market trade, at that trade's price, if its limit allows. The rest rests (GTC) or is cancelled (IOC).
- A replace gives a resting order another total quantity and price, under the guards of a new order. If only
  the quantity falls, the order keeps its place in time. Else it gets a new place and is matched like an
  incoming order. A total that is filled already ends it as filled.
- A market trade at price P fills resting orders at P or through it (buys at P or above, sells at P or
  below), the furthest through first, then the earliest, each at its own limit, up to the trade's quantity.
- A symbol's market is open from a market trade until `close`, which expires every resting order.
- A symbol that is not listed any more takes no new order, no replace and no market trade; what rests in it
  stays until it is cancelled or the market closes.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from models.reasons import VenueReason
from models.values import Liquidity, Side, TimeInForce

ADDED, REMOVED = Liquidity.ADDED, Liquidity.REMOVED
REMOVALS_MIN = 64
"""A side of a book makes its entries anew after so many removals at the earliest."""
PRICE_BAND_PERCENT = 50
"""How far from the last price a limit may be, both ways, the bound itself allowed."""


class Tick(NamedTuple):
    """Names a market trade of a symbol; a higher epoch (feed session) begins to count anew."""

    epoch: int
    sequence: int


class OrderStatus(StrEnum):
    OPEN = "open"
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"


@dataclass(slots=True, eq=False)
class Order:
    """A limit order at the venue. `quantity_lots` and `price_ticks` are those in force.

    `arrival` numbers the orders taken, from 1; 0 is not taken. `priority` is its place in time: lower is
    first, no two orders have the same, and it stays as it is while the order rests.
    """

    order_id: str
    account_id: str
    session: int
    symbol: str
    side: Side
    quantity_lots: int
    price_ticks: int
    time_in_force: TimeInForce
    arrival: int = 0
    filled_lots: int = 0
    status: OrderStatus = OrderStatus.OPEN
    priority: int = 0

    @property
    def leaves_lots(self) -> int:
        return self.quantity_lots - self.filled_lots

    @property
    def venue_order_id(self) -> str:
        """Empty for an order that was not taken."""
        return f"V{self.arrival}" if self.arrival else ""

    def allows(self, price_ticks: int) -> bool:
        """Whether the limit is as good as this price, or better for the other side."""
        if self.side is Side.BUY:
            return price_ticks <= self.price_ticks
        return price_ticks >= self.price_ticks


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants of an order. `symbol` and `side` are its word, for an order that is unknown."""

    session: int
    request_id: str
    account_id: str
    order_id: str
    symbol: str
    side: Side


@dataclass(frozen=True, slots=True)
class Cancel(Request):
    """The order is to end."""


@dataclass(frozen=True, slots=True)
class Replace(Request):
    """The order is to have another total quantity, what is filled included, and another price."""

    quantity_lots: int
    price_ticks: int


class Acknowledged(NamedTuple):
    order: Order


class Filled(NamedTuple):
    """`leaves_lots` is what was open right after this fill.

    `liquidity` is what the order did to the book; `with_market`: the other side is the replayed market.
    """

    order: Order
    trade_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int
    liquidity: Liquidity
    with_market: bool


class Cancelled(NamedTuple):
    """`request_id` is the cancel that asked for it, None when nobody did."""

    order: Order
    lots: int
    request_id: str | None = None


class Expired(NamedTuple):
    order: Order
    lots: int


class Rejected(NamedTuple):
    order: Order
    reason: VenueReason


class Replaced(NamedTuple):
    """What is in force from here on; `leaves_lots` is what was open before a match at the new price."""

    order: Order
    request_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int


class Refused(NamedTuple):
    """A request that changes nothing. `order` is not taken (`arrival` 0) if its account has no such order."""

    order: Order
    request: Request
    reason: VenueReason


Fact = Acknowledged | Filled | Cancelled | Expired | Rejected | Replaced | Refused


class _Queued(NamedTuple):
    """Sorts by priority: `rank` grows as the price gets worse; `priority` is unique."""

    rank: int
    priority: int
    order: Order


class BookSide:
    """One side of one book: the best resting order, also without those of one account, in O(log n).

    Each account queues its own orders; `_heads` ranks the accounts by the first of their queue, so that
    skipping an account is skipping one entry. An entry whose order is no longer first of its queue is
    dropped when it comes up; `_headed` (priorities) keeps an order from being entered twice.

    An order may leave from anywhere. Its entries stay behind, and are dropped when they come up: the first of
    a queue is always an order at rest. After as many removals as orders rest, all entries are made anew, so
    that those left behind are never more than a multiple of the others.
    """

    def __init__(self, side: Side) -> None:
        self._rank_sign = -1 if side is Side.BUY else 1
        self._resting: dict[str, Order] = {}
        self._queues: dict[str, list[_Queued]] = {}
        self._heads: list[_Queued] = []
        self._headed: set[int] = set()
        self._removals = 0

    def add(self, order: Order) -> None:
        self._resting[order.order_id] = order
        queue = self._queues.setdefault(order.account_id, [])
        heappush(queue, self._queued(order))
        self._enter_head(queue)

    def add_all(self, orders: Iterable[Order]) -> None:
        """Add many at once, as after a restart."""
        for order in orders:
            self._resting[order.order_id] = order
            self._queues.setdefault(order.account_id, []).append(self._queued(order))
        for queue in self._queues.values():
            heapify(queue)
            self._enter_head(queue)

    def resting(self, order_id: str) -> Order:
        """Raises KeyError for an order that does not rest here."""
        return self._resting[order_id]

    def best(self) -> Order | None:
        while self._heads:
            head = self._heads[0]
            queue = self._queues.get(head.order.account_id)
            if queue and queue[0].priority == head.priority:
                return head.order
            self._leave_head()
        return None

    def best_of_others(self, account_id: str) -> Order | None:
        best = self.best()
        if best is None or best.account_id != account_id:
            return best
        own = heappop(self._heads)
        best = self.best()
        heappush(self._heads, own)
        return best

    def remove(self, order: Order) -> None:
        """Take out any order. Raises KeyError if it does not rest here."""
        del self._resting[order.order_id]
        self._removals += 1
        if self._removals > max(len(self._resting), REMOVALS_MIN):
            self._make_anew()
            return
        queue = self._queues[order.account_id]
        while queue and not self._is_resting(queue[0]):
            heappop(queue)
        if queue:
            self._enter_head(queue)
        else:
            del self._queues[order.account_id]

    def clear(self) -> None:
        self._resting.clear()
        self._queues.clear()
        self._heads.clear()
        self._headed.clear()
        self._removals = 0

    def __iter__(self) -> Iterator[Order]:
        """Every resting order, in no particular order."""
        return iter(self._resting.values())

    def _queued(self, order: Order) -> _Queued:
        return _Queued(self._rank_sign * order.price_ticks, order.priority, order)

    def _is_resting(self, queued: _Queued) -> bool:
        """Whether the order is still in this place: it may have left, or have come back in another one."""
        return queued.priority == queued.order.priority and queued.order.order_id in self._resting

    def _make_anew(self) -> None:
        resting = list(self)
        self.clear()
        self.add_all(resting)

    def _enter_head(self, queue: list[_Queued]) -> None:
        head = queue[0]
        if head.priority not in self._headed:
            self._headed.add(head.priority)
            heappush(self._heads, head)

    def _leave_head(self) -> None:
        self._headed.discard(heappop(self._heads).priority)


@dataclass(slots=True)
class Numbers:
    """Counters so far, over all symbols: orders taken, trades matched, and places in time given to orders."""

    orders_taken: int = 0
    trades_matched: int = 0
    places_given: int = 0

    def next_place(self) -> int:
        self.places_given += 1
        return self.places_given


class OrderBook:
    """One symbol: its resting orders, last price and what is left of the last market trade."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._sides = {side: BookSide(side) for side in Side}
        self.price_ticks = 0
        self.tick = Tick(0, 0)
        self.liquidity_lots = 0
        self.is_open = False

    def orders(self) -> list[Order]:
        """The resting orders by arrival."""
        resting = [order for side in self._sides.values() for order in side]
        resting.sort(key=lambda order: order.arrival)
        return resting

    def resting(self, side: Side, order_id: str) -> Order:
        """Raises KeyError for an order that does not rest here."""
        return self._sides[side].resting(order_id)

    def restore(self, orders: Iterable[Order]) -> None:
        """Let open orders rest as they were, without matching them."""
        by_side: dict[Side, list[Order]] = {side: [] for side in Side}
        for order in orders:
            by_side[order.side].append(order)
        for side, resting in by_side.items():
            self._sides[side].add_all(resting)

    def is_out_of_band(self, price_ticks: int) -> bool:
        distance_ticks = abs(price_ticks - self.price_ticks)
        return self.price_ticks > 0 and distance_ticks * 100 > self.price_ticks * PRICE_BAND_PERCENT

    def place(self, order: Order) -> list[Fact]:
        """Match an order that no guard refused, then let it rest or cancel what is left."""
        facts: list[Fact] = [Acknowledged(order)]
        self._match(order, facts)
        if order.leaves_lots and order.time_in_force is TimeInForce.IOC:
            order.status = OrderStatus.CANCELLED
            facts.append(Cancelled(order, order.leaves_lots))
        elif order.leaves_lots:
            self._sides[order.side].add(order)
        return facts

    def cancel(self, order: Order, request_id: str | None) -> list[Fact]:
        """End an order that rests."""
        self._sides[order.side].remove(order)
        order.status = OrderStatus.CANCELLED
        return [Cancelled(order, order.leaves_lots, request_id)]

    def replace(self, order: Order, request: Replace) -> list[Fact]:
        """Change an order that rests, by a request that no guard refused."""
        if request.price_ticks == order.price_ticks and request.quantity_lots < order.quantity_lots:
            replaced = _replaced(order, request)
            self._remove_if_filled(order)
            return [replaced]
        side = self._sides[order.side]
        side.remove(order)
        facts: list[Fact] = [_replaced(order, request)]
        order.priority = self._numbers.next_place()
        self._match(order, facts)
        if order.leaves_lots:
            side.add(order)
        return facts

    def trade(self, tick: Tick, price_ticks: int, quantity_lots: int) -> list[Fact]:
        """The market traded: fill what rests at this price or through it, keep the rest as liquidity."""
        self.is_open = True
        self.tick = tick
        self.price_ticks = price_ticks
        self.liquidity_lots = quantity_lots
        facts: list[Fact] = []
        while self.liquidity_lots and (resting := self._furthest_through(price_ticks)):
            lots = min(self.liquidity_lots, resting.leaves_lots)
            self.liquidity_lots -= lots
            trade = self._next_trade()
            facts.append(_fill(resting, trade, lots, resting.price_ticks, ADDED, with_market=True))
            self._remove_if_filled(resting)
        return facts

    def close(self) -> list[Fact]:
        """Expire every resting order; no orders until the market trades again."""
        self.is_open = False
        self.liquidity_lots = 0
        expired = self.orders()
        for side in self._sides.values():
            side.clear()
        for order in expired:
            order.status = OrderStatus.EXPIRED
        return [Expired(order, order.leaves_lots) for order in expired]

    def _match(self, order: Order, facts: list[Fact]) -> None:
        """Fill an order that does not rest, as far as its limit allows."""
        self._take_resting(order, facts)
        self._take_liquidity(order, facts)

    def _take_resting(self, order: Order, facts: list[Fact]) -> None:
        opposite = self._sides[Side.SELL if order.side is Side.BUY else Side.BUY]
        while order.leaves_lots:
            resting = opposite.best_of_others(order.account_id)
            if resting is None or not order.allows(resting.price_ticks):
                return
            lots = min(order.leaves_lots, resting.leaves_lots)
            trade = self._next_trade()
            facts.append(_fill(order, trade, lots, resting.price_ticks, REMOVED))
            facts.append(_fill(resting, trade, lots, resting.price_ticks, ADDED))
            self._remove_if_filled(resting)

    def _take_liquidity(self, order: Order, facts: list[Fact]) -> None:
        lots = min(order.leaves_lots, self.liquidity_lots)
        if lots and order.allows(self.price_ticks):
            self.liquidity_lots -= lots
            trade = self._next_trade()
            facts.append(_fill(order, trade, lots, self.price_ticks, REMOVED, with_market=True))

    def _furthest_through(self, price_ticks: int) -> Order | None:
        candidates = [
            best for side in self._sides.values() if (best := side.best()) and best.allows(price_ticks)
        ]
        return min(
            candidates,
            key=lambda order: (-abs(order.price_ticks - price_ticks), order.priority),
            default=None,
        )

    def _remove_if_filled(self, resting: Order) -> None:
        if resting.status is OrderStatus.FILLED:
            self._sides[resting.side].remove(resting)

    def _next_trade(self) -> int:
        self._numbers.trades_matched += 1
        return self._numbers.trades_matched


def _fill(
    order: Order,
    trade: int,
    quantity_lots: int,
    price_ticks: int,
    liquidity: Liquidity,
    *,
    with_market: bool = False,
) -> Filled:
    """Fill a part of the order. Both sides of a match share its number; the side makes the id unique."""
    order.filled_lots += quantity_lots
    leaves_lots = order.leaves_lots
    if not leaves_lots:
        order.status = OrderStatus.FILLED
    trade_id = f"T{trade}{'B' if order.side is Side.BUY else 'S'}"
    return Filled(order, trade_id, quantity_lots, price_ticks, leaves_lots, liquidity, with_market)


def _replaced(order: Order, request: Replace) -> Replaced:
    """Put the request's quantity and price in force; a total that is filled already ends the order."""
    order.quantity_lots = max(request.quantity_lots, order.filled_lots)
    order.price_ticks = request.price_ticks
    if not order.leaves_lots:
        order.status = OrderStatus.FILLED
    return Replaced(order, request.request_id, order.quantity_lots, order.price_ticks, order.leaves_lots)


def _not_taken(request: Request) -> Order:
    """Stands for the order of a request that names none of its account's."""
    return Order(
        request.order_id,
        request.account_id,
        request.session,
        request.symbol,
        request.side,
        0,
        0,
        TimeInForce.GTC,
    )


@dataclass(slots=True)
class Market:
    """Every symbol's book behind the venue's guards."""

    listed: Collection[str]
    numbers: Numbers = field(default_factory=Numbers)
    books: dict[str, OrderBook] = field(init=False)

    def __post_init__(self) -> None:
        self.books = {symbol: OrderBook(self.numbers) for symbol in sorted(self.listed)}

    def book(self, symbol: str) -> OrderBook:
        """The symbol's book, made anew for one that was listed before and may have orders at rest."""
        return self.books.setdefault(symbol, OrderBook(self.numbers))

    def place(self, order: Order, *, reject_on_demand: bool = False) -> list[Fact]:
        """Take an order: number it, then refuse it or match it."""
        self.numbers.orders_taken += 1
        order.arrival = self.numbers.orders_taken
        order.priority = self.numbers.next_place()
        reason = self._refusal(order.symbol, order.price_ticks, reject_on_demand)
        if reason is not None:
            order.status = OrderStatus.REJECTED
            return [Rejected(order, reason)]
        return self.books[order.symbol].place(order)

    def answer(self, request: Request, order: Order | None, *, reject_on_demand: bool = False) -> list[Fact]:
        """Do what a request asks for, or refuse it; `order` is the one that it names, None if there is none.

        An order that is open has to be the one that rests here.
        """
        if order is None or order.account_id != request.account_id:
            return [Refused(_not_taken(request), request, VenueReason.UNKNOWN_ORDER)]
        reason = self._refusal_of_request(request, order, reject_on_demand)
        if reason is not None:
            return [Refused(order, request, reason)]
        book = self.books[order.symbol]
        if isinstance(request, Replace):
            return book.replace(order, request)
        return book.cancel(order, request.request_id)

    def cancel_unasked(self, order: Order) -> list[Fact]:
        """End an order that rests, although nobody asked for it."""
        return self.books[order.symbol].cancel(order, None)

    def has_seen(self, symbol: str, tick: Tick) -> bool:
        return tick <= self.books[symbol].tick

    def trade(self, symbol: str, tick: Tick, price_ticks: int, quantity_lots: int) -> list[Fact]:
        """Apply a market trade of a listed symbol; a tick not above the symbol's last one does nothing."""
        if self.has_seen(symbol, tick):
            return []
        return self.books[symbol].trade(tick, price_ticks, quantity_lots)

    def close(self) -> list[Fact]:
        return [fact for book in self.books.values() for fact in book.close()]

    def _refusal_of_request(
        self, request: Request, order: Order, reject_on_demand: bool
    ) -> VenueReason | None:
        if order.status is not OrderStatus.OPEN:
            return VenueReason.ORDER_ENDED
        if isinstance(request, Replace):
            return self._refusal(order.symbol, request.price_ticks, reject_on_demand)
        return VenueReason.REJECTED_ON_DEMAND if reject_on_demand else None

    def _refusal(self, symbol: str, price_ticks: int, reject_on_demand: bool) -> VenueReason | None:
        if symbol not in self.listed:
            return VenueReason.UNKNOWN_SYMBOL
        book = self.books[symbol]
        if book.is_out_of_band(price_ticks):
            return VenueReason.PRICE_OUT_OF_BAND
        if not book.is_open:
            return VenueReason.MARKET_CLOSED
        if reject_on_demand:
            return VenueReason.REJECTED_ON_DEMAND
        return None
