"""Values that events are made of: sides, instruments and the integer units they scale."""

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

INT64_MAX = 2**63 - 1

Int64 = Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)]
"""What a `State` can hold: text that has more is no value of ours."""

LOTS_MAX = 10**15
"""More than that the venue does not take in one order, and no limit allows."""

AccountId = Annotated[str, Field(min_length=1, max_length=256)]
OrderId = Annotated[str, Field(min_length=1, max_length=512)]
RequestId = Annotated[str, Field(min_length=1, max_length=256)]
Symbol = Annotated[str, Field(min_length=1, max_length=64)]
Currency = Annotated[str, Field(pattern=r"^[A-Z0-9]{2,12}$")]
IsoDate = Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
"""A date such as 2026-01-31."""

MICROS = 1_000_000
EVERYBODY = "*"
"""The scope of a halt that holds for all accounts."""
EVERY_ORDER = "*"
"""In place of an order's id: every order of the account."""


_new, _put = object.__new__, object.__setattr__


class Frozen(BaseModel):
    """Base of every model: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_bytes="base64")


M = TypeVar("M", bound=Frozen)


def maker(model: type[M]) -> Callable[..., M]:
    """What makes a model of fields that are checked already, the others at their defaults.

    A third of the cost of checking again. Pydantic's own way for this, `model_construct`, costs more than
    checking.
    """
    names = tuple(model.model_fields)
    fields_set = set(names)
    defaults = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}

    def make(**fields: Any) -> M:
        if len(fields) < len(names):
            known = defaults | fields
            fields = {name: known[name] for name in names}
        made = _new(model)
        _put(made, "__dict__", fields)
        _put(made, "__pydantic_fields_set__", fields_set)
        _put(made, "__pydantic_extra__", None)
        _put(made, "__pydantic_private__", None)
        return made

    return make


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


class Liquidity(StrEnum):
    """What an order did to the book when it was filled: ADDED rested in it, REMOVED took what rested."""

    ADDED = "added"
    REMOVED = "removed"


LiquidityText = Annotated[Liquidity | str, Field(union_mode="left_to_right")]
"""Other venues may know more kinds: one that this build does not know is its text."""


class AllocationMethod(StrEnum):
    """How fills of a block order go to sub-accounts: by weight, one after the other, or at one price."""

    PRO_RATA = "pro_rata"
    PRIORITY = "priority"
    AVERAGE_PRICE = "average_price"


class InstrumentStatus(StrEnum):
    """ACTIVE takes new orders, HALTED none for now, DELISTED none any more; what is open may end."""

    ACTIVE = "active"
    HALTED = "halted"
    DELISTED = "delisted"


class PartyStatus(StrEnum):
    """Of an account or a counterparty: SUSPENDED takes no new orders."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class FormerScale(Frozen):
    """What lots and ticks of an instrument were in an earlier `scale`."""

    scale: int
    base: str
    currency: Currency
    tick: Decimal
    lot: Decimal
    multiplier: int


class Instrument(Frozen):
    """A tradable symbol and the size of its integer units.

    `price_ticks` is a price in `tick`s of `currency`; `quantity_lots` is an amount in `lot`s of `base`, each
    worth `multiplier` units; `notional_micros` is cash in millionths of `currency`, exact: tick x lot x
    multiplier is a whole number of micros. Orders are taken from `valid_from_ms` on and until, not at,
    `valid_until_ms`, by the broker's clock; None: no bound.
    """

    symbol: Symbol
    base: str
    currency: Currency
    tick: Annotated[Decimal, Field(gt=0)]
    lot: Annotated[Decimal, Field(gt=0)]
    multiplier: Annotated[int, Field(ge=1, le=10**9)] = 1
    status: InstrumentStatus = InstrumentStatus.ACTIVE
    valid_from_ms: int | None = None
    valid_until_ms: int | None = None

    @model_validator(mode="after")
    def _is_exact(self) -> "Instrument":
        micros = self.tick * self.lot * self.multiplier * MICROS
        if not micros.is_finite() or micros != micros.to_integral_value():
            raise ValueError(f"tick x lot x multiplier is {micros} micros of {self.currency}: not whole")
        return self

    def notional_micros(self, price_ticks: int, quantity_lots: int) -> int:
        return price_ticks * quantity_lots * self.micros_per_tick_lot

    @cached_property
    def micros_per_tick_lot(self) -> int:
        return int(self.tick * self.lot * self.multiplier * MICROS)
