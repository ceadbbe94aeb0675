"""Why an order was refused. A refusal is a value; the order of the members is their precedence."""

from enum import StrEnum


class RiskReason(StrEnum):
    """Refusals of the risk service, first match wins."""

    DUPLICATE_ORDER_ID = "duplicate_order_id"
    UNKNOWN_ACCOUNT = "unknown_account"
    KILL_SWITCH_ON = "kill_switch_on"
    UNKNOWN_INSTRUMENT = "unknown_instrument"
    QUANTITY_NOT_POSITIVE = "quantity_not_positive"
    PRICE_NOT_POSITIVE = "price_not_positive"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    NO_PRICE = "no_price"
    STALE_PRICE = "stale_price"
    PRICE_OUTSIDE_COLLAR = "price_outside_collar"
    ORDER_TOO_LARGE = "order_too_large"
    ORDER_NOTIONAL_TOO_LARGE = "order_notional_too_large"
    TOO_MANY_OPEN_ORDERS = "too_many_open_orders"
    POSITION_LIMIT = "position_limit"
    GROSS_EXPOSURE_LIMIT = "gross_exposure_limit"


class ComplianceReason(StrEnum):
    """Refusals of the compliance service, first match wins."""

    RESTRICTED_INSTRUMENT = "restricted_instrument"
    DUPLICATE_ORDER = "duplicate_order"
    SELF_MATCH = "self_match"


class VenueReason(StrEnum):
    """Refusals of the venue, as it reports them."""

    UNKNOWN_SYMBOL = "unknown_symbol"
    PRICE_OUT_OF_BAND = "price_out_of_band"
    MARKET_CLOSED = "market_closed"
    REJECTED_ON_DEMAND = "rejected_on_demand"
