"""The trading accounts: what each of them does when a tick is seen. Pure: no clock, no state, no I/O.

The market calls for a number of orders at each tick (`orders_per_tick`); each of these places is a slot, and
all that happens in a slot is a function of (seed, tick, slot) and the prices up to that tick. A feed that
starts at any tick therefore goes on exactly as if it had never stopped.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from feed import garbage
from feed.dice import Dice
from feed.garbage import RawRecord
from feed.roster import NEWCOMER, Roster, trader_names
from models.events import OrderReceived
from models.values import Side, TimeInForce

SLOTS_MAX = 8
"""Orders a tick at most; an account's sequence is tick x SLOTS_MAX + slot."""

_TRADERS_PER_MILLE = 895
_BREAKERS_PER_MILLE = 85
_REPEATS_PERCENT = 40
REPEAT = "repeat"
_RATE_UNIT = 1_000
_TREND_WINDOW = 32
_BLOCK_TICKS = 512
_STRETCH_TICKS = 8_192
_ABSURD = 10**30
_FAR_FUTURE_MS = (60_000, 3_600_000, 10**15)
_LONG_AGO_MS = (-120_000, -86_400_000, -1_600_000_000_000)
"""A queue that was forgotten, another one since yesterday, and a time in seconds taken for milliseconds."""


class Market(Protocol):
    """The prices that the accounts may look at."""

    def price_ticks(self, sequence: int) -> int: ...

    def mean_price_ticks(self, sequence: int, window: int) -> int: ...


class Wish(NamedTuple):
    """An order before it has an id; `submitted_in_ms` is when it claims to be sent, from now."""

    side: Side
    quantity_lots: int
    price_ticks: int
    time_in_force: TimeInForce
    symbol: str = "BTC-USD"
    submitted_in_ms: int = 0


class Placed(NamedTuple):
    """An order and what its account meant by it. Its `submitted_at_ms` counts from the moment of sending."""

    order: OrderReceived
    intent: str


class Moment(NamedTuple):
    """What an account sees when it is its turn: the market as of tick `sequence`, and its own dice."""

    market: Market
    sequence: int
    dice: Dice
    number: int = 0
    """The account's own, from its name."""

    @property
    def last_ticks(self) -> int:
        return self.market.price_ticks(self.sequence)

    @property
    def block_ticks(self) -> int:
        """The price at the start of this stretch of ticks: the same all through it."""
        return self.market.price_ticks(max(1, self.sequence // _BLOCK_TICKS * _BLOCK_TICKS))

    @property
    def stretch(self) -> int:
        return self.sequence // _STRETCH_TICKS

    @property
    def stretch_trend_ticks(self) -> int:
        """How far the price rose in the stretch before this one; in the first one everybody has a guess."""
        start = self.stretch * _STRETCH_TICKS
        if start == 0:
            return 1 if self.number // 8 % 2 == 0 else -1
        return self.market.price_ticks(start) - self.market.price_ticks(max(1, start - _STRETCH_TICKS))

    @property
    def trend_ticks(self) -> int:
        return self.last_ticks - self.market.mean_price_ticks(self.sequence, _TREND_WINDOW)


Strategy = Callable[[Moment], Wish]


def off(price_ticks: int, bps: int) -> int:
    """A price so many basis points away."""
    return price_ticks + price_ticks * bps // 10_000


def _sign(side: Side) -> int:
    return 1 if side is Side.BUY else -1


def _side(buy: bool) -> Side:
    return Side.BUY if buy else Side.SELL


# -- the ordinary accounts ---------------------------------------------------------------------------------


def make(moment: Moment) -> Wish:
    """A maker quotes both sides of the last price in five steps of 3 bps, but rests on one side at a time.

    Which side that is changes with the stretch, and half the makers begin with the other one. Pipelines take
    time, and a maker that rested on both sides would meet its own orders, which compliance does not allow.
    """
    dice = moment.dice
    rests = dice.percent(85)
    buys = moment.stretch % 2 == moment.number // 2 % 2 if rests else dice.percent(50)
    side = _side(buys)
    price_ticks = off(moment.last_ticks, -_sign(side) * 3 * dice.between(1, 5))
    return Wish(side, dice.between(100, 2_000), price_ticks, TimeInForce.GTC if rests else TimeInForce.IOC)


def follow(moment: Moment) -> Wish:
    """Momentum buys what rises and sells what falls."""
    return _take(moment, _side(_trend_ticks(moment) > 0), reach_bps=20)


def revert(moment: Moment) -> Wish:
    """Mean reversion sells what has risen and buys what has fallen."""
    return _take(moment, _side(_trend_ticks(moment) < 0), reach_bps=8)


def _take(moment: Moment, side: Side, reach_bps: int) -> Wish:
    """Cross the market, paying up to `reach_bps` more than the last price; who looks far may also rest."""
    dice = moment.dice
    price_ticks = off(moment.last_ticks, _sign(side) * dice.between(0, reach_bps))
    rests = _looks_far(moment) and dice.percent(60)
    return Wish(side, dice.between(50, 1_500), price_ticks, TimeInForce.GTC if rests else TimeInForce.IOC)


def _looks_far(moment: Moment) -> bool:
    """Every second taker goes by what the market did in the stretch before, the others by the last ticks."""
    return moment.number // 4 % 2 == 1


def _trend_ticks(moment: Moment) -> int:
    """How far the price has risen; a coin when it has not moved."""
    trend_ticks = moment.stretch_trend_ticks if _looks_far(moment) else moment.trend_ticks
    return trend_ticks or (1 if moment.dice.percent(50) else -1)


# -- the breakers: each is named after what it breaks ------------------------------------------------------


def _small(moment: Moment) -> Wish:
    """An order that nobody would object to."""
    side = _side(moment.dice.percent(50))
    return Wish(side, moment.dice.between(100, 1_000), moment.last_ticks, TimeInForce.IOC)


def _too_large(moment: Moment) -> Wish:
    return _small(moment)._replace(quantity_lots=moment.dice.pick((5_001, 50_000, 10_000_000, _ABSURD)))


def _notional(moment: Moment) -> Wish:
    return _small(moment)._replace(quantity_lots=moment.dice.between(1_000, 5_000))


def _collar(moment: Moment) -> Wish:
    bps = moment.dice.pick((-9_000, -2_500, -1_500, 1_500, 2_500, 9_000))
    return _small(moment)._replace(price_ticks=off(moment.last_ticks, bps))


def _instrument(moment: Moment) -> Wish:
    return _small(moment)._replace(
        symbol=moment.dice.pick(("DOGE-USD", "btc-usd", "", "BTC-USD ", "XX" * 40))
    )


def _no_price(moment: Moment) -> Wish:
    return _small(moment)._replace(symbol="ETH-USD")


def _quantity(moment: Moment) -> Wish:
    return _small(moment)._replace(quantity_lots=moment.dice.pick((0, -1, -5_000, -_ABSURD)))


def _price(moment: Moment) -> Wish:
    return _small(moment)._replace(price_ticks=moment.dice.pick((0, -1, -_ABSURD, _ABSURD)))


def _future(moment: Moment) -> Wish:
    return _small(moment)._replace(submitted_in_ms=moment.dice.pick(_FAR_FUTURE_MS))


def _old(moment: Moment) -> Wish:
    return _small(moment)._replace(submitted_in_ms=moment.dice.pick(_LONG_AGO_MS))


def _turn(moment: Moment) -> Wish:
    """Buy up to the limit, and now and then try to sell so much that the position would end as short."""
    if moment.dice.percent(20):
        return Wish(Side.SELL, 4_500, off(moment.last_ticks, -20), TimeInForce.IOC)
    return Wish(Side.BUY, moment.dice.between(300, 900), off(moment.last_ticks, 20), TimeInForce.IOC)


def _overpay(moment: Moment) -> Wish:
    """Buy and only buy, and offer far more than the market asks."""
    lots = moment.dice.between(100, 3_000)
    return Wish(Side.BUY, lots, off(moment.last_ticks, 900), TimeInForce.IOC)


def _pile_up(moment: Moment) -> Wish:
    """Orders that rest far from the market until there are too many of them."""
    lots = moment.dice.between(100, 1_000)
    return Wish(Side.BUY, lots, off(moment.last_ticks, -800), TimeInForce.GTC)


def _twin(moment: Moment) -> Wish:
    """The same order with a new id, all through a stretch of ticks; the next stretch has the other side."""
    side = _side(moment.sequence // _BLOCK_TICKS % 2 == 0)
    return Wish(side, 700, off(moment.block_ticks, -_sign(side) * 40), TimeInForce.GTC)


def _self_match(moment: Moment) -> Wish:
    """A resting buy, then a sell below it."""
    lots = moment.dice.between(100, 1_000)
    if moment.dice.percent(50):
        return Wish(Side.BUY, lots, off(moment.block_ticks, -60), TimeInForce.GTC)
    return Wish(Side.SELL, lots, off(moment.block_ticks, -120), TimeInForce.IOC)


BREAKERS: Mapping[str, Strategy] = {
    "breaker-size": _too_large,
    "breaker-notional": _notional,
    "breaker-collar": _collar,
    "breaker-instrument": _instrument,
    "breaker-noprice": _no_price,
    "breaker-quantity": _quantity,
    "breaker-price": _price,
    "breaker-future": _future,
    "breaker-old": _old,
    "breaker-stranger": _small,
    "breaker-limitless": _small,
    "breaker-unregistered": _small,
    "breaker-killed": _small,
    "breaker-suspended": _small,
    "breaker-currency": _small,
    "breaker-stale": _small,
    "breaker-position": _turn,
    "breaker-exposure": _overpay,
    "breaker-open": _pile_up,
    "breaker-twin": _twin,
    "breaker-selfmatch": _self_match,
}

_STRATEGIES: Mapping[str, Strategy] = {"maker": make, "momentum": follow, "reversion": revert, **BREAKERS}


def roster(accounts: int) -> Roster:
    """`accounts` ordinary accounts, and beside them the breakers, the garbage and an account for people."""
    return Roster(trader_names(accounts), tuple(BREAKERS), by_hand=(NEWCOMER,))


# -- all together ------------------------------------------------------------------------------------------


class Accounts:
    """What all accounts do at each tick, from a seed.

    Of 1,000 orders 895 come from ordinary accounts, 85 from breakers, and 20 records are garbage.
    """

    def __init__(self, market: Market, who: Roster, seed: int, orders_per_tick: float = 4.0) -> None:
        self._market = market
        self._who = who
        self._seed = seed
        self._rate = round(orders_per_tick * _RATE_UNIT)
        if not 1 <= self._rate <= SLOTS_MAX * _RATE_UNIT:
            raise ValueError(f"orders_per_tick is {orders_per_tick}: allowed is 0.001 to {SLOTS_MAX}")

    def reactions(self, sequence: int) -> list[Placed | RawRecord]:
        """What is sent when tick `sequence` has been seen, in this order."""
        return [self._reaction(sequence, slot) for slot in range(self._slots(sequence))]

    def _orders_before(self, sequence: int) -> int:
        """How many orders all ticks before this one have called for."""
        return (sequence - 1) * self._rate // _RATE_UNIT

    def _slots(self, sequence: int) -> int:
        return self._orders_before(sequence + 1) - self._orders_before(sequence)

    def _reaction(self, sequence: int, slot: int) -> Placed | RawRecord:
        dice = Dice(self._seed, sequence, slot)
        who = dice.below(1_000)
        if garbage.is_huge(self._orders_before(sequence) + slot):
            return garbage.huge(self._sound(sequence, slot, dice))
        if who < _TRADERS_PER_MILLE:
            return self._placed(sequence, slot, dice, dice.pick(self._who.traders))
        if who < _TRADERS_PER_MILLE + _BREAKERS_PER_MILLE:
            return self._placed(sequence, slot, dice, dice.pick(self._who.breakers))
        return self._garbage(sequence, slot, dice)

    def _placed(self, sequence: int, slot: int, dice: Dice, account_id: str) -> Placed:
        kind, _, number = account_id.partition("-")
        intent = account_id if account_id in BREAKERS else kind
        own = int(number) if intent is kind else 0
        wish = _STRATEGIES[intent](Moment(self._market, sequence, dice, own))
        return Placed(_order(account_id, sequence * SLOTS_MAX + slot, wish), intent)

    def _garbage(self, sequence: int, slot: int, dice: Dice) -> Placed | RawRecord:
        """A broken record, or now and then an earlier order once more."""
        if dice.percent(_REPEATS_PERCENT) and (earlier := self._earlier(sequence, dice)):
            return Placed(earlier.order, REPEAT)
        return garbage.record(self._sound(sequence, slot, dice), dice, victim=self._who.traders[0])

    def _sound(self, sequence: int, slot: int, dice: Dice) -> OrderReceived:
        """An order of a garbage account, to be spoilt."""
        wish = _small(Moment(self._market, sequence, dice))
        return _order(dice.pick(self._who.garbage), sequence * SLOTS_MAX + slot, wish)

    def _earlier(self, sequence: int, dice: Dice) -> Placed | None:
        """A trader's order after one of the last 50 ticks, or None when there was none in the slot drawn."""
        earlier = sequence - dice.between(1, 50)
        slot = dice.below(max(1, self._slots(earlier)))
        if earlier < 1 or slot >= self._slots(earlier):
            return None
        if Dice(self._seed, earlier, slot).below(1_000) >= _TRADERS_PER_MILLE:
            return None
        found = self._reaction(earlier, slot)
        return found if isinstance(found, Placed) else None


def _order(account_id: str, sequence: int, wish: Wish) -> OrderReceived:
    return OrderReceived(
        order_id=f"{account_id}-{sequence}",
        account_id=account_id,
        sequence=sequence,
        symbol=wish.symbol,
        side=wish.side,
        quantity_lots=wish.quantity_lots,
        price_ticks=wish.price_ticks,
        submitted_at_ms=wish.submitted_in_ms,
        time_in_force=wish.time_in_force,
    )
