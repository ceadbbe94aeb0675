"""I5 and I7 for market data: ticks that can't be read or believed are dead letters; others wait behind."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from checker.findings import Findings
from checker.records import MARKET_DATA, DeadLetter, Origin, Raw, TickReceived, read_tick
from models.values import INSTRUMENTS

I5, I7 = "I5", "I7"
MARKETDATA = "marketdata"
CLOCK_SKEW_MS_MAX = 1_000


@dataclass
class SpoiltTicks:
    """The records of `market-data` that no price may come from, and those that come behind one.

    At the edge what cannot be read is buried alone. A tick that can be read and not believed (`refused`)
    quarantines its key: whatever comes later under it is `behind`.
    """

    unreadable: list[Origin] = field(default_factory=list)
    refused: list[Origin] = field(default_factory=list)
    behind: list[Origin] = field(default_factory=list)
    _refused_keys: set[tuple[int, bytes | None]] = field(default_factory=set)

    def look(self, records: Sequence[Raw]) -> None:
        for record in records:
            origin = Origin(record.topic, record.partition, record.offset)
            place = (record.partition, record.key)
            if place in self._refused_keys:
                self.behind.append(origin)
                continue
            tick = read_tick(record.key, record.value, record.headers)
            if tick is None:
                self.unreadable.append(origin)
            elif not is_believable(tick, record.timestamp):
                self.refused.append(origin)
                self._refused_keys.add(place)


def is_believable(tick: TickReceived, logged_at_ms: int) -> bool:
    """Whether a tick may be true: of an instrument of ours, positive, and not from the future."""
    return (
        tick.symbol in INSTRUMENTS
        and min(tick.sequence, tick.price_ticks, tick.quantity_lots) > 0
        and tick.observed_at_ms <= logged_at_ms + CLOCK_SKEW_MS_MAX
    )


def check_ticks(ticks: SpoiltTicks, letters: Iterable[DeadLetter]) -> Findings:
    """Compare with the dead letters of marketdata, once it has taken in everything."""
    found = Findings()
    theirs = [each for each in letters if (each.service, each.origin.topic) == (MARKETDATA, MARKET_DATA)]
    buried = {each.origin for each in theirs}
    held = {each.origin for each in theirs if each.behind is not None}
    for origin in (*ticks.unreadable, *ticks.refused):
        if origin not in buried:
            found.violate(I5, "a tick that nobody can read or believe is no dead letter", origin)
    for origin in ticks.behind:
        if origin not in held:
            found.violate(I7, "a tick was not held behind the dead letter of its key", origin)
    return found
