"""What the operators set before trading: the limits of every account and the restricted list."""

from collections.abc import Mapping
from typing import Any

from feed.roster import KILLED, STRANGER, Roster
from models.commands import SetRestriction, SetRiskLimits

_STANDARD = SetRiskLimits(
    account_id="(nobody)",
    version=1,
    order_quantity_lots_max=5_000,
    order_notional_micros_max=700_000_000,
    position_lots_max=3_000_000,
    gross_exposure_micros_max=400_000_000_000,
    price_collar_bps=1_000,
    price_age_ms_max=10_000,
    open_orders_max=1_000,
)
"""Up to 0.5 BTC and 700 USD an order, 300 BTC and 400,000 USD an account; within 10 % of the last price,
which is at most 10 s old."""

_TIGHT: Mapping[str, Mapping[str, Any]] = {
    "breaker-notional": {"order_notional_micros_max": 40_000_000},
    "breaker-position": {"position_lots_max": 20_000},
    "breaker-exposure": {"gross_exposure_micros_max": 2_000_000_000},
    "breaker-open": {"open_orders_max": 5},
    "breaker-stale": {"price_age_ms_max": -1},  # younger than a price can be
    KILLED: {"kill_switch": True},
}
"""What differs for the accounts whose way to break a limit is to have a tight one."""


def initial_limits(roster: Roster) -> list[SetRiskLimits]:
    """Version 1 of the limits of every account that has limits: the stranger and the garbage have none."""
    accounts = (*roster.traders, *(each for each in roster.breakers if each != STRANGER))
    return [
        _STANDARD.model_copy(update={"account_id": account_id, **_TIGHT.get(account_id, {})})
        for account_id in accounts
    ]


def initial_restrictions() -> list[SetRestriction]:
    """The market data has no ETH-USD, so that it may be on the restricted list without ending all trade."""
    return [
        SetRestriction(symbol="BTC-USD", restricted=False),
        SetRestriction(symbol="ETH-USD", restricted=True),
    ]
