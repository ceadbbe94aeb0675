"""Compliance by rows decides as it did by one value an account, whatever is aborted, moved or taken over."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agents.compliance as agent
from app import account_rows
from app.account_rows import AccountRows, Memory
from app.domain import recent
from app.domain.compliance import ComplianceAccount
from app.domain.errors import InvariantBroken
from app.domain.lifecycle import ends
from app.engine import TaskTable
from app.engine.core.effects import TableView
from app.engine.state.store import TaskStore
from models.contract import Contract, NewerVersion, ValueCodec
from models.events import (
    Execution,
    OrderComplianceRejected,
    OrderReceived,
    OrderRiskApproved,
    OrderWithheld,
    ReplaceWithheld,
)
from models.values import Side, TimeInForce
from tests.builders import NOW_MS, a_fill, acknowledged, an_approval, an_order, cancelled, withheld

KINDS_MAX = 3
"""In the place of 64, so that there are too many of them now and then."""

DECLARED = agent.TABLES
RESTRICTED = "XRP-USD"


# -- one task's tables, without Kafka


class Work:
    """A unit of work on real tables; `commit` does what the engine's does, but for Kafka."""

    def __init__(self, task: "Tables") -> None:
        self.task: Any = task
        self.views: dict[str, TableView] = {}
        self.callbacks: list[Callable[[], None]] = []
        self.emitted: list[Any] = []
        self.repeats = 0

    def __getitem__(self, table: Any) -> TableView:
        return self.views.setdefault(table.name, TableView(self.task.table(table)))

    def emit(self, _: Any, value: Any) -> None:
        self.emitted.append(value)

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def commit(self) -> None:
        self.task.apply(self.views)
        for callback in self.callbacks:
            callback()


class Tables:
    """The committed tables of a task, in RocksDB."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._tables = {each.name: TaskTable(each, store, 0) for each in DECLARED}

    def table(self, table: Any) -> TaskTable:
        return self._tables[table.name]

    def apply(self, views: dict[str, TableView]) -> None:
        for name, view in views.items():
            table = self._tables[name]
            changes = {
                key.encode(): None if value is None else table.table.encode(value)
                for key, value in view.changes.items()
                if not table.has(key, value)
            }
            self._store.apply({name: changes}, {name: 1})
            table.committed(view.changes)

    def write(self, table: Any, key: str, value: bytes) -> None:
        """As another worker has left it."""
        self._store.apply({table.name: {key.encode(): value}}, {table.name: 1})

    def of(self, table: Any, account_id: str) -> dict[str, Any]:
        """The rows of an account, and of those whose names go on behind a slash."""
        rows = self.table(table).items()
        return {key: value for key, value in rows if key.startswith(f"{account_id}/")}


class Repeats:
    """Counts them in their unit of work."""

    def add(self, work: Work, **_: str) -> None:
        work.repeats += 1


class Restrictions:
    """The restricted list."""

    def get(self, symbol: str) -> Any:
        return None

    def is_unreadable(self, symbol: str) -> bool:
        return symbol == RESTRICTED


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskStore]:
    opened = TaskStore(tmp_path_factory.mktemp("tables") / "0")
    yield opened
    opened.close()


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "restrictions", Restrictions())
        patch.setattr(agent, "REPEATS", Repeats())
        patch.setattr(recent, "RECENT_ORDERS_MAX", KINDS_MAX)
        yield


# -- how it was with one value an account


class Before:
    """The account as the release before had it: everything in one value, walked through at each decision."""

    def __init__(self) -> None:
        self.recent: dict[str, tuple[str, int]] = {}
        self.open_orders: dict[str, OrderReceived] = {}
        self.last_sequence = 0
        self.last_venue_sequence = 0

    def judge(self, approval: OrderRiskApproved) -> str:
        order = approval.order
        if order.sequence <= self.last_sequence:
            return "repeat"
        self.last_sequence = order.sequence
        kind = f"{order.symbol}/{order.side}/{order.quantity_lots}@{order.price_ticks}"
        at_ms = approval.received_at_ms or order.submitted_at_ms
        if order.symbol == RESTRICTED:
            return "restricted_instrument"
        same = self.recent.get(kind)
        if same is not None and same[0] != order.order_id and abs(at_ms - same[1]) <= 1_000:
            return "duplicate_order"
        if any(self._meets(order, other) for other in self.open_orders.values()):
            return "self_match"
        kept = {k: each for k, each in self.recent.items() if each[1] >= at_ms - 1_000 and k != kind}
        if len(kept) == KINDS_MAX:
            del kept[next(iter(kept))]
        self.recent = kept | {kind: (order.order_id, at_ms)}
        self.open_orders[order.order_id] = order
        return "approved"

    def book(self, report: Execution) -> str:
        if report.order_id not in self.open_orders:
            if isinstance(report, OrderWithheld | ReplaceWithheld):
                is_repeat = int(report.order_id.rpartition("-")[2]) <= self.last_sequence
            else:
                is_repeat = report.venue_sequence <= self.last_venue_sequence
            return "repeat" if is_repeat else "broken"
        if ends(report):
            del self.open_orders[report.order_id]
            self.last_venue_sequence = getattr(report, "venue_sequence", self.last_venue_sequence)
        return "booked"

    def value(self) -> bytes:
        """As it stands in the table, where the broker's time was told for every second order."""
        recent = {
            kind: {"order_id": order_id, "submitted_at_ms": at_ms}
            if number % 2
            else {"order_id": order_id, "submitted_at_ms": 1, "received_at_ms": at_ms}
            for number, (kind, (order_id, at_ms)) in enumerate(self.recent.items())
        }
        open_orders = {
            order_id: {
                "symbol": order.symbol,
                "side": order.side,
                "price_ticks": order.price_ticks,
                "rests": order.time_in_force is not TimeInForce.IOC,
            }
            for order_id, order in self.open_orders.items()
        }
        value = {
            "recent": recent,
            "open_orders": open_orders,
            "last_sequence": self.last_sequence,
            "last_venue_sequence": self.last_venue_sequence,
        }
        return msgspec.json.encode(value)

    @staticmethod
    def _meets(order: OrderReceived, other: OrderReceived) -> bool:
        if other.time_in_force is TimeInForce.IOC or other.symbol != order.symbol or other.side is order.side:
            return False
        buy, sell = (order, other) if order.side is Side.BUY else (other, order)
        return buy.price_ticks >= sell.price_ticks


# -- both of them


class Sent(NamedTuple):
    """An order that risk approved; `step` is how far its sequence is above the last one."""

    step: int
    side: Side
    price_ticks: int
    quantity_lots: int
    symbol: str
    time_in_force: TimeInForce
    at_ms: int
    is_told: bool


class Reported(NamedTuple):
    """What becomes of one of the orders so far; `step` is that of the venue's numbers."""

    which: int
    what: str
    step: int


class Over(NamedTuple):
    """The unit of work ends, and maybe the task."""

    how: str


sent = st.builds(
    Sent,
    step=st.sampled_from([1, 1, 1, 1, 2, 0]),
    side=st.sampled_from(Side),
    price_ticks=st.sampled_from([98, 99, 100, 101, 102]),
    quantity_lots=st.sampled_from([1, 2]),
    symbol=st.sampled_from(["BTC-USD", "BTC-USD", "BTC-USD", "ETH-USD", RESTRICTED]),
    time_in_force=st.sampled_from([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC]),
    at_ms=st.sampled_from([0, 0, 1, 400, 600, 1_000, 1_001, -300, -1_500]),
    is_told=st.sampled_from([True, True, False]),
)
reported = st.builds(
    Reported,
    which=st.integers(0, 7),
    what=st.sampled_from(["ack", "part", "fill", "cancel", "withheld"]),
    step=st.sampled_from([1, 1, 1, 0]),
)
over = st.builds(Over, how=st.sampled_from(["commit", "commit", "abort", "commit, another task"]))
acts = st.lists(st.one_of(sent, sent, sent, reported, reported, over), max_size=60)
numbers = count()


class Both:
    """One account in the release before and in this one, given the same."""

    def __init__(self, store: TaskStore, account_id: str) -> None:
        self.account_id = account_id
        self.before, self._committed = Before(), Before()
        self._store = store
        self._tables, self._memory = Tables(store), Memory()
        self._at_ms, self._venue_sequence = NOW_MS, 0
        self._orders: list[str] = []
        self._begin()

    def take_over_from_before(self) -> None:
        """The release before has committed so far; this one begins."""
        self._tables.write(DECLARED.accounts, self.account_id, self.before.value())
        self._committed = deepcopy(self.before)
        self._take_over()

    def act(self, act: Sent | Reported | Over, *, only_before: bool = False) -> None:
        match act:
            case Over(how=how):
                if not only_before:
                    self._end(how)
            case Sent():
                approval = self._approval(act)
                expected = self.before.judge(approval)
                if not only_before:
                    assert self._judged(approval) == expected
            case Reported():
                report = self._report(act)
                if report is not None:
                    expected = self.before.book(report)
                    if not only_before:
                        assert self._booked(report) == expected
                    if expected == "broken":
                        self._end("abort")

    def require_the_same(self) -> None:
        """What is committed is the same."""
        self._end("commit")
        self._take_over()
        account = self._rows.account(self.account_id)
        known = self._rows.remembered(self.account_id).recent.rows()
        before = self.before
        assert account == ComplianceAccount(
            last_sequence=before.last_sequence, last_venue_sequence=before.last_venue_sequence
        )
        assert [(row.kind, (row.order_id, row.at_ms)) for row in known] == list(before.recent.items())
        self._end("commit")
        open_orders = self._tables.of(DECLARED.open_orders, self.account_id)
        assert {key.removeprefix(f"{self.account_id}/") for key in open_orders} == before.open_orders.keys()
        assert len(self._tables.of(DECLARED.recent, self.account_id)) <= KINDS_MAX

    def _begin(self) -> None:
        work: Any = Work(self._tables)
        self._work, self._rows = work, AccountRows(work, DECLARED, self._memory)

    def _take_over(self) -> None:
        self._tables, self._memory = Tables(self._store), Memory()
        self._begin()

    def _end(self, how: str) -> None:
        if how == "abort":
            self.before = deepcopy(self._committed)
        else:
            self._work.commit()
            self._committed = deepcopy(self.before)
        if how == "commit, another task":
            self._tables, self._memory = Tables(self._store), Memory()
        self._begin()

    def _approval(self, act: Sent) -> OrderRiskApproved:
        self._at_ms += act.at_ms
        sequence = max(1, self.before.last_sequence + act.step)
        order = an_order(
            order_id=f"{self.account_id}-{sequence}",
            account_id=self.account_id,
            sequence=sequence,
            submitted_at_ms=self._at_ms,
            **{name: getattr(act, name) for name in ("side", "price_ticks", "quantity_lots", "symbol")},
            time_in_force=act.time_in_force,
        )
        self._orders.append(order.order_id)
        return an_approval(order, received_at_ms=self._at_ms if act.is_told else 0)

    def _report(self, act: Reported) -> Any:
        if not self._orders:
            return None
        order_id = self._orders[-1 - act.which % len(self._orders)]
        self._venue_sequence += act.step
        told: dict[str, Any] = {"order_id": order_id, "account_id": self.account_id}
        numbered = told | {"venue_sequence": self._venue_sequence}
        match act.what:
            case "ack":
                return acknowledged(**numbered)
            case "part":
                return a_fill(1, leaves_lots=1, **numbered)
            case "fill":
                return a_fill(1, leaves_lots=0, **numbered)
            case "cancel":
                return cancelled(1, **numbered)
        return withheld(1, **told)

    def _judged(self, approval: OrderRiskApproved) -> str:
        decided = len(self._work.emitted)
        agent.judge(self._work, self._rows, approval)
        for outcome in self._work.emitted[decided:]:
            assert outcome.order is approval.order
            return outcome.reason if isinstance(outcome, OrderComplianceRejected) else "approved"
        return "repeat"

    def _booked(self, report: Execution) -> str:
        repeats = self._work.repeats
        try:
            agent.forget(self._work, self._rows, report)
        except InvariantBroken:
            return "broken"
        return "repeat" if self._work.repeats > repeats else "booked"


@settings(max_examples=400, deadline=None)
@given(acts=acts)
def test_it_decides_as_one_value_an_account_did(store: TaskStore, acts: list[Any]) -> None:
    both = Both(store, f"{next(numbers)}.")
    for act in acts:
        both.act(act)
    both.require_the_same()


@settings(max_examples=200, deadline=None)
@given(first=acts, then=acts)
def test_it_goes_on_where_the_release_before_was_stopped(
    store: TaskStore, first: list[Any], then: list[Any]
) -> None:
    both = Both(store, f"{next(numbers)}.")
    for act in first:
        both.act(act, only_before=True)
    both.take_over_from_before()
    for act in then:
        both.act(act)
    both.require_the_same()


# -- one by one


def approve(rows: AccountRows, *orders: OrderReceived) -> None:
    for order in orders:
        rows.approve(rows.account(order.account_id), an_approval(order))


def order_of(account_id: str, sequence: int = 1, **changed: Any) -> OrderReceived:
    order_id = f"{account_id}-{sequence}"
    return an_order(order_id=order_id, account_id=account_id, sequence=sequence, **changed)


def test_an_account_whose_name_goes_on_behind_a_slash_is_another_one(store: TaskStore) -> None:
    name = f"{next(numbers)}."
    tables, memory = Tables(store), Memory()
    work: Any = Work(tables)
    approve(
        AccountRows(work, DECLARED, memory),
        order_of(name, price_ticks=100),
        order_of(f"{name}/{name}-x", price_ticks=101),
        order_of(f"{name}/0", price_ticks=102),
    )
    work.commit()
    rows = AccountRows(work, DECLARED, Memory())

    for account_id, best_ticks in ((name, 100), (f"{name}/{name}-x", 101), (f"{name}/0", 102)):
        remembered = rows.remembered(account_id)
        assert remembered.resting.best_buy("BTC-USD") == best_ticks
        assert [row.order_id for row in remembered.recent.rows()] == [f"{account_id}-1"]


def test_what_was_not_committed_is_forgotten_and_what_was_is_not_read_again(store: TaskStore) -> None:
    kept, lost = (f"{next(numbers)}." for _ in range(2))
    memory = Memory()
    work: Any = Work(Tables(store))
    approve(AccountRows(work, DECLARED, memory), order_of(kept))
    work.commit()
    known = memory.known[kept]
    failed: Any = Work(work.task)
    approve(AccountRows(failed, DECLARED, memory), order_of(lost))
    rows = AccountRows(Work(work.task), DECLARED, memory)  # type: ignore[arg-type]

    assert rows.remembered(kept) is known
    assert rows.remembered(lost).resting.best_buy("BTC-USD") is None
    assert rows.account(lost) == ComplianceAccount()


def test_a_memory_is_never_another_tasks(store: TaskStore) -> None:
    name, memory = f"{next(numbers)}.", Memory()
    work: Any = Work(Tables(store))
    approve(AccountRows(work, DECLARED, memory), order_of(name))
    memory.edited.clear()
    rows = AccountRows(Work(Tables(store)), DECLARED, memory)  # type: ignore[arg-type]

    assert rows.remembered(name).resting.best_buy("BTC-USD") is None


def test_no_more_accounts_are_remembered_than_there_may_be(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_rows, "ACCOUNTS_REMEMBERED_MAX", 8)
    names = [f"{next(numbers)}." for _ in range(40)]
    tables, memory = Tables(store), Memory()
    for name in names:
        work: Any = Work(tables)
        approve(AccountRows(work, DECLARED, memory), order_of(name))
        work.commit()
        assert len(memory.known) <= 9
    rows = AccountRows(Work(tables), DECLARED, memory)  # type: ignore[arg-type]

    assert names[0] not in memory.known
    assert [rows.remembered(name).resting.best_buy("BTC-USD") for name in names] == [90_000] * 40


def test_a_report_that_ends_nothing_and_a_repeat_write_nothing(store: TaskStore) -> None:
    name, memory = f"{next(numbers)}.", Memory()
    work: Any = Work(Tables(store))
    approve(AccountRows(work, DECLARED, memory), order_of(name))
    work.commit()
    quiet: Any = Work(work.task)
    rows = AccountRows(quiet, DECLARED, memory)
    told = {"order_id": f"{name}-1", "account_id": name}
    agent.forget(quiet, rows, acknowledged(**told))
    agent.forget(quiet, rows, a_fill(4, leaves_lots=6, **told))
    agent.judge(quiet, rows, an_approval(order_of(name)))

    assert [view.changes for view in quiet.views.values()] == [{}, {}, {}]


class OfVersion1(msgspec.Struct, frozen=True):
    """The account as the release before knows it."""

    recent: dict[str, Any]
    open_orders: dict[str, Any]
    last_sequence: int = 0
    last_venue_sequence: int = 0


BEFORE = ValueCodec(Contract("compliance.recent_orders", OfVersion1))


def test_the_release_before_waits_at_an_account_that_has_moved_and_goes_on_at_others(
    store: TaskStore,
) -> None:
    moved, not_met = (f"{next(numbers)}." for _ in range(2))
    before = Before()
    assert before.judge(an_approval(order_of(moved))) == "approved"
    tables = Tables(store)
    for name in (moved, not_met):
        tables.write(DECLARED.accounts, name, before.value())
    work: Any = Work(tables)
    AccountRows(work, DECLARED, Memory()).account(moved)
    work.commit()
    accounts = tables.table(DECLARED.accounts)

    assert BEFORE.decode(accounts.raw(not_met) or b"").open_orders.keys() == {f"{moved}-1"}
    with pytest.raises(NewerVersion, match=r"recent_orders in version 2 .* this build knows up to 1"):
        BEFORE.decode(accounts.raw(moved) or b"")
