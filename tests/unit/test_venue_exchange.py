"""The venue's exchange and its ledger: memory is always what the ledger says, also after a failed write."""

import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.values import Side, TimeInForce
from tests.builders import an_instrument
from venue.book import Market, Order
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


def test_what_the_ledger_gives_back_is_what_was_in_memory(ledger: Ledger) -> None:
    chance = random.Random(7)
    exchange = Exchange(ledger, LISTED)
    for step in range(150):
        ticks = [a_tick(3 * step + n, LAST + chance.randint(-5, 5), chance.randint(0, 9)) for n in (1, 2, 3)]
        exchange.move_market(ticks)
        exchange.submit(seeded_orders(chance, 20, first=20 * step))
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
