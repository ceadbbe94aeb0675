"""Market data: what can't be read or believed is a dead letter (I5), and nothing waits behind it (I7).

Of all the others the last price is made, which counts the ticks that never came: one that marketdata has lost
shows there (I5).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from checker.findings import Findings
from checker.records import MARKET_DATA, DeadLetter, Origin, PriceUpdated, Raw, TickReceived, read_tick
from models.values import INSTRUMENTS

I5, I7 = "I5", "I7"
MARKETDATA = "marketdata"
CLOCK_SKEW_MS_MAX = 1_000


@dataclass
class Ticks:
    """The records of `market-data` by what must become of them; `prices` is what they make of each symbol.

    What cannot be read or believed (`unusable`) is buried alone: a symbol is shared by all accounts, and its
    next tick makes up for one that is lost.
    """

    unusable: list[Origin] = field(default_factory=list)
    prices: dict[str, PriceUpdated] = field(default_factory=dict)

    def look(self, records: Sequence[Raw]) -> list[TickReceived]:
        """Sort them; returns the ticks that can be read."""
        read = []
        for record in records:
            tick, _ = read_tick(record.key, record.value, record.headers)
            if tick is not None:
                read.append(tick)
            if tick is not None and is_believable(tick, record.timestamp):
                self._fold(tick)
            else:
                self.unusable.append(Origin(record.topic, record.partition, record.offset))
        return read

    def _fold(self, tick: TickReceived) -> None:
        before = self.prices.get(tick.symbol)
        last, gaps = (before.tick_sequence, before.gaps) if before else (0, 0)
        if tick.sequence > last:
            gaps += tick.sequence - last - 1
            self.prices[tick.symbol] = PriceUpdated(
                tick.symbol, tick.price_ticks, tick.sequence, tick.observed_at_ms, gaps
            )


def is_believable(tick: TickReceived, logged_at_ms: int) -> bool:
    """Whether a tick may be true: of an instrument of ours, positive, and not from the future."""
    return (
        tick.symbol in INSTRUMENTS
        and min(tick.sequence, tick.price_ticks, tick.quantity_lots) > 0
        and tick.observed_at_ms <= logged_at_ms + CLOCK_SKEW_MS_MAX
    )


def check_ticks(
    ticks: Ticks, letters: Iterable[DeadLetter], prices: Mapping[str, PriceUpdated] | None
) -> Findings:
    """Compare with what marketdata has made of them, once it has taken in everything.

    `prices` are the last ones of each symbol; None when ticks are gone, so that nobody can tell.
    """
    found = Findings()
    theirs = [each for each in letters if (each.service, each.origin.topic) == (MARKETDATA, MARKET_DATA)]
    buried = {each.origin for each in theirs}
    for origin in ticks.unusable:
        if origin not in buried:
            found.violate(I5, "a tick that nobody can read or believe is no dead letter", origin)
    for letter in theirs:
        if letter.behind is not None:
            found.violate(I7, "a tick waits behind a dead letter of its symbol", letter.origin)
    if prices is not None:
        for symbol in ticks.prices.keys() | prices.keys():
            if ticks.prices.get(symbol) != prices.get(symbol):
                found.violate(I5, "a last price is not what the ticks make", symbol)
    return found
