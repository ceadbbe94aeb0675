"""A stop, the next release, a start: the exchange and the venue on what the release before has left."""

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.domain.exchange import Intent, IntentState
from app.engine import shard_of
from app.engine.kafka.admin import ensure_topics
from app.engine.state.table import CHANGELOG_CONFIG
from app.engine.topics import TopicSpec
from app.topics import COMPLIANCE_DECISIONS, DEAD_LETTERS, TOPICS
from tests.engine.world import read_all
from tests.integration.test_exchange import PARTITIONS, PRICE, Scene, an_order_of
from tests.integration.test_venue import TOKEN, Client, VenueProcess
from tests.integration.topics import remove_topics
from tests.release_before import LOTS, LedgerBefore, accounts_on

PARTITION = 1
FIRST, SECOND = islice(accounts_on(PARTITION, PARTITIONS), 2)
READ = 2
"""Of its partition's reports the exchange had booked so many when it was stopped."""

ACK, FILL = "OrderAcknowledged", "TradeExecuted"


@pytest.fixture
def scene(bootstrap: str, tmp_path: Path) -> Iterator[Scene]:
    """One order of each account is at the venue; a fill and an acknowledgement are not booked yet."""
    before = LedgerBefore(tmp_path / "venue" / "ledger.sqlite", PARTITIONS)
    before.place(FIRST)
    partly = before.place(SECOND)
    before.fill(partly, 4, leaves_lots=LOTS - 4)
    before.place(FIRST, sequence=2)
    asyncio.run(_leave_tables(bootstrap))
    venue = VenueProcess(tmp_path / "venue", "--die-with-parent")
    directory = tmp_path / "exchange"
    directory.mkdir()
    yield Scene(bootstrap, venue, directory)
    venue.kill()
    asyncio.run(remove_topics(bootstrap))


async def _leave_tables(bootstrap: str) -> None:
    """The changelogs and the offsets of an exchange of the release before."""
    await remove_topics(bootstrap)
    names = ("intents", "sessions")
    changelogs = [
        TopicSpec(f"exchange-{name}-changelog", None, config=CHANGELOG_CONFIG)  # type: ignore[arg-type]
        for name in names
    ]
    await ensure_topics(
        bootstrap, [*TOPICS, *changelogs], partitions=PARTITIONS, replication_factor=1, client_id="test"
    )
    intents = {
        f"{account}/{account}-{sequence}": _intent(account, sequence, state)
        for account, sequence, state in (
            (FIRST, 1, IntentState.ACKNOWLEDGED),
            (SECOND, 1, IntentState.ACKNOWLEDGED),
            (FIRST, 2, IntentState.PENDING),
        )
    }
    cursor = json.dumps({"venue_sequence_last": READ, "epoch": 70_000}).encode()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for key, value in intents.items():
            await producer.send_and_wait("exchange-intents-changelog", value, key.encode(), PARTITION)
        own = str(PARTITION).encode()
        await producer.send_and_wait("exchange-sessions-changelog", cursor, own, PARTITION)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id="exchange") as consumer:
        tps = [TopicPartition(COMPLIANCE_DECISIONS.name, number) for number in range(PARTITIONS)]
        consumer.assign(tps)
        await consumer.commit(dict.fromkeys(tps, 0))


def _intent(account: str, sequence: int, state: IntentState) -> bytes:
    order = an_order_of(account, sequence, quantity_lots=LOTS)
    intent = Intent(order=order, state=state, open_lots=LOTS).model_dump(mode="json")
    del intent["disputed"]
    return json.dumps(intent).encode()


async def test_orders_at_the_venue_go_on_and_no_report_is_lost_or_booked_twice(scene: Scene) -> None:
    with scene.worker():
        await scene.ready()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            client = Client(scene.venue, http)
            await scene.until_executed(SECOND, FILL)
            await scene.until_executed(FIRST, ACK)
            await scene.trade(client, LOTS + (LOTS - 4) + LOTS)
            first = await scene.until_executed(FIRST, ACK, FILL, FILL)
            second = await scene.until_executed(SECOND, FILL, FILL)
            assert [each["venue_sequence"] for each in first] == [4, 5, 6]
            assert [each["venue_sequence"] for each in second] == [3, 5]
            assert sum(each["quantity_lots"] for each in second) == LOTS
            for account in (FIRST, SECOND):
                await scene.introduce(account)
            await scene.approve(an_order_of(SECOND, 2, price_ticks=PRICE))
            await scene.until_executed(SECOND, FILL, FILL, ACK)
    sent = scene.venue.ledger("SELECT account_id, session, receipts FROM orders")
    assert sorted(sent) == sorted((name, shard_of(name.encode()), 1) for name in [FIRST, SECOND] * 2)
    assert await read_all(scene.bootstrap, DEAD_LETTERS.name) == []
