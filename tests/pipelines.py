"""The services' own code on a log in memory: one partition, no Kafka, time that stands still until told.

The agents run as they are, each record a unit of work. Orders are looked at a last time, and a venue takes
all that leaves. What comes of it the checker reads as if from a cluster. A test plants a mutant first: names
that the agents have bound already are replaced there too.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

import agents.allocation
import agents.compliance
import agents.exchange
import agents.marketdata
import agents.risk
import agents.risk_commands
from app.domain import exchange
from app.domain.reference import Known, Reference
from app.engine import Record, shard_of
from app.topics import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    ALLOCATION_INSTRUCTIONS,
    COMMAND_ANSWERS,
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    HALTS,
    INSTRUMENTS,
    MARKET_DATA,
    OPERATOR_COMMANDS,
    ORDERS,
    PRICES,
    RESTRICTED_LIST,
    RESTRICTIONS,
    RISK_DECISIONS,
    RISK_LIMITS,
    TOPICS,
)
from app.venue_session import session as venue_session
from checker.findings import Findings
from checker.history import Shared, Slice
from checker.invariants.ticks import Ticks, check_ticks
from checker.ledger import LedgerOrder, LedgerReport, LedgerTrade, PartLedger, read_body
from checker.lenient import LogRecord
from checker.reading import market_takes, reference_takes, slice_takes
from models.commands import SetAccountSequence, SetAllocation, SetHalt, SetRestriction, SetRiskLimits
from models.events import (
    AccountRegistered,
    CommandAnswered,
    HaltInForce,
    InstrumentListed,
    OrderAcknowledged,
    OrderExpired,
    OrderReceived,
    RestrictionInForce,
    TickReceived,
    TradeExecuted,
)
from models.values import Frozen, Instrument, Liquidity, PartyStatus
from tests.builders import NOW_MS, PRICE_TICKS
from tests.histories import judge

SPECS = {spec.name: spec for spec in TOPICS}
INPUTS = {
    "marketdata": (MARKET_DATA,),
    "risk": (RISK_LIMITS, ACCOUNT_COMMANDS, EXECUTIONS, COMPLIANCE_DECISIONS, ORDERS),
    "compliance": (EXECUTIONS, RISK_DECISIONS),
    "exchange": (RISK_LIMITS, COMPLIANCE_DECISIONS),
    "allocation": (ALLOCATION_INSTRUCTIONS, EXECUTIONS),
}
AGENTS: dict[str, Any] = {
    "marketdata": agents.marketdata.conflate,
    "risk": agents.risk.check_risk,
    "compliance": agents.compliance.check_compliance,
    "exchange": agents.exchange.intend,
    "allocation": agents.allocation.allocate,
}
MODULES = (agents.marketdata, agents.risk, agents.compliance, agents.exchange, agents.allocation)
STEP_MS = 5


class Global:
    """A global table of which all can be read."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def is_unreadable(self, key: str) -> bool:
        return False


class View(dict[str, Any]):
    """A table inside a unit of work; what is not there can be deleted."""

    def __delitem__(self, key: str) -> None:
        self.pop(key, None)


class Committed:
    """A task's state, which is what its units of work have left: there is one for each record."""

    partition = 0

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline = pipeline

    def table(self, table: Any) -> "Committed.Table":
        return self.Table(self._pipeline.table(table))

    class Table(NamedTuple):
        """What a task reads of a table."""

        rows: View

        def items(self, after: str) -> Iterator[tuple[str, Any]]:
            return ((key, self.rows[key]) for key in sorted(self.rows) if key > after)


class Work:
    """One record's unit of work."""

    def __init__(self, pipeline: "Pipeline", batch: "Batch") -> None:
        self._pipeline = pipeline
        self._batch = batch
        self.task = batch.task

    async def __aenter__(self) -> "Work":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def records(self) -> Iterator[Record]:
        yield self._batch.record

    def __getitem__(self, table: Any) -> View:
        return self._pipeline.table(table)

    def emit(self, topic: Any, value: Any, **_: Any) -> None:
        self._pipeline.log(topic, value)

    def after_commit(self, callback: Callable[[], None]) -> None:
        callback()


class Batch(SimpleNamespace):
    """One record for an agent."""

    record: Record
    task: Committed


class Rebinding:
    """Replaces attributes until the test is over, wherever an agent has bound what was there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def setattr(self, owner: Any, name: str, value: Any, /) -> None:
        before = getattr(owner, name)
        self._monkeypatch.setattr(owner, name, value)
        domain = [module for name, module in sys.modules.items() if name.startswith("app.domain.")]
        for module in (*MODULES, agents.risk_commands, venue_session, *domain):
            for bound, known in list(vars(module).items()):
                if known is before and callable(before):
                    self._monkeypatch.setattr(module, bound, value)


class Pipeline:
    """One partition of everything; `step` runs all services until nothing new comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = NOW_MS
        self.records: dict[str, list[LogRecord]] = defaultdict(list)
        self.global_values: dict[str, dict[str, Any]] = defaultdict(dict)
        self.away: set[str] = set()
        """Services that take nothing in."""
        self.fills = True
        self._tables: dict[str, View] = {}
        self._encode: dict[str, Callable[[Any], bytes]] = {}
        self._changes: dict[str, list[LogRecord]] = defaultdict(list)
        self._fresh: list[exchange.Intent] = []
        self._positions: dict[tuple[str, str], int] = defaultdict(int)
        self._sessions: dict[int, exchange.Session] = {}
        self._orders: dict[str, LedgerOrder] = {}
        self._reports: list[LedgerReport] = []
        self._trades: list[LedgerTrade] = []
        self._ticks: dict[str, int] = defaultdict(int)
        self._replace(monkeypatch)
        for symbol, currency in (("BTC-USD", "USD"), ("ETH-USD", "USD"), ("BTC-EUR", "EUR")):
            self.list_instrument(symbol, currency=currency)
            self.tick(symbol=symbol)

    def _replace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def known(topic: Any) -> Known[Any]:
            return Known(self.global_values[topic.name], {})

        reference = Reference(known(ACCOUNTS), known(INSTRUMENTS), known(HALTS), known(PRICES))
        monkeypatch.setattr(agents.risk, "reference", reference)
        monkeypatch.setattr(agents.risk, "time", SimpleNamespace(time_ns=lambda: self.now_ms * 1_000_000))
        monkeypatch.setattr(
            agents.compliance, "restrictions", Global(self.global_values[RESTRICTED_LIST.name])
        )
        around = exchange.Surroundings(**reference._asdict(), restricted=known(RESTRICTED_LIST))
        monkeypatch.setattr(agents.exchange, "around", around)
        monkeypatch.setattr(agents.marketdata, "instruments", Global(self.global_values[INSTRUMENTS.name]))
        monkeypatch.setattr(agents.allocation, "accounts", known(ACCOUNTS))
        monkeypatch.setattr(agents.allocation, "instruments", known(INSTRUMENTS))
        for module in MODULES:
            monkeypatch.setattr(module, "unit_of_work", lambda batch: Work(self, batch))

    # the log

    def table(self, table: Any) -> View:
        self._encode.setdefault(table.name, table.encode)
        return self._tables.setdefault(table.name, View())

    def log(self, topic: Any, value: Frozen, *, ours: bool = True) -> LogRecord:
        """Append a value to its topic, a few ms after what was before."""
        self.now_ms += STEP_MS
        event_type, version, data = topic.codec.encode(value)
        headers = (("event-type", event_type), ("schema-version", version))
        key = topic.key_of(value)
        offset = len(self.records[topic.name])
        record = LogRecord(topic.name, 0, offset, self.now_ms, key, data, headers, ours)
        self.records[topic.name].append(record)
        if topic in (INSTRUMENTS, ACCOUNTS, HALTS, PRICES, RESTRICTED_LIST):
            self.global_values[topic.name][key.decode()] = value
        return record

    def repeat(self, topic: Any, index: int = -1) -> None:
        """A tool writes a record a second time, word for word."""
        records = self.records[topic.name]
        self.now_ms += STEP_MS
        changed = {"offset": len(records), "timestamp": self.now_ms, "in_transaction": False}
        records.append(msgspec.structs.replace(records[index], **changed))
        self.step()

    def put(self, topic: Any, value: Frozen, *, ours: bool = True) -> None:
        self.log(topic, value, ours=ours)
        self.step()

    def step(self) -> None:
        """Let every service take in what there is, and what comes of that."""
        has_worked = True
        while has_worked:
            served = [self._serve(service) for service in INPUTS if service not in self.away]
            has_worked = any(served) or self._send()

    def _serve(self, service: str) -> bool:
        has_worked = False
        for spec in INPUTS[service]:
            position = self._positions[service, spec.name]
            for raw in self.records[spec.name][position:]:
                self._positions[service, spec.name] += 1
                asyncio.run(self._run(service, spec, raw))
                has_worked = True
        return has_worked

    async def _run(self, service: str, spec: Any, raw: LogRecord) -> None:
        headers: dict[str, Any] = dict(raw.headers)
        value = spec.codec.decode(headers["event-type"], headers["schema-version"], raw.value)
        record = Record(spec.name, 0, raw.offset, raw.timestamp, raw.key, value, headers)
        intents = set(self._tables.get("intents", ()))

        async def batches() -> AsyncIterator[Batch]:
            yield Batch(record=record, task=Committed(self))

        await AGENTS[service].fun(batches())
        for key in set(self._tables.get("intents", ())) - intents:
            self._fresh.append(self._tables["intents"][key])
            value = self._encode["intents"](self._tables["intents"][key])
            change = LogRecord("exchange-intents-changelog", 0, 0, self.now_ms, key.encode(), value, (), True)
            self._changes["intents"].append(change)

    # the venue

    def _send(self) -> bool:
        """Look a last time at what is intended, and send it."""
        fresh, self._fresh = self._fresh, []
        for intent in fresh:
            self._leave(intent)
        return bool(fresh)

    def _leave(self, intent: exchange.Intent) -> None:
        order = intent.order
        reason = vars(venue_session)["last_look"](
            order,
            now_ms=self.now_ms,
            controls=self._tables["controls"].get(order.account_id),
            around=agents.exchange.around,
        )
        if reason is not None:
            del self._tables["intents"][f"{order.account_id}/{order.order_id}"]
            self.log(EXECUTIONS, exchange.withheld(order, reason, self.now_ms))
            return
        shard = shard_of(order.account_id.encode())
        before = self._orders.get(order.order_id)
        if before is not None:
            self._orders[order.order_id] = before._replace(receipts=before.receipts + 1)
            return
        terms = exchange.to_venue_order(intent)
        self._orders[order.order_id] = LedgerOrder(
            terms["client_order_id"],
            terms["account_id"],
            terms["symbol"],
            terms["side"],
            terms["quantity_lots"],
            terms["price_ticks"],
            terms["time_in_force"],
            0,
            "open",
            1,
            shard,
        )
        self._report(order, OrderAcknowledged)
        if self.fills:
            self.fill(order, order.quantity_lots)

    def fill(self, order: OrderReceived, lots: int) -> None:
        """The venue fills some of an order, for a fee of two micros a lot and one more."""
        row = self._orders[order.order_id]
        filled_lots = row.filled_lots + lots
        trade_id = f"T{len(self._trades) + 1}"
        self._orders[order.order_id] = row._replace(filled_lots=filled_lots)
        terms: dict[str, Any] = {
            "traded_at_ms": self.now_ms,
            "trade_date": "2023-11-14",
            "fee_micros": 2 * lots + 1,
            "fee_currency": order.symbol[-3:],
            "counterparty": "MARKET",
            "liquidity": Liquidity.REMOVED,
        }
        report = self._report(
            order,
            TradeExecuted,
            trade_id=trade_id,
            quantity_lots=lots,
            price_ticks=order.price_ticks,
            leaves_lots=order.quantity_lots - filled_lots,
            **terms,
        )
        number = (row.session, report.venue_sequence)
        self._trades.append(LedgerTrade(trade_id, order.order_id, lots, order.price_ticks, *number, **terms))

    def expire(self, order: OrderReceived) -> None:
        row = self._orders[order.order_id]
        self._report(order, OrderExpired, expired_lots=order.quantity_lots - row.filled_lots)
        self.step()

    def _report(self, order: OrderReceived, kind: Any, **fields: Any) -> Any:
        shard = shard_of(order.account_id.encode())
        session = self._sessions.get(shard, exchange.NEW_SESSION)
        report = kind(
            order_id=order.order_id,
            account_id=order.account_id,
            symbol=order.symbol,
            side=order.side,
            venue_order_id=f"V-{order.order_id}",
            venue_sequence=session.venue_sequence_last + 1,
            **fields,
        )
        key = f"{order.account_id}/{order.order_id}"
        intents = self._tables["intents"]
        self._sessions[shard], intent, _ = exchange.apply_venue_report(session, intents.get(key), report)
        if intent is None:
            del intents[key]
        else:
            intents[key] = intent
        body = msgspec.json.encode({"type": kind.__name__} | report.model_dump(mode="json")).decode()
        self._reports.append(LedgerReport(shard, report.venue_sequence, read_body(kind.__name__, body)))
        self.log(EXECUTIONS, report)
        return report

    # the outside

    def wait(self, ms: int) -> None:
        self.now_ms += ms

    def tick(self, price_ticks: int = PRICE_TICKS, symbol: str = "BTC-USD", **changed: Any) -> None:
        self._ticks[symbol] = changed.pop("sequence", self._ticks[symbol] + 1)
        fields = {"quantity_lots": 1, "exchange_at_ms": self.now_ms, "observed_at_ms": self.now_ms} | changed
        tick = TickReceived(symbol=symbol, sequence=self._ticks[symbol], price_ticks=price_ticks, **fields)
        self.put(MARKET_DATA, tick, ours=False)

    def last_sequence(self, symbol: str) -> int:
        """Of the last tick."""
        return self._ticks[symbol]

    def register(self, account_id: str = "acc", currency: str = "USD", status: str = "active") -> None:
        fields = {"account_id": account_id, "owner": "", "firm": "", "base_currency": currency, "version": 1}
        self.put(ACCOUNTS, AccountRegistered.model_validate(fields | {"status": PartyStatus(status)}))

    def list_instrument(self, symbol: str, version: int = 1, **changed: Any) -> None:
        terms = {"symbol": symbol, "base": "X", "currency": "USD", "tick": "0.01", "lot": "0.0001"}
        instrument = Instrument.model_validate(terms | changed)
        self.put(INSTRUMENTS, InstrumentListed(instrument=instrument, version=version))

    def limit(self, account_id: str = "acc", version: int = 1, **changed: Any) -> None:
        """Set limits, generous unless told otherwise; an account that is new is registered."""
        if account_id not in self.global_values[ACCOUNTS.name]:
            self.register(account_id)
        fields = {
            "order_quantity_lots_max": 1_000,
            "order_notional_micros_max": 10**12,
            "position_lots_max": 5_000,
            "gross_exposure_micros_max": 10**13,
            "price_collar_bps": 1_000,
            "price_age_ms_max": 60_000,
            "open_orders_max": 100,
        } | changed
        self.put(RISK_LIMITS, SetRiskLimits(account_id=account_id, version=version, **fields), ours=False)
        self.wait(1_500)

    def order(self, account_id: str = "acc", **changed: Any) -> OrderReceived:
        """An order to buy 10 lots at 900.00, two seconds after what was before."""
        self.wait(2_000)
        sequence = len(self.records[ORDERS.name]) + 1
        fields: dict[str, Any] = {
            "order_id": f"{account_id}-{sequence}",
            "account_id": account_id,
            "sequence": sequence,
            "symbol": "BTC-USD",
            "side": "buy",
            "quantity_lots": 10,
            "price_ticks": PRICE_TICKS,
            "submitted_at_ms": self.now_ms,
        }
        order = OrderReceived.model_validate(fields | changed)
        self.put(ORDERS, order, ours=False)
        return order

    def set_sequence(self, account_id: str, last_sequence: int) -> None:
        command = SetAccountSequence(
            account_id=account_id, last_sequence=last_sequence, who="ops", why="test"
        )
        self.put(ACCOUNT_COMMANDS, command, ours=False)

    def allocate(self, account_id: str, method: str, *shares: dict[str, Any], **changed: Any) -> None:
        """Say how the account's fills are divided; sub-accounts that are new are registered."""
        for share in shares:
            if share["sub_account"] not in self.global_values[ACCOUNTS.name]:
                self.register(share["sub_account"])
        told = {"account_id": account_id, "order_id": "*", "version": 1, "who": "ops", "why": "test"}
        command = SetAllocation.model_validate(told | {"method": method, "shares": shares} | changed)
        self.put(ALLOCATION_INSTRUCTIONS, command, ours=False)

    def halt(self, scope: str = "*", version: int = 1, *, halted: bool = True) -> None:
        told: dict[str, Any] = {
            "scope": scope,
            "halted": halted,
            "version": version,
            "who": "ops",
            "why": "test",
        }
        self._operate(OPERATOR_COMMANDS, SetHalt(**told), HALTS, HaltInForce(**told))

    def restrict(self, symbol: str = "BTC-USD", *, restricted: bool = True) -> None:
        told: dict[str, Any] = {"symbol": symbol, "restricted": restricted, "version": None}
        told |= {"who": "ops", "why": "test"}
        self._operate(RESTRICTIONS, SetRestriction(**told), RESTRICTED_LIST, RestrictionInForce(**told))

    def _operate(self, commands: Any, command: Any, states: Any, state: Any) -> None:
        """What refdata makes of a command that it accepts."""
        self.put(commands, command, ours=False)
        self.put(states, state)
        answer = CommandAnswered(
            command=type(command).__name__,
            subject=states.key_of(state).decode(),
            version=command.version,
            accepted=True,
            who=command.who,
            why=command.why,
        )
        self.put(COMMAND_ANSWERS, answer)
        self.wait(1_500)

    # judgement

    def findings(self) -> Findings:
        """What the checker finds in all of it, once everything has come to rest."""
        self.step()
        shared = Shared()
        counts = dict.fromkeys(SPECS, 1)
        ticks = Ticks(shared.reference)
        self._read(reference_takes(shared, counts))
        shared.reference.settle()
        self._read(market_takes(shared, ticks, counts))
        history = Slice(looks_last=True, allocates=True)
        takes = slice_takes(history)
        self._read(takes)
        takes["exchange-intents-changelog"](self._changes["intents"])
        history.intents.clear()
        for name, values in self._tables.items():
            if hasattr(history, name):
                encoded = {key.encode(): self._encode[name](value) for key, value in values.items()}
                getattr(history, name).update(encoded)
        history.sessions = {
            str(shard).encode(): session.model_dump_json().encode()
            for shard, session in self._sessions.items()
        }
        history.ended = not self._tables.get("intents")
        found = judge(history, shared, PartLedger(self._orders.values(), self._sorted(), self._trades), {})
        return found.add([check_ticks(ticks, [], shared.last_prices, shared.market)])

    def _sorted(self) -> list[LedgerReport]:
        return sorted(self._reports, key=lambda each: (each.session, each.venue_sequence))

    def _read(self, takes: Any) -> None:
        for topic, take in takes.items():
            take(self.records.get(topic, []))

    def broken(self) -> set[str]:
        return {f"{each.invariant}: {each.message}" for each in self.findings().violations}
