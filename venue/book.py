"""Price-time-priority matching of our accounts' orders around the replayed market: no clock, no I/O.

`Market` holds one `OrderBook` a symbol. Everything is integers: prices in ticks, quantities in lots. Each
call changes the books and returns the facts that came of it, in the order in which they happened.

- An incoming order first trades with resting orders of *other* accounts, best price first, then earliest
  arrival, at the resting order's price; own orders are skipped. Then it takes what is left of the last
  market trade, at that trade's price, if its limit allows. The rest rests (GTC) or is cancelled (IOC).
- A market trade at price P fills resting orders at P or through it (buys at P or above, sells at P or
  below), the furthest through first, then the earliest, each at its own limit, up to the trade's quantity.
- A symbol's market is open from a market trade until `close`, which expires every resting order.
- A symbol that is not listed any more takes no new order and no market trade; what rests in it stays.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from models.reasons import VenueReason
from models.values import Liquidity, Side, TimeInForce

ADDED, REMOVED = Liquidity.ADDED, Liquidity.REMOVED
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
    """A limit order at the venue. `arrival` numbers the orders taken, from 1; 0 is not taken yet."""

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

    @property
    def leaves_lots(self) -> int:
        return self.quantity_lots - self.filled_lots

    @property
    def venue_order_id(self) -> str:
        return f"V{self.arrival}"

    def allows(self, price_ticks: int) -> bool:
        """Whether the limit is as good as this price, or better for the other side."""
        if self.side is Side.BUY:
            return price_ticks <= self.price_ticks
        return price_ticks >= self.price_ticks


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
    order: Order
    lots: int


class Expired(NamedTuple):
    order: Order
    lots: int


class Rejected(NamedTuple):
    order: Order
    reason: VenueReason


Fact = Acknowledged | Filled | Cancelled | Expired | Rejected


class _Queued(NamedTuple):
    """Sorts by priority: `rank` grows as the price gets worse; `arrival` is unique."""

    rank: int
    arrival: int
    order: Order


class BookSide:
    """One side of one book: the best resting order, also without those of one account, in O(log n).

    Each account queues its own orders; `_heads` ranks the accounts by the first of their queue, so that
    skipping an account is skipping one entry. An entry whose order is no longer first of its queue is
    dropped when it comes up; `_headed` (arrivals) keeps an order from being entered twice.
    """

    def __init__(self, side: Side) -> None:
        self._rank_sign = -1 if side is Side.BUY else 1
        self._queues: dict[str, list[_Queued]] = {}
        self._heads: list[_Queued] = []
        self._headed: set[int] = set()

    def add(self, order: Order) -> None:
        queue = self._queues.setdefault(order.account_id, [])
        heappush(queue, _Queued(self._rank_sign * order.price_ticks, order.arrival, order))
        self._enter_head(queue)

    def add_all(self, orders: Iterable[Order]) -> None:
        """Add many at once, as after a restart."""
        for order in orders:
            queue = self._queues.setdefault(order.account_id, [])
            queue.append(_Queued(self._rank_sign * order.price_ticks, order.arrival, order))
        for queue in self._queues.values():
            heapify(queue)
            self._enter_head(queue)

    def best(self) -> Order | None:
        while self._heads:
            head = self._heads[0]
            queue = self._queues.get(head.order.account_id)
            if queue and queue[0].arrival == head.arrival:
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
        """Take out an order that `best` or `best_of_others` gave: the first of its account's queue."""
        queue = self._queues[order.account_id]
        heappop(queue)
        if queue:
            self._enter_head(queue)
        else:
            del self._queues[order.account_id]

    def clear(self) -> None:
        self._queues.clear()
        self._heads.clear()
        self._headed.clear()

    def __iter__(self) -> Iterator[Order]:
        """Every resting order, in no particular order."""
        return (queued.order for queue in self._queues.values() for queued in queue)

    def _enter_head(self, queue: list[_Queued]) -> None:
        head = queue[0]
        if head.arrival not in self._headed:
            self._headed.add(head.arrival)
            heappush(self._heads, head)

    def _leave_head(self) -> None:
        self._headed.discard(heappop(self._heads).arrival)


@dataclass(slots=True)
class Numbers:
    """Counters that ids are made of: orders taken and trades matched so far, over all symbols."""

    orders_taken: int = 0
    trades_matched: int = 0


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
        self._take_resting(order, facts)
        self._take_liquidity(order, facts)
        if not order.leaves_lots:
            return facts
        if order.time_in_force is TimeInForce.IOC:
            order.status = OrderStatus.CANCELLED
            facts.append(Cancelled(order, order.leaves_lots))
        else:
            self._sides[order.side].add(order)
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
            key=lambda order: (-abs(order.price_ticks - price_ticks), order.arrival),
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
        reason = self._refusal(order, reject_on_demand)
        if reason is not None:
            order.status = OrderStatus.REJECTED
            return [Rejected(order, reason)]
        return self.books[order.symbol].place(order)

    def has_seen(self, symbol: str, tick: Tick) -> bool:
        return tick <= self.books[symbol].tick

    def trade(self, symbol: str, tick: Tick, price_ticks: int, quantity_lots: int) -> list[Fact]:
        """Apply a market trade of a listed symbol; a tick not above the symbol's last one does nothing."""
        if self.has_seen(symbol, tick):
            return []
        return self.books[symbol].trade(tick, price_ticks, quantity_lots)

    def close(self) -> list[Fact]:
        return [fact for book in self.books.values() for fact in book.close()]

    def _refusal(self, order: Order, reject_on_demand: bool) -> VenueReason | None:
        if order.symbol not in self.listed:
            return VenueReason.UNKNOWN_SYMBOL
        book = self.books[order.symbol]
        if book.is_out_of_band(order.price_ticks):
            return VenueReason.PRICE_OUT_OF_BAND
        if not book.is_open:
            return VenueReason.MARKET_CLOSED
        if reject_on_demand:
            return VenueReason.REJECTED_ON_DEMAND
        return None
