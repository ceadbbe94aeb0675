"""What a storm has come to: for people and as JSON."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from checker.findings import Violation
from storm.faults import Done
from storm.options import Kind

IDS_SHOWN_MAX: Final = 20
MEASURED: Final = {
    Kind.KILL,
    Kind.KILL_AT,
    Kind.KILL_UNSEEN,
    Kind.FREEZE,
    Kind.FREEZE_AT,
    Kind.DAMAGE,
    Kind.BROKER,
}
"""The kinds after which somebody is without output."""

IDS_JSON_MAX: Final = 1_000
GAPS: Final = {
    "same_service": "gaps elsewhere, same service",
    "other_services": "gaps elsewhere, other services",
    "usual": "gaps everywhere in the 2 s before",
}


@dataclass
class StormResult:
    """Faults, outages, orders, and what was found wrong after each round."""

    seed: int
    done: list[Done] = field(default_factory=list)
    orders: int = 0
    seconds: float = 0.0
    checks: int = 0
    violations: list[Violation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "orders": self.orders,
            "seconds": round(self.seconds, 1),
            "orders_per_second": round(self.orders / max(self.seconds, 0.001), 1),
            "checks": self.checks,
            "faults": [_fault(each) for each in self.done],
            "outage_ms": {kind: summary(values) for kind, values in outages(self.done, alone=True)},
            "outage_on_top_ms": {kind: summary(values) for kind, values in outages(self.done, alone=False)},
            "gaps_elsewhere_ms": {name: summary(values) for name, values in self._elsewhere()},
            "violations": [
                {"invariant": each.invariant, "message": each.message, "ids": list(each.ids[:IDS_JSON_MAX])}
                for each in self.violations
            ],
        }

    def _elsewhere(self) -> Iterable[tuple[str, list[float]]]:
        for name in GAPS:
            yield name, [float(ms) for each in self.done for ms in each.gaps_elsewhere_ms.get(name, ())]

    def _short_of(self) -> Iterable[str]:
        """What the table does not show: steps that were not come to, outages that could not be measured."""
        missed = sum(each.reached is False for each in self.done)
        steps = sum(each.reached is not None for each in self.done)
        unmeasured = sum(each.outage_ms is None and each.fault.kind in MEASURED for each in self.done)
        if missed:
            yield f"{missed} of {steps} steps were not reached in time, and the fault came without"
        if unmeasured:
            yield f"{unmeasured} victims had nothing to do, or did not tell what: no outage is measured"

    def to_text(self) -> str:
        """Outages by kind, then what is wrong."""
        rows = [
            *outages(self.done, alone=True),
            *((f"{kind}, on top of others", values) for kind, values in outages(self.done, alone=False)),
            *((GAPS[name], values) for name, values in self._elsewhere()),
        ]
        return "\n".join(
            [
                f"{len(self.done):,} faults, {self.orders:,} orders in {self.seconds:,.0f} s, "
                f"checked {self.checks} times",
                f"{'outage in ms':<36}{'faults':>8}{'p50':>10}{'p99':>10}{'max':>10}",
                *(_row(name, summary(values)) for name, values in rows if values),
                *self._short_of(),
                *(
                    f"VIOLATION {each.invariant}: {each.message}: {_few(each.ids)}"
                    for each in self.violations
                ),
                "something is broken" if self.violations else "every invariant holds",
            ]
        )


def _fault(done: Done) -> dict[str, Any]:
    fault = done.fault
    return {
        "kind": str(fault.kind),
        "service": fault.service,
        "worker": fault.worker,
        "step": fault.step,
        "reached": done.reached,
        "at_seconds": done.at_s,
        "outage_ms": done.outage_ms,
        "alone": done.alone,
        "broker_start_ms": done.broker_start_ms,
        "gaps_elsewhere_ms": done.gaps_elsewhere_ms,
        "wrong": done.wrong,
    }


def outages(done: Sequence[Done], *, alone: bool) -> Iterable[tuple[str, list[float]]]:
    """The measured outages by kind of fault; of a Kafka node also what came on top of its absence."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in done:
        if each.outage_ms is not None and each.alone is alone:
            found[str(each.fault.kind)].append(each.outage_ms)
            if each.broker_start_ms is not None:
                found[f"{each.fault.kind}, after its start"].append(each.outage_ms - each.broker_start_ms)
    return sorted(found.items())


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """p50, p99 (nearest rank), max and the count of the values."""
    ranked = sorted(values)

    def rank(part: float) -> float | None:
        return ranked[max(0, ceil(part * len(ranked)) - 1)] if ranked else None

    return {"count": len(ranked), "p50": rank(0.5), "p99": rank(0.99), "max": rank(1.0)}


def _few(ids: Sequence[str]) -> str:
    more = len(ids) - IDS_SHOWN_MAX
    return ", ".join(ids[:IDS_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _row(name: str, found: dict[str, float | int | None]) -> str:
    cells = [f"{value:>10,.0f}" if value is not None else f"{'-':>10}" for value in list(found.values())[1:]]
    return f"{name:<36}{found['count']:>8}{''.join(cells)}"
