"""The exchange's agent on what it cannot read, and on when it tells the session of intents."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agents.exchange
from agents.exchange import around
from app.domain import limits as risk_limits
from app.domain.exchange import Controls, apply_limits
from app.domain.reference import Known
from app.engine import Record, TopicSpec, WrongPartition
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
from models.commands import SetRiskLimits
from tables.controls import CONTROLS
from tests.builders import limits
from tests.venue_world import generous

KILLS = b'{"kill_switch": true, "stop": 1}'


def test_the_last_look_goes_by_global_tables_which_tasks_wait_for() -> None:
    followed = {table.topic: table for table in app.global_tables}
    topics: tuple[TopicSpec, ...] = (ACCOUNTS, INSTRUMENTS, RESTRICTED_LIST, HALTS, PRICES)
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


async def test_a_removal_under_a_key_that_is_no_text_removes_nothing_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work: Any = Work(acc_1=generous())
    work.records = lambda: [Record(RISK_LIMITS.name, 0, 7, 1_000, b"\xff", None, {})]

    @asynccontextmanager
    async def opened(batch: Any) -> AsyncIterator[Any]:
        yield work

    async def batches() -> AsyncIterator[Any]:
        yield SimpleNamespace(task=SimpleNamespace(partition=0))

    monkeypatch.setattr(agents.exchange, "unit_of_work", opened)
    agent: Any = agents.exchange.intend
    await agent.fun(batches())
    assert work[CONTROLS] == {"acc-1": generous()}


COMMANDS = st.one_of(
    st.builds(
        lambda version, bps, kills: limits(version=version, price_collar_bps=bps, kill_switch=kills),
        st.integers(1, 4),
        st.integers(1, 3),
        st.booleans(),
    ),
    st.none(),
    st.sampled_from([KILLS, b'{"version": 9, "stop": 1}', b"garbage"]),
)
"""Limits, their removal, and records that cannot be read."""


def in_force_after(command: Any, in_force: SetRiskLimits | None) -> SetRiskLimits | None:
    """What risk makes of a command."""
    if isinstance(command, bytes):
        return risk_limits.decide_unread("SetRiskLimits", "acc-1", command, "stop", in_force).limits
    if command is None:
        return None if risk_limits.decide_removal("acc-1", in_force).accepted else in_force
    if risk_limits.decide_limits(command, in_force).accepted:
        return risk_limits.apply_limits(command, in_force)
    return in_force


@given(st.lists(COMMANDS, max_size=8))
def test_the_controls_are_always_those_of_the_limits_that_risk_has_in_force(commands: list[Any]) -> None:
    """So nothing of a command takes that risk refuses."""
    in_force: SetRiskLimits | None = None
    work: Any = Work()
    for command in commands:
        in_force = in_force_after(command, in_force)
        if isinstance(command, bytes):
            refused(work, b"acc-1", command)
        else:
            agents.exchange.control(work, "acc-1", command)
        assert work[CONTROLS].get("acc-1") == apply_limits(None, in_force)
