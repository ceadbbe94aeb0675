"""Market data: the last price, late ticks, gaps, and ticks that cannot be true."""

from typing import Any

import pytest

from app.domain.errors import RefusedInput
from app.domain.marketdata import LastPrice, apply_tick, to_price
from models.events import PriceUpdated
from tests.builders import NOW_MS, PRICE_TICKS, a_tick


def price_after(*sequences: int) -> LastPrice:
    """The last price after ticks of these sequences, each at a price of its sequence."""
    price = None
    for sequence in sequences:
        price = apply_tick(price, a_tick(sequence=sequence, price_ticks=sequence), received_at_ms=NOW_MS)
    assert price is not None
    return price


def test_the_first_tick_is_the_last_price() -> None:
    assert to_price(apply_tick(None, a_tick(), received_at_ms=NOW_MS)) == PriceUpdated(
        symbol="BTC-USD", price_ticks=PRICE_TICKS, tick_sequence=1, observed_at_ms=NOW_MS, gaps=0
    )


def test_a_later_tick_replaces_the_price() -> None:
    assert price_after(1, 2).price_ticks == 2


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_late_tick_is_ignored(late: int) -> None:
    assert price_after(1, 2, 3, late) == price_after(1, 2, 3)


@pytest.mark.parametrize(("sequences", "gaps"), [((1, 2, 3), 0), ((1, 4), 2), ((3,), 2), ((1, 3, 6, 7), 3)])
def test_gaps_count_the_sequences_that_did_not_come(sequences: tuple[int, ...], gaps: int) -> None:
    assert price_after(*sequences).gaps == gaps


@pytest.mark.parametrize(
    ("absurd", "text"),
    [
        ({"symbol": "DOGE-USD"}, "no instrument"),
        ({"sequence": 0}, "count from 1"),
        ({"price_ticks": 0}, "price is 0 ticks"),
        ({"price_ticks": -1}, "price is -1 ticks"),
        ({"quantity_lots": 0}, "quantity is 0 lots"),
        ({"observed_at_ms": NOW_MS + 1_001}, "1001 ms after it was logged"),
    ],
)
def test_an_absurd_tick_is_refused_and_the_error_says_why(absurd: dict[str, Any], text: str) -> None:
    with pytest.raises(RefusedInput, match=text):
        apply_tick(price_after(1), a_tick(**({"sequence": 2} | absurd)), received_at_ms=NOW_MS)


def test_a_refusal_of_a_huge_symbol_has_a_short_text() -> None:
    with pytest.raises(RefusedInput) as refused:
        apply_tick(None, a_tick(symbol="X" * 5_000_000), received_at_ms=NOW_MS)

    assert len(str(refused.value)) < 200


def test_a_feed_clock_one_second_ahead_is_tolerated() -> None:
    assert apply_tick(None, a_tick(observed_at_ms=NOW_MS + 1_000), received_at_ms=NOW_MS).price_ticks
