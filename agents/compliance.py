"""Approved orders in, compliance decisions out; ended orders stop counting as open."""

from typing import Any

from app.compliance import app
from app.counts import Count
from app.domain.compliance import (
    NEW_COMPLIANCE_ACCOUNT,
    apply_compliance,
    apply_execution,
    decide_compliance,
    is_judged,
    is_repeat,
)
from app.engine import UnitOfWork, unit_of_work
from app.topics import COMPLIANCE_DECISIONS, RESTRICTED_LIST, named
from app.topology import COMPLIANCE
from models.events import Execution, OrderComplianceRejected, OrderRiskApproved, OrderRiskRejected
from tables.recent_orders import RECENT_ORDERS

restrictions = app.global_table(RESTRICTED_LIST)
REFUSED = Count(
    app, "compliance_orders_refused_total", "Orders that compliance has refused, by reason.", "reason"
)
REPEATS = Count(
    app, "compliance_repeats_ignored_total", "Approvals and reports that came once more, by type.", "type"
)


@app.agent(app.inputs(*named(*COMPLIANCE.inputs)))
async def check_compliance(batches: Any) -> None:
    """Judge each order that risk approved; forget the open ones when they end."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            for record in work.records():
                match record.value:
                    case OrderRiskApproved() as approval:
                        judge(work, approval)
                    case OrderRiskRejected():
                        pass
                    case report:
                        forget(work, report)


def judge(work: UnitOfWork, approval: OrderRiskApproved) -> None:
    """Approve or reject one order; one that was judged before is ignored."""
    order = approval.order
    account = work[RECENT_ORDERS].get(order.account_id, NEW_COMPLIANCE_ACCOUNT)
    if is_judged(account, approval):
        REPEATS.add(work, type=type(approval).__name__)
        return
    outcome = decide_compliance(
        approval,
        account,
        restrictions.get(order.symbol),
        is_restriction_unreadable=restrictions.is_unreadable(order.symbol),
    )
    work[RECENT_ORDERS][order.account_id] = apply_compliance(account, approval, outcome)
    work.emit(COMPLIANCE_DECISIONS, outcome)
    if isinstance(outcome, OrderComplianceRejected):
        REFUSED.add(work, reason=outcome.reason)


def forget(work: UnitOfWork, report: Execution) -> None:
    """An order that has ended is not open any more; a report that comes again changes nothing."""
    account = work[RECENT_ORDERS].get(report.account_id, NEW_COMPLIANCE_ACCOUNT)
    if is_repeat(account, report):
        REPEATS.add(work, type=type(report).__name__)
        return
    work[RECENT_ORDERS][report.account_id] = apply_execution(account, report)
