"""Instruments scale integers exactly."""

import pytest

from models.values import INSTRUMENTS, Instrument


@pytest.mark.parametrize(("symbol", "micros"), [("BTC-USD", 1), ("ETH-USD", 10)])
def test_one_tick_of_one_lot_in_micros(symbol: str, micros: int) -> None:
    assert INSTRUMENTS[symbol].notional_micros(price_ticks=1, quantity_lots=1) == micros


@pytest.mark.parametrize("instrument", [*INSTRUMENTS.values()], ids=INSTRUMENTS)
def test_a_tick_of_a_lot_is_a_whole_number_of_micros(instrument: Instrument) -> None:
    assert instrument.micros_per_tick_lot == instrument.tick * instrument.lot * 1_000_000
