"""Cancels and replaces in a task's session with the venue: behind their orders, once, until answered."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.domain.exchange import Intent, IntentState, Sent, new_intent
from app.engine import Transient, shard_of
from app.venue_session import session as venue_session
from models.events import OrderReceived
from tables.controls import CONTROLS
from tables.intents import INTENTS
from tables.sent import SENT
from tests.venue_world import (
    Answer,
    World,
    a_world,
    accounts_of,
    cancel_of,
    generous,
    order_of,
    provide,
    replace_of,
    report,
)

ACK, CANCELLED, REPLACED = "OrderAcknowledged", "OrderCancelled", "OrderReplaced"


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A session that runs, and an account whose orders pass."""
    async with a_world(monkeypatch) as world:
        provide(world)
        world.start()
        yield world


async def acknowledged(world: World, order: OrderReceived) -> None:
    """The venue has the order, and its report has come as number 1."""
    world.submit(order)
    await world.until(lambda: order.order_id in world.venue.orders and not world.session.waiting)
    await world.venue.send(report(ACK, order, 1))
    await world.until(lambda: world.task.executions)


def committed(world: World, order: OrderReceived, **changed: Any) -> Intent:
    """An intent of an earlier life, acknowledged."""
    world.intended(order)
    intent = new_intent(order).model_copy(update={"state": IntentState.ACKNOWLEDGED, **changed})
    world.task.table(INTENTS).values[intent.key] = intent
    return intent


def asked(world: World) -> list[str]:
    """The ids of all requests that were sent, in their order; repeats are there again."""
    return [each["request_id"] for call in world.venue.posted("/requests") for each in call["requests"]]


def paths(world: World) -> list[str]:
    return [path for path, _ in world.venue.calls]


def reasons(world: World) -> list[tuple[str, str]]:
    return [(kind, event["reason"]) for kind, event in world.task.executions if "reason" in event]


# A request of an order that the venue has


async def test_a_cancel_goes_out_once_under_the_epoch_and_its_answer_ends_it(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.ask(cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    (call,) = world.venue.posted("/requests")
    shard = shard_of(b"acc-1")
    assert call == {
        "sessions": {str(shard): world.session.epoch},
        "requests": [
            {
                "session": shard,
                "request_id": "acc-1-c1",
                "account_id": "acc-1",
                "order_id": "acc-1-1",
                "symbol": "BTC-USD",
                "side": "buy",
                "kind": "cancel",
            }
        ],
    }
    assert world.unanswered == {"acc-1-c1"}
    await world.venue.send(report(CANCELLED, order, 2, cancelled_lots=10, request_id="acc-1-c1"))
    await world.until(lambda: world.intent(order) is None)
    assert world.unanswered == set()
    assert [kind for kind, _ in world.task.executions] == [ACK, CANCELLED]
    assert world.tally.requests == {"cancel sent": 1}
    assert world.task.letters == []


async def test_a_replace_then_a_cancel_leave_in_their_order(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.ask(replace_of(order, 2, price_ticks=order.price_ticks + 1), cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    assert asked(world) == ["acc-1-2", "acc-1-c1"]
    sent = world.venue.requests["acc-1-2"]
    assert (sent["kind"], sent["quantity_lots"], sent["price_ticks"]) == (
        "replace",
        20,
        order.price_ticks + 1,
    )
    changed = {"quantity_lots": 20, "price_ticks": order.price_ticks + 1, "leaves_lots": 20}
    await world.venue.send(report(REPLACED, order, 2, request_id="acc-1-2", **changed))
    await world.until(lambda: world.unanswered == {"acc-1-c1"})
    intent = world.intent(order)
    assert intent is not None
    assert (intent.order.quantity_lots, intent.order.price_ticks, intent.open_lots) == (
        20,
        order.price_ticks + 1,
        20,
    )
    await world.venue.send(report(CANCELLED, order, 3, cancelled_lots=20, request_id="acc-1-c1"))
    await world.until(lambda: world.intent(order) is None)
    assert world.unanswered == set()


async def test_a_request_leaves_behind_its_order(world: World) -> None:
    world.venue.rule = lambda path, body: (503, "")
    order = order_of()
    world.submit(order)
    await world.until(lambda: world.venue.posted("/orders/query"))  # it is in doubt
    world.ask(replace_of(order, 2))
    world.venue.rule = lambda path, body: None
    await world.until(lambda: not world.session.requests_waiting)
    assert [path for path in paths(world) if not path.endswith("query")][-2:] == ["/orders", "/requests"]
    assert asked(world) == ["acc-1-2"]


async def test_a_replace_that_leaves_nothing_open_ends_the_order(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    sold = {"trade_id": "T", "quantity_lots": 4, "price_ticks": 1, "leaves_lots": 6}
    await world.venue.send(report("TradeExecuted", order, 2, **sold))
    world.ask(replace_of(order, 2, quantity_lots=3))
    await world.until(lambda: not world.session.requests_waiting)
    changed = {"quantity_lots": 4, "price_ticks": order.price_ticks, "leaves_lots": 0}
    await world.venue.send(report(REPLACED, order, 3, request_id="acc-1-2", **changed))
    await world.until(lambda: world.intent(order) is None)
    assert world.unanswered == set()
    assert world.task.letters == []


async def test_many_cancels_of_many_sessions_leave_in_one_call(world: World) -> None:
    accounts = accounts_of(world.task.partition, 20)
    provide(world, *accounts)
    orders = [order_of(account) for account in accounts]
    world.submit(*orders)
    await world.until(lambda: len(world.venue.orders) == 20 and not world.session.waiting)
    world.ask(*(cancel_of(order) for order in orders))
    await world.until(lambda: not world.session.requests_waiting)
    (call,) = world.venue.posted("/requests")
    assert len(call["requests"]) == 20
    assert set(call["sessions"]) == {str(shard_of(account.encode())) for account in accounts}


# A cancel of an order that the venue never had


async def test_a_cancel_of_a_fresh_order_withholds_it_and_makes_no_call(world: World) -> None:
    await world.until(lambda: world.venue.was_opened(1))
    order = order_of()
    world.session.submit(world.intended(order), world.asked(cancel_of(order)))
    await world.until(lambda: world.task.executions)
    assert reasons(world) == [("OrderWithheld", "cancel_requested")]
    assert world.intent(order) is None
    assert world.unanswered == set()
    await world.stays(lambda: not world.venue.posted("/orders") and not world.venue.posted("/requests"))
    assert world.session.requests_waiting == 0
    assert world.tally.requests == {"cancel done with the order": 1}
    assert world.tally.orders == {"withheld cancel_requested": 1}


async def test_the_order_and_its_cancel_go_in_one_commit_or_none_of_them(world: World) -> None:
    world.task.fail = Transient("Kafka is away")
    order = order_of()
    world.session.submit(world.intended(order), world.asked(cancel_of(order)))
    await world.stays(lambda: world.intent(order) is not None and world.unanswered == {"acc-1-c1"})
    world.task.fail = None
    await world.until(lambda: world.intent(order) is None)
    assert world.unanswered == set()
    assert len(world.task.executions) == 1


async def test_a_cancelled_order_waits_for_no_limits(world: World) -> None:
    world.task.behind.add("risk-limits")
    del world.task.table(CONTROLS).values["acc-1"]
    order = order_of()
    world.submit(order)
    await world.stays(lambda: not world.task.executions)
    world.ask(cancel_of(order))
    await world.until(lambda: world.task.executions)
    assert reasons(world) == [("OrderWithheld", "cancel_requested")]
    assert not world.venue.orders


async def test_a_cancel_and_a_replace_of_an_order_that_is_withheld_with_it(world: World) -> None:
    await world.until(lambda: world.venue.was_opened(1))
    order = order_of()
    requests = world.asked(replace_of(order, 2), cancel_of(order))
    world.session.submit(world.intended(order), requests)
    await world.until(lambda: len(world.task.executions) == 2)
    assert reasons(world) == [("OrderWithheld", "cancel_requested"), ("ReplaceWithheld", "order_ended")]
    assert world.unanswered == set()
    assert not world.venue.posted("/requests")


async def test_a_cancel_waits_for_the_answer_while_its_order_is_in_doubt(world: World) -> None:
    """The order has arrived, though the venue did not say so: the cancel goes to the venue."""
    order = order_of()

    def drop_answers(path: str, body: dict[str, Any]) -> Answer | None:
        if path == "/orders":
            world.ask(cancel_of(order))
            return 0, ""
        return (503, "") if path == "/orders/query" and world.venue.requests == {} and not free else None

    free: list[bool] = []
    world.venue.rule = drop_answers
    world.submit(order)
    await world.until(lambda: world.venue.posted("/orders/query"))
    await world.stays(lambda: not world.venue.posted("/requests") and not world.task.executions)
    free.append(True)
    await world.until(lambda: not world.session.requests_waiting)
    assert asked(world) == ["acc-1-c1"]
    assert len(world.venue.posted("/orders")) == 1
    assert world.task.executions == []


async def test_an_order_in_doubt_that_the_venue_never_had_is_withheld_by_its_cancel(world: World) -> None:
    order = order_of()

    def refuse_and_cancel(path: str, body: dict[str, Any]) -> Answer | None:
        if path != "/orders":
            return None
        world.ask(cancel_of(order))
        return 500, "not done"

    world.venue.rule = refuse_and_cancel
    world.submit(order)
    await world.until(lambda: world.task.executions)
    assert reasons(world) == [("OrderWithheld", "cancel_requested")]
    assert world.venue.posted("/orders/query")
    await world.stays(lambda: len(world.venue.posted("/orders")) == 1 and not world.venue.posted("/requests"))


# An order that is over, or to come


async def test_a_cancel_of_an_order_that_was_withheld_is_sent_and_refused(world: World) -> None:
    world.halt("acc-1")
    order = order_of()
    world.submit(order)
    await world.until(lambda: world.task.executions)
    world.ask(cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    assert asked(world) == ["acc-1-c1"]
    refused = {"venue_order_id": "", "request_id": "acc-1-c1", "reason": "unknown_order"}
    await world.venue.send(report("CancelRejected", order, 1, **refused))
    await world.until(lambda: not world.unanswered)
    assert [kind for kind, _ in world.task.executions] == ["OrderWithheld", "CancelRejected"]
    assert world.task.letters == []


async def test_a_replace_of_an_order_that_is_over_is_withheld(world: World) -> None:
    order = order_of()
    world.task.table(SENT).values["acc-1"] = Sent(order_sequence_last=2)
    world.ask(replace_of(order, 2))
    await world.until(lambda: world.task.executions)
    (record,) = world.task.on("executions")
    assert reasons(world) == [("ReplaceWithheld", "order_ended")]
    assert record.headers["event-id"] == b"acc-1-2:exchange:withheld"
    assert record.headers["correlation-id"] == b"acc-1-1"
    assert world.unanswered == set()
    assert world.tally.requests == {"replace withheld order_ended": 1}
    assert not world.venue.posted("/requests")


async def test_an_order_in_dispute_is_cancelled_and_not_replaced(world: World) -> None:
    order = order_of()
    committed(world, order, disputed=True)
    world.ask(replace_of(order, 2), cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    assert asked(world) == ["acc-1-c1"]
    assert reasons(world) == [("ReplaceWithheld", "order_ended")]
    await world.venue.send(report(CANCELLED, order, 1, cancelled_lots=10, request_id="acc-1-c1"))
    await world.until(lambda: world.task.letters)
    assert world.unanswered == set(), "it is answered, though nothing is booked"


async def test_a_late_refusal_comes_after_the_last_fill(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.ask(cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    sold = {"trade_id": "T", "quantity_lots": 10, "price_ticks": 1, "leaves_lots": 0}
    refused = {"request_id": "acc-1-c1", "reason": "order_ended"}
    await world.venue.send(
        report("TradeExecuted", order, 2, **sold), report("CancelRejected", order, 3, **refused)
    )
    await world.until(lambda: world.cursor().venue_sequence_last == 3)
    assert [kind for kind, _ in world.task.executions] == [ACK, "TradeExecuted", "CancelRejected"]
    assert world.unanswered == set()
    assert world.task.letters == []
    await world.venue.send(report("CancelRejected", order, 4, **refused))  # nobody has asked for that
    await world.until(lambda: world.task.letters)
    assert len(world.task.executions) == 3


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("ReplaceRejected", {"reason": "order_ended"}),
        ("CancelRejected", {"reason": "order_ended", "side": "sell"}),
        ("CancelRejected", {"reason": "order_ended", "order_id": "acc-1-7"}),
        (REPLACED, {"quantity_lots": 20, "price_ticks": 1, "leaves_lots": 20}),
    ],
)
async def test_an_answer_that_does_not_fit_its_request_is_a_dead_letter(
    world: World, kind: str, fields: dict[str, Any]
) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.ask(cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    await world.venue.send(report(kind, order, 2, request_id="acc-1-c1", **fields))
    await world.until(lambda: world.task.letters)
    is_of_another = "order_id" in fields
    assert world.unanswered == ({"acc-1-c1"} if is_of_another else set())
    assert len(world.task.executions) == 1
    assert world.session.disputed == (set() if is_of_another else {"acc-1/acc-1-1"})


async def test_a_cancel_that_has_passed_the_quarantine_of_its_order_waits_and_withholds_it(
    world: World,
) -> None:
    await world.until(lambda: world.venue.was_opened(1))
    order = order_of(sequence=2)
    world.task.table(SENT).values["acc-1"] = Sent(order_sequence_last=1)
    world.ask(cancel_of(order))
    world.task.asked = 0
    await world.stays(lambda: world.venue.calls == [] and world.session.requests_waiting == 1)
    assert world.task.asked < 10  # it does not look all the time
    intents = world.intended(order)
    world.session._work_to_do.set()  # the intent can be seen, but nobody has been told of it
    await world.stays(lambda: world.venue.calls == [])
    world.session.submit(intents)
    await world.until(lambda: world.task.executions)
    assert reasons(world) == [("OrderWithheld", "cancel_requested")]
    assert world.unanswered == set()
    await world.stays(lambda: not world.venue.orders and not world.venue.requests)


@pytest.mark.parametrize(
    "sent",
    [
        Sent(order_sequence_last=1, refused_sequence_last=2),
        Sent(order_sequence_last=3),
    ],
    ids=["refused by compliance", "given up"],
)
async def test_a_cancel_waits_for_no_order_that_will_not_come(world: World, sent: Sent) -> None:
    world.task.table(SENT).values["acc-1"] = Sent(order_sequence_last=1)
    world.ask(cancel_of(order_of(sequence=2)))
    await world.stays(lambda: world.venue.calls == [])
    world.task.table(SENT).values["acc-1"] = sent
    world.session.submit([])
    await world.until(lambda: asked(world) == ["acc-1-c1"])


# In doubt


async def test_a_call_without_an_answer_is_asked_about_under_a_higher_epoch_and_not_repeated(
    world: World,
) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.venue.rule = lambda path, body: (0, "") if path == "/requests" else None
    world.ask(cancel_of(order))
    await world.until(lambda: world.venue.requests and not world.session.requests_waiting)
    (call,), (question,) = world.venue.posted("/requests"), world.venue.posted("/requests/query")
    (shard,) = call["sessions"]
    assert question["request_ids"] == ["acc-1-c1"]
    assert question["sessions"][shard] > call["sessions"][shard]
    assert world.unanswered == {"acc-1-c1"}


async def test_requests_of_an_earlier_life_are_asked_for_and_then_sent_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        first, second = order_of(sequence=1), order_of(sequence=2)
        committed(world, first)
        committed(world, second)
        world.asked(cancel_of(second, 2), cancel_of(first, 1), replace_of(first, 3))
        world.venue.requests["acc-1-c2"] = {}
        world.start()
        await world.until(lambda: not world.session.requests_waiting)
        assert paths(world) == ["/requests/query", "/requests"]
        assert asked(world) == ["acc-1-3", "acc-1-c1"]
        assert world.unanswered == {"acc-1-3", "acc-1-c1", "acc-1-c2"}
        await world.stays(lambda: len(world.venue.calls) == 2)


async def test_an_order_and_its_cancel_of_an_earlier_life_are_both_asked_for_before_anything_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        there, lost = order_of(sequence=1), order_of(sequence=2)
        world.intended(there, lost)
        world.asked(cancel_of(there, 1), cancel_of(lost, 2))
        world.venue.orders[there.order_id] = {}
        world.start()
        await world.until(lambda: not world.session.requests_waiting)
        assert asked(world) == ["acc-1-c1"]
        assert not world.venue.posted("/orders")
        assert reasons(world) == [("OrderWithheld", "cancel_requested")]
        assert world.unanswered == {"acc-1-c1"}


async def test_an_order_is_withheld_though_its_cancel_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cancel leaves behind its order: if the venue has not the one, it has not the other."""
    async with a_world(monkeypatch) as world:
        provide(world)
        world.intended(order_of())
        world.asked(cancel_of(order_of()))
        world.venue.rule = lambda path, body: (404, "") if path == "/requests/query" else None
        world.start()
        await world.until(lambda: world.task.executions)
        assert reasons(world) == [("OrderWithheld", "cancel_requested")]
        assert not world.venue.posted("/orders")
        await world.until(lambda: not world.session.requests_waiting and not world.troubles.reasons())


async def test_the_venue_goes_away_and_comes_back(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.venue.rule = lambda path, body: (503, "")
    world.ask(replace_of(order, 2), cancel_of(order))
    await world.until(lambda: len(world.venue.posted("/requests")) >= 1)
    await world.stays(lambda: world.venue.requests == {} and world.unanswered == {"acc-1-2", "acc-1-c1"})
    assert world.session.requests_waiting == 2
    world.venue.rule = lambda path, body: None
    await world.until(lambda: not world.session.requests_waiting)
    assert list(world.venue.requests) == ["acc-1-2", "acc-1-c1"]


async def test_nothing_is_asked_while_the_reports_cannot_be_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world(monkeypatch) as world:
        provide(world)
        world.venue.refuse = (503, "")
        order, other = order_of(), order_of(sequence=2)
        committed(world, order)
        committed(world, other)
        world.start()
        world.ask(cancel_of(order), replace_of(other, 3))
        await world.stays(lambda: world.venue.calls == [] and not world.task.executions)
        world.task.table(CONTROLS).values["acc-1"] = generous(order_age_ms_max=1)
        await world.until(lambda: world.task.executions)  # what grows too old meanwhile is withheld
        assert reasons(world) == [("ReplaceWithheld", "order_too_old")]
        assert world.venue.calls == []
        world.venue.refuse = None
        await world.until(lambda: asked(world) == ["acc-1-c1"])


async def test_a_task_that_is_lost_asks_nothing_more(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)

    def lose(path: str, body: dict[str, Any]) -> Answer | None:
        world.task.closed = True
        return 503, ""

    world.venue.rule = lose
    world.ask(cancel_of(order))
    await world.until(lambda: world.task.closed)
    calls = len(world.venue.calls)
    await asyncio.sleep(0.2)
    assert len(world.venue.calls) == calls


# The last look


@pytest.mark.parametrize("switch", ["kill switch", "halt", "no limits"])
async def test_what_stops_orders_lets_cancels_through_and_withholds_replaces(
    world: World, switch: str
) -> None:
    order = order_of()
    await acknowledged(world, order)
    if switch == "halt":
        world.halt("acc-1")
    elif switch == "kill switch":
        world.task.table(CONTROLS).values["acc-1"] = generous(kill_switch=True)
    else:
        del world.task.table(CONTROLS).values["acc-1"]
    world.ask(replace_of(order, 2), cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    assert asked(world) == ["acc-1-c1"]
    reason = "halted" if switch == "halt" else "kill_switch_on"
    assert reasons(world) == [("ReplaceWithheld", reason)]
    assert world.unanswered == {"acc-1-c1"}


async def test_a_replace_waits_for_limits_and_a_cancel_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, other = order_of(), order_of(sequence=2)
    committed(world, order)
    committed(world, other)
    world.task.behind.add("risk-limits")
    world.ask(replace_of(order, 3), cancel_of(other))
    await world.until(lambda: asked(world) == ["acc-1-c1"])
    monkeypatch.setattr(venue_session, "LIMITS_S_MAX", 0.0)
    await world.until(lambda: world.troubles.reasons())
    assert asked(world) == ["acc-1-c1"]
    world.task.behind.clear()
    await world.until(lambda: asked(world) == ["acc-1-c1", "acc-1-3"])
    await world.until(lambda: not world.troubles.reasons())


async def test_a_replace_is_judged_by_its_own_price_and_age(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.ask(replace_of(order, 2, price_ticks=order.price_ticks * 2))
    await world.until(lambda: len(world.task.executions) == 2)
    world.task.table(CONTROLS).values["acc-1"] = generous(order_age_ms_max=10**12)
    world.ask(replace_of(order, 3, submitted_at_ms=1))
    await world.until(lambda: len(world.task.executions) == 3)
    assert [reason for _, reason in reasons(world)] == ["price_outside_collar", "order_too_old"]
    assert world.intent(order) is not None
    assert asked(world) == []


# A venue that refuses


@pytest.mark.parametrize("answer", [(404, ""), (400, ""), (200, "{}"), (200, "[]"), (401, "")], ids=str)
@pytest.mark.parametrize("path", ["/requests", "/requests/query"])
async def test_a_refusal_of_requests_is_a_reason_and_holds_up_no_orders(
    world: World, path: str, answer: Answer
) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.venue.rule = lambda called, body: (
        answer if called == path else (503, "") if called == "/requests" and path != called else None
    )
    world.ask(cancel_of(order))
    await world.until(lambda: len(world.venue.posted(path)) >= 2)
    await world.until(lambda: world.troubles.reasons())
    later = order_of(sequence=2)
    world.submit(later)
    await world.until(lambda: later.order_id in world.venue.orders)
    world.venue.rule = lambda called, body: None
    await world.until(lambda: not world.session.requests_waiting)
    await world.until(lambda: not world.troubles.reasons())
    assert list(world.venue.requests) == ["acc-1-c1"]


async def test_a_refusal_of_orders_holds_up_no_cancel(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)
    world.venue.rule = lambda path, body: (400, "") if path == "/orders" else None
    world.submit(order_of(sequence=2))
    await world.until(lambda: world.troubles.reasons())
    world.ask(cancel_of(order))
    await world.until(lambda: asked(world) == ["acc-1-c1"])
    assert world.session.waiting == 1


async def test_one_request_that_the_venue_cannot_take_holds_up_no_other(world: World) -> None:
    orders = [order_of(sequence=sequence) for sequence in range(1, 20)]
    for order in orders:
        committed(world, order)

    def refuse_bad(path: str, body: dict[str, Any]) -> Answer | None:
        told = body.get("requests", [])
        return (400, "") if any(each["request_id"] == "acc-1-c3" for each in told) else None

    world.venue.rule = refuse_bad
    world.ask(*(cancel_of(order, order.sequence) for order in orders))
    await world.until(lambda: world.session.requests_waiting == 1)
    assert set(world.venue.requests) == {f"acc-1-c{order.sequence}" for order in orders} - {"acc-1-c3"}
    world.venue.rule = lambda path, body: None
    await world.until(lambda: not world.session.requests_waiting)


async def test_a_request_the_answer_says_nothing_of_is_asked_for(world: World) -> None:
    order = order_of()
    await acknowledged(world, order)

    def forgetful(path: str, body: dict[str, Any]) -> Answer | None:
        if path == "/requests" and len(world.venue.posted("/requests")) == 1:
            world.venue.requests["acc-1-c1"] = {}
            return 200, '{"accepted": [], "duplicates": []}'
        return None

    world.venue.rule = forgetful
    world.ask(cancel_of(order))
    await world.until(lambda: not world.session.requests_waiting)
    assert len(world.venue.posted("/requests")) == 1


async def test_neither_orders_nor_requests_wait_until_the_others_are_all_out(world: World) -> None:
    """Each call makes more of its kind."""
    order, more = order_of(), iter(range(1_000, 10_000))
    await acknowledged(world, order)
    cancelled = [order_of(sequence=sequence) for sequence in range(100, 200)]
    for each in cancelled:
        committed(world, each)
    left = iter(cancelled)

    def add_more(path: str, body: dict[str, Any]) -> Answer | None:
        if path == "/orders":
            world.submit(order_of(sequence=next(more)))
        elif path == "/requests" and (each := next(left, None)) is not None:
            world.ask(cancel_of(each, each.sequence))
        return None

    world.venue.rule = add_more
    world.submit(order_of(sequence=next(more)))
    await world.until(lambda: len(world.venue.posted("/orders")) > 3)
    world.ask(cancel_of(order))
    await world.until(lambda: len(world.venue.posted("/requests")) > 3)
    orders = len(world.venue.posted("/orders"))
    await world.until(lambda: len(world.venue.posted("/orders")) > orders + 3)
    assert next(left, None) is not None
    world.venue.rule = lambda path, body: None
