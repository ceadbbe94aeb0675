"""The venue's matching: its rules one by one, then properties, then against a book too simple to be wrong."""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from models import events
from models.reasons import VenueReason
from models.values import Liquidity, Side, TimeInForce
from venue.book import (
    Acknowledged,
    BookSide,
    Cancelled,
    Expired,
    Fact,
    Filled,
    Market,
    Order,
    OrderStatus,
    Rejected,
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
    return next((fact.reason for fact in facts if isinstance(fact, Rejected)), None)


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


def test_skipping_an_account_does_not_grow_the_book_side() -> None:
    side = BookSide(Side.BUY)
    stays = an_order("stays", price_ticks=1)
    stays.arrival = 1
    side.add(stays)
    for arrival in range(2, 1_000):
        order = an_order(price_ticks=2)
        order.arrival = arrival
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
class Close:
    pass


Command = Place | Trade | Close

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
COMMANDS = st.lists(st.one_of(PLACES, PLACES, PLACES, TRADES, TRADES, st.just(Close())), max_size=60)


def apply(market: Market, number: int, command: Command) -> list[Fact]:
    match command:
        case Place(account_id, side, quantity_lots, price_ticks, time_in_force, symbol):
            order = Order(
                f"o{number}", account_id, 0, symbol, side, quantity_lots, price_ticks, time_in_force
            )
            return market.place(order)
        case Trade(sequence, price_ticks, quantity_lots, symbol):
            return market.trade(symbol, Tick(0, sequence), price_ticks, quantity_lots)
        case Close():
            return market.close()


@given(COMMANDS)
def test_lots_are_conserved_and_limits_respected(commands: list[Command]) -> None:
    market = Market(LISTED)
    filled_lots: dict[str, int] = defaultdict(int)
    orders: dict[str, Order] = {}
    ended: set[str] = set()
    for number, command in enumerate(commands):
        for fact in apply(market, number, command):
            order = fact.order
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
    resting = {order.order_id for order in market.books[BTC].orders()}
    assert resting == set(orders) - ended
    assert all(order.filled_lots == filled_lots[order.order_id] for order in orders.values())


def _is_last(fact: Fact) -> bool:
    return not isinstance(fact, Acknowledged) and (not isinstance(fact, Filled) or fact.leaves_lots == 0)


@given(COMMANDS)
def test_no_market_trade_gives_more_lots_than_it_has(commands: list[Command]) -> None:
    market = Market(LISTED)
    market_lots = 0
    matched_lots: dict[Side, int] = defaultdict(int)
    for number, command in enumerate(commands):
        if isinstance(command, Trade) and not market.has_seen(BTC, Tick(0, command.sequence)):
            market_lots += command.quantity_lots
        facts = apply(market, number, command)
        for fact in facts:
            if isinstance(fact, Filled):
                matched_lots[fact.order.side] += fact.quantity_lots
    assert abs(matched_lots[Side.BUY] - matched_lots[Side.SELL]) <= market_lots


@given(COMMANDS)
def test_nobody_is_filled_before_a_better_or_earlier_order_of_another_account(
    commands: list[Command],
) -> None:
    market = Market(LISTED)
    for number, command in enumerate(commands):
        waiting = market.books[BTC].orders()
        incoming = command.account_id if isinstance(command, Place) else None
        touched = {
            fact.order.arrival: fact.order
            for fact in apply(market, number, command)
            if isinstance(fact, Filled) and fact.order in waiting
        }
        for filled in touched.values():
            for other in waiting:
                if other.side is filled.side and other.account_id != incoming and _goes_before(other, filled):
                    assert other.status is OrderStatus.FILLED


def _goes_before(one: Order, other: Order) -> bool:
    if one.price_ticks != other.price_ticks:
        return (one.price_ticks > other.price_ticks) == (one.side is Side.BUY)
    return one.arrival < other.arrival


@given(COMMANDS)
def test_no_account_trades_with_itself(commands: list[Command]) -> None:
    market = Market(LISTED)
    accounts: dict[str, set[str]] = defaultdict(set)
    sides: dict[str, int] = defaultdict(int)
    for number, command in enumerate(commands):
        for fact in apply(market, number, command):
            if isinstance(fact, Filled):
                accounts[fact.trade_id[:-1]].add(fact.order.account_id)
                sides[fact.trade_id[:-1]] += 1
    assert all(len(accounts[trade]) == sides[trade] for trade in accounts)


# Against a naive book


@dataclass
class NaiveOrder:
    order_id: str
    arrival: int
    command: Place
    leaves_lots: int


@dataclass
class NaiveVenue:
    """The rules of the venue's book read aloud: one list of orders, searched anew for every fill."""

    resting: list[NaiveOrder] = field(default_factory=list)
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    liquidity: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LISTED, 0))
    open: set[str] = field(default_factory=set)
    taken: int = 0
    trades: int = 0

    def apply(self, number: int, command: Command) -> list[str]:
        if isinstance(command, Place):
            return self.place(f"o{number}", command)
        if isinstance(command, Trade):
            return self.trade(command)
        return self.close()

    def place(self, order_id: str, command: Place) -> list[str]:
        self.taken += 1
        order = NaiveOrder(order_id, self.taken, command, command.quantity_lots)
        symbol, price = command.symbol, command.price_ticks
        if symbol not in LISTED:
            return [f"{order_id} rejected unknown_symbol"]
        last_price = self.last.get(symbol, (0, 0))[1]
        if last_price and not last_price / 2 <= price <= last_price * 3 / 2:
            return [f"{order_id} rejected price_out_of_band"]
        if symbol not in self.open:
            return [f"{order_id} rejected market_closed"]
        log = [f"{order_id} acknowledged"]
        while order.leaves_lots and (others := self._matches(order)):
            best = min(others, key=lambda other: (_badness(other), other.arrival))
            lots = min(order.leaves_lots, best.leaves_lots)
            self.trades += 1
            log += [self._fill(each, lots, best.command.price_ticks) for each in (order, best)]
        lots = min(order.leaves_lots, self.liquidity[symbol])
        if lots and _is_as_good(command.side, price, last_price):
            self.trades += 1
            self.liquidity[symbol] -= lots
            log.append(self._fill(order, lots, last_price))
        if order.leaves_lots and command.time_in_force is TimeInForce.IOC:
            log.append(f"{order_id} cancelled {order.leaves_lots}")
        elif order.leaves_lots:
            self.resting.append(order)
        return log

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
                key=lambda order: (abs(order.command.price_ticks - tick.price_ticks), -order.arrival),
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
            for order in self.resting
            if order.command.symbol == symbol
        ]
        self.resting.clear()
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
        self.resting = [each for each in self.resting if each.leaves_lots]
        trade_id = f"T{self.trades}{'B' if order.command.side is Side.BUY else 'S'}"
        return f"{order.order_id} filled {trade_id} {lots} at {price_ticks}, leaves {order.leaves_lots}"

    def state(self) -> object:
        last = {symbol: self.last.get(symbol, (0, 0)) for symbol in LISTED}
        return (
            [(symbol, *last[symbol], self.liquidity[symbol], symbol in self.open) for symbol in LISTED],
            sorted((order.arrival, order.order_id, order.leaves_lots) for order in self.resting),
            (self.taken, self.trades),
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
        case Cancelled(_, lots):
            return f"{order_id} cancelled {lots}"
        case Expired(_, lots):
            return f"{order_id} expired {lots}"
        case Rejected(_, reason):
            return f"{order_id} rejected {reason.value}"


def _state(market: Market) -> object:
    resting = [order for book in market.books.values() for order in book.orders()]
    return (
        [
            (symbol, book.tick.sequence, book.price_ticks, book.liquidity_lots, book.is_open)
            for symbol, book in market.books.items()
        ],
        sorted((order.arrival, order.order_id, order.leaves_lots) for order in resting),
        (market.numbers.orders_taken, market.numbers.trades_matched),
    )


def _hash(state: object) -> str:
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _seeded_command(chance: random.Random, number: int) -> Command:
    symbol = chance.choice(["BTC-USD", "BTC-USD", "ETH-USD", "DOGE-USD"] if number % 10 == 0 else [*LISTED])
    kind = chance.random()
    if kind < 0.002:
        return Close()
    if kind < 0.3 and symbol in LISTED:
        sequence = number if chance.random() < 0.9 else chance.randint(1, number + 1)
        return Trade(sequence, LAST + chance.randint(-20, 20), chance.randint(0, 30), symbol)
    price = LAST + chance.randint(-40, 40) if chance.random() < 0.98 else chance.randint(0, 3 * LAST)
    account = f"account-{chance.randint(1, 6)}"
    time_in_force = TimeInForce.IOC if chance.random() < 0.2 else TimeInForce.GTC
    return Place(account, chance.choice([*Side]), chance.randint(1, 20), price, time_in_force, symbol)


def test_the_fast_book_is_the_naive_book_over_seeded_commands() -> None:
    chance = random.Random(20260101)
    fast, naive = Market(LISTED), NaiveVenue()
    for number in range(50_000):
        command = _seeded_command(chance, number)
        assert [_line(fact) for fact in apply(fast, number, command)] == naive.apply(number, command)
        if number % 100 == 0:
            assert _hash(_state(fast)) == _hash(naive.state())
    assert _hash(_state(fast)) == _hash(naive.state())


@given(COMMANDS)
def test_the_fast_book_is_the_naive_book(commands: list[Command]) -> None:
    fast, naive = Market(LISTED), NaiveVenue()
    for number, command in enumerate(commands):
        assert [_line(fact) for fact in apply(fast, number, command)] == naive.apply(number, command)
    assert _hash(_state(fast)) == _hash(naive.state())
