"""Records that nobody can take in: at both edges, and put between two services by a stranger.

Each ends as a dead letter. Of those between two services there are several under one key, so that all but
the first have to wait behind it. At the edges each is a dead letter alone: the ticks that come after one have
to become prices.
"""

from collections.abc import Iterator
from typing import NamedTuple

from app.topics import MARKET_DATA, ORDERS, RISK_DECISIONS
from feed.wire import headers_of
from models.events import TickReceived
from models.values import INSTRUMENTS

NAME_PREFIX = "poison-"
UNREADABLE = (b"\xff\xfe no JSON", b'{"order_id": 7}', b"", b"[" * 2_000, b'{"price_ticks": "NaN"}')


class Poison(NamedTuple):
    """A record, and where to put it."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def poison(name: str) -> Iterator[Poison]:
    """A dose of everything; `name` is unique to it and is the key of all but one tick of each real symbol.

    It begins with NAME_PREFIX, which tells these records from the pipeline's own.
    """
    key = name.encode()
    for value in UNREADABLE:
        for topic in (ORDERS, MARKET_DATA):
            yield Poison(topic.name, key, value, [])
    for symbol in (name, name, *INSTRUMENTS):
        yield _unbelievable(symbol)
    for value in UNREADABLE:
        yield Poison(RISK_DECISIONS.name, key, value, [])


def _unbelievable(symbol: str) -> Poison:
    """A tick that can be read, and whose price cannot be true: market data refuses it."""
    tick = TickReceived(
        symbol=symbol, sequence=1, price_ticks=0, quantity_lots=1, exchange_at_ms=0, observed_at_ms=0
    )
    headers = headers_of(tick, symbol, f"{symbol}/{tick.sequence}")
    return Poison(MARKET_DATA.name, symbol.encode(), tick.model_dump_json().encode(), headers)
