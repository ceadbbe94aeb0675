"""Ticks in, one price a symbol and batch out."""

from typing import Any

from app.domain.errors import RefusedInput
from app.domain.marketdata import apply_tick, to_price
from app.engine import Poison, unit_of_work
from app.marketdata import app
from app.topics import MARKET_DATA, PRICES
from tables.last_prices import LAST_PRICES


@app.agent(app.inputs(MARKET_DATA))
async def conflate(batches: Any) -> None:
    """Fold a batch of ticks into the last prices; what changed goes out once."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            changed = {}
            for record in work.records():
                tick = record.value
                before = work[LAST_PRICES].get(tick.symbol)
                try:
                    state = apply_tick(before, tick, received_at_ms=record.timestamp_ms)
                except RefusedInput as refusal:  # a symbol is everybody's, and its next tick says it all
                    raise Poison(str(refusal), holds_key=False) from refusal
                if state is not before:
                    work[LAST_PRICES][tick.symbol] = changed[tick.symbol] = state
            for symbol, state in changed.items():
                tick_id = f"{symbol}/{state.tick_sequence}"
                work.emit(PRICES, to_price(state), event_id=tick_id, correlation_id=symbol)
