"""Cancel and replace in the books of risk: what is let through, and what is reserved until it is answered.

While a replace is pending its order may be filled by its old terms or by its new ones. So the larger of both
quantities is reserved, at the larger of both prices. One replace of an order is pending at a time; a cancel
may come on top of it. A cancel only reduces: neither limits nor halts nor kill switches hold it.
"""

from typing import Final, get_args

from msgspec.structs import replace

from app.domain.errors import InvariantBroken
from app.domain.fills import number_of
from app.domain.lifecycle import pending_after
from app.domain.reference import Reference
from app.domain.risk import (
    TRACELESS,
    AccountRisk,
    Holding,
    PendingReplace,
    Refusal,
    Reservation,
    account_refusal,
    judge_terms,
    move_lots,
    price_age_ms,
    reservation_of,
    with_last_sequence,
)
from models.commands import SetRiskLimits
from models.events import (
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CancelRequested,
    OrderReceived,
    OrderReplaced,
    ReplaceComplianceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    ReplaceWithheld,
    RequestReport,
    VenueReport,
)
from models.reasons import CancelReason, RiskReason
from models.values import Side, TimeInForce

Answer = RequestReport | ReplaceWithheld | ReplaceComplianceRejected
"""What ends a request, but for OrderCancelled, which ends the order."""

ANSWERS: Final = frozenset(get_args(Answer))


def decide_cancel(
    request: CancelRequested, account: AccountRisk, reservation: Reservation | None, source: str
) -> CancelAccepted | CancelRefused:
    """Let a cancel through if its order may be open, and no other cancel of it is on its way.

    `source` is where the request stands: topic/partition/offset.
    """
    if reservation is None:
        reason = _ended_or_unknown(account, request.account_id, request.order_id)
        return CancelRefused(request=request, reason=reason, source=source)
    if pending_after(reservation.pending, CancelAccepted.__name__) is None:
        return CancelRefused(request=request, reason=CancelReason.CANCEL_PENDING, source=source)
    return CancelAccepted(
        request=request,
        number=account.cancels + 1,
        symbol=reservation.symbol,
        side=reservation.side,
        source=source,
    )


def apply_cancel(
    account: AccountRisk, reservation: Reservation | None, accepted: CancelAccepted
) -> tuple[AccountRisk, Reservation]:
    """The books once the cancel is on its way."""
    reservation = reservation_of(
        accepted, accepted.request.order_id, accepted.symbol, accepted.side, reservation
    )
    return replace(account, cancels=accepted.number), replace(reservation, cancel_id=accepted.cancel_id)


def decide_replace(
    request: ReplaceRequested,
    *,
    received_at_ms: int,
    decided_at_ms: int,
    account: AccountRisk,
    reservation: Reservation | None,
    limits: SetRiskLimits | None,
    reference: Reference,
) -> ReplaceRiskApproved | Refusal:
    """Judge the new terms as those of an order; the first reason of `RiskReason` wins.

    Only what they add counts towards position and exposure: a smaller quantity at no higher price than what
    is open is never refused for these. Times as in `decide_risk`.
    """
    registered = reference.accounts.values.get(request.account_id)
    if limits is None or registered is None:
        return Refusal(RiskReason.UNKNOWN_ACCOUNT)
    refusal = account_refusal(request, account, limits, registered, reference, ())
    if refusal is not None:
        return refusal
    if reservation is None:
        return Refusal(RiskReason(_ended_or_unknown(account, request.account_id, request.order_id).value))
    refusal = _pending_refusal(reservation)
    if refusal is not None:
        return refusal
    price = judge_terms(
        _as_order(request, reservation),
        received_at_ms=received_at_ms,
        decided_at_ms=decided_at_ms,
        account=account,
        limits=limits,
        registered=registered,
        reference=reference,
        open_orders=account.open_orders - 1,
        more_lots=_more_lots(request, reservation, account.holding(reservation.symbol)),
    )
    if isinstance(price, Refusal):
        return price
    return ReplaceRiskApproved(
        request=request,
        symbol=reservation.symbol,
        side=reservation.side,
        reference_price_ticks=price.price_ticks,
        reference_tick_sequence=price.tick_sequence,
        reference_tick_epoch=price.epoch,
        price_age_ms=price_age_ms(price, decided_at_ms),
        limits_version=limits.version,
        received_at_ms=received_at_ms,
        decided_at_ms=decided_at_ms,
    )


def replace_rejection(request: ReplaceRequested, refusal: Refusal, source: str) -> ReplaceRiskRejected:
    """The event of a refusal; `source` is where the request stands: topic/partition/offset."""
    return ReplaceRiskRejected(request=request, reason=refusal.reason, source=source, detail=refusal.detail)


def apply_replace(
    account: AccountRisk, reservation: Reservation | None, approval: ReplaceRiskApproved
) -> tuple[AccountRisk, Reservation]:
    """The books once the replace is on its way: what it adds is reserved, at the higher of both prices."""
    request = approval.request
    reservation = reservation_of(approval, request.order_id, approval.symbol, approval.side, reservation)
    pending = PendingReplace(
        request_id=request.request_id, quantity_lots=request.quantity_lots, price_ticks=request.price_ticks
    )
    reservation = replace(reservation, replace=pending)
    holding = _grown(account.holding(reservation.symbol), reservation.side, reservation.more_lots, request)
    account = replace(
        account,
        holdings={**account.holdings, reservation.symbol: holding},
        last_sequence=request.sequence,
        last_approved_sequence=request.sequence,
    )
    return account, reservation


def apply_rejection(account: AccountRisk, rejected: ReplaceRiskRejected) -> AccountRisk:
    """The books after a refusal: the request's number is used, unless it says nothing of the account."""
    return account if rejected.reason in TRACELESS else with_last_sequence(account, rejected.request.sequence)


def answers(answer: Answer) -> str:
    """The id of the request that it answers."""
    if isinstance(answer, ReplaceComplianceRejected):
        return answer.request.request_id
    return answer.request_id


def is_answered(account: AccountRisk, reservation: Reservation | None, answer: Answer) -> bool:
    """Whether there is nothing to do: it has come before, or its order has ended and with it the request."""
    if reservation is None:
        return True
    if isinstance(answer, VenueReport):
        return answer.venue_sequence <= account.last_venue_sequence
    return reservation.replace is None or reservation.replace.request_id != answers(answer)


def apply_answer(
    account: AccountRisk, reservation: Reservation, answer: Answer
) -> tuple[AccountRisk, Reservation | None]:
    """Fold in what became of a request; the reservation is None if the order has ended by it.

    Raises InvariantBroken for an answer to what was not asked. `is_answered` has to be asked before.
    """
    if isinstance(answer, CancelRejected):
        if reservation.cancel_id != answer.request_id:
            raise _unasked(answer, reservation)
        return (
            replace(account, last_venue_sequence=answer.venue_sequence),
            replace(reservation, cancel_id=None),
        )
    pending = reservation.replace
    if pending is None or pending.request_id != answers(answer):
        raise _unasked(answer, reservation)
    reserved_lots = reservation.open_lots + reservation.more_lots
    if isinstance(answer, OrderReplaced):
        after = _replaced(reservation, pending, answer)
    else:
        after = replace(reservation, replace=None)
    holding = account.holding(reservation.symbol)
    holding = move_lots(holding, reservation, reserved_lots - after.open_lots, 0, holding.profit)
    account = replace(
        account,
        holdings={**account.holdings, reservation.symbol: holding},
        open_orders=account.open_orders - (after.open_lots == 0),
    )
    if isinstance(answer, VenueReport):
        account = replace(account, last_venue_sequence=answer.venue_sequence)
    return account, after if after.open_lots else None


def _ended_or_unknown(account: AccountRisk, account_id: str, order_id: str) -> CancelReason:
    number = number_of(account_id, order_id)
    if number is None or not 0 < number <= account.approved_up_to:
        return CancelReason.UNKNOWN_ORDER
    return CancelReason.ORDER_ENDED


def _pending_refusal(reservation: Reservation) -> Refusal | None:
    if pending_after(reservation.pending, ReplaceRiskApproved.__name__) is None:
        if reservation.cancel_id is not None:
            return Refusal(RiskReason.CANCEL_PENDING, f"{reservation.cancel_id} is not answered yet")
        waits_for = reservation.replace.request_id if reservation.replace is not None else ""
        return Refusal(RiskReason.REPLACE_PENDING, f"{waits_for} is not answered yet")
    if reservation.quantity_lots is None:
        return Refusal(
            RiskReason.REPLACE_PENDING, "it was approved by a release without replaces: cancel it instead"
        )
    return None


def _as_order(request: ReplaceRequested, reservation: Reservation) -> OrderReceived:
    """The new terms, as an order that is to be judged."""
    return OrderReceived(
        order_id=request.order_id,
        account_id=request.account_id,
        sequence=request.sequence,
        symbol=reservation.symbol,
        side=reservation.side,
        quantity_lots=request.quantity_lots,
        price_ticks=request.price_ticks,
        submitted_at_ms=request.submitted_at_ms,
        time_in_force=TimeInForce.GTC,
    )


def _more_lots(request: ReplaceRequested, reservation: Reservation, holding: Holding) -> int | None:
    """What the new terms add to the lots that are open; None when they cost no more at worst."""
    is_buy = reservation.side is Side.BUY
    open_price_ticks = holding.open_buy_price_ticks if is_buy else holding.open_sell_price_ticks
    more_lots = request.quantity_lots - (reservation.quantity_lots or 0)
    if more_lots <= 0 and request.price_ticks <= open_price_ticks:
        return None
    return max(0, more_lots)


def _grown(holding: Holding, side: Side, more_lots: int, request: ReplaceRequested) -> Holding:
    if side is Side.BUY:
        return replace(
            holding,
            open_buy_lots=holding.open_buy_lots + more_lots,
            open_buy_price_ticks=max(holding.open_buy_price_ticks, request.price_ticks),
        )
    return replace(
        holding,
        open_sell_lots=holding.open_sell_lots + more_lots,
        open_sell_price_ticks=max(holding.open_sell_price_ticks, request.price_ticks),
    )


def _replaced(reservation: Reservation, pending: PendingReplace, report: OrderReplaced) -> Reservation:
    """The reservation by the new terms; raises InvariantBroken when the report does not fit them."""
    filled_lots = (reservation.quantity_lots or 0) - reservation.open_lots
    asked = (max(pending.quantity_lots, filled_lots), pending.price_ticks)
    if (report.quantity_lots, report.price_ticks) != asked or (
        report.quantity_lots - report.leaves_lots != filled_lots
    ):
        raise InvariantBroken(
            f"OrderReplaced {report.venue_sequence} of order {report.order_id} does not fit what was asked, "
            f"{asked[0]} lots at {asked[1]} with {filled_lots} filled: {report!r}"
        )
    return replace(
        reservation,
        price_ticks=report.price_ticks,
        open_lots=report.leaves_lots,
        quantity_lots=report.quantity_lots,
        replace=None,
    )


def _unasked(answer: Answer, reservation: Reservation) -> InvariantBroken:
    return InvariantBroken(
        f"{type(answer).__name__} answers {answers(answer)}, for which order {reservation.order_id} "
        "does not wait"
    )
