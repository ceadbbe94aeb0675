"""Orders in, approvals and rejections out; what becomes of an approved order comes back and is booked."""

from typing import Any

from app.domain.risk import (
    NEW_ACCOUNT,
    apply_decision,
    apply_report,
    decide_risk,
    is_limit_breach,
    is_newer,
    reserve,
)
from app.engine import Record, UnitOfWork, unit_of_work
from app.risk import app
from app.topics import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    PRICES,
    RISK_ALERTS,
    RISK_DECISIONS,
    RISK_LIMITS,
)
from models.commands import SetRiskLimits
from models.events import (
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    OrderRiskApproved,
    RiskLimitBreached,
)
from tables.positions import POSITIONS
from tables.reservations import RESERVATIONS
from tables.risk_limits import LIMITS

prices = app.global_table(PRICES)


@app.agent(app.inputs(RISK_LIMITS, EXECUTIONS, COMPLIANCE_DECISIONS, ORDERS))
async def check_risk(batches: Any) -> None:
    """Judge each order against its account's limits; book what became of the approved ones."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            for record in work.records():
                match record.value:
                    case OrderReceived():
                        judge(work, record)
                    case SetRiskLimits() as limits:
                        if is_newer(limits, work[LIMITS].get(limits.account_id)):
                            work[LIMITS][limits.account_id] = limits
                    case OrderComplianceApproved():
                        pass
                    case report:
                        book(work, report)


def judge(work: UnitOfWork, record: Record) -> None:
    """Approve or reject one order, and reserve what an approved one may become."""
    order = record.value
    account = work[POSITIONS].get(order.account_id, NEW_ACCOUNT)
    outcome = decide_risk(
        order,
        source=record.source,
        received_at_ms=record.timestamp_ms,
        account=account,
        limits=work[LIMITS].get(order.account_id),
        price=prices.get(order.symbol),
    )
    work[POSITIONS][order.account_id] = apply_decision(account, outcome)
    work.emit(RISK_DECISIONS, outcome)
    if isinstance(outcome, OrderRiskApproved):
        work[RESERVATIONS][f"{order.account_id}/{order.order_id}"] = reserve(outcome)
    elif is_limit_breach(outcome.reason):
        alert = RiskLimitBreached(account_id=order.account_id, order_id=order.order_id, reason=outcome.reason)
        work.emit(RISK_ALERTS, alert)


def book(work: UnitOfWork, report: Any) -> None:
    """Move what was filled into the position, release what has ended."""
    order = report.order if isinstance(report, OrderComplianceRejected) else report
    key = f"{order.account_id}/{order.order_id}"
    account, reservation = apply_report(
        work[POSITIONS].get(order.account_id, NEW_ACCOUNT), work[RESERVATIONS].get(key), report
    )
    work[POSITIONS][order.account_id] = account
    if reservation is None:
        del work[RESERVATIONS][key]
    else:
        work[RESERVATIONS][key] = reservation
