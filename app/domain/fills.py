"""What a report leaves open of an order, checked against what was open before it."""

from typing import Final, assert_never

from app.domain.errors import InvariantBroken
from models.events import (
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderReport,
    OrderWithheld,
    ReplaceWithheld,
    TradeExecuted,
    VenueRejected,
    VenueReport,
)

DIGITS_MAX: Final = 20


def open_lots_after(report: OrderReport | OrderWithheld, open_lots: int) -> int:
    """Return the lots still open after `report`; 0 means that it ended the order.

    Raises InvariantBroken when the report's own lots do not fit `open_lots`: a fill of more than is open, an
    ending that names another rest.
    """
    left_lots = 0
    match report:
        case OrderAcknowledged():
            return open_lots
        case TradeExecuted(quantity_lots=ended_lots, leaves_lots=left_lots):
            if ended_lots <= 0 or left_lots < 0:
                raise _contradiction(report, open_lots)
        case OrderCancelled(cancelled_lots=ended_lots):
            pass
        case OrderExpired(expired_lots=ended_lots):
            pass
        case VenueRejected(rejected_lots=ended_lots):
            pass
        case OrderWithheld(withheld_lots=ended_lots):
            pass
        case _:
            assert_never(report)
    if ended_lots + left_lots != open_lots:
        raise _contradiction(report, open_lots)
    return left_lots


def number_of(account_id: str, order_id: str) -> int | None:
    """The number that an order's id ends with; None for an id that is not `<account_id>-<sequence>`."""
    account, _, number = order_id.rpartition("-")
    is_number = number.isascii() and number.isdigit() and len(number) < DIGITS_MAX
    if account != account_id or not is_number or str(int(number)) != number:
        return None
    return int(number)


def sequence_of(event: OrderWithheld | ReplaceWithheld) -> int:
    """The sequence of the order, which its id ends with.

    Raises InvariantBroken for an id that is not `<account_id>-<sequence>`.
    """
    number = number_of(event.account_id, event.order_id)
    if number is None:
        raise InvariantBroken(
            f"{type(event).__name__} of {event.order_id[:64]!r}, no order id of account "
            f"{event.account_id[:64]!r}"
        )
    return number


def _contradiction(report: OrderReport | OrderWithheld, open_lots: int) -> InvariantBroken:
    number = f" {report.venue_sequence}" if isinstance(report, VenueReport) else ""
    return InvariantBroken(
        f"{type(report).__name__}{number} of order {report.order_id} "
        f"does not fit its {open_lots} open lots: {report!r}"
    )
