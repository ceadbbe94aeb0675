"""Builds legal histories for the checker, step by step; a test plants what it wants to be caught."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, cast

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
    check_requests,
    check_standing,
    check_venue,
)
from checker.invariants.intake import sort_intake
from checker.ledger import LedgerOrder, LedgerReport, LedgerRequest, LedgerTrade, PartLedger
from checker.records import (
    ACCOUNT_COMMANDS,
    OPERATOR_COMMANDS,
    ORDERS,
    RESTRICTIONS,
    RISK_LIMITS,
    AccountRegistered,
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CancelRequested,
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
    OrderReplaced,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    Origin,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    ReplaceWithheld,
    Request,
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
            check_requests(log, traces),
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


class _Terms(NamedTuple):
    """The total quantity and the price of an order that are in force."""

    quantity_lots: int
    price_ticks: int


class _Wanted(NamedTuple):
    """A request that risk has let through and nobody has answered."""

    request: Request
    venue_id: str
    is_passed: bool = False


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
        self.ledger_requests: dict[str, LedgerRequest] = {}
        self.terms: dict[str, _Terms] = {}
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
        self._sent: dict[str, dict[str, int]] = defaultdict(dict)
        self._cancels: dict[str, int] = defaultdict(int)
        self._wanted: dict[str, _Wanted] = {}
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
        sequence = self._next_sequence()
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
        _append(self.log.orders, record, self.log.asked)
        return str(Origin("orders", self.log.partition, self.log.orders[-1].offset))

    def ask_cancel(self, order: Order, **changed: Any) -> CancelRequested:
        """A client asks for an order to be cancelled."""
        self.now_ms += ORDER_EVERY_MS
        fields: dict[str, Any] = {
            "request_id": f"R{len(self.log.asked) + 1}",
            "account_id": order.account_id,
            "order_id": order.order_id,
            "submitted_at_ms": self.now_ms,
        }
        request = CancelRequested(**(fields | changed))
        self.log_request(request)
        return request

    def ask_replace(self, order: Order, **changed: Any) -> ReplaceRequested:
        """A client asks for another quantity and price of an order: 5 lots more, unless told otherwise."""
        self.now_ms += ORDER_EVERY_MS
        sequence, terms = self._next_sequence(), self._terms_of(order)
        fields: dict[str, Any] = {
            "request_id": f"{order.account_id}-{sequence}",
            "account_id": order.account_id,
            "sequence": sequence,
            "order_id": order.order_id,
            "quantity_lots": terms.quantity_lots + 5,
            "price_ticks": terms.price_ticks,
            "submitted_at_ms": self.now_ms,
        }
        request = ReplaceRequested(**(fields | changed))
        self.log_request(request)
        return request

    def log_request(self, request: Request) -> str:
        """Log a request, known or not; gives its source."""
        _append(self.log.asked, self._logged(request.account_id, request), self.log.orders)
        return str(Origin("orders", self.log.partition, self.log.asked[-1].offset))

    def log_garbage(self, key: bytes | None = b"acc") -> Origin:
        """Log a record that nobody can understand."""
        _append(self.log.orders, Logged(0, self._next_ms(), key, None, False), self.log.asked)
        return Origin("orders", self.log.partition, self.log.orders[-1].offset)

    def log_stray(self, order_id: str = "far-1", key: bytes = b"far") -> Origin:
        """Log an order whose account belongs to another partition."""
        origin = self.log_garbage(key)
        self.log.strays.setdefault(ORDERS, {})[origin.offset] = order_id
        return origin

    def log_stranger(self, key: bytes = b"stranger") -> Origin:
        """Log a record among risk's decisions that risk has not written."""
        _append(self.log.risk, Logged(0, self._next_ms(), key, None, False), self.log.asked_risk)
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
        _append(self.log.risk, self._logged(order.account_id, approval), self.log.asked_risk)
        self._decided(order)
        self._lots(order)[1 if order.side is Side.BUY else 2] += order.quantity_lots
        self.terms[order.order_id] = _Terms(order.quantity_lots, order.price_ticks)
        self.open_lots[order.order_id] = order.quantity_lots

    def refuse(self, order: Order, reason: str = "position_limit", source: str | None = None) -> None:
        source = source or str(Origin("orders", self.log.partition, self._record_of(order).offset))
        rejection = OrderRiskRejected(order, reason, source, detail="")
        _append(self.log.risk, self._logged(order.account_id, rejection), self.log.asked_risk)
        if reason not in ("duplicate_order_id", "sequence_leap", "unknown_account"):
            self._decided(order)

    def clear(self, order: Order) -> None:
        """Compliance approves, and the exchange intends to send the order to the venue."""
        self._judge(order.account_id, OrderComplianceApproved(order))
        self.log.intended_at_ms.setdefault(f"{order.account_id}/{order.order_id}".encode(), self.now_ms)
        self._sent[order.account_id]["order_sequence_last"] = order.sequence

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
        if reason == "cancel_requested":
            self._answered(self._cancel_of(order.order_id))

    def bar(self, order: Order, reason: str = "self_match") -> None:
        """Compliance refuses."""
        self._judge(order.account_id, OrderComplianceRejected(order, reason))
        self._end(order, "barred")

    def let(self, request: Request, **changed: Any) -> CancelAccepted | ReplaceRiskApproved:
        """Risk lets a request through."""
        order = self._order(request.order_id)
        let: CancelAccepted | ReplaceRiskApproved
        if isinstance(request, CancelRequested):
            self._cancels[request.account_id] += 1
            cancel: dict[str, Any] = {
                "number": self._cancels[request.account_id],
                "symbol": order.symbol,
                "side": order.side,
                "source": self._source_of(request),
            }
            let = CancelAccepted(request, **(cancel | changed))
        else:
            received_at_ms = self._asked_at(request).timestamp_ms
            decided_at_ms = max(self.now_ms, received_at_ms)
            price_ticks, observed_at_ms = self._prices[order.symbol]
            replace: dict[str, Any] = {
                "symbol": order.symbol,
                "side": order.side,
                "reference_price_ticks": price_ticks,
                "reference_tick_sequence": self.tick_sequence[order.symbol],
                "reference_tick_epoch": self.epoch,
                "price_age_ms": max(0, decided_at_ms - observed_at_ms),
                "limits_version": self._limits[order.account_id].version,
                "received_at_ms": received_at_ms,
                "decided_at_ms": decided_at_ms,
            }
            let = ReplaceRiskApproved(request, **(replace | changed))
            self.books[request.account_id].last_sequence = request.sequence
            self._lots(order)[1 if order.side is Side.BUY else 2] += self._more_lots(request)
        _append(self.log.asked_risk, self._logged(request.account_id, let), self.log.risk)
        self._wanted[let.venue_id] = _Wanted(request, let.venue_id)
        return let

    def refuse_request(self, request: Request, reason: str, source: str | None = None) -> None:
        """Risk does not let a request through."""
        source = source or self._source_of(request)
        refusal: CancelRefused | ReplaceRiskRejected
        if isinstance(request, CancelRequested):
            refusal = CancelRefused(request, reason, source)
        else:
            refusal = ReplaceRiskRejected(request, reason, source)
            if reason not in ("duplicate_order_id", "sequence_leap", "unknown_account"):
                books = self.books.setdefault(request.account_id, _Books())
                books.last_sequence = request.sequence
        _append(self.log.asked_risk, self._logged(request.account_id, refusal), self.log.risk)

    def pass_on(self, let: CancelAccepted | ReplaceRiskApproved) -> None:
        """Compliance lets a request through, and the exchange takes it on."""
        account_id, sent = let.request.account_id, self._sent[let.request.account_id]
        if isinstance(let, CancelAccepted):
            self._judge_request(account_id, let)
            sent["cancel_number_last"] = let.number
        else:
            self._judge_request(account_id, ReplaceComplianceApproved(let.request, let.symbol, let.side))
            sent["order_sequence_last"] = let.request.sequence
        self._wanted[let.venue_id] = self._wanted[let.venue_id]._replace(is_passed=True)

    def bar_replace(self, let: ReplaceRiskApproved, reason: str = "self_match") -> None:
        """Compliance refuses a replace."""
        self._judge_request(let.request.account_id, ReplaceComplianceRejected(let.request, reason))
        self._answered(let.venue_id)

    def send_request(self, let: CancelAccepted | ReplaceRiskApproved) -> None:
        """The venue takes a request; what comes of it stands in the row at once."""
        request = let.request
        is_cancel = isinstance(let, CancelAccepted)
        self.ledger_requests[let.venue_id] = LedgerRequest(
            let.venue_id,
            request.account_id,
            request.order_id,
            "cancel" if is_cancel else "replace",
            None if isinstance(request, CancelRequested) else request.quantity_lots,
            None if isinstance(request, CancelRequested) else request.price_ticks,
            1,
            shard_of(request.account_id.encode()),
            "cancelled" if is_cancel else "replaced",
        )

    def withhold_replace(self, let: ReplaceRiskApproved, reason: str = "halted") -> None:
        """The exchange does not send it after all."""
        request = let.request
        withheld = ReplaceWithheld(
            request.order_id,
            request.account_id,
            let.symbol,
            let.side,
            let.venue_id,
            reason,
            self.now_ms,
        )
        _append(self.log.executions, self._logged(request.account_id, withheld))
        self._answered(let.venue_id)

    # the venue

    def acknowledge(self, order: Order) -> None:
        self._report(order, OrderAcknowledged)

    def fill(self, order: Order, lots: int | None = None) -> None:
        lots = self.open_lots[order.order_id] if lots is None else lots
        leaves_lots = self.open_lots[order.order_id] - lots
        trade: dict[str, Any] = {
            "trade_id": f"T{len(self.ledger_trades) + 1}",
            "quantity_lots": lots,
            "price_ticks": self._terms_of(order).price_ticks,
        }
        terms: dict[str, Any] = {
            "traded_at_ms": self.now_ms,
            "trade_date": "2023-11-14",
            "fee_micros": lots,
            "fee_currency": "USD",
            "counterparty": "MARKET",
            "liquidity": Liquidity.REMOVED,
        }
        report: Any = self._report(order, TradeExecuted, **trade, leaves_lots=leaves_lots, **terms)
        number = (shard_of(order.account_id.encode()), report.venue_sequence)
        self.ledger_trades.append(
            LedgerTrade(trade["trade_id"], order.order_id, lots, report.price_ticks, *number, **terms)
        )
        row = self.ledger_orders[order.order_id]
        status = "open" if leaves_lots else "filled"
        self.ledger_orders[order.order_id] = row._replace(filled_lots=row.filled_lots + lots, status=status)
        self._move(order, lots)
        profits, held = self.books[order.account_id].profits, self._lots(order)
        profits[order.symbol] = booked(profits.get(order.symbol), held[0], cast(Any, report))
        held[0] += lots if order.side is Side.BUY else -lots
        if not leaves_lots:
            self._end(order, "filled")

    def cancel(self, order: Order, request_id: str | None = None) -> None:
        lots = self.open_lots[order.order_id]
        self._report(order, OrderCancelled, cancelled_lots=lots, request_id=request_id)
        self._end(order, "cancelled")
        self._answered(request_id)

    def replace(self, let: ReplaceRiskApproved, **changed: Any) -> None:
        """The order is on the terms that were asked for, or filled where these are less than was filled."""
        order, request = self._order(let.request.order_id), let.request
        before = self._terms_of(order)
        filled_lots = before.quantity_lots - self.open_lots[order.order_id]
        terms = _Terms(max(request.quantity_lots, filled_lots), request.price_ticks)
        leaves_lots = terms.quantity_lots - filled_lots
        self._answered(let.venue_id)
        fields = {**terms._asdict(), "leaves_lots": leaves_lots} | changed
        self._report(order, OrderReplaced, request_id=let.venue_id, **fields)
        more_lots = terms.quantity_lots - before.quantity_lots
        self._lots(order)[1 if order.side is Side.BUY else 2] += more_lots
        self.open_lots[order.order_id] = leaves_lots
        self.terms[order.order_id] = terms
        row = self.ledger_orders[order.order_id]
        self.ledger_orders[order.order_id] = row._replace(**terms._asdict())
        if not leaves_lots:
            self._end(order, "filled")

    def reject_request(self, let: CancelAccepted | ReplaceRiskApproved, reason: str = "order_ended") -> None:
        """The venue refuses a request."""
        order = self._order(let.request.order_id)
        kind = CancelRejected if isinstance(let, CancelAccepted) else ReplaceRejected
        self._report(order, kind, request_id=let.venue_id, reason=reason)
        self.ledger_requests[let.venue_id] = self.ledger_requests[let.venue_id]._replace(outcome=reason)
        self._answered(let.venue_id)

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

    def asked(self, request: Request) -> Any:
        """A request that the venue has, unanswered: what risk said of it."""
        let = self.let(request)
        self.pass_on(let)
        self.send_request(let)
        return let

    def resting(self, account_id: str = "acc", **changed: Any) -> Order:
        """An order that rests at the venue."""
        order = self.cleared(account_id, **changed)
        self.acknowledge(order)
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
                "price_ticks": self.terms[order_id].price_ticks,
                "open_lots": open_lots,
                "quantity_lots": self.terms[order_id].quantity_lots,
                "cancel_id": self._cancel_of(order_id),
                "replace": self._replace_of(order_id),
            }
            self.log.reservations[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(
                reservation
            )
        self._write_limits()
        self._write_open_orders()
        self._write_sessions()
        self._write_requests()
        for account_id, sent in self._sent.items():
            self.log.sent[account_id.encode()] = msgspec.json.encode({"order_sequence_last": 0} | sent)

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
            self.ledger_requests.values(),
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
                "price_ticks": self.terms[order_id].price_ticks,
                "rests": order.time_in_force is not TimeInForce.IOC,
            }
            wanted = self._replace_of(order_id, is_passed=True)
            if wanted is not None:
                opened |= {"replace_id": wanted.request_id, "replace_price_ticks": wanted.price_ticks}
            self.log.open_orders[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(opened)
            reported = any(each.event and each.event.order_id == order_id for each in self.log.executions)
            intent = {
                "order": msgspec.structs.replace(order, **self.terms[order_id]._asdict()),
                "state": "acknowledged" if reported else "pending",
                "open_lots": self.open_lots[order_id],
                "disputed": any(reported_id(letter) == order_id for letter in self.log.venue_letters),
            }
            self.log.intents[f"{order.account_id}/{order_id}".encode()] = msgspec.json.encode(intent)
        for account_id in self.books:
            numbers = [
                (each.event.order.account_id, each.event.order.sequence)
                for each in self.log.compliance
                if each.event is not None
            ]
            numbers += [
                (each.event.request.account_id, each.event.request.sequence)
                for each in self.log.asked_compliance
                if isinstance(each.event, ReplaceComplianceApproved | ReplaceComplianceRejected)
            ]
            last = max((number for of, number in numbers if of == account_id), default=0)
            self.log.recent_orders[account_id.encode()] = msgspec.json.encode({"last_sequence": last})

    def _write_requests(self) -> None:
        """What the exchange has been told to ask the venue for, and has no answer to."""
        self.log.requests.clear()
        for wanted in self._wanted.values():
            if wanted.is_passed:
                request, order = wanted.request, self._order(wanted.request.order_id)
                row: dict[str, Any] = {
                    "request_id": wanted.venue_id,
                    "account_id": request.account_id,
                    "order_id": request.order_id,
                    "symbol": order.symbol,
                    "side": order.side,
                }
                if isinstance(request, ReplaceRequested):
                    row |= {"quantity_lots": request.quantity_lots, "price_ticks": request.price_ticks}
                key = f"{request.account_id}/{wanted.venue_id}".encode()
                self.log.requests[key] = msgspec.json.encode(row)

    def _write_sessions(self) -> None:
        for session, sequence in self._sequences.items():
            value = {"venue_sequence_last": sequence}
            self.log.sessions[str(session).encode()] = msgspec.json.encode(value)

    def _next_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def _logged(self, account_id: str, event: Any) -> Logged[Any]:
        return Logged(0, self._next_ms(), account_id.encode(), event)

    def _judge(self, account_id: str, decision: Any) -> None:
        _append(self.log.compliance, self._logged(account_id, decision), self.log.asked_compliance)

    def _judge_request(self, account_id: str, decision: Any) -> None:
        _append(self.log.asked_compliance, self._logged(account_id, decision), self.log.compliance)

    def _next_sequence(self) -> int:
        return len(self.log.orders) + len(self.log.asked) + 1

    def _terms_of(self, order: Order) -> _Terms:
        return self.terms.get(order.order_id, _Terms(order.quantity_lots, order.price_ticks))

    def _asked_at(self, request: Request) -> Logged[Request]:
        return next(each for each in reversed(self.log.asked) if each.event == request)

    def _source_of(self, request: Request) -> str:
        return str(Origin("orders", self.log.partition, self._asked_at(request).offset))

    def _more_lots(self, request: ReplaceRequested) -> int:
        return max(0, request.quantity_lots - self.terms[request.order_id].quantity_lots)

    def _cancel_of(self, order_id: str) -> str | None:
        wanted = (each for each in self._wanted.values() if each.request.order_id == order_id)
        return next((each.venue_id for each in wanted if isinstance(each.request, CancelRequested)), None)

    def _replace_of(self, order_id: str, *, is_passed: bool = False) -> ReplaceRequested | None:
        for each in self._wanted.values():
            request = each.request
            if isinstance(request, ReplaceRequested) and request.order_id == order_id:
                return request if each.is_passed or not is_passed else None
        return None

    def _answered(self, venue_id: str | None) -> None:
        """Nobody waits for an answer any more; what was reserved for the new terms is released."""
        wanted = self._wanted.pop(venue_id or "", None)
        if wanted is None or not isinstance(wanted.request, ReplaceRequested):
            return
        if wanted.request.order_id in self.open_lots:
            order = self._order(wanted.request.order_id)
            self._lots(order)[1 if order.side is Side.BUY else 2] -= self._more_lots(wanted.request)

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
        wanted = self._replace_of(order.order_id)
        if wanted is not None:
            self._lots(order)[1 if order.side is Side.BUY else 2] -= self._more_lots(wanted)
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


def _append(records: list[Logged[Any]], record: Logged[Any], beside: Sequence[Logged[Any]] = ()) -> None:
    """Append at the next offset; now and then a transaction's marker stands between.

    `beside` are the other records of the topic.
    """
    last = max((each[-1].offset for each in (records, beside) if each), default=-1)
    offset = last + 1 + (len(records) + len(beside)) % 2 if last >= 0 else 0
    records.append(msgspec.structs.replace(record, offset=offset))
