"""Builds legal histories for the checker, step by step; a test plants what it wants to be caught."""

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import msgspec

from app.domain.profit import Profit, booked
from checker.findings import Findings, Violation
from checker.history import Commanded, Shared, Slice, reported_id, trace
from checker.invariants import (
    Strays,
    check_allocations,
    check_commands,
    check_conditions,
    check_conduct,
    check_exposure,
    check_intake,
    check_key_order,
    check_last_look,
    check_lives,
    check_origins,
    check_positions,
    check_profits,
    check_standing,
    check_venue,
)
from checker.invariants.intake import sort_intake
from checker.ledger import LedgerOrder, LedgerReport, LedgerTrade, PartLedger
from checker.records import (
    ACCOUNT_COMMANDS,
    OPERATOR_COMMANDS,
    ORDERS,
    RESTRICTIONS,
    RISK_LIMITS,
    AccountRegistered,
    Command,
    CommandAnswered,
    DeadLetter,
    HaltInForce,
    Instrument,
    InstrumentListed,
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
    OrderWithheld,
    Origin,
    RestrictionInForce,
    SetAccountSequence,
    SetHalt,
    SetRestriction,
    TradeExecuted,
    VenueLetter,
    VenueRejected,
    VenueReport,
)
from checker.reference import Answered, Mark
from checker.reference import Commanded as Given
from checker.shards import shard_of
from models.values import Liquidity, PartyStatus, Side, TimeInForce

SYMBOL, OTHER_SYMBOL = "BTC-USD", "ETH-USD"
PRICE_TICKS = 90_000
START_MS = 1_700_000_000_000
ORDER_EVERY_MS = 2_000
PARTITIONS = {"orders": 8, "risk-decisions": 8, "risk-limits": 8}
"""So that a dead letter may blame the partition; in all else the world has but one."""


def an_instrument(symbol: str = SYMBOL, **changed: Any) -> Instrument:
    """An instrument of which a lot at a tick is worth one micro of the currency."""
    terms: dict[str, Any] = {
        "base": "BTC",
        "currency": "USD",
        "tick": Decimal("0.01"),
        "lot": Decimal("0.0001"),
    }
    return Instrument(symbol, **(terms | changed))


def judge(log: Slice, shared: Shared, ledger: PartLedger, originals: dict[Origin, bytes]) -> Findings:
    """Everything that the checker finds in a history of one partition, but for ticks and live tables."""
    traces, reference = trace(log), shared.reference
    strays = Strays()
    strays.add(log, traces)
    return Findings().add(
        (
            check_lives(log, traces, reference),
            check_venue(log, traces, ledger),
            check_positions(log, traces, reference),
            check_profits(log, traces, reference),
            check_allocations(log, traces, reference),
            check_standing(log, traces, shared.commanded.get(log.partition, Commanded())),
            check_exposure(log, shared.limits, reference),
            check_intake(log, traces, sort_intake(log, traces)),
            check_origins(log.dead_letters, originals, partitions=PARTITIONS),
            check_key_order(log, traces),
            check_conditions(log, traces, shared),
            check_last_look(log, traces, shared),
            check_conduct(log, traces),
            check_commands(shared, log.dead_letters, quiet=log.quiet),
            strays.check(),
        )
    )


@dataclass
class _Books:
    """What risk would have written of one account; `last_sequence` is None for one it does not know."""

    last_sequence: int | None = None
    lots: dict[str, list[int]] = field(default_factory=dict)
    profits: dict[str, Profit | None] = field(default_factory=dict)


class World:
    """One partition of a pipeline that makes no mistakes; each step is logged at once, one ms apart.

    Orders come two seconds apart, by the clocks of all.
    """

    def __init__(self) -> None:
        self.log = Slice(looks_last=True)
        self.shared = Shared()
        self.originals: dict[Origin, bytes] = {}
        self.ledger_orders: dict[str, LedgerOrder] = {}
        self.ledger_reports: list[LedgerReport] = []
        self.ledger_trades: list[LedgerTrade] = []
        self.open_lots: dict[str, int] = {}
        self.books: dict[str, _Books] = {}
        self.now_ms = START_MS
        self.tick_sequence: dict[str, int] = defaultdict(int)
        self.epoch = 0
        self.numbers_together = False
        """Whether the venue numbers the reports of all sessions as one, as it did for the release before."""
        self.numbered_before = 0
        self.price_ticks = PRICE_TICKS
        self._prices: dict[str, tuple[int, int]] = {}
        self._sequences: dict[int, int] = defaultdict(int)
        self._sent: dict[str, int] = {}
        self._limits: dict[str, Limits] = {}
        for symbol in (SYMBOL, OTHER_SYMBOL):
            self.list_instrument(an_instrument(symbol))
            self.tick(symbol=symbol)
        self.now_ms += 60_000
        self.tick()

    @property
    def commanded(self) -> Commanded:
        return self.shared.commanded.setdefault(self.log.partition, Commanded())

    # the market and reference data

    def tick(self, price_ticks: int = PRICE_TICKS, symbol: str = SYMBOL) -> None:
        """A tick is seen now, and its price goes out."""
        self.tick_sequence[symbol] += 1
        if symbol == SYMBOL:
            self.price_ticks = price_ticks
        self._prices[symbol] = (price_ticks, self.now_ms)
        sequence = self.tick_sequence[symbol]
        self.shared.market.add(symbol, self.epoch, sequence, price_ticks, self.now_ms)
        self.shared.reference.prices.add(symbol, self._next_ms(), Mark(price_ticks))

    def seen_at_ms(self, symbol: str = SYMBOL) -> int:
        """When the last tick was observed."""
        return self._prices[symbol][1]

    def list_instrument(self, instrument: Instrument, version: int = 1) -> None:
        listed = InstrumentListed(instrument, version)
        self.shared.reference.instruments.add(instrument.symbol, self._next_ms(), listed)

    def register(
        self, account_id: str, currency: str = "USD", status: PartyStatus = PartyStatus.ACTIVE
    ) -> None:
        account = AccountRegistered(account_id, "owner", "firm", currency, status, 1)
        self.shared.reference.accounts.add(account_id, self._next_ms(), account)

    # operators

    def limit(self, account_id: str = "acc", **changed: Any) -> Limits:
        """Set the next version of an account's limits; generous unless told otherwise."""
        before = self._limits.get(account_id)
        if account_id not in self.shared.reference.accounts:
            self.register(account_id)
        fields = {
            "version": before.version + 1 if before else 1,
            "order_quantity_lots_max": 1_000,
            "order_notional_micros_max": 10**12,
            "position_lots_max": 5_000,
            "gross_exposure_micros_max": 10**13,
            "price_collar_bps": 500,
            "price_age_ms_max": 10**9,
            "open_orders_max": 100,
        }
        limits = Limits(account_id=account_id, **(fields | changed))
        takes = before is None or limits.version > before.version
        if before is None or takes:
            self._limits[account_id] = limits
        elif limits.kill_switch:
            self._limits[account_id] = msgspec.structs.replace(before, kill_switch=True)
        self.shared.limits.add(limits)
        self.commanded.add(limits)
        self.command(RISK_LIMITS, account_id, limits, accepted=takes or limits.kill_switch)
        return limits

    def remove_limits(self, account_id: str) -> None:
        """A tombstone."""
        del self._limits[account_id]
        self.commanded.remove(account_id)
        self.shared.limits.removed.add(account_id)

    def set_sequence(self, account_id: str, last_sequence: int) -> None:
        self.command(
            ACCOUNT_COMMANDS, account_id, SetAccountSequence(account_id, last_sequence, "ops", "why")
        )
        self.books.setdefault(account_id, _Books()).last_sequence = last_sequence

    def halt(self, scope: str = "*", halted: bool = True, version: int = 1) -> None:
        """An operator halts trading, and a moment later everybody knows."""
        self.command(OPERATOR_COMMANDS, scope, SetHalt(scope, halted, version, "ops", "why"))
        self.shared.reference.halts.add(scope, self._next_ms(), HaltInForce(scope, halted, version))
        self.now_ms += 1_500

    def restrict(self, symbol: str = SYMBOL, restricted: bool = True) -> None:
        """An operator restricts an instrument, and a moment later everybody knows."""
        self.command(RESTRICTIONS, symbol, SetRestriction(symbol, restricted, None, "ops", "why"))
        self.shared.reference.restricted.add(
            symbol, self._next_ms(), RestrictionInForce(symbol, restricted, None)
        )
        self.now_ms += 1_500

    def command(self, topic: str, subject: str, command: Command, *, accepted: bool = True) -> None:
        """Log a command and its answer."""
        name = "SetRiskLimits" if isinstance(command, Limits) else type(command).__name__
        reference, version = self.shared.reference, getattr(command, "version", None)
        given = reference.commands.setdefault((name, subject), [])
        given.append(Given(topic, self.log.partition, len(given), self._next_ms(), command))
        answer = CommandAnswered(name, subject, version, accepted, "", command.who, command.why)
        reference.answers.setdefault((name, subject), []).append(Answered(self._next_ms(), answer))

    # inputs

    def receive(self, account_id: str = "acc", **changed: Any) -> Order:
        """Log a new order: to buy 10 lots at the market's price, two seconds after the one before."""
        if account_id not in self._limits:
            self.limit(account_id)
        self.now_ms += ORDER_EVERY_MS
        sequence = len(self.log.orders) + 1
        fields: dict[str, Any] = {
            "order_id": f"{account_id}-{sequence}",
            "account_id": account_id,
            "sequence": sequence,
            "symbol": SYMBOL,
            "side": Side.BUY,
            "quantity_lots": 10,
            "price_ticks": self._prices.get(changed.get("symbol", SYMBOL), (PRICE_TICKS, 0))[0],
            "submitted_at_ms": self.now_ms,
        }
        order = Order(**(fields | changed))
        self.log_order(order)
        return order

    def log_order(self, order: Order, **changed: Any) -> str:
        """Log an order, known or not; gives its source."""
        record = msgspec.structs.replace(self._logged(order.account_id, order), **changed)
        _append(self.log.orders, record)
        return str(Origin("orders", self.log.partition, self.log.orders[-1].offset))

    def log_garbage(self, key: bytes | None = b"acc") -> Origin:
        """Log a record that nobody can understand."""
        _append(self.log.orders, Logged(0, self._next_ms(), key, None, False))
        return Origin("orders", self.log.partition, self.log.orders[-1].offset)

    def log_stray(self, order_id: str = "far-1", key: bytes = b"far") -> Origin:
        """Log an order whose account belongs to another partition."""
        origin = self.log_garbage(key)
        self.log.strays.setdefault(ORDERS, {})[origin.offset] = order_id
        return origin

    def log_stranger(self, key: bytes = b"stranger") -> Origin:
        """Log a record among risk's decisions that risk has not written."""
        _append(self.log.risk, Logged(0, self._next_ms(), key, None, False))
        return Origin("risk-decisions", self.log.partition, self.log.risk[-1].offset)

    # decisions

    def approve(self, order: Order, **changed: Any) -> None:
        received = self._record_of(order)
        price_ticks, observed_at_ms = self._prices.get(order.symbol, (PRICE_TICKS, START_MS))
        decided_at_ms = max(self.now_ms, received.timestamp_ms)
        fields = {
            "reference_price_ticks": price_ticks,
            "reference_tick_sequence": self.tick_sequence[order.symbol],
            "price_age_ms": max(0, decided_at_ms - observed_at_ms),
            "limits_version": self._limits[order.account_id].version,
            "reference_tick_epoch": self.epoch,
            "received_at_ms": received.timestamp_ms,
            "decided_at_ms": decided_at_ms,
        }
        approval = OrderRiskApproved(order, **(fields | changed))
        _append(self.log.risk, self._logged(order.account_id, approval))
        self._decided(order)
        self._lots(order)[1 if order.side is Side.BUY else 2] += order.quantity_lots
        self.open_lots[order.order_id] = order.quantity_lots

    def refuse(self, order: Order, reason: str = "position_limit", source: str | None = None) -> None:
        source = source or str(Origin("orders", self.log.partition, self._record_of(order).offset))
        rejection = OrderRiskRejected(order, reason, source, detail="")
        _append(self.log.risk, self._logged(order.account_id, rejection))
        if reason not in ("duplicate_order_id", "sequence_leap", "unknown_account"):
            self._decided(order)

    def clear(self, order: Order) -> None:
        """Compliance approves, and the exchange intends to send the order to the venue."""
        _append(self.log.compliance, self._logged(order.account_id, OrderComplianceApproved(order)))
        self.log.intended_at_ms.setdefault(f"{order.account_id}/{order.order_id}".encode(), self.now_ms)
        self._sent[order.account_id] = order.sequence

    def send(self, order: Order) -> None:
        """The venue takes the order."""
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
            shard_of(order.account_id.encode()),
        )

    def withhold(self, order: Order, reason: str = "halted") -> None:
        """The exchange does not send it after all."""
        withheld = OrderWithheld(
            order.order_id,
            order.account_id,
            order.symbol,
            order.side,
            reason,
            order.quantity_lots,
            self.now_ms,
        )
        _append(self.log.executions, self._logged(order.account_id, withheld))
        self._end(order, "withheld")

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
        terms: dict[str, Any] = {
            "traded_at_ms": self.now_ms,
            "trade_date": "2023-11-14",
            "fee_micros": lots,
            "fee_currency": "USD",
            "counterparty": "MARKET",
            "liquidity": Liquidity.REMOVED,
        }
        report = self._report(order, TradeExecuted, **trade, leaves_lots=leaves_lots, **terms)
        number = (shard_of(order.account_id.encode()), report.venue_sequence)
        self.ledger_trades.append(
            LedgerTrade(trade["trade_id"], order.order_id, lots, order.price_ticks, *number, **terms)
        )
        row = self.ledger_orders[order.order_id]
        status = "open" if leaves_lots else "filled"
        self.ledger_orders[order.order_id] = row._replace(filled_lots=row.filled_lots + lots, status=status)
        self._move(order, lots)
        profits, held = self.books[order.account_id].profits, self._lots(order)
        profits[order.symbol] = booked(profits.get(order.symbol), held[0], cast(Any, report))
        held[0] += lots if order.side is Side.BUY else -lots
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
        self,
        origin: Origin,
        behind: Origin | None = None,
        key: bytes | None = b"acc",
        service: str = "risk",
        error: str = "ValueError",
    ) -> DeadLetter:
        digest = str(origin).encode()
        self.originals[origin] = digest
        letter = DeadLetter(len(self.log.dead_letters), service, origin, behind, key, digest, error)
        self.log.dead_letters.append(letter)
        return letter

    def dispute(
        self, order: Order, kind: type[VenueReport] = OrderAcknowledged, **fields: Any
    ) -> VenueLetter:
        """The venue reports something that the exchange cannot book: a dead letter."""
        report = self._report(order, kind, **fields)
        del self.log.executions[-1]
        shard = shard_of(order.account_id.encode())
        letters = self.log.venue_letters
        letters.append(VenueLetter(len(letters), shard, report.venue_sequence, msgspec.json.encode(report)))
        return letters[-1]

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
        self.send(order)
        return order

    def write_books(self) -> None:
        """Write the changelogs of all tables as of now."""
        for account_id, books in self.books.items():
            if books.last_sequence is None:
                continue
            open_orders = [self._order(order_id) for order_id in self.open_lots]
            value = {
                "last_sequence": books.last_sequence,
                "open_orders": sum(order.account_id == account_id for order in open_orders),
                "holdings": {
                    symbol: {
                        "position_lots": lots[0],
                        "open_buy_lots": lots[1],
                        "open_sell_lots": lots[2],
                        "profit": books.profits.get(symbol),
                    }
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
        self._write_sessions()
        for account_id, last_sequence in self._sent.items():
            self.log.sent[account_id.encode()] = msgspec.json.encode({"order_sequence_last": last_sequence})

    def carry_over(self) -> None:
        """The venue begins to number by session, above all that it has numbered."""
        self.numbers_together, self.numbered_before = False, max(self._sequences.values(), default=0)

    # judgement

    def findings(self) -> Findings:
        """Everything that the checker finds in this history."""
        ledger = PartLedger(
            self.ledger_orders.values(),
            sorted(self.ledger_reports, key=lambda each: (each.session, each.venue_sequence)),
            self.ledger_trades,
            self.numbered_before,
        )
        self.shared.reference.settle()
        return judge(self.log, self.shared, ledger, self.originals)

    def violations(self) -> list[Violation]:
        return self.findings().violations

    # helpers

    def _write_limits(self) -> None:
        for account_id, limits in self._limits.items():
            self.log.risk_limits[account_id.encode()] = msgspec.json.encode(limits)
            controls = {"version": limits.version, "kill_switch": limits.kill_switch}
            self.log.controls[account_id.encode()] = msgspec.json.encode(controls)

    def _write_open_orders(self) -> None:
        """What compliance has open, and what of it the exchange has at the venue."""
        self.log.intents.clear()
        self.log.open_orders.clear()
        cleared = {
            each.event.order.order_id
            for each in self.log.compliance
            if isinstance(each.event, OrderComplianceApproved)
        }
        for order_id in self.open_lots.keys() & cleared:
            order = self._order(order_id)
            opened = {
                "symbol": order.symbol,
                "side": order.side,
                "price_ticks": order.price_ticks,
                "rests": order.time_in_force is not TimeInForce.IOC,
            }
            self.log.open_orders[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(opened)
            reported = any(each.event and each.event.order_id == order_id for each in self.log.executions)
            intent = {
                "order": order,
                "state": self._state_of(order_id, reported=reported),
                "open_lots": self.open_lots[order_id],
            }
            self.log.intents[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(intent)
        for account_id in self.books:
            judged = [each.event.order for each in self.log.compliance if each.event is not None]
            last = max((order.sequence for order in judged if order.account_id == account_id), default=0)
            self.log.recent_orders[account_id.encode()] = msgspec.json.encode({"last_sequence": last})

    def _state_of(self, order_id: str, *, reported: bool) -> str:
        if any(reported_id(letter) == order_id for letter in self.log.venue_letters):
            return "disputed"
        return "acknowledged" if reported else "pending"

    def _write_sessions(self) -> None:
        for session, sequence in self._sequences.items():
            value = {"venue_sequence_last": sequence}
            self.log.sessions[str(session).encode()] = msgspec.json.encode(value)

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

    def _report(self, order: Order, kind: type[VenueReport], **fields: Any) -> VenueReport:
        session = shard_of(order.account_id.encode())
        before = self._sequences.values() if self.numbers_together else [self._sequences[session]]
        sequence = self._sequences[session] = max(*before, 0, self.numbered_before) + 1
        report = kind(
            order.order_id,
            order.account_id,
            order.symbol,
            order.side,
            f"V-{order.order_id}",
            sequence,
            **fields,
        )
        self.ledger_reports.append(LedgerReport(session, sequence, report))
        _append(self.log.executions, self._logged(order.account_id, report))
        return report


def _append(records: list[Logged[Any]], record: Logged[Any]) -> None:
    """Append at the next offset; now and then a transaction's marker stands between."""
    offset = records[-1].offset + 1 + len(records) % 2 if records else 0
    records.append(msgspec.structs.replace(record, offset=offset))
