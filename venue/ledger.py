"""The venue's ledger: `<data-dir>/ledger.sqlite` (WAL), enough to check every execution by it alone.

    orders         one row for every order ever taken, refused ones included
      client_order_id  TEXT, primary key; `order_id` in the reports
      account_id, symbol  TEXT
      session          INTEGER: the session it was sent on (a client's key shard), which gets its reports
      side             'buy' or 'sell'
      quantity_lots, price_ticks  INTEGER: as ordered
      time_in_force    'gtc' or 'ioc'
      venue_order_id   TEXT: 'V' and `arrival`
      filled_lots      INTEGER: sum of its trades
      status           'open', 'filled', 'cancelled', 'expired' or 'rejected'
      receipts         INTEGER: how many times this id was received, repeats included; 1 is exactly once
      arrival          INTEGER: orders taken are numbered from 1
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
    counters       name, value: 'orders_taken', 'trades_matched' and, in a ledger that was of version 1,
                   'numbered_before': up to it and the next one the numbers of a session may leap, see
                   `venue/upgrade.py`

One transaction a request holds the change and its reports, and is committed before anything is answered or
sent. `synchronous` is NORMAL: what is committed outlives a killed process; a power cut can take the last
commits, never half of one. Readers may open the file at any time, also while the venue runs.
"""

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.values import Side, TimeInForce
from venue.book import Filled, Market, Numbers, Order, OrderStatus, Tick
from venue.errors import StartError
from venue.reports import NumberedReport, following
from venue.terms import TradeTerms
from venue.upgrade import NUMBERED_BEFORE, NotByKeyError, add_terms, upgrade

SCHEMA_VERSION = 3
BY_PARTITION = 1
"""The version whose sessions were the partition numbers of a client's topics."""
WITHOUT_TERMS = 2
"""The version whose trades have neither time nor fee nor counterparty."""

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
    arrival INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX open_orders ON orders (arrival) WHERE status = 'open';
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

_SAVE_ORDER = """
INSERT INTO orders (
    client_order_id, account_id, session, symbol, side, quantity_lots, price_ticks, time_in_force,
    venue_order_id, filled_lots, status, arrival
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (client_order_id) DO UPDATE SET filled_lots = excluded.filled_lots, status = excluded.status
"""

_OPEN_ORDERS = """
SELECT client_order_id, account_id, session, symbol, side, quantity_lots, price_ticks, time_in_force,
       arrival, filled_lots
FROM orders WHERE status = 'open' ORDER BY arrival
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

    def known(self, client_order_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(client_order_ids), _IDS_PER_QUERY):
            ids = client_order_ids[start : start + _IDS_PER_QUERY]
            marks = ",".join("?" * len(ids))
            rows = self._db.execute(
                f"SELECT client_order_id FROM orders WHERE client_order_id IN ({marks})", ids
            )
            found.update(client_order_id for (client_order_id,) in rows)
        return found

    def count_repeats(self, client_order_ids: Iterable[str]) -> None:
        self._db.executemany(
            "UPDATE orders SET receipts = receipts + 1 WHERE client_order_id = ?",
            [(client_order_id,) for client_order_id in client_order_ids],
        )

    def save_orders(self, orders: Iterable[Order]) -> None:
        """Insert new orders, update what was filled and the status of known ones."""
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
        elif version == WITHOUT_TERMS:
            add_terms(self._db, SCHEMA_VERSION)
            _log.warning("%s is brought up to date: trades have terms from now on", self._path)
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
        order.venue_order_id,
        order.filled_lots,
        order.status.value,
        order.arrival,
    )


def _order_from(row: tuple[str, str, int, str, str, int, int, str, int, int]) -> Order:
    order_id, account_id, session, symbol, side, quantity, price, time_in_force, arrival, filled = row
    return Order(
        order_id,
        account_id,
        session,
        symbol,
        Side(side),
        quantity,
        price,
        TimeInForce(time_in_force),
        arrival,
        filled,
        OrderStatus.OPEN,
    )
