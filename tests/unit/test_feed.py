"""The feed's pure half: real trades as ticks, and accounts that are a function of seed and tick alone."""

import json
from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any

import pytest

from app.errors import UserError
from feed import garbage
from feed.accounts import BREAKERS, REPEAT, SLOTS_MAX, Accounts, Placed, roster
from feed.demo import instruments
from feed.dice import Dice
from feed.garbage import RawRecord
from feed.history import Told
from feed.limits import (
    initial_accounts,
    initial_counterparties,
    initial_instruments,
    initial_limits,
    initial_restrictions,
)
from feed.main import next_session
from feed.replay import FIRST_SESSION, Pace, Replay, Session, Trade, parse_trades, to_units
from feed.wire import order_record, tick_record
from models.events import OrderReceived, TickReceived
from models.values import INT64_MAX

BTC = instruments()["BTC-USD"]


def a_market(count: int = 500) -> Replay:
    dice = Dice(99)
    price_ticks = 80_000
    trades = []
    for number in range(count):
        price_ticks += dice.between(-200, 200)
        trades.append(Trade(1_385_337_600_000 + number * 500, price_ticks, dice.between(1, 5_000)))
    return Replay(trades)


def some_accounts(seed: int = 7, orders_per_tick: float = 2.0, traders: int = 32) -> Accounts:
    return Accounts(a_market(), roster(traders), seed, orders_per_tick)


def sent(accounts: Accounts, ticks: range) -> list[Placed | RawRecord]:
    return [reaction for tick in ticks for reaction in accounts.reactions(tick)]


def orders(accounts: Accounts, ticks: range) -> list[OrderReceived]:
    return [
        each.order for each in sent(accounts, ticks) if isinstance(each, Placed) and each.intent != REPEAT
    ]


# -- trades ------------------------------------------------------------------------------------------------


def test_prices_and_amounts_become_whole_units() -> None:
    lines = ["timestamp,price,amount\n", "1385337600,800.010000000000,0.278380490000\n"]
    assert parse_trades(lines, BTC) == [Trade(1_385_337_600_000, 80_001, 2_784)]


@pytest.mark.parametrize(("amount", "units"), [("0.00005", 0), ("0.00015", 2), ("1", 10_000)])
def test_half_a_unit_goes_to_the_even_one(amount: str, units: int) -> None:
    assert to_units(amount, Decimal("0.0001")) == units


def test_an_amount_below_one_lot_is_one_lot() -> None:
    assert parse_trades(["1385337600,800.01,0.000000000000\n"], BTC)[0].quantity_lots == 1


@pytest.mark.parametrize("lines", [["1385337600,800.01\n"], ["soon,1,1\n"], ["1,much,1\n"], []])
def test_data_that_is_no_list_of_trades_is_refused_with_a_line(lines: list[str]) -> None:
    with pytest.raises(UserError, match="market data"):
        parse_trades(lines, BTC)


def test_the_replay_goes_on_for_ever_with_growing_numbers_and_times() -> None:
    market = a_market(10)
    ticks = [market.tick(number, observed_at_ms=1) for number in range(1, 36)]
    assert [tick.sequence for tick in ticks] == list(range(1, 36))
    assert ticks[10].price_ticks == ticks[0].price_ticks
    times = [tick.exchange_at_ms for tick in ticks]
    assert times == sorted(set(times))


def test_ten_times_the_speed_makes_the_gaps_ten_times_shorter_and_long_gaps_have_an_end() -> None:
    now = 100.0
    trades = [Trade(at_ms, 1, 1) for at_ms in (0, 500, 500, 60_000)]
    pace = Pace(Replay(trades), 10.0, lambda: now)
    assert pace.seconds_until(1) == 0
    assert pace.take(1, 99) == range(1, 2)
    assert pace.seconds_until(2) == pytest.approx(0.05)
    now = 100.06
    assert pace.take(2, 99) == range(2, 4)
    assert pace.seconds_until(4) == pytest.approx(0.09)


def test_a_feed_that_was_held_up_does_not_hurry() -> None:
    now = 100.0
    pace = Pace(Replay([Trade(at_ms, 1, 1) for at_ms in range(0, 100_000, 100)]), 1.0, lambda: now)
    pace.seconds_until(1)
    pace.take(1, 99)
    now = 160.0
    assert pace.seconds_until(2) == pytest.approx(0.1)
    assert len(pace.take(2, 99)) == 1


# -- accounts ----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    ticks = range(1, 300)
    assert sent(some_accounts(seed=7), ticks) == sent(some_accounts(seed=7), ticks)
    assert sent(some_accounts(seed=7), ticks) != sent(some_accounts(seed=8), ticks)


def test_the_draws_are_the_same_on_every_machine() -> None:
    reference = Dice()  # splitmix64 from 0, as published with it
    assert [reference.below(2**64) for _ in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    pinned = Dice(1, 2, 3)
    assert [pinned.below(1_000_000) for _ in range(3)] == [71_663, 863_331, 357_189]


@pytest.mark.parametrize("restart_at", [2, 57, 499, 1_234])
def test_a_restart_at_any_tick_gives_the_same_orders(restart_at: int) -> None:
    whole = some_accounts()
    sent(whole, range(1, restart_at))
    after = range(restart_at, restart_at + 100)
    assert sent(whole, after) == sent(some_accounts(), after)


@pytest.mark.parametrize("orders_per_tick", [0.5, 1, 2.5, 5, SLOTS_MAX])
def test_the_sequence_of_every_account_grows(orders_per_tick: float) -> None:
    sequences = defaultdict(list)
    for order in orders(some_accounts(orders_per_tick=orders_per_tick), range(1, 1_000)):
        sequences[order.account_id].append(order.sequence)
        assert order.order_id == f"{order.account_id}-{order.sequence}"
    for account_id, found in sequences.items():
        assert found == sorted(set(found)), account_id


@pytest.mark.parametrize("orders_per_tick", [0.5, 2, 3.3])
def test_the_rate_of_orders_is_the_one_asked_for(orders_per_tick: float) -> None:
    found = len(sent(some_accounts(orders_per_tick=orders_per_tick), range(1, 1_001)))
    assert found == int(orders_per_tick * 1_000)


@pytest.mark.parametrize("orders_per_tick", [0, -1, SLOTS_MAX + 1])
def test_a_rate_that_the_numbering_can_not_hold_is_refused(orders_per_tick: float) -> None:
    with pytest.raises(ValueError, match="orders_per_tick"):
        some_accounts(orders_per_tick=orders_per_tick)


def test_every_account_takes_part() -> None:
    accounts = {order.account_id for order in orders(some_accounts(), range(1, 3_000))}
    who = roster(32)
    assert accounts == {*who.traders, *who.breakers}


def test_nine_of_ten_records_are_ordinary_orders() -> None:
    found = sent(some_accounts(), range(1, 5_001))
    ordinary = [e for e in found if isinstance(e, Placed) and e.intent in ("maker", "momentum", "reversion")]
    assert 0.88 < len(ordinary) / len(found) < 0.91


def test_every_breaker_makes_orders_that_can_be_read() -> None:
    for each in sent(some_accounts(), range(1, 5_001)):
        if isinstance(each, Placed):
            value = order_record(each.order, sent_at_ms=1_000).value
            assert value is not None
            assert OrderReceived.model_validate_json(value).order_id == each.order.order_id


def test_momentum_follows_the_trend_and_reversion_opposes_it() -> None:
    rising = Replay([Trade(number * 1_000, 80_000 + number, 1) for number in range(20_000)])
    accounts = Accounts(rising, roster(32), seed=7)
    sides = {
        (each.intent, each.order.side.value)
        for each in sent(accounts, range(8_300, 9_100))
        if isinstance(each, Placed) and each.intent in ("momentum", "reversion")
    }
    assert sides == {("momentum", "buy"), ("reversion", "sell")}


def test_a_repeat_is_an_earlier_order_with_the_same_id_and_sequence() -> None:
    known: dict[str, OrderReceived] = {}
    repeats = 0
    for each in sent(some_accounts(), range(1, 5_001)):
        if not isinstance(each, Placed):
            continue
        if each.intent == REPEAT:
            repeats += 1
            assert known[each.order.order_id] == each.order
        known[each.order.order_id] = each.order
    assert repeats > 20


# -- garbage -----------------------------------------------------------------------------------------------


def test_every_kind_of_garbage_appears() -> None:
    kinds = Counter(e.kind for e in sent(some_accounts(), range(1, 5_001)) if isinstance(e, RawRecord))
    assert set(kinds) == {*garbage.KINDS, garbage.HUGE}
    assert kinds[garbage.HUGE] == 1


def test_garbage_never_carries_the_key_of_a_trader() -> None:
    for each in sent(some_accounts(), range(1, 5_001)):
        if isinstance(each, RawRecord):
            assert each.key is None or b"garbage" in each.key


def test_garbage_is_not_a_sound_order_under_its_own_key() -> None:
    for each in sent(some_accounts(), range(1, 5_001)):
        if isinstance(each, RawRecord):
            assert not _is_sound(each), each.kind


def _is_sound(record: RawRecord) -> bool:
    headers = dict(record.headers)
    if headers.get("event-type") != b"OrderReceived" or headers.get("schema-version") != b"1":
        return False
    try:
        order = OrderReceived.model_validate_json(record.value or b"")
    except ValueError:
        return False
    return order.account_id.encode() == record.key


def test_the_huge_record_has_five_megabytes() -> None:
    found = [e for e in sent(some_accounts(), range(200, 300)) if isinstance(e, RawRecord)]
    huge = next(each for each in found if each.kind == garbage.HUGE)
    assert huge.value is not None
    assert len(huge.value) > 5_000_000


# -- feed sessions -----------------------------------------------------------------------------------------


def told(number: int, session: Session = FIRST_SESSION) -> Told:
    return Told(a_market().tick(number, observed_at_ms=1, session=session), number)


def test_a_resumed_feed_goes_on_in_its_session() -> None:
    assert next_session(told(9), [told(8), told(9)], new=False) == FIRST_SESSION
    later = Session(epoch=3, before=100)
    assert next_session(told(109, later), [told(9), told(109, later)], new=False) == later


def test_a_new_session_has_an_epoch_of_its_own_and_counts_from_1() -> None:
    session = next_session(told(9), [told(9)], new=True)
    assert session == Session(epoch=1, before=9)
    tick = a_market().tick(10, observed_at_ms=1, session=session)
    assert (tick.epoch, tick.sequence) == (1, 1)
    assert tick.price_ticks == a_market().tick(10, observed_at_ms=1).price_ticks


def test_where_others_have_a_higher_epoch_ours_is_above_it() -> None:
    foreign = Told(told(1).tick.model_copy(update={"epoch": 7, "price_ticks": 1}), 1)
    assert next_session(told(9), [told(9), foreign], new=False) == Session(epoch=8, before=9)
    assert next_session(None, [foreign], new=False) == Session(epoch=8, before=0)


def test_there_is_no_epoch_above_the_highest() -> None:
    foreign = Told(told(1).tick.model_copy(update={"epoch": INT64_MAX}), 1)
    with pytest.raises(UserError, match="there is none above it"):
        next_session(told(9), [told(9), foreign], new=False)


def test_a_tick_is_ours_when_it_is_what_the_market_has_under_its_number() -> None:
    market = a_market()
    assert market.is_own(told(700).tick, 700)
    assert not market.is_own(told(700).tick, 200)
    assert not market.is_own(told(7).tick, 0)
    assert not market.is_own(told(7).tick.model_copy(update={"price_ticks": 1}), 7)
    assert not market.is_own(told(7).tick.model_copy(update={"symbol": "ETH-USD"}), 7)


# -- limits and wire ---------------------------------------------------------------------------------------


def test_everybody_has_limits_but_two_breakers_and_the_garbage() -> None:
    limits = {each.account_id: each for each in initial_limits(roster(8))}
    without = {"breaker-stranger", "breaker-limitless"}
    assert set(limits) == {*roster(8).traders, "newcomer", *(set(BREAKERS) - without)}
    assert [name for name, each in limits.items() if each.kill_switch] == ["breaker-killed"]


def test_everybody_is_registered_but_two_breakers_and_two_others_may_still_not_trade() -> None:
    accounts = {each.account_id: each for each in initial_accounts(roster(8))}
    without = {"breaker-stranger", "breaker-unregistered"}
    assert set(accounts) == {*roster(8).traders, "newcomer", *(set(BREAKERS) - without)}
    odd = {name for name, each in accounts.items() if (each.status, each.base_currency) != ("active", "USD")}
    assert odd == {"breaker-suspended", "breaker-currency"}


def test_the_instruments_are_those_of_the_file_and_every_command_says_who_and_why() -> None:
    assert [each.instrument.symbol for each in initial_instruments()] == ["BTC-USD", "ETH-USD"]
    who = roster(8)
    commands: list[Any] = [
        *initial_instruments(),
        *initial_counterparties(),
        *initial_accounts(who),
        *initial_limits(who),
        *initial_restrictions(),
    ]
    for command in commands:
        assert (command.version, command.who) == (1, "feed")
        assert command.why


def test_an_order_may_wait_twice_as_long_as_the_longest_backlog_and_an_old_one_is_older() -> None:
    ages = {each.order_age_ms_max for each in initial_limits(roster(8))}
    assert ages == {60_000}
    old = [each for each in orders(some_accounts(), range(1, 3_000)) if each.account_id == "breaker-old"]
    assert old
    assert all(each.submitted_at_ms < -60_000 for each in old)


def test_the_traded_instrument_is_not_restricted_and_another_one_is() -> None:
    assert {each.symbol: each.restricted for each in initial_restrictions()} == {
        "BTC-USD": False,
        "ETH-USD": True,
    }


def test_an_order_is_stamped_when_it_is_sent() -> None:
    order = orders(some_accounts(), range(1, 50))[0]
    record = order_record(order, sent_at_ms=1_700_000_000_000)
    assert json.loads(record.value or b"")["submitted_at_ms"] == 1_700_000_000_000
    assert record.key == order.account_id.encode()
    assert dict(record.headers) == {
        "event-type": b"OrderReceived",
        "schema-version": b"1",
        "event-id": order.order_id.encode(),
        "correlation-id": order.order_id.encode(),
    }


def test_a_tick_travels_under_its_symbol() -> None:
    record = tick_record(a_market().tick(5, observed_at_ms=42))
    assert record.key == b"BTC-USD"
    assert TickReceived.model_validate_json(record.value or b"").sequence == 5
    assert dict(record.headers)["event-id"] == b"BTC-USD/0/5"
