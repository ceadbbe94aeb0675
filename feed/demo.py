"""The demo's reference data, `feed/demo.json`: a file as `python -m app refdata load` takes it."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from app.operators.refdata_files import Entry, read_file
from models.commands import SetCounterparty, SetInstrument
from models.values import Instrument

DEMO: Final = Path(__file__).with_name("demo.json")


@cache
def _entries() -> tuple[Entry, ...]:
    return tuple(read_file(DEMO))


def set_instruments() -> list[SetInstrument]:
    """Commands that list the demo's instruments, of version 0 and by nobody."""
    return [each.command for each in _entries() if isinstance(each.command, SetInstrument)]


def set_counterparties() -> list[SetCounterparty]:
    """Commands that register the demo's counterparties, of version 0 and by nobody."""
    return [each.command for each in _entries() if isinstance(each.command, SetCounterparty)]


def instruments() -> Mapping[str, Instrument]:
    """The demo's instruments by symbol."""
    return {each.instrument.symbol: each.instrument for each in set_instruments()}
