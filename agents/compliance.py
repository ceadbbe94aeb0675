"""Approved orders in, compliance decisions out; ended orders stop counting as open."""

from typing import Any

from app.compliance import app
from app.domain.compliance import (
    NEW_COMPLIANCE_ACCOUNT,
    apply_compliance,
    apply_execution,
    decide_compliance,
)
from app.engine import UnitOfWork, unit_of_work
from app.topics import COMPLIANCE_DECISIONS, EXECUTIONS, RESTRICTIONS, RISK_DECISIONS
from models.events import OrderReceived, OrderRiskApproved, OrderRiskRejected
from tables.recent_orders import RECENT_ORDERS

restrictions = app.global_table(RESTRICTIONS)


@app.agent(app.inputs(EXECUTIONS, RISK_DECISIONS))
async def check_compliance(batches: Any) -> None:
    """Judge each order that risk approved; forget the open ones when they end."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            for record in work.records():
                match record.value:
                    case OrderRiskApproved(order=order):
                        judge(work, order)
                    case OrderRiskRejected():
                        pass
                    case report:
                        account = work[RECENT_ORDERS].get(report.account_id, NEW_COMPLIANCE_ACCOUNT)
                        work[RECENT_ORDERS][report.account_id] = apply_execution(account, report)


def judge(work: UnitOfWork, order: OrderReceived) -> None:
    """Approve or reject one order."""
    restriction = restrictions.get(order.symbol)
    account = work[RECENT_ORDERS].get(order.account_id, NEW_COMPLIANCE_ACCOUNT)
    outcome = decide_compliance(order, account, restricted=restriction is not None and restriction.restricted)
    work[RECENT_ORDERS][order.account_id] = apply_compliance(account, outcome)
    work.emit(COMPLIANCE_DECISIONS, outcome)
