"""Records that nobody can take in: at both edges, and put between two services by a stranger.

Each ends as a dead letter. Of those that quarantine their key there are several under one key, so that all
but the first have to wait behind it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from app.topics import MARKET_DATA, ORDERS, RISK_DECISIONS
from feed.wire import headers_of
from models.events import TickReceived

UNREADABLE = (b"\xff\xfe no JSON", b'{"order_id": 7}', b"", b"[" * 2_000, b'{"price_ticks": "NaN"}')


class Poison(NamedTuple):
    """A record, and where to put it."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def poison(name: str) -> Iterator[Poison]:
    """A dose of everything; `name` is unique to it, and becomes the keys, which nobody else uses."""
    key = name.encode()
    for value in UNREADABLE:
        for topic in (ORDERS, MARKET_DATA):
            yield Poison(topic.name, key, value, [])
    for sequence in (1, 2):
        yield _unbelievable(name, sequence)
    for value in UNREADABLE:
        yield Poison(RISK_DECISIONS.name, key, value, [])


def _unbelievable(symbol: str, sequence: int) -> Poison:
    """A tick that can be read, of an instrument that does not exist: market data fails on it."""
    tick = TickReceived(
        symbol=symbol, sequence=sequence, price_ticks=1, quantity_lots=1, exchange_at_ms=0, observed_at_ms=0
    )
    headers = headers_of(tick, symbol, f"{symbol}/{sequence}")
    return Poison(MARKET_DATA.name, symbol.encode(), tick.model_dump_json().encode(), headers)
