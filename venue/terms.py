"""What a trade is besides its lots and its price: its time and date, its fee, who is on the other side.

Pure: the time comes in, the rest follows from it, from the fill and from the rules of this venue.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from models.values import Instrument, Liquidity
from venue.book import Filled

BASIS_POINTS = 10_000
MARKET = "MARKET"
"""The counterparty of a trade with the replayed market."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What this venue has agreed with all its clients.

    Fees are a rate of the notional, in basis points: `maker_bps` for an order that has rested, `taker_bps`
    for one that takes what rests. A negative rate is a rebate. `clearing_house` is the counterparty of trades
    between accounts. The date of a trade is that of `zone`.
    """

    maker_bps: int = 0
    taker_bps: int = 1
    clearing_house: str = "clearing-house"
    zone: tzinfo = UTC


DEFAULT_RULES = Rules()


class Moment(NamedTuple):
    """A time by the venue's clock, and its date in the venue's time zone, such as 2026-01-31."""

    at_ms: int
    date: str


class TradeTerms(NamedTuple):
    """The fields of a fill's report that come with its trade."""

    traded_at_ms: int
    trade_date: str
    fee_micros: int
    fee_currency: str
    counterparty: str
    liquidity: Liquidity


def moment_of(at_ms: int, zone: tzinfo) -> Moment:
    return Moment(at_ms, datetime.fromtimestamp(at_ms // 1_000, zone).date().isoformat())


def terms_of(fill: Filled, instrument: Instrument, rules: Rules, moment: Moment) -> TradeTerms:
    """The terms of one side of a trade; its fee is in the instrument's currency."""
    bps = rules.maker_bps if fill.liquidity is Liquidity.ADDED else rules.taker_bps
    notional_micros = instrument.notional_micros(fill.price_ticks, fill.quantity_lots)
    return TradeTerms(
        *moment,
        fee_micros=fee_of(notional_micros, bps),
        fee_currency=instrument.currency,
        counterparty=MARKET if fill.with_market else rules.clearing_house,
        liquidity=fill.liquidity,
    )


def fee_of(notional_micros: int, bps: int) -> int:
    """The fee in micros, rounded up: a fee to the next whole micro, a rebate towards zero."""
    return -(-notional_micros * bps // BASIS_POINTS)
