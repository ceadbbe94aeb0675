"""The venue's SQLite ledger, read only; its layout is told in `venue/ledger.py`. A session is a key shard.

Orders are read up to the bound taken when the ledger was opened, before the log is read, and requests as they
were then; reports and trades as they are now: so an order and a request always have their cause in the log,
and an execution its report in the ledger.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from checker.errors import CheckerError
from checker.records import (
    CancelRejected,
    OrderAcknowledged,
    OrderCancelled,
    OrderExpired,
    OrderReplaced,
    ReplaceRejected,
    TradeExecuted,
    VenueRejected,
    VenueReport,
)


class LedgerOrder(NamedTuple):
    """A row of `orders`. `status` is 'open', 'filled', 'cancelled', 'expired' or 'rejected'.

    `quantity_lots` and `price_ticks` are those in force, `session` is the key shard that it was sent for.
    """

    client_order_id: str
    account_id: str
    symbol: str
    side: str
    quantity_lots: int
    price_ticks: int
    time_in_force: str
    filled_lots: int
    status: str
    receipts: int
    session: int

    @property
    def subject(self) -> tuple[str, str, str, str]:
        """What no replace changes."""
        return self.account_id, self.symbol, self.side, self.time_in_force

    @property
    def terms(self) -> tuple[int, int]:
        return self.quantity_lots, self.price_ticks


class LedgerRequest(NamedTuple):
    """A row of `requests`. `kind` is 'cancel' or 'replace'; the terms of a cancel are None.

    `outcome` is 'cancelled', 'replaced', or the reason that the venue has refused it for.
    """

    request_id: str
    account_id: str
    order_id: str
    kind: str
    quantity_lots: int | None
    price_ticks: int | None
    receipts: int
    session: int
    outcome: str

    @property
    def asked(self) -> tuple[str, str, str, int | None, int | None]:
        """What it asks for, and of which order."""
        return self[1:6]


class LedgerReport(NamedTuple):
    """A row of `reports`; `event` is None when its body can't be read."""

    session: int
    venue_sequence: int
    event: VenueReport | None


class LedgerTrade(NamedTuple):
    """A row of `trades`; what stands behind `venue_sequence` is None in those of releases before."""

    trade_id: str
    client_order_id: str
    quantity_lots: int
    price_ticks: int
    session: int
    venue_sequence: int
    traded_at_ms: int | None = None
    trade_date: str | None = None
    fee_micros: int | None = None
    fee_currency: str | None = None
    counterparty: str | None = None
    liquidity: str | None = None


@dataclass
class PartLedger:
    """The sessions of one partition; each part is gone through once, reports by session and sequence.

    Up to `numbered_before`, and to the next number, all of them have one numbering together.
    """

    orders: Iterable[LedgerOrder] = ()
    reports: Iterable[LedgerReport] = ()
    trades: Iterable[LedgerTrade] = ()
    numbered_before: int = 0
    requests: Iterable[LedgerRequest] = ()


_DECODERS = {
    struct.__name__: msgspec.json.Decoder(struct)
    for struct in (
        OrderAcknowledged,
        TradeExecuted,
        OrderCancelled,
        OrderExpired,
        VenueRejected,
        OrderReplaced,
        CancelRejected,
        ReplaceRejected,
    )
}

_ORDERS = """
SELECT client_order_id, account_id, symbol, side, quantity_lots, price_ticks, time_in_force, filled_lots,
       status, receipts, session
FROM orders WHERE session % ? = ? AND arrival <= ?
"""
_REPORTS = """
SELECT session, venue_sequence, type, body FROM reports WHERE session % ? = ?
ORDER BY session, venue_sequence
"""
_TRADES = """
SELECT trade_id, client_order_id, quantity_lots, price_ticks, session, venue_sequence, traded_at_ms,
       trade_date, fee_micros, fee_currency, counterparty, liquidity
FROM trades WHERE session % ? = ?
"""
_REQUESTS = """
SELECT request_id, account_id, order_id, kind, quantity_lots, price_ticks, receipts, session, outcome
FROM requests WHERE session % ? = ?
"""

OLDER = (1, 2, 3)
"""The versions that the venue brings up to date.

Sessions by partition number, trades without terms, no requests.
"""

_NUMBERED_BEFORE = "SELECT coalesce(max(value), 0) FROM counters WHERE name = 'numbered_before'"


class LedgerFile:
    """The ledger at `path`; raises CheckerError when there is none that can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
            self._before = self._open()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version in OLDER:
                raise CheckerError(
                    f"{path} is of the release before: check it with that one, or start this one's venue on "
                    "it, which brings it up to date"
                )
            (self._arrival_max,) = self._db.execute("SELECT coalesce(max(arrival), 0) FROM orders").fetchone()
            (self._numbered_before,) = self._db.execute(_NUMBERED_BEFORE).fetchone()
            self._before.execute("BEGIN")
            self._before.execute("SELECT 1 FROM requests LIMIT 1").fetchone()  # from here on it stands still
        except sqlite3.Error as error:
            told = f"{path} can't be read as the venue's ledger: {error}; run the pipeline or name another"
            raise CheckerError(told) from error

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)

    def __enter__(self) -> "LedgerFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._before.close()

    def part(self, partition: int, partitions: int) -> PartLedger:
        """What belongs to one of so many partitions: the sessions whose number leaves it as the rest."""
        of = (partitions, partition)
        return PartLedger(
            orders=map(LedgerOrder._make, self._db.execute(_ORDERS, (*of, self._arrival_max))),
            reports=self._reports(of),
            trades=map(LedgerTrade._make, self._db.execute(_TRADES, of)),
            numbered_before=self._numbered_before,
            requests=map(LedgerRequest._make, self._before.execute(_REQUESTS, of)),
        )

    def sessions(self) -> set[int]:
        """The sessions that have orders, requests or reports."""
        rows = self._db.execute(
            "SELECT session FROM orders UNION SELECT session FROM reports UNION SELECT session FROM requests"
        )
        return {number for (number,) in rows}

    def _reports(self, of: tuple[int, int]) -> Iterator[LedgerReport]:
        for session, sequence, type_name, body in self._db.execute(_REPORTS, of):
            yield LedgerReport(session, sequence, read_body(type_name, body))


def read_body(type_name: str, body: str) -> VenueReport | None:
    """Read `{"type": ..., ...event fields}`, whatever else it has; None when it is not that."""
    decoder = _DECODERS.get(type_name)
    if decoder is None:
        return None
    tag = f'{{"type":"{type_name}",'
    try:
        if body.startswith(tag):  # as the venue writes it: spares a second reading
            return decoder.decode("{" + body[len(tag) :])
        fields = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.convert(fields, decoder.type) if fields.pop("type", None) == type_name else None
    except ValueError:
        return None
