"""The storm itself, in small: faults of all kinds cost nothing, and planted bugs are seen."""

import json
from pathlib import Path

import pytest

from storm.mutants.registry import MUTANTS
from tests.integration.running import Running, mentioning, result


@pytest.mark.parametrize(
    ("kills", "others", "seed"),
    [
        pytest.param(3, 1, 21, marks=pytest.mark.timeout(300), id="four faults"),
        pytest.param(14, 6, 21, marks=[pytest.mark.storm, pytest.mark.timeout(700)], id="twenty faults"),
    ],
)
def test_faults_of_all_kinds_leave_no_violation(kills: int, others: int, seed: int, tmp_path: Path) -> None:
    data_dir, report = tmp_path / "data", tmp_path / "report.json"
    options = ("--kills", str(kills), "--others", str(others), "--seed", str(seed), "--json", str(report))
    with Running("storm", *options, "--data-dir", str(data_dir)) as run:
        status = run.wait(690)
    assert status == 0, run.said
    found = result(report)
    assert found["violations"] == []
    assert len(found["faults"]) == kills + others
    if others >= 6:
        assert "rolling" in {each["kind"] for each in found["faults"]}
    assert found["orders"] > 1_000
    assert found["checks"] == 1
    assert mentioning(data_dir) == []


@pytest.mark.storm
@pytest.mark.timeout(300)
def test_a_planted_bug_is_caught(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with Running("storm", "--mutant", "reservation_not_released", "--json", str(report)) as run:
        status = run.wait(290)
    assert status == 0, run.said
    (found,) = json.loads(report.read_text())
    assert found["mutant"] == "reservation_not_released"
    assert "I3" in found["caught_by"], run.said


def test_the_planted_bugs_are_named() -> None:
    with Running("storm", "--list-mutants") as run:
        assert run.wait(60) == 0
    assert len(MUTANTS) >= 20
    assert all(name in run.said for name in MUTANTS)
