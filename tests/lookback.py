"""The pipeline in memory with a venue of the test's own, and its log as `state` and `whatif` read it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from app.engine.kafka.cluster import TP
from app.operators.history import Read, read_log
from app.topics import (
    ACCOUNTS,
    COMMAND_ANSWERS,
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
    RISK_LIMITS,
)
from models.events import (
    CancelAccepted,
    CancelRejected,
    CancelRequested,
    OrderAcknowledged,
    OrderCancelled,
    OrderComplianceApproved,
    OrderExpired,
    OrderReceived,
    OrderReplaced,
    OrderRiskApproved,
    ReplaceComplianceApproved,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    TradeExecuted,
)
from models.values import TimeInForce
from tests.builders import PRICE_TICKS
from tests.pipelines import Pipeline


class Resting(SimpleNamespace):
    """An order at the venue."""

    order: OrderReceived
    lots: int
    price_ticks: int
    filled_lots: int

    @property
    def leaves_lots(self) -> int:
        return self.lots - self.filled_lots


class Desk:
    """In the place of `app.operators.desk.Desk`: the log of a pipeline in memory."""

    def __init__(self, pipeline: Pipeline, begins: Mapping[str, int] | None = None) -> None:
        self._pipeline = pipeline
        self._begins = begins or {}

    def has_topic(self, topic: str) -> bool:
        return True

    async def partition_count(self, topic: str) -> int:
        return 1

    async def home(self, topic: str, key: str) -> int:
        return 0

    async def begins_at(self, topic: str, partition: int) -> int:
        return self._begins.get(topic, 0)

    async def in_force(self, spec: Any) -> dict[str, Any]:
        return dict(self._pipeline.global_values[spec.name])

    async def last_record(self, topic: str, key: str) -> Any:
        found = [each for each in self._pipeline.records[topic] if each.key == key.encode()]
        return found[-1] if found else None

    async def records_of(self, topic: str, key: str) -> AsyncIterator[tuple[TP, Any]]:
        async for tp, record in self.records(topic, 0):
            if record.key == key.encode():
                yield tp, record

    async def records(self, topic: str, partition: int) -> AsyncIterator[tuple[TP, Any]]:
        for number, record in enumerate(self._pipeline.records[topic]):
            if topic == COMMAND_ANSWERS.name:  # the engine names the command: here the n-th answers the n-th
                id_ = f"{RISK_LIMITS.name}/0/{number}:risk:0".encode()
                record = msgspec.structs.replace(record, headers=(*record.headers, ("event-id", id_)))
            yield TP(topic, 0), record


def read(pipeline: Pipeline, account_id: str | None = None, **begins: int) -> Read:
    """What `state` and `whatif` read of the pipeline's log."""
    desk: Any = Desk(pipeline, {name.replace("_", "-"): offset for name, offset in begins.items()})
    return asyncio.run(read_log(desk, account_id))


class Floor:
    """Accounts that trade. The venue does what the test says, and answers requests when it is told to.

    Without compliance, all that risk has let pass goes to the venue.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, compliance: bool = True) -> None:
        self.pipeline = Pipeline(monkeypatch)
        self.pipeline.away |= {"exchange"} if compliance else {"exchange", "compliance"}
        self.changes: Mapping[str, Any] = {}
        """What all limits that are set have otherwise."""
        self.fills = False
        """Whether the venue fills each order at once."""
        self.resting: dict[str, Resting] = {}
        self.requests: list[Any] = []
        self._decided = COMPLIANCE_DECISIONS if compliance else RISK_DECISIONS
        self._seen = self._sent = self._reports = self._versions = 0

    def limit(self, account_id: str, **fields: Any) -> None:
        self._versions += 1
        tight = {"position_lots_max": 60, "open_orders_max": 4, "price_age_ms_max": 10**9}
        self.pipeline.limit(account_id, self._versions, **(tight | fields | dict(self.changes)))

    def order(self, account_id: str = "a", lots: int = 10, **changed: Any) -> str:
        order = self.pipeline.order(account_id, quantity_lots=lots, **changed)
        self.venue()
        return order.order_id

    def cancel(self, order_id: str) -> None:
        account_id = order_id.rpartition("-")[0]
        self._sent += 1
        request = CancelRequested(
            request_id=f"c{self._sent}", account_id=account_id, order_id=order_id, submitted_at_ms=self._now()
        )
        self.pipeline.put(ORDERS, request, ours=False)
        self.venue()

    def replace(self, order_id: str, lots: int, price_ticks: int = PRICE_TICKS) -> None:
        account_id = order_id.rpartition("-")[0]
        sequence = len(self.pipeline.records[ORDERS.name]) + 1
        request = ReplaceRequested(
            request_id=f"{account_id}-{sequence}",
            account_id=account_id,
            sequence=sequence,
            order_id=order_id,
            quantity_lots=lots,
            price_ticks=price_ticks,
            submitted_at_ms=self._now(),
        )
        self.pipeline.put(ORDERS, request, ours=False)
        self.venue()

    def venue(self) -> None:
        """Take in what was let pass."""
        records = self.pipeline.records[self._decided.name]
        for record in records[self._seen :]:
            headers: dict[str, Any] = dict(record.headers)
            self._take(self._decided.codec.decode(headers["event-type"], b"1", record.value or b""))
        self._seen = len(records)

    def _take(self, decision: Any) -> None:
        match decision:
            case OrderComplianceApproved(order=order) | OrderRiskApproved(order=order):
                self.resting[order.order_id] = Resting(
                    order=order, lots=order.quantity_lots, price_ticks=order.price_ticks, filled_lots=0
                )
                self._report(order, OrderAcknowledged)
                if self.fills:
                    self.fill(order.order_id, order.quantity_lots)
                elif order.time_in_force is TimeInForce.IOC:
                    self.end(order.order_id)
            case CancelAccepted() | ReplaceComplianceApproved() | ReplaceRiskApproved():
                self.requests.append(decision)

    def fill(self, order_id: str, lots: int) -> None:
        each = self.resting[order_id]
        lots = min(lots, each.leaves_lots)
        each.filled_lots += lots
        told = {"quantity_lots": lots, "leaves_lots": each.leaves_lots}
        self._report(each.order, TradeExecuted, trade_id="t", price_ticks=each.price_ticks, **told)
        if not each.leaves_lots:
            del self.resting[order_id]

    def end(self, order_id: str, request_id: str | None = None) -> None:
        each = self.resting.pop(order_id)
        self._report(each.order, OrderCancelled, cancelled_lots=each.leaves_lots, request_id=request_id)

    def expire(self) -> None:
        for order_id in [*self.resting]:
            each = self.resting.pop(order_id)
            self._report(each.order, OrderExpired, expired_lots=each.leaves_lots)

    def answer(self, *, refuse: bool = False) -> None:
        """Do what was asked, or refuse it."""
        requests, self.requests = self.requests, []
        for decision in requests:
            each = self.resting.get(decision.request.order_id)
            if each is None:
                continue  # its end has answered it
            if isinstance(decision, CancelAccepted):
                if refuse:
                    reason = {"request_id": decision.cancel_id, "reason": "order_ended"}
                    self._report(each.order, CancelRejected, **reason)
                else:
                    self.end(each.order.order_id, decision.cancel_id)
            elif refuse:
                reason = {"request_id": decision.request.request_id, "reason": "market_closed"}
                self._report(each.order, ReplaceRejected, **reason)
            else:
                self._replace(each, decision.request)

    def _replace(self, each: Resting, request: ReplaceRequested) -> None:
        each.lots, each.price_ticks = max(request.quantity_lots, each.filled_lots), request.price_ticks
        self._report(
            each.order,
            OrderReplaced,
            request_id=request.request_id,
            quantity_lots=each.lots,
            price_ticks=each.price_ticks,
            leaves_lots=each.leaves_lots,
        )
        if not each.leaves_lots:
            del self.resting[each.order.order_id]

    def _report(self, order: OrderReceived, kind: Any, **fields: Any) -> None:
        self._reports += 1
        report = kind(
            order_id=order.order_id,
            account_id=order.account_id,
            symbol=order.symbol,
            side=order.side,
            venue_order_id=f"V-{order.order_id}",
            venue_sequence=self._reports,
            **fields,
        )
        self.pipeline.put(EXECUTIONS, report)

    def accounts(self) -> list[str]:
        return sorted(self.pipeline.global_values[ACCOUNTS.name])

    def _now(self) -> int:
        self.pipeline.wait(2_000)
        return self.pipeline.now_ms
