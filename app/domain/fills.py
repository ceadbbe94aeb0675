"""What a report of the venue leaves open of an order, checked against what was open before it."""

from app.domain.errors import InvariantBroken
from models.events import (
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    TradeExecuted,
    VenueRejected,
    VenueReport,
)


def open_lots_after(report: VenueReport, open_lots: int) -> int:
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


def _released_lots(report: VenueReport) -> int:
    if isinstance(report, OrderCancelled):
        return report.cancelled_lots
    if isinstance(report, OrderExpired):
        return report.expired_lots
    if isinstance(report, VenueRejected):
        return report.rejected_lots
    raise InvariantBroken(f"{type(report).__name__} of order {report.order_id} is no report that we know")


def _contradiction(report: VenueReport, open_lots: int) -> InvariantBroken:
    return InvariantBroken(
        f"{type(report).__name__} {report.venue_sequence} of order {report.order_id} "
        f"does not fit its {open_lots} open lots: {report!r}"
    )
