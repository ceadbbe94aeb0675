"""Pre-trade risk: may this order go out, and what is held and reserved for an account after it?

Decide, then apply: `decide_risk` only judges, `apply_decision` and `apply_report` fold what was decided or
reported into the account. A report never raises the worst case of an account; only an approval does.
"""

from typing import Final

from app.domain.errors import InvariantBroken
from app.domain.fills import open_lots_after
from models.commands import SetRiskLimits
from models.events import (
    OrderComplianceRejected,
    OrderReceived,
    OrderRiskApproved,
    OrderRiskRejected,
    PriceUpdated,
    TradeExecuted,
    VenueReport,
)
from models.reasons import RiskReason
from models.values import INSTRUMENTS, Side, State

CLOCK_SKEW_MS_MAX: Final = 1_000
"""How far a client's clock may run ahead of the broker's."""

BASIS_POINTS: Final = 10_000

_PRECEDENCE: Final = tuple(RiskReason)
LIMIT_BREACHES: Final = frozenset(_PRECEDENCE[_PRECEDENCE.index(RiskReason.PRICE_OUTSIDE_COLLAR) :])
"""The refusals that name a limit of the account; the other ones say that the order could not be judged."""


class Holding(State, frozen=True):
    """What an account has and may still get in one symbol.

    `open_buy_lots` and `open_sell_lots` are approved, neither filled nor ended; `reference_price_ticks` is
    the one of the symbol's last approval.
    """

    position_lots: int = 0
    open_buy_lots: int = 0
    open_sell_lots: int = 0
    reference_price_ticks: int = 0

    @property
    def worst_lots(self) -> int:
        """The largest position, long or short, that the open orders can lead to."""
        return _worst_lots(self.position_lots, self.open_buy_lots, self.open_sell_lots)

    def exposure_micros(self, symbol: str) -> int:
        """The worst case at the reference price, in cash."""
        return INSTRUMENTS[symbol].notional_micros(self.reference_price_ticks, self.worst_lots)


class AccountRisk(State, frozen=True):
    """One account's books. Table `positions`, key account, written by risk.

    `last_sequence` is None until the first order. A holding stays when it is flat: there are no more of them
    than instruments.
    """

    holdings: dict[str, Holding]
    last_sequence: int | None = None
    open_orders: int = 0

    def holding(self, symbol: str) -> Holding:
        return self.holdings.get(symbol, NOTHING_HELD)

    @property
    def gross_exposure_micros(self) -> int:
        """The worst case of every symbol at its reference price, summed."""
        return sum(holding.exposure_micros(symbol) for symbol, holding in self.holdings.items())


class Reservation(State, frozen=True):
    """What one approved order still holds. Table `reservations`, key account/order, written by risk."""

    order_id: str
    symbol: str
    side: Side
    price_ticks: int
    open_lots: int


NOTHING_HELD: Final = Holding()
NEW_ACCOUNT: Final = AccountRisk(holdings={})


def decide_risk(
    order: OrderReceived,
    *,
    source: str,
    received_at_ms: int,
    account: AccountRisk,
    limits: SetRiskLimits | None,
    price: PriceUpdated | None,
) -> OrderRiskApproved | OrderRiskRejected:
    """Judge one order; the first reason in the order of `RiskReason` wins.

    `source` is where the order stands (topic/partition/offset), `received_at_ms` the broker's log append time
    of it. `limits` and `price` are the account's and the symbol's, None where there are none: then the order
    is refused, never passed. The controls are those of SEC rule 15c3-5(c)(1): credit and capital thresholds
    before entry, and price and size parameters order by order.
    """

    def reject(reason: RiskReason) -> OrderRiskRejected:
        return OrderRiskRejected(order=order, reason=reason, source=source)

    if account.last_sequence is not None and order.sequence <= account.last_sequence:
        return reject(RiskReason.DUPLICATE_ORDER_ID)
    if limits is None:
        return reject(RiskReason.UNKNOWN_ACCOUNT)
    if limits.kill_switch:
        return reject(RiskReason.KILL_SWITCH_ON)
    instrument = INSTRUMENTS.get(order.symbol)
    if instrument is None:
        return reject(RiskReason.UNKNOWN_INSTRUMENT)
    if order.quantity_lots <= 0:
        return reject(RiskReason.QUANTITY_NOT_POSITIVE)
    if order.price_ticks <= 0:
        return reject(RiskReason.PRICE_NOT_POSITIVE)
    if order.submitted_at_ms > received_at_ms + CLOCK_SKEW_MS_MAX:
        return reject(RiskReason.TIMESTAMP_IN_FUTURE)
    if price is None:
        return reject(RiskReason.NO_PRICE)
    price_age_ms = max(0, received_at_ms - price.observed_at_ms)
    if price_age_ms > limits.price_age_ms_max:
        return reject(RiskReason.STALE_PRICE)
    reference_ticks = price.price_ticks
    if abs(order.price_ticks - reference_ticks) * BASIS_POINTS > limits.price_collar_bps * reference_ticks:
        return reject(RiskReason.PRICE_OUTSIDE_COLLAR)
    if order.quantity_lots > limits.order_quantity_lots_max:
        return reject(RiskReason.ORDER_TOO_LARGE)
    if instrument.notional_micros(order.price_ticks, order.quantity_lots) > limits.order_notional_micros_max:
        return reject(RiskReason.ORDER_NOTIONAL_TOO_LARGE)
    if account.open_orders >= limits.open_orders_max:
        return reject(RiskReason.TOO_MANY_OPEN_ORDERS)

    before = account.holding(order.symbol)
    worst_lots_before, worst_lots = before.worst_lots, _worst_lots_with(before, order)
    if worst_lots > worst_lots_before:  # otherwise it can only reduce
        if worst_lots > limits.position_lots_max:
            return reject(RiskReason.POSITION_LIMIT)
        exposure_micros = instrument.notional_micros(reference_ticks, worst_lots)
        for symbol, holding in account.holdings.items():
            if symbol != order.symbol:
                exposure_micros += holding.exposure_micros(symbol)
        if exposure_micros > limits.gross_exposure_micros_max:
            return reject(RiskReason.GROSS_EXPOSURE_LIMIT)
    return OrderRiskApproved(
        order=order,
        reference_price_ticks=reference_ticks,
        reference_tick_sequence=price.tick_sequence,
        price_age_ms=price_age_ms,
        limits_version=limits.version,
    )


def is_limit_breach(reason: str) -> bool:
    """Whether people are alerted: the order would have broken a limit of its account."""
    return reason in LIMIT_BREACHES


def is_newer(limits: SetRiskLimits, in_force: SetRiskLimits | None) -> bool:
    """Whether the command changes what is in force: one that comes late or twice does not."""
    return in_force is None or limits.version > in_force.version


def apply_decision(account: AccountRisk, outcome: OrderRiskApproved | OrderRiskRejected) -> AccountRisk:
    """Fold a decision in: any order but a duplicate is the account's last, an approved one is reserved."""
    order = outcome.order
    if isinstance(outcome, OrderRiskApproved):
        holding = _with_order(account.holding(order.symbol), order, outcome.reference_price_ticks)
        return AccountRisk(
            last_sequence=order.sequence,
            open_orders=account.open_orders + 1,
            holdings={**account.holdings, order.symbol: holding},
        )
    if outcome.reason is RiskReason.DUPLICATE_ORDER_ID:
        return account
    return AccountRisk(
        last_sequence=order.sequence, open_orders=account.open_orders, holdings=account.holdings
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
    )


def apply_report(
    account: AccountRisk, reservation: Reservation | None, event: VenueReport | OrderComplianceRejected
) -> tuple[AccountRisk, Reservation | None]:
    """Fold in what became of an approved order; the reservation is None once the order has ended.

    A fill moves its lots from open to the position; an ending releases what is open. Raises InvariantBroken
    for a report without a reservation and for one that does not fit it.
    """
    if isinstance(event, OrderComplianceRejected):
        order = event.order
        reservation = _reservation_of(event, order.order_id, order.symbol, order.side, reservation)
        open_lots, filled_lots = 0, 0
    else:
        reservation = _reservation_of(event, event.order_id, event.symbol, event.side, reservation)
        open_lots = open_lots_after(event, reservation.open_lots)
        filled_lots = event.quantity_lots if isinstance(event, TradeExecuted) else 0
    moved_lots = reservation.open_lots - open_lots
    if moved_lots == 0:
        return account, reservation
    account = AccountRisk(
        last_sequence=account.last_sequence,
        open_orders=account.open_orders - (open_lots == 0),
        holdings={
            **account.holdings,
            reservation.symbol: _moved(account, reservation, moved_lots, filled_lots),
        },
    )
    if account.open_orders < 0:
        raise InvariantBroken(f"an ending of order {reservation.order_id}, but its account has none open")
    return account, _shrunk(reservation, open_lots) if open_lots else None


def _worst_lots(position_lots: int, open_buy_lots: int, open_sell_lots: int) -> int:
    # max(|position + open_buy|, |position - open_sell|), for the first is never below the second
    long_lots = position_lots + open_buy_lots
    short_lots = open_sell_lots - position_lots
    return long_lots if long_lots > short_lots else short_lots


def _worst_lots_with(holding: Holding, order: OrderReceived) -> int:
    """What `_with_order` would make the worst case: refused orders should not cost a new holding."""
    if order.side is Side.BUY:
        open_buy_lots = holding.open_buy_lots + order.quantity_lots
        return _worst_lots(holding.position_lots, open_buy_lots, holding.open_sell_lots)
    open_sell_lots = holding.open_sell_lots + order.quantity_lots
    return _worst_lots(holding.position_lots, holding.open_buy_lots, open_sell_lots)


def _with_order(holding: Holding, order: OrderReceived, reference_price_ticks: int) -> Holding:
    is_buy = order.side is Side.BUY
    return Holding(
        position_lots=holding.position_lots,
        open_buy_lots=holding.open_buy_lots + (order.quantity_lots if is_buy else 0),
        open_sell_lots=holding.open_sell_lots + (0 if is_buy else order.quantity_lots),
        reference_price_ticks=reference_price_ticks,
    )


def _reservation_of(
    event: VenueReport | OrderComplianceRejected,
    order_id: str,
    symbol: str,
    side: Side,
    reservation: Reservation | None,
) -> Reservation:
    if reservation is None:
        raise InvariantBroken(f"{type(event).__name__} of order {order_id}, for which nothing is reserved")
    if (reservation.order_id, reservation.symbol, reservation.side) != (order_id, symbol, side):
        raise InvariantBroken(
            f"{type(event).__name__} of order {order_id}, {side} {symbol}, "
            f"does not belong to the reservation {reservation!r}"
        )
    return reservation


def _moved(account: AccountRisk, reservation: Reservation, moved_lots: int, filled_lots: int) -> Holding:
    """Take lots out of what is open in the reservation's symbol; put the filled ones into the position."""
    holding = account.holding(reservation.symbol)
    is_buy = reservation.side is Side.BUY
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
    )


def _shrunk(reservation: Reservation, open_lots: int) -> Reservation:
    return Reservation(
        order_id=reservation.order_id,
        symbol=reservation.symbol,
        side=reservation.side,
        price_ticks=reservation.price_ticks,
        open_lots=open_lots,
    )
