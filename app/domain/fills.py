"""What a report leaves open of an order, checked against what was open before it."""

from app.domain.errors import InvariantBroken
from models.events import (
    Execution,
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderWithheld,
    TradeExecuted,
    VenueRejected,
    VenueReport,
)


def open_lots_after(report: Execution, open_lots: int) -> int:
    """Return the lots still open after `report`; 0 means that it ended the order.

    Raises InvariantBroken when the report's own lots do not fit `open_lots`: a fill of more than is open, an
    ending that names another rest.
    """
    if isinstance(report, OrderAcknowledged):
        return open_lots
    if isinstance(report, TradeExecuted):
        if report.quantity_lots <= 0 or report.leaves_lots < 0:
            raise _contradiction(report, open_lots)
        ended_lots, left_lots = report.quantity_lots, report.leaves_lots
    else:
        ended_lots, left_lots = _released_lots(report), 0
    if ended_lots + left_lots != open_lots:
        raise _contradiction(report, open_lots)
    return left_lots


def sequence_of(event: OrderWithheld) -> int:
    """The sequence of the order, which its id ends with.

    Raises InvariantBroken for an id that is not `<account_id>-<sequence>`.
    """
    try:
        return int(event.order_id.removeprefix(f"{event.account_id}-"))
    except ValueError:
        raise InvariantBroken(
            f"OrderWithheld of {event.order_id[:64]!r}, no order id of account {event.account_id[:64]!r}"
        ) from None


def _released_lots(report: Execution) -> int:
    if isinstance(report, OrderCancelled):
        return report.cancelled_lots
    if isinstance(report, OrderExpired):
        return report.expired_lots
    if isinstance(report, VenueRejected):
        return report.rejected_lots
    if isinstance(report, OrderWithheld):
        return report.withheld_lots
    raise InvariantBroken(f"{type(report).__name__} of order {report.order_id} is no report that we know")


def _contradiction(report: Execution, open_lots: int) -> InvariantBroken:
    number = f" {report.venue_sequence}" if isinstance(report, VenueReport) else ""
    return InvariantBroken(
        f"{type(report).__name__}{number} of order {report.order_id} "
        f"does not fit its {open_lots} open lots: {report!r}"
    )
