"""Where an account's own orders rest: the best price of each symbol and side, whatever their number."""

from heapq import heapify, heappop, heappush
from typing import Final

from models.values import Side, State

BUY: Final = Side.BUY  # found faster
SPARE_PRICES: Final = 8
"""So many prices that are gone may stay in a heap beside as many as are there."""


class OpenOrder(State, frozen=True):
    """An approved order that has not ended. Table `open_orders`, key account/order, written by compliance.

    `rests` is False for one that can't wait in the book.
    """

    symbol: str
    side: Side
    price_ticks: int
    rests: bool


class Resting:
    """The resting orders of one account, by price. Adding and removing one costs the logarithm of the prices.

    A heap on each side of a symbol has its best price on top; a price that is gone leaves it when it comes to
    the top, or when the heap is made anew.
    """

    __slots__ = ("_buys", "_sells")

    def __init__(self) -> None:
        self._buys: dict[str, _Prices] = {}
        self._sells: dict[str, _Prices] = {}

    def add(self, order: OpenOrder) -> None:
        if order.rests:
            side, rank = self._place(order)
            prices = side.get(order.symbol)
            if prices is None:
                prices = side[order.symbol] = _Prices()
            prices.add(rank)

    def remove(self, order: OpenOrder) -> None:
        """Take out an order that was added; KeyError for another one."""
        if order.rests:
            side, rank = self._place(order)
            prices = side[order.symbol]
            prices.remove(rank)
            if prices.are_gone:
                del side[order.symbol]

    def best_buy(self, symbol: str) -> int | None:
        """The highest price at which an order to buy rests."""
        prices = self._buys.get(symbol)
        return None if prices is None else -prices.first()

    def best_sell(self, symbol: str) -> int | None:
        """The lowest price at which an order to sell rests."""
        prices = self._sells.get(symbol)
        return None if prices is None else prices.first()

    def _place(self, order: OpenOrder) -> tuple[dict[str, "_Prices"], int]:
        """The side of an order, and its price there: the lower the better."""
        return (self._buys, -order.price_ticks) if order.side is BUY else (self._sells, order.price_ticks)


class _Prices:
    """Prices with the number of orders at each; the heap has all of them, and some that are gone."""

    __slots__ = ("_heap", "_orders")

    def __init__(self) -> None:
        self._orders: dict[int, int] = {}
        self._heap: list[int] = []

    @property
    def are_gone(self) -> bool:
        return not self._orders

    def add(self, price: int) -> None:
        orders = self._orders.get(price, 0)
        self._orders[price] = orders + 1
        if not orders:
            heappush(self._heap, price)

    def remove(self, price: int) -> None:
        orders = self._orders[price] - 1
        if orders:
            self._orders[price] = orders
            return
        del self._orders[price]
        if len(self._heap) > 2 * len(self._orders) + SPARE_PRICES:
            self._heap = list(self._orders)
            heapify(self._heap)

    def first(self) -> int:
        """The lowest price; there has to be one."""
        while self._heap[0] not in self._orders:
            heappop(self._heap)
        return self._heap[0]
