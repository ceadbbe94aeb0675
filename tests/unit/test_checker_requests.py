"""What the checker reads of cancels and replaces, and what it must not hold against anybody."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from checker.findings import Findings
from checker.history import Slice, trace
from checker.invariants.intake import sort_intake
from checker.ledger import LedgerFile
from checker.lenient import LogRecord
from checker.reading import slice_takes
from checker.records import (
    CancelAccepted,
    CancelRejected,
    CancelRequested,
    Event,
    OrderReplaced,
    Origin,
    ReplaceRequested,
    ReplaceRiskApproved,
)
from checker.report import Counts
from models.values import Side
from tests.histories import PRICE_TICKS, World
from tests.planted import ask_for, asking_for_much, cancelled, replaced

CANCEL = CancelRequested("mine", "acc", "acc-1", 5)
REPLACE = ReplaceRequested("acc-2", "acc", 2, "acc-1", 20, PRICE_TICKS, 5)

COLUMNS = {
    "orders": "client_order_id, account_id, symbol, side, quantity_lots, price_ticks, time_in_force, "
    "filled_lots, status, receipts, session, arrival",
    "requests": "request_id, session, account_id, order_id, kind, quantity_lots, price_ticks, receipts, "
    "outcome",
    "reports": "session, venue_sequence, type, body",
    "trades": "trade_id, client_order_id, quantity_lots, price_ticks, session, venue_sequence, traded_at_ms, "
    "trade_date, fee_micros, fee_currency, counterparty, liquidity",
    "counters": "name, value",
}


def a_record(event: Event, topic: str = "orders", **changed: Any) -> LogRecord:
    """A record that a client or one of our services has written."""
    headers = (("event-type", type(event).__name__.encode()), ("schema-version", b"1"))
    record = LogRecord(topic, 0, 0, 0, b"acc", msgspec.json.encode(event), headers, topic != "orders")
    return replace(record, **changed)


def read(*given: LogRecord, partition: int = 0, partitions: int = 1) -> Slice:
    history = Slice(partition, partitions)
    for number, record in enumerate(given):
        slice_takes(history)[record.topic]([replace(record, offset=number)])
    return history


def messages(world: World) -> set[str]:
    return {each.message for each in world.violations()}


class TestReading:
    @pytest.mark.parametrize("request_", [CANCEL, REPLACE])
    def test_a_request_stands_apart_from_orders(self, request_: CancelRequested | ReplaceRequested) -> None:
        history = read(a_record(request_))
        assert [each.event for each in history.asked] == [request_]
        assert history.orders == []
        assert history.last_offset("orders") == 0

    @pytest.mark.parametrize(
        "record",
        [
            a_record(CANCEL, key=b"other"),
            a_record(CANCEL, value=msgspec.json.encode(msgspec.to_builtins(CANCEL) | {"reason": "why"})),
            a_record(REPLACE, key=b"other"),
            a_record(replace(REPLACE, request_id="mine")),
            a_record(replace(REPLACE, request_id="acc-0", sequence=0)),
            a_record(replace(CANCEL, request_id="")),
        ],
    )
    def test_what_nobody_can_understand_is_no_request(self, record: LogRecord) -> None:
        history = read(record)
        assert history.asked == []
        assert [each.event for each in history.orders] == [None]

    def test_numbers_as_text_are_understood_leniently(self) -> None:
        value = msgspec.json.encode(msgspec.to_builtins(REPLACE) | {"quantity_lots": "20"})
        history = read(a_record(REPLACE, value=value))
        assert [(each.event, each.sound) for each in history.asked] == [(REPLACE, False)]

    def test_one_on_a_wrong_partition_is_a_stray(self) -> None:
        elsewhere = next(
            number for number in range(8) if read(a_record(REPLACE), partition=number, partitions=8).strays
        )
        history = read(a_record(REPLACE), partition=elsewhere, partitions=8)
        assert history.strays == {"orders": {0: "acc-2"}}
        assert history.asked == []

    def test_one_that_was_sent_to_a_wrong_partition_only_is_not_decided(self) -> None:
        world = World()
        order = world.resting()
        request = world.ask_replace(order)
        world.replace(world.asked(request))
        world.fill(order)
        world.log.asked.clear()
        world.log_stray(request.request_id)
        assert "an order that was sent to a wrong partition only was acted on" in messages(world)

    def test_a_cancel_that_somebody_repeats_may_be_passed_on_again(self) -> None:
        world = World()
        _, let = cancelled(world)
        assert isinstance(let, CancelAccepted)
        world.log.asked_risk.clear()
        record = a_record(let, "risk-decisions", timestamp=world.now_ms - 3)
        take = slice_takes(world.log)["risk-decisions"]
        take([replace(record, offset=1), replace(record, offset=2, in_transaction=False)])
        assert (len(world.log.asked_risk), world.log.repeats) == (1, 1)
        world.log.asked_compliance.append(replace(world.log.asked_compliance[0], offset=9))
        world.write_books()
        assert "compliance has decided a request more than once" not in messages(world)
        world.log.repeated.clear()
        assert "compliance has decided a request more than once" in messages(world)


class TestMovingHistory:
    @pytest.mark.parametrize("topic", ["risk", "compliance", "executions"])
    @pytest.mark.parametrize("left", range(4))
    def test_missing_effects_are_in_flight(self, topic: str, left: int) -> None:
        world = World()
        asking_for_much(world)
        moving(world)
        until_ms = world.log.executions[len(world.log.executions) * left // 4].timestamp_ms
        downstream = ["risk", "compliance", "executions"]
        log: Any = world.log
        for name in downstream[downstream.index(topic) :]:
            for of in (name, f"asked_{name}"):
                if hasattr(log, of):
                    setattr(log, of, [each for each in getattr(log, of) if each.timestamp_ms < until_ms])
        if topic != "executions":
            world.ledger_orders, world.ledger_requests = {}, {}
        log.risk_cut = max((each.offset for each in (*log.risk, *log.asked_risk)), default=0)
        if topic != "risk":
            first_unsure = (
                each.offset for each in (*log.risk, *log.asked_risk) if each.timestamp_ms >= until_ms
            )
            log.risk_cut = min(first_unsure)
        assert world.violations() == []

    def test_the_ledger_may_have_a_replace_that_the_log_has_not_yet(self) -> None:
        world = World()
        replaced(world)
        moving(world)
        world.log.executions.pop()
        assert world.violations() == []
        world.ledger_orders = {key: row._replace(price_ticks=1) for key, row in world.ledger_orders.items()}
        assert messages(world) == {"the venue has an order on other terms than approved and replaced"}

    def test_what_risk_may_have_known_more_of_is_not_judged(self) -> None:
        world = World()
        order = world.resting()
        one = ask_for(world, "replace", order)
        cut = world.log.asked_risk[-1].offset + 1
        ask_for(world, "replace", order)
        world.refuse_request(world.ask_cancel(order), "order_ended")
        assert one.venue_id
        moving(world)
        assert messages(world) == {
            "a replace was let through while a request of its order was not answered",
            "a cancel was refused though its order is open",
        }
        world.log.risk_cut = cut
        assert world.violations() == []


def moving(world: World) -> None:
    world.log.quiet = world.log.ended = False


class TestExposure:
    """What I4 must not hold against risk."""

    def test_what_costs_no_more_needs_no_limit(self) -> None:
        world = World()
        order = world.resting()
        world.limit(position_lots_max=5, gross_exposure_micros_max=1)
        world.replace(world.asked(world.ask_replace(order, quantity_lots=8, price_ticks=PRICE_TICKS - 1)))
        world.fill(order)
        world.write_books()
        assert world.findings() == Findings()

    @pytest.mark.parametrize("answer", ["refused", "withheld", "barred", "smaller"])
    def test_what_an_answer_releases_is_left_for_others(self, answer: str) -> None:
        world = World()
        world.limit(position_lots_max=30)
        order = world.resting()
        let: Any = world.let(world.ask_replace(order, quantity_lots=20 if answer != "smaller" else 5))
        if answer == "barred":
            world.bar_replace(let)
        else:
            world.pass_on(let)
            if answer == "withheld":
                world.withhold_replace(let)
            else:
                world.send_request(let)
                world.reject_request(let, "market_closed") if answer == "refused" else world.replace(let)
        other = world.resting(quantity_lots=25 if answer == "smaller" else 20, price_ticks=PRICE_TICKS - 1)
        world.fill(order)
        world.fill(other)
        world.write_books()
        assert world.findings() == Findings()

    def test_the_end_of_an_order_releases_what_its_replace_adds(self) -> None:
        world = World()
        world.limit(position_lots_max=30)
        order = world.resting()
        let = world.asked(world.ask_replace(order, quantity_lots=30))
        world.cancel(order)
        world.traded(quantity_lots=30)
        world.reject_request(let)
        world.write_books()
        assert world.findings() == Findings()

    def test_a_replace_of_what_has_ended_costs_nothing(self) -> None:
        """Risk may not have known of the end."""
        world = World()
        world.limit(position_lots_max=12)
        order = world.resting()
        world.cancel(order)
        let = world.asked(world.ask_replace(order, quantity_lots=13))
        world._answered(let.venue_id)
        world._report(order, CancelRejected, request_id="none", reason="order_ended")
        assert not [each for each in world.violations() if each.invariant == "I4"]

    def test_dearer_than_what_is_open_and_not_than_what_was_cannot_be_told(self) -> None:
        world = World()
        dear = world.resting(price_ticks=PRICE_TICKS + 20)
        world.cancel(dear)
        order = world.resting()
        world.limit(position_lots_max=5)
        world.replace(world.asked(world.ask_replace(order, quantity_lots=9, price_ticks=PRICE_TICKS + 20)))
        world.fill(order)
        world.write_books()
        findings = world.findings()
        assert findings.violations == []
        assert [each.message for each in findings.unverifiable] == [
            "a replace above the position limit was approved"
        ]


class TestConduct:
    """At which prices an account's own orders rest."""

    @pytest.mark.parametrize("answer", ["replaced", "refused"])
    def test_an_answer_takes_one_of_the_prices_away(self, answer: str) -> None:
        world = World()
        sold = world.resting(side=Side.SELL, price_ticks=PRICE_TICKS + 10)
        wanted_ticks = PRICE_TICKS + (20 if answer == "replaced" else -20)
        let = world.asked(world.ask_replace(sold, price_ticks=wanted_ticks))
        if answer == "replaced":
            world.replace(let)
        else:
            world.reject_request(let, "market_closed")
        world.traded(price_ticks=PRICE_TICKS + (15 if answer == "replaced" else 5))
        world.fill(sold)
        world.write_books()
        assert world.findings() == Findings()

    def test_a_replaced_price_counts(self) -> None:
        world = World()
        sold = world.resting(side=Side.SELL, price_ticks=PRICE_TICKS + 10)
        world.replace(world.asked(world.ask_replace(sold, price_ticks=PRICE_TICKS)))
        world.traded()
        world.fill(sold)
        assert messages(world) >= {"an order was approved that meets an own resting one"}


class TestLastLook:
    def test_a_replace_that_may_have_left_in_time_is_unverifiable(self) -> None:
        world = World()
        order = world.resting()
        let = world.asked(world.ask_replace(order))
        world.now_ms += 60_000
        world.replace(let)
        world.fill(order)
        world.write_books()
        findings = world.findings()
        assert findings.violations == []
        assert [each.message for each in findings.unverifiable] == [
            "a replace was answered when it was too old to leave, but may have left before"
        ]

    def test_a_cancel_leaves_whatever_is_halted(self) -> None:
        world = World()
        order = world.resting()
        world.limit(kill_switch=True)
        world.halt()
        world.now_ms += 60_000
        world.cancel(order, world.asked(world.ask_cancel(order)).venue_id)
        world.write_books()
        assert world.findings() == Findings()


class TestDeadLetters:
    def test_an_answer_to_nothing_is_a_dead_letter(self) -> None:
        world = World()
        order = world.traded()
        world.dispute(order, CancelRejected, request_id="acc-c9", reason="order_ended")
        world.cancel(order := world.resting("other"), world.asked(world.ask_cancel(order)).venue_id)
        world.write_books()
        assert world.violations() == []

    def test_a_replace_on_terms_that_nobody_asked_for_is_a_dead_letter(self) -> None:
        world = World()
        order = world.resting()
        let = world.asked(world.ask_replace(order, price_ticks=PRICE_TICKS + 1))
        terms = {"quantity_lots": 99, "price_ticks": PRICE_TICKS + 1, "leaves_lots": 98}
        world.dispute(order, OrderReplaced, request_id=let.venue_id, **terms)
        row = world.ledger_orders[order.order_id]
        world.ledger_orders[order.order_id] = row._replace(quantity_lots=99, price_ticks=PRICE_TICKS + 1)
        world.write_books()
        assert world.violations() == []

    @pytest.mark.parametrize("what", ["cancel", "replace"])
    @pytest.mark.parametrize("service", ["compliance", "exchange"])
    def test_a_request_that_is_one_is_not_lost(self, service: str, what: str) -> None:
        world = World()
        order = world.resting()
        let = world.let(world.ask_cancel(order) if what == "cancel" else world.ask_replace(order))
        topic = "risk-decisions" if service == "compliance" else "compliance-decisions"
        if service == "exchange":
            world.pass_on(let)
        world.bury(Origin(topic, 0, world.log.asked_on(topic)[-1].offset), service=service)
        world.fill(order)
        world.write_books()
        world.log.sent.clear()
        asked = world.log.asked[-1].offset
        assert {each.invariant for each in world.violations()} <= {"I3"}  # sent is not written
        assert sort_intake(world.log, trace(world.log)).held == {asked}


class TestLedger:
    def test_a_request_that_comes_behind_the_opening_is_not_read(self, tmp_path: Path) -> None:
        """Its cause may not be in the log yet."""
        path = tmp_path / "ledger.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            for table, columns in COLUMNS.items():
                db.execute(f"CREATE TABLE {table} ({columns})")
            add = "INSERT INTO requests VALUES (?, 0, 'a', 'a-1', 'replace', 5, 9, 1, 'replaced')"
            db.execute(add, ("a-2",))
            with LedgerFile(path) as ledger:
                db.execute(add, ("a-3",))
                part = ledger.part(0, 1)
                assert [each.request_id for each in part.requests] == ["a-2"]
            with LedgerFile(path) as ledger:
                (first, second) = ledger.part(0, 1).requests
                assert (first.asked, second.request_id) == (("a", "a-1", "replace", 5, 9), "a-3")


class TestTrace:
    def test_a_replace_sent_again_is_the_record_that_was_approved(self) -> None:
        world = World()
        order = world.resting()
        refused = world.ask_replace(order)
        world.refuse_request(refused, "unknown_account")
        world.log_request(refused)
        let = world.asked(refused)
        assert isinstance(let, ReplaceRiskApproved)
        world.replace(let)
        world.fill(order)
        world.write_books()
        assert world.findings() == Findings()

    def test_requests_are_counted(self) -> None:
        world = World()
        asking_for_much(world)
        counts, traces = Counts(), trace(world.log)
        counts.add(world.log, traces, sort_intake(world.log, traces))
        assert counts.orders == counts.terminal + counts.dead_letters + counts.held + counts.in_flight
        assert counts.in_flight == 0
        assert (counts.cancels, counts.cancelled) == (11, 4)
        assert (counts.replaces, counts.replaced) == (14, 3)
        assert counts.rejected["cancel_pending"] == 2
        assert counts.rejected["unknown_order"] == 2
