"""Market data: many ticks of a symbol become its last price, and no single wild tick stops it.

A feed numbers the ticks of a symbol within a session (`epoch`). A tick whose number or price is far from the
last one is held until another one bears it out.
"""

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from app.domain.errors import RefusedInput
from models.events import InstrumentListed, MarketDataAlert, PriceUpdated, TickReceived
from models.reasons import MarketDataFault
from models.values import Frozen

CLOCK_SKEW_MS_MAX: Final = 1_000
"""How far the feed's clock may run ahead of the broker's."""

SEQUENCE_JUMP_MAX: Final = 1_000_000
"""How many ticks may be missing between two before the second has to be borne out."""

CONTINUED_WITHIN: Final = 1_000
"""How far above a tick that is held another one may be numbered and still bear it out."""

PRICE_STEP_PERCENT_MAX: Final = 20
"""How far a price may be off the last one before a second print has to bear it out.

Of the 100,000 real trades that we replay the largest step is 6.8 %, and 19.9 % where the data begin anew. A
price with a wrong unit is off by a factor of ten or more. Exchanges take 10 to 20 % to be erroneous prints
(Nasdaq rule 11890, numerical guidelines below 25 dollars).
"""

FEED_SILENT_MS: Final = 10_000
"""After so long without a tick in line, ticks of a lower session are no longer those of a feed replaced."""


class HeldTick(Frozen):
    """A tick that does not count until another one bears it out."""

    epoch: int
    sequence: int
    price_ticks: int
    observed_at_ms: int


class LastPrice(Frozen):
    """The newest tick of one symbol that counts. Table `last_prices`, key symbol, written by marketdata.

    `gaps` counts the tick sequences that had not come when a later one did. `seen_epoch` and `seen_sequence`
    are those of the last tick in line, whose price may be held; `newest_at_ms` is the highest
    `observed_at_ms` in line. `out_of_line` is a tick held for its number, `far_off` one held for its price.
    `late`, `jumps`, `resets` and `far_offs` count ticks ignored, numbers that jumped, numberings that began
    anew and prices held. `scale` is that of the instrument's ticks when the price came.
    """

    symbol: str
    price_ticks: int
    tick_sequence: int
    observed_at_ms: int
    gaps: int
    epoch: int = 0
    seen_epoch: int = 0
    seen_sequence: int = 0
    newest_at_ms: int = 0
    out_of_line: HeldTick | None = None
    far_off: HeldTick | None = None
    late: int = 0
    jumps: int = 0
    resets: int = 0
    far_offs: int = 0
    scale: int = 1

    @property
    def cursor(self) -> tuple[int, int]:
        """Session and number of the last tick in line; older states keep that of the price alone."""
        return (
            (self.seen_epoch, self.seen_sequence) if self.seen_sequence else (self.epoch, self.tick_sequence)
        )


class Taken(NamedTuple):
    """What a tick makes of a symbol, and what people should know about it."""

    state: LastPrice
    alerts: tuple[MarketDataAlert, ...] = ()


class _Place(Enum):
    """Where a tick stands to the ones before it."""

    IN_LINE = auto()
    NEW_SESSION = auto()
    BORNE_OUT = auto()
    JUMP = auto()
    BEHIND_BUT_NEWER = auto()
    LATE = auto()


def apply_tick(
    state: LastPrice | None, tick: TickReceived, *, received_at_ms: int, listed: InstrumentListed | None
) -> Taken:
    """Fold one tick in; a late one is only counted.

    `state` is None before the symbol's first tick, `received_at_ms` the broker's log append time of the tick,
    `listed` the symbol's instrument, None if there is none. Raises RefusedInput for a tick that cannot be
    true. One that claims to come from the future is among them: its price would never grow stale.
    """
    scale = _sound(tick, received_at_ms, listed).scale
    if state is None:
        return Taken(_first(tick, scale))
    place = _place(state, tick)
    if place is _Place.IN_LINE:
        seen = _seen(state, tick, missing=tick.sequence - state.cursor[1] - 1)
        return _priced(state, tick, scale, seen)
    if place is _Place.NEW_SESSION:
        return _renumbered(state, tick, scale, missing=_missing_before(tick))
    if place is _Place.BORNE_OUT and state.out_of_line is not None:
        return _borne_out(state, state.out_of_line, tick, scale)
    if place is _Place.JUMP:
        detail = f"{tick.sequence} after {state.cursor[1]}: held until the next tick continues it"
        alert = _alert(tick, MarketDataFault.SEQUENCE_JUMP, detail)
        return Taken(_with(state, out_of_line=_held(tick), jumps=state.jumps + 1), (alert,))
    if place is _Place.BEHIND_BUT_NEWER:
        return Taken(_with(state, out_of_line=_held(tick), late=state.late + 1))
    return Taken(_with(state, late=state.late + 1))


def to_price(state: LastPrice) -> PriceUpdated:
    """What the other services learn of a symbol."""
    return PriceUpdated(
        symbol=state.symbol,
        price_ticks=state.price_ticks,
        tick_sequence=state.tick_sequence,
        observed_at_ms=state.observed_at_ms,
        gaps=state.gaps,
        epoch=state.epoch,
        scale=state.scale,
    )


def _first(tick: TickReceived, scale: int) -> LastPrice:
    return LastPrice(
        symbol=tick.symbol,
        price_ticks=tick.price_ticks,
        tick_sequence=tick.sequence,
        observed_at_ms=tick.observed_at_ms,
        gaps=_missing_before(tick),
        epoch=tick.epoch,
        seen_epoch=tick.epoch,
        seen_sequence=tick.sequence,
        newest_at_ms=tick.observed_at_ms,
        scale=scale,
    )


def _place(state: LastPrice, tick: TickReceived) -> _Place:
    epoch, sequence = state.cursor
    if tick.epoch > epoch:
        return _Place.NEW_SESSION
    if tick.epoch == epoch and sequence < tick.sequence <= sequence + SEQUENCE_JUMP_MAX:
        return _Place.IN_LINE
    if state.out_of_line is not None and _continues(tick, state.out_of_line):
        return _Place.BORNE_OUT
    if tick.epoch == epoch and tick.sequence > sequence:
        return _Place.JUMP
    silent_ms = FEED_SILENT_MS if tick.epoch < epoch else 0
    if tick.observed_at_ms > max(state.newest_at_ms, state.observed_at_ms) + silent_ms:
        return _Place.BEHIND_BUT_NEWER
    return _Place.LATE


def _continues(tick: TickReceived, held: HeldTick) -> bool:
    """Whether the feed goes on behind a tick that is held; a repeat was observed before it."""
    return (
        tick.epoch == held.epoch
        and 0 < tick.sequence - held.sequence <= CONTINUED_WITHIN
        and tick.observed_at_ms >= held.observed_at_ms
    )


def _borne_out(state: LastPrice, held: HeldTick, tick: TickReceived, scale: int) -> Taken:
    """The numbering goes on from the tick that was held: further on, or anew."""
    missing = tick.sequence - held.sequence - 1
    if (tick.epoch, tick.sequence) < state.cursor:
        return _renumbered(state, tick, scale, missing)
    alert = _alert(tick, MarketDataFault.SEQUENCE_JUMP, f"taken: it continues tick {held.sequence}")
    return _priced(state, tick, scale, _seen(state, tick, missing), alert)


def _renumbered(state: LastPrice, tick: TickReceived, scale: int, missing: int) -> Taken:
    epoch, sequence = state.cursor
    alert = _alert(
        tick,
        MarketDataFault.SEQUENCE_RESET,
        f"taken: the feed numbers anew after tick {sequence} of session {epoch}",
    )
    seen = _seen(state, tick, missing) | {"resets": state.resets + 1}
    return _priced(state, tick, scale, seen, alert)


def _seen(state: LastPrice, tick: TickReceived, missing: int) -> dict[str, Any]:
    """What changes when a tick is in line, whatever becomes of its price."""
    return {
        "seen_epoch": tick.epoch,
        "seen_sequence": tick.sequence,
        "newest_at_ms": max(state.newest_at_ms, state.observed_at_ms, tick.observed_at_ms),
        "gaps": state.gaps + missing,
        "out_of_line": None,
    }


def _priced(
    state: LastPrice, tick: TickReceived, scale: int, changed: dict[str, Any], *alerts: MarketDataAlert
) -> Taken:
    """Take over the price of a tick in line, if it is near the last one or another print bears it out.

    The last one is no measure of it where ticks have had another `scale` then: the symbol begins anew.
    """
    far_off = state.far_off
    if (
        scale != state.scale
        or is_near(tick.price_ticks, state.price_ticks)
        or (far_off is not None and is_near(tick.price_ticks, far_off.price_ticks))
    ):
        changed |= {
            "price_ticks": tick.price_ticks,
            "tick_sequence": tick.sequence,
            "observed_at_ms": tick.observed_at_ms,
            "epoch": tick.epoch,
            "far_off": None,
            "scale": scale,
        }
        return Taken(_with(state, **changed), alerts)
    detail = f"{tick.price_ticks} ticks after {state.price_ticks}: held until a second print is near it"
    changed |= {"far_off": _held(tick), "far_offs": state.far_offs + 1}
    return Taken(_with(state, **changed), (*alerts, _alert(tick, MarketDataFault.PRICE_FAR_OFF, detail)))


def is_near(price_ticks: int, other_ticks: int) -> bool:
    return abs(price_ticks - other_ticks) * 100 <= other_ticks * PRICE_STEP_PERCENT_MAX


def _missing_before(first: TickReceived) -> int:
    """How many ticks of a session are missing before the first one seen; from far on nobody can say."""
    return first.sequence - 1 if first.sequence <= SEQUENCE_JUMP_MAX else 0


def _with(state: LastPrice, **changed: Any) -> LastPrice:
    return state.model_copy(update=changed)


def _held(tick: TickReceived) -> HeldTick:
    return HeldTick(
        epoch=tick.epoch,
        sequence=tick.sequence,
        price_ticks=tick.price_ticks,
        observed_at_ms=tick.observed_at_ms,
    )


def _alert(tick: TickReceived, fault: MarketDataFault, detail: str) -> MarketDataAlert:
    return MarketDataAlert(
        symbol=tick.symbol, fault=fault, epoch=tick.epoch, sequence=tick.sequence, detail=detail
    )


def _sound(tick: TickReceived, received_at_ms: int, listed: InstrumentListed | None) -> InstrumentListed:
    """The instrument of a tick that may be true; raises RefusedInput for any other."""
    if listed is None:
        raise _refused(tick, "its symbol is no instrument of ours: list it first")
    if tick.sequence <= 0:
        raise _refused(tick, f"sequences count from 1, this one is {tick.sequence}")
    if tick.price_ticks <= 0:
        raise _refused(tick, f"its price is {tick.price_ticks} ticks, not positive")
    if tick.quantity_lots <= 0:
        raise _refused(tick, f"its quantity is {tick.quantity_lots} lots, not positive")
    if tick.observed_at_ms > received_at_ms + CLOCK_SKEW_MS_MAX:
        raise _refused(tick, f"it was observed {tick.observed_at_ms - received_at_ms} ms after it was logged")
    return listed


def _refused(tick: TickReceived, why: str) -> RefusedInput:
    return RefusedInput(f"tick {tick.sequence} of {tick.symbol[:32]!r} is refused: {why}")
