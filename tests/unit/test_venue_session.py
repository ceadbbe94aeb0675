"""A task's session with the venue: what goes out, what comes in, and whatever a venue may do instead."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError
from pydantic import SecretStr

from app.config import Settings
from app.domain.exchange import IntentState, Session
from app.engine import Fenced, Transient, shard_of
from app.venue_session import client as venue_client
from app.venue_session import session as venue_session
from app.venue_session.client import describe_error, not_understood
from app.venue_session.gathering import ORDERS_PER_CALL_MAX
from models.events import OrderReceived
from tables.controls import CONTROLS
from tables.intents import INTENTS
from tables.sessions import SESSIONS
from tests.builders import a_price, a_restriction, listed, registered
from tests.venue_world import (
    TOKEN,
    Answer,
    World,
    a_world,
    accounts_of,
    generous,
    order_of,
    provide,
    report,
)

ACK = "OrderAcknowledged"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A session that runs, and an account whose orders pass."""
    async with a_world(monkeypatch) as world:
        provide(world)
        world.start()
        yield world


def fill(order: OrderReceived, sequence: Any, lots: int, leaves: int, **fields: Any) -> dict[str, Any]:
    sold = {"trade_id": f"T{sequence}", "quantity_lots": lots, "price_ticks": 1, "leaves_lots": leaves}
    return report("TradeExecuted", order, sequence, **sold, **fields)


# Behind the release whose sessions were by partition


async def test_every_shard_goes_on_where_its_partition_was_read_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        here = world.task.partition
        read = Session(venue_sequence_last=5, epoch=70_000, by_partition=True)
        world.task.table(SESSIONS).values[str(here)] = read
        order = order_of()
        world.intended(order)
        late = {"follows": 2, **report(ACK, order, 7)}
        await world.venue.send(late, {"follows": 7, **fill(order, 12, 4, 6)})
        world.task.fail = Transient("away")
        world.start()
        await asyncio.sleep(0.05)
        assert world.venue.opened == [], "nothing is read before the cursors stand"
        world.task.fail = None
        await world.until(lambda: len(world.task.executions) == 2)
        assert world.venue.opened[0] == dict.fromkeys(world.task.shards, 5)
        assert [kind for kind, _ in world.task.executions] == [ACK, "TradeExecuted"]
        assert world.cursor().venue_sequence_last == 12
        assert not world.cursor().by_partition
        assert world.task.letters == []
        await world.venue.hang_up()
        await world.until(lambda: world.venue.was_opened(2))
        assert world.venue.opened[1][shard_of(b"acc-1")] == 12


async def test_a_leap_that_the_venue_does_not_explain_stays_a_gap(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    await world.venue.send({"follows": 3, **fill(order, 5, 10, 0)})
    await world.until(lambda: world.venue.was_opened(2))
    assert world.cursor().venue_sequence_last == 1


# Out


async def test_orders_of_many_sessions_leave_in_one_call_under_one_epoch(world: World) -> None:
    accounts = accounts_of(world.task.partition, 40)
    provide(world, *accounts)
    orders = [order_of(account) for account in accounts]
    world.submit(*orders)
    await world.until(lambda: len(world.venue.orders) == 40 and not world.session.waiting)
    (call,) = world.venue.posted("/orders")
    shards = {str(shard_of(account.encode())) for account in accounts}
    assert len(shards) > 10
    assert call["sessions"] == dict.fromkeys(shards, world.session.epoch)
    assert {order["session"] for order in call["orders"]} == set(map(int, shards))
    assert {world.cursor(account).epoch for account in accounts} == {world.session.epoch}


async def test_a_call_without_an_answer_is_asked_about_under_a_higher_epoch_and_not_repeated(
    world: World,
) -> None:
    world.venue.rule = lambda path, body: (0, "") if path == "/orders" else None
    world.submit(order_of())
    await world.until(lambda: world.venue.orders and not world.session.waiting)
    (call,), (question,) = world.venue.posted("/orders"), world.venue.posted("/orders/query")
    (shard,) = call["sessions"]
    assert question["sessions"][shard] > call["sessions"][shard]


async def test_an_intent_of_an_earlier_life_is_asked_about_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        world.intended(order_of(sequence=1), order_of(sequence=2))
        world.venue.orders["acc-1-1"] = {}
        world.start()
        await world.until(lambda: not world.session.waiting)
        assert [path for path, _ in world.venue.calls] == ["/orders/query", "/orders"]
        assert [order["client_order_id"] for order in world.venue.posted("/orders")[0]["orders"]] == [
            "acc-1-2"
        ]


@pytest.mark.parametrize("status", [503, 401])
async def test_orders_that_come_while_others_are_in_doubt_leave_behind_them(
    world: World, status: int
) -> None:
    world.venue.rule = lambda path, body: (status, "")
    world.submit(*(order_of(sequence=number) for number in range(1, 4)))
    await world.until(lambda: len(world.venue.calls) >= 2)
    world.submit(order_of(sequence=4))
    world.venue.rule = lambda path, body: None
    await world.until(lambda: not world.session.waiting)
    assert list(world.venue.orders) == [f"acc-1-{number}" for number in range(1, 5)]


async def test_orders_of_an_earlier_life_leave_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        world.intended(*(order_of(sequence=number) for number in range(1, ORDERS_PER_CALL_MAX + 20)))
        world.start()
        await world.until(lambda: not world.session.waiting)
        numbers = [int(order_id.rpartition("-")[2]) for order_id in world.venue.orders]
        assert numbers == list(range(1, ORDERS_PER_CALL_MAX + 20))


async def test_a_fenced_owner_ends_and_sends_nothing(world: World) -> None:
    world.task.fail = Fenced("somebody else")
    world.submit(order_of())
    assert world.running is not None
    await world.until(lambda: world.task.closed)
    assert world.venue.calls == []


# The last look


async def test_an_order_that_is_halted_before_it_leaves_is_withheld(world: World) -> None:
    world.halt("acc-1")
    world.submit(order_of())
    await world.until(lambda: world.task.executions)
    ((kind, event),) = world.task.executions
    assert (kind, event["order_id"], event["reason"], event["withheld_lots"]) == (
        "OrderWithheld",
        "acc-1-1",
        "halted",
        10,
    )
    (record,) = world.task.on("executions")
    assert record.key == b"acc-1"
    assert record.headers["event-id"] == b"acc-1-1:exchange:withheld"
    assert record.headers["correlation-id"] == b"acc-1-1"
    assert world.intent(order_of()) is None
    await world.stays(lambda: not world.venue.posted("/orders"))
    assert world.tally.orders["withheld halted"] == 1


async def test_the_look_is_taken_again_when_the_venue_kept_the_order_waiting(world: World) -> None:
    world.venue.rule = lambda path, body: (503, "")
    world.submit(order_of())
    await world.until(lambda: len(world.venue.calls) >= 2)
    world.halt("*")
    world.venue.rule = lambda path, body: None
    await world.until(lambda: world.task.executions)
    assert world.task.executions[0][1]["reason"] == "halted"
    assert world.venue.orders == {}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"accounts": {"acc-1": registered(status="suspended")}}, "account_suspended"),
        ({"accounts": {"acc-1": None}}, "account_suspended"),
        ({"instruments": {"BTC-USD": listed(status="delisted")}}, "instrument_not_tradable"),
        ({"restricted": {"BTC-USD": a_restriction()}}, "restricted_instrument"),
    ],
)
async def test_what_is_forbidden_while_the_venue_is_away_does_not_leave(
    world: World, told: dict[str, Any], reason: str
) -> None:
    world.venue.rule = lambda path, body: (503, "")
    world.submit(order_of())
    await world.until(lambda: len(world.venue.calls) >= 2)
    world.tell(**told)
    world.venue.rule = lambda path, body: None
    await world.until(lambda: world.task.executions)
    assert world.task.executions[0][1]["reason"] == reason
    assert world.venue.orders == {}


async def test_an_order_that_may_be_at_the_venue_is_asked_for_and_not_withheld_if_it_is(world: World) -> None:
    def halt_and_say_nothing(path: str, body: dict[str, Any]) -> Answer | None:
        world.halt("*")
        return (0, "") if path == "/orders" else None

    world.venue.rule = halt_and_say_nothing
    world.submit(order_of())
    await world.until(lambda: world.venue.orders and not world.session.waiting)
    assert world.task.executions == []
    assert world.intent(order_of()) is not None


async def test_an_order_in_doubt_that_the_venue_never_had_may_be_withheld(world: World) -> None:
    def refuse_once_and_halt(path: str, body: dict[str, Any]) -> Answer | None:
        if path == "/orders":
            world.halt("*")
            return 500, "not done"
        return None

    world.venue.rule = refuse_once_and_halt
    world.submit(order_of())
    await world.until(lambda: world.task.executions)
    assert world.venue.posted("/orders/query")
    assert len(world.venue.posted("/orders")) == 1


async def test_orders_that_pass_leave_beside_one_that_is_withheld(world: World) -> None:
    provide(world, "acc-1", "acc-9")
    world.task.table(CONTROLS).values["acc-9"] = generous(kill_switch=True)
    stopped, free = order_of("acc-9"), order_of()
    world.submit(stopped, free)
    await world.until(lambda: world.venue.orders)
    assert list(world.venue.orders) == [free.order_id]
    assert [event["reason"] for _, event in world.task.executions] == ["kill_switch_on"]


async def test_an_account_whose_limits_are_on_their_way_waits_for_them(world: World) -> None:
    del world.task.table(CONTROLS).values["acc-1"]
    world.task.behind.add("risk-limits")
    world.submit(order_of())
    await world.stays(lambda: not world.task.executions and not world.venue.posted("/orders"))
    provide(world)
    world.task.behind.clear()
    await world.until(lambda: world.venue.orders)


async def test_an_account_that_waits_for_its_limits_holds_up_no_other_and_keeps_its_order(
    world: World,
) -> None:
    first, second = accounts_of(world.task.partition, 2)
    provide(world, first, second)
    world.submit(order_of(second, 1))
    await world.until(lambda: world.venue.orders)
    controls = world.task.table(CONTROLS).values.pop(first)
    world.task.behind.add("risk-limits")
    count = ORDERS_PER_CALL_MAX + 1
    world.submit(*(order_of(first, number) for number in range(1, count + 1)), order_of(second, 2))
    await world.until(lambda: len(world.venue.orders) == 2)
    world.submit(order_of(first, count + 1), order_of(second, 3))
    await world.until(lambda: len(world.venue.orders) == 3)
    assert list(world.venue.orders) == [f"{second}-1", f"{second}-2", f"{second}-3"]
    world.task.asked = 0
    await world.stays(lambda: not world.task.executions and len(world.venue.orders) == 3)
    assert 0 < world.task.asked < 100  # it looks again and again, but not all the time
    world.task.table(CONTROLS).values[first] = controls
    await world.until(lambda: not world.session.waiting)
    assert list(world.venue.orders)[3:] == [f"{first}-{number}" for number in range(1, count + 2)]
    assert world.task.executions == []


async def test_orders_behind_many_that_wait_for_limits_are_withheld_while_the_reports_are_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        first, second = accounts_of(world.task.partition, 2)
        provide(world, second)
        world.task.behind.add("risk-limits")
        world.venue.refuse = (503, "")
        world.start()
        world.halt(second)
        world.submit(*(order_of(first, number) for number in range(1, ORDERS_PER_CALL_MAX + 1)))
        world.submit(order_of(second))
        await world.until(lambda: world.task.executions)
        assert [event["order_id"] for _, event in world.task.executions] == [f"{second}-1"]


async def test_an_intent_of_an_earlier_life_waits_for_limits_that_nobody_has_heard_of_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        controls = world.task.table(CONTROLS).values.pop("acc-1")
        world.task.behind.add("risk-limits")
        world.intended(order_of())
        world.start()
        await world.until(lambda: world.venue.posted("/orders/query"))
        await world.stays(lambda: not world.task.executions and not world.venue.posted("/orders"))
        world.task.table(CONTROLS).values["acc-1"] = controls
        world.task.behind.clear()
        await world.until(lambda: world.venue.orders)
        assert world.task.executions == []


async def test_after_a_take_over_no_order_leaves_before_the_limits_are_read_that_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        world.task.behind.add("risk-limits")
        world.intended(order_of())
        world.start()
        await world.until(lambda: world.venue.posted("/orders/query"))
        await world.stays(lambda: not world.venue.posted("/orders"))
        assert not world.troubles.reasons()
        monkeypatch.setattr(venue_session, "LIMITS_S_MAX", 0.0)
        told = f"partition {world.task.partition}: orders wait until risk-limits is read"
        await world.until(lambda: world.troubles.reasons() == [told])
        world.task.table(CONTROLS).values["acc-1"] = generous(kill_switch=True)
        world.task.behind.clear()
        await world.until(lambda: world.task.executions)
        assert [event["reason"] for _, event in world.task.executions] == ["kill_switch_on"]
        assert not world.venue.posted("/orders")
        await world.until(lambda: not world.troubles.reasons())


async def test_an_account_without_limits_counts_as_one_with_its_kill_switch_on(world: World) -> None:
    del world.task.table(CONTROLS).values["acc-1"]
    world.submit(order_of())
    await world.until(lambda: world.task.executions)
    assert world.task.executions[0][1]["reason"] == "kill_switch_on"


async def test_a_withheld_order_whose_commit_failed_is_looked_at_again(world: World) -> None:
    world.task.fail = Transient("Kafka is away")
    world.halt("acc-1")
    world.submit(order_of())
    await world.stays(lambda: not world.task.executions)
    world.task.fail = None
    await world.until(lambda: world.task.executions)
    assert len(world.task.executions) == 1


async def test_an_order_whose_report_is_booked_meanwhile_is_not_withheld(world: World) -> None:
    await world.until(lambda: world.venue.was_opened(1))
    await world.task.lock.acquire()
    world.halt("acc-1")
    world.submit(order_of())
    await asyncio.sleep(0.05)  # both have looked, and wait for the lock: the report first
    table = world.task.table(INTENTS).values
    (key,) = table
    table[key] = table[key].model_copy(update={"state": IntentState.ACKNOWLEDGED})
    world.task.lock.release()
    await world.until(lambda: not world.session.waiting)
    assert world.task.executions == []
    assert world.intent(order_of()) is not None


# While the task waits for a newer build

NEWER = "OrderAmended in version 1 was written by a newer release: upgrade this one"


async def test_no_order_leaves_while_the_task_waits_for_a_newer_build_and_reports_are_booked(
    world: World,
) -> None:
    resting, late = order_of(sequence=1), order_of(sequence=2)
    await acknowledged(world, resting)
    world.task.waits_for = NEWER
    world.submit(late)
    await world.venue.send(report(ACK, resting, 1), fill(resting, 2, 10, 0))
    await world.until(lambda: world.intent(resting) is None)
    world.task.asked = 0
    await world.stays(lambda: list(world.venue.orders) == [resting.order_id])
    assert 0 < world.task.asked < 100
    world.task.waits_for = None
    await world.until(lambda: late.order_id in world.venue.orders)
    assert [kind for kind, _ in world.task.executions] == [ACK, "TradeExecuted"]


async def test_what_is_about_to_leave_stays_when_the_task_begins_to_wait(world: World) -> None:
    world.venue.rule = lambda path, body: (503, "")
    world.submit(order_of())
    await world.until(lambda: len(world.venue.calls) >= 2)
    world.task.waits_for = NEWER
    world.venue.rule = lambda path, body: None
    await world.stays(lambda: world.venue.orders == {} and not world.task.executions)
    world.task.waits_for = None
    await world.until(lambda: world.venue.orders)


async def test_what_grows_too_old_while_the_task_waits_is_withheld(world: World) -> None:
    world.task.waits_for = NEWER
    world.submit(order_of())
    await world.stays(lambda: not world.task.executions)
    world.task.table(CONTROLS).values["acc-1"] = generous(order_age_ms_max=1)
    await world.until(lambda: world.task.executions)
    assert world.task.executions[0][1]["reason"] == "order_too_old"
    assert world.venue.calls == []


# Whatever a venue may answer

ODD: list[Answer] = [
    (404, "<html>no such page</html>"),
    (400, '{"error": "what?"}'),
    (200, ""),
    (200, "<html>welcome</html>"),
    (200, "[]"),
    (200, "null"),
    (200, "{}"),
    (200, '{"accepted": 5, "duplicates": [], "known": 5}'),
    (200, '{"accepted": [1], "duplicates": [2], "known": [{}]}'),
    (200, b"\xff\xfe"),
    (200, "[" * 100_000),
    (302, ""),
    (401, "who are you?"),
    (403, ""),
    (405, ""),
    (409, '{"error": "over"}'),
    (418, "x" * 100_000),
]
AWAY: list[Answer] = [(500, ""), (503, "<html>"), (429, ""), (0, "")]


@pytest.mark.parametrize("answer", ODD + AWAY, ids=str)
@pytest.mark.parametrize("path", ["/orders", "/orders/query"])
async def test_no_answer_ends_the_session_and_the_order_goes_out_once_when_the_venue_is_well_again(
    world: World, path: str, answer: Answer
) -> None:
    if path == "/orders/query":
        world.session.in_doubt["acc-1-1"] = world.intended(order_of())[0]
        world.session._work_to_do.set()
    else:
        world.submit(order_of())
    world.venue.rule = lambda called, body: answer if called == path else None
    await world.until(lambda: len(world.venue.posted(path)) >= 2 or (answer[0] == 0 and world.venue.orders))
    if answer in ODD:
        await world.until(lambda: world.troubles.reasons())
        (reason,) = world.troubles.reasons()
        assert len(reason) < 400
        assert len(reason.splitlines()) == 1
        assert TOKEN not in reason
    else:
        assert world.troubles.reasons() == []  # it may be being restarted
    world.venue.rule = lambda called, body: None
    await world.until(lambda: world.venue.orders and not world.session.waiting)
    await world.until(lambda: not world.troubles.reasons())
    taken = [order for call in world.venue.posted("/orders") for order in call["orders"]]
    assert {order["client_order_id"] for order in taken} == {"acc-1-1"}
    assert world.task.executions == []
    assert world.tally.calls


async def test_a_wrong_token_is_one_log_line_and_a_reason_that_says_what_to_do(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.venue.rule = lambda path, body: (401, f"Bearer {TOKEN} is wrong")
    world.submit(order_of())
    await world.until(lambda: len(world.venue.calls) > 3)
    world.venue.refuse = (401, "")
    await world.venue.hang_up()
    await world.stays(lambda: world.troubles.reasons())
    what_to_do = "the venue refuses VENUE_TOKEN (401): set VENUE_TOKEN to the venue's token"
    assert world.troubles.reasons() == [what_to_do]
    lines = [record for record in caplog.records if "VENUE_TOKEN" in record.getMessage()]
    assert len(lines) == 1


async def test_one_order_that_the_venue_cannot_take_holds_up_no_other(world: World) -> None:
    bad = order_of(sequence=1)

    def refuse_bad(path: str, body: dict[str, Any]) -> Answer | None:
        refused = path == "/orders" and any(
            each["client_order_id"] == bad.order_id for each in body["orders"]
        )
        return (400, '{"where": "orders[0]"}') if refused else None

    world.venue.rule = refuse_bad
    others = [order_of(sequence=sequence) for sequence in range(2, 40)]
    world.submit(bad, *others)
    await world.until(lambda: world.session.waiting == 1)
    assert len(world.venue.orders) == len(others)
    assert "refuses /orders (400" in world.troubles.reasons()[0]
    world.task.table(CONTROLS).values["acc-1"] = generous(order_age_ms_max=1)  # and in the end it is too old
    await world.until(lambda: world.task.executions)
    assert world.task.executions[0][1]["reason"] == "order_too_old"
    await world.until(lambda: not world.troubles.reasons())


async def test_an_order_the_answer_says_nothing_of_is_asked_for(world: World) -> None:
    def forgetful(path: str, body: dict[str, Any]) -> Answer | None:
        if path == "/orders" and len(world.venue.posted("/orders")) == 1:
            world.venue.orders["acc-1-1"] = {}
            return 200, '{"accepted": [], "duplicates": []}'
        return None

    world.venue.rule = forgetful
    world.submit(order_of())
    await world.until(lambda: not world.session.waiting)
    assert len(world.venue.posted("/orders")) == 1


async def test_fields_that_the_venue_adds_to_its_answers_are_counted(world: World) -> None:
    world.venue.rule = lambda path, body: (
        (200, '{"accepted": ["acc-1-1"], "duplicates": [], "tier": 1}') if path == "/orders" else None
    )
    world.submit(order_of())
    await world.until(lambda: not world.session.waiting)
    assert world.tally.unknown == {("/orders", "tier"): 1}


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409])
async def test_a_report_stream_that_does_not_open_is_a_reason_until_it_does(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async with a_world(monkeypatch) as world:
        world.venue.refuse = (status, "<html>hello</html>")
        provide(world)
        world.start()
        world.submit(order_of())
        await world.until(lambda: world.troubles.reasons())
        assert str(status) in world.troubles.reasons()[0]
        if status == 409:
            assert "ledger of this run" in world.troubles.reasons()[0]
        assert world.venue.calls == []  # what it would report, nobody would hear
        world.venue.refuse = None
        await world.until(lambda: world.venue.orders)
        await world.until(lambda: not world.troubles.reasons())


# In


async def acknowledged(world: World, *orders: OrderReceived) -> None:
    """Orders that the venue has, acknowledged from sequence 1 on, those of one account."""
    world.submit(*orders)
    await world.until(lambda: len(world.venue.orders) == len(orders))
    await world.venue.send(*(report(ACK, order, number) for number, order in enumerate(orders, start=1)))
    await world.until(lambda: len(world.task.executions) == len(orders))


async def test_a_report_is_an_execution_under_an_id_without_a_partition(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    (record,) = world.task.on("executions")
    assert record.headers["event-id"] == f"venue/{shard_of(b'acc-1')}/1".encode()
    assert "session" not in json.loads(record.value)
    assert set(world.venue.opened[0]) == set(world.task.shards)


async def test_one_connection_reads_each_session_from_its_own_cursor(world: World) -> None:
    first, second = accounts_of(world.task.partition, 2)
    provide(world, first, second)
    orders = [order_of(first, 1), order_of(first, 2), order_of(second, 1)]
    world.submit(*orders)
    await world.until(lambda: len(world.venue.orders) == 3)
    await world.venue.send(report(ACK, orders[0], 1), report(ACK, orders[2], 1), report(ACK, orders[1], 2))
    await world.until(lambda: len(world.task.executions) == 3)
    opened = len(world.venue.opened)
    await world.venue.hang_up()
    await world.until(lambda: len(world.venue.opened) > opened)
    after = world.venue.opened[-1]
    assert (after[shard_of(first.encode())], after[shard_of(second.encode())]) == (2, 1)
    assert sum(after.values()) == 3


NO_REPORT: list[Any] = [
    {"type": "OrderAmended"},
    {"type": ["a", "list"]},
    {"type": None},
    {"type": ...},
    {"side": "both"},
    {"symbol": ...},
    {"quantity_lots": "many"},
    {"quantity_lots": None},
    {"quantity_lots": 10**400},
    {"leaves_lots": 1.5},
    {"price_ticks": float("nan")},
    {"price_ticks": {}},
    {"venue_order_id": "x" * 70_000},
    {"venue_order_id": "\ud800"},
]


@pytest.mark.parametrize("odd", NO_REPORT, ids=lambda odd: str(odd)[:40])
async def test_a_report_that_cannot_be_read_is_one_dead_letter_of_one_order(world: World, odd: Any) -> None:
    bad, good = order_of(sequence=1), order_of(sequence=2)
    await acknowledged(world, bad, good)
    changed = fill(bad, 3, 4, 6) | odd
    kept = {name: value for name, value in changed.items() if value is not ...}
    await world.venue.send(kept, fill(good, 4, 10, 0))
    await world.until(lambda: world.intent(good) is None)
    (letter,) = world.task.letters
    assert letter.headers["dead-letter-service"] == b"exchange"
    assert world.cursor().venue_sequence_last == 4
    assert [kind for kind, _ in world.task.executions] == [ACK, ACK, "TradeExecuted"]
    intent = world.intent(bad)
    assert intent is not None
    assert letter.headers["dead-letter-source"] == f"venue/{shard_of(b'acc-1')}/3".encode()
    assert letter.key == b"acc-1"
    assert intent.disputed
    assert world.session.disputed == {"acc-1/acc-1-1"}


CONTRADICTIONS = [
    {"order_id": "acc-1-77"},
    {"quantity_lots": 11},
    {"leaves_lots": 7},
    {"symbol": "ETH-USD"},
    {"side": "sell"},
]


@pytest.mark.parametrize("changed", CONTRADICTIONS, ids=str)
async def test_a_report_that_fits_no_intent_or_contradicts_it_is_one_dead_letter(
    world: World, changed: dict[str, Any]
) -> None:
    bad, good = order_of(sequence=1), order_of(sequence=2)
    await acknowledged(world, bad, good)
    await world.venue.send(fill(bad, 3, 4, 6) | changed, fill(good, 4, 10, 0), fill(bad, 5, 4, 6))
    await world.until(lambda: world.cursor().venue_sequence_last == 5)
    is_foreign = "order_id" in changed
    assert len(world.task.letters) == (1 if is_foreign else 2)  # what comes behind it is not booked either
    assert b"InvariantBroken" in world.task.letters[0].headers["dead-letter-error"]
    assert world.intent(good) is None
    intent = world.intent(bad)
    assert intent is not None
    assert intent.disputed is not is_foreign


async def test_an_order_in_dispute_before_it_was_sent_is_never_sent(world: World) -> None:
    world.venue.rule = lambda path, body: (503, "")
    order = order_of()
    world.submit(order)
    await world.until(lambda: world.venue.calls)
    await world.venue.send(fill(order, 1, 4, 6))
    await world.until(lambda: world.task.letters)
    world.venue.rule = lambda path, body: None
    await world.until(lambda: not world.session.waiting)
    assert world.venue.orders == {}
    assert world.task.executions == []


async def test_a_report_on_a_session_that_is_not_its_accounts_is_a_dead_letter(world: World) -> None:
    first, second = (each for each in accounts_of(world.task.partition, 2))
    provide(world, first, second)
    order = order_of(first)
    world.submit(order)
    await world.until(lambda: world.venue.orders)
    await world.venue.send(report(ACK, order, 1, session=shard_of(second.encode())))
    await world.until(lambda: world.task.letters)
    assert world.cursor(second).venue_sequence_last == 1
    assert world.task.executions == []


async def test_reports_of_a_session_that_was_not_asked_for_are_dead_letters_once_and_change_nothing(
    world: World,
) -> None:
    order = order_of()
    await acknowledged(world, order)
    stray = report(ACK, order, 7, session=(world.task.partition + 1) % 8)
    await world.venue.send(stray, fill(order, 2, 10, 0))
    nobodys = report(ACK, order, 1, session=..., account_id=...)
    await world.venue.send(stray, 5, None, "text", [], {"type": ACK}, nobodys)
    await world.until(lambda: world.tally.reports["of no session of ours"] == 8)
    assert world.intent(order) is None
    await world.until(lambda: len(world.task.letters) == 7)
    assert world.cursor().venue_sequence_last == 2


@pytest.mark.parametrize("number", [..., None, True, "three", 0, -3, 2.5, [], 10**30], ids=str)
async def test_a_report_without_a_usable_number_is_a_dead_letter_once_and_stands_for_the_missing_one(
    world: World, number: Any
) -> None:
    bad, good = order_of(sequence=1), order_of(sequence=2)
    await acknowledged(world, bad, good)
    odd = fill(bad, number, 4, 6)
    await world.venue.send(odd)
    await world.until(lambda: world.task.letters)
    assert world.cursor().venue_sequence_last == 2
    await world.venue.hang_up()  # it comes again, and is known
    await world.until(lambda: len(world.venue.opened) >= 2)
    await world.venue.send(fill(good, 4, 10, 0))
    await world.until(lambda: world.intent(good) is None)
    assert len(world.task.letters) == 1
    assert world.cursor().venue_sequence_last == 4
    assert world.cursor().unnumbered == ()
    assert world.troubles.reasons() == []


async def test_a_number_that_the_next_ones_prove_wrong_is_none(world: World) -> None:
    bad, good = order_of(sequence=1), order_of(sequence=2)
    await acknowledged(world, bad, good)
    await world.venue.send(fill(bad, 10**15, 4, 6), fill(good, 4, 4, 6), fill(good, 5, 6, 0))
    await world.until(lambda: world.intent(good) is None)
    assert len(world.task.letters) == 1
    assert world.cursor().venue_sequence_last == 5


async def test_reports_that_are_left_out_hold_their_own_session_only_and_are_a_reason(world: World) -> None:
    first, second = accounts_of(world.task.partition, 2)
    provide(world, first, second)
    gapped, fine = order_of(first), order_of(second)
    world.submit(gapped, fine)
    await world.until(lambda: len(world.venue.orders) == 2)
    await world.venue.send(report(ACK, gapped, 1), report(ACK, fine, 1))
    await world.until(lambda: len(world.task.executions) == 2)
    await world.venue.send(fill(gapped, 5, 6, 0), fill(fine, 2, 10, 0))
    await world.until(lambda: world.intent(fine) is None)
    await world.until(lambda: world.troubles.reasons())
    assert f"sessions {shard_of(first.encode())} behind 1" in world.troubles.reasons()[0]
    missing = [report(ACK, gapped, 1), fill(gapped, 2, 1, 9), fill(gapped, 3, 2, 7), fill(gapped, 4, 1, 6)]
    world.venue.frames.insert(0, json.dumps(missing))
    await world.until(lambda: world.intent(gapped) is None)
    await world.until(lambda: not world.troubles.reasons())
    assert world.task.letters == []


@pytest.mark.parametrize("text", ["", "hello", "{}", "7", "[1", "[" * 100_000], ids=lambda text: text[:9])
async def test_a_frame_that_is_no_array_is_a_reason_and_is_asked_for_again(world: World, text: str) -> None:
    order = order_of()
    world.submit(order)
    await world.until(lambda: world.venue.orders)
    await world.venue.send(text=text)
    await world.until(lambda: world.troubles.reasons())
    assert "no array of reports" in world.troubles.reasons()[0]
    world.venue.frames.clear()
    await world.venue.send(report(ACK, order, 1))
    await world.until(lambda: world.task.executions)
    await world.until(lambda: not world.troubles.reasons())


async def test_what_strict_readers_refuse_costs_the_frame_nothing(world: World) -> None:
    order = order_of()
    world.submit(order)
    await world.until(lambda: world.venue.orders)
    good = json.dumps(report(ACK, order, 1, speed=float("nan"), note="\ud800"))
    assert "NaN" in good
    await world.venue.send(text=f"[{good}]")
    await world.until(lambda: world.task.executions)
    assert world.task.letters == []


async def test_a_number_of_thousands_of_digits_is_a_dead_letter_of_its_order(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    text = json.dumps([fill(order, 2, 4, 6)]).replace('"leaves_lots": 6', '"leaves_lots": ' + "9" * 5_000)
    await world.venue.send(text=text)
    await world.until(lambda: world.task.letters)
    assert world.cursor().venue_sequence_last == 2
    assert world.session.disputed == {"acc-1/acc-1-1"}


async def test_fields_that_the_venue_adds_to_reports_are_ignored_and_counted(world: World) -> None:
    order = order_of()
    world.submit(order)
    await world.until(lambda: world.venue.orders)
    await world.venue.send(report(ACK, order, 1, venue_mood="good"), fill(order, 2, 10, 0, venue_mood="bad"))
    await world.until(lambda: world.intent(order) is None)
    assert world.tally.unknown == {(ACK, "venue_mood"): 1, ("TradeExecuted", "venue_mood"): 1}
    assert all("venue_mood" not in event for _, event in world.task.executions)


async def test_reports_that_come_twice_are_booked_once(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    await world.venue.send(report(ACK, order, 1), fill(order, 2, 10, 0))
    await world.venue.send(report(ACK, order, 1), fill(order, 2, 10, 0))
    await world.until(lambda: world.tally.reports["repeated"] == 3)
    assert len(world.task.executions) == 2
    assert world.task.letters == []


async def test_a_stream_that_closes_at_once_again_and_again_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for times in (1, 2, 3):
        await world.until(partial(world.venue.was_opened, times))
        await world.venue.hang_up()
    await world.until(partial(world.venue.was_opened, 4))
    assert any("closes the stream of reports at once" in each.getMessage() for each in caplog.records)


async def test_a_call_has_no_more_orders_than_the_venue_takes(world: World) -> None:
    world.submit(*(order_of(sequence=sequence) for sequence in range(1, ORDERS_PER_CALL_MAX + 2)))
    await world.until(lambda: not world.session.waiting)
    assert [len(call["orders"]) for call in world.venue.posted("/orders")] == [ORDERS_PER_CALL_MAX, 1]


async def test_an_order_that_grows_too_old_while_the_reports_are_away_is_withheld(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        world.venue.refuse = (503, "")
        world.start()
        world.submit(order_of())
        await world.stays(lambda: not world.task.executions)
        world.task.table(CONTROLS).values["acc-1"] = generous(order_age_ms_max=1)
        await world.until(lambda: world.task.executions)
        assert world.task.executions[0][1]["reason"] == "order_too_old"
        assert world.venue.calls == []


async def test_a_price_that_is_gone_withholds(world: World) -> None:
    world.tell(prices={"BTC-USD": None})
    world.submit(order_of())
    await world.until(lambda: world.task.executions)
    assert world.task.executions[0][1]["reason"] == "no_price"
    world.tell(prices={"BTC-USD": a_price()})
    world.submit(order_of(sequence=2))
    await world.until(lambda: world.venue.orders)


# What a log may say of a venue that refuses


@pytest.mark.parametrize("status", [401, 503])
def test_a_refusal_is_told_without_the_token(status: int) -> None:
    request: Any = SimpleNamespace(headers={"Authorization": "Bearer secret"}, real_url="http://venue/")
    error = WSServerHandshakeError(request, (), status=status, message="Invalid response status")

    assert "secret" in repr(error)
    assert "secret" not in describe_error(error)
    assert f"{status}, message='Invalid response status'" in describe_error(error)
    assert ("check VENUE_TOKEN" in describe_error(error)) is (status == 401)


def test_a_token_that_an_answer_repeats_is_not_shown_where_the_answer_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(venue_client, "settings", lambda: Settings(venue_token=SecretStr("0123456789")))
    for before in range(180, 210):
        told = str(not_understood("/orders", b"x" * before + b"0123456789" + b"y" * 100_000))
        assert "01" not in told
        assert len(told) < 400


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert describe_error(TimeoutError()) == "TimeoutError"
