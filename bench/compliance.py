"""The real compliance agent, on accounts with few and with many open orders.

In a wave each account has an order approved, and its oldest open one is acknowledged and filled, so that as
many stay open as the case says, and up to `WAVES_AHEAD` more. Orders of an account come 50 ms apart and
differ, so that each is approved and some 20 are recent. An event is an approval by risk or a report of the
venue.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from app import topics
from app.engine import TopicSpec
from bench import job
from bench.contenders import ENGINE, EXACTLY_ONCE, Contender, python_module
from bench.kafka import Reader
from bench.plan import Plan
from bench.processes import BenchError
from bench.report import Row, spread
from bench.risk import Audit
from bench.run import Bench, Speed, Worker
from models.events import (
    OrderAcknowledged,
    OrderComplianceApproved,
    OrderReceived,
    OrderRiskApproved,
    TradeExecuted,
)
from models.values import Side

PARTITIONS = 4
ACCOUNTS = 500
OPEN_ORDERS = (1, 100, 1_000)

WAVES_AHEAD = 2
WAVES_UNMEASURED = 30
SHARE = 1 / 8
EVENTS_AN_ORDER = 3
APART_MS = 50
PRICES = 5_000
MID_TICKS = 9_300_000
STARTED_AT_MS = 1_700_000_000_000
STALL_SECONDS_MAX = 120.0
POLL_SECONDS = 0.002
TITLE = "Compliance agent: approvals and reports, by open orders an account; 4 partitions, one worker"

TABLES = ("recent_orders", "open_orders", "recent_kinds", "quarantine")
ENGINE_COMPLIANCE = next(
    replace(
        engine,
        command=python_module("bench.engine_service", "compliance"),
        share=SHARE,
        output="compliance-decisions",
        owns=frozenset(
            {"compliance-decisions", "risk-decisions", "executions"}
            | {f"compliance-{table}-changelog" for table in TABLES}
        ),
    )
    for engine in ENGINE
    if engine.guarantee == EXACTLY_ONCE  # the pipeline knows no other
)


def run(bench: Bench, plan: Plan) -> list[Row]:
    cases = {
        replace(contender, name=f"{contender.name}, {number:,} open orders"): number
        for contender in plan.chosen([ENGINE_COMPLIANCE])
        for number in OPEN_ORDERS
    }

    def measure(contender: Contender) -> Speed:
        waves = contender.records(plan.records) // ACCOUNTS
        try:
            return speed(bench, contender, cases[contender], waves)
        finally:
            bench.cluster.delete_group("compliance")

    results = plan.rounds(list(cases), measure)
    return [_row(each, cases[each], list(runs.values())) for each, runs in results.items()]


def speed(bench: Bench, contender: Contender, open_orders: int, waves: int) -> Speed:
    """Bring the accounts to so many open orders, then measure waves that keep them there."""
    for topic in (topics.RISK_DECISIONS, topics.EXECUTIONS):
        bench.cluster.create_topic(topic.name, PARTITIONS, topic.config)
    audit = Audit(OrderComplianceApproved)
    with (
        bench.worker(contender, topics.RISK_DECISIONS.name, PARTITIONS) as worker,
        Reader(bench.cluster, worker.output, PARTITIONS, audit.add) as reader,
    ):
        measured = _drive(bench, worker, reader, audit, open_orders, waves)
        worker.process.stop()
        told = worker.process.marks("parts")
    if audit.wrong:
        raise BenchError(f"{contender} wrote {audit.wrong} approvals out of order or twice")
    shares = told[-1]["shares"] if told else {}
    return measured._replace(
        parts={part: share * measured.cpu_us_per_event for part, share in shares.items()}
    )


def _drive(bench: Bench, worker: Worker, reader: Reader, audit: Audit, open_orders: int, waves: int) -> Speed:
    """Let orders come, wave by wave, some ahead of what is decided, and end as many of the oldest."""
    ahead = min(WAVES_AHEAD, open_orders)
    until = open_orders + WAVES_UNMEASURED + waves
    marks: list[tuple[float, float]] = []
    for wave in range(until):
        _fill(bench, topics.RISK_DECISIONS, "OrderRiskApproved", _approvals(wave))
        if wave >= open_orders:
            _until_decided(worker, reader, audit, wave - ahead + 1)
            _fill(bench, topics.EXECUTIONS, "OrderAcknowledged", _acknowledgements(wave - open_orders))
            _fill(bench, topics.EXECUTIONS, "TradeExecuted", _fills(wave - open_orders))
        if wave == open_orders + WAVES_UNMEASURED - 1 or wave == until - 1:
            _until_decided(worker, reader, audit, wave + 1)
            marks.append((time.monotonic(), worker.process.cpu_seconds()))
    (began_at, cpu_before), (ended_at, cpu_after) = marks
    events = waves * ACCOUNTS * EVENTS_AN_ORDER
    return Speed(events / (ended_at - began_at), 1e6 * (cpu_after - cpu_before) / events, {})


def _until_decided(worker: Worker, reader: Reader, audit: Audit, waves: int) -> None:
    count, since = audit.count, time.monotonic()
    while audit.count < waves * ACCOUNTS:
        worker.process.check()
        reader.poll(POLL_SECONDS)
        if audit.count > count:
            count, since = audit.count, time.monotonic()
        elif time.monotonic() - since > STALL_SECONDS_MAX:
            raise worker.process.error(f"decided {audit.count} orders of {waves} waves, then nothing more")


def _orders(wave: int) -> Iterator[OrderReceived]:
    """The orders of a wave, one of each account; the sides take turns, and none meets another."""
    away_ticks = 1 + wave * 7 % PRICES
    side = Side.BUY if wave % 2 else Side.SELL
    for account in map(job.account_id, range(ACCOUNTS)):
        yield OrderReceived(
            order_id=f"{account}-{wave + 1}",
            account_id=account,
            sequence=wave + 1,
            symbol="BTC-USD",
            side=side,
            quantity_lots=1 + wave % 1_000,
            price_ticks=MID_TICKS - away_ticks if side is Side.BUY else MID_TICKS + away_ticks,
            submitted_at_ms=STARTED_AT_MS + wave * APART_MS,
        )


def _approvals(wave: int) -> Iterator[tuple[bytes, bytes]]:
    for order in _orders(wave):
        approval = OrderRiskApproved(
            order=order,
            reference_price_ticks=MID_TICKS,
            reference_tick_sequence=1,
            price_age_ms=0,
            limits_version=1,
            received_at_ms=order.submitted_at_ms,
            decided_at_ms=order.submitted_at_ms + 1,
        )
        yield order.account_id.encode(), approval.model_dump_json().encode()


def _acknowledgements(wave: int) -> Iterator[tuple[bytes, bytes]]:
    for order in _orders(wave):
        report = OrderAcknowledged(**_reported(order), venue_sequence=2 * order.sequence - 1)
        yield order.account_id.encode(), report.model_dump_json().encode()


def _fills(wave: int) -> Iterator[tuple[bytes, bytes]]:
    for order in _orders(wave):
        report = TradeExecuted(
            **_reported(order),
            venue_sequence=2 * order.sequence,
            trade_id=f"T-{order.order_id}",
            quantity_lots=order.quantity_lots,
            price_ticks=order.price_ticks,
            leaves_lots=0,
        )
        yield order.account_id.encode(), report.model_dump_json().encode()


def _reported(order: OrderReceived) -> dict[str, str]:
    return {
        "order_id": order.order_id,
        "account_id": order.account_id,
        "symbol": order.symbol,
        "side": order.side,
        "venue_order_id": f"V-{order.order_id}",
    }


def _fill(bench: Bench, topic: TopicSpec, event_type: str, records: Iterator[tuple[bytes, bytes]]) -> None:
    headers = {"event-type": event_type, "schema-version": "1", "event-id": "1", "correlation-id": "1"}
    bench.cluster.fill(topic.name, records, [(name, text.encode()) for name, text in headers.items()])


def _row(contender: Contender, open_orders: int, runs: list[Speed]) -> Row:
    rate = spread([run.events_per_second for run in runs])
    cpu_us = spread([run.cpu_us_per_event for run in runs])
    parts = {name: spread([run.parts[name] for run in runs])["median"] for name in runs[0].parts}
    figures = {
        "open_orders": open_orders,
        "events_per_second": rate["median"],
        "min": rate["min"],
        "max": rate["max"],
        "runs": rate["runs"],
        "cpu_us_per_event": cpu_us["median"],
        "us_per_event_by_part": parts,
    }
    shown = {
        "CPU µs/event": f"{cpu_us['median']:.1f}",
        "min–max": f"{cpu_us['min']:.1f}–{cpu_us['max']:.1f}",
        "events/s": f"{rate['median']:,.0f}",
        "µs/event by part": ", ".join(f"{name} {value:.1f}" for name, value in parts.items()),
    }
    return Row("compliance", contender.name, contender.guarantee, figures, shown)
