"""Pre-trade risk: may this order go out, and what is held and reserved for an account after it?

Decide, then apply: `decide_risk` only judges, `apply_decision` and `apply_report` fold what was decided or
reported into the account. A report never raises the worst case of an account; only an approval does. What
comes again changes nothing: `is_repeat` tells it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from app.domain.errors import InvariantBroken
from app.domain.fills import open_lots_after, sequence_of
from app.domain.lifecycle import Pending
from app.domain.profit import Profit, booked, rescaled
from app.domain.reference import Known, Reference, halted_by, untradable
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    Execution,
    InstrumentListed,
    OrderComplianceRejected,
    OrderReceived,
    OrderReport,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    PriceUpdated,
    ReplaceRequested,
    RiskDecision,
    TradeExecuted,
    VenueReport,
)
from models.reasons import RiskReason
from models.values import Instrument, PartyStatus, Side, State, maker

CLOCK_SKEW_MS_MAX: Final = 1_000
"""How far a client's clock may run ahead of the broker's."""

SEQUENCE_LEAP_MAX: Final = 10_000_000
"""How far an order's sequence may lie above the account's last: a wild one would end the account for ever."""

BASIS_POINTS: Final = 10_000
BUY, ACCOUNT_ACTIVE = Side.BUY, PartyStatus.ACTIVE  # found faster
FIELDS_NAMED_MAX: Final = 8
FIELD_NAME_LENGTH_MAX: Final = 64

_PRECEDENCE: Final = tuple(RiskReason)
LIMIT_BREACHES: Final = frozenset(_PRECEDENCE[_PRECEDENCE.index(RiskReason.PRICE_OUTSIDE_COLLAR) :])
"""The refusals that name a limit of the account; the other ones say that the order could not be judged."""

TRACELESS: Final = frozenset(
    {RiskReason.UNKNOWN_ACCOUNT, RiskReason.DUPLICATE_ORDER_ID, RiskReason.SEQUENCE_LEAP}
)
"""The refusals after which the account's last sequence stays."""


class Holding(State, frozen=True, omit_defaults=True):
    """What an account has and may still get in one symbol, in lots and ticks of the instrument's `scale`.

    `open_buy_lots` and `open_sell_lots` are approved, neither filled nor ended; `open_buy_price_ticks` and
    `open_sell_price_ticks` are the highest limit price among them since that side was last empty, 0 while it
    is (and for what the release approved that did not keep them). `reference_price_ticks` is the one of the
    symbol's last approval. `profit` is what the fills have brought, None where that is not known: before the
    first fill, and since a release wrote the holding that did not keep it.
    """

    position_lots: int = 0
    open_buy_lots: int = 0
    open_sell_lots: int = 0
    reference_price_ticks: int = 0
    open_buy_price_ticks: int = 0
    open_sell_price_ticks: int = 0
    scale: int = 1
    profit: Profit | None = None

    @property
    def worst_lots(self) -> int:
        """The largest position, long or short, that the open orders can lead to."""
        long_lots = self.position_lots + self.open_buy_lots
        short_lots = self.open_sell_lots - self.position_lots
        return long_lots if long_lots > short_lots else short_lots

    @property
    def is_flat(self) -> bool:
        """Nothing held and nothing open: the next order may be of another scale."""
        return not (self.position_lots or self.open_buy_lots or self.open_sell_lots)


class AccountRisk(State, frozen=True, omit_defaults=True):
    """One account's books. Table `positions`, key account, written by risk.

    `last_sequence` is None until the first order. `last_approved_sequence` is None only in books of the
    release that did not keep it. `last_venue_sequence` and `last_compliance_sequence` are those of the last
    report that changed something and of the last rejection by compliance: what is not above them is a repeat.
    `cancels` is how many have been accepted. A holding stays when it is flat: there are no more of them than
    instruments.
    """

    holdings: dict[str, Holding]
    last_sequence: int | None = None
    open_orders: int = 0
    last_approved_sequence: int | None = None
    last_venue_sequence: int = 0
    last_compliance_sequence: int = 0
    cancels: int = 0

    def holding(self, symbol: str) -> Holding:
        return self.holdings.get(symbol, NOTHING_HELD)

    @property
    def approved_up_to(self) -> int:
        """No order above it was ever approved."""
        if self.last_approved_sequence is not None:
            return self.last_approved_sequence
        return self.last_sequence or 0


class PendingReplace(State, frozen=True):
    """A replace that is approved and not answered: the new total quantity and the new price."""

    request_id: str
    quantity_lots: int
    price_ticks: int


class Reservation(State, frozen=True, omit_defaults=True):
    """What one approved order still holds. Table `reservations`, key account/order, written by risk.

    `quantity_lots` is its total, what is filled included; None for what the release approved that did not
    keep it. `cancel_id` is the cancel that is not answered yet, `replace` the replace.
    """

    order_id: str
    symbol: str
    side: Side
    price_ticks: int
    open_lots: int
    quantity_lots: int | None = None
    cancel_id: str | None = None
    replace: PendingReplace | None = None

    @property
    def pending(self) -> Pending:
        if self.replace is None:
            return Pending.NOTHING if self.cancel_id is None else Pending.CANCEL
        return Pending.REPLACE if self.cancel_id is None else Pending.BOTH

    @property
    def more_lots(self) -> int:
        """What a pending replace asks for beyond the order as it is: reserved until it is answered."""
        if self.replace is None or self.quantity_lots is None:
            return 0
        return max(0, self.replace.quantity_lots - self.quantity_lots)


class Refusal(NamedTuple):
    """Why an order is refused; `detail` is for people."""

    reason: RiskReason
    detail: str = ""


NOTHING_HELD: Final = Holding()
NEW_ACCOUNT: Final = AccountRisk(holdings={}, last_approved_sequence=0)
_approval: Final = maker(OrderRiskApproved)


def decide_risk(
    order: OrderReceived,
    *,
    received_at_ms: int,
    decided_at_ms: int,
    account: AccountRisk,
    limits: SetRiskLimits | None,
    reference: Reference,
    unknown_fields: Sequence[str] = (),
) -> OrderRiskApproved | Refusal:
    """Judge one order; the first reason in the order of `RiskReason` wins.

    `received_at_ms` is the broker's log append time of the order, `decided_at_ms` our own, not below that.
    `limits` are the account's, None where there are none. `unknown_fields` are fields of the order that
    nobody here knows. Whatever is missing or unreadable refuses the order, never passes it. The controls are
    those of SEC rule 15c3-5(c)(1): credit and capital thresholds before entry, and price and size parameters
    order by order.
    """
    registered = reference.accounts.values.get(order.account_id)
    if limits is None or registered is None:
        return Refusal(RiskReason.UNKNOWN_ACCOUNT)
    refusal = account_refusal(order, account, limits, registered, reference, unknown_fields)
    if refusal is not None:
        return refusal
    price = judge_terms(
        order,
        received_at_ms=received_at_ms,
        decided_at_ms=decided_at_ms,
        account=account,
        limits=limits,
        registered=registered,
        reference=reference,
        open_orders=account.open_orders,
        more_lots=order.quantity_lots,
    )
    if isinstance(price, Refusal):
        return price
    return _approval(
        order=order,
        reference_price_ticks=price.price_ticks,
        reference_tick_sequence=price.tick_sequence,
        price_age_ms=price_age_ms(price, decided_at_ms),
        limits_version=limits.version,
        reference_tick_epoch=price.epoch,
        received_at_ms=received_at_ms,
        decided_at_ms=decided_at_ms,
    )


def judge_terms(
    order: OrderReceived,
    *,
    received_at_ms: int,
    decided_at_ms: int,
    account: AccountRisk,
    limits: SetRiskLimits,
    registered: AccountRegistered,
    reference: Reference,
    open_orders: int,
    more_lots: int | None,
) -> PriceUpdated | Refusal:
    """Judge what an account wants to have at the venue; returns the price it was judged by.

    `open_orders` are the account's others, `more_lots` what the order would add to the lots that are open;
    None: nothing that could cost more than what is open already.
    """
    _, (instruments, unreadable_instruments), _, (prices, unreadable_prices) = reference
    symbol = order.symbol
    listed = instruments.get(symbol)
    if listed is None or symbol in unreadable_instruments:
        return _unlisted(symbol, reference)
    holding = account.holdings.get(symbol, NOTHING_HELD)
    refusal = instrument_refusal(listed, holding, registered, received_at_ms) or _order_refusal(
        order, limits, received_at_ms, decided_at_ms
    )
    if refusal is not None:
        return refusal
    price = prices.get(symbol)
    if price is None or price.scale != listed.scale or symbol in unreadable_prices:
        return Refusal(RiskReason.NO_PRICE)
    if price_age_ms(price, decided_at_ms) > limits.price_age_ms_max:
        return Refusal(RiskReason.STALE_PRICE)
    refusal = _limit_refusal(order, limits, open_orders, listed.instrument, price)
    if refusal is None and more_lots is not None:
        refusal = exposure_refusal(
            order, limits, account, holding, listed.instrument, price, reference, more_lots
        )
    return price if refusal is None else refusal


def price_age_ms(price: PriceUpdated, decided_at_ms: int) -> int:
    """How old the price is at the decision; one from the future is new."""
    return decided_at_ms - price.observed_at_ms if decided_at_ms > price.observed_at_ms else 0


def rejection(order: OrderReceived, refusal: Refusal, source: str) -> OrderRiskRejected:
    """The event of a refusal; `source` is where the order stands: topic/partition/offset."""
    return OrderRiskRejected(order=order, reason=refusal.reason, source=source, detail=refusal.detail)


def is_limit_breach(reason: str) -> bool:
    """Whether people are alerted: the order would have broken a limit of its account."""
    return reason in LIMIT_BREACHES


def apply_decision(
    account: AccountRisk, outcome: OrderRiskApproved | OrderRiskRejected, instruments: Known[InstrumentListed]
) -> AccountRisk:
    """Fold a decision in: an approved order is reserved, and any is the last but for TRACELESS refusals.

    `instruments` are those that the decision was made by.
    """
    order = outcome.order
    if not isinstance(outcome, OrderRiskApproved):
        return account if outcome.reason in TRACELESS else with_last_sequence(account, order.sequence)
    listed = instruments.values.get(order.symbol)
    if listed is None:
        raise InvariantBroken(f"order {order.order_id} was approved, but {order.symbol} is not listed")
    holding = _with_order(
        account.holdings.get(order.symbol, NOTHING_HELD), order, outcome.reference_price_ticks, listed
    )
    return replace(
        account,
        holdings={**account.holdings, order.symbol: holding},
        last_sequence=order.sequence,
        open_orders=account.open_orders + 1,
        last_approved_sequence=order.sequence,
    )


def reserve(outcome: OrderRiskApproved) -> Reservation:
    """Return what an approved order holds until it ends."""
    order = outcome.order
    return Reservation(
        order_id=order.order_id,
        symbol=order.symbol,
        side=order.side,
        price_ticks=order.price_ticks,
        open_lots=order.quantity_lots,
        quantity_lots=order.quantity_lots,
    )


def is_repeat(
    account: AccountRisk,
    reservation: Reservation | None,
    event: OrderReport | OrderWithheld | OrderComplianceRejected,
) -> bool:
    """Whether the event has come before: then it changes nothing.

    The venue numbers the reports of an account without going back, and compliance decides on its orders in
    their sequence. OrderWithheld has no number: it is a repeat if it ends an order that was approved and has
    ended.
    """
    if isinstance(event, VenueReport):
        return event.venue_sequence <= account.last_venue_sequence
    if isinstance(event, OrderWithheld):
        return reservation is None and sequence_of(event) <= account.approved_up_to
    return event.order.sequence <= account.last_compliance_sequence


def apply_report(
    account: AccountRisk,
    reservation: Reservation | None,
    event: OrderReport | OrderWithheld | OrderComplianceRejected,
) -> tuple[AccountRisk, Reservation | None]:
    """Fold in what became of an approved order; the reservation is None once the order has ended.

    A fill moves its lots from open to the position; an ending releases what is reserved. Raises
    InvariantBroken for a report without a reservation and for one that does not fit it. `is_repeat` has to be
    asked before.
    """
    venue_sequence, compliance_sequence = account.last_venue_sequence, account.last_compliance_sequence
    if isinstance(event, OrderComplianceRejected):
        order = event.order
        reservation = reservation_of(event, order.order_id, order.symbol, order.side, reservation)
        open_lots, compliance_sequence = 0, order.sequence
    else:
        reservation = reservation_of(event, event.order_id, event.symbol, event.side, reservation)
        open_lots = open_lots_after(event, reservation.open_lots)
        if isinstance(event, VenueReport):
            venue_sequence = event.venue_sequence
    moved_lots = reservation.open_lots - open_lots
    if moved_lots == 0:
        return account, reservation
    if account.open_orders == 0:
        raise InvariantBroken(f"a report of order {reservation.order_id}, but its account has none open")
    if not open_lots:
        moved_lots += reservation.more_lots
    holding = account.holding(reservation.symbol)
    filled_lots, profit = 0, holding.profit
    if isinstance(event, TradeExecuted):
        filled_lots, profit = event.quantity_lots, booked(profit, holding.position_lots, event)
    holding = move_lots(holding, reservation, moved_lots, filled_lots, profit)
    account = replace(
        account,
        holdings={**account.holdings, reservation.symbol: holding},
        open_orders=account.open_orders - (open_lots == 0),
        last_approved_sequence=account.approved_up_to,
        last_venue_sequence=venue_sequence,
        last_compliance_sequence=compliance_sequence,
    )
    return account, replace(reservation, open_lots=open_lots) if open_lots else None


def with_last_sequence(account: AccountRisk, sequence: int) -> AccountRisk:
    """The account with another last order, though not one that was approved."""
    return replace(account, last_sequence=sequence, last_approved_sequence=account.approved_up_to)


def account_refusal(
    order: OrderReceived | ReplaceRequested,
    account: AccountRisk,
    limits: SetRiskLimits,
    registered: AccountRegistered,
    reference: Reference,
    unknown_fields: Sequence[str],
) -> Refusal | None:
    """Whether the account may send this at all."""
    last_sequence = account.last_sequence
    if last_sequence is None:
        last_sequence = 0
    elif order.sequence <= last_sequence:
        return Refusal(RiskReason.DUPLICATE_ORDER_ID)
    if order.sequence > last_sequence + SEQUENCE_LEAP_MAX:
        return Refusal(RiskReason.SEQUENCE_LEAP, f"{order.sequence} after {last_sequence}")
    if unknown_fields:
        return Refusal(RiskReason.UNKNOWN_FIELD, _named(unknown_fields))
    if registered.status is not ACCOUNT_ACTIVE:
        return Refusal(RiskReason.ACCOUNT_SUSPENDED)
    unreadable = reference.accounts.unreadable
    if unreadable and order.account_id in unreadable:
        return Refusal(
            RiskReason.ACCOUNT_SUSPENDED, f"its record cannot be read: {unreadable[order.account_id]}"
        )
    halt = halted_by(reference.halts, order.account_id)
    if halt is not None:
        return Refusal(RiskReason.HALTED, halt)
    if limits.kill_switch:
        return Refusal(RiskReason.KILL_SWITCH_ON)
    return None


def _unlisted(symbol: str, reference: Reference) -> Refusal:
    why = reference.instruments.unreadable.get(symbol)
    if why is None:
        return Refusal(RiskReason.UNKNOWN_INSTRUMENT)
    return Refusal(RiskReason.INSTRUMENT_NOT_TRADABLE, f"its record cannot be read: {why}")


def instrument_refusal(
    listed: InstrumentListed, holding: Holding, registered: AccountRegistered, received_at_ms: int
) -> Refusal | None:
    """Whether the instrument takes orders now, and its lots and cash are those of the account's books."""
    instrument = listed.instrument
    why = untradable(instrument, received_at_ms)
    if why is not None:
        return Refusal(RiskReason.INSTRUMENT_NOT_TRADABLE, why)
    if holding.scale != listed.scale and not holding.is_flat:
        return Refusal(
            RiskReason.INSTRUMENT_CHANGED, f"held in scale {holding.scale}, listed in scale {listed.scale}"
        )
    if instrument.currency != registered.base_currency:
        return Refusal(RiskReason.CURRENCY_MISMATCH, f"{instrument.currency}, not {registered.base_currency}")
    return None


def _order_refusal(
    order: OrderReceived, limits: SetRiskLimits, received_at_ms: int, decided_at_ms: int
) -> Refusal | None:
    """Whether the order is sound by itself and not too old by the client's clock and by the broker's."""
    if order.quantity_lots <= 0:
        return Refusal(RiskReason.QUANTITY_NOT_POSITIVE)
    if order.price_ticks <= 0:
        return Refusal(RiskReason.PRICE_NOT_POSITIVE)
    submitted_at_ms = order.submitted_at_ms
    if submitted_at_ms > received_at_ms + CLOCK_SKEW_MS_MAX:
        return Refusal(RiskReason.TIMESTAMP_IN_FUTURE)
    born_at_ms = submitted_at_ms if submitted_at_ms < received_at_ms else received_at_ms
    if decided_at_ms - born_at_ms > limits.order_age_ms_max:
        return Refusal(
            RiskReason.ORDER_TOO_OLD,
            f"{decided_at_ms - born_at_ms} ms, at most {limits.order_age_ms_max}",
        )
    return None


def _limit_refusal(
    order: OrderReceived, limits: SetRiskLimits, open_orders: int, instrument: Instrument, price: PriceUpdated
) -> Refusal | None:
    """Whether the order by itself is within the account's limits."""
    reference_ticks = price.price_ticks
    if abs(order.price_ticks - reference_ticks) * BASIS_POINTS > limits.price_collar_bps * reference_ticks:
        return Refusal(RiskReason.PRICE_OUTSIDE_COLLAR)
    if order.quantity_lots > limits.order_quantity_lots_max:
        return Refusal(RiskReason.ORDER_TOO_LARGE)
    notional_micros = order.price_ticks * order.quantity_lots * instrument.micros_per_tick_lot
    if notional_micros > limits.order_notional_micros_max:
        return Refusal(RiskReason.ORDER_NOTIONAL_TOO_LARGE)
    if open_orders >= limits.open_orders_max:
        return Refusal(RiskReason.TOO_MANY_OPEN_ORDERS)
    return None


def exposure_refusal(
    order: OrderReceived,
    limits: SetRiskLimits,
    account: AccountRisk,
    holding: Holding,
    instrument: Instrument,
    price: PriceUpdated,
    reference: Reference,
    more_lots: int,
) -> Refusal | None:
    """Whether the account stays within its limits whatever of its open orders is filled, this one among them.

    An order that leads towards zero and not through it is not held against them: it can only reduce.
    `more_lots` is what it adds to the lots that are open.
    """
    long_lots = holding.position_lots + holding.open_buy_lots
    short_lots = holding.open_sell_lots - holding.position_lots
    if order.side is BUY:
        grown_lots, other_lots = long_lots + more_lots, short_lots
    else:
        grown_lots, other_lots = short_lots + more_lots, long_lots
    if grown_lots <= 0:
        return None
    if grown_lots > limits.position_lots_max:
        return Refusal(RiskReason.POSITION_LIMIT)
    price_ticks = worst_ticks(price.price_ticks, holding)
    if order.price_ticks > price_ticks:
        price_ticks = order.price_ticks
    worst_lots = grown_lots if grown_lots > other_lots else other_lots
    exposure_micros = price_ticks * worst_lots * instrument.micros_per_tick_lot
    for symbol, other in account.holdings.items():
        if symbol != order.symbol and not other.is_flat:
            micros = worst_exposure_micros(symbol, other, reference)
            if micros is None:
                return Refusal(RiskReason.GROSS_EXPOSURE_LIMIT, f"nobody can say what {symbol} is worth")
            exposure_micros += micros
    if exposure_micros > limits.gross_exposure_micros_max:
        return Refusal(RiskReason.GROSS_EXPOSURE_LIMIT)
    return None


def worst_exposure_micros(symbol: str, holding: Holding, reference: Reference) -> int | None:
    """The worst case at the worse of the last price and what is asked for open lots; None: not to be told."""
    listed = reference.instruments.values.get(symbol)
    if listed is None or listed.scale != holding.scale or symbol in reference.instruments.unreadable:
        return None
    price = reference.prices.values.get(symbol)
    if price is None or price.scale != listed.scale:
        mark_ticks = holding.reference_price_ticks
    else:
        mark_ticks = price.price_ticks
    return listed.instrument.notional_micros(worst_ticks(mark_ticks, holding), holding.worst_lots)


def worst_ticks(mark_ticks: int, holding: Holding) -> int:
    """The highest of the market's price and the prices that open orders may be filled at."""
    if holding.open_buy_price_ticks > mark_ticks:
        mark_ticks = holding.open_buy_price_ticks
    if holding.open_sell_price_ticks > mark_ticks:
        mark_ticks = holding.open_sell_price_ticks
    return mark_ticks


def _named(fields: Sequence[str]) -> str:
    names = ", ".join(each[:FIELD_NAME_LENGTH_MAX] for each in fields[:FIELDS_NAMED_MAX])
    more = len(fields) - FIELDS_NAMED_MAX
    return f"{names} and {more} more" if more > 0 else names


def _with_order(
    holding: Holding, order: OrderReceived, reference_price_ticks: int, listed: InstrumentListed
) -> Holding:
    profit, scale = holding.profit, listed.scale
    if profit is not None and holding.scale != scale:
        profit = rescaled(profit, holding.scale, listed)
    buy_lots, buy_price_ticks = holding.open_buy_lots, holding.open_buy_price_ticks
    sell_lots, sell_price_ticks = holding.open_sell_lots, holding.open_sell_price_ticks
    if order.side is BUY:
        buy_lots += order.quantity_lots
        if order.price_ticks > buy_price_ticks:
            buy_price_ticks = order.price_ticks
    else:
        sell_lots += order.quantity_lots
        if order.price_ticks > sell_price_ticks:
            sell_price_ticks = order.price_ticks
    return Holding(
        position_lots=holding.position_lots,
        open_buy_lots=buy_lots,
        open_sell_lots=sell_lots,
        reference_price_ticks=reference_price_ticks,
        open_buy_price_ticks=buy_price_ticks,
        open_sell_price_ticks=sell_price_ticks,
        scale=scale,
        profit=profit,
    )


def reservation_of(
    event: Execution | RiskDecision | OrderComplianceRejected,
    order_id: str,
    symbol: str,
    side: Side,
    reservation: Reservation | None,
) -> Reservation:
    """The reservation, which has to be there and of this order; raises InvariantBroken."""
    if reservation is None:
        raise InvariantBroken(f"{type(event).__name__} of order {order_id}, for which nothing is reserved")
    if (reservation.order_id, reservation.symbol, reservation.side) != (order_id, symbol, side):
        raise InvariantBroken(
            f"{type(event).__name__} of order {order_id}, {side} {symbol}, "
            f"does not belong to the reservation {reservation!r}"
        )
    return reservation


def move_lots(
    holding: Holding, reservation: Reservation, moved_lots: int, filled_lots: int, profit: Profit | None
) -> Holding:
    """Take lots out of what is open in the reservation's symbol; put the filled ones into the position.

    `profit` is the one after that.
    """
    is_buy = reservation.side is BUY
    open_buy_lots = holding.open_buy_lots - (moved_lots if is_buy else 0)
    open_sell_lots = holding.open_sell_lots - (0 if is_buy else moved_lots)
    if open_buy_lots < 0 or open_sell_lots < 0:
        raise InvariantBroken(
            f"{moved_lots} lots of order {reservation.order_id} end, but its account has only "
            f"{holding.open_buy_lots} to buy and {holding.open_sell_lots} to sell in {reservation.symbol}"
        )
    return Holding(
        position_lots=holding.position_lots + (filled_lots if is_buy else -filled_lots),
        open_buy_lots=open_buy_lots,
        open_sell_lots=open_sell_lots,
        reference_price_ticks=holding.reference_price_ticks,
        open_buy_price_ticks=holding.open_buy_price_ticks if open_buy_lots else 0,
        open_sell_price_ticks=holding.open_sell_price_ticks if open_sell_lots else 0,
        scale=holding.scale,
        profit=profit,
    )
