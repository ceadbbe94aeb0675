"""Ticks in; out goes one price a symbol and batch, and what was odd about the ticks."""

from app.counts import Count
from app.domain.errors import RefusedInput
from app.domain.marketdata import LastPrice, Taken, apply_tick, to_price
from app.engine import Batches, Record, UnitOfWork, unit_of_work
from app.marketdata import app
from app.topics import INSTRUMENTS, MARKET_ALERTS, PRICES, named
from app.topology import MARKETDATA
from models.events import MarketDataAlert, TickReceived
from tables.last_prices import LAST_PRICES

instruments = app.global_table(INSTRUMENTS)
ODD = Count(
    app,
    "marketdata_odd_ticks_total",
    "Ticks that were late, jumped, began anew or were far off, by kind.",
    "kind",
    "symbol",
)


@app.agent(app.inputs(*named(*MARKETDATA.inputs)))
async def conflate(batches: Batches[TickReceived]) -> None:
    """Fold a batch of ticks into the last prices; what changed goes out once."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            before: dict[str, LastPrice | None] = {}
            alerts: dict[tuple[str, str], MarketDataAlert] = {}
            for record in work.records():
                symbol = record.value.symbol
                state = work[LAST_PRICES].get(symbol)
                taken = fold(work, state, record)
                if taken is not None:
                    before.setdefault(symbol, state)
                    work[LAST_PRICES][symbol] = taken.state
                    alerts |= {(symbol, alert.fault): alert for alert in taken.alerts}
            for symbol in before:
                publish(work, before[symbol], work[LAST_PRICES][symbol])
            for alert in alerts.values():
                alert_id = f"{alert.symbol}/{alert.epoch}/{alert.sequence}/{alert.fault}"
                work.emit(MARKET_ALERTS, alert, event_id=alert_id, correlation_id=alert.symbol)


def fold(work: UnitOfWork, state: LastPrice | None, record: Record[TickReceived]) -> Taken | None:
    """The state after one tick. One that is refused is a dead letter by itself: the next says it all."""
    tick = record.value
    listed = instruments.get(tick.symbol)
    try:
        return apply_tick(state, tick, received_at_ms=record.timestamp_ms, listed=listed)
    except RefusedInput as refusal:
        work.refuse(refusal)
        return None


def publish(work: UnitOfWork, before: LastPrice | None, after: LastPrice) -> None:
    """Tell the price if the batch has changed it, and count what was odd."""
    price = to_price(after)
    if before is None or price != to_price(before):
        tick_id = f"{after.symbol}/{after.seen_epoch}/{after.seen_sequence}"
        work.emit(PRICES, price, event_id=tick_id, correlation_id=after.symbol)
    for kind in ("late", "jumps", "resets", "far_offs"):
        number = getattr(after, kind) - (getattr(before, kind) if before is not None else 0)
        if number:
            ODD.add(work, number, kind=kind, symbol=after.symbol)
