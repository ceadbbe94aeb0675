"""The venue's matching: its rules one by one, then properties, then against a book too simple to be wrong."""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import events
from models.reasons import VenueReason
from models.values import Liquidity, Side, TimeInForce
from venue.book import (
    Acknowledged,
    BookSide,
    Cancel,
    Cancelled,
    Expired,
    Fact,
    Filled,
    Market,
    Order,
    OrderStatus,
    Refused,
    Rejected,
    Replace,
    Replaced,
    Tick,
)
from venue.reports import report_of
from venue.requests import MarketTick
from venue.terms import TradeTerms

BTC, ETH = "BTC-USD", "ETH-USD"
LISTED = (BTC, ETH)
LAST = 1_000


def an_order(
    order_id: str = "o1",
    side: Side = Side.BUY,
    quantity_lots: int = 5,
    price_ticks: int = LAST,
    *,
    account_id: str = "alice",
    symbol: str = BTC,
    time_in_force: TimeInForce = TimeInForce.GTC,
) -> Order:
    return Order(order_id, account_id, 0, symbol, side, quantity_lots, price_ticks, time_in_force)


def a_cancel(order: Order, request_id: str = "r1", **changed: str) -> Cancel:
    fields = {"account_id": order.account_id, "order_id": order.order_id, **changed}
    return Cancel(session=7, request_id=request_id, symbol="ELSE-USD", side=Side.SELL, **fields)


def a_replace(order: Order, quantity_lots: int, price_ticks: int = LAST, request_id: str = "r1") -> Replace:
    return Replace(
        7, request_id, order.account_id, order.order_id, "ELSE-USD", Side.SELL, quantity_lots, price_ticks
    )


def an_open_market(liquidity_lots: int = 0) -> Market:
    market = Market(LISTED)
    market.trade(BTC, Tick(0, 1), LAST, liquidity_lots)
    return market


def fills(facts: list[Fact]) -> list[tuple[str, int, int]]:
    """Order id, lots and price of each fill."""
    return [
        (fact.order.order_id, fact.quantity_lots, fact.price_ticks)
        for fact in facts
        if isinstance(fact, Filled)
    ]


def refusal(facts: list[Fact]) -> VenueReason | None:
    return next((fact.reason for fact in facts if isinstance(fact, Rejected | Refused)), None)


# The rules


def test_an_order_that_nothing_matches_is_acknowledged_and_rests() -> None:
    market = an_open_market()
    order = an_order()
    assert market.place(order) == [Acknowledged(order)]
    assert market.books[BTC].orders() == [order]


def test_an_incoming_order_takes_the_best_price_first_and_pays_the_resting_price() -> None:
    market = an_open_market()
    market.place(an_order("worse", Side.SELL, 2, 1_001, account_id="bob"))
    market.place(an_order("better", Side.SELL, 2, 999, account_id="carol"))
    facts = market.place(an_order("in", Side.BUY, 3, 1_005))
    assert fills(facts) == [("in", 2, 999), ("better", 2, 999), ("in", 1, 1_001), ("worse", 1, 1_001)]


def test_at_one_price_the_earlier_order_is_filled_first() -> None:
    market = an_open_market()
    market.place(an_order("first", Side.SELL, 2, account_id="bob"))
    market.place(an_order("second", Side.SELL, 2, account_id="carol"))
    assert fills(market.place(an_order("in", Side.BUY, 2))) == [("in", 2, LAST), ("first", 2, LAST)]


def test_an_account_never_trades_with_itself_but_with_those_behind() -> None:
    market = an_open_market()
    market.place(an_order("own", Side.SELL, 5, 990, account_id="alice"))
    market.place(an_order("other", Side.SELL, 5, 995, account_id="bob"))
    facts = market.place(an_order("in", Side.BUY, 7, 1_000, account_id="alice"))
    assert fills(facts) == [("in", 5, 995), ("other", 5, 995)]
    assert [order.order_id for order in market.books[BTC].orders()] == ["own", "in"]


def test_an_incoming_order_takes_what_is_left_of_the_last_market_trade() -> None:
    market = an_open_market(liquidity_lots=3)
    assert fills(market.place(an_order("in", Side.BUY, 2, LAST + 10))) == [("in", 2, LAST)]
    assert fills(market.place(an_order("next", Side.SELL, 2, LAST))) == [("next", 1, LAST)]
    assert fills(market.place(an_order("late", Side.SELL, 2, LAST))) == []


def test_the_last_market_trade_does_not_fill_an_order_with_a_worse_limit() -> None:
    market = an_open_market(liquidity_lots=3)
    assert fills(market.place(an_order("buy", Side.BUY, 2, LAST - 1))) == []
    assert fills(market.place(an_order("sell", Side.SELL, 2, LAST + 1))) == []


def test_what_an_ioc_order_does_not_get_at_once_is_cancelled() -> None:
    market = an_open_market(liquidity_lots=2)
    order = an_order(time_in_force=TimeInForce.IOC)
    facts = market.place(order)
    assert facts[-1] == Cancelled(order, 3)
    assert order.status is OrderStatus.CANCELLED
    assert market.books[BTC].orders() == []


def test_a_market_trade_fills_at_the_resting_limit_furthest_through_first_up_to_its_quantity() -> None:
    market = an_open_market()
    market.place(an_order("at", Side.BUY, 2, 990))
    market.place(an_order("through", Side.BUY, 2, 995))
    market.place(an_order("through, later", Side.BUY, 2, 995, account_id="bob"))
    market.place(an_order("below", Side.BUY, 2, 989))
    facts = market.trade(BTC, Tick(0, 2), 990, 5)
    assert fills(facts) == [("through", 2, 995), ("through, later", 2, 995), ("at", 1, 990)]
    assert market.books[BTC].liquidity_lots == 0


def test_a_market_trade_fills_resting_sells_at_or_below_its_price() -> None:
    market = an_open_market()
    market.place(an_order("above", Side.SELL, 2, 1_011))
    market.place(an_order("at", Side.SELL, 2, 1_010))
    facts = market.trade(BTC, Tick(0, 2), 1_010, 5)
    assert fills(facts) == [("at", 2, 1_010)]
    assert market.books[BTC].liquidity_lots == 3


def test_a_market_trade_seen_before_does_nothing() -> None:
    market = an_open_market()
    market.place(an_order())
    assert market.trade(BTC, Tick(0, 1), LAST, 100) == []
    assert market.books[BTC].liquidity_lots == 0


def test_a_feed_session_of_a_higher_epoch_counts_anew_and_a_lower_one_is_over() -> None:
    market = an_open_market()
    market.trade(BTC, Tick(0, 900), LAST, 0)
    market.trade(BTC, Tick(1, 1), LAST + 1, 7)
    assert market.books[BTC].price_ticks == LAST + 1
    market.trade(BTC, Tick(0, 901), LAST + 2, 7)
    market.trade(BTC, Tick(1, 1), LAST + 2, 7)
    assert (market.books[BTC].tick, market.books[BTC].price_ticks) == (Tick(1, 1), LAST + 1)


def test_the_reasons_of_refusal_in_their_order() -> None:
    market = an_open_market()
    assert refusal(market.place(an_order("a", symbol="DOGE-USD"))) is VenueReason.UNKNOWN_SYMBOL
    assert refusal(market.place(an_order("b", price_ticks=1_501))) is VenueReason.PRICE_OUT_OF_BAND
    assert refusal(market.place(an_order("c", price_ticks=499))) is VenueReason.PRICE_OUT_OF_BAND
    assert refusal(market.place(an_order("d", price_ticks=1_500))) is None
    assert refusal(market.place(an_order("e", price_ticks=500))) is None
    assert refusal(market.place(an_order("f", symbol="ETH-USD"))) is VenueReason.MARKET_CLOSED
    assert refusal(market.place(an_order("g"), reject_on_demand=True)) is VenueReason.REJECTED_ON_DEMAND


def test_a_refused_order_changes_nothing_but_the_count() -> None:
    market = an_open_market(liquidity_lots=5)
    order = an_order(price_ticks=2_000)
    market.place(order)
    assert (order.status, order.filled_lots, order.venue_order_id) == (OrderStatus.REJECTED, 0, "V1")
    assert market.books[BTC].liquidity_lots == 5
    assert market.books[BTC].orders() == []


def test_close_expires_what_rests_and_the_next_market_trade_opens_again() -> None:
    market = an_open_market()
    order = an_order(quantity_lots=5)
    market.place(order)
    market.trade(BTC, Tick(0, 2), LAST, 2)
    assert market.close() == [Expired(order, 3)]
    assert refusal(market.place(an_order("late"))) is VenueReason.MARKET_CLOSED
    market.trade(BTC, Tick(0, 3), LAST, 1)
    assert refusal(market.place(an_order("later"))) is None
    assert market.close() != []
    assert market.close() == []


def test_both_sides_of_a_match_have_one_number_and_two_ids() -> None:
    market = an_open_market()
    market.place(an_order("rest", Side.SELL, 5, account_id="bob"))
    facts = market.place(an_order("in", Side.BUY, 5))
    assert [fact.trade_id for fact in facts if isinstance(fact, Filled)] == ["T1B", "T1S"]


# Cancels and replaces


def test_a_cancel_takes_out_what_is_open_wherever_it_rests() -> None:
    market = an_open_market()
    first, deep, last = (an_order(name, price_ticks=LAST - n) for n, name in enumerate("abc"))
    for order in (first, deep, last):
        market.place(order)
    market.trade(BTC, Tick(0, 2), LAST - 1, 7)
    assert market.answer(a_cancel(deep), deep) == [Cancelled(deep, 3, "r1")]
    assert (deep.status, deep.filled_lots) == (OrderStatus.CANCELLED, 2)
    assert market.books[BTC].orders() == [last]
    assert fills(market.trade(BTC, Tick(0, 3), LAST - 9, 9)) == [("c", 5, LAST - 2)]


def test_a_cancel_is_refused_for_an_order_that_is_unknown_or_over() -> None:
    market = an_open_market()
    order = an_order()
    market.place(order)
    assert refusal(market.answer(a_cancel(order), None)) is VenueReason.UNKNOWN_ORDER
    assert refusal(market.answer(a_cancel(order, account_id="bob"), order)) is VenueReason.UNKNOWN_ORDER
    assert market.books[BTC].orders() == [order]
    market.answer(a_cancel(order), order)
    for request in (a_cancel(order), a_replace(order, 3)):
        assert market.answer(request, order) == [Refused(order, request, VenueReason.ORDER_ENDED)]


def test_a_request_may_be_refused_on_demand_and_changes_nothing() -> None:
    market = an_open_market()
    order = an_order()
    market.place(order)
    for request in (a_cancel(order), a_replace(order, 3)):
        facts = market.answer(request, order, reject_on_demand=True)
        assert refusal(facts) is VenueReason.REJECTED_ON_DEMAND
    assert (order.quantity_lots, order.status) == (5, OrderStatus.OPEN)


def test_a_refused_request_of_an_unknown_order_speaks_with_the_words_of_the_request() -> None:
    request = Cancel(7, "r1", "alice", "none", ETH, Side.SELL)
    (fact,) = an_open_market().answer(request, None)
    assert (fact.order.session, fact.order.symbol, fact.order.side) == (7, ETH, Side.SELL)
    assert fact.order.venue_order_id == ""


@pytest.mark.parametrize(
    ("quantity_lots", "price_ticks", "keeps_its_place"),
    [(4, LAST, True), (6, LAST, False), (5, LAST, False), (4, LAST + 1, False)],
    ids=["less", "more", "the same", "less at another price"],
)
def test_only_a_smaller_quantity_keeps_the_place_in_time(
    quantity_lots: int, price_ticks: int, keeps_its_place: bool
) -> None:
    market = an_open_market()
    first, second = an_order("first", Side.SELL), an_order("second", Side.SELL, account_id="bob")
    for order in (first, second):
        market.place(order)
    (replaced,) = market.answer(a_replace(first, quantity_lots, price_ticks), first)
    assert replaced == Replaced(first, "r1", quantity_lots, price_ticks, quantity_lots)
    facts = market.place(an_order("in", Side.BUY, 1, LAST + 1, account_id="carol"))
    assert fills(facts)[1][0] == ("first" if keeps_its_place else "second")
    assert first.venue_order_id == "V1"


def test_a_replace_counts_what_is_filled_towards_the_new_total() -> None:
    market = an_open_market()
    order = an_order(quantity_lots=5)
    market.place(order)
    market.trade(BTC, Tick(0, 2), LAST, 2)
    assert market.answer(a_replace(order, 9, LAST - 1), order) == [Replaced(order, "r1", 9, LAST - 1, 7)]
    assert market.answer(a_replace(order, 3, LAST - 1), order) == [Replaced(order, "r1", 3, LAST - 1, 1)]


@pytest.mark.parametrize("price_ticks", [LAST, LAST + 1])
@pytest.mark.parametrize("quantity_lots", [1, 2])
def test_a_total_that_is_filled_already_ends_the_order_as_filled(
    quantity_lots: int, price_ticks: int
) -> None:
    market = an_open_market()
    order = an_order(quantity_lots=5)
    market.place(order)
    market.trade(BTC, Tick(0, 2), LAST, 2)
    facts = market.answer(a_replace(order, quantity_lots, price_ticks), order)
    assert facts == [Replaced(order, "r1", 2, price_ticks, 0)]
    assert (order.status, order.quantity_lots) == (OrderStatus.FILLED, 2)
    assert market.books[BTC].orders() == []
    assert fills(market.trade(BTC, Tick(0, 3), LAST - 9, 9)) == []


def test_a_new_price_matches_at_once_behind_the_word_of_it() -> None:
    market = an_open_market(liquidity_lots=2)
    rest, order = an_order("rest", Side.SELL, 3, LAST + 2, account_id="bob"), an_order(price_ticks=LAST - 1)
    for each in (rest, order):
        market.place(each)
    facts = market.answer(a_replace(order, 6, LAST + 2), order)
    assert facts[0] == Replaced(order, "r1", 6, LAST + 2, 6)
    assert fills(facts) == [("o1", 3, LAST + 2), ("rest", 3, LAST + 2), ("o1", 2, LAST)]
    removed = [fact.liquidity for fact in facts if isinstance(fact, Filled)]
    assert removed == [Liquidity.REMOVED, Liquidity.ADDED, Liquidity.REMOVED]
    assert market.books[BTC].orders() == [order]


def test_the_guards_of_a_new_order_are_those_of_a_replace() -> None:
    market = an_open_market()
    order = an_order()
    market.place(order)
    for price_ticks in (499, 1_501, -1):
        facts = market.answer(a_replace(order, 5, price_ticks), order)
        assert refusal(facts) is VenueReason.PRICE_OUT_OF_BAND
    market.books[BTC].is_open = False
    assert refusal(market.answer(a_replace(order, 4), order)) is VenueReason.MARKET_CLOSED
    market.listed = (ETH,)
    assert refusal(market.answer(a_replace(order, 4), order)) is VenueReason.UNKNOWN_SYMBOL
    assert market.answer(a_cancel(order), order) == [Cancelled(order, 5, "r1")]


def test_an_order_that_nobody_wants_cancelled_may_be_all_the_same() -> None:
    market = an_open_market()
    order = an_order()
    market.place(order)
    assert market.cancel_unasked(order) == [Cancelled(order, 5, None)]
    assert market.books[BTC].orders() == []


def test_cancels_far_from_the_best_price_do_not_grow_the_book_side() -> None:
    side = BookSide(Side.BUY)
    best = an_order("best", price_ticks=LAST, account_id="bob")
    best.priority = 1
    side.add(best)
    sizes = []
    for priority in range(2, 5_000):
        order = an_order(price_ticks=priority % 50, account_id=f"a{priority % 3}")
        order.order_id, order.priority = f"o{priority}", priority
        side.add(order)
        side.remove(order)
        assert side.best() is best
        sizes.append(len(side._heads) + len(side._headed) + sum(map(len, side._queues.values())))
    assert max(sizes) < 250
    assert list(side) == [best]


def test_what_does_not_rest_is_not_taken_out() -> None:
    side = BookSide(Side.BUY)
    order = an_order()
    side.add(order)
    side.remove(order)
    with pytest.raises(KeyError):
        side.remove(order)


def test_skipping_an_account_does_not_grow_the_book_side() -> None:
    side = BookSide(Side.BUY)
    stays = an_order("stays", price_ticks=1)
    stays.priority = 1
    side.add(stays)
    for arrival in range(2, 1_000):
        order = an_order(f"o{arrival}", price_ticks=2)
        order.priority = arrival
        side.add(order)
        assert side.best_of_others("alice") is None
        assert side.best() is order
        side.remove(order)
    assert side.best() is stays
    assert len(side._heads) + len(side._headed) <= 4


def test_every_report_is_an_event_of_the_models() -> None:
    order = an_order()
    facts: list[Fact] = [
        Acknowledged(order),
        Filled(order, "T1B", 2, LAST, 3, Liquidity.ADDED, with_market=True),
        Cancelled(order, 3),
        Cancelled(order, 3, "r1"),
        Replaced(order, "r1", 5, LAST, 3),
        Refused(order, a_cancel(order), VenueReason.UNKNOWN_ORDER),
        Refused(order, a_replace(order, 4), VenueReason.ORDER_ENDED),
        Expired(order, 3),
        Rejected(order, VenueReason.MARKET_CLOSED),
    ]
    for sequence, fact in enumerate(facts, start=1):
        terms = TradeTerms(1, "2026-01-31", 2, "USD", "MARKET", Liquidity.ADDED)
        report = report_of(fact, sequence, terms if isinstance(fact, Filled) else None)
        body = msgspec.json.decode(report.body)
        event = getattr(events, body.pop("type")).model_validate(body)
        assert type(event).__name__ == report.type
        assert (event.order_id, event.venue_sequence) == (order.order_id, sequence)
        assert set(body) == set(type(event).model_fields)


def test_a_tick_has_the_fields_of_the_model() -> None:
    assert set(MarketTick.__struct_fields__) == set(events.TickReceived.model_fields)


# Properties


@dataclass(frozen=True)
class Place:
    account_id: str
    side: Side
    quantity_lots: int
    price_ticks: int
    time_in_force: TimeInForce
    symbol: str = BTC


@dataclass(frozen=True)
class Trade:
    sequence: int
    price_ticks: int
    quantity_lots: int
    symbol: str = BTC


@dataclass(frozen=True)
class Ask:
    """A cancel or, with a quantity, a replace of the order that command `target` placed, if it placed one.

    A price of None is the one in force. A stranger is an account that has no orders.
    """

    target: int
    quantity_lots: int | None = None
    price_ticks: int | None = None
    is_stranger: bool = False


@dataclass(frozen=True)
class Close:
    pass


Command = Place | Trade | Ask | Close

PRICES = st.integers(LAST - 6, LAST + 6)
PLACES = st.builds(
    Place,
    account_id=st.sampled_from(["alice", "bob", "carol"]),
    side=st.sampled_from(Side),
    quantity_lots=st.integers(1, 9),
    price_ticks=st.one_of(PRICES, st.integers(-10, 3 * LAST)),
    time_in_force=st.sampled_from(TimeInForce),
)
TRADES = st.builds(Trade, sequence=st.integers(1, 60), price_ticks=PRICES, quantity_lots=st.integers(0, 20))
ASKS = st.builds(
    Ask,
    target=st.integers(0, 59),
    quantity_lots=st.one_of(st.none(), st.integers(1, 9)),
    price_ticks=st.one_of(st.none(), PRICES, st.integers(-10, 3 * LAST)),
    is_stranger=st.integers(0, 9).map(lambda number: number == 0),
)
COMMANDS = st.lists(
    st.one_of(PLACES, PLACES, PLACES, ASKS, ASKS, ASKS, TRADES, TRADES, st.just(Close())), max_size=60
)


@dataclass
class Played:
    """A market and all orders that it has ever been given, by id."""

    market: Market = field(default_factory=lambda: Market(LISTED))
    orders: dict[str, Order] = field(default_factory=dict)


def apply(played: Played, number: int, command: Command) -> list[Fact]:
    market = played.market
    match command:
        case Place(account_id, side, quantity_lots, price_ticks, time_in_force, symbol):
            order = Order(
                f"o{number}", account_id, 0, symbol, side, quantity_lots, price_ticks, time_in_force
            )
            played.orders[order.order_id] = order
            return market.place(order)
        case Ask():
            named = played.orders.get(f"o{command.target}")
            return market.answer(_request(number, command, named), named)
        case Trade(sequence, price_ticks, quantity_lots, symbol):
            return market.trade(symbol, Tick(0, sequence), price_ticks, quantity_lots)
        case Close():
            return market.close()


def _request(number: int, ask: Ask, named: Order | None) -> Cancel | Replace:
    account_id = "stranger" if named is None or ask.is_stranger else named.account_id
    cancel = Cancel(0, f"r{number}", account_id, f"o{ask.target}", BTC, Side.BUY)
    if ask.quantity_lots is None:
        return cancel
    in_force = 0 if named is None else named.price_ticks
    price_ticks = in_force if ask.price_ticks is None else ask.price_ticks
    return Replace(
        0, cancel.request_id, account_id, cancel.order_id, BTC, Side.BUY, ask.quantity_lots, price_ticks
    )


@given(COMMANDS)
def test_lots_are_conserved_and_limits_respected(commands: list[Command]) -> None:
    played = Played()
    filled_lots: dict[str, int] = defaultdict(int)
    orders: dict[str, Order] = {}
    ended: set[str] = set()
    for number, command in enumerate(commands):
        for fact in apply(played, number, command):
            order = fact.order
            if isinstance(fact, Refused):
                continue
            assert order.order_id not in ended
            orders[order.order_id] = order
            if isinstance(fact, Filled):
                filled_lots[order.order_id] += fact.quantity_lots
                assert fact.quantity_lots > 0
                assert order.allows(fact.price_ticks)
                assert fact.leaves_lots == order.quantity_lots - filled_lots[order.order_id] >= 0
            if isinstance(fact, Cancelled | Expired):
                assert fact.lots == order.quantity_lots - filled_lots[order.order_id] > 0
            if _is_last(fact):
                ended.add(order.order_id)
            if isinstance(fact, Replaced):
                assert fact.leaves_lots == fact.quantity_lots - filled_lots[order.order_id] >= 0
    resting = {order.order_id for order in played.market.books[BTC].orders()}
    assert resting == set(orders) - ended
    assert all(order.filled_lots == filled_lots[order.order_id] for order in orders.values())


def _is_last(fact: Fact) -> bool:
    if isinstance(fact, Filled | Replaced):
        return fact.leaves_lots == 0
    return not isinstance(fact, Acknowledged)


@given(COMMANDS)
def test_no_market_trade_gives_more_lots_than_it_has(commands: list[Command]) -> None:
    played = Played()
    market_lots = 0
    matched_lots: dict[Side, int] = defaultdict(int)
    for number, command in enumerate(commands):
        if isinstance(command, Trade) and not played.market.has_seen(BTC, Tick(0, command.sequence)):
            market_lots += command.quantity_lots
        facts = apply(played, number, command)
        for fact in facts:
            if isinstance(fact, Filled):
                matched_lots[fact.order.side] += fact.quantity_lots
    assert abs(matched_lots[Side.BUY] - matched_lots[Side.SELL]) <= market_lots


@given(COMMANDS)
def test_nobody_is_filled_before_a_better_or_earlier_order_of_another_account(
    commands: list[Command],
) -> None:
    played = Played()
    for number, command in enumerate(commands):
        waiting = played.market.books[BTC].orders()
        incoming = _account_of(played, command)
        touched = {
            fact.order.arrival: fact.order
            for fact in apply(played, number, command)
            if isinstance(fact, Filled) and fact.liquidity is Liquidity.ADDED
        }
        assert all(order in waiting for order in touched.values())
        for filled in touched.values():
            for other in waiting:
                if other.side is filled.side and other.account_id != incoming and _goes_before(other, filled):
                    assert other.status is OrderStatus.FILLED


def _account_of(played: Played, command: Command) -> str | None:
    """The account whose order comes in, anew or by a replace."""
    if isinstance(command, Place):
        return command.account_id
    named = played.orders.get(f"o{command.target}") if isinstance(command, Ask) else None
    return None if named is None else named.account_id


def _goes_before(one: Order, other: Order) -> bool:
    if one.price_ticks != other.price_ticks:
        return (one.price_ticks > other.price_ticks) == (one.side is Side.BUY)
    return one.priority < other.priority


@given(COMMANDS)
def test_no_account_trades_with_itself(commands: list[Command]) -> None:
    played = Played()
    accounts: dict[str, set[str]] = defaultdict(set)
    sides: dict[str, int] = defaultdict(int)
    for number, command in enumerate(commands):
        for fact in apply(played, number, command):
            if isinstance(fact, Filled):
                accounts[fact.trade_id[:-1]].add(fact.order.account_id)
                sides[fact.trade_id[:-1]] += 1
    assert all(len(accounts[trade]) == sides[trade] for trade in accounts)


# Against a naive book


@dataclass
class NaiveOrder:
    order_id: str
    arrival: int
    place: int
    command: Place
    leaves_lots: int
    is_over: bool = True


@dataclass
class NaiveVenue:
    """The rules of the venue's book read aloud: one list of orders, searched anew for every fill."""

    resting: list[NaiveOrder] = field(default_factory=list)
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    liquidity: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LISTED, 0))
    open: set[str] = field(default_factory=set)
    orders: dict[str, NaiveOrder] = field(default_factory=dict)
    taken: int = 0
    trades: int = 0
    places: int = 0

    def apply(self, number: int, command: Command) -> list[str]:
        if isinstance(command, Place):
            return self.place(f"o{number}", command)
        if isinstance(command, Trade):
            return self.trade(command)
        if isinstance(command, Ask):
            return self.ask(f"r{number}", f"o{command.target}", command)
        return self.close()

    def place(self, order_id: str, command: Place) -> list[str]:
        self.taken += 1
        self.places += 1
        order = NaiveOrder(order_id, self.taken, self.places, command, command.quantity_lots)
        self.orders[order_id] = order
        if reason := self._refusal(command.symbol, command.price_ticks):
            return [f"{order_id} rejected {reason}"]
        log = [f"{order_id} acknowledged", *self._match(order)]
        if order.leaves_lots and command.time_in_force is TimeInForce.IOC:
            log.append(f"{order_id} cancelled {order.leaves_lots} by None")
        elif order.leaves_lots:
            self._rest(order)
        return log

    def ask(self, request_id: str, order_id: str, ask: Ask) -> list[str]:
        order = self.orders.get(order_id)
        if order is None or ask.is_stranger:
            return [f"{order_id} refused {request_id}: unknown_order"]
        if order.is_over:
            return [f"{order_id} refused {request_id}: order_ended"]
        if ask.quantity_lots is None:
            self._leave(order)
            return [f"{order_id} cancelled {order.leaves_lots} by {request_id}"]
        before = order.command
        price = before.price_ticks if ask.price_ticks is None else ask.price_ticks
        if reason := self._refusal(before.symbol, price):
            return [f"{order_id} refused {request_id}: {reason}"]
        self._leave(order)
        filled = before.quantity_lots - order.leaves_lots
        total = max(filled, ask.quantity_lots)
        order.command = replace(before, quantity_lots=total, price_ticks=price)
        order.leaves_lots = total - filled
        log = [f"{order_id} replaced by {request_id}: {total} at {price}, leaves {order.leaves_lots}"]
        if price != before.price_ticks or ask.quantity_lots >= before.quantity_lots:
            self.places += 1
            order.place = self.places
            log += self._match(order)
        if order.leaves_lots:
            self._rest(order)
        return log

    def _refusal(self, symbol: str, price: int) -> str:
        if symbol not in LISTED:
            return "unknown_symbol"
        last_price = self.last.get(symbol, (0, 0))[1]
        if last_price and not last_price / 2 <= price <= last_price * 3 / 2:
            return "price_out_of_band"
        return "" if symbol in self.open else "market_closed"

    def _match(self, order: NaiveOrder) -> list[str]:
        command, log = order.command, []
        symbol, last_price = command.symbol, self.last[command.symbol][1]
        while order.leaves_lots and (others := self._matches(order)):
            best = min(others, key=lambda other: (_badness(other), other.place))
            lots = min(order.leaves_lots, best.leaves_lots)
            self.trades += 1
            log += [self._fill(each, lots, best.command.price_ticks) for each in (order, best)]
        lots = min(order.leaves_lots, self.liquidity[symbol])
        if lots and _is_as_good(command.side, command.price_ticks, last_price):
            self.trades += 1
            self.liquidity[symbol] -= lots
            log.append(self._fill(order, lots, last_price))
        return log

    def _rest(self, order: NaiveOrder) -> None:
        self.resting.append(order)
        order.is_over = False

    def _leave(self, order: NaiveOrder) -> None:
        self.resting.remove(order)
        order.is_over = True

    def trade(self, tick: Trade) -> list[str]:
        if tick.sequence <= self.last.get(tick.symbol, (0, 0))[0]:
            return []
        self.last[tick.symbol] = (tick.sequence, tick.price_ticks)
        self.open.add(tick.symbol)
        left = tick.quantity_lots
        log = []
        while left and (through := self._through(tick)):
            chosen = max(
                through,
                key=lambda order: (abs(order.command.price_ticks - tick.price_ticks), -order.place),
            )
            lots = min(left, chosen.leaves_lots)
            left -= lots
            self.trades += 1
            log.append(self._fill(chosen, lots, chosen.command.price_ticks))
        self.liquidity[tick.symbol] = left
        return log

    def close(self) -> list[str]:
        log = [
            f"{order.order_id} expired {order.leaves_lots}"
            for symbol in LISTED
            for order in sorted(self.resting, key=lambda order: order.arrival)
            if order.command.symbol == symbol
        ]
        for order in self.resting[:]:
            self._leave(order)
        self.open.clear()
        self.liquidity = dict.fromkeys(LISTED, 0)
        return log

    def _matches(self, order: NaiveOrder) -> list[NaiveOrder]:
        mine = order.command
        return [
            other
            for other in self.resting
            if other.command.symbol == mine.symbol
            and other.command.side is not mine.side
            and other.command.account_id != mine.account_id
            and _is_as_good(mine.side, mine.price_ticks, other.command.price_ticks)
        ]

    def _through(self, tick: Trade) -> list[NaiveOrder]:
        return [
            order
            for order in self.resting
            if order.command.symbol == tick.symbol
            and _is_as_good(order.command.side, order.command.price_ticks, tick.price_ticks)
        ]

    def _fill(self, order: NaiveOrder, lots: int, price_ticks: int) -> str:
        order.leaves_lots -= lots
        if not order.leaves_lots and not order.is_over:
            self._leave(order)
        trade_id = f"T{self.trades}{'B' if order.command.side is Side.BUY else 'S'}"
        return f"{order.order_id} filled {trade_id} {lots} at {price_ticks}, leaves {order.leaves_lots}"

    def state(self) -> object:
        last = {symbol: self.last.get(symbol, (0, 0)) for symbol in LISTED}
        return (
            [(symbol, *last[symbol], self.liquidity[symbol], symbol in self.open) for symbol in LISTED],
            sorted(
                (order.arrival, order.order_id, order.leaves_lots, order.command.price_ticks, order.place)
                for order in self.resting
            ),
            (self.taken, self.trades, self.places),
        )


def _badness(order: NaiveOrder) -> int:
    return -order.command.price_ticks if order.command.side is Side.BUY else order.command.price_ticks


def _is_as_good(side: Side, limit_ticks: int, price_ticks: int) -> bool:
    return price_ticks <= limit_ticks if side is Side.BUY else price_ticks >= limit_ticks


def _line(fact: Fact) -> str:
    order_id = fact.order.order_id
    match fact:
        case Acknowledged():
            return f"{order_id} acknowledged"
        case Filled(_, trade_id, lots, price, leaves):
            return f"{order_id} filled {trade_id} {lots} at {price}, leaves {leaves}"
        case Cancelled(_, lots, request_id):
            return f"{order_id} cancelled {lots} by {request_id}"
        case Expired(_, lots):
            return f"{order_id} expired {lots}"
        case Rejected(_, reason):
            return f"{order_id} rejected {reason.value}"
        case Replaced(_, request_id, quantity, price, leaves):
            return f"{order_id} replaced by {request_id}: {quantity} at {price}, leaves {leaves}"
        case Refused(_, request, reason):
            return f"{order_id} refused {request.request_id}: {reason.value}"


def _state(market: Market) -> object:
    resting = [order for book in market.books.values() for order in book.orders()]
    return (
        [
            (symbol, book.tick.sequence, book.price_ticks, book.liquidity_lots, book.is_open)
            for symbol, book in market.books.items()
        ],
        sorted(
            (order.arrival, order.order_id, order.leaves_lots, order.price_ticks, order.priority)
            for order in resting
        ),
        (market.numbers.orders_taken, market.numbers.trades_matched, market.numbers.places_given),
    )


def _hash(state: object) -> str:
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _seeded_command(chance: random.Random, number: int, resting: list[NaiveOrder]) -> Command:
    symbol = chance.choice(["BTC-USD", "BTC-USD", "ETH-USD", "DOGE-USD"] if number % 10 == 0 else [*LISTED])
    kind = chance.random()
    if kind < 0.001:
        return Close()
    if kind < 0.15 and symbol in LISTED:
        sequence = number if chance.random() < 0.9 else chance.randint(1, number + 1)
        return Trade(sequence, LAST + chance.randint(-20, 20), chance.randint(0, 30), symbol)
    price = LAST + chance.randint(-40, 40) if chance.random() < 0.98 else chance.randint(0, 3 * LAST)
    if kind < 0.4:
        target = chance.randint(0, number)
        if resting and chance.random() < 0.9:
            target = int(chance.choice(resting).order_id[1:])
        return Ask(
            target,
            None if chance.random() < 0.25 else chance.randint(1, 20),
            None if chance.random() < 0.5 else price,
            chance.random() < 0.02,
        )
    account = f"account-{chance.randint(1, 6)}"
    time_in_force = TimeInForce.IOC if chance.random() < 0.2 else TimeInForce.GTC
    return Place(account, chance.choice([*Side]), chance.randint(1, 20), price, time_in_force, symbol)


def test_the_fast_book_is_the_naive_book_over_seeded_commands() -> None:
    chance = random.Random(20260101)
    fast, naive = Played(), NaiveVenue()
    for number in range(50_000):
        command = _seeded_command(chance, number, naive.resting)
        assert [_line(fact) for fact in apply(fast, number, command)] == naive.apply(number, command)
        if number % 100 == 0:
            assert _hash(_state(fast.market)) == _hash(naive.state())
    assert _hash(_state(fast.market)) == _hash(naive.state())


@given(COMMANDS)
def test_the_fast_book_is_the_naive_book(commands: list[Command]) -> None:
    fast, naive = Played(), NaiveVenue()
    for number, command in enumerate(commands):
        assert [_line(fact) for fact in apply(fast, number, command)] == naive.apply(number, command)
    assert _hash(_state(fast.market)) == _hash(naive.state())
