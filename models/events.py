"""Events: what has happened, in the past tense. The wire name of an event is the name of its class.

`models/registry.py` has its version; ids are pure functions of the input (`event_id`).
"""

from typing import NamedTuple

from models.reasons import (
    CancelReasonText,
    ComplianceReasonText,
    DivertedReasonText,
    MarketDataFaultText,
    RiskReasonText,
    VenueReasonText,
    WithheldReasonText,
)
from models.values import (
    AccountId,
    AllocationMethod,
    Currency,
    FormerScale,
    Frozen,
    Instrument,
    Int64,
    IsoDate,
    LiquidityText,
    PartyStatus,
    RequestId,
    Side,
    Symbol,
    TimeInForce,
)


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


class OrderNotUnderstood(NamedTuple):
    """An order that names fields which this build does not know, and that may be instructions.

    It has no wire form of its own: it is what an OrderReceived with such fields is read as.
    """

    order: OrderReceived
    unknown_fields: tuple[str, ...]


class CancelRequested(Frozen):
    """A client wants what is open of an order cancelled. Topic `orders`, key account.

    It never waits behind a quarantine and takes no number of the account. `request_id` is the client's own;
    asked for twice, the order is still cancelled once.
    """

    request_id: RequestId
    account_id: AccountId
    order_id: str
    submitted_at_ms: int


class ReplaceRequested(Frozen):
    """A client wants another quantity and price for an order that is open. Topic `orders`, key account.

    `sequence` is one of the account's, as an order's, and `request_id` is `<account_id>-<sequence>`.
    `quantity_lots` is the new total: what is filled counts towards it. Numbers may be absurd: risk refuses
    them.
    """

    request_id: str
    account_id: AccountId
    sequence: Int64
    order_id: str
    quantity_lots: int
    price_ticks: int
    submitted_at_ms: int


class OrderRiskApproved(Frozen):
    """Within every limit; its worst-case exposure is reserved until the order ends.

    `received_at_ms` is the broker's time of the order, `decided_at_ms` the worker's at the decision, never
    below it (0 in records of the release that did not tell them). `reference_price_ticks` is the last price
    used, from tick `reference_tick_sequence` of feed session `reference_tick_epoch`, `price_age_ms` old at
    the decision; `limits_version` names the limits in force.
    """

    order: OrderReceived
    reference_price_ticks: int
    reference_tick_sequence: int
    price_age_ms: int
    limits_version: int
    reference_tick_epoch: int = 0
    received_at_ms: int = 0
    decided_at_ms: int = 0


class OrderRiskRejected(Frozen):
    """Refused by risk: terminal. `source` is where the order stands: topic/partition/offset.

    `detail` says more for people, such as the names of unknown fields.
    """

    order: OrderReceived
    reason: RiskReasonText
    source: str
    detail: str = ""


class CancelAccepted(Frozen):
    """A cancel on its way to the venue. Risk lets every one pass whose order may be open; so does compliance.

    Topics `risk-decisions` and, as it is, `compliance-decisions`. `number` counts the account's cancels from
    1: the venue knows it as `<account_id>-c<number>`. `source` is where the request stands:
    topic/partition/offset.
    """

    request: CancelRequested
    number: int
    symbol: str
    side: Side
    source: str

    @property
    def cancel_id(self) -> str:
        return f"{self.request.account_id}-c{self.number}"


class CancelRefused(Frozen):
    """There is nothing to cancel. `source` is where the request stands."""

    request: CancelRequested
    reason: CancelReasonText
    source: str


class ReplaceRiskApproved(Frozen):
    """Within every limit; until it is answered the larger of the old and the new order is reserved.

    The other fields are those of `OrderRiskApproved`.
    """

    request: ReplaceRequested
    symbol: str
    side: Side
    reference_price_ticks: int
    reference_tick_sequence: int
    reference_tick_epoch: int
    price_age_ms: int
    limits_version: int
    received_at_ms: int
    decided_at_ms: int


class ReplaceRiskRejected(Frozen):
    """Refused by risk: the order stays as it is. `source` and `detail` as in `OrderRiskRejected`."""

    request: ReplaceRequested
    reason: RiskReasonText
    source: str
    detail: str = ""


class RiskLimitBreached(Frozen):
    """An alert for people: an order would have broken a limit. Topic `risk-alerts`, key account."""

    account_id: str
    order_id: str
    reason: RiskReasonText


class OrderComplianceApproved(Frozen):
    """May be sent to the venue."""

    order: OrderReceived


class OrderComplianceRejected(Frozen):
    """Refused by compliance: terminal; risk releases the reservation."""

    order: OrderReceived
    reason: ComplianceReasonText


class ReplaceComplianceApproved(Frozen):
    """May be sent to the venue."""

    request: ReplaceRequested
    symbol: str
    side: Side


class ReplaceComplianceRejected(Frozen):
    """Refused by compliance: the order stays as it is; risk releases what was reserved for the new one."""

    request: ReplaceRequested
    reason: ComplianceReasonText


class VenueReport(Frozen):
    """What every report of the venue carries. Topic `executions`, key account.

    `venue_sequence` numbers the reports of one session (one session a key shard) from 1 without a gap.
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
    """A fill. `leaves_lots` is what is still open after it; 0 ends the order (terminal).

    `traded_at_ms` is the venue's clock, `trade_date` the date of that moment in the venue's time zone.
    `fee_micros` of `fee_currency` is what we pay, a rebate where it is negative. `counterparty` is who is on
    the other side: `MARKET`, or a counterparty of the reference data. None: the venue has not told. A fee
    that is not told is not a fee of zero.
    """

    trade_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int
    traded_at_ms: int | None = None
    trade_date: IsoDate | None = None
    fee_micros: Int64 | None = None
    fee_currency: Currency | None = None
    counterparty: str | None = None
    liquidity: LiquidityText | None = None


class OrderCancelled(VenueReport):
    """The rest of the order was cancelled: terminal. `cancelled_lots` were still open.

    `request_id` is the cancel that asked for it (`CancelAccepted.cancel_id`); None: the venue did it by
    itself.
    """

    cancelled_lots: int
    request_id: str | None = None


class OrderExpired(VenueReport):
    """The order's time in force ended: terminal. `expired_lots` were still open."""

    expired_lots: int


class VenueRejected(VenueReport):
    """The venue refused the order: terminal, nothing was filled."""

    reason: VenueReasonText
    rejected_lots: int


class OrderReplaced(VenueReport):
    """The order has another quantity and price; `leaves_lots` of it are open, 0 ends it as filled.

    `quantity_lots` is the total, what is filled included.
    """

    request_id: str
    quantity_lots: int
    price_ticks: int
    leaves_lots: int


class CancelRejected(VenueReport):
    """The venue refused a cancel: the order goes on as it was, or is over already."""

    request_id: str
    reason: VenueReasonText


class ReplaceRejected(VenueReport):
    """The venue refused a replace: the order goes on as it was, or is over already."""

    request_id: str
    reason: VenueReasonText


class OrderWithheld(Frozen):
    """Ours, not the venue's: an approved order that was never sent, by a last look. Terminal.

    Topic `executions`, key account. `withheld_lots` is all of it; `looked_at_ms` is the worker's time.
    """

    order_id: str
    account_id: str
    symbol: str
    side: Side
    reason: WithheldReasonText
    withheld_lots: int
    looked_at_ms: int


class ReplaceWithheld(Frozen):
    """Ours, not the venue's: an approved replace that was never sent, by a last look. The order stays.

    Topic `executions`, key account. `looked_at_ms` is the worker's time.
    """

    order_id: str
    account_id: str
    symbol: str
    side: Side
    request_id: str
    reason: WithheldReasonText
    looked_at_ms: int


class TickReceived(Frozen):
    """One trade of the market. Topic `market-data`, key symbol.

    `sequence` counts per symbol from 1 within the feed session `epoch`; a feed that begins to count anew
    takes a higher epoch.

    `exchange_at_ms` is the market's own time, `observed_at_ms` when our feed saw it.
    """

    symbol: str
    sequence: int
    price_ticks: Int64
    quantity_lots: int
    exchange_at_ms: int
    observed_at_ms: int
    epoch: Int64 = 0


class PriceUpdated(Frozen):
    """The last price of a symbol, conflated. Topic `prices`, key symbol, compacted.

    `gaps` counts tick sequences that never came. `epoch` is the feed session of the tick, `scale` that of the
    instrument's ticks, in which the price counts.
    """

    symbol: str
    price_ticks: Int64
    tick_sequence: int
    observed_at_ms: int
    gaps: int = 0
    epoch: int = 0
    scale: int = 1


class MarketDataAlert(Frozen):
    """Ticks that market data did not take at their word. Topic `market-alerts`, key symbol.

    `epoch` and `sequence` are those of the tick that showed it; `detail` says what is done about it.
    """

    symbol: str
    fault: MarketDataFaultText
    epoch: int
    sequence: int
    detail: str


class CommandAnswered(Frozen):
    """What came of a command. Topic `command-answers`, key `subject`: the account, symbol or scope.

    `command` is the command's type; `who` and `why` are its own. `reason` says why it was refused. For one
    that was accepted it is empty, or says what stays as it is.
    """

    command: str
    subject: str
    version: int | None
    accepted: bool
    reason: str = ""
    who: str = ""
    why: str = ""


class InstrumentListed(Frozen):
    """An instrument as it is in force. Topic `instruments`, key symbol, compacted.

    `scale` is another one whenever base, tick, lot, multiplier or currency change: lots and ticks of one
    scale are not those of another. `former` are its other scales so far, the lowest first: changed back to
    one of them, it has that scale again.
    """

    instrument: Instrument
    version: int
    scale: int = 1
    former: tuple[FormerScale, ...] = ()


class AccountRegistered(Frozen):
    """An account as it is in force. Topic `accounts`, key account, compacted."""

    account_id: AccountId
    owner: str
    firm: str
    base_currency: Currency
    status: PartyStatus
    version: int


class CounterpartyRegistered(Frozen):
    """A counterparty as it is in force. Topic `counterparties`, key counterparty, compacted."""

    counterparty_id: AccountId
    name: str
    status: PartyStatus
    version: int


class RestrictionInForce(Frozen):
    """Whether an instrument is restricted. Topic `restricted-list`, key symbol, compacted.

    `why` also says when it is restricted because a command could not be read.
    """

    symbol: Symbol
    restricted: bool
    version: int | None
    who: str = ""
    why: str = ""


class HaltInForce(Frozen):
    """Whether trading is halted. Topic `halts`, key `scope` (an account, or `*` for all), compacted."""

    scope: AccountId
    halted: bool
    version: int
    who: str = ""
    why: str = ""


class Diverted(Frozen):
    """Lots that go to the block account instead of `sub_account`; None: no share had room for them."""

    sub_account: str | None
    quantity_lots: int
    reason: DivertedReasonText


class AveragePrice(Frozen):
    """A price in ticks, exactly: `tick_lots` / `lots`, summed over fills. A unit is a tick of a lot."""

    tick_lots: int
    lots: int


class TradeAllocated(Frozen):
    """What a sub-account gets of a fill, or of all fills of an order that have waited for its end.

    Topic `allocations`, key `account_id`, the block account that has traded. `allocation_id` is
    `<trade_id>/<sub_account>`, and `<order_id>/<sub_account>` for fills that have waited: then `trade_id`
    and `price_ticks` are None, `average` is the price, and time, date and counterparty are those of the last
    fill, or None where they are not told or not the same. All allocations of a fill add up to its lots,
    notional and fee. `notional_micros` None: the instrument was not known. `fee_micros` None: a fee was not
    told, or fees are of several currencies.

    `instruction_order` (`*` or the order's id) and `instruction_version` name the instruction in force, of
    `method`. All three are None without one: the account keeps its fill. `diverted` is what of the lots was
    meant for others.
    """

    allocation_id: str
    account_id: str
    sub_account: str
    order_id: str
    trade_id: str | None
    symbol: str
    side: Side
    quantity_lots: int
    price_ticks: int | None
    notional_micros: int | None
    fee_micros: int | None
    fee_currency: Currency | None
    trade_date: IsoDate | None
    traded_at_ms: int | None
    counterparty: str | None
    method: AllocationMethod | None
    instruction_order: str | None
    instruction_version: int | None
    average: AveragePrice | None = None
    diverted: tuple[Diverted, ...] = ()


OrderReport = OrderAcknowledged | TradeExecuted | OrderCancelled | OrderExpired | VenueRejected
"""What the venue says of an order by itself."""

RequestReport = OrderReplaced | CancelRejected | ReplaceRejected
"""What the venue answers to a cancel or a replace, besides OrderCancelled."""

AnyVenueReport = OrderReport | RequestReport
Execution = AnyVenueReport | OrderWithheld | ReplaceWithheld
"""What stands on `executions`: the venue's reports, and our own word that something was never sent."""

Ordered = OrderReceived | OrderNotUnderstood | CancelRequested | ReplaceRequested
"""What stands on `orders`."""

RiskDecision = (
    OrderRiskApproved
    | OrderRiskRejected
    | CancelAccepted
    | CancelRefused
    | ReplaceRiskApproved
    | ReplaceRiskRejected
)
ComplianceDecision = (
    OrderComplianceApproved
    | OrderComplianceRejected
    | CancelAccepted
    | ReplaceComplianceApproved
    | ReplaceComplianceRejected
)

OrderEvent = RiskDecision | ComplianceDecision | Execution
"""What is said of an order after it has come."""
