"""`whatif` on a log of orders that are approved, acknowledged and filled: how fast it reads and decides.

In a wave each account has an order; the sides take turns. The limits change nothing, then they refuse one
order in ten, so that soon every account has other books than those recorded.
"""

import asyncio
import gc
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from app import topics
from app.domain.hindsight import hindsight
from app.engine import TopicSpec
from app.operators.desk import Desk
from app.operators.history import Read, read_log
from bench import job, risk
from bench.plan import Plan
from bench.processes import BenchError
from bench.report import Row, spread
from bench.run import Bench
from models.events import (
    CommandAnswered,
    OrderAcknowledged,
    OrderReceived,
    OrderRiskApproved,
    TradeExecuted,
)
from models.values import Frozen, Side

PARTITIONS = 4
ACCOUNTS = 200
SHARE = 1 / 40
LOTS = 10
LARGE_EVERY = 10
RECORDS_AN_ORDER = 3
WAIT_S = 60.0
TITLE = "whatif: an order is a decision, an acknowledgement and a fill; one core, the log in memory"
CASES: Mapping[str, Mapping[str, int]] = {
    "the same limits": {},
    "one order in ten refused": {"order_quantity_lots_max": LOTS},
}


class Measured(NamedTuple):
    """Processor seconds, and seconds for the reading, which waits for Kafka."""

    read_seconds: float
    seconds: Mapping[str, float]


def run(bench: Bench, plan: Plan) -> list[Row]:
    waves = max(1, int(plan.records * SHARE) // ACCOUNTS)
    prepare(bench, waves)
    try:
        runs = []
        for number in range(plan.runs):
            runs.append(measure(bench, waves))
            plan.say(f"round {number + 1}: whatif: {runs[-1]}")
    finally:
        bench.cluster.delete_topics(lambda name: name in {topics.RISK_DECISIONS.name, topics.EXECUTIONS.name})
    orders = waves * ACCOUNTS
    return [_row(case, orders, runs) for case in CASES]


def prepare(bench: Bench, waves: int) -> None:
    """Fill the topics that `whatif` reads: first what is in force, then orders and reports, wave by wave."""
    accounts = [*map(job.account_id, range(ACCOUNTS))]
    limits = [risk.limits(name) for name in accounts]
    answers = [
        CommandAnswered(command="SetRiskLimits", subject=name, version=1, accepted=True) for name in accounts
    ]
    for topic, values in (
        (topics.ACCOUNTS, map(risk.registered, accounts)),
        (topics.INSTRUMENTS, [risk.LISTED]),
        (topics.PRICES, [risk.PRICE]),
        (topics.RISK_LIMITS, limits),
        (topics.COMMAND_ANSWERS, answers),
    ):
        if topic.name not in bench.filled:
            bench.cluster.create_topic(topic.name, PARTITIONS, topic.config)
            bench.filled.add(topic.name)
            _fill(bench, topic, values)
    for written in (topics.RISK_DECISIONS, topics.EXECUTIONS):
        bench.cluster.create_topic(written.name, PARTITIONS, written.config)
    for wave in range(waves):
        orders = [*_orders(wave, accounts)]
        _fill(bench, topics.RISK_DECISIONS, map(_approval, orders))
        _fill(bench, topics.EXECUTIONS, map(_acknowledgement, orders))
        _fill(bench, topics.EXECUTIONS, map(_filled, orders))


def measure(bench: Bench, waves: int) -> Measured:
    """Read, then decide again; raises BenchError unless what comes of it is right."""
    began_at = time.monotonic()
    read = asyncio.run(_read(bench.cluster.bootstrap))
    read_seconds = time.monotonic() - began_at
    gc.freeze()  # as the command does
    large = sum(_lots(wave, number) > LOTS for wave in range(waves) for number in range(ACCOUNTS))
    expected = dict(zip(CASES, (0, large), strict=True))
    seconds = {}
    for case, changes in CASES.items():
        began_at = time.process_time()
        found = [hindsight(each, read.market, changes) for each in read.histories.values()]
        seconds[case] = time.process_time() - began_at
        decided, refused = sum(each.decided for each in found), sum(each.changes.total() for each in found)
        unexplained = sum(each.unexplained + each.limits_gone for each in found)
        if (decided, refused, unexplained) != (waves * ACCOUNTS, expected[case], 0):
            raise BenchError(
                f"whatif, {case}: {decided} decided, {refused} refused, {unexplained} unexplained"
            )
    return Measured(read_seconds, seconds)


async def _read(bootstrap: str) -> Read:
    async with Desk.open(bootstrap, WAIT_S) as desk:
        return await read_log(desk)


def _lots(wave: int, number: int) -> int:
    return LOTS * 2 if (wave + number) % LARGE_EVERY == 0 else LOTS


def _orders(wave: int, accounts: list[str]) -> Iterator[OrderReceived]:
    for number, account in enumerate(accounts):
        yield OrderReceived(
            order_id=f"{account}-{wave + 1}",
            account_id=account,
            sequence=wave + 1,
            symbol=risk.PRICE.symbol,
            side=Side.BUY if wave % 2 else Side.SELL,
            quantity_lots=_lots(wave, number),
            price_ticks=risk.PRICE.price_ticks,
            submitted_at_ms=risk.PRICE.observed_at_ms + wave,
        )


def _approval(order: OrderReceived) -> OrderRiskApproved:
    return OrderRiskApproved(
        order=order,
        reference_price_ticks=risk.PRICE.price_ticks,
        reference_tick_sequence=risk.PRICE.tick_sequence,
        price_age_ms=1,
        limits_version=1,
        received_at_ms=order.submitted_at_ms,
        decided_at_ms=order.submitted_at_ms + 1,
    )


def _acknowledgement(order: OrderReceived) -> OrderAcknowledged:
    return OrderAcknowledged(**_reported(order), venue_sequence=2 * order.sequence - 1)


def _filled(order: OrderReceived) -> TradeExecuted:
    return TradeExecuted(
        **_reported(order),
        venue_sequence=2 * order.sequence,
        trade_id=f"T-{order.order_id}",
        quantity_lots=order.quantity_lots,
        price_ticks=order.price_ticks,
        leaves_lots=0,
    )


def _reported(order: OrderReceived) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "account_id": order.account_id,
        "symbol": order.symbol,
        "side": order.side,
        "venue_order_id": f"V-{order.order_id}",
    }


def _fill(bench: Bench, topic: TopicSpec[Any], values: Iterable[Frozen]) -> None:
    assert topic.key_of is not None
    first, *others = values
    headers = {"event-type": type(first).__name__, "schema-version": "1", "event-id": "1"}
    records = ((topic.key_of(each), each.model_dump_json().encode()) for each in (first, *others))
    bench.cluster.fill(topic.name, records, [(name, text.encode()) for name, text in headers.items()])


def _row(case: str, orders: int, runs: list[Measured]) -> Row:
    rate = spread([orders / each.seconds[case] for each in runs])
    reading = spread([orders * RECORDS_AN_ORDER / each.read_seconds for each in runs])
    figures = {
        "events_per_second": rate["median"],
        "min": rate["min"],
        "max": rate["max"],
        "runs": rate["runs"],
        "orders": orders,
        "records_read_per_second": reading["median"],
    }
    shown = {
        "orders/s": f"{rate['median']:,.0f}",
        "min–max": f"{rate['min']:,.0f}–{rate['max']:,.0f}",
        "records read/s": f"{reading['median']:,.0f}",
    }
    return Row("whatif", case, "", figures, shown)
