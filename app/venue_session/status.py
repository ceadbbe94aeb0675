"""What a worker of the exchange tells about its talk with the venue: counts, troubles, orders in dispute."""

import logging
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import Metric

from app.engine.web.metrics import Samples, counter, gauge

log = logging.getLogger(__name__)

AWAY_S_MAX: Final = 10.0
"""How long the venue may give no answer before the worker is not ready: it may be being restarted."""

FIELD_NAMES_MAX: Final = 100
SHOWN_MAX: Final = 5


@dataclass
class Tally:
    """Counts since the worker's start."""

    calls: Counter[str] = field(default_factory=Counter)
    """By path and what came of it."""
    orders: Counter[str] = field(default_factory=Counter)
    """What became of approvals: sent, repeated, or withheld by reason."""
    requests: Counter[str] = field(default_factory=Counter)
    """What became of cancels and replaces: sent, repeated, withheld by reason, or done with the order."""
    reports: Counter[str] = field(default_factory=Counter)
    """Booked, repeated, buried, or of a session that is not ours."""
    unknown: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Fields of the venue's that this build does not know, by where they were."""

    def note_unknown(self, where: str, names: Iterable[str]) -> None:
        for name in names:
            key = (where, name[:64])
            if key not in self.unknown and len(self.unknown) >= FIELD_NAMES_MAX:
                key = (where, "(others)")
            if key not in self.unknown:
                log.info("the venue has a new field in %s, which is ignored: %r", *key)
            self.unknown[key] += 1


class _Trouble(NamedTuple):
    kind: str
    text: str
    since_s: float
    patience_s: float


class Troubles:
    """Why this worker's tasks can't talk with the venue. One kind is logged once, however many have it."""

    def __init__(self) -> None:
        self._now: dict[Hashable, _Trouble] = {}

    def note(self, whose: Hashable, kind: str, text: str, *, patience_s: float = 0.0) -> None:
        """It is a reason not to be ready once it has lasted for `patience_s`."""
        known = self._now.get(whose)
        if all(each.kind != kind for each in self._now.values()):
            log.warning("%s", text)
        since_s = known.since_s if known is not None and known.kind == kind else time.monotonic()
        self._now[whose] = _Trouble(kind, text, since_s, patience_s)

    def clear(self, whose: Hashable) -> None:
        gone = self._now.pop(whose, None)
        if gone is not None and all(each.kind != gone.kind for each in self._now.values()):
            log.info("over: %s", gone.text)

    def reasons(self) -> list[str]:
        now_s = time.monotonic()
        lasting = (each.text for each in self._now.values() if now_s - each.since_s >= each.patience_s)
        return list(dict.fromkeys(lasting))


def notices(disputed: Iterable[str]) -> list[str]:
    """What a person has to look at: orders in dispute, by account/order."""
    found = sorted(disputed)
    if not found:
        return []
    more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    return [
        f"orders in dispute with the venue: {', '.join(found[:SHOWN_MAX])}{more}; their reports are dead "
        "letters, and nothing is booked for them: compare with the venue"
    ]


def measures(tally: Tally, waiting: int, requests_waiting: int, disputed: int) -> list[Metric]:
    return [
        counter(
            "exchange_venue_calls_total",
            "Calls to the venue, by outcome.",
            ("path", "outcome"),
            [(name.split(" ", 1), count) for name, count in tally.calls.items()],
        ),
        counter(
            "exchange_orders_total", "What became of approvals.", ("outcome",), _by_outcome(tally.orders)
        ),
        counter(
            "exchange_requests_total",
            "What became of cancels and replaces.",
            ("kind", "outcome"),
            [(name.split(" ", 1), count) for name, count in tally.requests.items()],
        ),
        counter(
            "exchange_reports_total",
            "What became of the venue's reports.",
            ("outcome",),
            _by_outcome(tally.reports),
        ),
        counter(
            "exchange_unknown_fields_total",
            "Fields of the venue's that this build does not know.",
            ("where", "field"),
            tally.unknown.items(),
        ),
        gauge(
            "exchange_orders_waiting",
            "Intended orders that are not known to be at the venue.",
            (),
            [((), waiting)],
        ),
        gauge(
            "exchange_requests_waiting",
            "Cancels and replaces that are not known to be at the venue.",
            (),
            [((), requests_waiting)],
        ),
        gauge(
            "exchange_orders_disputed", "Orders that a report of the venue did not fit.", (), [((), disputed)]
        ),
    ]


def _by_outcome(counts: Mapping[str, int]) -> Samples:
    return [((outcome,), count) for outcome, count in counts.items()]
