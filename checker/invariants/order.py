"""I7: decisions of a key come in the order of what they decide; none overtakes a dead letter of its key."""

from collections.abc import Iterable

from checker.findings import Findings
from checker.history import COMPLIANCE, RISK, Slice, Traces, order_id_of
from checker.records import (
    ORDERS,
    PROTECTING,
    RISK_DECISIONS,
    DeadLetter,
    Logged,
    Order,
    OrderRiskApproved,
    Origin,
)

I7 = "I7"
UNREADABLE = "ValueError"
"""The error of a record that could not be decoded."""


def check_key_order(history: Slice, traces: Traces) -> Findings:
    """Decisions of an account come in the order of what they decide, and none overtakes a dead letter."""
    found = Findings()
    _risk_order(history, traces, found)
    _compliance_order(history, found)
    _quarantine(history, traces, found)
    for letter in history.dead_letters:
        if letter.behind is not None and letter.origin.topic in PROTECTING:
            found.violate(I7, "a command that protects waits behind a dead letter", letter.origin)
    return found


def _risk_order(history: Slice, traces: Traces, found: Findings) -> None:
    last: dict[str, int] = {}
    for decision in history.risk:
        if decision.event is None:
            continue
        offset = traces.source(decision.event)
        account_id = decision.event.order.account_id
        if offset is None:
            continue
        if offset < last.get(account_id, -1):
            found.violate(
                I7, "risk has decided orders of an account out of order", decision.event.order.order_id
            )
        last[account_id] = max(offset, last.get(account_id, -1))


def _compliance_order(history: Slice, found: Findings) -> None:
    places = {
        decision.event.order.order_id: decision.offset
        for decision in history.risk
        if isinstance(decision.event, OrderRiskApproved)
    }
    last: dict[str, int] = {}
    for decision in history.compliance:
        if decision.event is None:
            continue
        order = decision.event.order
        place = places.get(order.order_id, -1)
        if place < last.get(order.account_id, -1):
            found.violate(I7, "compliance has decided orders of an account out of order", order.order_id)
        last[order.account_id] = max(place, last.get(order.account_id, -1))


def _quarantine(history: Slice, traces: Traces, found: Findings) -> None:
    """Behind a dead letter that quarantines its key, later ones of the topic are not acted on."""
    decided = {
        offset for each in history.risk if each.event and (offset := traces.source(each.event)) is not None
    }
    for service, topic, acted in (
        (RISK, ORDERS, decided),
        (COMPLIANCE, RISK_DECISIONS, _judged_places(history)),
    ):
        first = _first_by_key(list(history.letters(service, topic)), history)
        for record in history.topic(topic) if first else ():
            key = record.key
            if key in first and record.offset > first[key] and record.offset in acted:
                origin = Origin(topic, history.partition, record.offset)
                found.violate(
                    I7, f"{service} has not held a record behind the dead letter of its key", origin
                )


def _judged_places(history: Slice) -> set[int]:
    judged = {order_id_of(each.event) for each in history.compliance}
    return {
        each.offset
        for each in history.risk
        if isinstance(each.event, OrderRiskApproved) and each.event.order.order_id in judged
    }


def _first_by_key(letters: list[DeadLetter], history: Slice) -> dict[bytes, int]:
    """The first dead letter of each key that quarantines it.

    At the edge, what nobody can understand is buried alone, and so is what stands on a wrong partition; one
    that others wait behind did quarantine. Orders with unknown fields the release before did not understand.
    """
    waited_for = {letter.behind for letter in letters if letter.behind is not None}
    sound = _sound_offsets(history.orders)
    new_to_some = {record.offset for record in history.orders if record.unknown}
    first: dict[bytes, int] = {}
    for letter in letters:
        offset = letter.origin.offset
        was_understood = offset in sound and not (offset in new_to_some and letter.error == UNREADABLE)
        at_edge = letter.origin.topic == ORDERS and not was_understood
        is_alone = at_edge or letter.is_wrong_partition
        if letter.key is None or letter.behind is not None or (is_alone and letter.origin not in waited_for):
            continue
        first[letter.key] = min(letter.origin.offset, first.get(letter.key, letter.origin.offset))
    return first


def _sound_offsets(orders: Iterable[Logged[Order]]) -> set[int]:
    return {record.offset for record in orders if record.event is not None and record.sound}
