"""Commands: what somebody wants. They may be refused; what came of them is an event, `CommandAnswered`.

`who` and `why` are for the audit. `version` grows with each change of its subject; a command whose version is
not above the one in force is refused, unless it protects: a kill switch or a halt that is switched on always
takes.
"""

from typing import Annotated

from pydantic import Field

from models.values import (
    LOTS_MAX,
    AccountId,
    AllocationMethod,
    Currency,
    Frozen,
    Instrument,
    Int64,
    OrderId,
    PartyStatus,
    Symbol,
)

Lots = Annotated[int, Field(le=LOTS_MAX)]
Version = Annotated[int, Field(ge=0, le=2**53)]
Note = Annotated[str, Field(max_length=1_024)]

ORDER_AGE_MS_MAX = 30_000
"""The oldest that an order may be where its account's limits do not say: half a minute."""


class SetRiskLimits(Frozen):
    """The limits of one account, whole: it replaces the ones before. Topic `risk-limits`, key account.

    `version` lets a decision name the limits it used. `order_age_ms_max` bounds how old an order may be when
    risk decides and again when it leaves for the venue.
    """

    account_id: AccountId
    version: int
    order_quantity_lots_max: Lots
    order_notional_micros_max: Int64
    position_lots_max: Lots
    gross_exposure_micros_max: int
    price_collar_bps: int
    price_age_ms_max: int
    open_orders_max: int
    kill_switch: bool = False
    order_age_ms_max: int = ORDER_AGE_MS_MAX
    who: Note = ""
    why: Note = ""


class SetAccountSequence(Frozen):
    """Set right which order of the account counts as its last. Topic `account-commands`, key account.

    Never below the last order that was approved: its id would stand for two orders.
    """

    account_id: AccountId
    last_sequence: Annotated[int, Field(ge=0, le=2**62)]
    who: Note
    why: Note


class SetRestriction(Frozen):
    """Put an instrument on the restricted list or take it off. Topic `restrictions`, key symbol.

    Without a version it always takes.
    """

    symbol: Symbol
    restricted: bool
    version: Version | None = None
    who: Note = ""
    why: Note = ""


class SetInstrument(Frozen):
    """List an instrument, change it, or delist it. Topic `operator-commands`, key symbol.

    Tick, lot, multiplier and currency may only change while the instrument is delisted.
    """

    instrument: Instrument
    version: Version
    who: Note
    why: Note


class SetAccount(Frozen):
    """Register an account, change it, or suspend it. Topic `operator-commands`, key account.

    The base currency never changes: cash of different currencies is never added.
    """

    account_id: AccountId
    owner: Note
    firm: Note
    base_currency: Currency
    status: PartyStatus = PartyStatus.ACTIVE
    version: Version
    who: Note
    why: Note


class SetCounterparty(Frozen):
    """Register a counterparty, change it, or suspend it. Topic `operator-commands`, key counterparty."""

    counterparty_id: AccountId
    name: Note
    status: PartyStatus = PartyStatus.ACTIVE
    version: Version
    who: Note
    why: Note


class SetHalt(Frozen):
    """Halt trading, or let it go on. Topic `operator-commands`, key `scope`: an account, or `*` for all."""

    scope: AccountId
    halted: bool
    version: Version
    who: Note
    why: Note


class AllocationShare(Frozen):
    """What a sub-account is to get: by `weight`, or up to so many `lots` of an order.

    Methods that divide by weight need a weight, `priority` needs lots. The last share may leave them out:
    then it takes all that is left.
    """

    sub_account: AccountId
    weight: Int64 | None = None
    lots: Lots | None = None


class SetAllocation(Frozen):
    """How the fills of an account's order are divided among sub-accounts. Topic `allocation-instructions`.

    The key is the account. `order_id` `*` stands for every order that has no instruction of its own.
    Versions count per account and `order_id`. It counts from the next fill on.
    """

    account_id: AccountId
    order_id: OrderId
    method: AllocationMethod
    shares: tuple[AllocationShare, ...]
    version: Version
    who: Note
    why: Note


OperatorCommand = SetInstrument | SetAccount | SetCounterparty | SetHalt | SetRestriction
"""What operators say of reference data and halts."""
