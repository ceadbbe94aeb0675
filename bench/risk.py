"""The real risk agent against stock Faust making the same decisions, with the same two RocksDB tables."""

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from app import topics
from app.engine import TopicSpec
from bench import job, throughput
from bench.contenders import ENGINE, EXACTLY_ONCE, STOCK, Contender, python_module
from bench.plan import Plan
from bench.report import Row
from bench.run import Bench, Speed, speed
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    InstrumentListed,
    OrderComplianceApproved,
    OrderRiskApproved,
    PriceUpdated,
)
from models.values import Instrument, PartyStatus

PARTITIONS = 4
SHARE = 1 / 4
NEVER_REACHED = 10**15
TITLE = (
    "Risk agent: every check of app.domain.risk, tables positions and reservations; 4 partitions, one worker"
)


class Audit:
    """Every order is approved, by an event of this type, and the orders of an account in their order."""

    def __init__(
        self, approval: type[OrderRiskApproved | OrderComplianceApproved] = OrderRiskApproved
    ) -> None:
        self._approval = approval
        self.count = 0
        self.wrong = 0
        self._sequences: dict[str, int] = {}

    def add(self, value: bytes) -> None:
        approved = self._approval.model_validate_json(value)
        account, sequence = approved.order.account_id, approved.order.sequence
        self.count += 1
        self.wrong += self._sequences.get(account, 0) + 1 != sequence
        self._sequences[account] = sequence

    def problem(self, expected: int) -> str | None:
        if self.count == expected and not self.wrong:
            return None
        return f"{self.count} approvals for {expected} orders, {self.wrong} out of order"


STOCK_RISK = replace(STOCK, command=python_module("bench.stock_risk"), audit=Audit)
(ENGINE_RISK,) = [
    replace(
        engine,
        command=python_module("bench.engine_service", "risk"),
        audit=Audit,
        share=SHARE,
        output="risk-decisions",
        owns=frozenset(
            {"risk-decisions", "risk-alerts"}
            | {
                f"risk-{table}-changelog"
                for table in ("positions", "reservations", "risk_limits", "quarantine")
            }
        ),
    )
    for engine in ENGINE
    if engine.guarantee == EXACTLY_ONCE  # the pipeline knows no other
]


def limits(account_id: str) -> SetRiskLimits:
    """Limits that no order of the bench reaches."""
    return SetRiskLimits(
        account_id=account_id,
        version=1,
        order_quantity_lots_max=NEVER_REACHED,
        order_notional_micros_max=NEVER_REACHED,
        position_lots_max=NEVER_REACHED,
        gross_exposure_micros_max=NEVER_REACHED * NEVER_REACHED,
        price_collar_bps=NEVER_REACHED,
        price_age_ms_max=NEVER_REACHED,
        open_orders_max=NEVER_REACHED,
        order_age_ms_max=NEVER_REACHED,
    )


def registered(account_id: str) -> AccountRegistered:
    return AccountRegistered(
        account_id=account_id,
        owner="bench",
        firm="bench",
        base_currency="USD",
        status=PartyStatus.ACTIVE,
        version=1,
    )


LISTED = InstrumentListed(
    instrument=Instrument(
        symbol="BTC-USD", base="BTC", currency="USD", tick=Decimal("0.01"), lot=Decimal("0.0001")
    ),
    version=1,
)
PRICE = PriceUpdated(
    symbol="BTC-USD", price_ticks=9_305_000, tick_sequence=1, observed_at_ms=1_700_000_000_000
)


def run(bench: Bench, plan: Plan) -> list[Row]:
    contenders = plan.chosen([STOCK_RISK, ENGINE_RISK])
    if any(contender is not STOCK_RISK for contender in contenders):
        prepare(bench, ENGINE_RISK.records(plan.records))

    def measure(contender: Contender) -> Speed:
        records = contender.records(plan.records)
        if contender == STOCK_RISK:
            return speed(bench, contender, bench.input(records, PARTITIONS), records, PARTITIONS)
        try:
            return speed(bench, contender, "orders", records, PARTITIONS)
        finally:
            bench.cluster.delete_group("risk")

    return throughput.rows("risk", plan.rounds(contenders, measure), stock=STOCK_RISK, ours=ENGINE_RISK)


def prepare(bench: Bench, records: int) -> None:
    """Fill the pipeline's own topics, once: accounts and their limits, an instrument, a price, the orders."""
    if "orders" in bench.filled:
        return
    accounts = [*map(job.account_id, range(job.ACCOUNTS))]
    symbol = PRICE.symbol.encode()
    limits_set = ((name.encode(), limits(name).model_dump_json().encode()) for name in accounts)
    accounts_set = ((name.encode(), registered(name).model_dump_json().encode()) for name in accounts)
    _fill(bench, topics.RISK_LIMITS, "SetRiskLimits", limits_set)
    _fill(bench, topics.ACCOUNTS, "AccountRegistered", accounts_set)
    _fill(bench, topics.INSTRUMENTS, "InstrumentListed", [(symbol, LISTED.model_dump_json().encode())])
    _fill(bench, topics.PRICES, "PriceUpdated", [(symbol, PRICE.model_dump_json().encode())])
    _fill(bench, topics.ORDERS, "OrderReceived", job.records(records))


def _fill(bench: Bench, topic: TopicSpec, event_type: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    headers = {"event-type": event_type, "schema-version": "1", "event-id": "1", "correlation-id": "1"}
    bench.cluster.create_topic(topic.name, PARTITIONS, topic.config)
    bench.cluster.fill(topic.name, records, [(name, text.encode()) for name, text in headers.items()])
    bench.filled.add(topic.name)
