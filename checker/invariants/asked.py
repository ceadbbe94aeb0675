"""I1 for cancels and replaces: each is decided once by risk and by compliance, and answered once.

A cancel takes no risk, so nothing may refuse it but that there is nothing to cancel. Of one order one replace
is on its way at a time, and one cancel, which no replace may follow. When risk learns of an answer nobody can
tell; but it cannot before that stands in the log.
"""

from collections.abc import Iterator, Sequence

from checker.findings import Findings
from checker.history import Slice, Trace, Traces
from checker.records import (
    ORDERS,
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    Event,
    Logged,
    OrderCancelled,
    OrderWithheld,
    Origin,
    Refusal,
    ReplaceComplianceApproved,
    ReplaceRiskApproved,
    Request,
    RequestLet,
    RequestRiskDecision,
)
from checker.requests import Answer, Asking, request_name

I1 = "I1"
UNKNOWN_ORDER, ORDER_ENDED, CANCEL_PENDING = "unknown_order", "order_ended", "cancel_pending"


def check_requests(history: Slice, traces: Traces) -> Findings:
    """Walk the way of each request: risk's word on each record, compliance's, and one answer.

    In a quiet history a request without a decision is lost, and when all has ended one without an answer,
    unless it is stuck behind a dead letter.
    """
    found = Findings()
    requests = traces.requests
    for record in history.asked:
        if record.event is not None and record.offset not in traces.buried:
            decisions = requests.decided.get(record.offset, ())
            source = Origin(ORDERS, history.partition, record.offset)
            for message in _record_faults(record, record.event, decisions, quiet=history.quiet):
                found.violate(I1, message, source)
    for stray in requests.strays:
        name = request_name(stray.event.request) if stray.event is not None else stray.offset
        found.violate(I1, "risk has decided a request that nobody has sent", name)
    for answer in requests.unasked:
        found.violate(I1, "an answer to a request that risk has not let through", _identity(answer.event))
    _check_numbers(history, found)
    for asking in requests:
        for message in (*_compliance_faults(asking, history, traces), *_answer_faults(asking, traces)):
            found.violate(I1, message, asking.venue_id)
        if history.quiet and asking.let is not None and not asking.stuck:
            for message in _missing(asking, ended=history.ended):
                found.violate(I1, message, asking.venue_id)
    _check_risk(history, traces, found)
    return found


def _identity(answer: Answer | None) -> object:
    if isinstance(answer, OrderWithheld):
        return answer.order_id
    return answer.request_id if answer is not None else None


def _record_faults(
    record: Logged[Request],
    request: Request,
    decisions: Sequence[Logged[RequestRiskDecision]],
    *,
    quiet: bool,
) -> Iterator[str]:
    if len(decisions) > 1:
        yield "risk has decided a request more than once"
    elif quiet and not decisions:
        yield "a request was never decided by risk"
    for decision in decisions:
        if decision.event is not None and decision.event.request != request:
            yield "risk has decided a request on other terms than those received"
        yield from _wrong_key(decision, request.account_id)
        approval = decision.event
        if isinstance(approval, ReplaceRiskApproved) and approval.received_at_ms != record.timestamp_ms:
            yield "the approval of a replace names another time of receipt"


def _wrong_key(record: Logged[Event], account_id: str) -> Iterator[str]:
    if record.key != account_id.encode():
        yield "an event of a request does not have its account as key"


def _check_numbers(history: Slice, found: Findings) -> None:
    last: dict[str, int] = {}
    for decision in history.asked_risk:
        accepted = decision.event
        if not isinstance(accepted, CancelAccepted):
            continue
        account_id = accepted.request.account_id
        is_first_of_a_rest = account_id not in last and not history.whole
        if accepted.number != last.get(account_id, 0) + 1 and not is_first_of_a_rest:
            found.violate(I1, "the cancels of an account are not counted up one by one", accepted.venue_id)
        last[account_id] = accepted.number


# -- risk


def _check_risk(history: Slice, traces: Traces, found: Findings) -> None:
    """Judge what was let through and what cancels were refused by what risk must have known."""
    for decision in history.asked_risk:
        event = decision.event
        knows_more = history.risk_cut is not None and decision.offset >= history.risk_cut
        if isinstance(event, RequestLet):
            for message in _let_faults(event, decision, traces, history, knows_more=knows_more):
                found.violate(I1, message, event.venue_id)
        elif isinstance(event, CancelRefused):
            for message in _refusal_faults(event, decision, traces, knows_more=knows_more):
                found.violate(I1, message, request_name(event.request))


def _let_faults(
    event: RequestLet,
    decision: Logged[RequestRiskDecision],
    traces: Traces,
    history: Slice,
    *,
    knows_more: bool,
) -> Iterator[str]:
    trace = traces.get(event.request.order_id)
    if trace is None or trace.order is None or not _was_approved(trace, decision.offset):
        if history.whole:
            yield "a request was let through for an order that risk has not approved"
    elif (event.request.account_id, event.symbol, event.side) != (
        trace.order.account_id,
        trace.order.symbol,
        trace.order.side,
    ):
        yield "a request names another account, symbol or side than its order"
    if knows_more:
        return
    for other in traces.requests.of(event.request.order_id):
        if not any(each.offset < decision.offset for each in other.lets):
            continue
        if not other.is_pending(decision.timestamp_ms):
            continue
        if isinstance(event, ReplaceRiskApproved):
            yield "a replace was let through while a request of its order was not answered"
        elif isinstance(other.let, CancelAccepted):
            yield "a cancel was let through while another one of its order was not answered"


def _was_approved(trace: Trace, offset: int) -> bool:
    """Whether risk has approved an order before that place among its decisions."""
    return any(each.offset < offset for each in trace.approvals)


def _refusal_faults(
    event: CancelRefused, decision: Logged[RequestRiskDecision], traces: Traces, *, knows_more: bool
) -> Iterator[str]:
    order_id = event.request.order_id
    trace = traces.get(order_id)
    if event.reason == CANCEL_PENDING:
        others = (each for each in traces.requests.of(order_id) if isinstance(each.let, CancelAccepted))
        if not any(each.lets[0].offset < decision.offset for each in others):
            yield "a cancel was refused as one of several, but there is no other"
    elif event.reason not in (UNKNOWN_ORDER, ORDER_ENDED):
        yield "a cancel was refused, and not since there is nothing to cancel"
    elif trace is not None and not knows_more and _was_approved(trace, decision.offset):
        ours = trace.order is not None and trace.order.account_id == event.request.account_id
        if ours and not trace.has_ended_by(decision.timestamp_ms):
            yield "a cancel was refused though its order is open"


# -- compliance


def _compliance_faults(asking: Asking, history: Slice, traces: Traces) -> Iterator[str]:
    let = asking.let
    if asking.judged and let is None:
        yield "compliance has decided a request that risk has not let through"
        return
    if let is None:
        return
    repeated = request_name(let.request) in history.repeated  # a cancel is passed on as often as it comes
    if len(asking.judged) > 1 and not (repeated and isinstance(let, CancelAccepted)):
        yield "compliance has decided a request more than once"
    for decision in asking.judged:
        event = decision.event
        if event is None:
            continue
        if event.request != let.request or (isinstance(event, CancelAccepted) and event != let):
            yield "compliance has decided a request on other terms than risk"
        if isinstance(event, ReplaceComplianceApproved):
            if (event.symbol, event.side) != (let.symbol, let.side):
                yield "compliance has decided a request on other terms than risk"
            trace = traces.get(event.request.order_id)
            if trace is not None and not trace.compliance_approved:
                yield "a replace was approved of an order that compliance has not approved"
        yield from _wrong_key(decision, let.request.account_id)


# -- answers


def _answer_faults(asking: Asking, traces: Traces) -> Iterator[str]:
    let = asking.let
    if let is None:
        return
    if len(asking.answers) > 1:
        yield "a request was answered more than once"
    if asking.answers and asking.passed is None:
        yield "a request was answered that compliance has not let through"
    for record in asking.answers:
        answer = record.event
        if answer is None:
            continue
        if not fits(answer, let):
            yield "an answer does not fit its request"
        yield from _wrong_key(record, let.request.account_id)
        if isinstance(answer, Refusal):
            yield from _rejection_faults(answer, record, traces.get(answer.order_id))


def fits(answer: Answer, let: RequestLet) -> bool:
    """Whether an execution may answer a request."""
    is_of_cancels = isinstance(answer, OrderCancelled | CancelRejected | OrderWithheld)
    request = let.request
    return is_of_cancels == isinstance(let, CancelAccepted) and (
        answer.order_id,
        answer.account_id,
        answer.symbol,
        answer.side,
    ) == (request.order_id, request.account_id, let.symbol, let.side)


def _rejection_faults(answer: Refusal, record: Logged[Answer], trace: Trace | None) -> Iterator[str]:
    """What is said of an order to refuse a request cannot contradict what stands in front of it."""
    if trace is None or trace.stuck:
        return
    if answer.reason == UNKNOWN_ORDER and trace.reports:
        yield "the venue has refused a request since it does not know an order that it reports"
    elif answer.reason == ORDER_ENDED and not trace.has_ended_before(record.offset):
        yield "a request was refused or withheld since an order had ended that was open"


def _missing(asking: Asking, *, ended: bool) -> Iterator[str]:
    if not asking.judged:
        yield "a request that risk let through was never decided by compliance"
    elif ended and asking.passed is not None and not asking.answers:
        yield "a request that may go out was never answered"
