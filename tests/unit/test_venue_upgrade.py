"""A ledger of the release before: its sessions become key shards, and an account's numbers only grow."""

import json
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from app.engine import shard_of
from models.values import Side
from tests.builders import an_instrument
from tests.release_before import BTC, PRICE, LedgerBefore, accounts_on
from venue import ledger as ledger_module
from venue import upgrade
from venue.book import Cancel, Replace
from venue.exchange import Exchange
from venue.ledger import Ledger, LedgerError
from venue.requests import MarketTick

LISTED = {BTC: an_instrument(symbol=BTC)}
PARTITIONS = 8
FIRST, SECOND, THIRD = islice(accounts_on(3, PARTITIONS), 3)
(ELSEWHERE,) = islice(accounts_on(5, PARTITIONS), 1)
UNKNOWN = 0
"""A shard without an account."""


def shard(account_id: str) -> int:
    return shard_of(account_id.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """FIRST's order rests, SECOND's is filled in part; both are numbered as session 3."""
    path = tmp_path / "venue" / "ledger.sqlite"
    before = LedgerBefore(path, PARTITIONS)
    before.place(FIRST)
    filled = before.place(SECOND)
    before.fill(filled, 4, leaves_lots=6)
    before.place(ELSEWHERE)
    before.place(FIRST, sequence=2)
    return path


def carried_over(path: Path) -> Exchange:
    return Exchange(Ledger(path), LISTED)


def numbers(exchange: Exchange, account_id: str, after: int = 0) -> list[tuple[int, int | None]]:
    """The numbers of an account's session, each with the one that it says it follows."""
    reports = exchange.reports_after(shard(account_id), after, 100)
    bodies: list[dict[str, Any]] = [json.loads(body) for _, body in reports]
    assert [sequence for sequence, _ in reports] == [each["venue_sequence"] for each in bodies]
    assert all(each["account_id"] == account_id for each in bodies)
    return [(each["venue_sequence"], each.get("follows")) for each in bodies]


def trade(exchange: Exchange, sequence: int, lots: int) -> None:
    assert exchange.move_market([MarketTick(BTC, sequence, PRICE, lots, 1, 1)]).applied == 1


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def test_the_hash_is_the_one_that_clients_partition_by() -> None:
    names = [f"{'x' * (number % 9)}é-{number}" for number in range(5_000)]
    assert [upgrade.shard_of(name) for name in names] == [shard(name) for name in names]


def test_reports_keep_their_numbers_and_name_what_they_follow(path: Path) -> None:
    exchange = carried_over(path)
    assert numbers(exchange, FIRST) == [(1, None), (4, 1)]
    assert numbers(exchange, SECOND) == [(2, 0), (3, None)]
    assert numbers(exchange, ELSEWHERE) == [(1, None)]
    assert numbers(exchange, FIRST, after=3) == [(4, 1)]


def test_all_sessions_number_on_above_everything_before(path: Path) -> None:
    exchange = carried_over(path)
    trade(exchange, 2, lots=100)
    assert numbers(exchange, FIRST, after=4) == [(5, None), (6, None)]
    assert numbers(exchange, SECOND, after=4) == [(5, 3)]
    assert numbers(exchange, ELSEWHERE, after=1) == [(5, 1)]
    assert numbers(exchange, FIRST, after=5) == [(6, None)]


def test_a_client_may_have_read_as_far_as_its_partition(path: Path) -> None:
    exchange = carried_over(path)
    assert exchange.last_sequence(shard(SECOND)) == exchange.last_sequence(UNKNOWN) == 4
    assert numbers(exchange, SECOND, after=4) == []


def test_what_rests_is_filled_and_what_was_taken_is_known(path: Path) -> None:
    exchange = carried_over(path)
    assert exchange.known([f"{FIRST}-1", "none"]) == [f"{FIRST}-1"]
    trade(exchange, 2, lots=100)
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT account_id, session, filled_lots, status FROM orders").fetchall()
        trades = db.execute("SELECT trade_id, session, venue_sequence FROM trades").fetchall()
    assert sorted(rows) == sorted(
        (account_id, shard(account_id), 10, "filled") for account_id in (FIRST, FIRST, SECOND, ELSEWHERE)
    )
    assert ("T1B", shard(SECOND), 3) in trades
    assert len({trade_id for trade_id, _, _ in trades}) == 5, "a match of before has not lent its name"


def test_an_owner_of_a_session_of_before_fences_nobody(path: Path) -> None:
    assert carried_over(path).claim({3: 1, shard(FIRST): 1}) == {}


def test_it_is_done_once(path: Path) -> None:
    trade(carried_over(path), 2, lots=3)
    before = contents(path)
    exchange = carried_over(path)
    assert contents(path) == before
    assert numbers(exchange, FIRST, after=4) == [(5, None)]


def test_a_new_ledger_tells_nobody_what_follows(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.numbered_before == 0
    assert Exchange(ledger, LISTED).last_sequence(3) == 0


@pytest.mark.parametrize("session", [4, 300])
def test_accounts_away_from_their_keys_are_refused_and_nothing_is_changed(path: Path, session: int) -> None:
    before = LedgerBefore(path.with_name("other.sqlite"), PARTITIONS)
    for account_id in (FIRST, SECOND, ELSEWHERE):
        before.place(account_id)
    before.place(THIRD, session=session)
    untouched = contents(path.with_name("other.sqlite"))
    with pytest.raises(LedgerError, match=f"'{THIRD}' were sent on session {session}.*begin with an empty"):
        Ledger(path.with_name("other.sqlite"))
    assert contents(path.with_name("other.sqlite")) == untouched


def test_one_that_ends_half_way_begins_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "_SCHEMA", f"{ledger_module._SCHEMA}; SELECT * FROM nowhere")
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            Ledger(path)
    assert contents(path) == untouched
    assert numbers(carried_over(path), FIRST) == [(1, None), (4, 1)]


TERMS = ("traded_at_ms", "trade_date", "fee_micros", "fee_currency", "counterparty", "liquidity")


def make_older(path: Path, version: int) -> None:
    """Make a ledger of today's version one of version 3 or 2."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE requests")
        db.execute("ALTER TABLE orders DROP COLUMN priority")
        db.execute("DELETE FROM counters WHERE name = 'places_given'")
        for name in TERMS if version == 2 else ():
            db.execute(f"ALTER TABLE trades DROP COLUMN {name}")
        db.execute(f"PRAGMA user_version = {version}")


def terms(path: Path) -> dict[str, list[Any]]:
    """The terms of all trades, by trade."""
    with closing(sqlite3.connect(path)) as db:
        return {name: rest for name, *rest in db.execute(f"SELECT trade_id, {', '.join(TERMS)} FROM trades")}


def layout(path: Path) -> tuple[int, dict[str, list[tuple[Any, ...]]]]:
    """The version and the columns of each table."""
    with closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return version, {
            name: db.execute(f"PRAGMA table_info({name})").fetchall() for (name,) in sorted(tables)
        }


@pytest.mark.parametrize("steps", [[], [2]], ids=["from version 1", "from version 2"])
def test_trades_of_before_have_no_terms_and_later_ones_have(
    path: Path, tmp_path: Path, steps: list[int]
) -> None:
    before = {"T1B"}
    for _ in steps:
        trade(carried_over(path), 2, lots=3)
        before = set(terms(path))
        make_older(path, 2)
    trade(carried_over(path), 3, lots=100)

    found = terms(path)
    assert before < found.keys()
    assert all(found[name] == [None] * len(TERMS) for name in before)
    assert all(None not in found[name] for name in found.keys() - before)
    Ledger(tmp_path / "new.sqlite").close()
    assert layout(path) == layout(tmp_path / "new.sqlite")


@pytest.mark.parametrize("column", ["trades ADD COLUMN liquidity", "orders ADD COLUMN priority"])
def test_what_is_new_is_added_all_at_once(path: Path, column: str) -> None:
    carried_over(path)
    make_older(path, 2)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"ALTER TABLE {column} TEXT")
    untouched = contents(path)
    with pytest.raises(sqlite3.OperationalError, match=f"duplicate column name: {column.split()[-1]}"):
        Ledger(path)
    assert contents(path) == untouched


@pytest.mark.parametrize("version", [1, 2, 3])
def test_orders_of_before_keep_their_places_and_can_be_replaced_and_cancelled(
    path: Path, tmp_path: Path, version: int
) -> None:
    if version > 1:
        carried_over(path)
        make_older(path, version)
    exchange = carried_over(path)
    Ledger(tmp_path / "new.sqlite").close()
    assert layout(path) == layout(tmp_path / "new.sqlite")

    moves = Replace(shard(FIRST), "r1", FIRST, f"{FIRST}-1", BTC, Side.BUY, 11, PRICE)
    exchange.ask([moves, Cancel(shard(ELSEWHERE), "c1", ELSEWHERE, f"{ELSEWHERE}-1", BTC, Side.BUY)])
    trade(exchange, 2, lots=12)
    with closing(sqlite3.connect(path)) as db:
        orders = db.execute(
            "SELECT client_order_id, filled_lots, venue_order_id, priority FROM orders ORDER BY arrival"
        ).fetchall()
        outcomes = db.execute("SELECT request_id, outcome FROM requests ORDER BY 1").fetchall()
    assert orders == [
        (f"{FIRST}-1", 0, "V1", 5),
        (f"{SECOND}-1", 10, "V2", 2),
        (f"{ELSEWHERE}-1", 0, "V3", 3),
        (f"{FIRST}-2", 6, "V4", 4),
    ]
    assert outcomes == [("c1", "cancelled"), ("r1", "replaced")]
