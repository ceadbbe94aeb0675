"""Says what an integer with its unit in its name means, for people: `price_ticks` 90000 is 900.00 USD."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from models.events import InstrumentListed
from models.values import Instrument

MICROS = Decimal("0.000001")


class Words:
    """Units by the instruments in force: `listed`, by symbol, as it is when somebody asks.

    `currency` is that of cash which belongs to no instrument; without it the only one listed.
    """

    def __init__(self, listed: Mapping[str, InstrumentListed], currency: str = "") -> None:
        self._listed = listed
        self._cash = currency

    def __call__(self, path: Sequence[str], value: int, within: Sequence[Mapping[str, Any]]) -> str | None:
        """The value of the field at `path` in its unit, None where the name tells none.

        `within` are the objects around it, the outermost first: the nearest that names a symbol, or is named
        by one, tells what ticks and lots are.
        """
        name = path[-1].removesuffix("_max").removesuffix("_min")
        instrument = self._instrument(path, within)
        if name.endswith("_at_ms"):
            return _moment(value)
        if name.endswith("_ms"):
            return f"{Decimal(value) / 1000:,} s"
        if name.endswith("_bps"):
            return f"{Decimal(value) / 100:,} %"
        if name.endswith("_micros"):
            return f"{value * MICROS:,.2f} {self._currency(instrument)}".rstrip()
        if instrument is not None and name.endswith("_ticks"):
            return f"{value * instrument.tick:,} {instrument.currency}"
        if instrument is not None and name.endswith("_tick_lots"):
            return f"{value * instrument.micros_per_tick_lot * MICROS:,.2f} {instrument.currency}"
        if instrument is not None and name.endswith("_lots"):
            return f"{value * instrument.lot:,} {instrument.base}"
        return None

    def _instrument(self, path: Sequence[str], within: Sequence[Mapping[str, Any]]) -> Instrument | None:
        names = ["", *path[:-1]]  # the outermost object has no name
        for name, each in zip(reversed(names), reversed(within), strict=False):
            for symbol in (each.get("symbol"), name):
                if isinstance(symbol, str) and symbol in self._listed:
                    return self._listed[symbol].instrument
        return None

    def _currency(self, instrument: Instrument | None) -> str:
        if instrument is not None:
            return instrument.currency
        if self._cash:
            return self._cash
        currencies = {each.instrument.currency for each in self._listed.values()}
        return currencies.pop() if len(currencies) == 1 else ""


def _moment(at_ms: int) -> str | None:
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):  # a client's clock may say anything
        return None
    return f"{moment:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d} UTC"
