"""The checker finds nothing in a legal history, and every planted violation in one that is not."""

import ast
import gzip
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast, get_args

import msgspec
import pytest
from aiokafka.consumer import fetcher
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import checker.invariants
import checker.live
import models.commands
import models.events
from app.domain.marketdata import apply_tick, to_price
from checker import log, records
from checker.check import BOOKS as BOOKS_READ
from checker.errors import CheckerError
from checker.findings import Findings, Violation
from checker.history import Commanded, Shared, Slice, Unusable, Wanted, trace
from checker.invariants import check_positions, check_sessions, check_standing, check_tables
from checker.invariants import ticks as ticks_module
from checker.invariants.intake import sort_intake
from checker.invariants.profits import made_of
from checker.invariants.tables import LiveTable, Rebuilt, digest
from checker.invariants.ticks import Ticks, check_ticks
from checker.invariants.venue import TERMS
from checker.ledger import LedgerFile, LedgerReport, read_body
from checker.live import fetch_resting, parse_state
from checker.reading import (
    digest_of,
    letters_into,
    market_takes,
    read_letter,
    reference_takes,
    slice_takes,
)
from checker.records import (
    DeadLetter,
    Event,
    FormerScale,
    InstrumentListed,
    Logged,
    Order,
    OrderAcknowledged,
    OrderComplianceRejected,
    OrderRiskApproved,
    OrderRiskRejected,
    Origin,
    PriceUpdated,
    Raw,
    TradeExecuted,
    VenueLetter,
    read_order,
)
from checker.reference import BINDS_WITHIN_MS, Mark, Reference, Timeline, Unreadable
from checker.report import CheckResult, Counts, latencies_ms, percentiles
from checker.shards import hash_of, is_elsewhere, shard_of
from models.contract import Contract
from models.registry import CONTRACTS
from models.values import InstrumentStatus, PartyStatus, Side, TimeInForce
from tests.engine.recordsets import batch, in_transaction, marker, plain, seal
from tests.histories import ORDER_EVERY_MS, OTHER_SYMBOL, PRICE_TICKS, SYMBOL, World, an_instrument
from tests.own_tables import write_compliance, write_exchange, write_risk
from tests.planted import (
    PLANTED_REQUESTS,
    Planted,
    again,
    asking_for_much,
    drop,
    edit,
    first,
    rewrite,
    swap,
)
from tests.unit import test_checker_allocations

ACC = shard_of(b"acc")
"""The venue's session of the account that most orders are of."""
SESSION = str(ACC).encode()


def a_busy_world() -> World:
    """Every kind of life once, all ended."""
    world = World()
    world.traded()
    world.traded("other", side=Side.SELL, quantity_lots=1)
    world.refuse(world.receive())
    barred = world.receive()
    world.approve(barred)
    world.bar(barred)
    world.venue_refuse(world.cleared())
    partly = world.cleared()
    world.acknowledge(partly)
    world.fill(partly, 3)
    world.cancel(partly)
    expired = world.cleared("other", time_in_force=TimeInForce.IOC)
    world.acknowledge(expired)
    world.expire(expired)
    source = world.log_order(barred)
    world.refuse(barred, "duplicate_order_id", source)
    world.bury(world.log_garbage())
    world.bury(world.log_garbage(None), key=None)
    stranger = world.log_stranger()
    world.bury(stranger, key=b"stranger", service="compliance")
    world.bury(world.log_stranger(), behind=stranger, key=b"stranger", service="compliance")
    head = world.receive("poisoned")
    origin = Origin("orders", 0, world.log.orders[-1].offset)
    world.bury(origin, key=b"poisoned")
    world.receive("poisoned")
    world.bury(Origin("orders", 0, world.log.orders[-1].offset), behind=origin, key=b"poisoned")
    assert head.account_id == "poisoned"
    world.write_books()
    return world


def test_a_legal_history_has_no_violation() -> None:
    findings = a_busy_world().findings()
    assert findings.violations == []
    assert findings.unverifiable == []


def test_an_execution_of_a_release_that_knew_no_terms_is_not_held_against_anybody() -> None:
    world = a_busy_world()
    forget_terms(world)
    misstate(world, "acc", fee_micros=12, fees_missing=1)  # risk has not got that fee either
    findings = world.findings()
    assert findings.violations == []
    assert [each.message for each in findings.unverifiable] == [
        "an execution of a release that knew no terms of trades"
    ]


def test_a_legal_history_of_cancels_and_replaces_has_no_violation() -> None:
    world = a_busy_world()
    asking_for_much(world)
    world.write_books()
    findings = world.findings()
    assert findings.violations == []
    assert findings.unverifiable == []


def a_clumsy_world() -> World:
    """Operators at work, and clients that get things wrong: rules are tried, and none is broken."""
    world = World()
    world.traded()
    world.refuse(world.receive("nobody"), "unknown_account")
    world.refuse(world.receive(order_id="acc-20000000", sequence=20_000_000), "sequence_leap")
    world.refuse(world.receive(order_id="acc-9000000", sequence=9_000_000))
    world.set_sequence("acc", 4)
    world.now_ms += 2_000
    world.traded()
    unknown = world.receive()
    world.log.orders[-1] = replace(world.log.orders[-1], unknown=("stop_price",))
    world.refuse(unknown, "unknown_field")
    world.halt()
    world.refuse(world.receive(), "halted")
    world.halt(halted=False, version=2)
    world.halt("acc", version=1)
    world.traded("other")
    world.halt("acc", halted=False, version=2)
    world.restrict()
    barred = world.receive()
    world.approve(barred)
    world.bar(barred, "restricted_instrument")
    world.restrict(restricted=False)
    world.limit("acc", version=1, kill_switch=True)
    world.refuse(world.receive(), "kill_switch_on")
    world.limit("acc")
    world.traded()
    held = world.receive()
    world.approve(held)
    world.clear(held)
    world.halt(version=3)
    world.withhold(held)
    world.halt(halted=False, version=4)
    world.bury(world.log_stray(), key=b"far", error="WrongPartition")
    world.bury(world.log_stray("other-99"), key=b"far", error="WrongPartition")
    stray = world.log_stranger(b"far")
    world.log.strays["risk-decisions"] = {stray.offset: "b'far'"}
    world.bury(stray, key=b"far", service="compliance", error="WrongPartition")
    stray_limits = Origin("risk-limits", 0, 98)
    world.bury(stray_limits, key=b"far", error="WrongPartition")
    unusable = (Origin("risk-limits", 0, 99), Origin("restrictions", 0, 99))
    world.shared.unusable = [Unusable(unusable[0], is_stray=True), Unusable(unusable[1], is_stray=False)]
    for origin, service in zip((unusable[0], *unusable), ("risk", "exchange", "refdata"), strict=True):
        world.bury(origin, key=b"x", service=service)
    world.write_books()
    return world


def test_a_legal_history_of_clumsy_people_has_no_violation() -> None:
    findings = a_clumsy_world().findings()
    assert findings.violations == []
    assert findings.unverifiable == [
        Violation("I3", "risk has limits of this account as a dead letter", ("x",))
    ]


def an_approval(order: Order, world: World) -> OrderRiskApproved:
    """One that is sound but for what it approves."""
    return OrderRiskApproved(order, PRICE_TICKS, 1, 0, 1, 0, world.now_ms, world.now_ms)


def approve_unsent(world: World) -> None:
    order = world.receive()
    drop(world.log.orders, -1)
    world.log.risk.append(
        Logged(
            world.log.risk[-1].offset + 1,
            world.now_ms,
            b"acc",
            an_approval(order, world),
        )
    )


def approve_a_repeat(world: World) -> None:
    """What a risk service without deduplication does."""
    index = first(world.log.risk, OrderRiskRejected, reason="duplicate_order_id")
    order = world.log.risk[index].event.order  # type: ignore[union-attr]
    approval = an_approval(order, world)
    world.log.risk[index] = replace(world.log.risk[index], event=approval)


def refuse_a_first_as_repeat(world: World) -> None:
    index = first(world.log.risk, OrderRiskRejected, reason="position_limit")
    edit(world.log.risk, index, reason="duplicate_order_id")


def approve_on(world: World, **changes: Any) -> None:
    edit(world.log.risk, first(world.log.risk, OrderRiskApproved), **changes)


def refuse_the_repeat_otherwise(world: World) -> None:
    edit(
        world.log.risk,
        first(world.log.risk, OrderRiskRejected, reason="duplicate_order_id"),
        reason="no_price",
    )


def acknowledge_twice(world: World) -> None:
    order = world.cleared()
    world.acknowledge(order)
    world.acknowledge(order)


def end_unacknowledged(world: World) -> None:
    world.expire(world.cleared())


def refuse_after_a_fill(world: World) -> None:
    order = world.cleared()
    world.acknowledge(order)
    world.fill(order, 3)
    world.venue_refuse(order)


def send_what_compliance_refused(world: World) -> None:
    order = next(
        each.event.order for each in world.log.compliance if isinstance(each.event, OrderComplianceRejected)
    )
    world.open_lots[order.order_id] = order.quantity_lots
    world.acknowledge(order)


def approve_an_old_sequence(world: World) -> None:
    world.traded(order_id="acc-0", sequence=0)


def clear_more(record: Logged[Any]) -> Logged[Any]:
    order = replace(record.event.order, quantity_lots=11)  # type: ignore[union-attr]
    return replace(record, event=records.OrderComplianceApproved(order))


def withhold_the_unapproved(world: World) -> None:
    order = world.receive()
    world.approve(order)
    world.withhold(order)


def withhold_what_is_at_the_venue(world: World) -> None:
    order = world.cleared()
    world.acknowledge(order)
    world.withhold(order)


def withhold_less(world: World) -> None:
    world.clear(order := approved(world))
    world.withhold(order)
    edit(world.log.executions, -1, withheld_lots=9)


def approved(world: World, account_id: str = "acc", **changed: Any) -> Order:
    order = world.receive(account_id, **changed)
    world.approve(order)
    return order


def approve_with_unknown_fields(world: World) -> None:
    world.traded()
    world.log.orders[-1] = replace(world.log.orders[-1], unknown=("stop_price",))


def set_back_too_far(world: World) -> None:
    world.now_ms += 2_000
    world.set_sequence("acc", 1)


LIVES = {
    "an order with unknown fields approved": Planted(
        approve_with_unknown_fields, "I1", "an order with fields that nobody knows was approved"
    ),
    "an approval of another receipt": Planted(
        lambda w: approve_on(w, received_at_ms=w.now_ms), "I1", "an approval names another time of receipt"
    ),
    "an order withheld that nobody approved": Planted(
        withhold_the_unapproved, "I1", "an order was withheld that compliance has not approved"
    ),
    "an order withheld that is at the venue": Planted(
        withhold_what_is_at_the_venue, "I1", "an order was withheld that the venue has reported"
    ),
    "an order withheld in part": Planted(
        withhold_less, "I1", "another quantity was withheld than was ordered"
    ),
    "a leap approved": Planted(
        lambda w: w.traded(order_id="acc-20000000", sequence=20_000_000), "I1", "a leap of a sequence was not"
    ),
    "a step refused as a leap": Planted(
        lambda w: w.refuse(w.receive(), "sequence_leap"),
        "I1",
        "a sequence was refused as a leap that is none",
    ),
    "a sequence set below an approved order": Planted(
        set_back_too_far, "I1", "an account's sequence was set below an order that was approved"
    ),
    "an order risk never decided": Planted(lambda w: w.receive(), "I1", "an order was never decided by risk"),
    "an order compliance never decided": Planted(
        lambda w: w.approve(w.receive()), "I1", "an approved order was never decided by compliance"
    ),
    "an order the venue never reported": Planted(
        lambda w: w.cleared(), "I1", "an order that may go out was never reported by the venue"
    ),
    "an order without an end": Planted(
        lambda w: w.acknowledge(w.cleared()), "I1", "an order has no terminal state"
    ),
    "a risk decision twice": Planted(
        lambda w: again(w.log.risk, first(w.log.risk, OrderRiskApproved)),
        "I1",
        "decided an order more than once",
    ),
    "an order first approved, then refused on replay": Planted(
        lambda w: w.refuse(w.log.orders[0].event, "duplicate_order_id"),  # type: ignore[arg-type]
        "I1",
        "risk has decided an order more than once",
    ),
    "an approval of an order nobody sent": Planted(approve_unsent, "I1", "an order that nobody has sent"),
    "a repeat approved": Planted(approve_a_repeat, "I1", "risk has decided an order more than once"),
    "a repeat without a refusal": Planted(
        lambda w: drop(w.log.risk, first(w.log.risk, OrderRiskRejected, reason="duplicate_order_id")),
        "I1",
        "a repeated order does not have exactly one refusal",
    ),
    "a repeat refused for something else": Planted(
        refuse_the_repeat_otherwise, "I1", "a sequence that is not above the account's last was not refused"
    ),
    "an old sequence approved": Planted(
        approve_an_old_sequence, "I1", "a sequence that is not above the account's last was not refused"
    ),
    "an acknowledgement twice": Planted(acknowledge_twice, "I1", "an order was acknowledged more than once"),
    "an end without acknowledgement": Planted(
        end_unacknowledged, "I1", "an order ended at the venue before its acknowledgement"
    ),
    "a refusal after a fill": Planted(
        refuse_after_a_fill, "I1", "the venue has refused an order after filling some of it"
    ),
    "a refusal of less than was ordered": Planted(
        lambda w: edit(w.log.executions, first(w.log.executions, records.VenueRejected), rejected_lots=9),
        "I1",
        "the venue has refused another quantity than was ordered",
    ),
    "an execution of what compliance refused": Planted(
        send_what_compliance_refused, "I1", "the venue reports an order that compliance has refused"
    ),
    "a first order refused as a repeat": Planted(refuse_a_first_as_repeat, "I1", "but its sequence is new"),
    "a refusal that names no record": Planted(
        lambda w: edit(w.log.risk, first(w.log.risk, OrderRiskRejected), source="orders/0/999"),
        "I1",
        "a refusal names a source that is no record of its order",
    ),
    "other terms approved than received": Planted(
        lambda w: approve_on(w, order=replace(w.log.orders[0].event, quantity_lots=11)),  # type: ignore[type-var]
        "I1",
        "risk has decided on other terms",
    ),
    "other terms cleared than received": Planted(
        lambda w: w.log.compliance.append(clear_more(w.log.compliance.pop())),
        "I1",
        "compliance has decided on other terms",
    ),
    "a compliance decision twice": Planted(
        lambda w: again(w.log.compliance, 0), "I1", "compliance has decided an order more than once"
    ),
    "a compliance decision without risk's": Planted(
        lambda w: drop(w.log.risk, 0), "I1", "compliance has decided an order that risk has not approved"
    ),
    "an execution without compliance": Planted(
        lambda w: drop(w.log.compliance, 0), "I1", "an order that compliance has not approved"
    ),
    "a fill before the acknowledgement": Planted(
        lambda w: swap(w.log.executions, 0, 1), "I1", "a fill before the acknowledgement"
    ),
    "a report after the end": Planted(
        lambda w: again(w.log.executions, 2), "I1", "a report after the order's end"
    ),
    "leaves_lots that do not follow": Planted(
        lambda w: edit(w.log.executions, 1, leaves_lots=8), "I1", "leaves_lots of a fill do not follow"
    ),
    "a fill worse than the limit": Planted(
        lambda w: edit(w.log.executions, 1, price_ticks=PRICE_TICKS + 1), "I1", "a worse price than the limit"
    ),
    "an execution of another account": Planted(
        lambda w: edit(w.log.executions, 1, account_id="other"), "I1", "another account, symbol or side"
    ),
    "an output under a wrong key": Planted(
        lambda w: w.log.compliance.insert(0, replace(w.log.compliance.pop(0), key=b"other")),
        "I1",
        "does not have its account as key",
    ),
    "an output nobody can read": Planted(
        lambda w: w.log.executions.append(Logged(10_000, 0, b"acc", None)), "I1", "nobody can read"
    ),
    "a cancel of more than was open": Planted(
        lambda w: edit(w.log.executions, first(w.log.executions, records.OrderCancelled), cancelled_lots=8),
        "I1",
        "ended with another quantity than was open",
    ),
}


def ledger_edit(world: World, **changes: Any) -> None:
    order_id = next(iter(world.ledger_orders))
    world.ledger_orders[order_id] = world.ledger_orders[order_id]._replace(**changes)


def forget_terms(world: World, **changes: Any) -> None:
    """The first fill is booked by a release that knew no terms of trades."""
    terms = dict.fromkeys(TERMS)
    edit(world.log.executions, first(world.log.executions, TradeExecuted), **terms, **changes)


def rename_an_order(world: World) -> None:
    order_id = next(iter(world.ledger_orders))
    row = world.ledger_orders.pop(order_id)
    world.ledger_orders["nobody's"] = row._replace(client_order_id="nobody's")


def report_twice(world: World) -> None:
    again(world.log.executions, first(world.log.executions, TradeExecuted))


def withhold_what_was_sent(world: World) -> None:
    world.withhold(world.cleared())


def bury_what_fits(world: World) -> None:
    world.dispute(world.cleared())


def bury_what_is_booked(world: World) -> None:
    world.log.venue_letters.append(VenueLetter(0, ACC, 1, b"{}"))


def book_behind_a_dispute(world: World) -> None:
    world.acknowledge(order := world.cleared())
    world.dispute(order)
    world.cancel(order)


VENUE = {
    "an order on a foreign session": Planted(
        lambda w: ledger_edit(w, session=ACC + 1), "I2", "on a session that is not its account's key shard"
    ),
    "an order withheld and sent": Planted(
        withhold_what_was_sent, "I2", "the venue has an order that was withheld"
    ),
    "a sound report buried": Planted(bury_what_fits, "I2", "a report that fits its order is a dead letter"),
    "a report booked and buried": Planted(
        bury_what_is_booked, "I2", "a report is a dead letter and something else as well"
    ),
    "a report invented and buried": Planted(
        lambda w: w.log.venue_letters.append(VenueLetter(0, ACC, 99, b"{}")),
        "I2",
        "a dead letter of a report that the venue has never made",
    ),
    "a report booked behind a dispute": Planted(
        book_behind_a_dispute, "I2", "a report was booked behind one of its order that is a dead letter"
    ),
    "an order sent twice": Planted(
        lambda w: ledger_edit(w, receipts=2), "I2", "sent to the venue more than once"
    ),
    "an order nobody cleared": Planted(rename_an_order, "I2", "that compliance has not approved"),
    "a cleared order that was never sent": Planted(rename_an_order, "I2", "is not in the venue's ledger"),
    "an order sent on other terms": Planted(
        lambda w: ledger_edit(w, price_ticks=1), "I2", "on other terms than approved"
    ),
    "more filled than ordered": Planted(lambda w: ledger_edit(w, filled_lots=11), "I2", "more was filled"),
    "a report lost": Planted(
        lambda w: drop(w.log.executions, 1), "I2", "report of the venue is not in executions"
    ),
    "a trade lost": Planted(
        lambda w: drop(w.log.executions, 1), "I2", "a trade of the venue is not in executions"
    ),
    "a report taken twice": Planted(report_twice, "I2", "is in executions more than once"),
    "a trade taken twice": Planted(report_twice, "I2", "a trade is in executions more than once"),
    "an execution invented": Planted(
        lambda w: drop(w.ledger_reports, -1), "I2", "an execution that the venue has never reported"
    ),
    "a trade invented": Planted(
        lambda w: drop(w.ledger_trades, -1), "I2", "an executed trade that the venue does not have"
    ),
    "an execution changed": Planted(
        lambda w: edit(w.log.executions, 1, venue_order_id="V-0"), "I2", "differs from the venue's report"
    ),
    "reports out of order": Planted(
        lambda w: swap(w.log.executions, 0, 1), "I2", "not in the order of the venue's reports"
    ),
    "a trade changed": Planted(
        lambda w: w.ledger_trades.append(w.ledger_trades.pop()._replace(price_ticks=1)),
        "I2",
        "an executed trade differs from the venue's",
    ),
    "a trade of another fee": Planted(
        lambda w: w.ledger_trades.append(w.ledger_trades.pop()._replace(fee_micros=77)),
        "I2",
        "an executed trade differs from the venue's",
    ),
    "a fill of another fee": Planted(
        lambda w: edit(w.log.executions, first(w.log.executions, TradeExecuted), fee_micros=77),
        "I2",
        "an execution differs from the venue's report",
    ),
    "a fill without its fee alone": Planted(
        lambda w: edit(w.log.executions, first(w.log.executions, TradeExecuted), fee_micros=None),
        "I2",
        "an execution differs from the venue's report",
    ),
    "a fill without terms at another price": Planted(
        lambda w: forget_terms(w, price_ticks=1), "I2", "an execution differs from the venue's report"
    ),
    "a fill that the order's row lacks": Planted(
        lambda w: ledger_edit(w, filled_lots=9),
        "I2",
        "the ledger's filled_lots are not those of the executions",
    ),
    "a gap in the ledger": Planted(
        lambda w: drop(w.ledger_reports, 1), "I2", "reports of a session have a gap"
    ),
}


def forget_a_fill(world: World) -> None:
    holding = {"position_lots": 0, "open_buy_lots": 0, "open_sell_lots": 0}
    rewrite(world.log.positions, b"other", holdings={"BTC-USD": holding})


def keep_a_reservation(world: World) -> None:
    """What a risk service that does not release does."""
    order = world.log.orders[0].event
    assert order is not None
    world.open_lots[order.order_id] = 2
    world.write_books()


def lose_a_reservation(world: World) -> None:
    world.acknowledge(world.cleared())


def leave_too_much_reserved(world: World) -> None:
    world.acknowledge(order := world.cleared())
    world.write_books()
    rewrite(world.log.reservations, f"acc/{order.order_id}".encode(), open_lots=11)


def misstate(world: World, account_id: str = "other", **changes: Any) -> None:
    """The profit of an account is written otherwise; other is short a lot."""
    books = msgspec.json.decode(world.log.positions[account_id.encode()])
    books["holdings"]["BTC-USD"]["profit"] |= changes
    world.log.positions[account_id.encode()] = msgspec.json.encode(books)


def begin_a_profit_late(world: World) -> None:
    """As if the second fill of acc had found nothing held."""
    second = [
        record.event
        for record in world.log.executions
        if isinstance(record.event, TradeExecuted) and record.event.account_id == "acc"
    ][1]
    misstate(world, "acc", since_venue_sequence=second.venue_sequence)


def remember_a_stranger(world: World) -> None:
    world.refuse(world.receive("nobody"), "unknown_account")
    world.log.positions[b"nobody"] = b'{"last_sequence":13,"open_orders":0,"holdings":{}}'


BOOKS = {
    "books of an account that nobody knows": Planted(
        remember_a_stranger, "I3", "risk has books of an account that it does not know"
    ),
    "an open order without reservation": Planted(
        lose_a_reservation, "I3", "an open order has no reservation"
    ),
    "a reservation of more than is open": Planted(
        leave_too_much_reserved, "I3", "a reservation is not what is open of its order"
    ),
    "a position that misses a fill": Planted(
        forget_a_fill, "I3", "a position is not the sum of its executions"
    ),
    "a position counted without an account": Planted(
        lambda w: w.log.positions.pop(b"acc"), "I3", "a position is not the sum of its executions"
    ),
    "a reservation not released": Planted(keep_a_reservation, "I3", "a reservation without an open order"),
    "open orders not counted down": Planted(
        lambda w: rewrite(w.log.positions, b"acc", open_orders=1), "I3", "open_orders are not the orders"
    ),
    "a last sequence lost": Planted(
        lambda w: rewrite(w.log.positions, b"acc", last_sequence=1), "I3", "last_sequence is not that of"
    ),
    "open lots left over": Planted(
        lambda w: rewrite(
            w.log.positions, b"acc", holdings={"BTC-USD": {"position_lots": 13, "open_buy_lots": 7}}
        ),
        "I3",
        "open lots (buy, sell) are not those",
    ),
    "a cost that is another one": Planted(
        lambda w: misstate(w, cost_tick_lots=90_000), "I3", "the cost of a position is not what"
    ),
    "a profit that was not made": Planted(
        lambda w: misstate(w, realised_tick_lots=1), "I3", "the realised profit is not what"
    ),
    "a profit of a scale that never was": Planted(
        lambda w: misstate(w, realised_micros=1), "I3", "the realised profit is not what"
    ),
    "a fee that nobody took": Planted(
        lambda w: misstate(w, fee_micros=2), "I3", "the fees are not those of the executions"
    ),
    "a fee called missing": Planted(
        lambda w: misstate(w, fees_missing=1), "I3", "the fees are not those of the executions"
    ),
    "a profit of a fill that is not there": Planted(
        lambda w: misstate(w, since_venue_sequence=99), "I3", "begins with a fill that is not in executions"
    ),
    "a profit that begins late": Planted(
        begin_a_profit_late, "I3", "begins with a fill that did not find the position flat"
    ),
    "books nobody can read": Planted(
        lambda w: w.log.positions.update({b"acc": b"{"}), "I3", "a value of positions that nobody can read"
    ),
}


def resting(world: World) -> str:
    """An order that the venue has filled by 3 of 10 lots, in all tables; gives its key account/order."""
    order = world.cleared()
    world.acknowledge(order)
    world.fill(order, 3)
    world.write_books()
    return f"acc/{order.order_id}"


def edit_an_intent(world: World, **changes: Any) -> None:
    rewrite(world.log.intents, resting(world).encode(), **changes)


def acknowledge_too_early(world: World) -> None:
    order = world.cleared()
    world.write_books()
    rewrite(world.log.intents, f"acc/{order.order_id}".encode(), state="acknowledged")


def forget_an_ack(world: World) -> None:
    order = world.cleared()
    world.acknowledge(order)
    world.write_books()
    rewrite(world.log.intents, f"acc/{order.order_id}".encode(), state="pending")


def keep_an_intent(world: World) -> None:
    world.log.intents[b"acc/acc-1"] = msgspec.json.encode({"state": "acknowledged", "open_lots": 10})


def intend_a_dead_letter(world: World) -> None:
    order = world.cleared()
    world.write_books()
    offset = world.log.compliance[-1].offset
    world.bury(Origin("compliance-decisions", 0, offset), service="exchange")
    assert f"acc/{order.order_id}".encode() in world.log.intents


def have_open(world: World, account_id: str = "acc", **changed: Any) -> None:
    """Let an account have its order 1, which has ended, as open; or order 13, which has not."""
    order = {"symbol": "BTC-USD", "side": "buy", "price_ticks": PRICE_TICKS, "rests": True} | changed
    number = len(world.log.orders) if len(world.log.orders) > 12 else 1
    world.log.open_orders[f"{account_id}/acc-{number}".encode()] = msgspec.json.encode(order)


def have_open_in_the_account(world: World) -> None:
    """Of a release that had no table of open orders."""
    order = {"symbol": "BTC-USD", "side": "buy", "price_ticks": PRICE_TICKS, "rests": True}
    rewrite(world.log.recent_orders, b"acc", recent={}, open_orders={"acc-1": order})


def forget_an_open_order(world: World) -> None:
    resting(world)
    world.log.open_orders.clear()


def have_open_otherwise(world: World, **changed: Any) -> None:
    resting(world)
    have_open(world, **changed)


def keep_old_limits(world: World) -> None:
    """Risk goes by version 1 still, whatever came after it."""
    world.limit()
    world.limit()


def keep_removed_limits(world: World) -> None:
    world.remove_limits("other")


def switch_nothing(world: World) -> None:
    """Risk takes a kill switch under an old version for a repeat."""
    world.limit("other", version=1, kill_switch=True)


NOT_OPEN = "compliance has an order as open that is not"
OTHER_TERMS = "compliance has an open order on other terms than approved"

STANDING = {
    "an order judged that compliance forgot": Planted(
        lambda w: rewrite(w.log.recent_orders, b"acc", last_sequence=1),
        "I3",
        "the last order that compliance has judged is not the account's last that it decided",
    ),
    "a kill switch not in force": Planted(
        switch_nothing, "I3", "a kill switch is not in force that was switched on"
    ),
    "a kill switch that the exchange does not know": Planted(
        switch_nothing, "I3", "the controls of the exchange are not what was set last"
    ),
    "limits in force that were removed": Planted(
        keep_removed_limits, "I3", "limits are in force that a tombstone has removed"
    ),
    "controls lost": Planted(
        lambda w: w.log.controls.pop(b"acc"), "I3", "the exchange has no controls of an account though limits"
    ),
    "controls nobody can read": Planted(
        lambda w: w.log.controls.update({b"acc": b"[]"}), "I3", "a value of controls that nobody can read"
    ),
    "an order sent that the exchange forgot": Planted(
        lambda w: w.log.sent.pop(b"acc"),
        "I3",
        "the last order that was intended is not the account's last approved one",
    ),
    "a last order sent that nobody can read": Planted(
        lambda w: w.log.sent.update({b"acc": b"{"}), "I3", "a value of sent that nobody can read"
    ),
    "an intent lost": Planted(
        lambda w: w.log.intents.pop(resting(w).encode()),
        "I3",
        "an approved order that has not ended has no intent",
    ),
    "an intent kept": Planted(keep_an_intent, "I3", "an intent without an approved order that is open"),
    "an intent of a dead letter": Planted(
        intend_a_dead_letter, "I3", "an intent without an approved order that is open"
    ),
    "an intent that misses a fill": Planted(
        lambda w: edit_an_intent(w, open_lots=10),
        "I3",
        "the open lots of an intent are not what its executions leave",
    ),
    "an intent acknowledged too early": Planted(
        acknowledge_too_early, "I3", "the state of an intent is not what the venue's reports make of it"
    ),
    "an acknowledgement missed": Planted(
        forget_an_ack, "I3", "the state of an intent is not what the venue's reports make of it"
    ),
    "an intent nobody can read": Planted(
        lambda w: edit_an_intent(w, open_lots="many"), "I3", "a value of intents that nobody can read"
    ),
    "a session behind its executions": Planted(
        lambda w: rewrite(w.log.sessions, SESSION, venue_sequence_last=1),
        "I3",
        "a session is not read as far",
    ),
    "a session ahead of its executions": Planted(
        lambda w: rewrite(w.log.sessions, SESSION, venue_sequence_last=99),
        "I3",
        "a session is not read as far as its reports are in executions",
    ),
    "a session lost": Planted(lambda w: w.log.sessions.clear(), "I3", "a session is not read as far"),
    "a session of another partition": Planted(
        lambda w: w.log.sessions.update({b"4": b'{"venue_sequence_last":1}'}),
        "I3",
        "a session is not read as far",
    ),
    "a session nobody can read": Planted(
        lambda w: w.log.sessions.update({SESSION: b"{"}), "I3", "a value of sessions that nobody can read"
    ),
    "an end that compliance missed": Planted(have_open, "I3", NOT_OPEN),
    "an end that compliance of the release before missed": Planted(have_open_in_the_account, "I3", NOT_OPEN),
    "an open order under another account": Planted(lambda w: have_open(w, "other"), "I3", NOT_OPEN),
    "an open order that compliance forgot": Planted(
        forget_an_open_order, "I3", "compliance does not have an order as open that is"
    ),
    "an open order at another price": Planted(
        lambda w: have_open_otherwise(w, price_ticks=1), "I3", OTHER_TERMS
    ),
    "an open order that is said not to rest": Planted(
        lambda w: have_open_otherwise(w, rests=False), "I3", OTHER_TERMS
    ),
    "an open order nobody can read": Planted(
        lambda w: w.log.open_orders.update({b"acc/acc-1": b"{}"}),
        "I3",
        "a value of open_orders that nobody can read",
    ),
    "an account of compliance nobody can read": Planted(
        lambda w: w.log.recent_orders.update({b"acc": b"[]"}),
        "I3",
        "a value of recent_orders that nobody can read",
    ),
    "limits lost": Planted(
        lambda w: w.log.risk_limits.pop(b"other"), "I3", "an account has no limits in force though some were"
    ),
    "newer limits not taken in": Planted(
        keep_old_limits, "I3", "limits in force are older than the newest that were set"
    ),
    "limits nobody can read": Planted(
        lambda w: w.log.risk_limits.update({b"acc": b"[]"}),
        "I3",
        "a value of risk_limits that nobody can read",
    ),
}


def letter_edit(world: World, index: int, **changes: Any) -> None:
    world.log.dead_letters[index] = replace(world.log.dead_letters[index], **changes)


def decide_a_dead_letter(world: World) -> None:
    order = next(each.event for each in world.log.orders if each.key == b"poisoned")
    assert order is not None
    world.approve(order)


def decide_garbage(world: World) -> None:
    origin = world.log_garbage()
    order = world.log.orders[0].event
    assert order is not None
    world.refuse(order, "no_price", str(origin))


def decide_the_unread(world: World) -> None:
    order = world.log.orders[0].event
    assert order is not None
    world.refuse(order, source="orders/0/999")


def decide_a_stray(world: World) -> None:
    world.refuse(world.traded(), source=str(world.log_stray()))


def act_on_a_stray(world: World) -> None:
    approve_unsent(world)
    order = world.log.risk[-1].event.order  # type: ignore[union-attr]
    world.bury(world.log_stray(order.order_id), key=b"far", error="WrongPartition")


def drop_a_stray_decision(world: World) -> None:
    origin = world.log_stranger(b"far")
    world.log.strays["risk-decisions"] = {origin.offset: "b'far'"}


INTAKE = {
    "a stray that was decided": Planted(
        decide_a_stray, "I5", "a record on another partition than its key's was decided"
    ),
    "a stray that was acted on where its account is": Planted(
        act_on_a_stray, "I5", "an order that was sent to a wrong partition only was acted on"
    ),
    "a stray that vanished": Planted(
        lambda w: w.log_stray(), "I5", "a record has neither been decided nor is it a dead letter"
    ),
    "a stray between services that vanished": Planted(
        drop_a_stray_decision, "I5", "has no dead letter of a record on another partition than its key's"
    ),
    "a sound record called a stray": Planted(
        lambda w: w.bury(w.log_garbage(b"stray"), key=b"stray", error="WrongPartition"),
        "I5",
        "a dead letter blames the partition, and its key belongs there",
    ),
    "a decision on a record that is not there": Planted(
        decide_the_unread, "I5", "a decision or dead letter is of a record that does not exist"
    ),
    "a record that vanished": Planted(
        lambda w: w.log_garbage(), "I5", "a record has neither been decided nor is it a dead letter"
    ),
    "an order that vanished": Planted(
        lambda w: w.receive(), "I5", "a record has neither been decided nor is it a dead letter"
    ),
    "an order left on its way": Planted(
        lambda w: w.approve(w.receive()), "I5", "a record is still in flight"
    ),
    "a dead letter that was decided": Planted(decide_a_dead_letter, "I5", "both decided and a dead letter"),
    "garbage that was decided": Planted(decide_garbage, "I5", "nobody can understand was decided"),
    "two dead letters of one record": Planted(
        lambda w: w.log.dead_letters.append(w.log.dead_letters[0]), "I5", "two dead letters of one record"
    ),
    "a dead letter with other bytes": Planted(
        lambda w: letter_edit(w, 0, digest=b"other"), "I5", "does not carry the bytes of its origin"
    ),
    "a dead letter of nothing": Planted(
        lambda w: letter_edit(w, 0, origin=Origin("orders", 0, 999)),
        "I5",
        "origin of a dead letter does not exist",
    ),
    "a record held behind nothing": Planted(
        lambda w: letter_edit(w, -1, behind=Origin("orders", 0, 999)),
        "I5",
        "behind something that is no dead letter",
    ),
    "a record held behind another key": Planted(
        lambda w: letter_edit(w, -1, behind=w.log.dead_letters[0].origin), "I5", "that is not before it"
    ),
    "a record dead and held": Planted(
        lambda w: w.bury(w.log.dead_letters[-1].origin, key=b"poisoned"), "I5", "both a dead letter and held"
    ),
    "a decision acted on though it is a dead letter": Planted(
        lambda w: w.bury(Origin("risk-decisions", 0, w.log.risk[0].offset), service="compliance"),
        "I5",
        "compliance has acted on a record that is its dead letter",
    ),
}


def ignore_a_quarantine(world: World) -> None:
    """Compliance buries each of two strangers by itself."""
    for _ in range(2):
        world.bury(world.log_stranger(), key=b"stranger", service="compliance")


STRANGERS = {
    "a stranger among the decisions": Planted(
        lambda w: w.log_stranger(), "I5", "compliance has no dead letter of a record that nobody can read"
    ),
    "a stranger that overtakes another": Planted(
        ignore_a_quarantine, "I7", "compliance has not held a record behind one that nobody can read"
    ),
}


def overtake_quarantine(world: World) -> None:
    """The record that was held is decided instead: it overtakes the dead letter before it."""
    drop(world.log.dead_letters, -1)
    order = world.log.orders[-1].event
    assert order is not None
    world.refuse(order)


def switch_off(world: World) -> None:
    world.limit(kill_switch=True)
    world.traded()


def stale(world: World) -> None:
    world.limit(price_age_ms_max=5)
    world.now_ms += 1_000
    world.traded()


def decide_before_receipt(world: World) -> None:
    order = world.receive()
    received_at_ms = world.log.orders[-1].timestamp_ms
    world.approve(
        order, decided_at_ms=received_at_ms - 5, price_age_ms=received_at_ms - 5 - world.seen_at_ms()
    )


def decide_late(world: World) -> None:
    """The services were away for a minute."""
    order = world.receive()
    world.now_ms += 60_000
    world.approve(order)


def kill_under_the_same_version(world: World) -> None:
    world.limit("fresh")
    world.limit("fresh", version=1, kill_switch=True)
    world.traded("fresh")


def suspend(world: World) -> None:
    world.limit("fresh")
    world.register("fresh", status=PartyStatus.SUSPENDED)
    world.traded("fresh")


def misread_a_halt(world: World) -> None:
    world.shared.reference.halts.add("acc", world.now_ms, Unreadable())
    world.traded()


def misread_a_restriction(world: World) -> None:
    world.shared.reference.restricted.add(SYMBOL, world.now_ms, Unreadable())
    world.traded()


def trade_after(world: World, operate: Callable[[], None]) -> None:
    operate()
    world.traded()


HALTED = "an order was approved while trading was halted"
RESTRICTED = "an order in a restricted instrument was approved"

CONDITIONS = {
    "an approval before the receipt": Planted(
        decide_before_receipt, "I7", "an order was approved before it was received"
    ),
    "an order from the future": Planted(
        lambda w: w.traded(submitted_at_ms=w.now_ms + 9_000), "I7", "an order that comes from the future"
    ),
    "an order submitted long ago": Planted(
        lambda w: w.traded(submitted_at_ms=w.now_ms - 60_000), "I7", "an order was approved that was too old"
    ),
    "an order submitted in seconds": Planted(
        lambda w: w.traded(submitted_at_ms=w.now_ms // 1_000), "I7", "an order was approved that was too old"
    ),
    "an order decided long after its receipt": Planted(
        decide_late, "I7", "an order was approved that was too old"
    ),
    "a kill switch under an old version ignored": Planted(
        kill_under_the_same_version,
        "I7",
        "an order was approved after risk had answered that the kill switch is on",
    ),
    "a halt of all ignored": Planted(lambda w: trade_after(w, w.halt), "I7", HALTED),
    "a halt of an account ignored": Planted(lambda w: trade_after(w, partial(w.halt, "acc")), "I7", HALTED),
    "a halt that nobody can read ignored": Planted(misread_a_halt, "I7", HALTED),
    "a suspension ignored": Planted(suspend, "I7", "an order of a suspended account was approved"),
    "a restriction ignored": Planted(lambda w: trade_after(w, w.restrict), "I7", RESTRICTED),
    "a restriction that nobody can read ignored": Planted(misread_a_restriction, "I7", RESTRICTED),
}


def send_while_halted(world: World) -> None:
    order = approved(world)
    world.halt()
    finish(world, order)


def finish(world: World, order: Order) -> None:
    """The rest of an approved order's way, without a last look."""
    world.clear(order)
    world.send(order)
    world.acknowledge(order)
    world.fill(order)


def send_while_killed(world: World) -> None:
    order = approved(world, "fresh")
    world.limit("fresh", version=1, kill_switch=True)
    world.now_ms += 1_500
    finish(world, order)


def send_late(world: World) -> None:
    order = approved(world)
    world.now_ms += 60_000
    finish(world, order)


def intend_late(world: World) -> None:
    """The exchange was away when compliance approved."""
    order = approved(world)
    world.clear(order)
    world.now_ms += 60_000
    world.log.intended_at_ms[f"acc/{order.order_id}".encode()] = world.now_ms
    world.send(order)
    world.acknowledge(order)
    world.fill(order)


def send_on_a_stale_price(world: World) -> None:
    world.limit("fresh", price_age_ms_max=5_000, order_age_ms_max=10**6)
    world.now_ms += 2_000
    world.tick()
    order = approved(world, "fresh")
    world.now_ms += 20_000
    finish(world, order)


def send_after(world: World, happens: Callable[[], None]) -> None:
    """It happens between risk's approval and the exchange's intent."""
    world.limit("fresh", order_age_ms_max=10**6)
    order = approved(world, "fresh")
    happens()
    world.now_ms += 1_500
    finish(world, order)


def delist(world: World, **changed: Any) -> None:
    world.list_instrument(an_instrument(**({"status": InstrumentStatus.DELISTED} | changed)), version=2)


def misread(world: World, table: str, key: str) -> None:
    getattr(world.shared.reference, table).add(key, world.now_ms, Unreadable())


SENT_SUSPENDED = "an order of a suspended account was sent"
SENT_UNTRADABLE = "an order was sent in an instrument that takes none"
SENT_RESTRICTED = "an order was sent in a restricted instrument"

LAST_LOOK = {
    "an order sent while all is halted": Planted(
        send_while_halted, "I7", "an order was sent while trading was halted"
    ),
    "an order of an account that was suspended": Planted(
        lambda w: send_after(w, partial(w.register, "fresh", status=PartyStatus.SUSPENDED)),
        "I7",
        SENT_SUSPENDED,
    ),
    "an order of an account that nobody can read": Planted(
        lambda w: send_after(w, partial(misread, w, "accounts", "fresh")), "I7", SENT_SUSPENDED
    ),
    "an order in an instrument that was delisted": Planted(
        lambda w: send_after(w, partial(delist, w)), "I7", SENT_UNTRADABLE
    ),
    "an order in an instrument whose time was over": Planted(
        lambda w: send_after(
            w, partial(delist, w, status=InstrumentStatus.ACTIVE, valid_until_ms=w.now_ms + 500)
        ),
        "I7",
        SENT_UNTRADABLE,
    ),
    "an order in an instrument whose time was put off": Planted(
        lambda w: send_after(
            w, partial(delist, w, status=InstrumentStatus.ACTIVE, valid_from_ms=w.now_ms + 10**6)
        ),
        "I7",
        SENT_UNTRADABLE,
    ),
    "an order in an instrument that nobody can read": Planted(
        lambda w: send_after(w, partial(misread, w, "instruments", SYMBOL)), "I7", SENT_UNTRADABLE
    ),
    "an order in an instrument that was restricted": Planted(
        lambda w: send_after(w, w.restrict), "I7", SENT_RESTRICTED
    ),
    "an order in an instrument whose restriction nobody can read": Planted(
        lambda w: send_after(w, partial(misread, w, "restricted", SYMBOL)), "I7", SENT_RESTRICTED
    ),
    "an order sent with the kill switch on": Planted(
        send_while_killed, "I7", "an order was sent while the kill switch was on"
    ),
    "an order sent too late": Planted(send_late, "I7", "an order was sent that was too old"),
    "an order intended too late": Planted(intend_late, "I7", "an order was sent that was too old"),
    "an order sent on a stale price": Planted(
        send_on_a_stale_price, "I7", "an order was sent on a stale price"
    ),
}


def accept_a_halt_in_vain(world: World) -> None:
    world.command(records.OPERATOR_COMMANDS, "*", records.SetHalt("*", True, 1, "ops", "why"))


def accept_a_restriction_in_vain(world: World) -> None:
    world.restrict()
    world.command(records.RESTRICTIONS, SYMBOL, records.SetRestriction(SYMBOL, False, None, "ops", "why"))


def refuse_a_kill_switch(world: World) -> None:
    limits = replace(world.limit("fresh"), kill_switch=True)
    world.command(records.RISK_LIMITS, "fresh", limits, accepted=False)


def answer_twice(world: World) -> None:
    world.halt()
    answers = world.shared.reference.answers["SetHalt", "*"]
    answers.append(answers[0])


IN_FORCE = "a halt or restriction in force is not the last that was accepted"

COMMANDS = {
    "a halt accepted and not in force": Planted(accept_a_halt_in_vain, "I3", IN_FORCE),
    "a restriction lifted and in force": Planted(accept_a_restriction_in_vain, "I3", IN_FORCE),
    "a kill switch refused": Planted(
        refuse_a_kill_switch, "I7", "a kill switch or a halt that is switched on was refused"
    ),
    "a command without an answer": Planted(
        lambda w: w.shared.reference.answers["SetRiskLimits", "acc"].clear(), "I5", "a command has no answer"
    ),
    "a command answered twice": Planted(answer_twice, "I5", "a command was answered more than once"),
    "a command on a wrong partition that vanished": Planted(
        lambda w: w.shared.unusable.append(Unusable(Origin("risk-limits", 0, 9), is_stray=True)),
        "I5",
        "exchange has no dead letter of a command on another partition than its key's",
    ),
    "a command that nobody can read vanished": Planted(
        lambda w: w.shared.unusable.append(Unusable(Origin("restrictions", 0, 9), is_stray=False)),
        "I5",
        "refdata has no dead letter of a command that nobody can read",
    ),
    "a kill switch behind a quarantine": Planted(
        lambda w: w.bury(Origin("risk-limits", 0, 9), behind=w.log.dead_letters[0].origin),
        "I7",
        "a command that protects waits behind a dead letter",
    ),
}


ORDER = {
    "risk decisions out of order": Planted(
        lambda w: swap(w.log.risk, 0, 2), "I7", "risk has decided orders of an account out of order"
    ),
    "compliance decisions out of order": Planted(
        lambda w: swap(w.log.compliance, 0, 2),
        "I7",
        "compliance has decided orders of an account out of order",
    ),
    "a dead letter overtaken": Planted(
        overtake_quarantine, "I7", "risk has not held a record behind the dead letter of its key"
    ),
    "an approval with the kill switch on": Planted(switch_off, "I7", "while the kill switch was on"),
    "an approval on a stale price": Planted(stale, "I7", "on a stale price"),
    "an approval on an invented tick": Planted(
        lambda w: approve_on(w, reference_tick_sequence=77), "I7", "names a tick that is not in the log"
    ),
    "an approval on another price": Planted(
        lambda w: approve_on(w, reference_price_ticks=PRICE_TICKS + 1), "I7", "reference price of an approval"
    ),
    "an approval on a wrong age": Planted(
        lambda w: approve_on(w, price_age_ms=50), "I7", "price age of an approval is not that of its tick"
    ),
}


def twins(world: World) -> None:
    """The client's clock says that a minute lies between them."""
    world.traded("twin")
    world.now_ms -= 2_000
    world.traded("twin", submitted_at_ms=world.now_ms - 60_000)


def meets_itself(world: World) -> None:
    """A sell below the own buy that still rests."""
    world.acknowledge(resting := world.cleared("narcissus"))
    world.cancel(world.cleared("narcissus", side=Side.SELL, price_ticks=PRICE_TICKS - 1))
    world.cancel(resting)


CONDUCT = {
    "the same order twice in a second": Planted(twins, "I7", "that repeats one of the last second"),
    "an account that meets itself": Planted(meets_itself, "I7", "that meets an own resting one"),
}


def over(**limits: Any) -> Callable[[World], Any]:
    """An order of 10 lots under these limits, approved all the same."""

    def plant(world: World) -> None:
        world.limit("fresh", **limits)
        world.traded("fresh")

    return plant


def beyond_the_position(world: World) -> None:
    """Each order fits alone; the third does not with what is held and reserved."""
    world.limit("fresh", position_lots_max=25)
    world.traded("fresh")
    world.approve(world.receive("fresh"))
    world.approve(world.receive("fresh"))


def beyond_the_exposure(world: World) -> None:
    exposure = 20 * PRICE_TICKS * 1
    world.limit("fresh", gross_exposure_micros_max=exposure)
    for _ in range(3):
        world.traded("fresh")


def beyond_with_releases(world: World) -> None:
    """The account trades both ways; then it goes far above any limit that it ever had."""
    world.limit("fresh", position_lots_max=25)
    world.traded("fresh")
    world.traded("fresh", side=Side.SELL)
    for _ in range(3):
        world.traded("fresh")


def older_limits(world: World) -> None:
    world.traded("fresh")
    world.limit("fresh")
    world.traded("fresh")
    world.traded("fresh")
    edit(world.log.risk, -1, limits_version=1)


def forget_the_account(world: World) -> None:
    world.traded("fresh")
    world.shared.reference.accounts = Timeline()


def trade(**instrument: Any) -> Callable[[World], Any]:
    """An order in an instrument with these terms, approved all the same."""

    def plant(world: World) -> None:
        world.list_instrument(an_instrument(**instrument), version=2)
        world.traded("fresh")

    return plant


def mix_currencies(world: World) -> None:
    world.register("fresh", currency="EUR")
    world.traded("fresh")


def reduce_through_zero(world: World) -> None:
    """Long 10, the limit 5: selling 20 ends short 10."""
    world.limit("fresh", position_lots_max=10)
    world.traded("fresh")
    world.limit("fresh", position_lots_max=5)
    world.traded("fresh", side=Side.SELL, quantity_lots=20)


def reduce_twice(world: World) -> None:
    """Each sell of 6 reduces alone; together they lead from long 10 to short 2."""
    world.limit("fresh", position_lots_max=10)
    world.traded("fresh")
    world.limit("fresh", position_lots_max=1)
    approved(world, "fresh", side=Side.SELL, quantity_lots=6)
    approved(world, "fresh", side=Side.SELL, quantity_lots=6)


def pay_more_than_the_reference(world: World) -> None:
    """At the reference it would be within its limit; it is willing to pay 4 % more."""
    world.limit("fresh", gross_exposure_micros_max=10 * PRICE_TICKS * 102 // 100)
    world.traded("fresh", price_ticks=PRICE_TICKS * 104 // 100)


def forget_a_high_order(world: World) -> None:
    """An open order far above the market counts at its own price still."""
    world.limit("fresh", gross_exposure_micros_max=20 * PRICE_TICKS * 102 // 100)
    approved(world, "fresh", price_ticks=PRICE_TICKS * 104 // 100)
    approved(world, "fresh")


def value_at_old_marks(world: World) -> None:
    """What the account holds of the other symbol has doubled since it was bought."""
    world.limit("fresh", gross_exposure_micros_max=25 * PRICE_TICKS)
    world.traded("fresh", symbol=OTHER_SYMBOL)
    world.tick(2 * PRICE_TICKS, symbol=OTHER_SYMBOL)
    world.now_ms += 12_000
    world.tick()
    world.traded("fresh")


BEYOND_POSITION, BEYOND_EXPOSURE = "above the position limit", "above the gross exposure limit was approved"

LIMITS = {
    "an account that nobody has registered": Planted(
        forget_the_account, "I4", "an order of an account that nobody has registered was approved"
    ),
    "an instrument that is halted": Planted(
        trade(status=InstrumentStatus.HALTED), "I4", "an order in an instrument that takes none was approved"
    ),
    "an instrument before its time": Planted(
        trade(valid_from_ms=10**15), "I4", "an order in an instrument that takes none was approved"
    ),
    "an instrument after its time": Planted(
        trade(valid_until_ms=1), "I4", "an order in an instrument that takes none was approved"
    ),
    "a wrong currency": Planted(
        mix_currencies, "I4", "an order in another currency than its account's was approved"
    ),
    "a reduction through zero": Planted(reduce_through_zero, "I4", BEYOND_POSITION),
    "two reductions that go through zero together": Planted(reduce_twice, "I4", BEYOND_POSITION),
    "an exposure at the reference only": Planted(pay_more_than_the_reference, "I4", BEYOND_EXPOSURE),
    "an exposure without the open order's price": Planted(forget_a_high_order, "I4", BEYOND_EXPOSURE),
    "an exposure at old marks": Planted(value_at_old_marks, "I4", BEYOND_EXPOSURE),
    "an order too large": Planted(over(order_quantity_lots_max=9), "I4", "above the size limit"),
    "a notional too large": Planted(over(order_notional_micros_max=1), "I4", "above the notional limit"),
    "nothing ordered": Planted(
        lambda w: w.traded("fresh", quantity_lots=0), "I4", "without a positive quantity and price"
    ),
    "an unknown instrument": Planted(
        lambda w: w.traded("fresh", symbol="DOGE-USD"), "I4", "in an unknown instrument was approved"
    ),
    "too many open orders": Planted(over(open_orders_max=0), "I4", "above the number of open orders"),
    "a price outside the collar": Planted(
        lambda w: (w.limit("fresh", price_collar_bps=10), w.traded("fresh", price_ticks=PRICE_TICKS + 91)),
        "I4",
        "outside the price collar",
    ),
    "a position beyond the limit": Planted(beyond_the_position, "I4", "above the position limit"),
    "a position beyond the limit, with releases": Planted(
        beyond_with_releases, "I4", "above the position limit"
    ),
    "an exposure beyond the limit": Planted(beyond_the_exposure, "I4", "above the gross exposure limit"),
    "limits that were never set": Planted(
        lambda w: approve_on(w, limits_version=2), "I4", "limits that were never set"
    ),
    "older limits than before": Planted(older_limits, "I4", "older limits than one before it"),
}


def a_tick(**changes: Any) -> Raw:
    """A sound record of `market-data`, or one with other fields, key, value or headers."""
    tick = {"symbol": "BTC-USD", "sequence": 1, "price_ticks": 2, "quantity_lots": 3}
    tick |= {"exchange_at_ms": 4_000, "observed_at_ms": 5_000, "epoch": 0}
    tick |= {name: changes.pop(name) for name in list(changes) if name in tick}
    record: dict[str, Any] = {"topic": "market-data", "partition": 0, "offset": 7, "timestamp": 5_000}
    record |= {"key": b"BTC-USD", "value": msgspec.json.encode(tick), "in_transaction": False}
    record |= {"headers": [("event-type", b"TickReceived"), ("schema-version", b"1")]}
    return cast(Raw, SimpleNamespace(**(record | changes)))


class TestTicks:
    """I5 and I7 at the other edge."""

    @pytest.mark.parametrize(
        "record",
        [
            a_tick(value=None),
            a_tick(value=b"{"),
            a_tick(headers=[]),
            a_tick(key=b"ETH-USD"),
            a_tick(quantity_lots="many"),
            a_tick(key=b"DOGE-USD", symbol="DOGE-USD"),
            a_tick(sequence=0),
            a_tick(price_ticks=-1),
            a_tick(quantity_lots=0),
            a_tick(observed_at_ms=6_001),
        ],
    )
    def test_a_tick_that_cannot_be_true_has_to_be_a_dead_letter(self, record: Raw) -> None:
        ticks = Ticks(World().shared.reference)
        ticks.look([record])
        origin = Origin("market-data", 0, 7)
        (found,) = check_ticks(ticks, [], None).violations
        assert (found.invariant, found.ids) == ("I5", (str(origin),))
        assert "nobody can read or believe is no dead letter" in found.message
        letter = DeadLetter(0, "marketdata", origin, None, record.key, b"")
        assert check_ticks(ticks, [letter], {}).violations == []

    def test_no_tick_waits_behind_the_dead_letter_of_its_symbol(self) -> None:
        ticks = Ticks()
        ticks.look([a_tick(), a_tick(sequence=2, price_ticks=0, offset=8), a_tick(sequence=3, offset=9)])
        head = Origin("market-data", 0, 8)
        letters = [DeadLetter(0, "marketdata", head, None, b"BTC-USD", b"")]
        price = PriceUpdated("BTC-USD", price_ticks=2, tick_sequence=3, observed_at_ms=5_000, gaps=1)
        assert check_ticks(ticks, letters, {"BTC-USD": price}).violations == []
        letters.append(DeadLetter(1, "marketdata", Origin("market-data", 0, 9), head, b"BTC-USD", b""))
        stopped = replace(price, tick_sequence=1, gaps=0)
        missing, held = check_ticks(ticks, letters, {"BTC-USD": stopped}).violations
        assert (held.invariant, held.ids) == ("I7", ("market-data/0/9",))
        assert "a tick waits behind a dead letter of its symbol" in held.message
        assert (missing.invariant, missing.ids) == ("I5", ("BTC-USD",))

    def test_a_lenient_tick_may_be_believed(self) -> None:
        ticks = Ticks()
        ticks.look([a_tick(), a_tick(quantity_lots="3")])
        assert check_ticks(ticks, [], None).violations == []

    def judge(self, *came: Raw, price: PriceUpdated | None = None) -> list[tuple[str, str]]:
        """What is found when these come, and this price goes out, of what else they make it."""
        shared = World().shared
        ticks = Ticks(shared.reference)
        takes = market_takes(shared, ticks, ONE_EACH)
        takes[records.MARKET_DATA](came)
        if price is not None:
            told = msgspec.json.encode(price)
            headers = (("event-type", b"PriceUpdated"), ("schema-version", b"1"))
            takes[records.PRICES]([ARecord(told, SYMBOL.encode(), headers, topic="prices")])
        found = check_ticks(ticks, [], shared.last_prices, shared.market)
        return [(each.invariant, each.message) for each in found.violations]

    def a_price(self, sequence: int, price_ticks: int = 100, **changed: Any) -> PriceUpdated:
        fields = {"observed_at_ms": 5_000, "gaps": 0} | changed
        return PriceUpdated(SYMBOL, price_ticks, sequence, **fields)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0, 0, 0, 1]),
                st.sampled_from([1, 2, 3, 4, 5, 6, 10**12, 10**12 + 1, 10**12 + 5]),
                st.sampled_from([100, 100, 110, 130, 140, 300]),
                st.sampled_from([-5, 0, 5, 5, 20_000]),
            ),
            max_size=25,
        )
    )
    def test_the_services_own_prices_are_no_violation(self, feed: list[tuple[int, int, int, int]]) -> None:
        shared = World().shared
        ticks = Ticks(shared.reference)
        takes = market_takes(shared, ticks, ONE_EACH)
        listed = models.events.InstrumentListed.model_validate(
            {"instrument": msgspec.to_builtins(an_instrument()), "version": 1}
        )
        state, observed_at_ms = None, 5_000
        for epoch, sequence, price_ticks, later_ms in feed:
            observed_at_ms = max(1, observed_at_ms + later_ms)
            fields = {"epoch": epoch, "sequence": sequence, "price_ticks": price_ticks}
            record = a_tick(**fields, observed_at_ms=observed_at_ms, timestamp=observed_at_ms)
            takes[records.MARKET_DATA]([record])
            tick = models.events.TickReceived.model_validate_json(record.value or b"")
            taken = apply_tick(state, tick, received_at_ms=record.timestamp, listed=listed)
            price = to_price(taken.state).model_dump_json().encode()
            if state is None or to_price(state) != to_price(taken.state):
                headers = (("event-type", b"PriceUpdated"), ("schema-version", b"1"))
                takes[records.PRICES]([ARecord(price, SYMBOL.encode(), headers, topic="prices")])
            state = taken.state
        assert check_ticks(ticks, [], shared.last_prices, shared.market).violations == []

    def test_a_print_far_off_needs_a_second_one(self) -> None:
        plain = [a_tick(sequence=1, price_ticks=100), a_tick(sequence=2, price_ticks=130)]
        waits = ("I7", "a price is made of a tick that had to be borne out first")
        not_so = ("I5", "a last price is not what the ticks make")
        assert self.judge(*plain, price=self.a_price(1)) == []
        assert self.judge(*plain, price=self.a_price(2, 130)) == [not_so, waits]
        second = [*plain, a_tick(sequence=3, price_ticks=140)]
        assert self.judge(*second, price=self.a_price(3, 140)) == []
        assert self.judge(*second, price=self.a_price(1)) == [not_so]
        back = [*plain, a_tick(sequence=3, price_ticks=101)]
        assert self.judge(*back, price=self.a_price(3, 101)) == []
        overtaken = [*plain[:1], a_tick(sequence=5, price_ticks=130), a_tick(sequence=3, price_ticks=101)]
        assert self.judge(*overtaken, price=self.a_price(1, gaps=3)) == []
        assert self.judge(*back, price=self.a_price(1)) == [not_so]

    def test_a_price_within_a_fifth_of_the_last_is_taken_at_once(self) -> None:
        for price_ticks in (80, 120):
            ticks = [a_tick(sequence=1, price_ticks=100), a_tick(sequence=2, price_ticks=price_ticks)]
            assert self.judge(*ticks, price=self.a_price(2, price_ticks)) == []
            assert self.judge(*ticks, price=self.a_price(1)) != []

    def test_a_jump_of_the_numbering_needs_a_tick_that_continues_it(self) -> None:
        jump = [a_tick(sequence=1, price_ticks=100), a_tick(sequence=10**12, price_ticks=100)]
        assert self.judge(*jump, price=self.a_price(1)) == []
        assert len(self.judge(*jump, price=self.a_price(10**12, gaps=10**12 - 2))) == 2
        goes_on = [*jump, a_tick(sequence=2, price_ticks=101), a_tick(sequence=3, price_ticks=102)]
        assert self.judge(*goes_on, price=self.a_price(3, 102)) == []
        assert self.judge(*goes_on, price=self.a_price(1)) != []
        continued = [*jump, a_tick(sequence=10**12 + 1, price_ticks=101)]
        assert self.judge(*continued, price=self.a_price(10**12 + 1, 101)) == []
        assert self.judge(*continued, price=self.a_price(1)) != []

    def test_a_feed_that_starts_again_is_followed_once_a_second_tick_says_so(self) -> None:
        before = [a_tick(sequence=500, price_ticks=100, observed_at_ms=4_000)]
        again = [*before, a_tick(sequence=1, price_ticks=101), a_tick(sequence=2, price_ticks=102)]
        assert self.judge(*again[:2], price=self.a_price(500, observed_at_ms=4_000, gaps=499)) == []
        assert len(self.judge(*again[:2], price=self.a_price(1, 101))) == 2
        assert self.judge(*again, price=self.a_price(2, 102)) == []
        assert self.judge(*again, price=self.a_price(500, observed_at_ms=4_000, gaps=499)) != []

    def test_what_comes_late_changes_nothing(self) -> None:
        late = [a_tick(sequence=5, price_ticks=100), a_tick(sequence=4, price_ticks=101)]
        assert self.judge(*late, price=self.a_price(5, gaps=4)) == []
        assert self.judge(*late, price=self.a_price(4, 101, gaps=3)) != []

    def test_a_higher_feed_session_numbers_anew_and_a_lower_one_is_late(self) -> None:
        ticks = [
            a_tick(sequence=500, price_ticks=100, epoch=7),
            a_tick(sequence=1, price_ticks=101, epoch=8),
            a_tick(sequence=501, price_ticks=102, epoch=7),
        ]
        assert self.judge(*ticks, price=self.a_price(1, 101, epoch=8)) == []
        assert self.judge(*ticks, price=self.a_price(501, 102, epoch=7)) != []

    def test_a_price_is_a_tick_that_was_seen(self) -> None:
        unseen = ("I7", "a price is made of a tick that nobody has seen")
        assert unseen in self.judge(a_tick(sequence=1, price_ticks=100), price=self.a_price(1, 101))

    def test_too_many_possibilities_are_unverifiable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ticks_module, "POSSIBILITIES_MAX", 0)
        ticks = Ticks()
        ticks.look([a_tick(), a_tick(sequence=2)])
        findings = check_ticks(ticks, [], {})
        assert findings.violations == []
        assert [each.ids for each in findings.unverifiable] == [("BTC-USD",)]

    @pytest.mark.parametrize(
        "changed",
        [{"scale": 2}, {"former": (FormerScale(2, "BTC", "USD", Decimal(1), Decimal(1), 1),)}],
        ids=["scale", "former"],
    )
    def test_where_an_instruments_ticks_have_changed_no_price_can_be_judged(
        self, changed: dict[str, Any]
    ) -> None:
        reference = World().shared.reference
        reference.instruments.add(SYMBOL, 5_500, InstrumentListed(an_instrument(), 2, **changed))
        ticks = Ticks(reference)
        ticks.look([a_tick(price_ticks=100), a_tick(sequence=2, price_ticks=10_000, offset=8)])
        findings = check_ticks(ticks, [], {SYMBOL: self.a_price(2, 10_000, scale=2)})
        assert findings.violations == []
        assert [(each.invariant, each.ids) for each in findings.unverifiable] == [("I5", (SYMBOL,))]

    def test_a_tick_on_a_wrong_partition_has_to_be_a_dead_letter(self) -> None:
        record = a_tick()
        home = hash_of(SYMBOL.encode()) % 8
        for partition in (home, home ^ 1):
            record.partition = partition  # type: ignore[misc]
            ticks = Ticks(World().shared.reference)
            ticks.look([record], 8)
            assert len(ticks.unusable) == (partition != home)

    def test_a_tick_before_its_instrument_was_listed_may_be_either(self) -> None:
        world = World()
        early = a_tick(key=b"NEW", symbol="NEW")
        world.shared.reference.instruments.add("NEW", 5_500, InstrumentListed(an_instrument("NEW"), 1))
        origin = Origin("market-data", 0, 7)
        believed, refused = Ticks(world.shared.reference), Ticks(world.shared.reference, {origin})
        for ticks in (believed, refused):
            ticks.look([early])
            assert ticks.unusable == []
        assert list(believed.possible) == ["NEW"]
        assert list(refused.possible) == []

    def test_a_last_price_counts_what_never_came(self) -> None:
        ticks = Ticks()
        ticks.look([a_tick(price_ticks=5), a_tick(sequence=4, price_ticks=6), a_tick(sequence=3)])
        price = PriceUpdated("BTC-USD", price_ticks=6, tick_sequence=4, observed_at_ms=5_000, gaps=2)
        assert check_ticks(ticks, [], {"BTC-USD": price}).violations == []
        (found,) = check_ticks(ticks, [], {"BTC-USD": replace(price, gaps=3)}).violations
        assert (found.invariant, found.ids) == ("I5", ("BTC-USD",))
        assert "a last price is not what the ticks make" in found.message


PLANTED = (
    CONDITIONS
    | LAST_LOOK
    | COMMANDS
    | LIVES
    | VENUE
    | BOOKS
    | STANDING
    | INTAKE
    | STRANGERS
    | ORDER
    | LIMITS
    | CONDUCT
    | PLANTED_REQUESTS
)


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_catches(name: str) -> None:
    planted = PLANTED[name]
    world = a_busy_world()
    planted.plant(world)
    caught = [(each.invariant, each.message) for each in world.violations()]
    assert any(planted.invariant == one and planted.message in message for one, message in caught), caught


def rules_in(source: str) -> Iterator[str]:
    """The texts in a module of invariants: its string constants of four words or more, docstrings aside."""
    tree = ast.parse(source)
    docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in docs]
    for text in texts:
        if isinstance(text, str) and text.count(" ") >= 3 and text not in NOT_CHECKED:
            yield text


NOT_CHECKED = {
    "books are compared with the log only when all is quiet",
    "risk has a dead letter about this account",
    "compliance has an execution of this account as a dead letter",
    "risk has limits of this account as a dead letter",
    "the limits in force are gone from the compacted topic",
    "the first records of what books are made of are gone",
    "the limits that an approval names are gone from the compacted topic",
    "the origin of a dead letter is in a compacted topic and gone",
    "the tick of an approval is gone from the log",
    "a table differs from its changelog, but is behind its end",
    "an approval of a release that went by no reference data",
    "an order is above the gross exposure limit at the newest prices, not at those just before",
    "an order was first reported when it was too old to leave, but may have left before",
    "a replace was answered when it was too old to leave, but may have left before",
    "the first answers to commands are gone",
    "the rules leave too many possibilities for the last price",
    "an instrument's ticks have changed, and nobody can tell at which one",
    "an execution of a release that knew no terms of trades",
    "a profit is not known, as in books of a release that kept none",
    "the first fills that profits are made of are gone",
    "allocation has a dead letter about this account",
    "what the lots of an allocation are worth is not known",
    "the instruction that an allocation names is not there",
    "what was realised before a profit began is not known",
    "what was realised in an instrument whose lots and ticks have changed",
}
"""What is noted as unverifiable."""


def test_every_rule_of_the_checker_has_a_planted_violation() -> None:
    planted = [each.message for each in PLANTED.values()]
    planted += [
        "differs from the one rebuilt",
        "ahead of what is committed",
        "though nothing moves",
    ]  # TestTables
    planted += [
        "a tick that nobody can read or believe",
        "a tick waits behind",
        "a last price is not",
        "a price is made of a tick that nobody has seen",
        "a price is made of a tick that had to be borne out first",
    ]  # TestTicks
    planted += [*test_checker_allocations.PLANTED, *test_checker_allocations.WAITING]
    planted += ["the venue has a session that is no key shard"]  # TestLedger
    planted += ["the ledger's reports of a partition have a gap"]  # TestReleaseBefore
    rules = [
        rule
        for path in Path(checker.invariants.__file__).parent.glob("*.py")
        for rule in rules_in(path.read_text())
    ]
    assert len(rules) > 70
    assert [rule for rule in rules if not any(each in rule or rule in each for each in planted)] == []


def test_every_violation_names_its_ids() -> None:
    world = a_busy_world()
    lost = world.receive()
    found = {(each.invariant, each.ids) for each in world.violations()}
    assert ("I1", (lost.order_id,)) in found
    assert ("I5", (f"orders/0/{world.log.orders[-1].offset}",)) in found


class TestExposure:
    """What I4 must not hold against risk."""

    def test_a_release_in_the_same_millisecond_counts(self) -> None:
        world = World()
        world.limit(position_lots_max=10)
        gone = world.cleared()
        world.acknowledge(gone)
        world.cancel(gone)
        same_ms = world.log.executions[-1].timestamp_ms
        world.now_ms = same_ms - 2 - ORDER_EVERY_MS
        world.traded()
        assert world.log.risk[-1].timestamp_ms == same_ms
        assert world.findings().unverifiable == []
        assert [each for each in world.violations() if each.invariant == "I4"] == []

    def test_an_order_that_only_reduces_needs_no_limit(self) -> None:
        world = World()
        world.limit(position_lots_max=20)
        world.traded()
        world.limit(position_lots_max=5)
        world.traded(side=Side.SELL, quantity_lots=4)
        world.write_books()
        assert world.violations() == []

    def test_open_buys_do_not_make_a_sell_reduce(self) -> None:
        """Whatever risk knew of them: an order reduces the position, not what other orders may make of it."""
        world = World()
        world.limit(position_lots_max=12)
        world.traded(side=Side.SELL, quantity_lots=2)
        buys = world.cleared(quantity_lots=12)
        world.limit(position_lots_max=5)
        world.acknowledge(buys)
        world.cancel(buys)
        world.traded(side=Side.SELL, quantity_lots=4)
        world.write_books()
        assert [each.message for each in world.violations()] == [
            "an order above the position limit was approved"
        ]

    @pytest.mark.parametrize(("lots", "side"), [(10, Side.SELL), (4, Side.SELL)])
    def test_an_order_may_reduce_to_zero_and_not_through_it(self, lots: int, side: Side) -> None:
        world = World()
        world.limit(position_lots_max=20, gross_exposure_micros_max=20 * PRICE_TICKS)
        world.traded()
        world.limit(position_lots_max=3, gross_exposure_micros_max=1)
        world.traded(side=side, quantity_lots=lots)
        world.write_books()
        assert world.violations() == []
        world.traded(side=side, quantity_lots=11 - lots)
        assert {each.invariant for each in world.violations()} >= {"I4"}

    def test_a_short_position_is_reduced_by_buying(self) -> None:
        world = World()
        world.limit(position_lots_max=20)
        world.traded(side=Side.SELL)
        world.limit(position_lots_max=5)
        world.traded(quantity_lots=10)
        world.write_books()
        assert world.violations() == []

    def test_the_highest_price_of_a_side_is_forgotten_when_the_side_is_empty(self) -> None:
        world = World()
        world.limit(gross_exposure_micros_max=10 * PRICE_TICKS * 104 // 100)
        high = world.cleared(price_ticks=PRICE_TICKS * 104 // 100)
        world.acknowledge(high)
        world.cancel(high)
        world.traded(price_ticks=PRICE_TICKS * 102 // 100)
        world.write_books()
        assert world.violations() == []

    def judge_marks(self, *ages_ms: int) -> Findings:
        """An account holds another symbol that has just doubled: the prices are so old, newest last."""
        world = World()
        world.limit(gross_exposure_micros_max=25 * PRICE_TICKS)
        world.traded(symbol=OTHER_SYMBOL)
        start_ms = world.now_ms + 30_000
        for age_ms, price_ticks in zip(ages_ms, (PRICE_TICKS, 2 * PRICE_TICKS), strict=True):
            world.now_ms = start_ms - age_ms
            world.tick(price_ticks, symbol=OTHER_SYMBOL)
        world.now_ms = start_ms - 1_900
        world.traded()
        world.write_books()
        return world.findings()

    def test_an_exposure_above_the_limit_only_at_the_newest_marks_is_unverifiable(self) -> None:
        findings = self.judge_marks(20_000, 5_000)
        assert findings.violations == []
        assert [each.invariant for each in findings.unverifiable] == ["I4"]
        findings = self.judge_marks(30_000, 15_000)
        assert [each.invariant for each in findings.violations] == ["I4"]

    @pytest.mark.parametrize("scale", [1, 2])
    def test_only_marks_in_ticks_of_the_instruments_scale_count(self, scale: int) -> None:
        """An instrument may be changed and changed back; its last price is then from in between."""
        world = World()
        world.limit(gross_exposure_micros_max=25 * PRICE_TICKS)
        world.traded(symbol=OTHER_SYMBOL)
        mark = Mark(100 * PRICE_TICKS, scale)
        world.shared.reference.prices.add(OTHER_SYMBOL, world.now_ms, mark)
        world.now_ms += 30_000
        world.tick(PRICE_TICKS)
        world.traded()
        world.write_books()
        assert [each.invariant for each in world.violations()] == ["I4"] * (scale == 1)

    def test_approvals_of_a_release_without_reference_data_are_judged_by_their_limits(self) -> None:
        world = World()
        world.limit(order_quantity_lots_max=5)
        order = world.receive()
        received_at_ms = world.log.orders[-1].timestamp_ms
        age_ms = max(0, received_at_ms - world.seen_at_ms())
        world.approve(order, decided_at_ms=0, received_at_ms=0, price_age_ms=age_ms)
        finish(world, order)
        world.shared.reference.accounts = Timeline()
        world.log.sent.clear()
        findings = world.findings()
        assert {each.message for each in findings.violations if each.invariant != "I3"} == {
            "an order above the size limit was approved"
        }
        assert "an approval of a release that went by no reference data" in {
            each.message for each in findings.unverifiable
        }

    def test_limits_that_compaction_took_are_unverifiable(self) -> None:
        world = World()
        world.limit()
        world.limit()
        world.traded()
        edit(world.log.risk, 0, limits_version=0)
        world.write_books()
        findings = world.findings()
        assert findings.violations == []
        assert [each.invariant for each in findings.unverifiable] == ["I4"]

    def test_approvals_that_may_know_more_than_the_log_are_left_out(self) -> None:
        world = a_busy_world()
        moving(world)
        world.log.risk_cut = world.log.risk[-1].offset + 1
        beyond_the_position(world)
        assert world.violations() == []


class TestConditions:
    """What I7 must not hold against the services: what is in the log takes a moment to bind."""

    def test_a_halt_binds_within_a_moment(self) -> None:
        for late_ms, is_bound in ((BINDS_WITHIN_MS - 100, False), (BINDS_WITHIN_MS + 100, True)):
            world = World()
            order = world.receive()
            world.halt()
            halted_at_ms = world.now_ms - 1_500
            world.approve(order, **self.at(world, halted_at_ms + late_ms))
            found = [each.message for each in world.violations() if each.invariant == "I7"]
            assert found == ([HALTED] if is_bound else [])

    def at(self, world: World, decided_at_ms: int) -> dict[str, int]:
        """A decision at that time, that stands in the log when the world is that far."""
        world.now_ms = max(world.now_ms, decided_at_ms)
        return {"decided_at_ms": decided_at_ms, "price_age_ms": decided_at_ms - world.seen_at_ms()}

    def test_an_approval_that_waited_for_kafka_is_judged_by_when_it_was_made(self) -> None:
        world = World()
        order = world.receive()
        decided_at_ms = world.log.orders[-1].timestamp_ms + 1
        world.halt()
        world.now_ms += 20_000
        price_age_ms = decided_at_ms - world.seen_at_ms()
        world.approve(order, decided_at_ms=decided_at_ms, price_age_ms=price_age_ms)
        assert [each for each in world.violations() if each.invariant == "I7"] == []

    def test_a_restriction_binds_within_a_moment(self) -> None:
        world = World()
        order = approved(world)
        world.restrict()
        world.now_ms -= 1_000
        finish(world, order)
        assert [each for each in world.violations() if each.invariant == "I7"] == []

    def test_a_kill_switch_binds_from_its_answer_on(self) -> None:
        world = World()
        world.limit()
        order = world.receive()
        world.limit(version=1, kill_switch=True)
        world.approve(order)
        assert [each for each in world.violations() if each.invariant == "I7"] == []

    def test_limits_switch_off_only_with_a_newer_version(self) -> None:
        world = World()
        world.limit()
        world.limit(version=1, kill_switch=True)
        world.limit(version=1)
        world.traded()
        assert "I7" in {each.invariant for each in world.violations()}
        world = World()
        world.limit()
        world.limit(version=1, kill_switch=True)
        world.limit(version=2)
        world.traded()
        world.write_books()
        assert world.violations() == []


class TestLastLook:
    """What I7 must not hold against the exchange."""

    def test_an_order_that_may_have_left_in_time_is_unverifiable(self) -> None:
        world = World()
        order = world.cleared()
        world.now_ms += 60_000
        world.acknowledge(order)
        world.fill(order)
        world.write_books()
        findings = world.findings()
        assert findings.violations == []
        assert [each.message for each in findings.unverifiable] == [
            "an order was first reported when it was too old to leave, but may have left before"
        ]

    def test_an_order_may_leave_while_nothing_is_halted_for_a_moment(self) -> None:
        world = World()
        world.limit(order_age_ms_max=10**6)
        order = approved(world)
        world.halt()
        world.clear(order)
        world.halt(halted=False, version=2)
        world.halt(version=3)
        world.send(order)
        world.acknowledge(order)
        world.fill(order)
        world.write_books()
        assert world.violations() == []

    @pytest.mark.parametrize(
        "happens",
        [
            lambda w: w.register("acc", status=PartyStatus.SUSPENDED),
            lambda w: delist(w),
            lambda w: delist(w, status=InstrumentStatus.ACTIVE, valid_until_ms=w.now_ms + 100),
            lambda w: w.restrict(),
        ],
    )
    def test_what_is_forbidden_after_it_may_have_left_is_no_fault(
        self, happens: Callable[[World], None]
    ) -> None:
        world = World()
        world.limit(order_age_ms_max=10**6)
        order = approved(world)
        world.clear(order)
        happens(world)
        world.now_ms += 1_500
        world.send(order)
        world.acknowledge(order)
        world.fill(order)
        world.write_books()
        assert world.violations() == []

    def test_what_is_gone_from_the_log_forbids_nothing(self) -> None:
        world = World()
        order = approved(world)
        world.shared.reference.accounts = Timeline()
        world.shared.reference.instruments = Timeline()
        finish(world, order)
        world.write_books()
        assert "I7" not in {each.invariant for each in world.violations()}

    def test_a_price_that_came_while_it_waited_is_no_stale_one(self) -> None:
        world = World()
        world.limit(price_age_ms_max=5_000, order_age_ms_max=10**6)
        world.tick()
        order = approved(world)
        world.clear(order)
        world.now_ms += 20_000
        world.tick()
        world.send(order)
        world.acknowledge(order)
        world.fill(order)
        world.write_books()
        assert world.violations() == []


class TestSequences:
    def test_a_command_taken_in_beside_a_decision_may_count_for_it_or_not(self) -> None:
        for sequence in (5_000_000, 9):
            world = World()
            world.refuse(world.receive(order_id="acc-9000000", sequence=9_000_000))
            world.set_sequence("acc", 8)
            world.now_ms -= 2_000
            order = world.receive(order_id=f"acc-{sequence}", sequence=sequence)
            is_repeat = sequence == 5_000_000
            world.refuse(order, "duplicate_order_id" if is_repeat else "position_limit")
            if is_repeat:  # then the command was taken in after it
                world.books["acc"].last_sequence = 8
            world.write_books()
            assert [each for each in world.violations() if each.invariant in ("I1", "I3")] == []

    def test_an_order_may_come_again_once_its_account_is_known(self) -> None:
        world = World()
        order = world.receive()
        world.refuse(order, "unknown_account")
        world.now_ms += 2_000
        world.log_order(order)
        world.approve(order)
        finish(world, order)
        world.write_books()
        assert world.violations() == []

    def test_a_log_without_its_first_records_tells_no_first_sequence(self) -> None:
        world = World()
        world.log.whole = False
        world.traded(order_id="acc-90000000", sequence=90_000_000)
        assert [each for each in world.violations() if each.invariant == "I1"] == []


class TestDisputes:
    """Reports that the exchange cannot book cost an order, and nothing else."""

    def test_a_report_that_fits_nothing_is_a_dead_letter(self) -> None:
        world = World()
        order = world.cleared()
        world.acknowledge(order)
        world.dispute(order)
        world.dispute(order, records.OrderExpired, expired_lots=10)
        world.traded("other")
        world.write_books()
        assert world.violations() == []
        assert sort_intake(world.log, trace(world.log)).held == {world.log.orders[0].offset}

    def test_a_report_of_no_order_of_ours_is_a_dead_letter(self) -> None:
        world = World()
        world.dispute(replace(world.traded(), order_id="nobody's"))
        world.write_books()
        assert world.violations() == []

    def test_an_unreadable_report_is_a_dead_letter_whatever_comes_of_its_order(self) -> None:
        world = World()
        order = world.cleared()
        world.acknowledge(order)
        world.dispute(order, records.OrderExpired, expired_lots=10)
        world.ledger_reports[-1] = world.ledger_reports[-1]._replace(event=None)
        world.write_books()
        assert world.violations() == []

    def test_a_dispute_that_the_exchange_forgot_is_a_violation(self) -> None:
        world = World()
        order = world.cleared()
        world.acknowledge(order)
        world.dispute(order)
        world.write_books()
        rewrite(world.log.intents, f"acc/{order.order_id}".encode(), disputed=False)
        assert [each.invariant for each in world.violations()] == ["I3"]


def moving(world: World) -> None:
    """The same history while things move."""
    world.log.quiet = world.log.ended = False


class TestRestingOrders:
    """The services have taken in everything, but orders are still at the venue."""

    def test_what_is_open_is_no_violation(self) -> None:
        world = a_busy_world()
        world.log.ended = False
        world.acknowledge(world.cleared())
        world.cleared()
        world.write_books()
        assert world.violations() == []

    @pytest.mark.parametrize(
        "name", [*BOOKS, *STANDING, "an order risk never decided", "an order compliance never decided"]
    )
    def test_what_the_services_owe_still_is(self, name: str) -> None:
        world = a_busy_world()
        world.log.ended = False
        PLANTED[name].plant(world)
        assert PLANTED[name].invariant in {each.invariant for each in world.violations()}


class TestProfits:
    """What fills have brought, worked out in fractions; what books cannot know is noted, not guessed."""

    def a_world(self) -> World:
        """An account that buys, sells some, and goes through zero at other prices."""
        world = World()
        for price_ticks, side, lots in (
            (90_000, Side.BUY, 3),
            (90_001, Side.BUY, 4),
            (90_100, Side.SELL, 2),
            (90_200, Side.SELL, 9),
            (90_050, Side.BUY, 1),
            (90_050, Side.BUY, 3),
            (90_000, Side.SELL, 2),
        ):
            world.tick(price_ticks)
            world.traded(side=side, quantity_lots=lots)
        world.write_books()
        return world

    def profit(self, world: World) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(world.log.positions[b"acc"])["holdings"]["BTC-USD"][
            "profit"
        ]
        return found

    def write(self, world: World, profit: dict[str, Any] | None) -> None:
        books = msgspec.json.decode(world.log.positions[b"acc"])
        books["holdings"]["BTC-USD"]["profit"] = profit
        world.log.positions[b"acc"] = msgspec.json.encode(books)

    def skipped(self, world: World) -> list[str]:
        findings = world.findings()
        assert findings.violations == []
        return [each.message for each in findings.unverifiable]

    def test_it_is_what_the_fills_make_it(self) -> None:
        assert self.skipped(self.a_world()) == []

    @pytest.mark.parametrize("name", ["cost_tick_lots", "realised_tick_lots", "fee_micros"])
    def test_a_unit_more_is_a_violation(self, name: str) -> None:
        world = self.a_world()
        profit = self.profit(world)
        self.write(world, profit | {name: profit.get(name, 0) + 1})
        assert {each.invariant for each in world.violations()} == {"I3"}

    def test_what_is_not_known_is_noted(self) -> None:
        world = self.a_world()
        self.write(world, None)
        assert self.skipped(world) == ["a profit is not known, as in books of a release that kept none"]

    def test_one_that_began_when_all_was_flat_is_judged_from_there(self) -> None:
        world = self.a_world()
        last = [each.event for each in world.log.executions if isinstance(each.event, TradeExecuted)][-2:]
        begun = {
            "since_venue_sequence": last[0].venue_sequence,
            "cost_tick_lots": -180_000,
            "fee_micros": 2,
            "fee_currency": "USD",
        }
        self.write(world, begun)
        assert self.skipped(world) == ["what was realised before a profit began is not known"]
        self.write(world, begun | {"realised_tick_lots": 5})
        assert told(world.violations()) == {"the realised profit is not what the executions make it"}

    def test_where_the_scale_has_changed_what_was_realised_is_not_judged(self) -> None:
        world = self.a_world()
        listed = records.InstrumentListed(an_instrument(), 2, scale=2)
        world.shared.reference.instruments.add(SYMBOL, world.now_ms, listed)
        self.write(world, self.profit(world) | {"realised_tick_lots": 0, "realised_micros": 7})
        message = "what was realised in an instrument whose lots and ticks have changed"
        assert message in self.skipped(world)
        self.write(world, self.profit(world) | {"cost_tick_lots": 0})
        assert "the cost of a position is not what its executions make it" in told(world.violations())

    def test_without_the_first_fills_nothing_is_judged(self) -> None:
        world = self.a_world()
        world.log.whole = False
        self.write(world, {"since_venue_sequence": 10**6})
        assert "the first fills that profits are made of are gone" in self.skipped(world)

    def test_fees_that_are_not_told_or_of_another_currency_are_missing(self) -> None:
        fills = [
            TradeExecuted(
                *("o", "acc", SYMBOL, Side.BUY, "V1", number, "T", 1, 1, 0), fee_micros=fee, fee_currency=of
            )
            for number, (fee, of) in enumerate(
                [(0, "EUR"), (None, None), (3, None), (5, "USD"), (7, "EUR"), (-2, "USD")], start=1
            )
        ]
        assert made_of(fills).fees == (3, "USD", 3)


class TestMovingHistory:
    """A history that still moves misses effects, and may not show an effect without its cause."""

    @pytest.mark.parametrize("topic", ["risk", "compliance", "executions"])
    def test_missing_effects_are_in_flight(self, topic: str) -> None:
        world = a_busy_world()
        moving(world)
        downstream = ["risk", "compliance", "executions"]
        for name in downstream[downstream.index(topic) :]:
            getattr(world.log, name)[2:] = []
        if topic != "executions":
            world.ledger_orders = {}
        assert world.violations() == []

    def test_a_hole_in_the_executions_is_a_violation(self) -> None:
        world = a_busy_world()
        moving(world)
        del world.log.executions[3]
        assert "I2" in {each.invariant for each in world.violations()}

    def test_books_are_not_compared(self) -> None:
        world = a_busy_world()
        moving(world)
        world.log.positions.clear()
        findings = check_positions(world.log, trace(world.log), Reference())
        assert findings.violations == []
        assert [each.invariant for each in findings.unverifiable] == ["I3"]


class TestReleaseBefore:
    """What stands in a log that begins under the release before, which had other rules."""

    def carried_over(self) -> World:
        """Three accounts of one partition: an order open all the time, one before and after, one before."""
        world = World()
        world.numbers_together = True
        order = world.cleared()
        world.acknowledge(order)
        world.traded("other")
        world.traded("third")
        world.fill(order, 3)
        world.carry_over()
        world.fill(order, 7)
        world.traded("other")
        world.write_books()
        return world

    def test_numbers_may_leap_where_sessions_were_numbered_together(self) -> None:
        world = self.carried_over()
        numbers = [each.venue_sequence for each in world.ledger_reports]
        assert sorted(numbers) != sorted(set(numbers)), "behind them, sessions have the same numbers"
        assert world.findings().violations == []

    @pytest.mark.parametrize(
        ("lost", "rule"),
        [
            (1, "the ledger's reports of a partition have a gap"),
            (-2, "the ledger's reports of a session have a gap"),
        ],
    )
    def test_no_number_is_left_out_by_all_of_them(self, lost: int, rule: str) -> None:
        world = self.carried_over()
        del world.ledger_reports[lost]
        assert rule in told(world.violations())

    def test_a_session_begins_where_its_partition_was_read_to(self) -> None:
        world = self.carried_over()
        read, third = world.numbered_before, str(shard_of(b"third")).encode()
        rewrite(world.log.sessions, third, venue_sequence_last=read, by_partition=True)
        assert world.findings().violations == []
        for wrong in (1, read + 99):
            rewrite(world.log.sessions, third, venue_sequence_last=wrong)
            assert "a session is not read as far as its reports are in executions" in told(world.violations())

    def test_exposure_by_its_rules_cannot_be_judged(self) -> None:
        world = World()
        world.limit(position_lots_max=5)
        order = world.receive()
        world.approve(order, decided_at_ms=0)
        finish(world, order)
        findings = world.findings()
        told_of = "an order above the position limit was approved"
        assert told_of in {each.message for each in findings.unverifiable}
        assert told_of not in told(findings.violations)

    def test_it_counted_the_orders_of_accounts_that_it_did_not_know(self) -> None:
        world = World()
        order = world.receive("stranger")
        world.refuse(order, "unknown_account")
        source = f"orders/0/{world.log.orders[-1].offset}"
        refusal = OrderRiskRejected(order, "unknown_account", source)
        world.log.risk[-1] = replace(world.log.risk[-1], event=refusal)
        world.write_books()
        books = {"last_sequence": order.sequence, "open_orders": 0, "holdings": {}}
        world.log.positions[b"stranger"] = msgspec.json.encode(books)
        assert world.findings().violations == []

    def test_it_buried_orders_with_unknown_fields_alone(self) -> None:
        world = World()
        world.receive()
        origin = Origin("orders", 0, world.log.orders[-1].offset)
        world.log.orders[-1] = replace(world.log.orders[-1], unknown=("stop_price",))
        world.bury(origin)
        world.traded()
        world.write_books()
        assert world.findings().violations == []


def told(violations: list[Violation]) -> set[str]:
    return {each.message for each in violations}


class TestStanding:
    """What I3 must not hold against intents, sessions, open orders and limits in force."""

    def judge(self, world: World) -> Findings:
        return check_standing(world.log, trace(world.log), world.commanded)

    def test_what_is_open_stands_in_each_table(self) -> None:
        world = World()
        key = resting(world)
        assert msgspec.json.decode(world.log.intents[key.encode()])["open_lots"] == 7
        assert world.log.open_orders.keys() == {key.encode()}
        assert world.log.sessions == {SESSION: b'{"venue_sequence_last":2}'}
        assert self.judge(world) == Findings()

    def test_a_venue_that_has_reported_nothing_needs_no_session(self) -> None:
        world = World()
        world.write_books()
        assert world.log.sessions == {}
        assert self.judge(world) == Findings()
        world.log.sessions[b"0"] = b'{"venue_sequence_last":0}'
        assert self.judge(world) == Findings()

    @pytest.mark.parametrize("behind", [None, Origin("compliance-decisions", 0, 0)])
    def test_the_exchange_does_not_intend_its_dead_letters(self, behind: Origin | None) -> None:
        world = World()
        order = world.cleared()
        world.write_books()
        world.bury(
            Origin("compliance-decisions", 0, world.log.compliance[-1].offset), behind, service="exchange"
        )
        del world.log.intents[f"acc/{order.order_id}".encode()]
        assert self.judge(world) == Findings()

    def test_a_repeat_that_compliance_holds_leaves_the_intent_of_the_first(self) -> None:
        world = World()
        order = world.cleared()
        world.refuse(order, "duplicate_order_id", world.log_order(order))
        world.bury(Origin("risk-decisions", 0, world.log.risk[-1].offset), service="compliance")
        world.write_books()
        traces = trace(world.log)
        assert next(iter(traces)).stuck
        assert self.judge(world) == Findings()

    def test_accounts_whose_ends_compliance_cannot_know_are_left_out(self) -> None:
        world = a_busy_world()
        world.bury(Origin("executions", 0, world.log.executions[2].offset), service="compliance")
        have_open(world)
        findings = self.judge(world)
        assert findings.violations == []
        assert [each.ids for each in findings.unverifiable] == [("acc",)]

    def test_accounts_whose_limits_are_dead_letters_are_left_out(self) -> None:
        world = a_busy_world()
        world.limit()
        rewrite(world.log.controls, b"acc", version=2)
        world.bury(Origin("risk-limits", 0, 5), service="risk")
        findings = self.judge(world)
        assert findings.violations == []
        assert [each.ids for each in findings.unverifiable] == [("acc",)]

    def test_limits_that_come_late_or_twice_change_nothing(self) -> None:
        world = World()
        first, second = world.limit(), world.limit()
        for late in (first, second, replace(second, open_orders_max=1)):
            world.commanded.add(late)
        world.write_books()
        assert self.judge(world) == Findings()

    @pytest.mark.parametrize("left", [{}, {"acc": Wanted(1)}])
    def test_limits_that_compaction_took_are_no_violation(self, left: dict[str, Wanted | None]) -> None:
        world = World()
        world.limit()
        world.limit()
        world.write_books()
        world.commanded.wanted = left
        findings = self.judge(world)
        assert findings.violations == []
        assert [each.ids for each in findings.unverifiable] == [("acc",)]

    def test_a_log_without_its_first_records_tells_only_of_limits(self) -> None:
        world = a_busy_world()
        world.log.whole = False
        world.log.sessions.clear()
        world.log.risk_limits.pop(b"other")
        findings = self.judge(world)
        assert [each.ids for each in findings.violations] == [("other",)]
        assert [each.ids for each in findings.unverifiable] == [("0",)]

    def test_nothing_is_compared_while_things_move(self) -> None:
        world = a_busy_world()
        moving(world)
        world.log.risk_limits.clear()
        world.log.sessions.clear()
        findings = self.judge(world)
        assert findings.violations == []
        assert [each.invariant for each in findings.unverifiable] == ["I3"]


def test_an_order_behind_a_dead_decision_is_held_not_lost() -> None:
    world = World()
    order = world.receive()
    world.approve(order)
    world.bury(Origin("risk-decisions", 0, world.log.risk[0].offset), service="compliance")
    world.write_books()
    assert world.violations() == []
    assert sort_intake(world.log, trace(world.log)).held == {world.log.orders[0].offset}


def test_a_lenient_order_may_be_decided_or_dead() -> None:
    world = World()
    order = world.receive()
    world.log.orders[0] = replace(world.log.orders[0], sound=False)
    world.refuse(order)
    world.receive()
    world.log.orders[1] = replace(world.log.orders[1], sound=False)
    world.bury(Origin("orders", 0, world.log.orders[1].offset))
    world.traded()
    world.write_books()
    assert world.violations() == []


class TestTables:
    """I6."""

    VALUES = {b"b": b"2", b"a": b"1"}  # noqa: RUF012

    def live(self, offset: int = 10, **changed: Any) -> LiveTable:
        count, hexdigest = digest(self.VALUES)
        fields: dict[str, Any] = {"count": count, "sha256": hexdigest} | changed
        return LiveTable("positions", 3, "risk-positions-changelog", offset, **fields)

    def test_the_digest_is_over_sorted_length_prefixed_parts(self) -> None:
        expected = b"".join(len(part).to_bytes(4, "big") + part for part in (b"a", b"1", b"b", b"2"))
        assert digest(self.VALUES) == (2, sha256(expected).hexdigest())

    def test_equal_tables_are_fine(self) -> None:
        findings = check_tables([(self.live(), Rebuilt(self.VALUES, 10))], quiet=True)
        assert (findings.violations, findings.unverifiable) == ([], [])

    @pytest.mark.parametrize(
        ("live", "message"),
        [
            ({"sha256": "00"}, "differs from the one rebuilt"),
            ({"count": 1}, "differs from the one rebuilt"),
            ({"offset": 11}, "ahead of what is committed"),
        ],
    )
    def test_a_table_that_differs_is_a_violation(self, live: dict[str, Any], message: str) -> None:
        findings = check_tables([(self.live(**live), Rebuilt(self.VALUES, 10))], quiet=True)
        assert [message in each.message for each in findings.violations] == [True]

    def test_a_marker_at_the_end_excuses_nothing(self) -> None:
        findings = check_tables([(self.live(sha256="00"), Rebuilt(self.VALUES, 11))], quiet=True)
        assert len(findings.violations) == 1

    def test_a_table_behind_its_changelog_is_unverifiable_when_it_differs(self) -> None:
        table = (self.live(sha256="00"), Rebuilt(self.VALUES, 12, is_behind=True))
        findings = check_tables([table], quiet=False)
        assert findings.violations == []
        assert len(findings.unverifiable) == 1

    @pytest.mark.parametrize("standby", [False, True])
    @pytest.mark.parametrize("changed", [{}, {"sha256": "00"}])
    def test_a_table_behind_its_changelog_is_a_violation_when_nothing_moves(
        self, standby: bool, changed: dict[str, Any]
    ) -> None:
        table = (self.live(standby=standby, **changed), Rebuilt(self.VALUES, 12, is_behind=True))
        (found,) = check_tables([table], quiet=True).violations
        assert "behind its changelog though nothing moves" in found.message
        assert check_tables([table], quiet=False).violations == []

    def test_an_owner_that_does_not_know_yet_of_its_successor_may_be_behind(self) -> None:
        before = (self.live(9), Rebuilt(self.VALUES, 10, is_behind=True))
        successor = (self.live(), Rebuilt(self.VALUES, 10))
        assert check_tables([before, successor], quiet=True) == Findings()

    def test_at_rest_standbys_get_some_time_to_catch_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = [[self.live(10), self.live(offset, standby=True)] for offset in (8, 9, 11, 12)]
        monkeypatch.setattr(checker.live, "fetch_live", lambda _: answers.pop(0))
        monkeypatch.setattr(checker.live, "LOOK_AGAIN_S", 0)
        assert fetch_resting([])[1].offset == 11
        answers = [[self.live(10), self.live(8, standby=True)]]
        monkeypatch.setattr(checker.live, "STANDBYS_S_MAX", 0)
        assert fetch_resting([])[1].offset == 8

    def test_the_state_of_a_worker_is_read(self) -> None:
        body = msgspec.json.encode({"tables": [msgspec.to_builtins(self.live()) | {"standby": True}]})
        assert parse_state(body) == [self.live()]

    def test_the_standbys_of_a_worker_are_read_and_judged_alike(self) -> None:
        fields = msgspec.to_builtins(self.live(sha256="00"))
        (live,) = parse_state(msgspec.json.encode({"tables": [], "standbys": [fields]}))
        assert live.standby
        (found,) = check_tables([(live, Rebuilt(self.VALUES, 11))], quiet=True).violations
        assert found.ids[0].startswith("standby of risk-positions-changelog/3")


FATES = (
    "trade",
    "part",
    "cancel",
    "expire",
    "venue refuses",
    "bar",
    "withhold",
    "refuse",
    "repeat",
    "garbage",
    "open",
    "tick",
    "ask cancel",
    "ask open",
    "crossed",
    "refuse requests",
    "replace",
    "replace open",
)
steps = st.tuples(
    st.sampled_from(FATES), st.sampled_from(["a", "b"]), st.sampled_from(list(Side)), st.integers(1, 50)
)


def live(world: World, fate: str, account_id: str, side: Side, lots: int) -> None:
    """Let one order meet its fate, or the market move."""
    if fate == "tick":
        world.tick(PRICE_TICKS + lots)
        return
    if fate == "garbage":
        world.bury(world.log_garbage(account_id.encode()), key=account_id.encode())
        return
    price_ticks = PRICE_TICKS + 10 * (side is Side.SELL)  # an account does not meet itself
    order = world.receive(account_id, side=side, quantity_lots=lots, price_ticks=price_ticks)
    if fate in ("refuse", "repeat"):
        world.refuse(order)
        if fate == "repeat":
            world.refuse(order, "duplicate_order_id", world.log_order(order))
        return
    world.approve(order)
    if fate == "bar":
        world.bar(order)
        return
    world.clear(order)
    if fate == "withhold":
        world.withhold(order)
        return
    world.send(order)
    if fate == "venue refuses":
        world.venue_refuse(order)
        return
    world.acknowledge(order)
    if fate in ("part", "open") and lots > 1:
        world.fill(order, lots // 2)
    match fate:
        case "trade":
            world.fill(order)
        case "cancel" | "part":
            world.cancel(order)
        case "expire":
            world.expire(order)
        case "ask cancel" | "replace" | "replace open" | "crossed" | "refuse requests" | "ask open":
            ask(world, fate, order, lots)


def ask(world: World, fate: str, order: Order, lots: int) -> None:
    """Let a resting order be cancelled or replaced, or what is asked of it be refused."""
    if lots > 1:
        world.fill(order, lots // 2)
    if fate == "ask cancel":
        world.cancel(order, world.asked(world.ask_cancel(order)).venue_id)
        return
    if fate == "refuse requests":
        world.refuse_request(world.ask_cancel(order, order_id="nobody-1"), "unknown_order")
        world.refuse_request(world.ask_replace(order), "order_too_large")
        barred: Any = world.let(world.ask_replace(order))
        world.bar_replace(barred)
        world.expire(order)
        return
    let = world.asked(
        world.ask_replace(order, quantity_lots=max(1, 50 - lots), price_ticks=order.price_ticks + 1)
    )
    if fate == "ask open":
        world.asked(world.ask_cancel(order))
    elif fate == "crossed":
        cancel = world.asked(world.ask_cancel(order))
        world.fill(order)
        world.reject_request(let)
        world.reject_request(cancel)
    else:
        world.replace(let)
        if fate == "replace" and order.order_id in world.open_lots:
            world.fill(order)


@given(st.lists(steps, max_size=30))
def test_no_legal_history_has_a_violation(lives: list[tuple[str, str, Side, int]]) -> None:
    world = World()
    for step in lives:
        live(world, *step)
    resting = any(fate.endswith("open") for fate, *_ in lives)
    world.write_books()
    found = {each.invariant for each in world.violations()}
    assert found <= ({"I1", "I5"} if resting else set())  # an order that rests has not ended yet
    world.log.ended = False
    assert world.findings() == Findings()
    moving(world)
    assert world.violations() == []


@given(st.lists(steps, max_size=30))
def test_the_services_own_tables_are_no_violation(lives: list[tuple[str, str, Side, int]]) -> None:
    world = World()
    for step in lives:
        live(world, *step)
    world.write_books()
    write_compliance(world)
    write_exchange(world)
    write_risk(world)
    traces = trace(world.log)
    assert check_standing(world.log, traces, world.commanded) == Findings()
    assert check_positions(world.log, traces, world.shared.reference) == Findings()


def test_the_services_own_tables_of_cancels_and_replaces_are_no_violation() -> None:
    world = World()
    asking_for_much(world)
    for left in ("ask open", "open", "replace open"):
        live(world, left, "a", Side.BUY, 3)
    world.write_books()
    write_compliance(world)
    write_exchange(world)
    write_risk(world)
    world.log.ended = False
    assert world.violations() == []


class ARecord(NamedTuple):
    """A record as a consumer gives it."""

    value: bytes | None
    key: bytes | None = b"acc"
    headers: tuple[tuple[str, bytes], ...] = (("event-type", b"OrderReceived"), ("schema-version", b"1"))
    topic: str = "orders"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    in_transaction: bool = True


def a_letter(origin: ARecord, **more: bytes) -> ARecord:
    """The dead letter that risk makes of a record."""
    told = {"service": b"risk", "topic": b"orders", "partition": b"0", "offset": b"%d" % origin.offset} | more
    own = ((f"dead-letter-{name.replace('_', '-')}", text) for name, text in told.items())
    return origin._replace(topic="dead-letters", offset=0, headers=(*origin.headers, *own))


ONE_EACH: dict[str, int] = defaultdict(lambda: 1)
"""So many partitions has each topic."""

ORDER_BYTES = msgspec.json.encode(World().receive())


class TestReading:
    def test_the_structs_have_the_fields_of_the_models(self) -> None:
        pairs = {
            name: getattr(module, name)
            for module in (models.commands, models.events)
            for name, struct in vars(records).items()
            if isinstance(struct, type) and issubclass(struct, Event) and name in vars(module)
        }
        pairs |= {"Order": models.events.OrderReceived, "Limits": models.commands.SetRiskLimits}
        assert len(pairs) == 45
        for name, model in pairs.items():
            struct = getattr(records, name)
            assert set(struct.__struct_fields__) == set(model.model_fields), name
            required = {name for name, field in model.model_fields.items() if field.is_required()}
            defaults = len(struct.__struct_fields__) - len(required)
            assert set(struct.__struct_fields__[: len(required)]) == required, name
            assert len(struct.__struct_defaults__) == defaults, name

    @pytest.mark.parametrize(
        ("account", "sequence", "understood"),
        [
            ("a" * 256, 2**63 - 1, True),
            ("a" * 257, 1, False),
            ("", 1, False),
            ("acc", 2**63, False),
            ("acc", 0, False),
        ],
    )
    def test_an_order_is_understood_within_the_bounds_of_the_services(
        self, account: str, sequence: int, understood: bool
    ) -> None:
        names = {"account_id": account, "sequence": sequence, "order_id": f"{account}-{sequence}"}
        value = msgspec.json.encode(msgspec.json.decode(ORDER_BYTES) | names)

        order = read_order(account.encode(), value, ARecord(b"").headers).event

        assert (order is not None) is understood

    def test_decisions_and_reports_are_the_whole_of_their_topics(self) -> None:
        assert [each.__name__ for each in get_args(records.RiskDecision)] == [
            "OrderRiskApproved",
            "OrderRiskRejected",
        ]
        assert issubclass(OrderAcknowledged, records.VenueReport)
        assert OrderComplianceRejected in get_args(records.ComplianceDecision)

    def test_a_sound_order_is_read(self) -> None:
        order, strict, unknown = read_order(b"acc", ORDER_BYTES, ARecord(b"").headers)
        assert isinstance(order, Order)
        assert strict
        assert unknown == ()

    @pytest.mark.parametrize("lots", [b'"quantity_lots":10', b'"quantity_lots":"10"'])
    def test_what_nobody_knows_of_an_order_is_named(self, lots: bytes) -> None:
        value = ORDER_BYTES[:-1].replace(b'"quantity_lots":10', lots) + b',"stop_price":1,"expiry":{}}'
        order, strict, unknown = read_order(b"acc", value, ARecord(b"").headers)
        assert order == msgspec.json.decode(ORDER_BYTES, type=Order)
        assert strict == (b'"10"' not in lots)
        assert unknown == ("stop_price", "expiry")

    @pytest.mark.parametrize(
        "record",
        [
            ARecord(None),
            ARecord(b""),
            ARecord(b"\xff\xfe"),
            ARecord(b"[" * 100_000),
            ARecord(b"[" + ORDER_BYTES + b"]"),
            ARecord(ORDER_BYTES.replace(b'"buy"', b'"hold"')),
            ARecord(ORDER_BYTES.replace(b'"acc-1"', b'"acc-2"')),
            ARecord(ORDER_BYTES, key=None),
            ARecord(ORDER_BYTES, key=b"other"),
            ARecord(ORDER_BYTES, headers=()),
            ARecord(ORDER_BYTES, headers=(("event-type", b"OrderTeleported"), ("schema-version", b"1"))),
            ARecord(ORDER_BYTES, headers=(("event-type", b"OrderReceived"), ("schema-version", b"999"))),
        ],
    )
    def test_what_nobody_can_understand_is_no_order(self, record: ARecord) -> None:
        assert read_order(record.key, record.value, record.headers)[0] is None

    def test_numbers_as_text_are_understood_leniently(self) -> None:
        order, strict, _ = read_order(
            b"acc", ORDER_BYTES.replace(b'"quantity_lots":10', b'"quantity_lots":"10"'), ARecord(b"").headers
        )
        assert order == msgspec.json.decode(ORDER_BYTES, type=Order)
        assert not strict

    def test_the_last_value_of_a_key_counts_and_a_tombstone_removes(self) -> None:
        world = World()
        take = slice_takes(world.log)[records.POSITIONS_CHANGELOG]
        take([ARecord(b"1", b"a"), ARecord(b"2", b"b"), ARecord(b"3", b"a"), ARecord(None, b"b")])
        assert world.log.positions == {b"a": b"3"}

    @pytest.mark.parametrize("topic", BOOKS_READ)
    def test_every_book_that_is_read_is_taken_in(self, topic: str) -> None:
        world = World()
        slice_takes(world.log)[topic]([ARecord(b"1", b"a")])
        books = ("positions", "reservations", "risk_limits", "recent_orders", "intents", "sessions")
        tables = (*books, "open_orders", "controls", "sent", "requests")
        filled = [name for name in tables if getattr(world.log, name) == {b"a": b"1"}]
        assert [f"-{name}-changelog" in topic for name in filled] == [True]

    def test_the_highest_version_of_each_account_counts_where_it_stands(self) -> None:
        shared = Shared()
        limits = msgspec.structs.asdict(World().limit())

        def record(version: int, offset: int, **changed: Any) -> Raw:
            value = msgspec.json.encode(limits | {"version": version} | changed)
            headers = (("event-type", b"SetRiskLimits"), ("schema-version", b"1"))
            return ARecord(value, headers=headers, offset=offset)

        garbage = ARecord(b"{", offset=9)
        take = reference_takes(shared, ONE_EACH)[records.RISK_LIMITS]
        take([record(2, 5), record(3, 6), record(1, 7), record(4, 8, account_id="other"), garbage])
        assert shared.commanded == {0: Commanded({"acc": Wanted(3)}, last_offset=9)}
        assert shared.unusable == [
            Unusable(Origin("risk-limits", 0, 8), is_stray=False),
            Unusable(Origin("risk-limits", 0, 9), is_stray=False),
        ]

    def test_a_kill_switch_takes_under_an_old_version_and_a_tombstone_removes_all(self) -> None:
        shared = Shared()
        limits = msgspec.structs.asdict(World().limit())
        headers = (("event-type", b"SetRiskLimits"), ("schema-version", b"1"))

        def record(offset: int, **changed: Any) -> Raw:
            return ARecord(msgspec.json.encode(limits | changed), headers=headers, offset=offset)

        take = reference_takes(shared, ONE_EACH)[records.RISK_LIMITS]
        take([record(0, version=7), record(1, version=3, kill_switch=True)])
        assert shared.commanded[0].wanted == {"acc": Wanted(7, kill_switch=True)}
        take([record(2, version=7)])
        assert shared.commanded[0].wanted == {"acc": Wanted(7, kill_switch=True)}
        take([ARecord(None, offset=3)])
        assert shared.commanded[0].wanted == {"acc": None}
        assert shared.limits.removed == {"acc"}
        take([record(4, version=1)])
        assert shared.commanded[0].wanted == {"acc": Wanted(1)}

    def test_limits_that_only_a_lenient_reader_understands_count(self) -> None:
        shared = Shared()
        limits = World().limit()
        value = msgspec.json.encode(msgspec.structs.asdict(limits) | {"version": str(limits.version)})
        headers = (("event-type", b"SetRiskLimits"), ("schema-version", b"1"))
        take = reference_takes(shared, ONE_EACH)[records.RISK_LIMITS]
        take([ARecord(value, headers=headers[:1])])
        assert shared.commanded[0].wanted == {}  # the services ask for the schema's version
        take([ARecord(value, headers=headers)])
        assert shared.commanded[0].wanted == {"acc": Wanted(limits.version)}
        assert shared.limits.find("acc", limits.version) == limits

    def test_ticks_that_only_a_lenient_reader_understands_are_prices(self) -> None:
        shared = Shared()
        market_takes(shared, Ticks(), ONE_EACH)[records.MARKET_DATA]([a_tick(price_ticks="100")])
        assert shared.market.find("BTC-USD", 0, 1) == [(100, 5_000)]

    def test_of_several_event_types_the_last_counts(self) -> None:
        world = World()
        world.refuse(world.receive())
        event = world.log.risk[0].event
        wrong, right = ("event-type", b"OrderRiskApproved"), ("event-type", b"OrderRiskRejected")
        version = ("schema-version", b"1")
        take = slice_takes(history := World().log)[records.RISK_DECISIONS]
        orders = ((wrong, right, version), (right, wrong, version))
        take([ARecord(msgspec.json.encode(event), headers=each) for each in orders])
        assert [each.event for each in history.risk] == [event, None]

    def read_risk(self, *in_transactions: bool, **changed: Any) -> World:
        """A world whose one decision stands in the log so often, the last time with changes."""
        world = World()
        world.traded()
        event = world.log.risk.pop().event
        assert event is not None
        headers = (
            ("event-type", b"OrderRiskApproved"),
            ("schema-version", b"1"),
            ("event-id", b"acc-1:risk:0"),
        )
        values = [event] * (len(in_transactions) - 1) + [replace(event, **changed)]
        take = slice_takes(world.log)[records.RISK_DECISIONS]
        for offset, (value, ours) in enumerate(zip(values, in_transactions, strict=True)):
            record = ARecord(msgspec.json.encode(value), headers=headers, offset=offset)
            take([record._replace(in_transaction=ours, timestamp=world.now_ms)])
        world.write_books()
        return world

    def test_an_exact_repeat_by_somebody_else_changes_nothing(self) -> None:
        world = self.read_risk(True, False, False)
        assert (len(world.log.risk), world.log.repeats) == (1, 2)
        assert world.violations() == []

    def test_a_service_s_own_double_is_a_violation(self) -> None:
        """It has the very bytes of the first, ids and all, and came in a transaction."""
        world = self.read_risk(True, True)
        assert world.log.repeats == 0
        assert "risk has decided an order more than once" in {each.message for each in world.violations()}

    def test_what_somebody_else_says_otherwise_is_a_violation(self) -> None:
        world = self.read_risk(True, False, limits_version=2)
        assert world.log.repeats == 0
        assert "risk has decided an order more than once" in {each.message for each in world.violations()}

    @pytest.mark.parametrize("topic", [records.COMPLIANCE_DECISIONS, records.EXECUTIONS])
    def test_repeats_are_told_on_every_topic_of_an_order_s_way(self, topic: str) -> None:
        world = World()
        world.traded()
        logs: dict[str, list[Any]] = {
            records.COMPLIANCE_DECISIONS: cast(Any, world.log.compliance),
            records.EXECUTIONS: cast(Any, world.log.executions),
        }
        log = logs[topic]
        told = [(type(each.event).__name__, msgspec.json.encode(each.event)) for each in log]
        log.clear()
        take = slice_takes(world.log)[topic]
        for ours in (True, False):
            for name, value in told:
                headers = (("event-type", name.encode()), ("schema-version", b"1"))
                take([ARecord(value, headers=headers, in_transaction=ours, offset=len(log))])
        assert (len(log), world.log.repeats) == (len(told), len(told))

    def test_an_unknown_field_between_services_is_ignored(self) -> None:
        world = World()
        world.traded()
        event = msgspec.to_builtins(world.log.risk[0].event)
        value = msgspec.json.encode(event | {"new": 1, "order": event["order"] | {"newer": 2}})
        headers = (("event-type", b"OrderRiskApproved"), ("schema-version", b"1"))
        take = slice_takes(history := World().log)[records.RISK_DECISIONS]
        take([ARecord(value, headers=headers)])
        assert history.risk[0].event == world.log.risk[0].event

    def test_a_newer_version_is_refused_and_an_older_one_is_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World()
        world.traded()
        event = world.log.risk[0].event
        headers = [(("event-type", b"OrderRiskApproved"), ("schema-version", b"%d" % n)) for n in (1, 2)]
        take = slice_takes(history := World().log)[records.RISK_DECISIONS]
        old, new = (ARecord(msgspec.json.encode(event), headers=each) for each in headers)
        with pytest.raises(
            CheckerError, match="version 2 was written by a newer release; this build knows up to 1"
        ):
            take([new])
        renamed = msgspec.json.encode(event).replace(b'"limits_version"', b'"limits"')
        contract = Contract(
            "OrderRiskApproved",
            models.events.OrderRiskApproved,
            upcasts=(lambda fields: {**fields, "limits_version": fields["limits"]},),
        )
        monkeypatch.setitem(cast(dict[str, Any], CONTRACTS), "OrderRiskApproved", contract)
        take([new, old._replace(value=renamed)])
        assert [each.event for each in history.risk] == [event, event]

    def test_a_key_on_another_partition_is_a_stray(self) -> None:
        history = Slice(hash_of(b"acc") % 8 ^ 1, 8)
        slice_takes(history)[records.ORDERS]([ARecord(ORDER_BYTES)])
        assert history.strays == {"orders": {0: "acc-1"}}
        assert history.orders[0].event is None
        history = Slice(hash_of(b"acc") % 8, 8)
        slice_takes(history)[records.ORDERS]([ARecord(ORDER_BYTES)])
        assert history.strays == {}
        assert history.orders[0].event is not None

    def test_the_first_intent_tells_when_an_order_could_leave(self) -> None:
        take = slice_takes(history := World().log)[records.INTENTS_CHANGELOG]
        pending, acknowledged = b'{"state":"pending"}', b'{"state":"acknowledged"}'
        take([ARecord(acknowledged, b"late", timestamp=3), ARecord(pending, b"k", timestamp=5)])
        take([ARecord(pending, b"k", timestamp=7), ARecord(b"{", b"bad"), ARecord(None, b"k", timestamp=9)])
        assert history.intended_at_ms == {b"k": 5}
        assert history.intents == {b"late": acknowledged, b"bad": b"{"}

    def test_what_a_compacted_topic_says_of_a_key_may_be_unreadable(self) -> None:
        shared = Shared()
        take = reference_takes(shared, ONE_EACH)[records.HALTS]
        headers = (("event-type", b"HaltInForce"), ("schema-version", b"1"))
        halt = msgspec.json.encode(records.HaltInForce("acc", True, 1))
        take([ARecord(halt, b"acc", headers, timestamp=1), ARecord(b"{", b"acc", headers, timestamp=2)])
        take([ARecord(halt, b"*", headers, timestamp=3), ARecord(None, b"*", headers, timestamp=4)])
        kinds = [type(each).__name__ for each in shared.reference.halts.between("acc", 0, 9)]
        assert kinds == ["NoneType", "HaltInForce", "Unreadable", "Unreadable"]  # and one under a wrong key
        assert [type(each).__name__ for each in shared.reference.halts.between("*", 3, 4)] == [
            "Unreadable",
            "Unreadable",
        ], "nothing is ever removed from it"

    def test_a_stray_in_a_compacted_topic_makes_its_key_unreadable(self) -> None:
        shared = Shared()
        take = reference_takes(shared, defaultdict(lambda: 8))[records.HALTS]
        headers = (("event-type", b"HaltInForce"), ("schema-version", b"1"))
        halt = msgspec.json.encode(records.HaltInForce("acc", False, 1))
        home = hash_of(b"acc") % 8
        take(
            [
                ARecord(halt, b"acc", headers, partition=home),
                ARecord(halt, b"acc", headers, partition=home ^ 1),
            ]
        )
        assert isinstance(shared.reference.halts.last("acc"), Unreadable)

    def test_a_dead_letter_of_a_report_of_the_venue_is_read(self) -> None:
        told = {
            "service": b"exchange",
            "source": b"venue/94/7",
            "timestamp": b"1",
            "error": b"ReportRefused: x",
        }
        headers = tuple((f"dead-letter-{name}", text) for name, text in told.items())
        letter = ARecord(b'{"order_id":"acc-1"}', topic="dead-letters", headers=(("x", b"1"), *headers))
        assert read_letter(letter) == VenueLetter(0, 94, 7, b'{"order_id":"acc-1"}')
        nowhere = tuple((name, text.replace(b"/", b"?")) for name, text in headers)
        assert read_letter(letter._replace(headers=nowhere)) is None

    def test_a_dead_letter_tells_what_was_wrong(self) -> None:
        letter = read_letter(a_letter(ARecord(b""), error=b"WrongPartition: the key belongs to 3"))
        assert isinstance(letter, DeadLetter)
        assert letter.is_wrong_partition

    def test_a_dead_letter_has_the_digest_of_its_origin(self) -> None:
        origin = ARecord(b"\xff", headers=(("x", b"1"),), offset=7)
        letter = read_letter(a_letter(origin))
        assert isinstance(letter, DeadLetter)
        assert (letter.origin, letter.digest) == (Origin("orders", 0, 7), digest_of(origin))
        assert digest_of(origin._replace(headers=())) != letter.digest

    @pytest.mark.parametrize(
        "forged",
        [
            [("dead-letter-held-behind", None)],
            [("dead-letter-held-behind", b"garbage")],
            [("dead-letter-held-behind", b"orders/0/3")],
            [("dead-letter-offset", b"8"), ("dead-letter-service", b"exchange")],
            a_letter(ARecord(b"\xff", headers=(), offset=3)).headers,
        ],
    )
    def test_headers_of_the_original_are_not_taken_for_the_service_s(self, forged: Any) -> None:
        origin = ARecord(b"\xff", headers=(("x", b"1"), *forged), offset=7)
        letter = read_letter(a_letter(origin))
        assert letter == DeadLetter(0, "risk", Origin("orders", 0, 7), None, b"acc", digest_of(origin))
        assert digest_of(origin._replace(headers=origin.headers[:1])) != letter.digest
        held = read_letter(a_letter(origin, held_behind=b"orders/0/5"))
        assert isinstance(held, DeadLetter)
        assert held.behind == Origin("orders", 0, 5)

    def test_headers_of_the_original_are_no_letter(self) -> None:
        record = a_letter(ARecord(b"\xff"))
        for name in ("topic", "partition", "offset", "service"):
            headers = [pair for pair in record.headers if pair[0] != f"dead-letter-{name}"]
            for each in (headers, [*headers, (f"dead-letter-{name}", None)]):
                assert read_letter(record._replace(headers=cast(Any, tuple(each)))) is None

    def test_a_dead_letter_without_origin_is_a_violation(self) -> None:
        world = World()
        findings = world.findings()
        letters_into([], [], findings)([ARecord(b"", topic="dead-letters")])
        assert [each.invariant for each in findings.violations] == ["I5"]


def unpacked(data: bytes, *aborted: tuple[int, int]) -> list[Any]:
    """The committed records of a record set, as the checker's consumer unpacks them."""
    records = fetcher.MemoryRecords(data)
    return list(
        fetcher.PartitionRecords(
            log.TP("orders", 0), records, list(aborted), 0, None, None, False, fetcher.READ_COMMITTED
        )
    )


class TestLog:
    def a_batch(self, compression: int) -> bytes:
        """Two records, each with two headers, one of them with a name that is no text."""
        names: list[tuple[str, bytes | None]] = [("name-1", b"1"), ("fine", None)]
        data = bytearray(batch(4, [(4, b"k", b"v"), (6, None, None)], headers=names, producer=9, last=8))
        while (at := data.find(b"name-1")) >= 0:
            data[at] = 0xFF
        if compression:
            data[61:] = gzip.compress(bytes(data[61:]))
            data[22] |= compression
            data[8:12] = (len(data) - 12).to_bytes(4, "big")
        return seal(data)

    @pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
    def test_a_header_whose_name_is_no_text_keeps_no_record_out(self, compression: int) -> None:
        records = unpacked(plain(3) + self.a_batch(compression) + marker(9, 9, commit=True) + plain(10))
        assert [(each.offset, each.timestamp, each.key, each.value) for each in records] == [
            (3, 1003, b"k3", b"v3"),
            (4, 1004, b"k", b"v"),
            (6, 1006, None, None),
            (10, 1010, b"k10", b"v10"),
        ]
        assert records[1].headers == (("\\xffame-1", b"1"), ("fine", None))

    def test_a_record_tells_whether_it_came_in_a_transaction(self) -> None:
        data = plain(3) + self.a_batch(0) + marker(9, 9, commit=True) + plain(10)
        assert [each.in_transaction for each in unpacked(data)] == [False, True, True, False]

    def test_what_is_aborted_stays_out(self) -> None:
        data = self.a_batch(0) + marker(9, 9, commit=False) + in_transaction(9, 10)
        assert [each.offset for each in unpacked(data, (9, 4))] == [10]


class TestShards:
    @given(st.binary(max_size=40))
    def test_the_hash_is_kafka_s(self, key: bytes) -> None:
        assert hash_of(key) == murmur2(key) & 0x7FFFFFFF

    @given(st.binary(max_size=20), st.sampled_from([1, 2, 8, 64, 256]))
    def test_a_shard_stands_on_the_partition_that_it_leaves_as_the_rest(self, key: bytes, count: int) -> None:
        places = [number for number in range(count) if not is_elsewhere(key, number, count)]
        assert places == [shard_of(key) % count]

    def test_nothing_belongs_anywhere_without_a_key(self) -> None:
        assert not is_elsewhere(None, 3, 8)


class TestLedger:
    def test_a_partition_has_the_sessions_that_leave_it_as_the_rest(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.sqlite"
        with sqlite3.connect(path) as db:
            db.execute(
                "CREATE TABLE orders (client_order_id, account_id, symbol, side, quantity_lots, price_ticks, "
                "time_in_force, filled_lots, status, receipts, session, arrival)"
            )
            db.execute("CREATE TABLE reports (session, venue_sequence, type, body)")
            db.execute(
                "CREATE TABLE trades (trade_id, client_order_id, quantity_lots, price_ticks, session, "
                "venue_sequence, traded_at_ms, trade_date, fee_micros, fee_currency, counterparty, liquidity)"
            )
            db.execute(
                "CREATE TABLE requests (request_id, session, account_id, order_id, kind, quantity_lots, "
                "price_ticks, receipts, outcome)"
            )
            db.execute("CREATE TABLE counters (name, value)")
            db.execute("INSERT INTO counters VALUES ('numbered_before', 7), ('orders_taken', 9)")
            for session in (1, 9, 2):
                db.execute(
                    "INSERT INTO orders VALUES ('o', 'a', 's', 'buy', 1, 1, 'gtc', 0, 'open', 1, ?, 1)",
                    (session,),
                )
                db.execute("INSERT INTO reports VALUES (?, 1, 'Nothing', '{}')", (session,))
                db.execute(
                    "INSERT INTO trades VALUES "
                    "('t', 'o', 1, 1, ?, 1, 5, '2026-01-31', 2, 'USD', 'M', 'added')",
                    (session,),
                )
                db.execute(
                    "INSERT INTO requests VALUES ('a-c1', ?, 'a', 'o', 'cancel', NULL, NULL, 1, 'cancelled')",
                    (session,),
                )
        with LedgerFile(path) as ledger:
            part = ledger.part(1, 8)
            assert part.numbered_before == 7
            assert [each.session for each in part.orders] == [1, 9]
            assert [each.session for each in part.reports] == [1, 9]
            (trade, other) = part.trades
            assert (trade.session, other.session) == (1, 9)
            assert trade[6:] == (5, "2026-01-31", 2, "USD", "M", "added")
            assert ledger.sessions() == {1, 2, 9}
            (asked, other_asked) = part.requests
            assert (asked.session, other_asked.session) == (1, 9)
            assert asked.asked == ("a", "o", "cancel", None, None)
            assert (asked.receipts, asked.outcome) == (1, "cancelled")

    @pytest.mark.parametrize("version", [1, 2, 3])
    def test_a_ledger_of_the_release_before_is_refused(self, tmp_path: Path, version: int) -> None:
        path = tmp_path / "ledger.sqlite"
        with sqlite3.connect(path) as db:
            db.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(CheckerError, match=r"of the release before: check it with that"):
            LedgerFile(path)

    def test_a_session_is_a_key_shard(self) -> None:
        assert check_sessions([0, 255]) == Findings()
        (found,) = check_sessions([-1, 256]).violations
        assert "the venue has a session that is no key shard" in found.message
        assert found.ids == ("-1", "256")

    def test_what_the_venue_adds_is_ignored(self) -> None:
        report = OrderAcknowledged("o", "acc", "BTC-USD", Side.BUY, "V1", 1)
        fields = {"type": "OrderAcknowledged"} | msgspec.to_builtins(report) | {"liquidity": {"maker": True}}
        assert read_body("OrderAcknowledged", msgspec.json.encode(fields).decode()) == report

    def test_a_body_is_read_wherever_its_type_stands(self) -> None:
        report = OrderAcknowledged("o", "acc", "BTC-USD", Side.BUY, "V1", 1)
        fields = msgspec.to_builtins(report)
        for body in ({"type": "OrderAcknowledged"} | fields, fields | {"type": "OrderAcknowledged"}):
            assert read_body("OrderAcknowledged", msgspec.json.encode(body).decode()) == report

    @pytest.mark.parametrize("body", ["", "[]", "{}", '{"type":"TradeExecuted"}'])
    def test_a_body_nobody_can_read_is_none(self, body: str) -> None:
        assert read_body("OrderAcknowledged", body) is None

    def test_an_unreadable_report_is_a_violation(self) -> None:
        world = a_busy_world()
        world.ledger_reports[0] = LedgerReport(ACC, 1, None)
        assert "I2" in {each.invariant for each in world.violations()}

    def test_a_file_that_is_no_ledger_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckerError, match="can't be read as the venue's ledger"):
            LedgerFile(tmp_path / "nothing.sqlite")
        sqlite3.connect(tmp_path / "empty.sqlite").close()
        with pytest.raises(CheckerError):
            LedgerFile(tmp_path / "empty.sqlite")


class TestReport:
    def a_report(self, world: World) -> CheckResult:
        counts, traces = Counts(), trace(world.log)
        counts.add(world.log, traces, sort_intake(world.log, traces))
        findings = world.findings()
        latency_ms = percentiles(list(latencies_ms(traces)))
        return CheckResult(counts, findings.violations, findings.unverifiable, latency_ms)

    def test_every_record_is_counted_in_one_set(self) -> None:
        counts = self.a_report(a_busy_world()).counts
        assert counts.orders == counts.terminal + counts.dead_letters + counts.held + counts.in_flight
        assert (counts.orders, counts.approved, counts.executed, counts.fills) == (12, 6, 3, 4)
        assert (counts.dead_letters, counts.held, counts.in_flight) == (3, 1, 0)
        assert counts.rejected == {
            "duplicate_order_id": 1,
            "market_closed": 1,
            "position_limit": 1,
            "self_match": 1,
        }

    def test_latency_ends_with_the_first_execution_or_rejection(self) -> None:
        world = World()
        world.traded()
        world.refuse(world.receive())
        assert list(latencies_ms(trace(world.log))) == [3, 1]

    def test_a_clean_report_gives_0_and_violations_give_1(self) -> None:
        world = a_busy_world()
        assert self.a_report(world).exit_status == 0
        assert "every invariant holds" in self.a_report(world).to_text()
        for _ in range(30):
            world.receive()
        report = self.a_report(world)
        assert report.exit_status == 1
        assert "VIOLATION I1: an order was never decided by risk: acc-13, " in report.to_text()
        assert "and 10 more" in report.to_text()
        assert report.to_json()["violations"][0]["count"] == 30

    def test_a_report_is_json(self) -> None:
        assert (
            msgspec.json.decode(msgspec.json.encode(self.a_report(a_busy_world()).to_json()))["orders"] == 12
        )

    def test_percentiles_of_nothing_are_none(self) -> None:
        assert percentiles([]) == {"p50": None, "p99": None}
        assert percentiles(list(range(100))) == {"p50": 50, "p99": 99}
