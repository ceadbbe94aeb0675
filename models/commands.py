"""Commands: what somebody wants. They may be refused; what came of them is an event."""

from typing import Annotated

from pydantic import Field

from models.values import LOTS_MAX, AccountId, Frozen, Int64

Lots = Annotated[int, Field(le=LOTS_MAX)]


class SetRiskLimits(Frozen):
    """The limits of one account, whole: it replaces the ones before. Topic `risk-limits`, key account.

    `version` grows with each change of the account, so that a decision can name the limits it used.
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


class SetRestriction(Frozen):
    """Put an instrument on the restricted list or take it off. Topic `restrictions`, key symbol."""

    symbol: str
    restricted: bool
