"""The books of one account, folded from what stands in the log about it, by risk's own functions.

`agents/risk.py` does the same with its tables. What comes again changes nothing here either.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

from app.domain.limits import apply_sequence
from app.domain.reference import Known
from app.domain.requests import (
    ANSWERS,
    Answer,
    answers,
    apply_answer,
    apply_cancel,
    apply_rejection,
    apply_replace,
    is_answered,
)
from app.domain.risk import (
    NEW_ACCOUNT,
    AccountRisk,
    Reservation,
    apply_decision,
    apply_report,
    is_repeat,
    reserve,
)
from models.commands import SetAccountSequence
from models.events import (
    CancelAccepted,
    CancelRefused,
    Execution,
    InstrumentListed,
    OrderComplianceRejected,
    OrderReport,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    ReplaceComplianceRejected,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    RiskDecision,
)

Report = Execution | OrderComplianceRejected | ReplaceComplianceRejected
"""What comes back to risk of what it has let pass."""
Booked = RiskDecision | Report | SetAccountSequence
"""What changes an account's books."""
Listed = Known[InstrumentListed]


class Books(NamedTuple):
    """What risk has of one account: its row of `positions` and its rows of `reservations`, by order."""

    account: AccountRisk
    reservations: Mapping[str, Reservation]


class Logged(NamedTuple):
    """A record about an account. `at_ms` is the broker's time of it, or that of a command's answer.

    `received_at_ms` is the broker's time of the order that a decision is about, 0 where that is not told.
    `place` is topic/partition/offset.
    """

    at_ms: int
    event: Booked
    received_at_ms: int = 0
    place: str = ""


NO_BOOKS: Final = Books(NEW_ACCOUNT, {})


def folded(books: Books, event: Booked, listed: Listed) -> Books:
    """The books after an event; `listed` are the instruments that a decision was made by.

    Raises InvariantBroken for what does not fit the books.
    """
    return _FOLDS[type(event)](books, event, listed)


def in_order(decisions: Sequence[Logged], reports: Sequence[Logged]) -> Iterator[Logged]:
    """Both by the broker's clock; of one millisecond, a report comes first, but never before its decision."""
    causes = {cause for each in decisions if (cause := _lets_pass(each.event))}
    passed: set[str] = set()
    waiting = deque(reports)
    for decision in decisions:
        while waiting and waiting[0].at_ms <= decision.at_ms:
            cause = waits_for(waiting[0].event)
            if cause in causes and cause not in passed:
                break
            yield waiting.popleft()
        yield decision
        passed.add(_lets_pass(decision.event))
    yield from waiting


def is_report(event: Booked) -> bool:
    """Whether it comes from compliance, the exchange or the venue, rather than from risk."""
    return type(event) in _REPORTS


def order_of(event: Any) -> str:
    """The id of the order that a decision or a report is about."""
    kind = type(event)
    if kind in _OF_ORDER:
        event = event.order
    elif kind in _OF_REQUEST:
        event = event.request
    order_id: str = event.order_id
    return order_id


def waits_for(report: Any) -> str:
    """The id of the order, the replace or the cancel that a report follows from."""
    return answers(report) if type(report) in ANSWERS else order_of(report)


def _lets_pass(event: Booked) -> str:
    """The id under which reports of a decision come; empty when nothing follows from it."""
    kind = type(event)
    if kind is OrderRiskApproved:
        return order_of(event)
    if isinstance(event, ReplaceRiskApproved):
        return event.request.request_id
    return event.cancel_id if isinstance(event, CancelAccepted) else ""


def _approved(books: Books, event: OrderRiskApproved, listed: Listed) -> Books:
    account = apply_decision(books.account, event, listed)
    return Books(account, {**books.reservations, event.order.order_id: reserve(event)})


def _rejected(books: Books, event: OrderRiskRejected, listed: Listed) -> Books:
    return Books(apply_decision(books.account, event, listed), books.reservations)


def _replace_approved(books: Books, event: ReplaceRiskApproved, _: Listed) -> Books:
    order_id = event.request.order_id
    return _put(books, order_id, apply_replace(books.account, books.reservations.get(order_id), event))


def _replace_rejected(books: Books, event: ReplaceRiskRejected, _: Listed) -> Books:
    return Books(apply_rejection(books.account, event), books.reservations)


def _cancelling(books: Books, event: CancelAccepted, _: Listed) -> Books:
    order_id = event.request.order_id
    return _put(books, order_id, apply_cancel(books.account, books.reservations.get(order_id), event))


def _unchanged(books: Books, _: CancelRefused, __: Listed) -> Books:
    return books


def _sequence_set(books: Books, event: SetAccountSequence, _: Listed) -> Books:
    return Books(apply_sequence(books.account, event), books.reservations)


def _answered(books: Books, event: Answer, _: Listed) -> Books:
    order_id = order_of(event)
    reservation = books.reservations.get(order_id)
    if reservation is None or is_answered(books.account, reservation, event):
        return books
    return _put(books, order_id, apply_answer(books.account, reservation, event))


def _reported(books: Books, event: OrderReport | OrderWithheld | OrderComplianceRejected, _: Listed) -> Books:
    order_id = order_of(event)
    reservation = books.reservations.get(order_id)
    if is_repeat(books.account, reservation, event):
        return books
    return _put(books, order_id, apply_report(books.account, reservation, event))


def _put(books: Books, order_id: str, after: tuple[AccountRisk, Reservation | None]) -> Books:
    account, reservation = after
    if reservation is books.reservations.get(order_id):
        return books if account is books.account else Books(account, books.reservations)
    if reservation is not None:
        return Books(account, {**books.reservations, order_id: reservation})
    left = dict(books.reservations)
    left.pop(order_id, None)
    return Books(account, left)


_OF_ORDER: Final = frozenset({OrderRiskApproved, OrderRiskRejected, OrderComplianceRejected})
_OF_REQUEST: Final = frozenset(
    {CancelAccepted, CancelRefused, ReplaceRiskApproved, ReplaceRiskRejected, ReplaceComplianceRejected}
)
_REPORTS: Final = frozenset(get_args(Report))
_FOLDS: Final[Mapping[type, Callable[[Books, Any, Listed], Books]]] = {
    OrderRiskApproved: _approved,
    OrderRiskRejected: _rejected,
    ReplaceRiskApproved: _replace_approved,
    ReplaceRiskRejected: _replace_rejected,
    CancelAccepted: _cancelling,
    CancelRefused: _unchanged,
    SetAccountSequence: _sequence_set,
    **dict.fromkeys(ANSWERS, _answered),
    **dict.fromkeys(_REPORTS - ANSWERS, _reported),
}
