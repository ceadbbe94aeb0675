"""The venue's ledger: `<data-dir>/ledger.sqlite` (WAL), enough to check every execution by it alone.

    orders         one row for every order ever taken, refused ones included
      client_order_id  TEXT, primary key; `order_id` in the reports
      account_id, symbol  TEXT
      session          INTEGER: the session it was sent on (a client's key shard), which gets its reports
      side             'buy' or 'sell'
      quantity_lots, price_ticks  INTEGER: as in force, that is of the last replace, else as ordered; a
                       replace to no more than what was filled leaves what was filled
      time_in_force    'gtc' or 'ioc'
      venue_order_id   TEXT: 'V' and `arrival`; a replace does not change it
      filled_lots      INTEGER: sum of its trades
      status           'open', 'filled', 'cancelled', 'expired' or 'rejected'
      receipts         INTEGER: how many times this id was received, repeats included; 1 is exactly once
      arrival          INTEGER: orders taken are numbered from 1
      priority         INTEGER: the order's place in time, lower is first; taking an order gives it the next
                       place, and so does a replace, unless only the quantity falls
    requests       one row for every cancel and replace ever taken, refused ones included
      request_id       TEXT, primary key
      session          INTEGER: the session it was sent on
      account_id, order_id  TEXT: as sent; the order may be unknown, or another account's
      kind             'cancel' or 'replace'
      quantity_lots, price_ticks  INTEGER: as asked for by a replace; NULL for a cancel
      receipts         INTEGER: as of orders
      outcome          TEXT: 'cancelled' or 'replaced', else the reason of its refusal as reported, such as
                       'order_ended'
    reports        every report made; primary key (session, venue_sequence)
      session, venue_sequence  INTEGER: from 1 without a gap in each session
      type             TEXT: 'OrderAcknowledged', 'TradeExecuted', ...
      order_id         TEXT: the client_order_id
      body             TEXT: the JSON object as sent, `{"type": ..., ...event fields}`, but for its session
    trades         one row for every fill of an order; both sides of a match have one each
      trade_id         TEXT, primary key: 'T', the number of the match, 'B' or 'S'
      client_order_id  TEXT
      quantity_lots, price_ticks  INTEGER
      session, venue_sequence  INTEGER: its TradeExecuted in `reports`
      traded_at_ms, fee_micros  INTEGER; trade_date, fee_currency, counterparty, liquidity  TEXT: as reported;
                       NULL in trades that are older than version 3
    sessions       session, last_sequence (INTEGER): of its last report
    epochs         session, epoch: the highest that any owner of the session has named
    markets        symbol, price_ticks, tick_epoch, tick_sequence, liquidity_lots (left of the last market
                   trade), is_open; a symbol that is not listed any more stays
    counters       name, value: 'orders_taken', 'trades_matched', 'places_given' (the last `priority`) and, in
                   a ledger that was of version 1, 'numbered_before': up to it and the next one the numbers of
                   a session may leap, see `venue/upgrade.py`

One transaction a request holds the change and its reports, and is committed before anything is answered or
sent. `synchronous` is NORMAL: what is committed outlives a killed process; a power cut can take the last
commits, never half of one. Readers may open the file at any time, also while the venue runs.
"""

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.values import Side, TimeInForce
from venue.book import (
    Cancelled,
    Fact,
    Filled,
    Market,
    Numbers,
    Order,
    OrderStatus,
    Refused,
    Replace,
    Replaced,
    Request,
    Tick,
)
from venue.errors import StartError
from venue.reports import NumberedReport, following
from venue.terms import TradeTerms
from venue.upgrade import NUMBERED_BEFORE, REQUESTS, STEPS, NotByKeyError, add, upgrade

SCHEMA_VERSION = 4
BY_PARTITION = 1
"""The version whose sessions were the partition numbers of a client's topics."""

_log = logging.getLogger(__name__)

_IDS_PER_QUERY = 500  # older SQLite takes 999 variables
_CACHE_KIB = 32 * 1024

_SCHEMA = f"""
CREATE TABLE orders (
    client_order_id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL,
    session INTEGER NOT NULL,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    quantity_lots INTEGER NOT NULL,
    price_ticks INTEGER NOT NULL,
    time_in_force TEXT NOT NULL,
    venue_order_id TEXT NOT NULL,
    filled_lots INTEGER NOT NULL,
    status TEXT NOT NULL,
    receipts INTEGER NOT NULL DEFAULT 1,
    arrival INTEGER NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX open_orders ON orders (arrival) WHERE status = 'open';
{REQUESTS};
CREATE TABLE reports (
    session INTEGER NOT NULL,
    venue_sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    order_id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (session, venue_sequence)
) WITHOUT ROWID;
CREATE TABLE trades (
    trade_id TEXT NOT NULL PRIMARY KEY,
    client_order_id TEXT NOT NULL,
    quantity_lots INTEGER NOT NULL,
    price_ticks INTEGER NOT NULL,
    session INTEGER NOT NULL,
    venue_sequence INTEGER NOT NULL,
    traded_at_ms INTEGER,
    trade_date TEXT,
    fee_micros INTEGER,
    fee_currency TEXT,
    counterparty TEXT,
    liquidity TEXT
) WITHOUT ROWID;
CREATE TABLE sessions (session INTEGER PRIMARY KEY, last_sequence INTEGER NOT NULL);
CREATE TABLE epochs (session INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE TABLE markets (
    symbol TEXT NOT NULL PRIMARY KEY,
    price_ticks INTEGER NOT NULL,
    tick_epoch INTEGER NOT NULL,
    tick_sequence INTEGER NOT NULL,
    liquidity_lots INTEGER NOT NULL,
    is_open INTEGER NOT NULL
);
CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""

_ORDER_COLUMNS = """
    client_order_id, account_id, session, symbol, side, quantity_lots, price_ticks, time_in_force, arrival,
    filled_lots, status, priority
"""

_SAVE_ORDER = f"""
INSERT INTO orders ({_ORDER_COLUMNS}, venue_order_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (client_order_id) DO UPDATE SET
    quantity_lots = excluded.quantity_lots, price_ticks = excluded.price_ticks,
    filled_lots = excluded.filled_lots, status = excluded.status, priority = excluded.priority
"""

_OPEN_ORDERS = f"SELECT {_ORDER_COLUMNS} FROM orders WHERE status = 'open' ORDER BY arrival"

_ADD_REQUEST = """
INSERT INTO requests (
    request_id, session, account_id, order_id, kind, quantity_lots, price_ticks, outcome
) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


class LedgerError(StartError):
    """The file is no ledger this version can read."""


class Ledger:
    """The one connection of the venue's process to its ledger.

    Every write belongs inside `transaction()`. Raises LedgerError for a file of another version and
    sqlite3.Error when the file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._prepare()
        self.numbered_before = self._counters().get(NUMBERED_BEFORE, 0)
        """The highest number of a session of version 1; 0 if the ledger has never been of it."""

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end; on any exception roll back and pass it on."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def load_market(self, listed: Collection[str]) -> Market:
        """Books, last prices and counters as they were at the last commit."""
        counters = self._counters()
        counters.pop(NUMBERED_BEFORE, None)
        market = Market(listed, Numbers(**counters))
        columns = "symbol, price_ticks, tick_epoch, tick_sequence, liquidity_lots, is_open"
        for symbol, *state in self._db.execute(f"SELECT {columns} FROM markets"):
            book = market.book(symbol)
            book.price_ticks, book.tick, book.liquidity_lots = state[0], Tick(*state[1:3]), state[3]
            book.is_open = bool(state[4])
        resting: dict[str, list[Order]] = {}
        for row in self._db.execute(_OPEN_ORDERS):
            order = _order_from(row)
            resting.setdefault(order.symbol, []).append(order)
        for symbol, orders in resting.items():
            market.book(symbol).restore(orders)
        return market

    def load_epochs(self) -> dict[int, int]:
        return dict(self._db.execute("SELECT session, epoch FROM epochs"))

    def save_epochs(self, epochs: Iterable[tuple[int, int]]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO epochs VALUES (?, ?)", epochs)

    def load_sequences(self) -> dict[int, int]:
        """The last `venue_sequence` of each session."""
        return dict(self._db.execute("SELECT session, last_sequence FROM sessions"))

    def load_orders(self, client_order_ids: Sequence[str]) -> dict[str, Order]:
        """The orders that the ledger has, by id, as they were at the last commit."""
        rows = self._where_in(f"SELECT {_ORDER_COLUMNS} FROM orders WHERE client_order_id", client_order_ids)
        return {order.order_id: order for order in map(_order_from, rows)}

    def known(self, client_order_ids: Sequence[str]) -> set[str]:
        rows = self._where_in("SELECT client_order_id FROM orders WHERE client_order_id", client_order_ids)
        return {client_order_id for (client_order_id,) in rows}

    def known_requests(self, request_ids: Sequence[str]) -> set[str]:
        rows = self._where_in("SELECT request_id FROM requests WHERE request_id", request_ids)
        return {request_id for (request_id,) in rows}

    def count_repeats(self, client_order_ids: Iterable[str]) -> None:
        self._db.executemany(
            "UPDATE orders SET receipts = receipts + 1 WHERE client_order_id = ?",
            [(client_order_id,) for client_order_id in client_order_ids],
        )

    def count_repeated_requests(self, request_ids: Iterable[str]) -> None:
        self._db.executemany(
            "UPDATE requests SET receipts = receipts + 1 WHERE request_id = ?",
            [(request_id,) for request_id in request_ids],
        )

    def add_requests(self, answered: Iterable[tuple[Request, Fact]]) -> None:
        """Add requests, each with the fact that answers it."""
        self._db.executemany(_ADD_REQUEST, [_request_row(*each) for each in answered])

    def save_orders(self, orders: Iterable[Order]) -> None:
        """Insert new orders, update what a fill, a replace or the end changes of known ones."""
        self._db.executemany(_SAVE_ORDER, [_row_of(order) for order in orders])

    def add_reports(self, reports: Iterable[NumberedReport]) -> None:
        self._db.executemany("INSERT INTO reports VALUES (?, ?, ?, ?, ?)", reports)

    def add_trades(self, fills: Iterable[tuple[Filled, TradeTerms, int]]) -> None:
        """Add fills, each with its terms and the `venue_sequence` of its report."""
        self._db.executemany(
            "INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_trade_row(*fill) for fill in fills],
        )

    def save_sequences(self, sequences: Iterable[tuple[int, int]]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?)", sequences)

    def save_prices(self, market: Market) -> None:
        """Save the last prices, what is left of the last trades, and the counters."""
        self._db.executemany(
            "INSERT OR REPLACE INTO markets VALUES (?, ?, ?, ?, ?, ?)",
            [
                (symbol, book.price_ticks, *book.tick, book.liquidity_lots, book.is_open)
                for symbol, book in market.books.items()
            ],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO counters VALUES (?, ?)",
            [
                ("orders_taken", market.numbers.orders_taken),
                ("trades_matched", market.numbers.trades_matched),
                ("places_given", market.numbers.places_given),
            ],
        )

    def reports_after(self, session: int, after: int, count_max: int) -> list[tuple[int, str]]:
        """The next reports of the session above `after`: (venue_sequence, body), in order.

        Where numbers may leap, a report that leaps names the one that it follows.
        """
        reports = self._db.execute(
            "SELECT venue_sequence, body FROM reports WHERE session = ? AND venue_sequence > ? "
            "ORDER BY venue_sequence LIMIT ?",
            (session, after, count_max),
        ).fetchall()
        if after > self.numbered_before or not self.numbered_before:
            return reports
        (before,) = self._db.execute(
            "SELECT coalesce(max(venue_sequence), 0) FROM reports WHERE session = ? AND venue_sequence <= ?",
            (session, after),
        ).fetchone()
        return following(before, reports)

    def _where_in(self, query: str, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of a query that ends in the name of a column, as far as this column is among the ids."""
        for start in range(0, len(ids), _IDS_PER_QUERY):
            part = ids[start : start + _IDS_PER_QUERY]
            yield from self._db.execute(f"{query} IN ({','.join('?' * len(part))})", part)

    def _counters(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, value FROM counters"))

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self.transaction():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
        elif version == BY_PARTITION:
            self._upgrade()
        elif version in STEPS:
            add(self._db, version, SCHEMA_VERSION)
            _log.warning("%s was of version %d and is brought up to date", self._path, version)
        elif version != SCHEMA_VERSION:
            raise LedgerError(
                f"{self._path} is a ledger of version {version}, this venue reads {SCHEMA_VERSION}: "
                "use another --data-dir"
            )

    def _upgrade(self) -> None:
        try:
            upgrade(self._db, _SCHEMA.split(";"))
        except NotByKeyError as error:
            raise LedgerError(
                f"{self._path} is of the release before, and stays as it was: {error}. Let that release end "
                "its orders, then begin with an empty data directory"
            ) from None
        _log.warning("%s was of the release before and is brought up to date", self._path)


def _trade_row(fill: Filled, terms: TradeTerms, sequence: int) -> tuple[str | int, ...]:
    order = fill.order
    return (
        fill.trade_id,
        order.order_id,
        fill.quantity_lots,
        fill.price_ticks,
        order.session,
        sequence,
        *terms,
    )


def _request_row(request: Request, answer: Fact) -> tuple[str | int | None, ...]:
    asked = (request.quantity_lots, request.price_ticks) if isinstance(request, Replace) else (None, None)
    return (
        request.request_id,
        request.session,
        request.account_id,
        request.order_id,
        "replace" if isinstance(request, Replace) else "cancel",
        *asked,
        _outcome(answer),
    )


def _outcome(answer: Fact) -> str:
    if isinstance(answer, Refused):
        return answer.reason.value
    if isinstance(answer, Replaced):
        return "replaced"
    assert isinstance(answer, Cancelled)
    return "cancelled"


def _row_of(order: Order) -> tuple[str | int, ...]:
    return (
        order.order_id,
        order.account_id,
        order.session,
        order.symbol,
        order.side.value,
        order.quantity_lots,
        order.price_ticks,
        order.time_in_force.value,
        order.arrival,
        order.filled_lots,
        order.status.value,
        order.priority,
        order.venue_order_id,
    )


def _order_from(row: tuple[str, str, int, str, str, int, int, str, int, int, str, int]) -> Order:
    order_id, account_id, session, symbol, side, quantity, price, in_force, arrival, filled, status, place = (
        row
    )
    return Order(
        order_id,
        account_id,
        session,
        symbol,
        Side(side),
        quantity,
        price,
        TimeInForce(in_force),
        arrival,
        filled,
        OrderStatus(status),
        place,
    )
