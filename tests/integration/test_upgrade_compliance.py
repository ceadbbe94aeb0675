"""A stop of compliance, the next release, a start: accounts that were one value each go on as rows."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.engine import TopicSpec
from app.engine.kafka.admin import ensure_topics
from app.engine.state.table import CHANGELOG_CONFIG
from app.processes.guarded import start_guarded
from app.topics import COMPLIANCE_DECISIONS, DEAD_LETTERS, EXECUTIONS, RISK_DECISIONS, TOPICS
from models.events import OrderReceived
from models.values import Frozen
from tests.builders import NOW_MS, acknowledged, an_approval, an_order, cancelled
from tests.engine.waiting import until
from tests.engine.world import read_all
from tests.integration.test_web import free_port
from tests.integration.topics import put, remove_topics

MET, NOT_MET = "acc-1", "acc-2"
WITHIN_S = 60.0
OLD, OPEN_ORDERS, RECENT = (
    f"compliance-{table}-changelog" for table in ("recent_orders", "open_orders", "recent_kinds")
)
RECENT_BEFORE = {"order_id": "acc-1-6", "submitted_at_ms": 1, "received_at_ms": NOW_MS}
BEFORE: dict[str, Any] = {
    "recent": {"BTC-USD/sell/10@90001": RECENT_BEFORE},
    "open_orders": {
        "acc-1-2": {"symbol": "BTC-USD", "side": "sell", "price_ticks": 90_500, "rests": True},
        "acc-1-6": {"symbol": "BTC-USD", "side": "sell", "price_ticks": 90_001, "rests": True},
    },
    "last_sequence": 7,
    "last_venue_sequence": 5,
}
"""Order 7 was refused."""


class Scene:
    """A broker with what the release before has left, and a worker's directory."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap, self.directory = bootstrap, directory

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker, until it is stopped."""
        command = [sys.executable, "-m", "faust", "-A", "app.compliance", "--datadir", str(self.directory)]
        with pytest.MonkeyPatch.context() as patch, (self.directory.parent / "log").open("ab") as output:
            patch.setitem(os.environ, "KAFKA_BOOTSTRAP", self.bootstrap)
            patch.setitem(os.environ, "PIPELINE_PARTITIONS", "1")
            with start_guarded(
                [*command, "worker", "--web-port", str(free_port())], grace_s=5, output=output
            ):
                yield

    async def put(self, spec: TopicSpec, *values: Frozen) -> None:
        await put(self.bootstrap, spec, *values)

    async def approve(self, *orders: OrderReceived) -> None:
        await self.put(RISK_DECISIONS, *map(an_approval, orders))

    async def until_decided(self, *expected: tuple[str, str | None]) -> None:
        """Wait until so many orders are decided, and compare them and their reasons."""

        async def have_come() -> bool:
            return len(await read_all(self.bootstrap, COMPLIANCE_DECISIONS.name)) >= len(expected)

        await until(have_come, WITHIN_S)
        found = [
            json.loads(each.value or b"")
            for each in await read_all(self.bootstrap, COMPLIANCE_DECISIONS.name)
        ]
        assert [(each["order"]["order_id"], each.get("reason")) for each in found] == list(expected)

    async def rows(self, changelog: str) -> dict[str, Any]:
        """What a table has, as its changelog tells it."""
        found: dict[str, Any] = {}
        for each in await read_all(self.bootstrap, changelog):
            found[(each.key or b"").decode()] = each.value and json.loads(each.value)
        return {key: value for key, value in found.items() if value is not None}


@pytest.fixture
async def scene(bootstrap: str, tmp_path: Path) -> AsyncIterator[Scene]:
    await remove_topics(bootstrap)
    changelog = TopicSpec(OLD, None, config=CHANGELOG_CONFIG)  # type: ignore[arg-type]
    topics = [*TOPICS, changelog]
    await ensure_topics(bootstrap, topics, partitions=1, replication_factor=1, client_id="test")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for account in (MET, NOT_MET):
            value = json.dumps(BEFORE).replace(MET, account).encode()
            await producer.send_and_wait(OLD, value, account.encode(), 0)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id="compliance") as consumer:
        tps = [TopicPartition(spec.name, 0) for spec in (EXECUTIONS, RISK_DECISIONS)]
        consumer.assign(tps)
        await consumer.commit(dict.fromkeys(tps, 0))
    yield Scene(bootstrap, tmp_path / "data")
    await remove_topics(bootstrap)


def order(sequence: int, **changed: Any) -> OrderReceived:
    return an_order(order_id=f"{MET}-{sequence}", sequence=sequence, **changed)


async def test_an_account_goes_on_from_one_value_as_rows_and_nothing_is_lost(scene: Scene) -> None:
    same = order(8, side="sell", price_ticks=90_001, submitted_at_ms=NOW_MS + 900)
    meets = order(9, price_ticks=90_001)
    with scene.worker():
        await scene.approve(order(7), same, meets, order(10, price_ticks=90_000))
        decided = [
            (same.order_id, "duplicate_order"),
            (meets.order_id, "self_match"),
            (f"{MET}-10", None),
        ]
        await scene.until_decided(*decided)
        repeated = acknowledged(order_id="acc-1-3", venue_sequence=5)
        await scene.put(EXECUTIONS, repeated, cancelled(10, order_id="acc-1-6", venue_sequence=6))
        await asyncio.sleep(0.5)
        await scene.approve(order(11, price_ticks=90_001, submitted_at_ms=NOW_MS + 5_000))
        decided += [(f"{MET}-11", None)]
        await scene.until_decided(*decided)
    shutil.rmtree(scene.directory)
    with scene.worker():
        await scene.approve(
            order(11, price_ticks=90_001, submitted_at_ms=NOW_MS + 5_000),
            order(12, price_ticks=90_001, submitted_at_ms=NOW_MS + 6_000),
            order(13, side="sell", price_ticks=90_001, submitted_at_ms=NOW_MS + 9_000),
            order(14, price_ticks=90_500, submitted_at_ms=NOW_MS + 9_000),
            order(15, price_ticks=90_499, submitted_at_ms=NOW_MS + 9_000),
        )
        reasons = ("duplicate_order", "self_match", "self_match", None)
        await scene.until_decided(*decided, *zip([f"{MET}-{n}" for n in range(12, 16)], reasons, strict=True))

    accounts = await scene.rows(OLD)
    assert accounts[MET] == {"$v": 2, "last_sequence": 15, "last_venue_sequence": 6}
    assert accounts[NOT_MET] == json.loads(json.dumps(BEFORE).replace(MET, NOT_MET)), "it stays as it is"
    open_orders = await scene.rows(OPEN_ORDERS)
    assert open_orders.keys() == {f"{MET}/{MET}-{n}" for n in (2, 10, 11, 15)}
    assert open_orders[f"{MET}/{MET}-2"] == {"$v": 2, **BEFORE["open_orders"]["acc-1-2"]}
    assert {key.partition("/")[0] for key in await scene.rows(RECENT)} == {MET}
    assert await read_all(scene.bootstrap, DEAD_LETTERS.name) == []
