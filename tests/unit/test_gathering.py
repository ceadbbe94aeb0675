"""Orders of several tasks in one call: which go together, and what each task gets to know of it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.domain.breaker import BreakerState, Permit
from app.venue_session.client import VenueAway, VenueClient, VenueRefuses, not_understood, refusal
from app.venue_session.gathering import ORDERS_PER_CALL_MAX, OrderCalls, RefusedTogether
from app.venue_session.status import Tally
from models.events import OrderReceived
from tests.venue_world import PARTITIONS, Answer, World, a_world, accounts_of, order_of, provide

Outcome = dict[str, Any] | Exception


class Owner:
    """A task."""

    def __init__(self) -> None:
        self.closed = False


class FakeClient(VenueClient):
    """Keeps the bodies of requests. What comes of one is what `answer` makes, once `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__(Tally())
        self.bodies: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Outcome] = taken
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def request(self, path: str, body: Mapping[str, Any], permit: Permit) -> dict[str, Any]:
        assert path == "/orders"
        self.bodies.append(dict(body))
        await self.may_answer.wait()
        outcome = self.answer(dict(body))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def ids(self) -> list[list[str]]:
        """The orders of each request."""
        return [ids_of(body) for body in self.bodies]

    def fail(self, times: int) -> None:
        """Tell the breaker of failures in a row."""
        for _ in range(times):
            permit = self.permit()
            assert permit is not None
            self._note(self._breaker.failed, permit)

    @property
    def breaker(self) -> Any:
        return self._breaker


def ids_of(body: Mapping[str, Any]) -> list[str]:
    return [order["client_order_id"] for order in body["orders"]]


def taken(body: dict[str, Any]) -> Outcome:
    return {"accepted": ids_of(body), "duplicates": []}


def a_body(session: int, *ids: str, epoch: int = 1) -> dict[str, Any]:
    orders = [{"session": session, "client_order_id": each} for each in ids]
    return {"sessions": {str(session): epoch}, "orders": orders}


A, B, C = a_body(1, "a1", "a2"), a_body(2, "b1", epoch=7), a_body(3, "c1")


@pytest.fixture
async def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
async def calls(client: FakeClient) -> OrderCalls:
    return OrderCalls(client)


async def at_once(calls: OrderCalls, *bodies: dict[str, Any]) -> list[Any]:
    """What becomes of calls of as many tasks that begin in the same turn."""
    posts = [calls.post(Owner(), body) for body in bodies]
    return list(await asyncio.gather(*posts, return_exceptions=True))


def begun(calls: OrderCalls, body: dict[str, Any], owner: Owner | None = None) -> "asyncio.Task[Any]":
    return asyncio.create_task(calls.post(owner or Owner(), body))


# Which go together


async def test_calls_that_begin_in_the_same_turn_are_one_request_with_all_orders_in_their_order(
    client: FakeClient, calls: OrderCalls
) -> None:
    answers = await at_once(calls, A, B, C)
    (body,) = client.bodies
    assert body["sessions"] == {"1": 1, "2": 7, "3": 1}
    assert ids_of(body) == ["a1", "a2", "b1", "c1"]
    assert all({"a1", "a2", "b1", "c1"} == set(answer["accepted"]) for answer in answers)


async def test_a_call_leaves_in_the_turn_after_the_one_in_which_it_began(
    client: FakeClient, calls: OrderCalls
) -> None:
    posts = [begun(calls, A), begun(calls, B)]
    await asyncio.sleep(0)
    assert client.bodies == []
    await asyncio.sleep(0)
    assert client.ids == [["a1", "a2", "b1"]]
    await asyncio.gather(*posts)


async def test_a_call_that_begins_while_another_is_on_its_way_does_not_wait_for_it(
    client: FakeClient, calls: OrderCalls
) -> None:
    client.may_answer.clear()
    first = begun(calls, A)
    await asyncio.sleep(0.01)
    second = begun(calls, B)
    await asyncio.sleep(0.01)
    assert client.ids == [["a1", "a2"], ["b1"]]
    client.may_answer.set()
    await asyncio.gather(first, second)


async def test_a_request_has_no_more_orders_than_its_bound_and_no_task_is_torn_apart(
    client: FakeClient, calls: OrderCalls
) -> None:
    counts = [300, 200, 1, 400, 100, 99, 500]
    bodies = [a_body(n, *(f"{n}-{each}" for each in range(count))) for n, count in enumerate(counts)]
    await at_once(calls, *bodies)
    assert [len(each) for each in client.ids] == [500, 401, 199, 500]
    assert max(len(each) for each in client.ids) == ORDERS_PER_CALL_MAX
    sent = [order_id for ids in client.ids for order_id in ids]
    assert sent == [order_id for body in bodies for order_id in ids_of(body)]


async def test_one_request_never_has_two_epochs_of_a_session(client: FakeClient, calls: OrderCalls) -> None:
    await at_once(calls, a_body(1, "old", epoch=5), a_body(1, "new", epoch=6), B)
    assert [body["sessions"] for body in client.bodies] == [{"1": 5}, {"1": 6, "2": 7}]


async def test_a_task_that_sends_alone_is_joined_by_nobody(client: FakeClient, calls: OrderCalls) -> None:
    posts = [begun(calls, A), asyncio.create_task(calls.post(Owner(), B, alone=True)), begun(calls, C)]
    await asyncio.gather(*posts)
    assert client.ids == [["a1", "a2", "c1"], ["b1"]]


# What becomes of it


async def test_without_an_answer_every_task_is_in_doubt(client: FakeClient, calls: OrderCalls) -> None:
    client.answer = lambda body: VenueAway("no answer")
    outcomes = await at_once(calls, A, B, C)
    assert [type(each) for each in outcomes] == [VenueAway] * 3
    assert len(client.bodies) == 1


@pytest.mark.parametrize("status", [302, 400, 401, 409, 413, 422])
async def test_what_is_refused_together_is_refused_to_the_one_who_is_meant_when_each_sends_alone(
    client: FakeClient, calls: OrderCalls, status: int
) -> None:
    client.answer = lambda body: refusal(status, "/orders") if "b1" in ids_of(body) else taken(body)
    together = await at_once(calls, A, B, C)
    assert [type(each) for each in together] == [RefusedTogether] * 3
    posts = [calls.post(Owner(), body, alone=True) for body in (A, B, C)]
    alone = await asyncio.gather(*posts, return_exceptions=True)
    assert [type(each) for each in alone] == [dict, VenueRefuses, dict]
    assert client.ids[1:] == [["a1", "a2"], ["b1"], ["c1"]]


async def test_a_refusal_of_a_call_of_one_task_is_meant_for_it(client: FakeClient, calls: OrderCalls) -> None:
    client.answer = lambda body: refusal(409, "/orders")
    (outcome,) = await at_once(calls, A)
    assert isinstance(outcome, VenueRefuses)
    assert outcome.status == 409


async def test_an_answer_that_is_not_understood_is_so_for_all(client: FakeClient, calls: OrderCalls) -> None:
    client.answer = lambda body: not_understood("/orders", b"<html>")
    outcomes = await at_once(calls, A, B)
    assert [type(each) for each in outcomes] == [VenueRefuses] * 2
    assert len(client.bodies) == 1


# Tasks that end


@pytest.mark.parametrize("outcome", [None, VenueAway("no answer"), refusal(409, "/orders")], ids=repr)
async def test_a_task_that_is_cancelled_while_its_orders_are_on_their_way_disturbs_no_other(
    client: FakeClient, calls: OrderCalls, outcome: Exception | None
) -> None:
    client.answer = lambda body: outcome or taken(body)
    client.may_answer.clear()
    cancelled, other = begun(calls, A), begun(calls, B)
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert not other.done()
    client.may_answer.set()
    await asyncio.wait([other])
    assert client.ids == [["a1", "a2", "b1"]]
    if outcome is None:
        assert other.result()["accepted"] == ["a1", "a2", "b1"]
    else:
        assert isinstance(other.exception(), VenueAway | RefusedTogether)


async def test_a_call_that_nobody_waits_for_any_more_fails_in_silence(
    client: FakeClient, calls: OrderCalls
) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    client.answer = lambda body: VenueAway("no answer")
    client.may_answer.clear()
    post = begun(calls, A)
    await asyncio.sleep(0.01)
    post.cancel()
    await asyncio.wait([post])
    client.may_answer.set()
    await asyncio.sleep(0.01)
    await at_once(calls, B)
    del post  # now the other call is forgotten
    gc.collect()
    assert client.ids == [["a1", "a2"], ["b1"]]
    assert told == []


async def test_a_task_that_ends_before_the_request_leaves_is_taken_out_of_it(
    client: FakeClient, calls: OrderCalls
) -> None:
    owner = Owner()
    ended, other = begun(calls, A, owner), begun(calls, B)
    await asyncio.sleep(0)  # both have joined
    owner.closed = True
    await asyncio.wait([ended, other])
    assert client.ids == [["b1"]]
    assert other.result() == taken(B)
    assert isinstance(ended.exception(), VenueAway)


# The breaker


async def test_a_call_that_the_breaker_does_not_let_through_is_not_made(
    client: FakeClient, calls: OrderCalls
) -> None:
    client.fail(times=5)
    (outcome,) = await at_once(calls, A)
    assert isinstance(outcome, VenueAway)
    assert client.bodies == []


async def test_a_probe_whose_only_task_ends_before_it_leaves_makes_room_for_the_next(
    client: FakeClient, calls: OrderCalls
) -> None:
    client.fail(times=5)
    await client.admitted()
    owner = Owner()
    ended = begun(calls, A, owner)
    await asyncio.sleep(0)
    assert client.breaker.state is BreakerState.HALF_OPEN
    owner.closed = True
    await asyncio.wait([ended])
    assert client.bodies == []
    async with asyncio.timeout(1):
        await client.admitted()
    (answer,) = await at_once(calls, B)
    assert answer == taken(B)


async def test_while_a_probe_is_on_its_way_others_wait_and_go_together_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world, world.client as client:
        world.venue.rule = lambda path, body: (503, "")
        for _ in range(5):
            with pytest.raises(VenueAway):
                await client.post("/orders/query", {"client_order_ids": []})
        world.venue.calls.clear()
        calls = OrderCalls(client)

        async def send(body: dict[str, Any]) -> dict[str, Any]:
            await client.admitted()
            return await calls.post(Owner(), body)

        waiting = [asyncio.create_task(send(a_body(n, f"order-{n}"))) for n in range(4)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(world.venue.calls) == 1
        (probe,) = [each for each in waiting if each.done()]
        assert isinstance(probe.exception(), VenueAway)
        world.venue.rule = lambda path, body: None
        async with asyncio.timeout(5):
            await asyncio.wait(waiting)
        assert [len(body["orders"]) for body in world.venue.posted("/orders")] == [1, 1, 2]


async def test_a_probe_that_is_cancelled_makes_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world(monkeypatch) as world, world.client as client:
        world.venue.rule = lambda path, body: (503, "")
        for _ in range(5):
            with pytest.raises(VenueAway):
                await client.post("/orders/query", {"client_order_ids": []})
        world.venue.rule = lambda path, body: None
        question = {"client_order_ids": ["a1"]}
        probe = asyncio.create_task(client.post("/orders/query", question))
        while client._breaker.state is not BreakerState.HALF_OPEN:  # noqa: ASYNC110
            await asyncio.sleep(0)
        probe.cancel()
        async with asyncio.timeout(2):
            assert await client.post("/orders/query", question) == {"known": []}
        await asyncio.wait([probe])
        assert probe.cancelled()


async def test_the_connections_are_closed_behind_the_last_task_and_opened_anew_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_world(monkeypatch) as world:
        client, question = world.client, {"client_order_ids": ["a1"]}
        async with client:
            async with client:
                pass
            assert await client.post("/orders/query", question) == {"known": []}
            pool = client._http
        assert pool.closed
        async with client:
            assert await client.post("/orders/query", question) == {"known": []}


# Sessions of three tasks


class Trio:
    """Tasks of one worker whose sessions have each sent an order; an account of each."""

    def __init__(self, *worlds: World) -> None:
        self.worlds = worlds
        self.venue, self.tally = worlds[0].venue, worlds[0].tally
        self.accounts = [accounts_of(world.task.partition, 1)[0] for world in worlds]
        self._sequence = 0

    async def start(self) -> None:
        for world, account in zip(self.worlds, self.accounts, strict=True):
            provide(world, account)
            world.start()
        self.submit()
        await self.settled()
        self.venue.calls.clear()
        self.tally.calls.clear()

    def submit(self) -> list[OrderReceived]:
        """An order of each task, in one turn, as a transaction of the worker commits them."""
        self._sequence += 1
        orders = [order_of(account, self._sequence) for account in self.accounts]
        for world, order in zip(self.worlds, orders, strict=True):
            world.submit(order)
        return orders

    async def settled(self, *, but: World | None = None) -> None:
        for world in self.worlds:
            if world is not but:
                await world.until(lambda world=world: not world.session.waiting)  # type: ignore[misc]

    def sent(self) -> list[list[str]]:
        """The orders of each call, in the order of their ids."""
        return [sorted(ids_of(body)) for body in self.venue.posted("/orders")]


@pytest.fixture
async def trio(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trio]:
    async with a_world(monkeypatch) as world, AsyncExitStack() as ended:
        others = [world.beside((world.task.partition + n) % PARTITIONS) for n in (1, 2)]
        for other in others:
            ended.push_async_callback(other.end)
        trio = Trio(world, *others)
        await trio.start()
        yield trio


def ids(orders: list[OrderReceived]) -> list[str]:
    return sorted(order.order_id for order in orders)


async def test_the_orders_of_three_tasks_go_in_one_call(trio: Trio) -> None:
    orders = trio.submit()
    await trio.settled()
    assert trio.sent() == [ids(orders)]
    (call,) = trio.venue.posted("/orders")
    assert len(call["sessions"]) == 3
    assert trio.tally.calls == {"/orders 200": 1}
    assert trio.tally.orders["sent"] == 6


@pytest.mark.parametrize("answer", [(0, ""), (503, "")], ids=str)
async def test_all_ask_for_what_a_call_without_an_answer_may_have_brought(trio: Trio, answer: Answer) -> None:
    calls: list[str] = []

    def fail_once(path: str, body: dict[str, Any]) -> Answer | None:
        calls.append(path)
        return answer if calls == ["/orders"] else None

    trio.venue.rule = fail_once
    orders = trio.submit()
    await trio.settled()
    (together, *again), questions = trio.venue.posted("/orders"), trio.venue.posted("/orders/query")
    asked = [each for question in questions for each in question["client_order_ids"]]
    assert sorted(asked) == ids(orders)
    for question in questions:
        (shard,) = question["sessions"]
        assert question["sessions"][shard] > together["sessions"][shard]
    assert sorted(each for body in again for each in ids_of(body)) == ([] if answer[0] == 0 else ids(orders))


@pytest.mark.parametrize("status", [400, 409])
async def test_only_the_task_that_is_meant_by_a_refusal_is_held_up_by_it(trio: Trio, status: int) -> None:
    culprit, account = trio.worlds[1], trio.accounts[1]
    others = (trio.worlds[0], trio.worlds[2])
    trio.venue.rule = lambda path, body: (
        (status, "")
        if path == "/orders" and any(each["account_id"] == account for each in body["orders"])
        else None
    )
    orders = trio.submit()
    meant = orders[1].order_id
    await trio.settled(but=culprit)
    await culprit.until(lambda: len([each for each in trio.sent() if meant in each]) >= 3)
    assert trio.sent()[0] == ids(orders)
    assert all(len(each) == 1 for each in trio.sent()[1:])
    assert culprit.session.waiting == 1
    assert f"({status}" in culprit.troubles.reasons()[0]
    assert all(world.session.orders.per_call == ORDERS_PER_CALL_MAX for world in others)
    trio.venue.calls.clear()
    later = [order_of(name, 99) for name in (trio.accounts[0], trio.accounts[2])]
    for world, order in zip(others, later, strict=True):
        world.submit(order)
    await trio.settled(but=culprit)
    together = [each for each in trio.sent() if meant not in each]
    assert together == [ids(later)]
    trio.venue.rule = lambda path, body: None
    await trio.settled()
    await culprit.until(lambda: not culprit.troubles.reasons())
    trio.venue.calls.clear()
    orders = trio.submit()
    await trio.settled()
    assert trio.sent() == [ids(orders)]


async def test_an_order_that_an_answer_leaves_out_is_asked_for_by_its_task_alone(trio: Trio) -> None:
    calls: list[str] = []

    def forget_the_second(path: str, body: dict[str, Any]) -> Answer | None:
        calls.append(path)
        if calls != ["/orders"]:
            return None
        first, _, third = (order["client_order_id"] for order in body["orders"])
        trio.venue.orders.update((order["client_order_id"], order) for order in body["orders"])
        return 200, f'{{"accepted": ["{first}", "{third}"], "duplicates": []}}'

    trio.venue.rule = forget_the_second
    orders = trio.submit()
    await trio.settled()
    (question,) = trio.venue.posted("/orders/query")
    assert question["client_order_ids"] == [orders[1].order_id]
    assert len(trio.sent()) == 1


async def test_a_task_that_ends_while_its_orders_are_on_their_way_leaves_the_others_to_theirs(
    trio: Trio,
) -> None:
    orders = trio.submit()
    await asyncio.sleep(0)  # they are told
    await asyncio.sleep(0)  # they have joined
    await asyncio.sleep(0)  # the call has left
    ended = trio.worlds[0]
    await ended.end()
    await trio.settled(but=ended)
    assert trio.sent() == [ids(orders)]
    assert trio.venue.posted("/orders/query") == []


async def test_an_order_that_is_halted_in_the_turn_before_it_joins_does_not_leave_with_the_others(
    trio: Trio,
) -> None:
    trio.worlds[0].halt(trio.accounts[1])
    orders = trio.submit()
    await trio.settled()
    assert trio.sent() == [ids([orders[0], orders[2]])]
    ((_, event),) = trio.worlds[1].task.executions
    assert event["reason"] == "halted"
