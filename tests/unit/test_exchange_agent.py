"""The exchange's agent on what it cannot read, and on when it tells the session of intents."""

from types import SimpleNamespace
from typing import Any

import pytest

import agents.exchange
from agents.exchange import around
from app.domain.exchange import Controls
from app.domain.reference import Known
from app.engine import WrongPartition
from app.exchange import app
from app.topics import (
    ACCOUNTS,
    COMPLIANCE_DECISIONS,
    HALTS,
    INSTRUMENTS,
    PRICES,
    RESTRICTED_LIST,
    RISK_LIMITS,
)
from tables.controls import CONTROLS
from tests.venue_world import generous

KILLS = b'{"kill_switch": true, "stop": 1}'


def test_the_last_look_goes_by_global_tables_which_tasks_wait_for() -> None:
    followed = {table.topic: table for table in app.global_tables}
    topics = (ACCOUNTS, INSTRUMENTS, RESTRICTED_LIST, HALTS, PRICES)
    tables: tuple[Known[Any], ...] = around
    for topic, known in zip(topics, tables, strict=True):
        assert known.values is followed[topic].values()
        assert known.unreadable is followed[topic].unreadable


class Work(dict[Any, dict[str, Controls]]):
    """A unit of work that has this one table."""

    def __init__(self, **controls: Controls) -> None:
        super().__init__({CONTROLS: {name.replace("_", "-"): each for name, each in controls.items()}})


def refused(work: Any, key: bytes | None, value: bytes | None, **changed: Any) -> None:
    spec, error = changed.get("spec", RISK_LIMITS), changed.get("error", ValueError("stop"))
    agents.exchange.refuse(work, spec, SimpleNamespace(key=key, value=value), error)


def test_a_kill_switch_takes_here_too_in_limits_that_cannot_be_read() -> None:
    work = Work(acc_1=generous(version=7))
    refused(work, b"acc-1", KILLS)
    assert work[CONTROLS] == {"acc-1": generous(version=7, kill_switch=True)}


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        (b"acc-1", b'{"stop": 1}', {}),
        (b"acc-1", None, {}),
        (b"acc-2", KILLS, {}),
        (b"\xff", KILLS, {}),
        (None, KILLS, {}),
        (b"acc-1", KILLS, {"spec": COMPLIANCE_DECISIONS}),
        (b"acc-1", KILLS, {"error": WrongPartition("risk-limits", b"acc-1", 1, 0)}),
    ],
)
def test_anything_else_that_cannot_be_read_changes_no_controls(key: Any, value: Any, changed: Any) -> None:
    work = Work(acc_1=generous())
    refused(work, key, value, **changed)
    assert work[CONTROLS] == {"acc-1": generous()}
