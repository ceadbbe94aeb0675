"""Events: what has happened, in the past tense. The wire name of an event is the name of its class.

`SCHEMA_VERSIONS` pins the version written; ids are pure functions of the input (`event_id`).
"""

from models.reasons import ComplianceReason, RiskReason, VenueReason
from models.values import AccountId, Frozen, Int64, Side, TimeInForce


class OrderReceived(Frozen):
    """A client's limit order, as it came in. Topic `orders`, key account.

    `sequence` grows by any step with each order of the account; an order whose sequence is not above the
    last one is a repeat. `order_id` is `<account_id>-<sequence>`. Quantities, prices and times may be absurd
    here: risk refuses them.
    """

    order_id: str
    account_id: AccountId
    sequence: Int64
    symbol: str
    side: Side
    quantity_lots: int
    price_ticks: int
    submitted_at_ms: int
    time_in_force: TimeInForce = TimeInForce.GTC


class OrderRiskApproved(Frozen):
    """Within every limit; its worst-case exposure is reserved until the order ends.

    `reference_price_ticks` is the last price used, from tick `reference_tick_sequence`, `price_age_ms` old
    when the order was logged; `limits_version` names the limits in force.
    """

    order: OrderReceived
    reference_price_ticks: int
    reference_tick_sequence: int
    price_age_ms: int
    limits_version: int


class OrderRiskRejected(Frozen):
    """Refused by risk: terminal. `source` is where the order stands: topic/partition/offset."""

    order: OrderReceived
    reason: RiskReason
    source: str


class RiskLimitBreached(Frozen):
    """An alert for people: an order would have broken a limit. Topic `risk-alerts`, key account."""

    account_id: str
    order_id: str
    reason: RiskReason


class OrderComplianceApproved(Frozen):
    """May be sent to the venue."""

    order: OrderReceived


class OrderComplianceRejected(Frozen):
    """Refused by compliance: terminal; risk releases the reservation."""

    order: OrderReceived
    reason: ComplianceReason


class VenueReport(Frozen):
    """What every report of the venue carries. Topic `executions`, key account.

    `venue_sequence` numbers the reports of one session (one session a partition) from 1 without a gap.
    """

    order_id: str
    account_id: str
    symbol: str
    side: Side
    venue_order_id: str
    venue_sequence: int


class OrderAcknowledged(VenueReport):
    """The venue has the order."""


class TradeExecuted(VenueReport):
    """A fill. `leaves_lots` is what is still open after it; 0 ends the order (terminal)."""

    trade_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int


class OrderCancelled(VenueReport):
    """The rest of the order was cancelled: terminal. `cancelled_lots` were still open."""

    cancelled_lots: int


class OrderExpired(VenueReport):
    """The order's time in force ended: terminal. `expired_lots` were still open."""

    expired_lots: int


class VenueRejected(VenueReport):
    """The venue refused the order: terminal, nothing was filled."""

    reason: VenueReason
    rejected_lots: int


class TickReceived(Frozen):
    """One trade of the market. Topic `market-data`, key symbol. `sequence` counts per symbol from 1.

    `exchange_at_ms` is the market's own time, `observed_at_ms` when our feed saw it.
    """

    symbol: str
    sequence: int
    price_ticks: Int64
    quantity_lots: int
    exchange_at_ms: int
    observed_at_ms: int


class PriceUpdated(Frozen):
    """The last price of a symbol, conflated. Topic `prices`, key symbol, compacted.

    `gaps` counts tick sequences that never came.
    """

    symbol: str
    price_ticks: Int64
    tick_sequence: int
    observed_at_ms: int
    gaps: int = 0


TERMINAL_REPORTS = (OrderCancelled, OrderExpired, VenueRejected)
"""Reports that always end an order; `TradeExecuted` ends it when nothing is left."""
