"""I7: decisions of a key come in the order of what they decide; none overtakes a dead letter of its key.

But for cancels, which pass dead letters: none of them waits.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from checker.findings import Findings
from checker.history import COMPLIANCE, RISK, Slice, Traces, order_id_of
from checker.records import (
    COMPLIANCE_DECISIONS,
    ORDERS,
    PROTECTING,
    RISK_DECISIONS,
    CancelAccepted,
    CancelRequested,
    DeadLetter,
    Logged,
    Order,
    OrderRiskApproved,
    Origin,
    Request,
)

I7 = "I7"
UNREADABLE = "ValueError"
"""The error of a record that could not be decoded."""


class _Decision(NamedTuple):
    """A decision: its offset, where what it decides stands, whose it is, and its name."""

    offset: int
    of: int
    account_id: str
    name: str


def check_key_order(history: Slice, traces: Traces) -> Findings:
    """Decisions of an account come in the order of what they decide, and none overtakes a dead letter."""
    found = Findings()
    for service, decisions in (
        (RISK, [*_of_orders(history, traces), *_of_requests(traces)]),
        (COMPLIANCE, [*_judged_orders(history), *_judged_requests(traces)]),
    ):
        last: dict[str, int] = {}
        for decision in sorted(decisions):
            if decision.of < last.get(decision.account_id, -1):
                message = f"{service} has decided orders of an account out of order"
                found.violate(I7, message, decision.name)
            last[decision.account_id] = max(decision.of, last.get(decision.account_id, -1))
    _quarantine(history, traces, found)
    cancels = set(_cancels(history))
    for letter in history.dead_letters:
        if letter.behind is not None and letter.origin.topic in PROTECTING:
            found.violate(I7, "a command that protects waits behind a dead letter", letter.origin)
        elif letter.behind is not None and letter.origin in cancels:
            found.violate(I7, "a cancel waits behind a dead letter of its account", letter.origin)
    return found


def _of_orders(history: Slice, traces: Traces) -> Iterator[_Decision]:
    for decision in history.risk:
        if decision.event is None:
            continue
        of, order = traces.source(decision.event), decision.event.order
        if of is not None:
            yield _Decision(decision.offset, of, order.account_id, order.order_id)


def _of_requests(traces: Traces) -> Iterator[_Decision]:
    for of, decisions in traces.requests.decided.items():
        for decision in decisions:
            if decision.event is not None:
                account_id = decision.event.request.account_id
                yield _Decision(decision.offset, of, account_id, order_id_of(decision.event))


def _judged_orders(history: Slice) -> Iterator[_Decision]:
    places = {
        decision.event.order.order_id: decision.offset
        for decision in history.risk
        if isinstance(decision.event, OrderRiskApproved)
    }
    for decision in history.compliance:
        if decision.event is not None:
            order = decision.event.order
            of = places.get(order.order_id, -1)
            yield _Decision(decision.offset, of, order.account_id, order.order_id)


def _judged_requests(traces: Traces) -> Iterator[_Decision]:
    """Of each request the first decision: a cancel that somebody repeats is passed on once more."""
    for asking in traces.requests:
        if asking.let is not None:
            of, account_id = asking.lets[0].offset, asking.let.request.account_id
            for decision in asking.judged[:1]:
                yield _Decision(decision.offset, of, account_id, asking.venue_id)


def _cancels(history: Slice) -> Iterator[Origin]:
    """Where cancels stand, asked for and accepted."""
    for topic in (ORDERS, RISK_DECISIONS, COMPLIANCE_DECISIONS):
        for record in history.asked_on(topic):
            if isinstance(record.event, CancelRequested | CancelAccepted):
                yield Origin(topic, history.partition, record.offset)


def _quarantine(history: Slice, traces: Traces, found: Findings) -> None:
    """Behind a dead letter that quarantines its key, later ones of the topic are not acted on."""
    decided = {
        offset for each in history.risk if each.event and (offset := traces.source(each.event)) is not None
    }
    decided |= traces.requests.decided.keys()
    cancels = set(_cancels(history))
    for service, topic, acted in (
        (RISK, ORDERS, decided),
        (COMPLIANCE, RISK_DECISIONS, _judged_places(history, traces)),
    ):
        first = _first_by_key(list(history.letters(service, topic)), history)
        for record in (*history.topic(topic), *history.asked_on(topic)) if first else ():
            key, origin = record.key, Origin(topic, history.partition, record.offset)
            may_pass = record.offset not in acted or origin in cancels
            if key in first and record.offset > first[key] and not may_pass:
                found.violate(
                    I7, f"{service} has not held a record behind the dead letter of its key", origin
                )


def _judged_places(history: Slice, traces: Traces) -> set[int]:
    judged = {order_id_of(each.event) for each in history.compliance}
    places = {
        each.offset
        for each in history.risk
        if isinstance(each.event, OrderRiskApproved) and each.event.order.order_id in judged
    }
    return places | {asking.lets[0].offset for asking in traces.requests if asking.lets and asking.judged}


def _first_by_key(letters: list[DeadLetter], history: Slice) -> dict[bytes, int]:
    """The first dead letter of each key that quarantines it.

    At the edge, what nobody can understand is buried alone, and so are what stands on a wrong partition and
    any cancel; one that others wait behind did quarantine. Orders with unknown fields the release before did
    not understand.
    """
    waited_for = {letter.behind for letter in letters if letter.behind is not None}
    sound = _sound_offsets((*history.orders, *history.asked))
    cancels = set(_cancels(history))
    new_to_some = {record.offset for record in history.orders if record.unknown}
    first: dict[bytes, int] = {}
    for letter in letters:
        offset = letter.origin.offset
        was_understood = offset in sound and not (offset in new_to_some and letter.error == UNREADABLE)
        at_edge = letter.origin.topic == ORDERS and not was_understood
        is_alone = at_edge or letter.is_wrong_partition or letter.origin in cancels
        if letter.key is None or letter.behind is not None or (is_alone and letter.origin not in waited_for):
            continue
        first[letter.key] = min(letter.origin.offset, first.get(letter.key, letter.origin.offset))
    return first


def _sound_offsets(orders: Iterable[Logged[Order | Request]]) -> set[int]:
    return {record.offset for record in orders if record.event is not None and record.sound}
