"""What a check has come to: counts, latency, violations; for people and as JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from checker.findings import Violation
from checker.history import Slice, Trace, Traces
from checker.invariants.intake import Intake
from checker.records import (
    CancelRefused,
    CancelRejected,
    OrderCancelled,
    OrderComplianceRejected,
    OrderReplaced,
    OrderRiskRejected,
    OrderWithheld,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskRejected,
    ReplaceWithheld,
    TradeExecuted,
    VenueRejected,
)

IDS_SHOWN_MAX = 20
IDS_JSON_MAX = 1_000


@dataclass
class Counts:
    """Counts over all partitions. `orders` are the records of `orders`: each is one of `terminal`,
    `dead_letters`, `held` and `in_flight`. `cancels` and `replaces` are those that ask for such a thing, and
    `cancelled` and `replaced` those that the venue has done. `dead_letters_elsewhere` are those of other
    topics; `live_tables` were compared; `repeats` are records that somebody else has written a second
    time."""

    orders: int = 0
    approved: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    executed: int = 0
    fills: int = 0
    dead_letters: int = 0
    dead_letters_elsewhere: int = 0
    held: int = 0
    terminal: int = 0
    in_flight: int = 0
    live_tables: int = 0
    repeats: int = 0
    cancels: int = 0
    replaces: int = 0
    cancelled: int = 0
    replaced: int = 0

    def add(self, history: Slice, traces: Traces, intake: Intake) -> None:
        self.orders += len(history.orders) + len(history.asked)
        self._add_requests(history, traces)
        self.repeats += history.repeats
        self.dead_letters += len(intake.dead)
        self.held += len(intake.held)
        self.terminal += len(intake.terminal)
        self.in_flight += len(intake.in_flight)
        for trace in traces:
            fills = sum(isinstance(each.event, TradeExecuted) for each in trace.reports)
            self.approved += bool(trace.approvals)
            self.executed += bool(fills)
            self.fills += fills
            self.rejected.update(_reasons(trace))

    def _add_requests(self, history: Slice, traces: Traces) -> None:
        replaces = sum(isinstance(each.event, ReplaceRequested) for each in history.asked)
        self.cancels += len(history.asked) - replaces
        self.replaces += replaces
        for asking in traces.requests:
            for answer in asking.answers:
                self.cancelled += isinstance(answer.event, OrderCancelled)
                self.replaced += isinstance(answer.event, OrderReplaced)
        for record in (*history.asked_risk, *history.asked_compliance, *history.executions):
            match record.event:
                case CancelRefused(reason=reason) | ReplaceRiskRejected(reason=reason):
                    self.rejected[reason] += 1
                case ReplaceComplianceRejected(reason=reason) | CancelRejected(reason=reason):
                    self.rejected[reason] += 1
                case ReplaceRejected(reason=reason) | ReplaceWithheld(reason=reason):
                    self.rejected[reason] += 1


def _reasons(trace: Trace) -> Iterator[str]:
    for record in (*trace.refusals, *trace.repeat_refusals, *trace.compliance, *trace.executions):
        match record.event:
            case (
                OrderRiskRejected(reason=reason)
                | OrderComplianceRejected(reason=reason)
                | VenueRejected(reason=reason)
                | OrderWithheld(reason=reason)
            ):
                yield reason


def latencies_ms(traces: Traces) -> Iterator[int]:
    """From an order's place in the log to its first execution or rejection, by the broker's clock."""
    for trace in traces:
        outcomes = [each.timestamp_ms for each in trace.refusals]
        if trace.compliance_rejected:
            outcomes += [each.timestamp_ms for each in trace.compliance]
        outcomes += [each.timestamp_ms for each in trace.executions[:1]]
        if trace.received is not None and outcomes:
            yield min(outcomes) - trace.received.timestamp_ms


@dataclass
class CheckResult:
    """`latency_ms` holds p50 and p99, None without any order that has come so far."""

    counts: Counts
    violations: list[Violation]
    unverifiable: list[Violation]
    latency_ms: dict[str, int | None]
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        return 1 if self.violations else 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object; of each violation at most IDS_JSON_MAX ids, and their true `count`."""
        counts = {name: getattr(self.counts, name) for name in Counts.__dataclass_fields__}
        return {
            **counts,
            "rejected": dict(sorted(self.counts.rejected.items())),
            "latency_ms": self.latency_ms,
            "violations": [_json_of(each) for each in self.violations],
            "unverifiable": [_json_of(each) for each in self.unverifiable],
            "seconds": round(self.seconds, 3),
        }

    def to_text(self) -> str:
        """A short table, then what could not be checked, then the violations."""
        return "\n".join([*self._table(), *self._listing()])

    def _table(self) -> Iterator[str]:
        counts = self.counts
        for name in Counts.__dataclass_fields__:
            if name != "rejected":
                yield f"{name.replace('_', ' '):<24}{getattr(counts, name):>12,}"
        for reason, count in sorted(counts.rejected.items()):
            yield f"{'rejected: ' + reason:<36}{count:>12,}"
        shown = ", ".join(f"{name} {value}" for name, value in self.latency_ms.items() if value is not None)
        yield f"{'latency ms':<24}{shown or 'none':>12}"

    def _listing(self) -> Iterator[str]:
        for each in self.unverifiable:
            yield f"not checked {_line(each)}"
        for each in self.violations:
            yield f"VIOLATION {_line(each)}"
        broken = sorted({each.invariant for each in self.violations})
        if broken:
            yield f"broken: {', '.join(broken)}"
        else:
            yield "every invariant holds" + (", as far as it was checked" if self.unverifiable else "")


def _json_of(violation: Violation) -> dict[str, Any]:
    return {
        "invariant": violation.invariant,
        "message": violation.message,
        "count": len(violation.ids),
        "ids": list(violation.ids[:IDS_JSON_MAX]),
    }


def _line(violation: Violation) -> str:
    ids = ", ".join(violation.ids[:IDS_SHOWN_MAX])
    more = len(violation.ids) - IDS_SHOWN_MAX
    return f"{violation.invariant}: {violation.message}: {ids}{f' and {more} more' if more > 0 else ''}"


def percentiles(values: Sequence[int]) -> dict[str, int | None]:
    """p50 and p99 by nearest rank."""
    ranked = sorted(values)

    def rank(part: float) -> int | None:
        return ranked[min(len(ranked) - 1, int(part * len(ranked)))] if ranked else None

    return {"p50": rank(0.50), "p99": rank(0.99)}
