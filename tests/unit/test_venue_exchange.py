"""The venue's exchange and its ledger: memory is always what the ledger says, also after a failed write."""

import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.values import Side, TimeInForce
from tests.builders import an_instrument
from venue.book import Cancel, Market, Order, Replace, Request
from venue.exchange import Exchange
from venue.ledger import Ledger
from venue.requests import MarketTick
from venue.terms import Rules

BTC = "BTC-USD"
LISTED = {BTC: an_instrument(), "ETH-USD": an_instrument(symbol="ETH-USD")}
LAST = 1_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def an_order(order_id: str, side: Side = Side.BUY, account_id: str = "alice", session: int = 0) -> Order:
    return Order(order_id, account_id, session, BTC, side, 5, LAST, TimeInForce.GTC)


def a_cancel(request_id: str, order_id: str, account_id: str = "alice", session: int = 0) -> Request:
    return Cancel(session, request_id, account_id, order_id, BTC, Side.BUY)


def a_replace(request_id: str, order_id: str, quantity_lots: int, price_ticks: int = LAST) -> Request:
    return Replace(0, request_id, "alice", order_id, BTC, Side.BUY, quantity_lots, price_ticks)


def a_tick(sequence: int, price_ticks: int = LAST, quantity_lots: int = 0) -> MarketTick:
    return MarketTick(BTC, sequence, price_ticks, quantity_lots, 1, 1)


def state(market: Market) -> object:
    return (
        market.numbers,
        [(book.price_ticks, book.tick, book.liquidity_lots, book.is_open) for book in market.books.values()],
        [
            [getattr(order, name) for name in Order.__slots__]
            for book in market.books.values()
            for order in book.orders()
        ],
    )


def seeded_orders(chance: random.Random, count: int, first: int) -> list[Order]:
    return [
        Order(
            f"o{first + n}",
            f"account-{chance.randint(1, 4)}",
            chance.randint(0, 3),
            BTC,
            chance.choice([*Side]),
            chance.randint(1, 9),
            LAST + chance.randint(-9, 9),
            chance.choice([*TimeInForce]),
        )
        for n in range(count)
    ]


def seeded_requests(chance: random.Random, orders: list[Order], first: int) -> list[Request]:
    """About recent orders: whether they rest, and whose they are, is not asked."""
    requests: list[Request] = []
    for number in range(first, first + 10):
        named = chance.choice(orders[-40:])
        fields = (named.session, f"r{number}", named.account_id, named.order_id, BTC, named.side)
        if chance.random() < 0.5:
            requests.append(Cancel(*fields))
        else:
            requests.append(Replace(*fields, chance.randint(1, 9), LAST + chance.randint(-9, 9)))
    return requests


def reports(exchange: Exchange, session: int = 0, after: int = 0) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in exchange.reports_after(session, after, 1_000)]


def rows(tmp_path: Path, query: str) -> list[Any]:
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        return other.execute(query).fetchall()


def test_what_the_ledger_gives_back_is_what_was_in_memory(ledger: Ledger) -> None:
    chance = random.Random(7)
    exchange = Exchange(ledger, LISTED)
    taken: list[Order] = []
    for step in range(150):
        ticks = [a_tick(3 * step + n, LAST + chance.randint(-5, 5), chance.randint(0, 9)) for n in (1, 2, 3)]
        exchange.move_market(ticks)
        taken += seeded_orders(chance, 20, first=20 * step)
        exchange.submit(taken[-20:])
        exchange.ask(seeded_requests(chance, taken, first=10 * step))
        if step % 40 == 39:
            exchange.close_market()
        live = exchange._current()
        assert state(ledger.load_market(LISTED)) == state(live.market)
        assert ledger.load_sequences() == live.sequences


@pytest.mark.parametrize("write", ["save_orders", "add_reports", "add_trades", "save_prices"])
def test_a_write_that_fails_undoes_the_whole_call_and_the_next_goes_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    told: list[int] = []
    exchange = Exchange(ledger, LISTED, on_reports=told.append)
    exchange.move_market([a_tick(1)])
    exchange.submit([an_order("rest", Side.SELL, "bob")])
    before = state(ledger.load_market(LISTED))
    told.clear()

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(ledger, write, fail)
        with pytest.raises(sqlite3.OperationalError):
            exchange.submit([an_order("in")])

    assert told == []
    assert exchange.known(["rest", "in"]) == ["rest"]
    assert state(exchange._current().market) == before
    assert exchange.submit([an_order("in")]).accepted == ["in"]
    assert [sequence for sequence, _ in exchange.reports_after(0, 0, 10)] == [1, 2, 3, 4]


@pytest.mark.parametrize("write", ["save_orders", "add_requests", "count_repeated_requests"])
def test_a_request_whose_write_fails_is_not_taken(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    exchange = Exchange(ledger, LISTED)
    exchange.move_market([a_tick(1)])
    exchange.submit([an_order("rest")])

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(ledger, write, fail)
        with pytest.raises(sqlite3.OperationalError):
            exchange.ask([a_cancel("c1", "rest")])

    assert exchange.known_requests(["c1"]) == []
    assert exchange.ask([a_cancel("c1", "rest")]).accepted == ["c1"]
    assert [each["type"] for each in reports(exchange)] == ["OrderAcknowledged", "OrderCancelled"]


def test_each_request_is_answered_once_and_the_ledger_has_what_became_of_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    exchange = Exchange(ledger, LISTED)
    exchange.move_market([a_tick(1)])
    exchange.submit([an_order("a"), an_order("b"), an_order("other", account_id="bob", session=4)])
    requests = [
        a_replace("r1", "a", 3),
        a_replace("r2", "a", 8, LAST - 1),
        a_cancel("c1", "a"),
        a_cancel("c2", "a"),
        a_replace("r3", "b", 5, 9 * LAST),
        a_cancel("c3", "other"),
        a_cancel("c4", "none", session=2),
        a_cancel("c1", "b"),
    ]
    assert exchange.ask(requests) == (["r1", "r2", "c1", "c2", "r3", "c3", "c4"], ["c1"])
    assert exchange.ask(requests).accepted == []

    assert [
        (each["type"], each["request_id"], each.get("reason")) for each in reports(exchange, after=2)
    ] == [
        ("OrderReplaced", "r1", None),
        ("OrderReplaced", "r2", None),
        ("OrderCancelled", "c1", None),
        ("CancelRejected", "c2", "order_ended"),
        ("ReplaceRejected", "r3", "price_out_of_band"),
        ("CancelRejected", "c3", "unknown_order"),
    ]
    assert reports(exchange, session=2) == [
        {
            "type": "CancelRejected",
            "order_id": "none",
            "account_id": "alice",
            "symbol": BTC,
            "side": "buy",
            "venue_order_id": "",
            "venue_sequence": 1,
            "request_id": "c4",
            "reason": "unknown_order",
        }
    ]
    columns = "request_id, session, account_id, order_id, kind, quantity_lots, price_ticks, receipts, outcome"
    assert rows(tmp_path, f"SELECT {columns} FROM requests ORDER BY request_id") == [
        ("c1", 0, "alice", "a", "cancel", None, None, 4, "cancelled"),
        ("c2", 0, "alice", "a", "cancel", None, None, 2, "order_ended"),
        ("c3", 0, "alice", "other", "cancel", None, None, 2, "unknown_order"),
        ("c4", 2, "alice", "none", "cancel", None, None, 2, "unknown_order"),
        ("r1", 0, "alice", "a", "replace", 3, LAST, 2, "replaced"),
        ("r2", 0, "alice", "a", "replace", 8, LAST - 1, 2, "replaced"),
        ("r3", 0, "alice", "b", "replace", 5, 9 * LAST, 2, "price_out_of_band"),
    ]
    kept = "SELECT client_order_id, quantity_lots, price_ticks, status, venue_order_id, priority FROM orders"
    assert rows(tmp_path, f"{kept} ORDER BY arrival") == [
        ("a", 8, LAST - 1, "cancelled", "V1", 4),
        ("b", 5, LAST, "open", "V2", 2),
        ("other", 5, LAST, "open", "V3", 3),
    ]


def test_a_place_in_time_outlives_the_process(ledger: Ledger) -> None:
    before = Exchange(ledger, LISTED)
    before.move_market([a_tick(1)])
    before.submit([an_order(name) for name in ("moves", "stays", "shrinks")])
    before.ask([a_replace("r1", "moves", 6), a_replace("r2", "shrinks", 4)])
    after = Exchange(ledger, LISTED)
    after.submit([an_order("new")])
    after.move_market([a_tick(2, quantity_lots=100)])
    filled = [each for each in reports(after) if each["type"] == "TradeExecuted"]
    assert [(each["order_id"], each["quantity_lots"], each["venue_order_id"]) for each in filled] == [
        ("stays", 5, "V2"),
        ("shrinks", 4, "V3"),
        ("moves", 6, "V1"),
        ("new", 5, "V4"),
    ]


def test_a_replace_that_matches_is_reported_before_its_fills(ledger: Ledger, tmp_path: Path) -> None:
    exchange = Exchange(ledger, LISTED)
    exchange.move_market([a_tick(1)])
    exchange.submit([an_order("ask", Side.SELL, "bob", session=1)])
    exchange.submit([Order("bid", "alice", 0, BTC, Side.BUY, 5, LAST - 5, TimeInForce.GTC)])
    exchange.ask([a_replace("r1", "bid", 4, LAST)])
    assert [(each["type"], each.get("leaves_lots")) for each in reports(exchange, after=1)] == [
        ("OrderReplaced", 4),
        ("TradeExecuted", 0),
    ]
    assert [each.get("leaves_lots") for each in reports(exchange, session=1)] == [None, 1]
    found = "SELECT client_order_id, quantity_lots, price_ticks, filled_lots, status FROM orders"
    assert sorted(rows(tmp_path, found)) == [("ask", 5, LAST, 4, "open"), ("bid", 4, LAST, 4, "filled")]


def test_orders_that_come_to_rest_may_be_cancelled_unasked(ledger: Ledger) -> None:
    exchange = Exchange(ledger, LISTED)
    exchange.move_market([a_tick(1, quantity_lots=5)])
    left = [True, False]
    orders = [an_order(name) for name in ("filled", "cancelled", "rests")]
    exchange.submit(orders, cancels_next=lambda: left.pop(0))
    cancelled = [each for each in reports(exchange) if each["type"] == "OrderCancelled"]
    assert [(each["order_id"], each["cancelled_lots"], each["request_id"]) for each in cancelled] == [
        ("cancelled", 5, None)
    ]
    exchange.ask([a_cancel("c1", "cancelled")])
    assert reports(exchange)[-1]["reason"] == "order_ended"


def test_what_rests_in_an_unlisted_symbol_can_be_cancelled_and_not_replaced(ledger: Ledger) -> None:
    before = Exchange(ledger, LISTED)
    before.move_market([a_tick(1)])
    before.submit([an_order("rest")])
    after = Exchange(ledger, {"ETH-USD": LISTED["ETH-USD"]})
    after.ask([a_replace("r1", "rest", 4), a_cancel("c1", "rest")])
    assert [(each["type"], each.get("reason")) for each in reports(after, after=1)] == [
        ("ReplaceRejected", "unknown_symbol"),
        ("OrderCancelled", None),
    ]


def test_reports_are_told_once_a_session_and_are_committed_by_then(ledger: Ledger, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(session: int) -> None:
        with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
            query = "SELECT count(*) FROM reports WHERE session = ?"
            seen.append((session, other.execute(query, (session,)).fetchone()[0]))

    exchange = Exchange(ledger, LISTED, on_reports=look)
    exchange.move_market([a_tick(1)])
    exchange.submit([an_order("a", session=1), an_order("b", session=2), an_order("c", session=1)])
    assert seen == [(1, 2), (2, 1)]


def test_what_rests_in_a_symbol_that_is_not_listed_any_more_stays_and_nothing_new_is_taken(
    ledger: Ledger,
) -> None:
    before = Exchange(ledger, LISTED)
    before.move_market([a_tick(1)])
    before.submit([an_order("rest")])

    after = Exchange(ledger, {"ETH-USD": LISTED["ETH-USD"]})
    assert after.knows(BTC)
    assert after.submit([an_order("late")]).accepted == ["late"]
    assert after.move_market([a_tick(2, LAST - 5, 9)]) == (0, 0, 1)
    reports = [json.loads(body) for _, body in after.reports_after(0, 0, 10)]
    assert [(each["type"], each["order_id"]) for each in reports] == [
        ("OrderAcknowledged", "rest"),
        ("VenueRejected", "late"),
    ]
    assert reports[1]["reason"] == "unknown_symbol"

    again = Exchange(ledger, LISTED)
    again.move_market([a_tick(2, LAST - 5, 9)])
    assert json.loads(again.reports_after(0, 2, 10)[0][1])["type"] == "TradeExecuted"


def test_an_unlisted_symbols_order_expires_with_the_others(ledger: Ledger) -> None:
    before = Exchange(ledger, LISTED)
    before.move_market([a_tick(1)])
    before.submit([an_order("rest")])
    assert Exchange(ledger, {}).close_market() == 1


def test_epochs_of_several_sessions_are_claimed_together_or_not_at_all(ledger: Ledger) -> None:
    exchange = Exchange(ledger, LISTED)
    assert exchange.claim({1: 5, 2: 5}) == {}
    assert exchange.claim({2: 6}) == {}
    assert exchange.claim({1: 7, 2: 5}) == {2: 6}
    assert exchange.claim({1: 6}) == {}
    assert ledger.load_epochs() == {1: 6, 2: 6}


AT_MS = 1_700_000_000_000
TERMS = ("traded_at_ms", "trade_date", "fee_micros", "fee_currency", "counterparty", "liquidity")


def told(exchange: Exchange, session: int = 0) -> list[tuple[object, ...]]:
    """The terms of the fills that are reported."""
    bodies = [json.loads(body) for _, body in exchange.reports_after(session, 0, 100)]
    return [tuple(each[name] for name in TERMS) for each in bodies if each["type"] == "TradeExecuted"]


def test_both_sides_of_a_match_and_fills_by_the_market_tell_their_terms(
    ledger: Ledger, tmp_path: Path
) -> None:
    rules = Rules(maker_bps=-1, taker_bps=2, clearing_house="the-house")
    exchange = Exchange(ledger, LISTED, rules=rules, clock_ms=lambda: AT_MS)
    exchange.move_market([a_tick(1)])
    exchange.submit([an_order("rest", Side.SELL, "bob", session=1), an_order("in", session=2)])
    exchange.submit([an_order("left", session=3)])
    exchange.move_market([a_tick(2, quantity_lots=7)])
    exchange.submit([an_order("takes", Side.BUY, "carol", session=4)])

    same = (AT_MS, "2023-11-14")
    assert told(exchange, 1) == [(*same, 0, "USD", "the-house", "added")]
    assert told(exchange, 2) == [(*same, 1, "USD", "the-house", "removed")]
    assert told(exchange, 3) == [(*same, 0, "USD", "MARKET", "added")]
    assert told(exchange, 4) == [(*same, 1, "USD", "MARKET", "removed")]
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        rows = other.execute(f"SELECT session, {', '.join(TERMS)} FROM trades").fetchall()
    assert sorted(rows) == [
        (session, *terms) for session in (1, 2, 3, 4) for terms in told(exchange, session)
    ]
