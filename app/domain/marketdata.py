"""Market data: many ticks of a symbol become its last price."""

from typing import Final

from app.domain.errors import RefusedInput
from models.events import PriceUpdated, TickReceived
from models.values import INSTRUMENTS, Frozen

CONFLATION_S: Final = 0.05
"""How long ticks gather behind prices that have gone out."""
CLOCK_SKEW_MS_MAX: Final = 1_000
"""How far the feed's clock may run ahead of the broker's."""


class LastPrice(Frozen):
    """The newest tick of one symbol. Table `last_prices`, key symbol, written by marketdata.

    `gaps` counts the tick sequences that had not come when a later one did.
    """

    symbol: str
    price_ticks: int
    tick_sequence: int
    observed_at_ms: int
    gaps: int


def apply_tick(state: LastPrice | None, tick: TickReceived, *, received_at_ms: int) -> LastPrice:
    """Fold one tick in; a late one, whose sequence is not above the last, changes nothing.

    `state` is None before the symbol's first tick, `received_at_ms` the broker's log append time of the tick.
    Raises RefusedInput for a tick that cannot be true. One that claims to come from the future is among
    them: its price would never grow stale.
    """
    if tick.symbol not in INSTRUMENTS:
        raise _refused(tick, "its symbol is no instrument of ours")
    if tick.sequence <= 0:
        raise _refused(tick, f"sequences count from 1, this one is {tick.sequence}")
    if tick.price_ticks <= 0:
        raise _refused(tick, f"its price is {tick.price_ticks} ticks, not positive")
    if tick.quantity_lots <= 0:
        raise _refused(tick, f"its quantity is {tick.quantity_lots} lots, not positive")
    if tick.observed_at_ms > received_at_ms + CLOCK_SKEW_MS_MAX:
        raise _refused(tick, f"it was observed {tick.observed_at_ms - received_at_ms} ms after it was logged")
    sequence_last, gaps = (state.tick_sequence, state.gaps) if state else (0, 0)
    if state is not None and tick.sequence <= sequence_last:
        return state
    return LastPrice(
        symbol=tick.symbol,
        price_ticks=tick.price_ticks,
        tick_sequence=tick.sequence,
        observed_at_ms=tick.observed_at_ms,
        gaps=gaps + tick.sequence - sequence_last - 1,
    )


def to_price(state: LastPrice) -> PriceUpdated:
    """What the other services learn of a symbol."""
    return PriceUpdated(
        symbol=state.symbol,
        price_ticks=state.price_ticks,
        tick_sequence=state.tick_sequence,
        observed_at_ms=state.observed_at_ms,
        gaps=state.gaps,
    )


def _refused(tick: TickReceived, why: str) -> RefusedInput:
    return RefusedInput(f"tick {tick.sequence} of {tick.symbol[:32]!r} is refused: {why}")
