"""What was asked of orders, cancels and replaces, and what became of each of them.

A request has one identity from risk's word on: the id that it has at the venue. A cancel gets it from risk; a
replace brings it along, and may be sent twice by its client like an order.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from checker.records import (
    CancelAccepted,
    CancelRejected,
    CancelRequested,
    Execution,
    Logged,
    OrderCancelled,
    OrderReplaced,
    OrderWithheld,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceWithheld,
    Request,
    RequestJudged,
    RequestLet,
    RequestPassed,
    RequestRefused,
    RequestRiskDecision,
    source_offset,
)

CANCEL_REQUESTED = "cancel_requested"
"""Why an order is withheld whose cancel came before it had left."""

Answer = OrderCancelled | OrderReplaced | CancelRejected | ReplaceRejected | ReplaceWithheld | OrderWithheld


class Asking:
    """One request, by its id at the venue, and what was said of it, each in log order.

    `received` is its record on `orders`, `repeats` are others with the same id. `lets` are risk's approvals,
    `judged` is what compliance has decided of it, `answers` what ended it behind that. `stuck`: a decision
    about it is a dead letter or waits behind one, or its order is stuck.
    """

    __slots__ = ("answers", "judged", "lets", "received", "repeats", "stuck", "venue_id")

    def __init__(self, venue_id: str) -> None:
        self.venue_id = venue_id
        self.received: Logged[Request] | None = None
        self.repeats: tuple[Logged[Request], ...] = ()
        self.lets: tuple[Logged[RequestLet], ...] = ()
        self.judged: tuple[Logged[RequestJudged], ...] = ()
        self.answers: tuple[Logged[Answer], ...] = ()
        self.stuck = False

    @property
    def let(self) -> RequestLet | None:
        """What risk has let through; None where it has not."""
        return self.lets[0].event if self.lets else None

    @property
    def passed(self) -> RequestPassed | None:
        """What compliance has let through too."""
        for decision in self.judged:
            if decision.event is not None and not isinstance(decision.event, ReplaceComplianceRejected):
                return decision.event
        return None

    @property
    def barred_at_ms(self) -> int | None:
        """When compliance has refused it."""
        refused = (each for each in self.judged if isinstance(each.event, ReplaceComplianceRejected))
        return next((each.timestamp_ms for each in refused), None)

    @property
    def answered_at_ms(self) -> int | None:
        """When it was answered, by compliance's refusal too; None while it is not."""
        if self.answers:
            return self.answers[0].timestamp_ms
        return self.barred_at_ms

    @property
    def is_withheld(self) -> bool:
        """Whether it never left for the venue."""
        return any(isinstance(each.event, ReplaceWithheld | OrderWithheld) for each in self.answers)

    def is_pending(self, at_ms: int) -> bool:
        """Whether nobody could know of an answer at that time."""
        answered_at_ms = self.answered_at_ms
        return answered_at_ms is None or answered_at_ms > at_ms


@dataclass
class Requests:
    """The requests of a slice by their ids at the venue.

    `of_order` has those that risk has let through, by order, in the order of that. `decided` are risk's
    decisions by the record on `orders` that they are of; `strays` are of none that is there. `unasked` are
    answers to what was never let through, `sources` the places that decisions are of, whatever stands there.
    """

    by_id: dict[str, Asking] = field(default_factory=dict)
    of_order: dict[str, list[Asking]] = field(default_factory=dict)
    decided: dict[int, list[Logged[RequestRiskDecision]]] = field(default_factory=dict)
    strays: list[Logged[RequestRiskDecision]] = field(default_factory=list)
    unasked: list[Logged[Answer]] = field(default_factory=list)
    sources: set[int] = field(default_factory=set)

    def __iter__(self) -> Iterator[Asking]:
        return iter(self.by_id.values())

    def get(self, venue_id: str) -> Asking | None:
        return self.by_id.get(venue_id)

    def of(self, order_id: str) -> Sequence[Asking]:
        return self.of_order.get(order_id, ())

    def at(self, venue_id: str) -> Asking:
        found = self.by_id.get(venue_id)
        if found is None:
            found = self.by_id[venue_id] = Asking(venue_id)
        return found


class Told(NamedTuple):
    """The records that requests are traced by, in log order, on partition `partition`.

    `buried` are the offsets of `orders` that are dead letters of risk or held, `stuck_risk` and
    `stuck_compliance` those of decisions that are dead letters of the next service, or held.
    """

    partition: int
    asked: Iterable[Logged[Request]]
    risk: Iterable[Logged[RequestRiskDecision]]
    compliance: Iterable[Logged[RequestJudged]]
    executions: Iterable[Logged[Execution]]
    buried: Collection[int]
    stuck_risk: Collection[int]
    stuck_compliance: Collection[int]


def trace_requests(told: Told, is_stuck: Callable[[str], bool]) -> Requests:
    """Sort them by request; `is_stuck` says whether an order is."""
    requests = Requests()
    records = _trace_records(told, requests)
    _find_approved(told, requests)
    for decision in told.risk:
        if decision.event is not None:
            _trace_risk(decision, requests, records, told)
    for judged in told.compliance:
        if judged.event is not None:
            asking = requests.at(judged.event.venue_id)
            asking.judged += (judged,)
            asking.stuck = asking.stuck or judged.offset in told.stuck_compliance
    for record in told.executions:
        _trace_answer(record, requests)
    for order_id, askings in requests.of_order.items():
        for asking in askings if is_stuck(order_id) else ():
            asking.stuck = True
    return requests


def request_name(request: Request) -> str:
    """A name of a request as its client has it."""
    if isinstance(request, CancelRequested):
        return f"{request.order_id}/cancel/{request.request_id}"
    return request.request_id


def answered_id(event: Execution | None) -> str | None:
    """The request that an execution names; None where it names none."""
    match event:
        case OrderCancelled(request_id=request_id):
            return request_id
        case OrderReplaced() | CancelRejected() | ReplaceRejected() | ReplaceWithheld():
            return event.request_id
    return None


def _trace_records(told: Told, requests: Requests) -> dict[int, Logged[Request]]:
    records = {each.offset: each for each in told.asked if each.offset not in told.buried}
    for record in records.values():
        if isinstance(record.event, ReplaceRequested):
            asking = requests.at(record.event.request_id)
            if asking.received is None:
                asking.received = record
            else:
                asking.repeats += (record,)
    return records


def _find_approved(told: Told, requests: Requests) -> None:
    """Let an approved replace be the record that the approval names by its time of receipt."""
    for decision in told.risk:
        if not isinstance(decision.event, ReplaceRiskApproved):
            continue
        asking = requests.get(decision.event.request.request_id)
        if asking is None or asking.received is None or not asking.repeats:
            continue
        records = (asking.received, *asking.repeats)
        received_at_ms = decision.event.received_at_ms
        meant = next((each for each in records if each.timestamp_ms == received_at_ms), asking.received)
        asking.received = meant
        asking.repeats = tuple(each for each in records if each is not meant)


def _trace_risk(
    decision: Logged[RequestRiskDecision],
    requests: Requests,
    records: dict[int, Logged[Request]],
    told: Told,
) -> None:
    event = decision.event
    assert event is not None
    offset = _offset_of(event, requests, told)
    record = None if offset is None else records.get(offset)
    if offset is not None:
        requests.sources.add(offset)
    if record is None:
        requests.strays.append(decision)
    else:
        requests.decided.setdefault(record.offset, []).append(decision)
    if isinstance(event, RequestRefused):
        return
    asking = requests.at(event.venue_id)
    if asking.received is None:
        asking.received = record
    if not asking.lets:
        requests.of_order.setdefault(event.request.order_id, []).append(asking)
    asking.lets += (Logged(decision.offset, decision.timestamp_ms, decision.key, event),)
    asking.stuck = asking.stuck or decision.offset in told.stuck_risk


def _offset_of(event: RequestRiskDecision, requests: Requests, told: Told) -> int | None:
    """The offset on `orders` of what was decided: named, or that of the replace with this id."""
    if not isinstance(event, ReplaceRiskApproved):
        return source_offset(event.source, told.partition)
    asking = requests.get(event.venue_id)
    if asking is not None and asking.received is not None:
        return asking.received.offset
    buried = (each for each in told.asked if each.offset in told.buried)
    return next((each.offset for each in buried if each.event == event.request), None)


def _trace_answer(record: Logged[Execution], requests: Requests) -> None:
    event = record.event
    if isinstance(event, OrderWithheld):
        asking = _cancel_of(event, requests) if event.reason == CANCEL_REQUESTED else None
        if asking is None and event.reason != CANCEL_REQUESTED:
            return
    else:
        venue_id = answered_id(event)
        if venue_id is None:
            return
        asking = requests.get(venue_id)
    assert isinstance(event, Answer)
    answer: Logged[Answer] = Logged(record.offset, record.timestamp_ms, record.key, event)
    if asking is None or not asking.lets:
        requests.unasked.append(answer)
    else:
        asking.answers += (answer,)


def _cancel_of(withheld: OrderWithheld, requests: Requests) -> Asking | None:
    """The cancel for which an order was withheld: its last one that has no answer."""
    cancels = (
        each
        for each in reversed(requests.of(withheld.order_id))
        if isinstance(each.let, CancelAccepted) and not each.answers
    )
    return next(cancels, None)
