"""Values that events are made of: sides, instruments and the integer units they scale."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field

INT64_MAX = 2**63 - 1

Int64 = Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)]
"""What a `State` can hold: text that has more is no value of ours."""

LOTS_MAX = 10**15
"""More than that the venue does not take in one order, and no limit allows."""

AccountId = Annotated[str, Field(min_length=1, max_length=256)]


class Frozen(BaseModel):
    """Base of every model: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_bytes="base64")


class State(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Base of table values that the domain makes anew with each order, a tenth of the cost of a model.

    They are made of models, which are checked; checked again when they come back from the disk. Integers are
    `Int64`: larger ones would be written as text.
    """


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"


class TimeInForce(StrEnum):
    """How long an order may rest: GTC until filled or the venue closes, IOC not at all."""

    GTC = "gtc"
    IOC = "ioc"


@dataclass(frozen=True)
class Instrument:
    """A tradable symbol and the size of its integer units.

    `price_ticks` is a price in `tick`s of the quote currency; `quantity_lots` is an amount in `lot`s of the
    base currency; `notional_micros` is cash in millionths of the quote currency, exact: tick x lot is a whole
    number of micros.
    """

    symbol: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal

    def notional_micros(self, price_ticks: int, quantity_lots: int) -> int:
        return price_ticks * quantity_lots * self.micros_per_tick_lot

    @cached_property
    def micros_per_tick_lot(self) -> int:
        return int(self.tick * self.lot * 1_000_000)


INSTRUMENTS = {
    instrument.symbol: instrument
    for instrument in (
        Instrument("BTC-USD", "BTC", "USD", tick=Decimal("0.01"), lot=Decimal("0.0001")),
        Instrument("ETH-USD", "ETH", "USD", tick=Decimal("0.01"), lot=Decimal("0.001")),
    )
}
