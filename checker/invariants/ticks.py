"""Market data: what can't be read or believed is a dead letter (I5), and nothing waits behind it (I7).

Of all the others prices are made. A tick that nobody can take at its word, a far-off print or a jump of the
numbering, waits for one that bears it out, and is itself never a price. Which ticks may be the last one is
worked out here as a set of possibilities: where the rules leave more than one, any of them will do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from checker.findings import Findings
from checker.history import Market
from checker.records import MARKET_DATA, DeadLetter, Origin, PriceUpdated, Raw, TickReceived, read_tick
from checker.reference import Reference
from checker.shards import is_elsewhere

I5, I7 = "I5", "I7"
MARKETDATA = "marketdata"
CLOCK_SKEW_MS_MAX = 1_000
SEQUENCE_JUMP_MAX: Final = 1_000_000
FAR_OFF_PERCENT: Final = 20
POSSIBILITIES_MAX: Final = 64


class Last(NamedTuple):
    """The tick that a symbol's last price is made of."""

    epoch: int
    sequence: int
    price_ticks: int
    observed_at_ms: int


class Possible(NamedTuple):
    """One way in which a symbol may stand.

    `last` is the tick that its price is made of. `epoch` and `sequence` are of the last tick in line, whose
    price may have to wait; `newest_at_ms` is when a tick in line was observed last. `unnumbered` is a tick
    that waits for its number, `unpriced` one that waits for its price. `gaps` are None once the rules leave
    them open.
    """

    last: Last
    epoch: int
    sequence: int
    newest_at_ms: int
    gaps: int | None
    unnumbered: TickReceived | None = None
    unpriced: TickReceived | None = None


class Priced(NamedTuple):
    """A price and where it stands."""

    origin: Origin
    price: PriceUpdated


@dataclass
class Ticks:
    """The records of `market-data` by what must become of them; `possible` is what they make of each symbol.

    What cannot be read or believed (`unusable`) is buried alone: a symbol is shared by all accounts, and its
    next tick makes up for one that is lost. `held_back` are ticks that may never have become a price,
    `unsure` symbols of which there are too many possibilities, and `rescaled` those whose prices were not
    always in the same ticks: from where on marketdata began anew the log does not tell. `buried` are the dead
    letters' origins.
    """

    reference: Reference = field(default_factory=Reference)
    buried: AbstractSet[Origin] = frozenset()
    unusable: list[Origin] = field(default_factory=list)
    possible: dict[str, list[Possible]] = field(default_factory=dict)
    held_back: set[tuple[str, int, int, int, int]] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    rescaled: set[str] = field(default_factory=set)
    priced: list[Priced] = field(default_factory=list)

    def look(self, records: Sequence[Raw], partitions: int = 1) -> list[TickReceived]:
        """Sort them; returns the ticks that can be read."""
        read = []
        for record in records:
            tick = read_tick(record.key, record.value, record.headers).event
            if is_elsewhere(record.key, record.partition, partitions):
                tick = None
            if tick is not None:
                read.append(tick)
            origin = Origin(record.topic, record.partition, record.offset)
            if tick is None or not self._is_believable(tick, record.timestamp):
                self.unusable.append(origin)
            elif origin not in self.buried:  # else its instrument's listing had not been read yet
                self._fold(tick)
        return read

    def _is_believable(self, tick: TickReceived, logged_at_ms: int) -> bool:
        """Whether a tick may be true: of an instrument ever listed, positive, not from the future."""
        listed = self.reference.instruments
        is_told = any(True for _ in listed)  # a release before kept them elsewhere
        return (
            (tick.symbol in listed or not is_told)
            and min(tick.sequence, tick.price_ticks, tick.quantity_lots) > 0
            and tick.observed_at_ms <= logged_at_ms + CLOCK_SKEW_MS_MAX
        )

    def _fold(self, tick: TickReceived) -> None:
        if tick.symbol in self.unsure or tick.symbol in self.rescaled:
            return
        before = self.possible.get(tick.symbol)
        if before is None and self.reference.was_rescaled(tick.symbol):
            self.rescaled.add(tick.symbol)
            return
        ways = (_after(state, tick) for state in before) if before else [_first(tick)]
        after = list(dict.fromkeys(each for way in ways for each in way))
        if len(after) > POSSIBILITIES_MAX:
            self.unsure.add(tick.symbol)
        self.possible[tick.symbol] = after
        if any(each.last == _made_of(tick) for each in after):
            self.held_back.discard(_identity(tick))
        elif any(tick in (each.unnumbered, each.unpriced) for each in after):
            self.held_back.add(_identity(tick))


def _identity(tick: TickReceived) -> tuple[str, int, int, int, int]:
    return tick.symbol, tick.epoch, tick.sequence, tick.price_ticks, tick.observed_at_ms


def _made_of(tick: TickReceived) -> Last:
    return Last(tick.epoch, tick.sequence, tick.price_ticks, tick.observed_at_ms)


def _first(tick: TickReceived) -> Iterator[Possible]:
    """A symbol's first tick counts; how many came before one with a high number nobody can say."""
    gaps = tick.sequence - 1 if tick.sequence <= SEQUENCE_JUMP_MAX else None
    yield Possible(_made_of(tick), tick.epoch, tick.sequence, tick.observed_at_ms, gaps)


def _after(state: Possible, tick: TickReceived) -> Iterator[Possible]:
    """Every way in which a symbol may stand after one more tick."""
    borne_out = _is_borne_out(state.unnumbered, tick)
    if tick.epoch > state.epoch:
        yield from _priced(state, tick, gaps=None)
        return
    step = tick.sequence - state.sequence
    if tick.epoch == state.epoch and 0 < step <= SEQUENCE_JUMP_MAX:
        yield from _priced(state, tick, None if state.gaps is None else state.gaps + step - 1)
        return
    if borne_out is not False:
        yield from _priced(state, tick, gaps=None)
    if borne_out is True:
        return
    jumps = tick.epoch == state.epoch and step > 0
    may_wait = jumps or tick.observed_at_ms > state.newest_at_ms
    if may_wait:
        yield state._replace(unnumbered=tick)
    is_open = state.unnumbered is not None or tick.epoch < state.epoch or borne_out is None
    if not may_wait or is_open:  # it comes late, or one that waits already goes on waiting
        yield state
        yield state._replace(unnumbered=None)


def _is_borne_out(held: TickReceived | None, tick: TickReceived) -> bool | None:
    """Whether a tick continues one that waits for its number; None where that can be read either way."""
    if held is None or tick.epoch != held.epoch or not 0 < tick.sequence - held.sequence <= SEQUENCE_JUMP_MAX:
        return False
    return True if tick.sequence == held.sequence + 1 and tick.observed_at_ms >= held.observed_at_ms else None


def _priced(state: Possible, tick: TickReceived, gaps: int | None) -> Iterator[Possible]:
    """A tick in line: its price counts if it is near the last one, or near one that waits."""
    newest_at_ms = max(state.newest_at_ms, tick.observed_at_ms)
    for unnumbered in {state.unnumbered, None}:  # whether one outlives a tick in line the rules leave open
        line = Possible(state.last, tick.epoch, tick.sequence, newest_at_ms, gaps, unnumbered, state.unpriced)
        held = state.unpriced
        is_near = not _is_far_off(tick.price_ticks, state.last.price_ticks)
        if is_near or (held is not None and not _is_far_off(tick.price_ticks, held.price_ticks)):
            yield line._replace(last=_made_of(tick), unpriced=None)
            if held is not None and is_near:
                yield line._replace(last=_made_of(tick))
        else:
            yield line._replace(unpriced=tick)
            if held is not None:
                yield line


def _is_far_off(price_ticks: int, from_ticks: int) -> bool:
    return abs(price_ticks - from_ticks) * 100 > FAR_OFF_PERCENT * from_ticks


def check_ticks(
    ticks: Ticks,
    letters: Iterable[DeadLetter],
    prices: Mapping[str, PriceUpdated] | None,
    market: Market | None = None,
) -> Findings:
    """Compare with what marketdata has made of them, once it has taken in everything.

    `prices` are the last ones of each symbol; None when ticks are gone, so that nobody can tell. `market` has
    every tick that was seen.
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
        _check_priced(ticks, market, found)
        _check_last(ticks, prices, found)
    return found


def _check_priced(ticks: Ticks, market: Market | None, found: Findings) -> None:
    for origin, price in ticks.priced:
        made_of = (price.price_ticks, price.observed_at_ms)
        seen = market.find(price.symbol, price.epoch, price.tick_sequence) if market else [made_of]
        if made_of not in seen:
            found.violate(I7, "a price is made of a tick that nobody has seen", origin)
        elif (price.symbol, price.epoch, price.tick_sequence, *made_of) in ticks.held_back:
            found.violate(I7, "a price is made of a tick that had to be borne out first", origin)


def _check_last(ticks: Ticks, prices: Mapping[str, PriceUpdated], found: Findings) -> None:
    for symbol in ticks.possible.keys() | prices.keys():
        if symbol in ticks.rescaled:
            found.skip(I5, "an instrument's ticks have changed, and nobody can tell at which one", symbol)
        elif symbol in ticks.unsure:
            found.skip(I5, "the rules leave too many possibilities for the last price", symbol)
        elif not any(_is_price(each, prices.get(symbol)) for each in ticks.possible.get(symbol, ())):
            found.violate(I5, "a last price is not what the ticks make", symbol)


def _is_price(state: Possible, price: PriceUpdated | None) -> bool:
    if price is None:
        return False
    made_of = Last(price.epoch, price.tick_sequence, price.price_ticks, price.observed_at_ms)
    return state.last == made_of and state.gaps in (None, price.gaps)
