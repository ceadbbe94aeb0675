"""Approved orders in, compliance decisions out; ended orders stop counting as open."""

from app.account_rows import AccountRows, AccountTables, Memory
from app.compliance import app
from app.counts import Count
from app.domain.compliance import (
    apply_execution,
    decide_compliance,
    decide_replace,
    is_judged,
    is_repeat,
    replacing,
)
from app.engine import Batches, UnitOfWork, unit_of_work
from app.topics import COMPLIANCE_DECISIONS, RESTRICTED_LIST, named
from app.topology import COMPLIANCE
from models.events import (
    CancelAccepted,
    CancelRefused,
    Execution,
    OrderComplianceRejected,
    OrderRiskApproved,
    OrderRiskRejected,
    ReplaceComplianceRejected,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    RiskDecision,
)
from tables.open_orders import OPEN_ORDERS
from tables.recent_kinds import RECENT_KINDS
from tables.recent_orders import RECENT_ORDERS

TABLES = AccountTables(RECENT_ORDERS, OPEN_ORDERS, RECENT_KINDS)
restrictions = app.global_table(RESTRICTED_LIST)
REFUSED = Count(
    app, "compliance_orders_refused_total", "Orders that compliance has refused, by reason.", "reason"
)
REPEATS = Count(
    app, "compliance_repeats_ignored_total", "Approvals and reports that came once more, by type.", "type"
)


@app.agent(app.inputs(*named(*COMPLIANCE.inputs)))
async def check_compliance(batches: Batches[RiskDecision | Execution]) -> None:
    """Judge each order and replace that risk approved, pass cancels on; forget what has ended."""
    memory = Memory()  # of the one task whose batches these are
    async for batch in batches:
        async with unit_of_work(batch) as work:
            rows = AccountRows(work, TABLES, memory)
            for record in work.records():
                match record.value:
                    case OrderRiskApproved() as approval:
                        judge(work, rows, approval)
                    case ReplaceRiskApproved() as approval:
                        judge_replace(work, rows, approval)
                    case CancelAccepted() as accepted:
                        work.emit(COMPLIANCE_DECISIONS, accepted)
                    case OrderRiskRejected() | CancelRefused() | ReplaceRiskRejected():
                        pass
                    case report:
                        forget(work, rows, report)


def judge(work: UnitOfWork, rows: AccountRows, approval: OrderRiskApproved) -> None:
    """Approve or reject one order; one that was judged before is ignored."""
    order = approval.order
    account = rows.account(order.account_id)
    if is_judged(account, order.sequence):
        REPEATS.add(work, type=type(approval).__name__)
        return
    outcome = decide_compliance(
        approval,
        rows.remembered(order.account_id),
        restrictions.get(order.symbol),
        is_restriction_unreadable=restrictions.is_unreadable(order.symbol),
    )
    work.emit(COMPLIANCE_DECISIONS, outcome)
    if isinstance(outcome, OrderComplianceRejected):
        rows.judged(account, order)
        REFUSED.add(work, reason=outcome.reason)
    else:
        rows.approve(account, approval)


def judge_replace(work: UnitOfWork, rows: AccountRows, approval: ReplaceRiskApproved) -> None:
    """Approve or reject one replace; one that was judged before is ignored."""
    request = approval.request
    account_id, order_id = request.account_id, request.order_id
    account = rows.account(account_id)
    if is_judged(account, request.sequence):
        REPEATS.add(work, type=type(approval).__name__)
        return
    opened = rows.open_order(account_id, order_id)
    outcome = decide_replace(
        approval,
        opened,
        rows.remembered(account_id),
        restrictions.get(approval.symbol),
        is_restriction_unreadable=restrictions.is_unreadable(approval.symbol),
    )
    work.emit(COMPLIANCE_DECISIONS, outcome)
    rows.judged(account, request)
    if isinstance(outcome, ReplaceComplianceRejected):
        REFUSED.add(work, reason=outcome.reason)
    elif opened is not None:
        rows.change(account_id, order_id, opened, replacing(opened, request))


def forget(work: UnitOfWork, rows: AccountRows, report: Execution) -> None:
    """An order that has ended is not open any more, a replaced one has another price.

    A report that comes again changes nothing.
    """
    account_id, order_id = report.account_id, report.order_id
    account = rows.account(account_id)
    opened = rows.open_order(account_id, order_id)
    if is_repeat(account, opened, report):
        REPEATS.add(work, type=type(report).__name__)
        return
    account, left = apply_execution(account, opened, report)
    if opened is None or left is opened:
        return
    if left is None:
        rows.end(account_id, account, order_id, opened)
    else:
        rows.change(account_id, order_id, opened, left)
