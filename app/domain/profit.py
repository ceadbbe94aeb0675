"""Profit and loss of one account in one symbol, by average cost, in integers: exact to the unit.

A unit is one tick of one lot of the instrument's scale (`tick_lots`). What is open has a cost: what was paid
for it, negative for what was got for a short position. A fill moves the cost; what is realised follows from
it, so that realised - cost + what was paid for all fills is always zero.

- A fill that opens or adds puts its own price on its lots.
- A fill that reduces leaves with what stays open its share of the cost, rounded down to a whole unit, and
  takes the rest of the cost with it. So no profit is realised before it is there, long or short.
- A fill through zero closes all at its price, and opens the other side at its price.

A profit that is not known (None) stays unknown until the position is flat. The first fill after that begins
a new one. It is never taken for zero.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from models.events import InstrumentListed, PriceUpdated, TradeExecuted
from models.values import MICROS, FormerScale, Instrument, Side, State

BUY: Final = Side.BUY  # found faster


class Profit(State, frozen=True, omit_defaults=True):
    """What is known of the fills from the one with number `since_venue_sequence` on, which found it flat.

    `cost_tick_lots` is the cost of what is open, `realised_tick_lots` what was realised in the holding's
    scale, `realised_micros` what was in its former scales. `fee_micros` are the fees less rebates, in
    `fee_currency`: that of the first fee that was not zero, empty before. `fees_missing` counts the fills
    whose fee is not in it: it was not told, or is of another currency. Sums may grow above 64 bits.
    """

    since_venue_sequence: int
    cost_tick_lots: int = 0
    realised_tick_lots: int = 0
    realised_micros: int = 0
    fee_micros: int = 0
    fee_currency: str = ""
    fees_missing: int = 0


class Held(Protocol):
    """What counts here of a holding: lots, negative when short, in `scale` of the instrument."""

    @property
    def position_lots(self) -> int: ...
    @property
    def scale(self) -> int: ...
    @property
    def profit(self) -> Profit | None: ...


class Marked(NamedTuple):
    """A holding's profit in micros of its currency, at the price of `price_age_ms` ago.

    A field that cannot be told is None, and `why` says why not, by the field's name. Fees are not part of
    what is realised. What is unrealised is without the fees of a sale.
    """

    realised_micros: int | None
    unrealised_micros: int | None
    fee_micros: int | None
    price_ticks: int | None
    price_age_ms: int | None
    why: Mapping[str, str]


def booked(profit: Profit | None, position_lots: int, fill: TradeExecuted) -> Profit | None:
    """The profit after a fill; `position_lots` are those before it. None: not known."""
    if profit is not None:
        since, banked_micros, missing = (
            profit.since_venue_sequence,
            profit.realised_micros,
            profit.fees_missing,
        )
        cost, realised = profit.cost_tick_lots, profit.realised_tick_lots
        fees_micros, currency = profit.fee_micros, profit.fee_currency
    elif position_lots:
        return None
    else:
        since = fill.venue_sequence
        cost = realised = banked_micros = fees_micros = missing = 0
        currency = ""
    price_ticks = fill.price_ticks
    lots = fill.quantity_lots if fill.side is BUY else -fill.quantity_lots
    new_cost = cost_after(cost, position_lots, lots, price_ticks)
    fee_micros = fee_in(fill, currency)
    if fee_micros is None:
        missing += 1
    elif fee_micros:
        fees_micros += fee_micros
        currency = currency or fill.fee_currency or ""
    return Profit(
        since_venue_sequence=since,
        cost_tick_lots=new_cost,
        realised_tick_lots=realised + new_cost - cost - lots * price_ticks,
        realised_micros=banked_micros,
        fee_micros=fees_micros,
        fee_currency=currency,
        fees_missing=missing,
    )


def cost_after(cost_tick_lots: int, position_lots: int, lots: int, price_ticks: int) -> int:
    """The cost of what is open after `lots` more, negative when sold, at a price."""
    left_lots = position_lots + lots
    if position_lots * lots >= 0:
        return cost_tick_lots + lots * price_ticks
    if position_lots * left_lots >= 0:
        return cost_tick_lots * left_lots // position_lots
    return left_lots * price_ticks


def fee_in(fill: TradeExecuted, currency: str) -> int | None:
    """The fee of a fill in micros of the currency (empty: of any); None where it is not told in it."""
    fee_micros = fill.fee_micros
    if not fee_micros:
        return fee_micros
    told = fill.fee_currency
    return fee_micros if told is not None and (not currency or told == currency) else None


def rescaled(profit: Profit | None, scale: int, listed: InstrumentListed) -> Profit | None:
    """The profit of a flat holding of `scale` once the instrument has another one: all of it is micros.

    None, not known, where the former scale is forgotten or was in another currency.
    """
    unit = _unit(listed, scale)
    if profit is None or unit is None or unit.currency != listed.instrument.currency:
        return None
    return Profit(
        since_venue_sequence=profit.since_venue_sequence,
        realised_micros=profit.realised_micros + profit.realised_tick_lots * unit.micros,
        fee_micros=profit.fee_micros,
        fee_currency=profit.fee_currency,
        fees_missing=profit.fees_missing,
    )


def marked(holding: Held, listed: InstrumentListed | None, price: PriceUpdated | None, now_ms: int) -> Marked:
    """What a holding has brought and what it would bring at the last price."""
    why: dict[str, str] = {}
    profit = holding.profit
    unit = None if listed is None else _unit(listed, holding.scale)
    if price is not None and price.scale != holding.scale:
        price = None
    if price is None:
        why["price_ticks"] = why["price_age_ms"] = f"there is no price in scale {holding.scale}"
    return Marked(
        realised_micros=_told(why, "realised_micros", _realised(profit, unit, holding.scale)),
        unrealised_micros=_told(why, "unrealised_micros", _unrealised(holding, unit, price)),
        fee_micros=_told(why, "fee_micros", _fees(profit, unit, holding.scale)),
        price_ticks=None if price is None else price.price_ticks,
        price_age_ms=None if price is None else max(0, now_ms - price.observed_at_ms),
        why=why,
    )


class _Unit(NamedTuple):
    """What one tick of one lot is worth, in micros of a currency."""

    micros: int
    currency: str


def _unit(listed: InstrumentListed, scale: int) -> _Unit | None:
    """The unit of one of the instrument's scales; None for one that is forgotten."""
    terms: Instrument | FormerScale | None = listed.instrument
    if listed.scale != scale:
        terms = next((each for each in listed.former if each.scale == scale), None)
    if terms is None:
        return None
    return _Unit(int(terms.tick * terms.lot * terms.multiplier * MICROS), terms.currency)


def _told(why: dict[str, str], name: str, found: int | str) -> int | None:
    """The number that was found; where it is a reason instead, it is noted."""
    if isinstance(found, int):
        return found
    why[name] = found
    return None


NOT_KNOWN: Final = "the cost is not known until the position has been flat and is filled again"


def _not_listed(scale: int) -> str:
    return f"the instrument is not known in scale {scale}"


def _realised(profit: Profit | None, unit: _Unit | None, scale: int) -> int | str:
    if profit is None:
        return NOT_KNOWN
    if unit is None:
        return _not_listed(scale)
    return profit.realised_micros + profit.realised_tick_lots * unit.micros


def _unrealised(holding: Held, unit: _Unit | None, price: PriceUpdated | None) -> int | str:
    profit = holding.profit
    if not holding.position_lots:
        return 0
    if profit is None:
        return NOT_KNOWN
    if unit is None:
        return _not_listed(holding.scale)
    if price is None:
        return f"there is no price in scale {holding.scale}"
    return (holding.position_lots * price.price_ticks - profit.cost_tick_lots) * unit.micros


def _fees(profit: Profit | None, unit: _Unit | None, scale: int) -> int | str:
    if profit is None:
        return NOT_KNOWN
    if profit.fees_missing:
        return f"the fees of {profit.fees_missing} fills are missing"
    if unit is None:
        return _not_listed(scale)
    if profit.fee_currency not in ("", unit.currency):
        return f"they are in {profit.fee_currency}, not in {unit.currency}"
    return profit.fee_micros
