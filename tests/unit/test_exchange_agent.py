"""The exchange's agent on what it cannot read, and on when it tells the session of intents."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agents.exchange
from agents.exchange import around
from app.domain import limits as risk_limits
from app.domain.exchange import Controls, Intent, Request, Sent, apply_limits
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
from app.venue_session.status import Tally
from models.commands import SetRiskLimits
from models.events import (
    CancelAccepted,
    CancelRequested,
    OrderComplianceApproved,
    OrderComplianceRejected,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRequested,
)
from models.values import Side
from tables.controls import CONTROLS
from tables.intents import INTENTS
from tables.requests import REQUESTS
from tables.sent import SENT
from tests.builders import NOW_MS, limits
from tests.venue_world import generous, order_of, replace_of

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


# What is taken on


class Taken(dict[Any, dict[str, Any]]):
    """A unit of work that has all tables of the exchange, empty, and commits when it ends."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__({table: {} for table in (INTENTS, REQUESTS, SENT, CONTROLS)})
        self._values = values
        self._callbacks: list[Callable[[], None]] = []

    def records(self) -> list[Record[Any]]:
        return [
            Record(COMPLIANCE_DECISIONS.name, 0, offset, 1_000, b"acc-1", value, {})
            for offset, value in enumerate(self._values)
        ]

    def after_commit(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def commit(self) -> None:
        for callback in self._callbacks:
            callback()


class Told:
    """A session that remembers of what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []

    def submit(self, intents: list[Intent], requests: list[Request]) -> None:
        self.calls.append(([each.order.order_id for each in intents], [each.request_id for each in requests]))


async def taken(patch: pytest.MonkeyPatch, *values: Any) -> tuple[Taken, Told]:
    """What the agent makes of records of acc-1, in one batch."""
    work, told = Taken(list(values)), Told()

    @asynccontextmanager
    async def opened(batch: Any) -> AsyncIterator[Any]:
        yield work
        assert told.calls == [], "nobody hears of what is not committed"
        work.commit()

    async def batches() -> AsyncIterator[Any]:
        yield SimpleNamespace(task=SimpleNamespace(partition=3))

    patch.setattr(agents.exchange, "unit_of_work", opened)
    patch.setattr(agents.exchange, "sessions", {3: told})
    patch.setattr(agents.exchange, "tally", Tally())
    agent: Any = agents.exchange.intend
    await agent.fun(batches())
    return work, told


def approved(sequence: int) -> OrderComplianceApproved:
    return OrderComplianceApproved(order=order_of(sequence=sequence))


def a_cancel(number: int, order_sequence: int = 1) -> CancelAccepted:
    asked = CancelRequested(
        request_id="mine", account_id="acc-1", order_id=f"acc-1-{order_sequence}", submitted_at_ms=NOW_MS
    )
    return CancelAccepted(request=asked, number=number, symbol="BTC-USD", side=Side.BUY, source="orders/0/7")


def a_replace(sequence: int) -> ReplaceRequested:
    return ReplaceRequested(
        request_id=f"acc-1-{sequence}",
        account_id="acc-1",
        sequence=sequence,
        order_id="acc-1-1",
        quantity_lots=20,
        price_ticks=1,
        submitted_at_ms=NOW_MS,
    )


async def test_requests_are_committed_and_handed_over_behind_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced = ReplaceComplianceApproved(request=a_replace(2), symbol="BTC-USD", side=Side.BUY)
    work, told = await taken(monkeypatch, approved(1), replaced, a_cancel(1))

    assert list(work[INTENTS]) == ["acc-1/acc-1-1"]
    assert list(work[REQUESTS]) == ["acc-1/acc-1-2", "acc-1/acc-1-c1"]
    assert work[REQUESTS]["acc-1/acc-1-2"] == replace_of(order_of(), 2, price_ticks=1)
    assert work[SENT] == {"acc-1": Sent(order_sequence_last=2, cancel_number_last=1)}
    assert told.calls == [(["acc-1-1"], ["acc-1-2", "acc-1-c1"])]


async def test_what_was_taken_on_before_is_not_taken_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = ReplaceComplianceApproved(request=a_replace(2), symbol="BTC-USD", side=Side.BUY)
    once = [approved(1), replaced, a_cancel(1)]
    work, told = await taken(monkeypatch, *once, *once)

    assert len(work[REQUESTS]) == 2
    assert told.calls == [(["acc-1-1"], ["acc-1-2", "acc-1-c1"])]
    assert agents.exchange.tally.orders == {"repeated": 1}
    assert agents.exchange.tally.requests == {"replace repeated": 1, "cancel repeated": 1}


async def test_a_cancel_that_has_passed_a_quarantine_changes_nothing_for_the_orders_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, _ = await taken(monkeypatch, a_cancel(1), a_cancel(2, 2), approved(1), approved(2))

    assert len(work[INTENTS]) == 2
    assert work[SENT] == {"acc-1": Sent(order_sequence_last=2, cancel_number_last=2)}


async def test_the_session_hears_of_orders_that_compliance_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cancels may wait for them."""
    refused_order = OrderComplianceRejected(order=order_of(sequence=2), reason="self_match")
    refused_replace = ReplaceComplianceRejected(request=a_replace(3), reason="self_match")
    work, told = await taken(monkeypatch, refused_order, refused_replace)

    assert work[SENT] == {"acc-1": Sent(order_sequence_last=0, refused_sequence_last=2)}
    assert told.calls == [([], [])]
    assert not work[INTENTS]
    assert not work[REQUESTS]


def test_what_waits_and_what_became_of_it_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(waiting=3, requests_waiting=2, disputed={"acc-1/acc-1-1"})
    tally = Tally()
    tally.requests["replace withheld order_ended"] += 4
    monkeypatch.setattr(agents.exchange, "sessions", {0: session, 8: session})
    monkeypatch.setattr(agents.exchange, "tally", tally)
    measured = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in agents.exchange.counts()
        for sample in metric.samples
    }

    assert measured["exchange_orders_waiting",] == 6
    assert measured["exchange_requests_waiting",] == 4
    assert measured["exchange_orders_disputed",] == 2
    assert measured["exchange_requests_total", "replace", "withheld order_ended"] == 4


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
