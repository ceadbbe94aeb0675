"""What the release before has left behind: a venue's ledger whose sessions are partition numbers."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from app.engine import shard_of

BTC = "BTC-USD"
PRICE = 1_000
LOTS = 10

SCHEMA = """
CREATE TABLE orders (
    client_order_id TEXT NOT NULL PRIMARY KEY, account_id TEXT NOT NULL, session INTEGER NOT NULL,
    symbol TEXT NOT NULL, side TEXT NOT NULL, quantity_lots INTEGER NOT NULL, price_ticks INTEGER NOT NULL,
    time_in_force TEXT NOT NULL, venue_order_id TEXT NOT NULL, filled_lots INTEGER NOT NULL,
    status TEXT NOT NULL, receipts INTEGER NOT NULL DEFAULT 1, arrival INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX open_orders ON orders (arrival) WHERE status = 'open';
CREATE TABLE reports (
    session INTEGER NOT NULL, venue_sequence INTEGER NOT NULL, type TEXT NOT NULL, order_id TEXT NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (session, venue_sequence)
) WITHOUT ROWID;
CREATE TABLE trades (
    trade_id TEXT NOT NULL PRIMARY KEY, client_order_id TEXT NOT NULL, quantity_lots INTEGER NOT NULL,
    price_ticks INTEGER NOT NULL, session INTEGER NOT NULL, venue_sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE sessions (session INTEGER PRIMARY KEY, last_sequence INTEGER NOT NULL);
CREATE TABLE epochs (session INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE TABLE markets (
    symbol TEXT NOT NULL PRIMARY KEY, price_ticks INTEGER NOT NULL, tick_sequence INTEGER NOT NULL,
    liquidity_lots INTEGER NOT NULL, is_open INTEGER NOT NULL
);
CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL);
PRAGMA user_version = 1;
"""


def accounts_on(partition: int, partitions: int) -> Iterator[str]:
    """Names of accounts of this partition, each of a shard of its own."""
    seen = set()
    for number in count():
        shard = shard_of(f"account-{number}".encode())
        if shard % partitions == partition and shard not in seen:
            seen.add(shard)
            yield f"account-{number}"


class LedgerBefore:
    """Takes orders to buy and fills them, as the venue of that release did, for clients with `partitions`."""

    def __init__(self, path: Path, partitions: int) -> None:
        self._path = path
        self._partitions = partitions
        self._last: Counter[int] = Counter()
        self._orders: dict[str, tuple[str, int]] = {}
        self._trades = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as db:
            db.executescript(SCHEMA)
        self._write("INSERT INTO markets VALUES (?, ?, 1, 0, 1)", BTC, PRICE)

    def place(self, account_id: str, sequence: int = 1, session: int | None = None) -> str:
        """An order that rests; gives its id."""
        order_id = f"{account_id}-{sequence}"
        own = shard_of(account_id.encode()) % self._partitions
        session = own if session is None else session
        self._orders[order_id] = (account_id, session)
        arrival = len(self._orders)
        self._write(
            "INSERT INTO orders VALUES (?, ?, ?, ?, 'buy', ?, ?, 'gtc', ?, 0, 'open', 1, ?)",
            *(order_id, account_id, session, BTC, LOTS, PRICE, f"V{arrival}", arrival),
        )
        self._write("INSERT OR REPLACE INTO counters VALUES ('orders_taken', ?)", arrival)
        self._report(order_id, "OrderAcknowledged")
        return order_id

    def fill(self, order_id: str, lots: int, leaves_lots: int) -> None:
        self._trades += 1
        trade_id = f"T{self._trades}B"
        sequence = self._report(
            order_id,
            "TradeExecuted",
            trade_id=trade_id,
            quantity_lots=lots,
            price_ticks=PRICE,
            leaves_lots=leaves_lots,
        )
        status = "open" if leaves_lots else "filled"
        self._write(
            "UPDATE orders SET filled_lots = filled_lots + ?, status = ? WHERE client_order_id = ?",
            *(lots, status, order_id),
        )
        session = self._orders[order_id][1]
        self._write(
            "INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?)", trade_id, order_id, lots, PRICE, session, sequence
        )
        self._write("INSERT OR REPLACE INTO counters VALUES ('trades_matched', ?)", self._trades)

    def _report(self, order_id: str, name: str, **fields: Any) -> int:
        account_id, session = self._orders[order_id]
        self._last[session] += 1
        sequence = self._last[session]
        body = {
            "type": name,
            "order_id": order_id,
            "account_id": account_id,
            "symbol": BTC,
            "side": "buy",
            "venue_order_id": "V1",
            "venue_sequence": sequence,
            **fields,
        }
        text = json.dumps(body, separators=(",", ":"))
        self._write("INSERT INTO reports VALUES (?, ?, ?, ?, ?)", session, sequence, name, order_id, text)
        self._write("INSERT OR REPLACE INTO sessions VALUES (?, ?)", session, sequence)
        self._write("INSERT OR REPLACE INTO epochs VALUES (?, 70000)", session)
        return sequence

    def _write(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self._path)) as db, db:
            db.execute(statement, values)
