"""Short builders of commands, events and states: each is sound as it is, a test names what it changes."""

from collections.abc import Mapping
from typing import Any, Final

from app.domain.exchange import Surroundings
from app.domain.reference import Known, Reference
from app.domain.risk import NEW_ACCOUNT, AccountRisk, Holding, Reservation
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    CancelRejected,
    HaltInForce,
    InstrumentListed,
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderReceived,
    OrderReplaced,
    OrderRiskApproved,
    OrderWithheld,
    PriceUpdated,
    ReplaceRejected,
    RestrictionInForce,
    TickReceived,
    TradeExecuted,
    VenueRejected,
)
from models.values import Instrument, Side

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


def an_instrument(**changed: Any) -> Instrument:
    """BTC-USD, of which a tick of a lot is one micro."""
    instrument = {"symbol": "BTC-USD", "base": "BTC", "currency": "USD", "tick": "0.01", "lot": "0.0001"}
    return Instrument(**(instrument | changed))


def listed(*, scale: int = 1, version: int = 1, **changed: Any) -> InstrumentListed:
    return InstrumentListed(instrument=an_instrument(**changed), version=version, scale=scale)


BTC: Final = listed()
ETH: Final = listed(symbol="ETH-USD", base="ETH", lot="0.001")
"""A tick of a lot is ten micros."""


def registered(**changed: Any) -> AccountRegistered:
    account = {
        "account_id": "acc-1",
        "owner": "somebody",
        "firm": "a firm",
        "base_currency": "USD",
        "status": "active",
        "version": 1,
    }
    return AccountRegistered(**(account | changed))


def a_halt(**changed: Any) -> HaltInForce:
    halt = {"scope": "acc-1", "halted": True, "version": 1, "who": "the desk", "why": "a test"}
    return HaltInForce(**(halt | changed))


def a_restriction(**changed: Any) -> RestrictionInForce:
    return RestrictionInForce(**({"symbol": "BTC-USD", "restricted": True, "version": 1} | changed))


def known(values: Mapping[str, Any], **unreadable: str) -> Known[Any]:
    """Values in force, and why others are unreadable (a `_` in a name stands for a `-`)."""
    return Known(values, {key.replace("_", "-"): why for key, why in unreadable.items()})


def reference(**changed: Known[Any]) -> Reference:
    """A world in which `an_order` is approved: two instruments, one account, no halts, a price of BTC-USD."""
    world = {
        "accounts": known({"acc-1": registered()}),
        "instruments": known({"BTC-USD": BTC, "ETH-USD": ETH}),
        "halts": known({}),
        "prices": known({"BTC-USD": a_price()}),
    }
    return Reference(**(world | changed))


def surroundings(**changed: Known[Any]) -> Surroundings:
    """A world in which `an_order` may leave: the one of `reference`, and no restrictions."""
    world = {**reference()._asdict(), "restricted": known({})}
    return Surroundings(**(world | changed))


def an_approval(order: OrderReceived, **changed: Any) -> OrderRiskApproved:
    """Risk's approval of an order that came when it was submitted."""
    approval = {
        "order": order,
        "reference_price_ticks": PRICE_TICKS,
        "reference_tick_sequence": 42,
        "price_age_ms": 100,
        "limits_version": 7,
        "received_at_ms": order.submitted_at_ms,
        "decided_at_ms": order.submitted_at_ms,
    }
    return OrderRiskApproved(**(approval | changed))


def an_account(**holding: Any) -> AccountRisk:
    """An account that has had no order; `holding` is what it holds of BTC-USD at the market's price."""
    if not holding:
        return NEW_ACCOUNT
    held = Holding(**({"reference_price_ticks": PRICE_TICKS} | holding))
    return AccountRisk(holdings={"BTC-USD": held}, last_approved_sequence=0)


def a_reservation(**changed: Any) -> Reservation:
    """What `an_order` holds once it is approved."""
    reservation: dict[str, Any] = {
        "order_id": "o-1",
        "symbol": "BTC-USD",
        "side": "buy",
        "price_ticks": PRICE_TICKS,
        "open_lots": 10,
        "quantity_lots": 10,
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


def replaced(quantity_lots: int, *, leaves_lots: int, **changed: Any) -> OrderReplaced:
    change = {
        "request_id": "acc-1-2",
        "quantity_lots": quantity_lots,
        "price_ticks": PRICE_TICKS,
        "leaves_lots": leaves_lots,
    }
    return OrderReplaced(**(REPORT | change | changed))


def cancel_rejected(**changed: Any) -> CancelRejected:
    refusal = {"request_id": "acc-1-c1", "reason": "order_ended"}
    return CancelRejected(**(REPORT | refusal | changed))


def replace_rejected(**changed: Any) -> ReplaceRejected:
    refusal = {"request_id": "acc-1-2", "reason": "order_ended"}
    return ReplaceRejected(**(REPORT | refusal | changed))


def withheld(withheld_lots: int, **changed: Any) -> OrderWithheld:
    """The order never left; its id is the one that the first order of the account has."""
    event = {
        "order_id": "acc-1-1",
        "account_id": "acc-1",
        "symbol": "BTC-USD",
        "side": "buy",
        "reason": "order_too_old",
        "withheld_lots": withheld_lots,
        "looked_at_ms": NOW_MS + 31_000,
    }
    return OrderWithheld(**(event | changed))
