"""The life of an order: every event in every state, and what the docs draw of it."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from app.domain.fills import open_lots_after
from app.domain.lifecycle import (
    ENDED_UNFILLED,
    ENDS,
    LAST_FILL,
    REPLACED_AS_FILLED,
    REQUESTS,
    TRANSITIONS,
    OrderState,
    Pending,
    ends,
    pending_after,
    shown,
    state_after,
)
from models.events import (
    OrderAcknowledged,
    OrderCancelled,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderExpired,
    OrderReplaced,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    TradeExecuted,
    VenueRejected,
)

DOCS = Path(__file__).parents[2] / "docs" / "architecture.md"


def an(event: Any, **fields: Any) -> Any:
    """One of this type, with no more in it than the table looks at."""
    return event.model_construct(**fields)


EVENTS: dict[str, Any] = {
    each.__name__: an(each)
    for each in (
        OrderRiskApproved,
        OrderRiskRejected,
        OrderComplianceApproved,
        OrderComplianceRejected,
        OrderAcknowledged,
        OrderCancelled,
        OrderExpired,
        VenueRejected,
        OrderWithheld,
    )
}
EVENTS |= {
    "TradeExecuted": an(TradeExecuted, leaves_lots=1),
    LAST_FILL: an(TradeExecuted, leaves_lots=0),
    "OrderReplaced": an(OrderReplaced, leaves_lots=1),
    REPLACED_AS_FILLED: an(OrderReplaced, leaves_lots=0),
}
MATRIX = """
              RiskA RiskR CompA CompR Ack   Canc  Exp   VRej  With  Fill  Last  Repl  Less
new           appr  rej   -     -     -     -     -     -     -     -     -     -     -
approved      -     -     pend  rej   -     -     -     -     -     -     -     -     -
pending       -     -     -     -     open  -     -     rej   with  -     -     -     -
open          -     -     -     -     -     canc  exp   rej   -     part  fill  open  -
partly filled -     -     -     -     -     canc  exp   -     -     part  fill  part  fill
"""
"""FIX 4.4 volume 4, appendix D: what is done."""
PENDING_MATRIX = """
                            CancA  ReplA  CancR  Repl  Less  ReplR With  CompR
nothing                     canc   repl   -      -     -     -     -     -
pending replace             both   -      -      none  none  none  none  none
pending cancel              -      -      none   -     -     -     -     -
pending cancel and replace  -      -      repl   canc  canc  canc  canc  canc
"""
"""The same, what is asked: a second request of a kind is refused, and so is a replace under a cancel."""
REQUEST_KINDS = (
    "CancelAccepted",
    "ReplaceRiskApproved",
    "CancelRejected",
    "OrderReplaced",
    REPLACED_AS_FILLED,
    "ReplaceRejected",
    "ReplaceWithheld",
    "ReplaceComplianceRejected",
)
SHORT = {
    "appr": "approved",
    "rej": "rejected",
    "pend": "pending",
    "open": "open",
    "with": "withheld",
    "canc": "cancelled",
    "exp": "expired",
    "part": "partly filled",
    "fill": "filled",
    "none": "nothing",
    "both": "pending cancel and replace",
    "repl": "pending replace",
}
PENDING_SHORT = SHORT | {"canc": "pending cancel"}
PENDING_CELLS = {
    (pending, kind): PENDING_SHORT.get(cell)
    for line in PENDING_MATRIX.strip().splitlines()[1:]
    for pending in [line[:28].strip()]
    for kind, cell in zip(REQUEST_KINDS, line[28:].split(), strict=True)
}
CELLS = {
    (state, kind): SHORT.get(cell)
    for line in MATRIX.strip().splitlines()[1:]
    for state in [line[:14].strip()]
    for kind, cell in zip(EVENTS, line[14:].split(), strict=True)
}


@pytest.mark.parametrize(("state", "kind"), list(product(OrderState, EVENTS)), ids=str)
def test_every_event_in_every_state(state: OrderState, kind: str) -> None:
    assert state_after(state, EVENTS[kind]) == CELLS.get((state, kind))


@pytest.mark.parametrize(("pending", "kind"), list(product(Pending, REQUEST_KINDS)), ids=str)
def test_every_request_and_answer_whatever_is_pending(pending: Pending, kind: str) -> None:
    assert pending_after(pending, kind) == PENDING_CELLS[pending, kind]


def test_what_is_pending_is_shown_before_what_is_filled_but_not_of_what_is_over() -> None:
    assert shown(OrderState.PARTLY_FILLED, Pending.REPLACE) == "pending replace"
    assert shown(OrderState.PARTLY_FILLED, Pending.NOTHING) == "partly filled"
    assert shown(OrderState.FILLED, Pending.CANCEL) == "filled"


def test_an_order_that_is_over_stays_over_and_every_other_state_leads_to_an_end() -> None:
    assert {"filled", "cancelled", "expired", "rejected", "withheld"} == ENDS
    for state in TRANSITIONS:
        reached, seen = {state}, set[OrderState]()
        while reached - seen:
            seen |= reached
            reached |= {after for each in seen for after in TRANSITIONS.get(each, {}).values()}
        assert reached & ENDS, state


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_ends_its_order_in_all_states_or_in_none(kind: str) -> None:
    after = {row[kind] in ENDS for row in TRANSITIONS.values() if kind in row}
    assert after == {ends(EVENTS[kind])}


def test_what_ends_an_order_unfilled_leaves_nothing_open() -> None:
    assert {"VenueRejected", "OrderCancelled", "OrderExpired", "OrderWithheld"} == ENDED_UNFILLED
    lots = {"cancelled_lots": 7, "expired_lots": 7, "rejected_lots": 7, "withheld_lots": 7}
    for kind in ENDED_UNFILLED:
        assert open_lots_after(an(type(EVENTS[kind]), **lots), 7) == 0


def drawn(head: str, table: Mapping[Any, Mapping[str, Any]]) -> str:
    """A table as the docs have it."""
    rows = [
        f"| {state} | {' · '.join(f'{kind} → **{after}**' for kind, after in row.items())} |"
        for state, row in table.items()
    ]
    return "\n".join([f"| {head} | event → next |", "|---|---|", *rows])


@pytest.mark.parametrize(("head", "table"), [("state", TRANSITIONS), ("pending", REQUESTS)])
def test_the_docs_show_it_as_it_is(head: str, table: Mapping[Any, Mapping[str, Any]]) -> None:
    assert drawn(head, table) in DOCS.read_text(encoding="utf-8"), drawn(head, table)
