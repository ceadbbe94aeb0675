"""Short builders of commands, events and states: each is sound as it is, a test names what it changes."""

from typing import Any, Final

from app.domain.risk import AccountRisk, Holding, Reservation
from models.commands import SetRiskLimits
from models.events import (
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderReceived,
    PriceUpdated,
    TickReceived,
    TradeExecuted,
    VenueRejected,
)
from models.values import Side

NOW_MS: Final = 1_700_000_000_000
PRICE_TICKS: Final = 90_000

REPORT: Final = {
    "order_id": "o-1",
    "account_id": "acc-1",
    "symbol": "BTC-USD",
    "side": "buy",
    "venue_order_id": "v-1",
    "venue_sequence": 1,
}


def an_order(**changed: Any) -> OrderReceived:
    """An order to buy 10 lots at the market's price, submitted now."""
    order = {
        "order_id": "o-1",
        "account_id": "acc-1",
        "sequence": 1,
        "symbol": "BTC-USD",
        "side": "buy",
        "quantity_lots": 10,
        "price_ticks": PRICE_TICKS,
        "submitted_at_ms": NOW_MS,
    }
    return OrderReceived(**(order | changed))


def limits(**changed: Any) -> SetRiskLimits:
    """Limits that `an_order` keeps to with room to spare."""
    command = {
        "account_id": "acc-1",
        "version": 7,
        "order_quantity_lots_max": 1_000,
        "order_notional_micros_max": 10**9,
        "position_lots_max": 5_000,
        "gross_exposure_micros_max": 10**12,
        "price_collar_bps": 500,
        "price_age_ms_max": 5_000,
        "open_orders_max": 20,
    }
    return SetRiskLimits(**(command | changed))


def a_price(**changed: Any) -> PriceUpdated:
    price = {
        "symbol": "BTC-USD",
        "price_ticks": PRICE_TICKS,
        "tick_sequence": 42,
        "observed_at_ms": NOW_MS - 100,
    }
    return PriceUpdated(**(price | changed))


def a_tick(**changed: Any) -> TickReceived:
    tick = {
        "symbol": "BTC-USD",
        "sequence": 1,
        "price_ticks": PRICE_TICKS,
        "quantity_lots": 3,
        "exchange_at_ms": NOW_MS - 20,
        "observed_at_ms": NOW_MS,
    }
    return TickReceived(**(tick | changed))


def an_account(**holding: Any) -> AccountRisk:
    """An account that has had no order; `holding` is what it holds of BTC-USD at the market's price."""
    if not holding:
        return AccountRisk(holdings={})
    held = Holding(**({"reference_price_ticks": PRICE_TICKS} | holding))
    return AccountRisk(holdings={"BTC-USD": held})


def a_reservation(**changed: Any) -> Reservation:
    """What `an_order` holds once it is approved."""
    reservation: dict[str, Any] = {
        "order_id": "o-1",
        "symbol": "BTC-USD",
        "side": "buy",
        "price_ticks": PRICE_TICKS,
        "open_lots": 10,
    }
    reservation |= changed
    return Reservation(**(reservation | {"side": Side(reservation["side"])}))


def acknowledged(**changed: Any) -> OrderAcknowledged:
    return OrderAcknowledged(**(REPORT | changed))


def a_fill(quantity_lots: int, leaves_lots: int, **changed: Any) -> TradeExecuted:
    trade = {
        "trade_id": "t-1",
        "price_ticks": PRICE_TICKS,
        "quantity_lots": quantity_lots,
        "leaves_lots": leaves_lots,
    }
    return TradeExecuted(**(REPORT | trade | changed))


def cancelled(cancelled_lots: int, **changed: Any) -> OrderCancelled:
    return OrderCancelled(**(REPORT | {"cancelled_lots": cancelled_lots} | changed))


def expired(expired_lots: int, **changed: Any) -> OrderExpired:
    return OrderExpired(**(REPORT | {"expired_lots": expired_lots} | changed))


def venue_rejected(rejected_lots: int, **changed: Any) -> VenueRejected:
    rejection = {"rejected_lots": rejected_lots, "reason": "market_closed"}
    return VenueRejected(**(REPORT | rejection | changed))
