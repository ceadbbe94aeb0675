"""Facts of the book as the reports the venue sends: the fields of the models' events, numbered, in JSON.

The fields are written down here and not taken from the models, which costs 3 times as much; a test
reads every kind of report back with the models.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from venue.book import Acknowledged, Cancel, Cancelled, Expired, Fact, Filled, Refused, Rejected, Replaced
from venue.terms import TradeTerms


class NumberedReport(NamedTuple):
    """`body` is the JSON object as sent, but for its session: `{"type": ..., ...event fields}`."""

    session: int
    venue_sequence: int
    type: str
    order_id: str
    body: str


_encode = msgspec.json.Encoder().encode


def report_of(fact: Fact, venue_sequence: int, terms: TradeTerms | None = None) -> NumberedReport:
    """The report of a fact; a fill has `terms`."""
    order = fact.order
    type_name, specific = _specifics(fact)
    body = {
        "type": type_name,
        "order_id": order.order_id,
        "account_id": order.account_id,
        "symbol": order.symbol,
        "side": order.side,
        "venue_order_id": order.venue_order_id,
        "venue_sequence": venue_sequence,
        **specific,
        **(terms._asdict() if terms is not None else {}),
    }
    return NumberedReport(order.session, venue_sequence, type_name, order.order_id, _encode(body).decode())


def frame_of(reports: Iterable[tuple[int, str]], added: str = "") -> str:
    """One WebSocket frame: the reports, given as (session, body), as a JSON array.

    `added` is a member more for each, such as `"name":1,`.
    """
    return "[" + ",".join(f'{{"session":{session},{added}{body[1:]}' for session, body in reports) + "]"


def following(before: int, reports: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """The reports behind number `before`; one whose number leaps names the one that it follows."""
    found = []
    for venue_sequence, body in reports:
        if venue_sequence != before + 1:
            body = f'{{"follows":{before},{body[1:]}'
        found.append((venue_sequence, body))
        before = venue_sequence
    return found


def _specifics(fact: Fact) -> tuple[str, dict[str, Any]]:
    """The event's name and the fields that only this event has."""
    if isinstance(fact, Filled):
        return "TradeExecuted", {
            "trade_id": fact.trade_id,
            "quantity_lots": fact.quantity_lots,
            "price_ticks": fact.price_ticks,
            "leaves_lots": fact.leaves_lots,
        }
    if isinstance(fact, Acknowledged):
        return "OrderAcknowledged", {}
    if isinstance(fact, Cancelled):
        return "OrderCancelled", {"cancelled_lots": fact.lots, "request_id": fact.request_id}
    if isinstance(fact, Expired):
        return "OrderExpired", {"expired_lots": fact.lots}
    if isinstance(fact, Replaced):
        return "OrderReplaced", {
            "request_id": fact.request_id,
            "quantity_lots": fact.quantity_lots,
            "price_ticks": fact.price_ticks,
            "leaves_lots": fact.leaves_lots,
        }
    if isinstance(fact, Refused):
        name = "CancelRejected" if isinstance(fact.request, Cancel) else "ReplaceRejected"
        return name, {"request_id": fact.request.request_id, "reason": fact.reason}
    assert isinstance(fact, Rejected)
    return "VenueRejected", {"reason": fact.reason, "rejected_lots": fact.order.quantity_lots}
