"""What a run is told when its workers do not tell their tables."""

from pathlib import Path
from typing import Any

import pytest

from checker import verdict
from checker.errors import CheckerError
from checker.findings import Violation
from checker.report import Counts, Report

WRONG = Violation("I2", "executed twice", ("o-1",))


async def test_tables_that_nobody_tells_are_a_violation_beside_those_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: Any) -> Any:
        raise CheckerError("risk-1 does not answer")

    def check(*_: Any, live_state: list[Any]) -> Report:
        assert live_state == []
        return Report(Counts(), [WRONG], [], {})

    monkeypatch.setattr(verdict, "_fetch_live_tables", silent)
    monkeypatch.setattr(verdict, "SILENT_S_MAX", 0)
    monkeypatch.setattr(verdict, "check", check)

    found = await verdict.judge("127.0.0.1:1", Path(), {"risk": ["http://127.0.0.1:1"]}, 1)

    assert found.violations == [
        WRONG,
        Violation("I6", "live tables can't be compared", ("risk-1 does not answer",)),
    ]
