"""What compliance remembers of an account, when the engine tries a batch again, in parts or as a whole."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import agents.compliance as agent
from app.engine import Batch, TopicSpec, Transient
from app.engine.core.chunk import Item
from app.engine.core.effects import Effects
from app.topics import COMPLIANCE_DECISIONS, EXECUTIONS, RISK_DECISIONS
from models.events import OrderReceived, TradeExecuted
from models.values import Frozen
from tests.builders import a_fill, an_approval, an_order
from tests.engine.alone import Alone, Raw, a_key

ACCOUNT = a_key()


class NoRestrictions:
    """An empty restricted list."""

    def get(self, symbol: str) -> None:
        return None

    def is_unreadable(self, symbol: str) -> bool:
        return False


class Compliance(Alone):
    """The real agent on a real task without Kafka; the next commits fail by `failures`."""

    def __init__(self, directory: Path) -> None:
        self.failures: list[Exception] = []
        self._batches: asyncio.Queue[Batch] = asyncio.Queue()
        self._offset = 0
        inputs: list[TopicSpec] = [EXECUTIONS, RISK_DECISIONS]
        outputs = [COMPLIANCE_DECISIONS]
        super().__init__(directory, lambda *_: None, inputs, tables=agent.TABLES, outputs=outputs)

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            yield await self._batches.get()

    async def _deliver(self, batch: Batch) -> None:
        await self._batches.put(batch)

    async def _commit(self, work: Effects) -> None:
        if self.failures:
            raise self.failures.pop()
        await super()._commit(work)

    async def take_events(self, *events: Frozen, failures: list[Exception]) -> None:
        """Process approvals and reports in one batch, whose first commits fail."""
        self.failures = list(failures)
        await self.take(*map(self._item, events))
        assert self.failures == []

    def _item(self, event: Any) -> Item:
        spec: Any = EXECUTIONS if hasattr(event, "venue_sequence") else RISK_DECISIONS
        name, version, data = spec.codec.encode(event)
        self._offset += 1
        headers = (("event-type", name), ("schema-version", version))
        return spec, Raw(self._offset, spec.key_of(event), data, headers)

    def decisions(self) -> list[tuple[str, str | None]]:
        found: list[Any] = [
            COMPLIANCE_DECISIONS.codec.decode(
                each.headers["event-type"], each.headers["schema-version"], each.value or b""
            )
            for each in self.sent(COMPLIANCE_DECISIONS)
        ]
        return [(each.order.order_id, getattr(each, "reason", None)) for each in found]


@pytest.fixture
async def compliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Compliance]:
    monkeypatch.setattr(agent, "restrictions", NoRestrictions())
    alone = Compliance(tmp_path)
    fun: Any = agent.check_compliance
    acting = asyncio.create_task(fun.fun(alone.batches()))
    yield alone
    acting.cancel()
    await asyncio.gather(acting, return_exceptions=True)
    alone.store.close()


def order(sequence: int, **changed: Any) -> OrderReceived:
    return an_order(
        order_id=f"{ACCOUNT}-{sequence}", account_id=ACCOUNT, sequence=sequence, price_ticks=100, **changed
    )


def fill(sequence: int) -> TradeExecuted:
    """The end of one of the orders."""
    order_id = f"{ACCOUNT}-{sequence}"
    return a_fill(1, leaves_lots=0, order_id=order_id, account_id=ACCOUNT, venue_sequence=sequence)


FAILURES = {
    "again as a whole": [Transient("Kafka was away"), Transient("Kafka was away")],
    "in parts": [ValueError("one of the records")],
    "in parts, and these again": [Transient("Kafka was away"), ValueError("one of the records")],
}


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize("failures", FAILURES.values(), ids=FAILURES)
async def test_whatever_commit_fails_no_order_is_remembered_twice_or_forgotten(
    compliance: Compliance, failures: list[Exception], failing: int
) -> None:
    batches: list[list[Frozen]] = [
        [an_approval(order(1)), an_approval(order(2, quantity_lots=2))],
        [an_approval(order(3, side="sell", quantity_lots=3)), fill(1)],
        [an_approval(order(4, side="sell")), fill(2)],
        [an_approval(order(5, side="sell")), an_approval(order(6, side="sell", quantity_lots=6))],
    ]
    async with asyncio.timeout(20):
        for number, events in enumerate(batches):
            await compliance.take_events(*events, failures=failures if number == failing else [])

    assert compliance.decisions() == [
        (f"{ACCOUNT}-1", None),
        (f"{ACCOUNT}-2", None),
        (f"{ACCOUNT}-3", "self_match"),
        (f"{ACCOUNT}-4", None),
        (f"{ACCOUNT}-5", "duplicate_order"),
        (f"{ACCOUNT}-6", None),
    ]
    assert compliance.dead == []
