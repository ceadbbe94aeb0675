"""The feed against a real Kafka and a venue that comes and goes."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

from app import topics
from app.devkafka.server import KafkaServer
from app.errors import UserError
from feed import history
from feed.introduction import ALLOCATIONS, OPERATOR_COMMANDS, RESTRICTIONS, RISK_LIMITS
from feed.main import MARKET_DATA, ORDERS, Feed, Options
from models.events import TickReceived
from tests.integration.topics import write_odd_header

PARTITIONS = 3
EDGES = (MARKET_DATA, ORDERS, RISK_LIMITS, RESTRICTIONS, OPERATOR_COMMANDS, ALLOCATIONS)
STATES = tuple(
    spec.name
    for spec in (
        topics.INSTRUMENTS,
        topics.ACCOUNTS,
        topics.COUNTERPARTIES,
        topics.RESTRICTED_LIST,
        topics.COMMAND_ANSWERS,
    )
)
TOPICS = (*EDGES, *STATES)
TOKEN = "a-token"


@contextlib.asynccontextmanager
async def an_admin(bootstrap: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def make_topics(bootstrap: str) -> None:
    """Empty topics, whatever other tests have left."""
    large = {"max.message.bytes": str(8 << 20)}
    async with an_admin(bootstrap) as admin:
        with contextlib.suppress(UnknownTopicOrPartitionError):
            await admin.delete_topics(list(TOPICS))
        await gone(admin, *TOPICS)
        await admin.create_topics([NewTopic(each, PARTITIONS, 1, topic_configs=large) for each in TOPICS])
        await there(admin, *TOPICS)


async def gone(admin: Any, *topics: str) -> None:
    """A deleted topic takes a moment to be gone."""
    while True:
        if not set(topics) & set(await admin.list_topics()):
            return
        await asyncio.sleep(0.05)


async def there(admin: Any, *topics: str) -> None:
    """A new topic takes a moment, too, until the broker tells others of it."""
    while True:
        if set(topics) <= set(await admin.list_topics()):
            return
        await asyncio.sleep(0.05)


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    path = tmp_path / "trades.csv"
    lines = [f"{1385337600 + number},{800 + number % 7}.50,0.5" for number in range(1_000)]
    path.write_text("timestamp,price,amount\n" + "\n".join(lines) + "\n")
    return path


def a_feed(bootstrap: str, trades: Path, **changed: Any) -> Feed:
    options = {
        "bootstrap": bootstrap,
        "venue_url": None,
        "venue_token": TOKEN,
        "market_data": trades,
        "orders": 1_000,
        "speed": None,
        "orders_per_tick": 2.0,
        "outstanding_max": 0,
    }
    return Feed(Options(**(options | changed)))


async def read(bootstrap: str, topic: str) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        records: list[Any] = []
        ends = await consumer.end_offsets(consumer.assignment())
        while len(records) < sum(ends.values()):
            for some in (await consumer.getmany(timeout_ms=500)).values():
                records.extend(some)
        return records
    finally:
        await consumer.stop()


async def test_as_many_records_as_asked_for_are_on_orders_and_a_second_run_goes_on(
    bootstrap: str, trades: Path
) -> None:
    await make_topics(bootstrap)
    summary = await a_feed(bootstrap, trades).run()
    assert (summary.orders_sent, summary.ticks_sent, summary.last_tick) == (1_000, 500, 500)
    assert summary.garbage_sent > 5
    assert summary.refused == 0
    assert len(await read(bootstrap, ORDERS)) == 1_000
    limits = await read(bootstrap, RISK_LIMITS)
    commands = await read(bootstrap, OPERATOR_COMMANDS)
    kinds = Counter(dict(each.headers)["event-type"] for each in commands)
    instructions = await read(bootstrap, ALLOCATIONS)
    sub_accounts = sum(len(json.loads(each.value)["shares"]) for each in instructions)
    assert sub_accounts > 0
    accounts = len(limits) + sub_accounts
    assert kinds == {b"SetInstrument": 2, b"SetCounterparty": 2, b"SetAccount": accounts}

    again = await a_feed(bootstrap, trades, resume=True, orders=200).run()
    assert again.last_tick == 600
    ticks = await read(bootstrap, MARKET_DATA)
    assert [record.headers[2][1] for record in ticks] == [b"BTC-USD/0/%d" % each for each in range(1, 601)]
    ids = [dict(each.headers).get("event-id") for each in await read(bootstrap, ORDERS)]
    assert len(ids) == 1_200
    assert len(await read(bootstrap, RISK_LIMITS)) == len(limits)


async def test_without_resume_topics_that_hold_ticks_are_refused(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    await a_feed(bootstrap, trades, orders=10).run()
    with pytest.raises(UserError, match="--resume goes on after them, --new-session counts"):
        await a_feed(bootstrap, trades, orders=10).run()


async def ticks(bootstrap: str) -> list[tuple[int, int]]:
    """Epoch and sequence of each tick."""
    found = [TickReceived.model_validate_json(each.value) for each in await read(bootstrap, MARKET_DATA)]
    return [(each.epoch, each.sequence) for each in found]


async def order_ids(bootstrap: str) -> list[bytes]:
    found = [dict(each.headers).get("event-id") for each in await read(bootstrap, ORDERS)]
    return [each for each in found if each is not None and not each.startswith(b"garbage")]


async def test_a_new_session_counts_ticks_from_1_and_no_order_comes_twice(
    bootstrap: str, trades: Path
) -> None:
    await make_topics(bootstrap)
    venue = AVenue()
    async with venue.serving() as url:
        for again in ({}, {"new_session": True}, {"resume": True}):
            await a_feed(bootstrap, trades, orders=20, venue_url=url, **again).run()
    first = [(0, each) for each in range(1, 11)]
    assert await ticks(bootstrap) == [*first, *((1, each) for each in range(1, 21))]
    assert venue.sequences == list(range(1, 31))
    from_accounts = [each for each in await order_ids(bootstrap) if b"garbage" not in each]
    assert len(set(from_accounts)) >= len(from_accounts) - 1  # the accounts send a repeat now and then


@pytest.mark.parametrize("epoch", [0, 7])
async def test_ticks_of_others_do_not_lead_the_feed_astray(bootstrap: str, trades: Path, epoch: int) -> None:
    await make_topics(bootstrap)
    await a_feed(bootstrap, trades, orders=20).run()
    wild = {"symbol": "BTC-USD", "sequence": 10**12, "price_ticks": 1, "quantity_lots": 1, "epoch": epoch}
    wild |= {"exchange_at_ms": 1, "observed_at_ms": 1}
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(MARKET_DATA, json.dumps(wild).encode(), b"BTC-USD")
    summary = await a_feed(bootstrap, trades, orders=20, resume=True).run()
    assert summary.last_tick == 20
    own = [each for each in await ticks(bootstrap) if each[1] < 10**12]
    expected = range(11, 21) if epoch == 0 else range(1, 11)
    assert own[10:] == [(8 if epoch else 0, each) for each in expected]


async def test_ticks_that_are_none_of_ours_are_followed_by_a_session_of_ours(
    bootstrap: str, trades: Path
) -> None:
    await make_topics(bootstrap)
    foreign = {"symbol": "BTC-USD", "sequence": 3, "price_ticks": 1, "quantity_lots": 1}
    foreign |= {"exchange_at_ms": 1, "observed_at_ms": 1}
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(MARKET_DATA, json.dumps(foreign).encode(), b"BTC-USD")
    await a_feed(bootstrap, trades, orders=4, resume=True).run()
    assert await ticks(bootstrap) == [(0, 3), (1, 1), (1, 2)]


async def test_what_is_in_force_stays_as_an_operator_has_left_it(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for topic, key in (
            (topics.INSTRUMENTS, b"BTC-USD"),
            (topics.ACCOUNTS, b"maker-00"),
            (topics.RESTRICTED_LIST, b"ETH-USD"),
        ):
            await producer.send_and_wait(topic.name, b"{}", key)
    await a_feed(bootstrap, trades, orders=4).run()
    commanded = {each.key for each in await read(bootstrap, OPERATOR_COMMANDS)}
    assert b"ETH-USD" in commanded
    assert commanded.isdisjoint({b"BTC-USD", b"maker-00"})
    assert {each.key for each in await read(bootstrap, RESTRICTIONS)} == {b"BTC-USD"}


async def test_records_with_odd_headers_do_not_keep_the_feed_out(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    for topic in (RISK_LIMITS, RESTRICTIONS, MARKET_DATA):
        await write_odd_header(bootstrap, topic, b"BTC-USD", b"[" * 10_000)
    summary = await a_feed(bootstrap, trades, orders=10).run()
    assert summary.orders_sent == 10
    assert len({record.key for record in await read(bootstrap, ORDERS)}) > 1


async def test_a_feed_without_its_topics_says_so(
    bootstrap: str, trades: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_topics(bootstrap)
    monkeypatch.setattr(history, "TOPIC_S_MAX", 0.2)
    async with an_admin(bootstrap) as admin:
        await admin.delete_topics([MARKET_DATA])
        await gone(admin, MARKET_DATA)
    with pytest.raises(UserError, match="has no topic 'market-data'"):
        await a_feed(bootstrap, trades, orders=10).run()


async def test_a_record_the_broker_refuses_harms_no_other(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    async with an_admin(bootstrap) as admin:
        await admin.delete_topics([ORDERS])
        await gone(admin, ORDERS)
        await admin.create_topics([NewTopic(ORDERS, 1, 1, topic_configs={"max.message.bytes": "1000000"})])
        await there(admin, ORDERS)
    summary = await a_feed(bootstrap, trades).run()
    assert (summary.refused, summary.orders_sent) == (1, 1_000)
    assert len(await read(bootstrap, ORDERS)) == 1_000


async def test_orders_wait_while_risk_is_behind(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    await commit(bootstrap, "marketdata", MARKET_DATA, 1 << 30)
    await commit(bootstrap, "risk", RISK_LIMITS, 1 << 30)
    await commit(bootstrap, "refdata", OPERATOR_COMMANDS, 1 << 30)
    await commit(bootstrap, "refdata", RESTRICTIONS, 1 << 30)
    await commit(bootstrap, "risk", ORDERS, 0)
    feed = a_feed(bootstrap, trades, orders=2_000, outstanding_max=500)
    running = asyncio.create_task(feed.run())
    await sent_at_least(feed, 501)
    await asyncio.sleep(1)
    assert 500 < feed.summary.orders_sent <= 500 + 200
    assert not running.done()
    await commit(bootstrap, "risk", ORDERS, 1 << 30)
    assert (await asyncio.wait_for(running, 30)).orders_sent == 2_000


async def commit(bootstrap: str, group: str, topic: str, offset: int) -> None:
    """Stand in for a service that has come so far in every partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, each) for each in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.commit({each: OffsetAndMetadata(offset, "") for each in partitions})
    finally:
        await consumer.stop()


class AVenue:
    """A venue that fails some calls, then listens."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.sequences: list[int] = []

    async def market(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        if self.failures > 0:
            self.failures -= 1
            return web.Response(status=503)
        self.sequences += [tick["sequence"] for tick in (await request.json())["ticks"]]
        return web.Response()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/market", self.market)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def test_the_venue_gets_every_tick_though_it_fails_at_first(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    venue = AVenue(failures=3)
    async with venue.serving() as url:
        summary = await a_feed(bootstrap, trades, venue_url=url).run()
    assert venue.sequences == list(range(1, summary.ticks_sent + 1))
    assert summary.venue_ticks_dropped == 0


async def test_a_venue_that_refuses_the_token_ends_the_feed_with_a_line(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    async with AVenue().serving() as url:
        with pytest.raises(UserError, match="VENUE_TOKEN"):
            await a_feed(bootstrap, trades, venue_url=url, venue_token="another", orders=None).run()


async def test_stop_ends_an_endless_feed_soon(bootstrap: str, trades: Path) -> None:
    await make_topics(bootstrap)
    feed = a_feed(bootstrap, trades, orders=None, speed=50.0)
    running = asyncio.create_task(feed.run())
    await sent_at_least(feed, 20)
    feed.stop()
    summary = await asyncio.wait_for(running, 5)
    assert 10 <= summary.ticks_sent < 200
    assert len(await read(bootstrap, ORDERS)) == summary.orders_sent


async def test_a_killed_broker_that_comes_back_has_every_record_once(tmp_path: Path, trades: Path) -> None:
    async with KafkaServer(tmp_path / "kafka") as broker:
        await broker.ready()
        bootstrap, pid = broker.bootstrap, broker.pid
        await make_topics(bootstrap)
        feed = a_feed(bootstrap, trades, orders=3_000, speed=300.0)
        running = asyncio.create_task(feed.run())
        await sent_at_least(feed, 300)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(2)
    async with KafkaServer(tmp_path / "kafka", port=int(bootstrap.rsplit(":")[-1])) as broker:
        await broker.ready()
        summary = await asyncio.wait_for(running, 60)
        assert summary.orders_sent == 3_000
        assert len(await read(bootstrap, ORDERS)) == 3_000
        assert len(await read(bootstrap, MARKET_DATA)) == summary.ticks_sent


async def sent_at_least(feed: Feed, orders: int) -> None:
    async with asyncio.timeout(60):
        while feed.summary.orders_sent < orders:  # noqa: ASYNC110  (it counts in another task)
            await asyncio.sleep(0.02)
