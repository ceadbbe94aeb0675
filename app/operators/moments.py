"""Times as people write and read them."""

from datetime import UTC, datetime
from typing import Final

from app.operators.refdata_kinds import to_ms

DIGITS_MAX: Final = 15


def when(text: str) -> int:
    """A time as people write it, in ms since 1970; raises ValueError with what is wrong."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX else to_ms(text)


def told(at_ms: int) -> str:
    """A time for people."""
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
