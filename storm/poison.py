"""Records that nobody can take in, for every way in: at the edges, and between the services by a stranger.

Each ends as a dead letter. Of those that quarantine their key there are two under one key, so that the
second has to wait behind the first.
"""

from collections.abc import Iterator
from typing import NamedTuple

from app.topics import COMPLIANCE_DECISIONS, EXECUTIONS, MARKET_DATA, ORDERS, RISK_DECISIONS
from feed.wire import headers_of
from models.events import TickReceived

UNREADABLE = (b"\xff\xfe no JSON", b'{"order_id": 7}', b"", b"[" * 2_000, b'{"price_ticks": "NaN"}')
BETWEEN_SERVICES = (RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS)


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
    for topic in BETWEEN_SERVICES:
        for value in UNREADABLE[:2]:
            yield Poison(topic.name, key, value, [])


def _unbelievable(symbol: str, sequence: int) -> Poison:
    """A tick that can be read, of an instrument that does not exist: market data fails on it."""
    tick = TickReceived(
        symbol=symbol, sequence=sequence, price_ticks=1, quantity_lots=1, exchange_at_ms=0, observed_at_ms=0
    )
    headers = headers_of(tick, symbol, f"{symbol}/{sequence}")
    return Poison(MARKET_DATA.name, symbol.encode(), tick.model_dump_json().encode(), headers)
