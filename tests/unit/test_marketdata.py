"""Market data: the last price, late ticks and gaps; numbers and prices that are far off; absurd ticks."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.devkafka.artifacts import market_data_csv
from app.domain.errors import RefusedInput
from app.domain.marketdata import (
    FEED_SILENT_MS,
    SEQUENCE_JUMP_MAX,
    LastPrice,
    Taken,
    apply_tick,
    to_price,
)
from feed.replay import Replay
from models.events import MarketDataAlert, PriceUpdated, TickReceived
from models.reasons import MarketDataFault
from tests.builders import BTC, NOW_MS, PRICE_TICKS, a_tick, listed

JUMP, RESET, FAR_OFF = (
    MarketDataFault.SEQUENCE_JUMP,
    MarketDataFault.SEQUENCE_RESET,
    MarketDataFault.PRICE_FAR_OFF,
)


def taken(state: LastPrice | None, tick: TickReceived) -> Taken:
    return apply_tick(state, tick, received_at_ms=tick.observed_at_ms, listed=BTC)


def folded(ticks: Iterable[TickReceived], state: LastPrice | None = None) -> tuple[LastPrice, list[Any]]:
    """The state after ticks, and the faults that were said on the way."""
    said: list[MarketDataAlert] = []
    for tick in ticks:
        state, alerts = taken(state, tick)
        said.extend(alerts)
    assert state is not None
    return state, [alert.fault for alert in said]


def session(*sequences: int, epoch: int = 0, since_ms: int = 0, **changed: Any) -> list[TickReceived]:
    """Ticks of one session, a millisecond apart, from `since_ms` after now on."""
    return [
        a_tick(epoch=epoch, sequence=sequence, observed_at_ms=NOW_MS + since_ms + n, **changed)
        for n, sequence in enumerate(sequences)
    ]


def price_after(*sequences: int) -> LastPrice:
    return folded(session(*sequences))[0]


def test_the_first_tick_is_the_last_price() -> None:
    assert to_price(taken(None, a_tick(epoch=4)).state) == PriceUpdated(
        symbol="BTC-USD", price_ticks=PRICE_TICKS, tick_sequence=1, observed_at_ms=NOW_MS, gaps=0, epoch=4
    )


def test_a_later_tick_replaces_the_price() -> None:
    assert taken(price_after(1), a_tick(sequence=2, price_ticks=90_001)).state.price_ticks == 90_001


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_tick_that_comes_late_or_again_is_counted_and_changes_no_price(late: int) -> None:
    before = price_after(1, 2, 3)
    after, alerts = taken(before, session(1, 2, 3)[late - 1])

    assert to_price(after) == to_price(before)
    assert (after.late, alerts) == (1, ())


@pytest.mark.parametrize(
    ("sequences", "gaps"),
    [
        ((1, 2, 3), 0),
        ((1, 4), 2),
        ((3,), 2),
        ((1, 3, 6, 7), 3),
        ((SEQUENCE_JUMP_MAX,), SEQUENCE_JUMP_MAX - 1),
        ((SEQUENCE_JUMP_MAX + 1,), 0),
        ((1, SEQUENCE_JUMP_MAX + 1), SEQUENCE_JUMP_MAX - 1),
    ],
)
def test_gaps_count_the_sequences_that_did_not_come(sequences: tuple[int, ...], gaps: int) -> None:
    assert price_after(*sequences).gaps == gaps


class TestNumbers:
    @pytest.mark.parametrize("wild", [2 + SEQUENCE_JUMP_MAX, 10**12, 2**63 - 1])
    def test_one_wild_sequence_does_not_stop_the_symbol_and_is_said_and_counted(self, wild: int) -> None:
        state, said = folded(session(1, wild, 2, 3))

        assert (state.tick_sequence, state.gaps) == (3, 0)
        assert (said, state.jumps, state.out_of_line) == ([JUMP], 1, None)

    def test_while_a_jump_is_held_the_price_stays(self) -> None:
        state, _ = folded([*session(1), *session(10**12, since_ms=1, price_ticks=95_000)])

        assert (state.price_ticks, state.tick_sequence) == (PRICE_TICKS, 1)

    def test_a_jump_that_the_next_tick_continues_is_taken_and_said_again(self) -> None:
        state, said = folded(session(1, 10**12, 10**12 + 1, 10**12 + 2))

        assert (state.tick_sequence, state.gaps) == (10**12 + 2, 0)
        assert (said, state.jumps) == ([JUMP, JUMP], 1)

    def test_wild_sequences_that_do_not_continue_each_other_are_all_held(self) -> None:
        state, said = folded(session(1, 10**12, 10**13, 10**14, 2))

        assert (state.tick_sequence, said, state.jumps) == (2, [JUMP] * 3, 3)

    def test_a_feed_that_starts_again_at_one_is_followed_from_its_second_tick_on(self) -> None:
        held, said = folded(session(500, 501, 1))
        assert (held.tick_sequence, said) == (501, [])

        state, said = folded(session(2, 3, since_ms=10), held)
        assert (state.tick_sequence, state.gaps - held.gaps) == (3, 0)
        assert (said, state.resets) == ([RESET], 1)

    def test_a_feed_that_starts_again_after_a_first_tick_that_was_wild_is_followed(self) -> None:
        state, said = folded(session(2**63 - 1, 1, 2, 3))

        assert (state.tick_sequence, said) == (3, [RESET])

    @pytest.mark.parametrize("stretch", [range(1, 6), range(3, 6), range(1, 3)], ids=str)
    def test_a_stretch_that_comes_again_is_late_and_no_reset(self, stretch: range) -> None:
        feed = session(*range(1, 6))
        before, _ = folded(feed)
        state, said = folded((feed[n - 1] for n in stretch), before)

        assert to_price(state) == to_price(before)
        assert (said, state.resets, state.late) == ([], 0, len(stretch))

    def test_a_stretch_that_comes_again_after_the_feeds_clock_went_back_is_no_reset(self) -> None:
        feed = session(1, 2, 3)
        before, _ = folded([*feed, *session(4, since_ms=-5_000)])
        state, said = folded(feed, before)

        assert (state.tick_sequence, said, state.late) == (4, [], 3)

    def test_a_stretch_that_comes_again_between_the_ticks_of_the_feed_is_no_reset(self) -> None:
        feed = session(*range(1, 5))
        news = session(*range(5, 9), since_ms=10)
        mixed = [tick for pair in zip(feed, news, strict=True) for tick in pair]
        state, said = folded(mixed, folded(feed)[0])

        assert (state.tick_sequence, said, state.late, state.gaps) == (8, [], 4, 0)

    def test_a_repeat_does_not_bear_out_a_tick_that_was_observed_after_it(self) -> None:
        feed = session(*range(1, 6))
        before, _ = folded(feed)
        state, said = folded([*session(2, since_ms=10), feed[2]], before)

        assert (state.tick_sequence, said) == (5, [])

    def test_a_single_tick_out_of_order_is_no_reset(self) -> None:
        state, said = folded(session(1, 3, 2, 4))

        assert (state.tick_sequence, said, state.late) == (4, [], 1)

    def test_a_higher_session_numbers_anew(self) -> None:
        state, said = folded([*session(500), *session(3, epoch=1, since_ms=1)])

        assert (state.epoch, state.tick_sequence) == (1, 3)
        assert (said, state.resets, state.gaps) == ([RESET], 1, 499 + 2)

    def test_a_lower_session_is_late(self) -> None:
        state, said = folded([*session(1, epoch=7), *session(*range(2, 50), epoch=6, since_ms=1)])

        assert (state.epoch, state.tick_sequence) == (7, 1)
        assert (said, state.late) == ([], 48)

    def test_after_one_tick_of_an_absurd_session_the_feed_is_followed_again_once_that_is_silent(self) -> None:
        start = [*session(1, epoch=5), *session(1, epoch=10**15, since_ms=1)]
        state, said = folded(start)
        assert said == [RESET]

        state, said = folded(session(2, 3, epoch=5, since_ms=FEED_SILENT_MS), state)
        assert (state.epoch, said) == (10**15, [])
        state, said = folded(session(4, 5, 6, epoch=5, since_ms=FEED_SILENT_MS + 2), state)
        assert (state.epoch, state.tick_sequence, said) == (5, 6, [RESET])

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30), st.integers(0, 50)), max_size=60))
    def test_whatever_came_before_a_feed_that_goes_on_is_followed(
        self, before: list[tuple[int, int, int]]
    ) -> None:
        wild = [
            a_tick(epoch=epoch, sequence=sequence**9, observed_at_ms=NOW_MS + at_ms)
            for epoch, sequence, at_ms in before
        ]
        state = folded(wild)[0] if wild else None
        state, _ = folded(session(1, 2, 3, epoch=0, since_ms=100 + FEED_SILENT_MS), state)

        assert (state.epoch, state.tick_sequence) == (0, 3)


class TestPrices:
    @pytest.mark.parametrize(
        ("price_ticks", "is_held"), [(108_000, False), (108_001, True), (72_000, False), (71_999, True)]
    )
    def test_a_print_more_than_a_fifth_off_the_last_price_is_held(
        self, price_ticks: int, is_held: bool
    ) -> None:
        state, said = folded([*session(1), *session(2, since_ms=1, price_ticks=price_ticks)])

        assert state.price_ticks == (PRICE_TICKS if is_held else price_ticks)
        assert (said, state.far_offs) == (([FAR_OFF], 1) if is_held else ([], 0))

    def test_one_print_in_the_wrong_unit_never_counts(self) -> None:
        ticks = session(1, 2, 3)
        ticks[1] = ticks[1].model_copy(update={"price_ticks": PRICE_TICKS * 1_000})
        state, said = folded(ticks)

        assert (state.price_ticks, state.tick_sequence, state.gaps, state.far_off) == (
            PRICE_TICKS,
            3,
            0,
            None,
        )
        assert said == [FAR_OFF]

    def test_while_a_print_is_held_the_price_keeps_its_own_tick_and_time(self) -> None:
        state, _ = folded([*session(1), *session(2, since_ms=60_000, price_ticks=1)])

        assert to_price(state) == to_price(price_after(1))

    def test_a_market_that_has_moved_is_followed_from_the_second_print_on(self) -> None:
        state, said = folded([*session(1), *session(2, 3, since_ms=1, price_ticks=120_000)])

        assert (state.price_ticks, state.tick_sequence, state.far_off) == (120_000, 3, None)
        assert said == [FAR_OFF]

    def test_two_wild_prints_far_off_each_other_do_not_bear_each_other_out(self) -> None:
        ticks = session(1, 2, 3)
        ticks[1] = ticks[1].model_copy(update={"price_ticks": 1})
        ticks[2] = ticks[2].model_copy(update={"price_ticks": 10**9})
        state, said = folded(ticks)

        assert (state.price_ticks, said, state.far_offs) == (PRICE_TICKS, [FAR_OFF, FAR_OFF], 2)

    def test_the_first_price_of_a_new_session_is_held_too(self) -> None:
        state, said = folded([*session(9), *session(1, epoch=1, since_ms=1, price_ticks=1)])
        assert (state.price_ticks, state.epoch, said) == (PRICE_TICKS, 0, [RESET, FAR_OFF])

        state, said = folded(session(2, epoch=1, since_ms=2), state)
        assert (state.price_ticks, state.epoch, state.tick_sequence, said) == (PRICE_TICKS, 1, 2, [])


class TestScales:
    """The instrument's ticks were changed: the prices before are no prices of it."""

    RESCALED = listed(scale=2, tick="1")

    def rescaled(self, state: LastPrice | None, *ticks: TickReceived) -> tuple[LastPrice, list[Any]]:
        said: list[Any] = []
        for tick in ticks:
            received_at_ms = tick.observed_at_ms
            state, alerts = apply_tick(state, tick, received_at_ms=received_at_ms, listed=self.RESCALED)
            said.extend(alert.fault for alert in alerts)
        assert state is not None
        return state, said

    def test_a_price_has_the_scale_of_its_instrument(self) -> None:
        assert to_price(price_after(1)).scale == 1
        assert to_price(self.rescaled(None, a_tick())[0]).scale == 2

    def test_the_first_price_in_new_ticks_counts_at_once_and_the_numbering_goes_on(self) -> None:
        before = price_after(1, 3)
        state, said = self.rescaled(before, *session(4, since_ms=9, price_ticks=900))

        assert (state.price_ticks, state.tick_sequence, state.scale, state.gaps) == (900, 4, 2, 1)
        assert said == []

    def test_from_then_on_a_print_far_off_is_held_again(self) -> None:
        state, said = self.rescaled(price_after(1), *session(2, 3, since_ms=9, price_ticks=900))
        state, said = self.rescaled(state, *session(4, since_ms=20, price_ticks=PRICE_TICKS))

        assert (state.price_ticks, state.scale, said) == (900, 2, [FAR_OFF])

    def test_a_print_of_old_ticks_that_was_held_bears_nothing_out(self) -> None:
        held, _ = folded([*session(1), *session(2, since_ms=1, price_ticks=900)])
        state, said = self.rescaled(held, *session(3, 4, since_ms=9, price_ticks=950))

        assert (state.price_ticks, state.far_off, said) == (950, None, [])

    def test_a_late_tick_leaves_the_price_in_its_old_ticks(self) -> None:
        before = price_after(1, 2)
        state, _ = self.rescaled(before, session(1)[0])

        assert to_price(state) == to_price(before)
        assert state.scale == 1


def test_the_real_market_and_its_second_round_pass_without_being_held() -> None:
    market = Replay.load(market_data_csv())
    state, said = folded(market.tick(number, NOW_MS + number) for number in range(1, len(market) + 2))

    assert (state.tick_sequence, state.gaps, said) == (len(market) + 1, 0, [])


@pytest.mark.parametrize(
    ("absurd", "text"),
    [
        ({"sequence": 0}, "count from 1"),
        ({"price_ticks": 0}, "price is 0 ticks"),
        ({"price_ticks": -1}, "price is -1 ticks"),
        ({"quantity_lots": 0}, "quantity is 0 lots"),
        ({"observed_at_ms": NOW_MS + 1_001}, "1001 ms after it was logged"),
    ],
)
def test_an_absurd_tick_is_refused_and_the_error_says_why(absurd: dict[str, Any], text: str) -> None:
    tick = a_tick(**({"sequence": 2} | absurd))
    with pytest.raises(RefusedInput, match=text):
        apply_tick(price_after(1), tick, received_at_ms=NOW_MS, listed=BTC)


def test_a_tick_of_what_is_not_listed_is_refused_and_the_error_says_why() -> None:
    with pytest.raises(RefusedInput, match="no instrument of ours: list it first"):
        apply_tick(None, a_tick(symbol="DOGE-USD"), received_at_ms=NOW_MS, listed=None)


def test_a_refusal_of_a_huge_symbol_has_a_short_text() -> None:
    with pytest.raises(RefusedInput) as refused:
        apply_tick(None, a_tick(symbol="X" * 5_000_000), received_at_ms=NOW_MS, listed=None)

    assert len(str(refused.value)) < 200


def test_a_feed_clock_one_second_ahead_is_tolerated() -> None:
    ahead = a_tick(observed_at_ms=NOW_MS + 1_000)

    assert apply_tick(None, ahead, received_at_ms=NOW_MS, listed=BTC).state.price_ticks


def test_the_last_price_of_the_release_before_is_read_and_gone_on_with() -> None:
    old = LastPrice.model_validate(
        {
            "symbol": "BTC-USD",
            "price_ticks": PRICE_TICKS,
            "tick_sequence": 9,
            "observed_at_ms": NOW_MS,
            "gaps": 2,
        }
    )
    state, said = folded([*session(9), *session(10, since_ms=1)], old)

    assert (state.tick_sequence, state.gaps, state.late, said) == (10, 2, 1, [])
