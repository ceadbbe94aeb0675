"""What a storm tells: outages by kind, those on top of others apart, and what is wrong."""

from checker.findings import Violation
from storm.faults import Done
from storm.options import Kind
from storm.plan import Fault
from storm.report import StormResult, summary


def a_done(outage_ms: float | None, *, kind: Kind = Kind.KILL, alone: bool = True) -> Done:
    fault = Fault(1, kind, "risk", 2, pause_s=0.1, alone=alone, length=0.5)
    return Done(fault, at_s=3.2, alone=alone, outage_ms=outage_ms)


def test_percentiles_are_the_values_at_their_rank() -> None:
    assert summary([float(each) for each in range(100, 0, -1)]) == {
        "count": 100,
        "p50": 50.0,
        "p99": 99.0,
        "max": 100.0,
    }
    assert summary([]) == {"count": 0, "p50": None, "p99": None, "max": None}


def test_outages_of_faults_that_were_alone_are_not_mixed_with_the_others() -> None:
    found = StormResult(7, [a_done(100.0), a_done(5_000.0, alone=False), a_done(None)]).to_json()
    assert found["outage_ms"] == {"kill": {"count": 1, "p50": 100.0, "p99": 100.0, "max": 100.0}}
    assert found["outage_on_top_ms"]["kill"]["max"] == 5_000.0
    assert len(found["faults"]) == 3


def test_a_nodes_outage_is_also_told_from_its_start_on() -> None:
    done = a_done(9_000.0, kind=Kind.BROKER)
    done.broker_start_ms = 8_500.0
    found = StormResult(7, [done]).to_json()["outage_ms"]
    assert found["broker"]["max"] == 9_000.0
    assert found["broker, after its start"]["max"] == 500.0


def test_a_violation_is_told_with_its_ids() -> None:
    report = StormResult(7, violations=[Violation("I2", "sent twice", tuple(f"a-{n}" for n in range(30)))])
    assert report.to_json()["violations"][0]["ids"][:2] == ["a-0", "a-1"]
    assert "VIOLATION I2: sent twice: a-0" in report.to_text()
    assert "and 10 more" in report.to_text()
    assert report.to_text().endswith("something is broken")
