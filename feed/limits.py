"""What the operators set before trading: reference data, limits and the restricted list."""

from collections.abc import Mapping
from typing import Any, Final

from feed.demo import set_counterparties, set_instruments
from feed.roster import CURRENCY, KILLED, LIMITLESS, STRANGER, SUSPENDED, UNREGISTERED, Roster
from models.commands import SetAccount, SetCounterparty, SetInstrument, SetRestriction, SetRiskLimits
from models.values import PartyStatus

WHO: Final = "feed"
_BY: Final = {"version": 1, "who": WHO, "why": "the demo's reference data"}

ORDER_AGE_MS_MAX: Final = 60_000
"""Twice the longest backlog that a run at full speed has on two cores, 30 s: a pipeline that is only slow
withholds nothing, one that was down for a minute does."""

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
    order_age_ms_max=ORDER_AGE_MS_MAX,
    who=WHO,
    why="the demo's limits",
)
"""Up to 0.5 BTC and 700 USD an order, 300 BTC and 400,000 USD an account; within 10 % of the last price,
which is at most 10 s old."""

_TIGHT: Mapping[str, Mapping[str, Any]] = {
    "breaker-notional": {"order_notional_micros_max": 40_000_000},
    "breaker-position": {"position_lots_max": 2_000},
    "breaker-exposure": {"gross_exposure_micros_max": 2_000_000_000},
    "breaker-open": {"open_orders_max": 5},
    "breaker-stale": {"price_age_ms_max": -1},  # younger than a price can be
    KILLED: {"kill_switch": True},
}
"""What differs for the accounts whose way to break a limit is to have a tight one."""


def initial_instruments() -> list[SetInstrument]:
    return [each.model_copy(update=_BY) for each in set_instruments()]


def initial_counterparties() -> list[SetCounterparty]:
    return [each.model_copy(update=_BY) for each in set_counterparties()]


def initial_accounts(roster: Roster) -> list[SetAccount]:
    """Version 1 of every account that is registered: the garbage is nobody's."""
    return [
        SetAccount(
            account_id=account_id,
            owner=account_id.partition("-")[0],
            firm="demo",
            base_currency="EUR" if account_id == CURRENCY else "USD",
            status=PartyStatus.SUSPENDED if account_id == SUSPENDED else PartyStatus.ACTIVE,
            **_BY,
        )
        for account_id in _all_but(roster, STRANGER, UNREGISTERED)
    ]


def initial_limits(roster: Roster) -> list[SetRiskLimits]:
    """Version 1 of the limits of every account that has limits: the garbage has none."""
    return [
        _STANDARD.model_copy(update={"account_id": account_id, **_TIGHT.get(account_id, {})})
        for account_id in _all_but(roster, STRANGER, LIMITLESS)
    ]


def initial_restrictions() -> list[SetRestriction]:
    """The market data has no ETH-USD, so that it may be on the restricted list without ending all trade."""
    return [
        SetRestriction(symbol="BTC-USD", restricted=False, **_BY),
        SetRestriction(symbol="ETH-USD", restricted=True, **_BY),
    ]


def _all_but(roster: Roster, *others: str) -> tuple[str, ...]:
    breakers = (each for each in roster.breakers if each not in others)
    return (*roster.traders, *roster.by_hand, *breakers)
