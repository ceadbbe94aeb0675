"""Why an order was refused. A refusal is a value; the order of the members is their precedence.

Reasons grow. What is written has one of the members; what is read may have a reason that only a newer release
knows, and is then its text (`RiskReasonText` and its like): nobody but people acts on a reason.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field


class RiskReason(StrEnum):
    """Refusals of the risk service, first match wins."""

    UNKNOWN_ACCOUNT = "unknown_account"
    DUPLICATE_ORDER_ID = "duplicate_order_id"
    SEQUENCE_LEAP = "sequence_leap"
    UNKNOWN_FIELD = "unknown_field"
    ACCOUNT_SUSPENDED = "account_suspended"
    HALTED = "halted"
    KILL_SWITCH_ON = "kill_switch_on"
    UNKNOWN_ORDER = "unknown_order"
    ORDER_ENDED = "order_ended"
    CANCEL_PENDING = "cancel_pending"
    REPLACE_PENDING = "replace_pending"
    UNKNOWN_INSTRUMENT = "unknown_instrument"
    INSTRUMENT_NOT_TRADABLE = "instrument_not_tradable"
    INSTRUMENT_CHANGED = "instrument_changed"
    CURRENCY_MISMATCH = "currency_mismatch"
    QUANTITY_NOT_POSITIVE = "quantity_not_positive"
    PRICE_NOT_POSITIVE = "price_not_positive"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    ORDER_TOO_OLD = "order_too_old"
    NO_PRICE = "no_price"
    STALE_PRICE = "stale_price"
    PRICE_OUTSIDE_COLLAR = "price_outside_collar"
    ORDER_TOO_LARGE = "order_too_large"
    ORDER_NOTIONAL_TOO_LARGE = "order_notional_too_large"
    TOO_MANY_OPEN_ORDERS = "too_many_open_orders"
    POSITION_LIMIT = "position_limit"
    GROSS_EXPOSURE_LIMIT = "gross_exposure_limit"


class CancelReason(StrEnum):
    """Why there is nothing to cancel, first match wins. FIX 4.4's CxlRejReason: 1, 0, 3."""

    UNKNOWN_ORDER = "unknown_order"
    ORDER_ENDED = "order_ended"
    CANCEL_PENDING = "cancel_pending"


class ComplianceReason(StrEnum):
    """Refusals of the compliance service, first match wins."""

    ORDER_ENDED = "order_ended"

    RESTRICTED_INSTRUMENT = "restricted_instrument"
    DUPLICATE_ORDER = "duplicate_order"
    SELF_MATCH = "self_match"


class VenueReason(StrEnum):
    """Refusals of the venue, as it reports them."""

    UNKNOWN_SYMBOL = "unknown_symbol"
    PRICE_OUT_OF_BAND = "price_out_of_band"
    MARKET_CLOSED = "market_closed"
    REJECTED_ON_DEMAND = "rejected_on_demand"
    UNKNOWN_ORDER = "unknown_order"
    ORDER_ENDED = "order_ended"


class WithheldReason(StrEnum):
    """Why an approved order or replace does not leave for the venue, first match wins.

    CANCEL_REQUESTED withholds an order that had not left when its cancel came; ORDER_ENDED is of replaces.
    """

    CANCEL_REQUESTED = "cancel_requested"
    ORDER_ENDED = "order_ended"
    ACCOUNT_SUSPENDED = "account_suspended"
    HALTED = "halted"
    KILL_SWITCH_ON = "kill_switch_on"
    INSTRUMENT_NOT_TRADABLE = "instrument_not_tradable"
    RESTRICTED_INSTRUMENT = "restricted_instrument"
    ORDER_TOO_OLD = "order_too_old"
    NO_PRICE = "no_price"
    STALE_PRICE = "stale_price"
    PRICE_OUTSIDE_COLLAR = "price_outside_collar"


class DivertedReason(StrEnum):
    """Why lots of a fill go to the block account instead, first match wins."""

    NO_ROOM = "no_room"
    UNREADABLE_ACCOUNT = "unreadable_account"
    UNKNOWN_ACCOUNT = "unknown_account"
    ACCOUNT_SUSPENDED = "account_suspended"


class MarketDataFault(StrEnum):
    """What can be wrong with ticks that are sound one by one."""

    SEQUENCE_JUMP = "sequence_jump"
    SEQUENCE_RESET = "sequence_reset"
    PRICE_FAR_OFF = "price_far_off"


_KNOWN_FIRST = Field(union_mode="left_to_right")

RiskReasonText = Annotated[RiskReason | str, _KNOWN_FIRST]
CancelReasonText = Annotated[CancelReason | str, _KNOWN_FIRST]
ComplianceReasonText = Annotated[ComplianceReason | str, _KNOWN_FIRST]
VenueReasonText = Annotated[VenueReason | str, _KNOWN_FIRST]
WithheldReasonText = Annotated[WithheldReason | str, _KNOWN_FIRST]
DivertedReasonText = Annotated[DivertedReason | str, _KNOWN_FIRST]
MarketDataFaultText = Annotated[MarketDataFault | str, _KNOWN_FIRST]
