"""The real trades as an endless, numbered stream of ticks, and when each of them is due."""

import csv
from array import array
from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import NamedTuple

from app.errors import UserError
from feed.demo import instruments
from models.events import TickReceived
from models.values import Instrument

WRAP_GAP_MS = 1_000
"""The market time between the last trade of the data and the first one of the next round."""

GAP_MS_MAX = 1_000
"""Longer pauses of the market are shortened to this before the speed divides them."""

BEHIND_SECONDS_MAX = 1.0
"""A feed that is later than this (its broker was away) goes on from now: it does not hurry to catch up."""


class Trade(NamedTuple):
    """One trade of the data in integer units."""

    at_ms: int
    price_ticks: int
    quantity_lots: int


def to_units(amount: str, unit: Decimal) -> int:
    """A decimal in text as a whole number of units, the half to the even one."""
    return int((Decimal(amount) / unit).to_integral_value(ROUND_HALF_EVEN))


def parse_trades(lines: Iterable[str], instrument: Instrument) -> list[Trade]:
    """Trades from lines of `unix timestamp,price,amount`; a heading is passed over, dust becomes 1 lot.

    Raises UserError when a line does not have this form or there is no line at all.
    """
    trades = []
    for number, row in enumerate(csv.reader(lines), start=1):
        if row == ["timestamp", "price", "amount"]:
            continue
        try:
            seconds, price, amount = row
            lots = max(1, to_units(amount, instrument.lot))
            trades.append(Trade(int(seconds) * 1_000, to_units(price, instrument.tick), lots))
        except (ValueError, ArithmeticError):
            raise UserError(f"market data, line {number} is not 'timestamp,price,amount': {row!r}") from None
    if not trades:
        raise UserError("the market data has no trades")
    return trades


class Session(NamedTuple):
    """A feed session: its `epoch`, and the number of the last tick `before` it, from which it counts on."""

    epoch: int
    before: int


FIRST_SESSION = Session(epoch=0, before=0)


class Replay:
    """Tick n (from 1) of the market, for ever: after the last trade the first one follows.

    Everything is a function of the tick's number, so that any point can be looked at at any time.
    """

    def __init__(self, trades: list[Trade], symbol: str = "BTC-USD") -> None:
        self.symbol = symbol
        self._count = len(trades)
        self._at_ms = array("q", (trade.at_ms for trade in trades))
        self._price_ticks = array("q", (trade.price_ticks for trade in trades))
        self._quantity_lots = array("q", (trade.quantity_lots for trade in trades))
        self._round_ms = self._at_ms[-1] - self._at_ms[0] + WRAP_GAP_MS

    @classmethod
    def load(cls, path: Path, symbol: str = "BTC-USD") -> "Replay":
        with path.open(newline="", encoding="utf-8") as lines:
            return cls(parse_trades(lines, instruments()[symbol]), symbol)

    def __len__(self) -> int:
        """How many trades the data has before it begins anew."""
        return self._count

    def price_ticks(self, number: int) -> int:
        return self._price_ticks[(number - 1) % self._count]

    def mean_price_ticks(self, number: int, window: int) -> int:
        """The mean price of up to `window` ticks that end with this one."""
        last = (number - 1) % self._count + 1
        prices = self._price_ticks[max(0, last - window) : last]
        return sum(prices) // len(prices)

    def exchange_at_ms(self, number: int) -> int:
        """The market's own time; each round of the data is put behind the one before."""
        rounds, index = divmod(number - 1, self._count)
        return self._at_ms[index] + rounds * self._round_ms

    def gap_ms(self, number: int) -> int:
        """The market time between the tick before and this one."""
        return 0 if number == 1 else self.exchange_at_ms(number) - self.exchange_at_ms(number - 1)

    def tick(self, number: int, observed_at_ms: int, session: "Session | None" = None) -> TickReceived:
        """Tick `number` of the market, as it is called in a feed session; without one, by its number."""
        epoch, before = session or FIRST_SESSION
        return TickReceived(
            symbol=self.symbol,
            sequence=number - before,
            price_ticks=self.price_ticks(number),
            quantity_lots=self._quantity_lots[(number - 1) % self._count],
            exchange_at_ms=self.exchange_at_ms(number),
            observed_at_ms=observed_at_ms,
            epoch=epoch,
        )

    def is_own(self, tick: TickReceived, number: int) -> bool:
        """Whether this is the market's tick of this number, in whatever session: anybody may write ticks."""
        return number >= 1 and (tick.symbol, tick.price_ticks, tick.quantity_lots, tick.exchange_at_ms) == (
            self.symbol,
            self.price_ticks(number),
            self._quantity_lots[(number - 1) % self._count],
            self.exchange_at_ms(number),
        )


class Pace:
    """When ticks are due: the market's gaps divided by `speed`, or at once when `speed` is None."""

    def __init__(self, replay: Replay, speed: float | None, now: Callable[[], float]) -> None:
        self._replay = replay
        self._speed = speed
        self._now = now
        self._due_at: float | None = None

    def seconds_until(self, sequence: int) -> float:
        """How long to wait before tick `sequence`, the one after the last that was taken."""
        if self._speed is None:
            return 0.0
        now = self._now()
        if self._due_at is None or now - self._due_at > BEHIND_SECONDS_MAX:
            self._due_at = now
        return max(0.0, self._due_at + self._gap_seconds(sequence, self._speed) - now)

    def take(self, first: int, limit: int) -> range:
        """The ticks from `first` on that are due now: at least that one, at most `limit`."""
        if self._speed is None:
            return range(first, first + limit)
        now, due_at, after = self._now(), self._due_at or 0.0, first
        while after < first + limit:
            next_at = due_at + self._gap_seconds(after, self._speed)
            if after > first and next_at > now:
                break
            due_at, after = next_at, after + 1
        self._due_at = due_at
        return range(first, after)

    def _gap_seconds(self, sequence: int, speed: float) -> float:
        return min(self._replay.gap_ms(sequence), GAP_MS_MAX) / 1_000 / speed
