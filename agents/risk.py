"""Orders in, approvals and rejections out; what becomes of an approved order comes back and is booked."""

import time

from app.counts import Count
from app.domain.limits import (
    apply_limits,
    apply_sequence,
    decide_limits,
    decide_removal,
    decide_sequence,
    decide_unread,
)
from app.domain.reference import Reference
from app.domain.risk import (
    NEW_ACCOUNT,
    Refusal,
    apply_decision,
    apply_report,
    decide_risk,
    is_limit_breach,
    is_repeat,
    rejection,
    reserve,
)
from app.engine import Batches, RawRecord, Record, TopicSpec, UnitOfWork, WrongPartition, unit_of_work
from app.risk import app
from app.service import known
from app.topics import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    COMMAND_ANSWERS,
    HALTS,
    INSTRUMENTS,
    PRICES,
    RISK_ALERTS,
    RISK_DECISIONS,
    RISK_LIMITS,
    account_of,
    named,
)
from app.topology import RISK
from models.commands import SetAccountSequence, SetRiskLimits
from models.events import (
    CommandAnswered,
    ComplianceDecision,
    Execution,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderNotUnderstood,
    OrderReceived,
    OrderRiskApproved,
    RiskLimitBreached,
)
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
REPEATS = Count(
    app, "risk_repeats_ignored_total", "Reports and decisions that had been booked before, by type.", "type"
)
ANSWERED = Count(
    app, "risk_commands_total", "Commands that risk has answered, by type and answer.", "type", "answer"
)
RiskInput = (
    SetRiskLimits
    | SetAccountSequence
    | Execution
    | ComplianceDecision
    | OrderReceived
    | OrderNotUnderstood
    | None
)
UNREAD = {RISK_LIMITS.name: SetRiskLimits.__name__, ACCOUNT_COMMANDS.name: SetAccountSequence.__name__}
"""What a record is taken for that cannot be read."""


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
                    case SetRiskLimits() as command:
                        set_limits(work, command)
                    case SetAccountSequence() as command:
                        set_sequence(work, command)
                    case None:
                        remove_limits(work, record)
                    case OrderComplianceApproved():
                        pass
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
    REFUSED.add(work, reason=outcome.reason)
    if is_limit_breach(outcome.reason):
        alert = RiskLimitBreached(account_id=order.account_id, order_id=order.order_id, reason=outcome.reason)
        work.emit(RISK_ALERTS, alert)


def book(work: UnitOfWork, report: Execution | OrderComplianceRejected) -> None:
    """Move what was filled into the position, release what has ended; what comes again changes nothing."""
    order = report.order if isinstance(report, OrderComplianceRejected) else report
    key = f"{order.account_id}/{order.order_id}"
    account = work[POSITIONS].get(order.account_id, NEW_ACCOUNT)
    reservation = work[RESERVATIONS].get(key)
    if is_repeat(account, reservation, report):
        REPEATS.add(work, type=type(report).__name__)
        return
    account, reservation = apply_report(account, reservation, report)
    work[POSITIONS][order.account_id] = account
    if reservation is None:
        del work[RESERVATIONS][key]
    else:
        work[RESERVATIONS][key] = reservation


def set_limits(work: UnitOfWork, command: SetRiskLimits) -> None:
    """Put limits in force, or the kill switch alone."""
    in_force = work[LIMITS].get(command.account_id)
    answer = decide_limits(command, in_force)
    if answer.accepted:
        work[LIMITS][command.account_id] = apply_limits(command, in_force)
    tell(work, answer)


def remove_limits(work: UnitOfWork, record: Record) -> None:
    """Take an account's limits away: its record has no value."""
    account_id = account_of(record.key)
    answer = decide_removal(account_id, work[LIMITS].get(account_id))
    if answer.accepted:
        del work[LIMITS][account_id]
    tell(work, answer)


def set_sequence(work: UnitOfWork, command: SetAccountSequence) -> None:
    """Set an account right again after an order with a sequence too high."""
    account = work[POSITIONS].get(command.account_id, NEW_ACCOUNT)
    is_known = command.account_id in work[LIMITS] and command.account_id in reference.accounts.values
    answer = decide_sequence(command, account, is_known=is_known)
    if answer.accepted:
        work[POSITIONS][command.account_id] = apply_sequence(account, command)
    tell(work, answer)


@app.buried
def refuse(work: UnitOfWork, spec: TopicSpec, raw: RawRecord, error: BaseException) -> None:
    """Answer a command that cannot be read; a kill switch takes all the same, if its account is ours."""
    command = UNREAD.get(spec.name)
    if command is None:
        return
    account_id, why_not = account_of(raw.key), f"{type(error).__name__}: {error}"
    in_force = None if isinstance(error, WrongPartition) else work[LIMITS].get(account_id)
    answer, after = decide_unread(command, account_id, raw.value, why_not, in_force)
    if after is not None and after is not in_force:
        work[LIMITS][account_id] = after
    tell(work, answer)


def tell(work: UnitOfWork, answer: CommandAnswered) -> None:
    """Answer a command."""
    work.emit(COMMAND_ANSWERS, answer)
    ANSWERED.add(work, type=answer.command, answer="accepted" if answer.accepted else "refused")
