"""A ledger of an older version becomes one of today's, in one transaction, before the venue serves anybody.

Version 3 had no requests: an order's place in time is that of its arrival.

Version 2 had no terms of trades either: what was traded before the upgrade stays without them.

The sessions of version 1 were the partition numbers of a client's topics; since version 2 they are key
shards, the hash of the account modulo 256. So every order, report and trade goes to the session of its
account. A report keeps its number and its body, since clients know it by these: the numbers of a session
leap, up to the highest that any session of version 1 has given. That one is noted, and all sessions number on
above it: an account's reports are numbered in the order in which they were made, before and after.

Epochs are forgotten. They fence former owners of a session, whose calls this venue does not understand.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from venue.errors import StartError

KEY_SHARDS: Final = 256
NUMBERED_BEFORE: Final = "numbered_before"
"""The counter with the highest number that a session of version 1 has given."""

_SEED, _MULTIPLIER, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


class NotByKeyError(StartError):
    """Accounts of the ledger had sessions that their keys do not lead to."""


TERMS: Final = {
    "traded_at_ms": "INTEGER",
    "trade_date": "TEXT",
    "fee_micros": "INTEGER",
    "fee_currency": "TEXT",
    "counterparty": "TEXT",
    "liquidity": "TEXT",
}
"""The columns that version 3 adds to `trades`, and their types."""

REQUESTS: Final = """
CREATE TABLE requests (
    request_id TEXT NOT NULL PRIMARY KEY,
    session INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    quantity_lots INTEGER,
    price_ticks INTEGER,
    receipts INTEGER NOT NULL DEFAULT 1,
    outcome TEXT NOT NULL
) WITHOUT ROWID
"""
"""The table that version 4 adds."""

_PLACES_GIVEN: Final = """
INSERT INTO counters SELECT 'places_given', value FROM counters WHERE name = 'orders_taken'
"""
"""Up to version 4 an order's place in time was that of its arrival."""


def upgrade(db: sqlite3.Connection, schema: Iterable[str]) -> None:
    """Make a ledger of version 1 one of the given schema. Raises NotByKeyError with nothing changed."""
    db.create_function("shard_of", 1, shard_of, deterministic=True)
    with _at_once(db):
        _require_sessions_by_key(db.execute("SELECT DISTINCT account_id, session FROM orders").fetchall())
        _carry_over(db, schema)


def add(db: sqlite3.Connection, version: int, newest: int) -> None:
    """Make a ledger of `version`, one of STEPS, one of the newest: it gets what has been added since."""
    with _at_once(db):
        for step in STEPS[version]:
            step(db)
        db.execute(f"PRAGMA user_version = {newest}")


def _add_terms(db: sqlite3.Connection) -> None:
    for name, kind in TERMS.items():
        db.execute(f"ALTER TABLE trades ADD COLUMN {name} {kind}")


def _add_requests(db: sqlite3.Connection) -> None:
    db.execute(REQUESTS)
    db.execute("ALTER TABLE orders ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE orders SET priority = arrival")
    db.execute(_PLACES_GIVEN)


STEPS: Final[Mapping[int, tuple[Callable[[sqlite3.Connection], None], ...]]] = {
    2: (_add_terms, _add_requests),
    3: (_add_requests,),
}
"""What is to be added to a ledger of this version."""


@contextmanager
def _at_once(db: sqlite3.Connection) -> Iterator[None]:
    """All of it, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


@lru_cache(maxsize=65_536)
def shard_of(account_id: str) -> int:
    """The key shard of an account: MurmurHash2 as Kafka's default partitioner has it, modulo 256."""
    key = account_id.encode()
    mixed = (_SEED ^ len(key)) & _WORD
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _MULTIPLIER & _WORD
        mixed = mixed * _MULTIPLIER & _WORD ^ ((word ^ word >> 24) * _MULTIPLIER & _WORD)
    if rest := key[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _WORD
    mixed = (mixed ^ mixed >> 13) * _MULTIPLIER & _WORD
    return (mixed ^ mixed >> 15) % KEY_SHARDS


def _require_sessions_by_key(homes: Iterable[tuple[str, int]]) -> None:
    """Every session has to be the partition of its accounts' keys, for some count of partitions."""
    homes = list(homes)
    astray = [
        [(account_id, session) for account_id, session in homes if shard_of(account_id) % count != session]
        for count in (1 << power for power in range(KEY_SHARDS.bit_length()))
    ]
    fewest = min(astray, key=len)
    if fewest:
        account_id, session = fewest[0]
        raise NotByKeyError(
            f"orders of account {account_id!r} were sent on session {session}, which is not the partition of "
            "its key (murmur2, of a power of two): its books are where this release does not look for them"
        )


def _carry_over(db: sqlite3.Connection, schema: Iterable[str]) -> None:
    (numbered,) = db.execute("SELECT coalesce(max(last_sequence), 0) FROM sessions").fetchone()
    for table in ("orders", "reports", "trades", "markets", "counters"):
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    for name in ("INDEX open_orders", "TABLE sessions", "TABLE epochs"):
        db.execute(f"DROP {name}")
    for statement in (*schema, *_COPIES):
        db.execute(statement)
    db.execute("INSERT INTO counters VALUES (?, ?)", (NUMBERED_BEFORE, numbered))
    for table in ("orders", "reports", "trades", "markets", "counters"):
        db.execute(f"DROP TABLE {table}_before")


_COPIES = (
    """
    INSERT INTO orders
    SELECT client_order_id, account_id, shard_of(account_id), symbol, side, quantity_lots, price_ticks,
           time_in_force, venue_order_id, filled_lots, status, receipts, arrival, arrival
    FROM orders_before
    """,
    """
    INSERT INTO reports
    SELECT orders.session, venue_sequence, type, order_id, body
    FROM reports_before JOIN orders ON client_order_id = order_id
    """,
    """
    INSERT INTO trades (trade_id, client_order_id, quantity_lots, price_ticks, session, venue_sequence)
    SELECT trade_id, client_order_id, trades_before.quantity_lots, trades_before.price_ticks, orders.session,
           venue_sequence
    FROM trades_before JOIN orders USING (client_order_id)
    """,
    "INSERT INTO sessions SELECT session, max(venue_sequence) FROM reports GROUP BY session",
    """
    INSERT INTO markets
    SELECT symbol, price_ticks, 0, tick_sequence, liquidity_lots, is_open FROM markets_before
    """,
    "INSERT INTO counters SELECT name, value FROM counters_before",
    _PLACES_GIVEN,
)
