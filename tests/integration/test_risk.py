"""A real risk worker on a real broker: commands and their answers, repeats, instructions nobody knows."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from app.engine import TopicSpec
from app.engine.kafka.admin import ensure_topics
from app.processes.guarded import start_guarded
from app.topics import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    COMMAND_ANSWERS,
    COMPLIANCE_DECISIONS,
    DEAD_LETTERS,
    EXECUTIONS,
    HALTS,
    INSTRUMENTS,
    ORDERS,
    PRICES,
    RISK_DECISIONS,
    RISK_LIMITS,
    TOPICS,
)
from checker.reference import BINDS_WITHIN_MS
from models.commands import SetAccountSequence
from models.events import OrderComplianceRejected, OrderReceived
from models.reasons import ComplianceReason
from models.values import Frozen
from tests.builders import (
    BTC,
    a_fill,
    a_halt,
    a_price,
    an_order,
    cancelled,
    limits,
    registered,
    withheld,
)
from tests.engine.waiting import until
from tests.engine.world import read_all
from tests.integration.topics import remove_topics

ACCOUNT = "acc-1"
PATIENT = {"order_age_ms_max": 600_000, "price_age_ms_max": 600_000}


class Client:
    """Writes to the worker's inputs as anybody could, and reads what it says."""

    def __init__(self, bootstrap: str, producer: AIOKafkaProducer) -> None:
        self._bootstrap = bootstrap
        self._producer = producer

    async def put(self, spec: TopicSpec, *values: Frozen) -> None:
        for value in values:
            name, version, data = spec.codec.encode(value)
            assert spec.key_of is not None
            await self.put_raw(spec, spec.key_of(value), data, name, version)

    async def put_raw(
        self, spec: TopicSpec, key: bytes, data: bytes | None, name: bytes, version: bytes = b"1"
    ) -> None:
        headers = [("event-type", name), ("schema-version", version)]
        await self._producer.send_and_wait(spec.name, data, key, headers=headers)

    async def said(self, spec: TopicSpec) -> list[dict[str, Any]]:
        return [json.loads(each.value or b"") for each in await read_all(self._bootstrap, spec.name)]

    async def answers(self, count: int) -> list[tuple[bool, str]]:
        """Whether each command so far was accepted, and the reason, once there are so many answers."""

        async def has_come() -> bool:
            return len(await self.said(COMMAND_ANSWERS)) >= count

        await until(has_come)
        return [(each["accepted"], each["reason"]) for each in await self.said(COMMAND_ANSWERS)]

    async def decisions(self, count: int) -> list[str | None]:
        """The reason of each refusal, None for an approval, once there are so many decisions."""

        async def has_come() -> bool:
            return len(await self.said(RISK_DECISIONS)) >= count

        await until(has_come)
        return [each.get("reason") for each in await self.said(RISK_DECISIONS)]


@pytest.fixture
async def client(bootstrap: str, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a worker that knows one account, one instrument and a price; it has no limits yet."""
    await remove_topics(bootstrap)
    await ensure_topics(bootstrap, TOPICS, partitions=1, replication_factor=1, client_id="test")
    command = [sys.executable, "-m", "faust", "-A", "app.risk", "--datadir", str(tmp_path / "data")]
    with pytest.MonkeyPatch.context() as patch, (tmp_path / "worker.log").open("wb") as output:
        patch.setitem(os.environ, "KAFKA_BOOTSTRAP", bootstrap)
        patch.setitem(os.environ, "PIPELINE_PARTITIONS", "1")
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            client = Client(bootstrap, producer)
            await client.put(ACCOUNTS, registered())
            await client.put(INSTRUMENTS, BTC)
            await client.put(PRICES, a_price(observed_at_ms=now_ms()))
            with start_guarded([*command, "worker", "--without-web"], grace_s=5, output=output):
                yield client
    await remove_topics(bootstrap)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def an_order_now(sequence: int, **changed: Any) -> OrderReceived:
    return an_order(
        order_id=f"{ACCOUNT}-{sequence}", sequence=sequence, **({"submitted_at_ms": now_ms()} | changed)
    )


async def test_limits_kill_switches_and_tombstones_are_answered(client: Client) -> None:
    in_force = limits(version=7, **PATIENT)
    unread = {**in_force.model_dump(), "version": 9, "daily_loss_micros_max": 1}
    await client.put(ORDERS, an_order_now(1))
    assert await client.decisions(1) == ["unknown_account"]

    await client.put(RISK_LIMITS, in_force, in_force.model_copy(update={"position_lots_max": 10**9}))
    await client.put_raw(RISK_LIMITS, b"acc-1", json.dumps(unread).encode(), b"SetRiskLimits")
    accepted, stale, unknown = await client.answers(3)
    assert accepted == (True, "")
    assert stale == (False, "version 7 is in force: send a higher one")
    assert not unknown[0]
    assert "daily_loss_micros_max" in unknown[1]
    await client.put(ORDERS, an_order_now(1))
    assert (await client.decisions(2))[1:] == [None]

    await client.put(RISK_LIMITS, in_force.model_copy(update={"kill_switch": True}))
    assert (await client.answers(4))[3:] == [(True, "")]
    await client.put(ORDERS, an_order_now(2))
    assert (await client.decisions(3))[2:] == ["kill_switch_on"]

    await client.put_raw(RISK_LIMITS, b"acc-1", None, b"SetRiskLimits")
    assert (await client.answers(5))[4:] == [(True, "")]
    await client.put(ORDERS, an_order_now(3))
    assert (await client.decisions(4))[3:] == ["unknown_account"]


async def test_a_halt_whose_record_somebody_removes_goes_on_until_one_says_that_it_is_over(
    client: Client,
) -> None:
    await client.put(RISK_LIMITS, limits(**PATIENT))
    await client.answers(1)
    halt, sent = a_halt(scope="*"), 0

    async def is_halted() -> bool:
        nonlocal sent
        sent += 1
        await client.put(ORDERS, an_order_now(sent))
        return (await client.decisions(sent))[-1] == "halted"

    async def may_trade() -> bool:
        return not await is_halted()

    await client.put(HALTS, halt)
    await until(is_halted)
    await client.put_raw(HALTS, b"*", None, b"HaltInForce")
    await asyncio.sleep(BINDS_WITHIN_MS / 1_000)
    assert await is_halted()
    await client.put(HALTS, halt.model_copy(update={"halted": False}))
    await until(may_trade)


async def test_a_kill_switch_in_limits_that_cannot_be_read_takes(client: Client) -> None:
    await client.put(RISK_LIMITS, limits(**PATIENT))
    killing = {**limits(version=8).model_dump(), "kill_switch": True, "because": "of an unknown field"}
    await client.put_raw(RISK_LIMITS, b"acc-1", json.dumps(killing).encode(), b"SetRiskLimits")
    _, (accepted, reason) = await client.answers(2)
    assert not accepted
    assert reason.startswith("the kill switch is on, the rest is refused")

    await client.put(ORDERS, an_order_now(1))
    assert await client.decisions(1) == ["kill_switch_on"]


async def test_an_order_with_an_instruction_that_nobody_knows_is_refused_by_name(client: Client) -> None:
    await client.put(RISK_LIMITS, limits(**PATIENT))
    await client.answers(1)
    fields = {**an_order_now(1).model_dump(mode="json"), "stop_price_ticks": 80_000}
    await client.put_raw(ORDERS, b"acc-1", json.dumps(fields).encode(), b"OrderReceived")

    assert await client.decisions(1) == ["unknown_field"]
    (decision,) = await client.said(RISK_DECISIONS)
    assert decision["detail"] == "stop_price_ticks"


async def test_an_account_is_set_right_after_a_sequence_too_high(client: Client) -> None:
    await client.put(RISK_LIMITS, limits(**PATIENT))
    await client.answers(1)
    await client.put(ORDERS, an_order_now(3), an_order_now(5_000_000, quantity_lots=0), an_order_now(4))
    assert await client.decisions(3) == [None, "quantity_not_positive", "duplicate_order_id"]

    for last_sequence in (2, 3):
        command = SetAccountSequence(account_id="acc-1", last_sequence=last_sequence, who="w", why="y")
        await client.put(ACCOUNT_COMMANDS, command)
    assert (await client.answers(3))[1:] == [
        (False, "order 3 was approved: set that or a higher one"),
        (True, ""),
    ]
    await client.put(ORDERS, an_order_now(4))
    assert (await client.decisions(4))[3:] == [None]


async def test_reports_and_decisions_that_come_again_change_nothing(client: Client) -> None:
    await client.put(RISK_LIMITS, limits(position_lots_max=30, **PATIENT))
    await client.answers(1)
    orders = [an_order_now(sequence) for sequence in (1, 2, 3)]
    await client.put(ORDERS, *orders)
    assert await client.decisions(3) == [None, None, None]

    fill = a_fill(6, leaves_lots=4, order_id="acc-1-1", venue_sequence=1)
    ending = cancelled(4, order_id="acc-1-1", venue_sequence=2)
    never_left = withheld(10, order_id="acc-1-2")
    rejected = OrderComplianceRejected(order=orders[2], reason=ComplianceReason.SELF_MATCH)
    for _ in range(3):
        await client.put(EXECUTIONS, fill, ending, never_left)
        await client.put(COMPLIANCE_DECISIONS, rejected)
    await client.put(EXECUTIONS, ending, fill)

    await client.put(ORDERS, an_order_now(4, quantity_lots=24))
    await client.put(ORDERS, an_order_now(5, quantity_lots=1))
    assert (await client.decisions(5))[3:] == [None, "position_limit"]
    assert await client.said(DEAD_LETTERS) == []
