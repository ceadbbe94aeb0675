"""The venue of another release, or with a fault: `python -m tests.outside.odd_venue`, the venue's arguments.

What it does to the report of a fill depends on the lots that the order was sent with.
"""

import json
import sys
from typing import Any

from venue import exchange, reports
from venue.__main__ import main
from venue.book import Fact
from venue.terms import TradeTerms

TALKATIVE_LOTS, STRANGER_LOTS, UNKNOWN_TYPE_LOTS, GARBLED_LOTS, TOO_MUCH_LOTS = 101, 102, 103, 104, 105

_SPOILT: dict[int, dict[str, Any]] = {
    STRANGER_LOTS: {"order_id": "nobody-1"},
    UNKNOWN_TYPE_LOTS: {"type": "TradeNovated"},
    GARBLED_LOTS: {"price_ticks": "a lot"},
    TOO_MUCH_LOTS: {"quantity_lots": TOO_MUCH_LOTS + 1},
}

_report_of = reports.report_of


def _odd(fact: Fact, venue_sequence: int, terms: TradeTerms | None = None) -> reports.NumberedReport:
    report = _report_of(fact, venue_sequence, terms)
    fields: dict[str, Any] = json.loads(report.body)
    fields["venue_mood"] = "good"  # a field that this release does not know, on every report
    if report.type == "TradeExecuted":
        fields |= _SPOILT.get(fact.order.quantity_lots, {})
    return report._replace(body=json.dumps(fields))


if __name__ == "__main__":
    exchange.report_of = _odd  # type: ignore[attr-defined]
    sys.exit(main())
