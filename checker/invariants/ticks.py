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
from checker.reference import BINDS_WITHIN_MS, Reference, Unreadable
from checker.shards import is_elsewhere

I5, I7 = "I5", "I7"
MARKETDATA = "marketdata"
CLOCK_SKEW_MS_MAX = 1_000
SEQUENCE_JUMP_MAX: Final = 1_000_000
FAR_OFF_PERCENT: Final = 20
POSSIBILITIES_MAX: Final = 64


class Last(NamedTuple):
    """The tick that a symbol's last price is made of; `gaps` are None once the rules leave them open."""

    epoch: int
    sequence: int
    price_ticks: int
    observed_at_ms: int
    gaps: int | None


class Possible(NamedTuple):
    """One way in which a symbol may stand: its last tick, and one that waits to be borne out."""

    last: Last | None = None
    held: TickReceived | None = None


class Priced(NamedTuple):
    """A price and where it stands."""

    origin: Origin
    price: PriceUpdated


@dataclass
class Ticks:
    """The records of `market-data` by what must become of them; `possible` is what they make of each symbol.

    What cannot be read or believed (`unusable`) is buried alone: a symbol is shared by all accounts, and its
    next tick makes up for one that is lost. `held_back` are ticks that may never have become a price,
    `unsure` symbols of which there are too many possibilities. `buried` are the dead letters' origins.
    """

    reference: Reference = field(default_factory=Reference)
    buried: AbstractSet[Origin] = frozenset()
    unusable: list[Origin] = field(default_factory=list)
    possible: dict[str, list[Possible]] = field(default_factory=dict)
    held_back: set[tuple[str, int, int, int, int]] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
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
            usable = tick is not None and self._is_believable(tick, record.timestamp)
            if tick is not None and (usable or (usable is None and origin not in self.buried)):
                self._fold(tick)
            elif usable is False:
                self.unusable.append(origin)
        return read

    def _is_believable(self, tick: TickReceived, logged_at_ms: int) -> bool | None:
        """Whether a tick may be true; None where it depends on when its instrument's listing was read."""
        if min(tick.sequence, tick.price_ticks, tick.quantity_lots) <= 0:
            return False
        if tick.observed_at_ms > logged_at_ms + CLOCK_SKEW_MS_MAX:
            return False
        listed, since_ms = self.reference.instruments, logged_at_ms - BINDS_WITHIN_MS
        if tick.symbol not in listed:
            return False if any(True for _ in listed) else None
        told = listed.between(tick.symbol, since_ms, 1 << 62)
        return None if any(each is None or isinstance(each, Unreadable) for each in told) else True

    def _fold(self, tick: TickReceived) -> None:
        if tick.symbol in self.unsure:
            return
        before = self.possible.get(tick.symbol, [Possible()])
        after = list(dict.fromkeys(each for state in before for each in _after(state, tick)))
        if len(after) > POSSIBILITIES_MAX:
            self.unsure.add(tick.symbol)
        self.possible[tick.symbol] = after
        if any(each.last is not None and _is_made_of(each.last, tick) for each in after):
            self.held_back.discard(_identity(tick))
        elif any(each.held is tick for each in after):
            self.held_back.add(_identity(tick))


def _identity(tick: TickReceived) -> tuple[str, int, int, int, int]:
    return tick.symbol, tick.epoch, tick.sequence, tick.price_ticks, tick.observed_at_ms


def _is_made_of(last: Last, tick: TickReceived) -> bool:
    return last[:4] == (tick.epoch, tick.sequence, tick.price_ticks, tick.observed_at_ms)


def _after(state: Possible, tick: TickReceived) -> Iterator[Possible]:
    """Every way in which a symbol may stand after one more tick."""
    last, held = state
    borne_out = _bears_out(last, held, tick) if held is not None else False
    if borne_out is not False:
        yield Possible(_taken(last, tick, gaps=None))
    if borne_out is True:
        return
    takes, holds = _fate(last, tick)
    rest = (
        (None,) if held is None else (None, held)
    )  # whether a candidate outlives what comes between is open
    if takes:
        gaps = _gaps(last, tick)
        yield from (Possible(_taken(last, tick, gaps=gaps), each) for each in rest)
    if holds:
        yield Possible(last, tick)
    if not takes and not holds:  # it comes late
        yield from (Possible(last, each) for each in rest)
    elif not takes and held is not None:
        yield state


def _fate(last: Last | None, tick: TickReceived) -> tuple[bool, bool]:
    """Whether a tick may become the last one, and whether it may be held until another bears it out."""
    leaps = tick.sequence > SEQUENCE_JUMP_MAX
    if last is None:
        return True, leaps
    if tick.epoch < last.epoch:
        return False, False
    if _is_old(last, tick):
        return False, tick.observed_at_ms > last.observed_at_ms
    if _is_far_off(tick.price_ticks, last.price_ticks):
        return False, True
    if tick.epoch > last.epoch:
        return True, leaps
    jumps = tick.sequence - last.sequence > SEQUENCE_JUMP_MAX
    return not jumps, jumps


def _is_old(last: Last | None, tick: TickReceived) -> bool:
    """Whether its numbering says that a later tick has come."""
    return last is not None and (tick.epoch, tick.sequence) <= (last.epoch, last.sequence)


def _bears_out(last: Last | None, held: TickReceived, tick: TickReceived) -> bool | None:
    """Whether a tick makes a held one true; None where the rules can be read either way."""
    follows = tick.epoch == held.epoch and 0 < tick.sequence - held.sequence <= SEQUENCE_JUMP_MAX
    is_near = not _is_far_off(tick.price_ticks, held.price_ticks)
    if last is None or not _is_numbered_on(last, held):  # held for its number
        if not follows:
            return False
        return True if tick.sequence == held.sequence + 1 and is_near else None
    if not is_near:
        return False
    return True if follows else None if not _is_old(last, tick) else False


def _is_numbered_on(last: Last, tick: TickReceived) -> bool:
    if tick.epoch != last.epoch:
        return tick.epoch > last.epoch
    return 0 < tick.sequence - last.sequence <= SEQUENCE_JUMP_MAX


def _is_far_off(price_ticks: int, from_ticks: int) -> bool:
    return abs(price_ticks - from_ticks) * 100 > FAR_OFF_PERCENT * from_ticks


def _gaps(last: Last | None, tick: TickReceived) -> int | None:
    """The gaps after a tick; None after numbering has begun anew."""
    if last is None:
        return tick.sequence - 1
    if last.gaps is None or tick.epoch != last.epoch:
        return None
    return last.gaps + tick.sequence - last.sequence - 1


def _taken(last: Last | None, tick: TickReceived, *, gaps: int | None) -> Last:
    return Last(tick.epoch, tick.sequence, tick.price_ticks, tick.observed_at_ms, gaps)


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
        if symbol in ticks.unsure:
            found.skip(I5, "the rules leave too many possibilities for the last price", symbol)
        elif not any(_is_price(each.last, prices.get(symbol)) for each in _ways(ticks, symbol)):
            found.violate(I5, "a last price is not what the ticks make", symbol)


def _ways(ticks: Ticks, symbol: str) -> Sequence[Possible]:
    return ticks.possible.get(symbol, [Possible()])


def _is_price(last: Last | None, price: PriceUpdated | None) -> bool:
    if last is None or price is None:
        return last is None and price is None
    made_of = (price.epoch, price.tick_sequence, price.price_ticks, price.observed_at_ms)
    return last[:4] == made_of and last.gaps in (None, price.gaps)
