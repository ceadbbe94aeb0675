"""The exchange's side of an order: the intent to send it, and what the venue's reports make of it.

PENDING ── OrderAcknowledged ──▶ ACKNOWLEDGED ── last fill, OrderCancelled, OrderExpired ──▶ removed
   └───────── VenueRejected ──────────┴──── VenueRejected, if nothing was filled ──────────▶ removed
"""

from enum import StrEnum
from typing import Final, TypedDict

from app.domain.errors import InvariantBroken, ReportGap
from app.domain.fills import open_lots_after
from models.events import OrderAcknowledged, OrderReceived, VenueRejected, VenueReport
from models.values import Frozen


class IntentState(StrEnum):
    """PENDING: committed here, maybe not known at the venue. ACKNOWLEDGED: the venue has it."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"


class Intent(Frozen):
    """One order that the venue shall have. Table `intents`, key account/order, written by exchange.

    It is removed when the order ends, so that the table is what is at stake at the venue.
    """

    order: OrderReceived
    state: IntentState
    open_lots: int


class Session(Frozen):
    """How far the venue's reports are read. Table `sessions`, key partition number, written by exchange.

    `epoch` is the one under which its owner speaks to the venue.
    """

    venue_sequence_last: int = 0
    epoch: int = 0


class VenueOrder(TypedDict):
    """One order in the body of the venue's `POST /orders`."""

    client_order_id: str
    account_id: str
    symbol: str
    side: str
    quantity_lots: int
    price_ticks: int
    time_in_force: str


NEW_SESSION: Final = Session()


def new_intent(order: OrderReceived) -> Intent:
    return Intent(order=order, state=IntentState.PENDING, open_lots=order.quantity_lots)


def to_venue_order(intent: Intent) -> VenueOrder:
    """What goes out. `client_order_id` is the order's own id: sent twice, it is still one order."""
    order = intent.order
    return VenueOrder(
        client_order_id=order.order_id,
        account_id=order.account_id,
        symbol=order.symbol,
        side=order.side.value,
        quantity_lots=order.quantity_lots,
        price_ticks=order.price_ticks,
        time_in_force=order.time_in_force.value,
    )


def claimed(session: Session, task_epoch: int) -> Session:
    """The session under an epoch above all that it has had: what is still on its way is older.

    The task's own epoch is not enough: Kafka may give a partition that was idle for days a smaller one.
    """
    epoch = max(session.epoch + 1, task_epoch)
    return Session(venue_sequence_last=session.venue_sequence_last, epoch=epoch)


def apply_venue_report(
    session: Session, intent: Intent | None, report: VenueReport
) -> tuple[Session, Intent | None, bool]:
    """Fold one report of the session in: (session, intent, whether to emit the report as an execution).

    `intent` is the report's order, None when there is none; the one returned is None once the order ended. A
    report that was read before changes nothing and is not emitted. Raises ReportGap when reports are missing
    before this one, InvariantBroken when it belongs to no intent or does not fit it.
    """
    if report.venue_sequence <= session.venue_sequence_last:
        return session, intent, False
    if report.venue_sequence > session.venue_sequence_last + 1:
        raise ReportGap(session.venue_sequence_last, report.venue_sequence)
    read = Session(venue_sequence_last=report.venue_sequence, epoch=session.epoch)
    return read, _after(intent, report), True


def _after(intent: Intent | None, report: VenueReport) -> Intent | None:
    if intent is None:
        raise _illegal(report, "there is no intent for it")
    order = intent.order
    if (report.order_id, report.account_id, report.symbol, report.side) != (
        order.order_id,
        order.account_id,
        order.symbol,
        order.side,
    ):
        raise _illegal(report, f"it does not belong to {order!r}")
    if isinstance(report, OrderAcknowledged):
        if intent.state is not IntentState.PENDING:
            raise _illegal(report, "the order is acknowledged already")
    elif isinstance(report, VenueRejected):
        if intent.open_lots != order.quantity_lots:
            raise _illegal(report, "the order is filled in part")
    elif intent.state is not IntentState.ACKNOWLEDGED:
        raise _illegal(report, "the order is not acknowledged")
    open_lots = open_lots_after(report, intent.open_lots)
    if open_lots == 0:
        return None
    return Intent(order=order, state=IntentState.ACKNOWLEDGED, open_lots=open_lots)


def _illegal(report: VenueReport, why: str) -> InvariantBroken:
    return InvariantBroken(
        f"{type(report).__name__} {report.venue_sequence} of order {report.order_id} "
        f"of account {report.account_id}: {why}"
    )
