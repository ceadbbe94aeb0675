"""Builds legal histories for the checker, step by step; a test plants what it wants to be caught."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from checker.findings import Findings, Violation
from checker.history import Commanded, Shared, Slice, trace
from checker.invariants import (
    check_conduct,
    check_exposure,
    check_intake,
    check_key_order,
    check_lives,
    check_market_conditions,
    check_origins,
    check_positions,
    check_standing,
    check_venue,
)
from checker.invariants.intake import sort_intake
from checker.ledger import LedgerOrder, LedgerReport, LedgerTrade, SessionLedger
from checker.records import (
    DeadLetter,
    Limits,
    Logged,
    Order,
    OrderAcknowledged,
    OrderCancelled,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderExpired,
    OrderRiskApproved,
    OrderRiskRejected,
    Origin,
    Report,
    TradeExecuted,
    VenueRejected,
)
from models.values import Side, TimeInForce

SYMBOL = "BTC-USD"
PRICE_TICKS = 90_000
START_MS = 1_700_000_000_000


@dataclass
class _Books:
    """What risk would have written of one account."""

    last_sequence: int = 0
    lots: dict[str, list[int]] = field(default_factory=dict)


class World:
    """One partition of a pipeline that makes no mistakes; each step is logged at once, one ms apart."""

    def __init__(self, partition: int = 0) -> None:
        self.log = Slice(partition)
        self.shared = Shared()
        self.originals: dict[Origin, bytes] = {}
        self.ledger_orders: dict[str, LedgerOrder] = {}
        self.ledger_reports: list[LedgerReport] = []
        self.ledger_trades: list[LedgerTrade] = []
        self.open_lots: dict[str, int] = {}
        self.books: dict[str, _Books] = {}
        self.now_ms = START_MS
        self.tick_sequence = 0
        self._limits: dict[str, Limits] = {}
        self.tick()

    @property
    def commanded(self) -> Commanded:
        return self.shared.commanded.setdefault(self.log.partition, Commanded())

    # inputs

    def tick(self, price_ticks: int = PRICE_TICKS) -> None:
        self.tick_sequence += 1
        self.price_ticks = price_ticks
        self.observed_at_ms = self.now_ms
        self.shared.market.add(SYMBOL, self.tick_sequence, price_ticks, self.now_ms)

    def limit(self, account_id: str = "acc", **changed: Any) -> Limits:
        """Set the next version of an account's limits; generous unless told otherwise."""
        before = self._limits.get(account_id)
        fields = {
            "order_quantity_lots_max": 1_000,
            "order_notional_micros_max": 10**12,
            "position_lots_max": 5_000,
            "gross_exposure_micros_max": 10**13,
            "price_collar_bps": 500,
            "price_age_ms_max": 10**9,
            "open_orders_max": 100,
        }
        version = before.version + 1 if before else 1
        self._limits[account_id] = Limits(account_id=account_id, version=version, **(fields | changed))
        self.shared.limits.add(self._limits[account_id])
        self.commanded.add(self._limits[account_id])
        return self._limits[account_id]

    def receive(self, account_id: str = "acc", **changed: Any) -> Order:
        """Log a new order: to buy 10 lots at the market's price, two seconds after the one before."""
        if account_id not in self._limits:
            self.limit(account_id)
        sequence = len(self.log.orders) + 1
        fields: dict[str, Any] = {
            "order_id": f"{account_id}-{sequence}",
            "account_id": account_id,
            "sequence": sequence,
            "symbol": SYMBOL,
            "side": Side.BUY,
            "quantity_lots": 10,
            "price_ticks": self.price_ticks,
            "submitted_at_ms": START_MS + 2_000 * sequence,
        }
        order = Order(**(fields | changed))
        self.log_order(order)
        return order

    def log_order(self, order: Order) -> str:
        """Log an order, known or not; gives its source."""
        _append(self.log.orders, self._logged(order.account_id, order))
        return str(Origin("orders", self.log.partition, self.log.orders[-1].offset))

    def log_garbage(self, key: bytes | None = b"acc") -> Origin:
        """Log a record that nobody can understand."""
        _append(self.log.orders, Logged(0, self._next_ms(), key, None, False))
        return Origin("orders", self.log.partition, self.log.orders[-1].offset)

    def log_stranger(self, key: bytes = b"stranger") -> Origin:
        """Log a record among risk's decisions that risk has not written."""
        _append(self.log.risk, Logged(0, self._next_ms(), key, None, False))
        return Origin("risk-decisions", self.log.partition, self.log.risk[-1].offset)

    # decisions

    def approve(self, order: Order) -> None:
        received = self._record_of(order)
        approval = OrderRiskApproved(
            order,
            reference_price_ticks=self.price_ticks,
            reference_tick_sequence=self.tick_sequence,
            price_age_ms=max(0, received.timestamp_ms - self.observed_at_ms),
            limits_version=self._limits[order.account_id].version,
        )
        _append(self.log.risk, self._logged(order.account_id, approval))
        self._decided(order)
        self._lots(order)[1 if order.side is Side.BUY else 2] += order.quantity_lots
        self.open_lots[order.order_id] = order.quantity_lots

    def refuse(self, order: Order, reason: str = "position_limit", source: str | None = None) -> None:
        source = source or str(Origin("orders", self.log.partition, self._record_of(order).offset))
        rejection = OrderRiskRejected(order, reason, source)
        _append(self.log.risk, self._logged(order.account_id, rejection))
        if reason != "duplicate_order_id":
            self._decided(order)

    def clear(self, order: Order) -> None:
        """Compliance approves, and the exchange sends the order to the venue."""
        _append(self.log.compliance, self._logged(order.account_id, OrderComplianceApproved(order)))
        self.ledger_orders[order.order_id] = LedgerOrder(
            order.order_id,
            order.account_id,
            order.symbol,
            order.side.value,
            order.quantity_lots,
            order.price_ticks,
            order.time_in_force.value,
            0,
            "open",
            1,
        )

    def bar(self, order: Order, reason: str = "self_match") -> None:
        """Compliance refuses."""
        _append(self.log.compliance, self._logged(order.account_id, OrderComplianceRejected(order, reason)))
        self._end(order, "barred")

    # the venue

    def acknowledge(self, order: Order) -> None:
        self._report(order, OrderAcknowledged)

    def fill(self, order: Order, lots: int | None = None) -> None:
        lots = self.open_lots[order.order_id] if lots is None else lots
        leaves_lots = self.open_lots[order.order_id] - lots
        trade: dict[str, Any] = {
            "trade_id": f"T{len(self.ledger_trades) + 1}",
            "quantity_lots": lots,
            "price_ticks": order.price_ticks,
        }
        report = self._report(order, TradeExecuted, **trade, leaves_lots=leaves_lots)
        sequence = report.venue_sequence
        self.ledger_trades.append(
            LedgerTrade(trade["trade_id"], order.order_id, lots, order.price_ticks, sequence)
        )
        row = self.ledger_orders[order.order_id]
        status = "open" if leaves_lots else "filled"
        self.ledger_orders[order.order_id] = row._replace(filled_lots=row.filled_lots + lots, status=status)
        self._move(order, lots)
        self._lots(order)[0] += lots if order.side is Side.BUY else -lots
        if not leaves_lots:
            del self.open_lots[order.order_id]

    def cancel(self, order: Order) -> None:
        self._report(order, OrderCancelled, cancelled_lots=self.open_lots[order.order_id])
        self._end(order, "cancelled")

    def expire(self, order: Order) -> None:
        self._report(order, OrderExpired, expired_lots=self.open_lots[order.order_id])
        self._end(order, "expired")

    def venue_refuse(self, order: Order) -> None:
        self._report(order, VenueRejected, reason="market_closed", rejected_lots=order.quantity_lots)
        self._end(order, "rejected")

    # dead letters

    def bury(
        self, origin: Origin, behind: Origin | None = None, key: bytes | None = b"acc", service: str = "risk"
    ) -> DeadLetter:
        digest = str(origin).encode()
        self.originals[origin] = digest
        letter = DeadLetter(len(self.log.dead_letters), service, origin, behind, key, digest)
        self.log.dead_letters.append(letter)
        return letter

    # whole lives

    def traded(self, account_id: str = "acc", **changed: Any) -> Order:
        """An order from receipt to the last fill, in two fills when it has more than one lot."""
        order = self.cleared(account_id, **changed)
        self.acknowledge(order)
        if order.quantity_lots > 1:
            self.fill(order, 1)
        self.fill(order)
        return order

    def cleared(self, account_id: str = "acc", **changed: Any) -> Order:
        """An order that the venue has, unacknowledged."""
        order = self.receive(account_id, **changed)
        self.approve(order)
        self.clear(order)
        return order

    def write_books(self) -> None:
        """Write the changelogs of all tables as of now."""
        for account_id, books in self.books.items():
            open_orders = [self._order(order_id) for order_id in self.open_lots]
            value = {
                "last_sequence": books.last_sequence,
                "open_orders": sum(order.account_id == account_id for order in open_orders),
                "holdings": {
                    symbol: {"position_lots": lots[0], "open_buy_lots": lots[1], "open_sell_lots": lots[2]}
                    for symbol, lots in books.lots.items()
                },
            }
            self.log.positions[account_id.encode()] = msgspec.json.encode(value)
        for order_id, open_lots in self.open_lots.items():
            order = self._order(order_id)
            reservation = {
                "order_id": order_id,
                "symbol": order.symbol,
                "side": order.side,
                "price_ticks": order.price_ticks,
                "open_lots": open_lots,
            }
            self.log.reservations[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(
                reservation
            )
        self._write_limits()
        self._write_open_orders()
        self._write_session()

    # judgement

    def findings(self) -> Findings:
        """Everything that the checker finds in this history."""
        traces = trace(self.log)
        ledger = SessionLedger(self.ledger_orders.values(), self.ledger_reports, self.ledger_trades)
        return Findings().add(
            (
                check_lives(self.log, traces),
                check_venue(self.log, traces, ledger),
                check_positions(self.log, traces),
                check_standing(self.log, traces, self.commanded),
                check_exposure(self.log, self.shared.limits),
                check_intake(self.log, traces, sort_intake(self.log, traces)),
                check_origins(self.log.dead_letters, self.originals),
                check_key_order(self.log, traces),
                check_market_conditions(self.log, traces, self.shared),
                check_conduct(self.log, traces),
            )
        )

    def violations(self) -> list[Violation]:
        return self.findings().violations

    # helpers

    def _write_limits(self) -> None:
        for account_id, limits in self._limits.items():
            self.log.risk_limits[account_id.encode()] = msgspec.json.encode(limits)

    def _write_open_orders(self) -> None:
        """What compliance has open, and what of it the exchange has at the venue."""
        open_orders: dict[str, dict[str, Any]] = {account_id: {} for account_id in self.books}
        self.log.intents.clear()
        for order_id in self.open_lots.keys() & self.ledger_orders.keys():
            order = self._order(order_id)
            open_orders[order.account_id][order_id] = {
                "symbol": order.symbol,
                "side": order.side,
                "price_ticks": order.price_ticks,
                "rests": order.time_in_force is not TimeInForce.IOC,
            }
            reported = any(each.event and each.event.order_id == order_id for each in self.log.executions)
            intent = {
                "order": order,
                "state": "acknowledged" if reported else "pending",
                "open_lots": self.open_lots[order_id],
            }
            self.log.intents[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(intent)
        for account_id, its_orders in open_orders.items():
            value = {"recent": {}, "open_orders": its_orders}
            self.log.recent_orders[account_id.encode()] = msgspec.json.encode(value)

    def _write_session(self) -> None:
        if self.ledger_reports:
            session = {"venue_sequence_last": len(self.ledger_reports)}
            self.log.sessions[str(self.log.partition).encode()] = msgspec.json.encode(session)

    def _next_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def _logged(self, account_id: str, event: Any) -> Logged[Any]:
        return Logged(0, self._next_ms(), account_id.encode(), event)

    def _record_of(self, order: Order) -> Logged[Order]:
        return next(each for each in reversed(self.log.orders) if each.event == order)

    def _order(self, order_id: str) -> Order:
        return next(each.event for each in self.log.orders if each.event and each.event.order_id == order_id)

    def _decided(self, order: Order) -> None:
        self.books.setdefault(order.account_id, _Books()).last_sequence = order.sequence

    def _lots(self, order: Order) -> list[int]:
        return self.books[order.account_id].lots.setdefault(order.symbol, [0, 0, 0])

    def _move(self, order: Order, lots: int) -> None:
        self._lots(order)[1 if order.side is Side.BUY else 2] -= lots
        self.open_lots[order.order_id] -= lots

    def _end(self, order: Order, status: str) -> None:
        self._move(order, self.open_lots[order.order_id])
        del self.open_lots[order.order_id]
        if order.order_id in self.ledger_orders:
            row = self.ledger_orders[order.order_id]
            self.ledger_orders[order.order_id] = row._replace(status=status)

    def _report(self, order: Order, kind: type[Report], **fields: Any) -> Report:
        sequence = len(self.ledger_reports) + 1
        report = kind(
            order.order_id,
            order.account_id,
            order.symbol,
            order.side,
            f"V-{order.order_id}",
            sequence,
            **fields,
        )
        self.ledger_reports.append(LedgerReport(sequence, report))
        _append(self.log.executions, self._logged(order.account_id, report))
        return report


def _append(records: list[Logged[Any]], record: Logged[Any]) -> None:
    """Append at the next offset; now and then a transaction's marker stands between."""
    offset = records[-1].offset + 1 + len(records) % 2 if records else 0
    records.append(msgspec.structs.replace(record, offset=offset))
