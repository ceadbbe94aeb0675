"""Where an account's own orders rest: the best price of each symbol and side, whatever their number."""

from heapq import heapify, heappop, heappush
from typing import Final

from models.values import Side, State

BUY: Final = Side.BUY  # found faster
SPARE_PRICES: Final = 8
"""So many prices that are gone may stay in a heap beside as many as are there."""


class OpenOrder(State, frozen=True, omit_defaults=True):
    """An approved order that has not ended. Table `open_orders`, key account/order, written by compliance.

    `rests` is False for one that can't wait in the book. While the replace `replace_id` is not answered, it
    may rest at `replace_price_ticks` as well.
    """

    symbol: str
    side: Side
    price_ticks: int
    rests: bool
    replace_id: str | None = None
    replace_price_ticks: int = 0


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
            self._add(order.symbol, order.side, order.price_ticks)
            if order.replace_id is not None:
                self._add(order.symbol, order.side, order.replace_price_ticks)

    def remove(self, order: OpenOrder) -> None:
        """Take out an order that was added; KeyError for another one."""
        if order.rests:
            self._remove(order.symbol, order.side, order.price_ticks)
            if order.replace_id is not None:
                self._remove(order.symbol, order.side, order.replace_price_ticks)

    def best_buy(self, symbol: str) -> int | None:
        """The highest price at which an order to buy rests."""
        prices = self._buys.get(symbol)
        return None if prices is None else -prices.first()

    def best_sell(self, symbol: str) -> int | None:
        """The lowest price at which an order to sell rests."""
        prices = self._sells.get(symbol)
        return None if prices is None else prices.first()

    def _add(self, symbol: str, side: Side, price_ticks: int) -> None:
        orders, rank = self._place(side, price_ticks)
        prices = orders.get(symbol)
        if prices is None:
            prices = orders[symbol] = _Prices()
        prices.add(rank)

    def _remove(self, symbol: str, side: Side, price_ticks: int) -> None:
        orders, rank = self._place(side, price_ticks)
        prices = orders[symbol]
        prices.remove(rank)
        if prices.are_gone:
            del orders[symbol]

    def _place(self, side: Side, price_ticks: int) -> tuple[dict[str, "_Prices"], int]:
        """The orders of a side, and a price there: the lower the better."""
        return (self._buys, -price_ticks) if side is BUY else (self._sells, price_ticks)


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
