"""A real exchange worker on a real Kafka, with the real venue: repeats, odd reports, halts, a wrong token."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer

from app.engine import TopicSpec, shard_of
from app.engine.kafka.admin import ensure_topics
from app.processes.guarded import start_guarded
from app.topics import (
    ACCOUNTS,
    COMPLIANCE_DECISIONS,
    DEAD_LETTERS,
    EXECUTIONS,
    HALTS,
    INSTRUMENTS,
    PRICES,
    RESTRICTED_LIST,
    RISK_LIMITS,
    TOPICS,
)
from models.events import (
    CancelAccepted,
    CancelRequested,
    HaltInForce,
    OrderComplianceApproved,
    OrderReceived,
    ReplaceComplianceApproved,
    ReplaceRequested,
)
from models.values import Frozen
from tests.builders import BTC, a_price, a_restriction, an_order, limits, listed, registered
from tests.engine.waiting import until
from tests.engine.world import read_all
from tests.integration.test_venue import TOKEN, Client, VenueProcess
from tests.integration.test_web import free_port
from tests.integration.topics import put, remove_topics

PARTITIONS = 2
PRICE = 1_000
WITHIN_S = 60.0


class Scene:
    """The venue, a worker of the exchange, and a client of both; accounts are told apart by the tests."""

    def __init__(self, bootstrap: str, venue: VenueProcess, directory: Path) -> None:
        self.bootstrap, self.venue, self.directory = bootstrap, venue, directory
        self.port = free_port()
        self.tick = 1

    @contextmanager
    def worker(self, token: str = TOKEN) -> Iterator[None]:
        command = [sys.executable, "-m", "faust", "-A", "app.exchange", "--datadir", str(self.directory)]
        environment = {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "PIPELINE_PARTITIONS": str(PARTITIONS),
            "VENUE_URL": self.venue.url,
            "VENUE_TOKEN": token,
        }
        with pytest.MonkeyPatch.context() as patch, (self.directory / "worker.log").open("ab") as output:
            for name, value in environment.items():
                patch.setitem(os.environ, name, value)
            with start_guarded([*command, "worker", "--web-port", str(self.port)], grace_s=5, output=output):
                yield

    @property
    def said(self) -> str:
        return (self.directory / "worker.log").read_text()

    async def get(self, path: str) -> tuple[int, str]:
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.get("/ready"))[0] == 200

        await until(is_ready, WITHIN_S)

    async def put(self, spec: TopicSpec, *values: Frozen) -> None:
        await put(self.bootstrap, spec, *values)

    async def introduce(self, account: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        await self.put(ACCOUNTS, registered(account_id=account))
        await self.put(INSTRUMENTS, BTC)
        generous = {"order_age_ms_max": 600_000, "price_age_ms_max": 600_000}
        await self.put(RISK_LIMITS, limits(account_id=account, **generous))
        await self.put(PRICES, a_price(price_ticks=PRICE, observed_at_ms=now_ms))

    async def approve(self, *orders: OrderReceived) -> None:
        await self.put(COMPLIANCE_DECISIONS, *(OrderComplianceApproved(order=order) for order in orders))

    async def approve_at_once(self, *orders: OrderReceived) -> None:
        """Approve orders in one request, whatever their partitions."""
        spec = COMPLIANCE_DECISIONS
        assert spec.key_of is not None
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=20) as producer:
            for order in orders:
                value = OrderComplianceApproved(order=order)
                name, version, data = spec.codec.encode(value)
                headers = [("event-type", name), ("schema-version", version)]
                await producer.send(spec.name, data, spec.key_of(value), headers=headers)
            await producer.flush()

    async def trade(self, client: Client, quantity_lots: int) -> None:
        """The market trades at our orders' price."""
        self.tick += 1
        await client.tick(self.tick, PRICE, quantity_lots)

    async def executions(self, account: str) -> list[dict[str, Any]]:
        """What is on executions of one account: the event's fields and its type."""
        found = await read_all(self.bootstrap, EXECUTIONS.name)
        return [
            {"type": dict(each.headers)["event-type"].decode(), **json.loads(each.value or b"")}
            for each in found
            if each.key == account.encode()
        ]

    async def until_executed(self, account: str, *types: str) -> list[dict[str, Any]]:
        async def has_come() -> bool:
            return len(await self.executions(account)) >= len(types)

        await until(has_come, WITHIN_S)
        found = await self.executions(account)
        assert [each["type"] for each in found] == list(types)
        return found

    async def letters(self, account: str) -> list[Any]:
        return [
            each for each in await read_all(self.bootstrap, DEAD_LETTERS.name) if each.key == account.encode()
        ]

    async def until_buried(self, account: str, count: int) -> list[Any]:
        async def has_come() -> bool:
            return len(await self.letters(account)) >= count

        await until(has_come, WITHIN_S)
        return await self.letters(account)


def accounts_on(partition: int, name: str) -> Iterator[str]:
    """Accounts whose keys lie on the partition."""
    names = (f"{name}-{number}" for number in count())
    return (each for each in names if shard_of(each.encode()) % PARTITIONS == partition)


def an_order_of(account: str, sequence: int = 1, **changed: Any) -> OrderReceived:
    now_ms = time.time_ns() // 1_000_000
    terms = {"price_ticks": PRICE, "submitted_at_ms": now_ms, **changed}
    return an_order(account_id=account, order_id=f"{account}-{sequence}", sequence=sequence, **terms)


@pytest.fixture(scope="module")
def scene(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    async def make_topics() -> None:
        await remove_topics(bootstrap)
        await ensure_topics(bootstrap, TOPICS, partitions=PARTITIONS, replication_factor=1, client_id="test")

    asyncio.run(make_topics())
    venue = VenueProcess(tmp_path_factory.mktemp("venue"), "--die-with-parent")
    yield Scene(bootstrap, venue, tmp_path_factory.mktemp("exchange"))
    venue.kill()
    asyncio.run(remove_topics(bootstrap))


@pytest.fixture(scope="module")
def works(scene: Scene) -> Iterator[Scene]:
    with scene.worker():
        asyncio.run(scene.ready())
        yield scene


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[Client]:
    each_call_anew = aiohttp.TCPConnector(force_close=True)  # the venue is killed in between
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(connector=each_call_anew, headers=headers) as http:
        client = Client(scene.venue, http)
        await scene.trade(client, 0)
        yield client


async def test_a_wrong_token_is_not_ready_with_the_reason_and_nobody_dies(scene: Scene) -> None:
    with scene.worker(token="wrong"):

        async def tells() -> bool:
            return "VENUE_TOKEN" in (await scene.get("/ready"))[1]

        await until(tells, WITHIN_S)
        status, told = await scene.get("/ready")
        assert status == 503
        assert "the venue refuses VENUE_TOKEN (401): set VENUE_TOKEN to the venue's token" in told
        await asyncio.sleep(1)
        assert (await scene.get("/ready"))[0] == 503
    assert scene.said.count("the venue refuses VENUE_TOKEN") == 1


async def test_a_repeated_approval_changes_nothing_before_a_fill_or_after_the_end(
    works: Scene, client: Client
) -> None:
    account, ack = "repeater", "OrderAcknowledged"
    await works.introduce(account)
    order = an_order_of(account)
    await works.approve(order)
    await works.until_executed(account, ack)
    await works.approve(order)
    await works.trade(client, 4)
    await works.until_executed(account, ack, "TradeExecuted")
    await works.trade(client, 6)
    await works.until_executed(account, ack, "TradeExecuted", "TradeExecuted")
    later = an_order_of(account, 2)
    await works.approve(order, later)
    await works.until_executed(account, ack, "TradeExecuted", "TradeExecuted", ack)
    receipts = f"SELECT client_order_id, receipts FROM orders WHERE account_id = '{account}' ORDER BY arrival"
    assert works.venue.ledger(receipts) == [(order.order_id, 1), (later.order_id, 1)]
    assert await works.letters(account) == []
    assert (
        'exchange_orders_total{outcome="repeated",service="exchange"} 2.0' in (await works.get("/metrics"))[1]
    )


def a_cancel_of(order: OrderReceived, number: int) -> CancelAccepted:
    asked = CancelRequested(
        request_id=f"mine-{number}",
        account_id=order.account_id,
        order_id=order.order_id,
        submitted_at_ms=order.submitted_at_ms,
    )
    return CancelAccepted(
        request=asked, number=number, symbol=order.symbol, side=order.side, source="orders/0/1"
    )


def a_replace_of(order: OrderReceived, sequence: int, **changed: Any) -> ReplaceComplianceApproved:
    asked = {
        "request_id": f"{order.account_id}-{sequence}",
        "account_id": order.account_id,
        "sequence": sequence,
        "order_id": order.order_id,
        "quantity_lots": order.quantity_lots,
        "price_ticks": order.price_ticks,
        "submitted_at_ms": order.submitted_at_ms,
        **changed,
    }
    return ReplaceComplianceApproved(request=ReplaceRequested(**asked), symbol=order.symbol, side=order.side)


async def test_an_order_is_replaced_and_cancelled_at_the_venue_once_each(
    works: Scene, client: Client
) -> None:
    account, ack = "changer", "OrderAcknowledged"
    await works.introduce(account)
    order = an_order_of(account, price_ticks=PRICE + 1)  # before what other tests have left
    replace, cancel = a_replace_of(order, 2, quantity_lots=20), a_cancel_of(order, 1)
    await works.approve(order)
    await works.until_executed(account, ack)
    await works.put(COMPLIANCE_DECISIONS, replace)
    found = await works.until_executed(account, ack, "OrderReplaced")
    assert (found[-1]["request_id"], found[-1]["leaves_lots"]) == (f"{account}-2", 20)
    await works.trade(client, 12)
    found = await works.until_executed(account, ack, "OrderReplaced", "TradeExecuted")
    assert (found[-1]["quantity_lots"], found[-1]["leaves_lots"]) == (12, 8)
    await works.put(COMPLIANCE_DECISIONS, replace, cancel, replace, cancel)
    found = await works.until_executed(account, ack, "OrderReplaced", "TradeExecuted", "OrderCancelled")
    assert (found[-1]["request_id"], found[-1]["cancelled_lots"]) == (f"{account}-c1", 8)
    late = [a_cancel_of(order, 2), a_replace_of(order, 3), a_cancel_of(an_order_of(account, 3), 3)]
    await works.put(COMPLIANCE_DECISIONS, *late)

    async def have_ended() -> bool:
        return len(await works.executions(account)) == 7

    await until(have_ended, WITHIN_S)
    ended = (await works.executions(account))[4:]
    assert {each["request_id"]: (each["type"], each["reason"]) for each in ended} == {
        f"{account}-c2": ("CancelRejected", "order_ended"),
        f"{account}-3": ("ReplaceWithheld", "order_ended"),
        f"{account}-c3": ("CancelRejected", "unknown_order"),
    }
    assert await works.letters(account) == []
    receipts = f"SELECT request_id, receipts FROM requests WHERE account_id = '{account}'"
    assert sorted(works.venue.ledger(receipts)) == [
        (f"{account}-2", 1),
        (f"{account}-c1", 1),
        (f"{account}-c2", 1),
        (f"{account}-c3", 1),
    ]
    metrics = (await works.get("/metrics"))[1]
    assert 'exchange_requests_total{kind="cancel",outcome="repeated",service="exchange"} 1.0' in metrics
    assert 'exchange_requests_waiting{service="exchange"} 0.0' in metrics


async def test_orders_of_two_partitions_that_are_committed_together_go_in_one_call(
    works: Scene, client: Client
) -> None:
    """Whether two records are committed in one transaction is the worker's affair: often enough they are."""
    accounts = [next(accounts_on(partition, "together")) for partition in range(PARTITIONS)]
    for account in accounts:
        await works.introduce(account)

    async def calls() -> int:
        found = re.search(
            r'exchange_venue_calls_total{outcome="200",path="/orders",.*} (\d+)',
            (await works.get("/metrics"))[1],
        )
        return int(found[1]) if found else 0

    made: list[int] = []
    while 1 not in made:
        assert len(made) < 50, made
        before, sequence = await calls(), len(made) + 1
        await works.approve_at_once(*(an_order_of(account, sequence) for account in accounts))
        for account in accounts:
            await works.until_executed(account, *["OrderAcknowledged"] * sequence)
        made.append(await calls() - before)
    assert set(made) <= {1, 2}
    taken = works.venue.ledger("SELECT account_id, receipts FROM orders WHERE account_id LIKE 'together%'")
    assert sorted(taken) == sorted((account, 1) for account in accounts for _ in made)


async def test_fields_that_the_venue_adds_cost_nothing_and_are_counted(works: Scene, client: Client) -> None:
    account = "additive"
    await works.introduce(account)
    await client.post("/faults", {"added_fields": 1_000})
    await works.approve(an_order_of(account))
    await works.until_executed(account, "OrderAcknowledged")
    await works.trade(client, 1_000)
    await works.until_executed(account, "OrderAcknowledged", "TradeExecuted")
    await client.post("/faults", {"added_fields": 0})
    assert await works.letters(account) == []
    metrics = (await works.get("/metrics"))[1]
    unknown = 'exchange_unknown_fields_total{field="added_on_demand",service="exchange",where="%s"}'
    assert unknown % "TradeExecuted" in metrics
    assert unknown % "/orders" in metrics


async def test_a_report_without_an_intent_is_a_dead_letter_and_its_session_goes_on(
    works: Scene, client: Client
) -> None:
    account = "stranger"
    await works.introduce(account)
    shard = shard_of(account.encode())
    order = {"session": shard, "client_order_id": "strange-1", "account_id": account, "symbol": "BTC-USD"}
    terms = {"side": "buy", "quantity_lots": 1, "price_ticks": PRICE, "time_in_force": "gtc"}
    ((epoch,),) = works.venue.ledger(f"SELECT coalesce(max(epoch), 0) FROM epochs WHERE session = {shard}")
    await client.post("/orders", {"sessions": {shard: epoch}, "orders": [order | terms]})
    (letter,) = await works.until_buried(account, 1)
    headers = dict(letter.headers)
    assert headers["dead-letter-source"] == f"venue/{shard}/1".encode()
    assert b"there is no intent for it" in headers["dead-letter-error"]
    assert json.loads(letter.value)["order_id"] == "strange-1"
    await works.approve(an_order_of(account))
    (found,) = await works.until_executed(account, "OrderAcknowledged")
    assert found["venue_sequence"] == 2


async def test_a_report_that_contradicts_puts_its_order_in_dispute_and_no_other(
    works: Scene, client: Client
) -> None:
    account = "disputed"
    await works.introduce(account)
    await works.approve(an_order_of(account, 1), an_order_of(account, 2))
    await works.until_executed(account, "OrderAcknowledged", "OrderAcknowledged")
    works.venue.kill()
    with works.venue.writing() as ledger:
        ledger.execute("UPDATE orders SET quantity_lots = 99 WHERE client_order_id = 'disputed-1'")
    works.venue.restart()
    await works.trade(client, 1_000)
    (letter,) = await works.until_buried(account, 1)
    assert b"does not fit its 10 open lots" in dict(letter.headers)["dead-letter-error"]
    await works.until_executed(account, *["OrderAcknowledged"] * 2, "TradeExecuted")
    status = json.loads((await works.get("/status"))[1])
    assert "disputed/disputed-1" in status["notices"][0]
    assert (await works.get("/ready"))[0] == 200


async def test_an_order_halted_between_approval_and_venue_is_withheld_and_the_next_goes_on(
    works: Scene, client: Client
) -> None:
    account = "halted"
    await works.introduce(account)
    await client.post("/faults", {"unavailable_ms": 3_000})
    await works.approve(an_order_of(account))
    await works.put(HALTS, HaltInForce(scope=account, halted=True, version=1))
    (found,) = await works.until_executed(account, "OrderWithheld")
    assert (found["reason"], found["withheld_lots"]) == ("halted", 10)
    await works.put(HALTS, HaltInForce(scope=account, halted=False, version=2))

    async def is_over() -> bool:
        return (await client.try_post("/orders/query", {"client_order_ids": ["halted-1"]}))[0] == 200

    await until(is_over, WITHIN_S)
    await works.approve(an_order_of(account, 2))
    await works.until_executed(account, "OrderWithheld", "OrderAcknowledged")
    assert works.venue.ledger("SELECT client_order_id FROM orders WHERE account_id = 'halted'") == [
        ("halted-2",)
    ]


@pytest.mark.parametrize(
    ("account", "spec", "forbidding", "allowing", "reason"),
    [
        (
            "suspended",
            ACCOUNTS,
            registered(account_id="suspended", status="suspended"),
            registered(account_id="suspended"),
            "account_suspended",
        ),
        ("delisted", INSTRUMENTS, listed(status="delisted"), BTC, "instrument_not_tradable"),
        (
            "restricted",
            RESTRICTED_LIST,
            a_restriction(),
            a_restriction(restricted=False),
            "restricted_instrument",
        ),
    ],
)
async def test_what_is_forbidden_between_approval_and_venue_is_withheld(
    works: Scene,
    client: Client,
    account: str,
    spec: TopicSpec,
    forbidding: Frozen,
    allowing: Frozen,
    reason: str,
) -> None:
    await works.introduce(account)
    await client.post("/faults", {"unavailable_ms": 3_000})
    await works.approve(an_order_of(account))
    await works.put(spec, forbidding)
    (found,) = await works.until_executed(account, "OrderWithheld")
    assert found["reason"] == reason
    await works.put(spec, allowing)
    await client.post("/faults", {"unavailable_ms": 0})


async def test_a_kill_switch_takes_and_removed_limits_are_one(works: Scene) -> None:
    account = "killed"
    await works.introduce(account)
    await works.put(RISK_LIMITS, limits(account_id=account, version=1, kill_switch=True))
    await asyncio.sleep(0.5)
    await works.approve(an_order_of(account))
    (found,) = await works.until_executed(account, "OrderWithheld")
    assert found["reason"] == "kill_switch_on"
    account = "removed"
    await works.introduce(account)
    async with AIOKafkaProducer(bootstrap_servers=works.bootstrap) as producer:
        await producer.send_and_wait(RISK_LIMITS.name, None, account.encode())
    await asyncio.sleep(0.5)
    await works.approve(an_order_of(account))
    (found,) = await works.until_executed(account, "OrderWithheld")
    assert found["reason"] == "kill_switch_on"
    assert await works.letters(account) == []
