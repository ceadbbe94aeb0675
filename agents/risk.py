"""Orders in, approvals and rejections out; what becomes of an approved order comes back and is booked."""

import time

from agents.risk_commands import remove_limits, set_limits, set_sequence
from app.counts import Count
from app.domain.reference import Reference
from app.domain.requests import (
    Answer,
    apply_answer,
    apply_cancel,
    apply_rejection,
    apply_replace,
    decide_cancel,
    decide_replace,
    is_answered,
    replace_rejection,
)
from app.domain.risk import (
    NEW_ACCOUNT,
    AccountRisk,
    Refusal,
    Reservation,
    apply_decision,
    apply_report,
    decide_risk,
    is_limit_breach,
    is_repeat,
    rejection,
    reserve,
)
from app.engine import Batches, Record, UnitOfWork, unit_of_work
from app.risk import app
from app.service import known
from app.topics import (
    ACCOUNTS,
    HALTS,
    INSTRUMENTS,
    PRICES,
    RISK_ALERTS,
    RISK_DECISIONS,
    named,
)
from app.topology import RISK
from models.commands import SetAccountSequence, SetRiskLimits
from models.events import (
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CancelRequested,
    ComplianceDecision,
    Execution,
    OrderComplianceApproved,
    OrderComplianceRejected,
    Ordered,
    OrderNotUnderstood,
    OrderReceived,
    OrderReplaced,
    OrderReport,
    OrderRiskApproved,
    OrderWithheld,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceWithheld,
    RiskLimitBreached,
)
from models.reasons import RiskReasonText
from tables.positions import POSITIONS
from tables.reservations import RESERVATIONS
from tables.risk_limits import LIMITS

reference = Reference(
    accounts=known(app, ACCOUNTS),
    instruments=known(app, INSTRUMENTS),
    halts=known(app, HALTS),
    prices=known(app, PRICES),
)
REFUSED = Count(app, "risk_orders_refused_total", "Orders that risk has refused, by reason.", "reason")
CANCELS_REFUSED = Count(
    app, "risk_cancels_refused_total", "Cancels that found nothing to cancel, by reason.", "reason"
)
REPEATS = Count(
    app, "risk_repeats_ignored_total", "Reports and decisions that had been booked before, by type.", "type"
)
RiskInput = SetRiskLimits | SetAccountSequence | Execution | ComplianceDecision | Ordered | None
OfOrder = OrderReceived | CancelRequested | ReplaceRequested | Execution
"""What names an order and its account."""


@app.agent(app.inputs(*named(*RISK.inputs)))
async def check_risk(batches: Batches[RiskInput]) -> None:
    """Judge each order against its account's limits; book what became of the approved ones."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            now_ms = time.time_ns() // 1_000_000
            for record in work.records():
                match record.value:
                    case OrderReceived() as order:
                        judge(work, record, order, now_ms)
                    case OrderNotUnderstood(order=order, unknown_fields=names):
                        judge(work, record, order, now_ms, names)
                    case CancelRequested() as request:
                        cancel(work, record, request)
                    case ReplaceRequested() as request:
                        judge_replace(work, record, request, now_ms)
                    case SetRiskLimits() as command:
                        set_limits(work, command)
                    case SetAccountSequence() as command:
                        is_registered = command.account_id in reference.accounts.values
                        set_sequence(work, command, is_registered=is_registered)
                    case None:
                        remove_limits(work, record)
                    case OrderComplianceApproved() | ReplaceComplianceApproved() | CancelAccepted():
                        pass
                    case (
                        OrderReplaced()
                        | CancelRejected()
                        | ReplaceRejected()
                        | ReplaceWithheld()
                        | ReplaceComplianceRejected()
                    ) as answer:
                        settle(work, answer)
                    case report:
                        book(work, report)


def judge(
    work: UnitOfWork, record: Record, order: OrderReceived, now_ms: int, unknown_fields: tuple[str, ...] = ()
) -> None:
    """Approve or reject one order, and reserve what an approved one may become."""
    account = work[POSITIONS].get(order.account_id, NEW_ACCOUNT)
    decided = decide_risk(
        order,
        received_at_ms=record.timestamp_ms,
        decided_at_ms=now_ms if now_ms > record.timestamp_ms else record.timestamp_ms,
        account=account,
        limits=work[LIMITS].get(order.account_id),
        reference=reference,
        unknown_fields=unknown_fields,
    )
    outcome = rejection(order, decided, record.source) if isinstance(decided, Refusal) else decided
    after = apply_decision(account, outcome, reference.instruments)
    if after is not account:
        work[POSITIONS][order.account_id] = after
    work.emit(RISK_DECISIONS, outcome)
    if isinstance(outcome, OrderRiskApproved):
        work[RESERVATIONS][f"{order.account_id}/{order.order_id}"] = reserve(outcome)
        return
    refused(work, order.account_id, order.order_id, outcome.reason)


def refused(work: UnitOfWork, account_id: str, request_id: str, reason: RiskReasonText) -> None:
    """Count an order or a replace that is refused; people are told of a limit that it would have broken."""
    REFUSED.add(work, reason=reason)
    if is_limit_breach(reason):
        alert = RiskLimitBreached(account_id=account_id, order_id=request_id, reason=reason)
        work.emit(RISK_ALERTS, alert)


def cancel(work: UnitOfWork, record: Record, request: CancelRequested) -> None:
    """Let a cancel through, or say why there is nothing to cancel."""
    account, reservation = books(work, request.account_id, request.order_id)
    decided = decide_cancel(request, account, reservation, record.source)
    work.emit(RISK_DECISIONS, decided)
    if isinstance(decided, CancelRefused):
        CANCELS_REFUSED.add(work, reason=decided.reason)
    else:
        keep(work, *apply_cancel(account, reservation, decided), request)


def judge_replace(work: UnitOfWork, record: Record, request: ReplaceRequested, now_ms: int) -> None:
    """Approve or reject one replace, and reserve what an approved one adds."""
    account, reservation = books(work, request.account_id, request.order_id)
    decided = decide_replace(
        request,
        received_at_ms=record.timestamp_ms,
        decided_at_ms=max(now_ms, record.timestamp_ms),
        account=account,
        reservation=reservation,
        limits=work[LIMITS].get(request.account_id),
        reference=reference,
    )
    if isinstance(decided, ReplaceRiskApproved):
        work.emit(RISK_DECISIONS, decided)
        keep(work, *apply_replace(account, reservation, decided), request)
        return
    rejected = replace_rejection(request, decided, record.source)
    work.emit(RISK_DECISIONS, rejected)
    after = apply_rejection(account, rejected)
    if after is not account:
        work[POSITIONS][request.account_id] = after
    refused(work, request.account_id, request.request_id, rejected.reason)


def settle(work: UnitOfWork, answer: Answer) -> None:
    """Release what was reserved for a request that is answered, or take its terms over."""
    about = answer.request if isinstance(answer, ReplaceComplianceRejected) else answer
    account, reservation = books(work, about.account_id, about.order_id)
    if reservation is None or is_answered(account, reservation, answer):
        REPEATS.add(work, type=type(answer).__name__)
        return
    keep(work, *apply_answer(account, reservation, answer), about)


def book(work: UnitOfWork, report: OrderReport | OrderWithheld | OrderComplianceRejected) -> None:
    """Move what was filled into the position, release what has ended; what comes again changes nothing."""
    order = report.order if isinstance(report, OrderComplianceRejected) else report
    account, reservation = books(work, order.account_id, order.order_id)
    if is_repeat(account, reservation, report):
        REPEATS.add(work, type=type(report).__name__)
        return
    keep(work, *apply_report(account, reservation, report), order)


def books(work: UnitOfWork, account_id: str, order_id: str) -> tuple[AccountRisk, Reservation | None]:
    """What risk has of an account, and of one of its orders while that is open."""
    account = work[POSITIONS].get(account_id, NEW_ACCOUNT)
    return account, work[RESERVATIONS].get(f"{account_id}/{order_id}")


def keep(work: UnitOfWork, account: AccountRisk, reservation: Reservation | None, about: OfOrder) -> None:
    """Put the books back; without a reservation the order has ended."""
    key = f"{about.account_id}/{about.order_id}"
    work[POSITIONS][about.account_id] = account
    if reservation is None:
        del work[RESERVATIONS][key]
    else:
        work[RESERVATIONS][key] = reservation
