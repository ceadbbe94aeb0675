"""Profit and loss: case by case, then random fills beside a slow model in fractions."""

from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from app.domain.profit import NOT_KNOWN, Profit, booked, marked, rescaled
from app.domain.risk import NEW_ACCOUNT, AccountRisk, Holding, apply_decision, apply_report, reserve
from models.events import InstrumentListed, TradeExecuted
from models.values import FormerScale, Instrument, Side
from tests.builders import (
    NOW_MS,
    a_fill,
    a_price,
    an_approval,
    an_instrument,
    an_order,
    cancelled,
    known,
    listed,
)

BUY, SELL = Side.BUY, Side.SELL
FREE: dict[str, Any] = {"fee_micros": 0, "fee_currency": "USD"}


class Fill(NamedTuple):
    side: Side
    lots: int
    price_ticks: int


def fill_of(number: int, fill: Fill, **terms: Any) -> TradeExecuted:
    return a_fill(
        fill.lots, 0, venue_sequence=number, side=fill.side, price_ticks=fill.price_ticks, **(FREE | terms)
    )


def lots_of(fill: Fill) -> int:
    return fill.lots if fill.side is BUY else -fill.lots


def after(*fills: Fill) -> tuple[int, int, int]:
    """The position, its cost and what is realised after fills, the first of which finds it flat."""
    position_lots, profit = 0, None
    for number, fill in enumerate(fills, start=7):
        profit = booked(profit, position_lots, fill_of(number, fill))
        position_lots += lots_of(fill)
    assert profit is not None
    assert profit.since_venue_sequence == 7
    return position_lots, profit.cost_tick_lots, profit.realised_tick_lots


@pytest.mark.parametrize(
    ("fills", "position_lots", "cost", "realised"),
    [
        ([Fill(BUY, 10, 100)], 10, 1_000, 0),
        ([Fill(SELL, 10, 100)], -10, -1_000, 0),
        ([Fill(BUY, 10, 100), Fill(BUY, 5, 130)], 15, 1_650, 0),
        ([Fill(SELL, 10, 100), Fill(SELL, 5, 130)], -15, -1_650, 0),
        ([Fill(BUY, 10, 100), Fill(SELL, 4, 110)], 6, 600, 40),
        ([Fill(SELL, 10, 100), Fill(BUY, 4, 110)], -6, -600, -40),
        ([Fill(BUY, 10, 100), Fill(SELL, 10, 90)], 0, 0, -100),
        ([Fill(SELL, 10, 100), Fill(BUY, 10, 90)], 0, 0, 100),
        ([Fill(BUY, 10, 100), Fill(SELL, 14, 110)], -4, -440, 100),
        ([Fill(SELL, 10, 100), Fill(BUY, 14, 110)], 4, 440, -100),
        # bought 3 for 100: a lot costs 33 1/3, and what stays open has the cost rounded down
        ([Fill(BUY, 1, 34), Fill(BUY, 2, 33), Fill(SELL, 1, 40)], 2, 66, 6),
        ([Fill(BUY, 1, 34), Fill(BUY, 2, 33), Fill(SELL, 1, 40), Fill(SELL, 2, 40)], 0, 0, 20),
        ([Fill(SELL, 1, 34), Fill(SELL, 2, 33), Fill(BUY, 1, 30)], -2, -67, 3),
        ([Fill(SELL, 1, 34), Fill(SELL, 2, 33), Fill(BUY, 1, 30), Fill(BUY, 2, 30)], 0, 0, 10),
        ([Fill(BUY, 10, 100), Fill(SELL, 10, 110), Fill(SELL, 5, 120)], -5, -600, 100),
        ([Fill(BUY, 2**40, 2**40), Fill(SELL, 1, 2**40)], 2**40 - 1, 2**80 - 2**40, 0),
    ],
)
def test_cost_and_realised(fills: list[Fill], position_lots: int, cost: int, realised: int) -> None:
    assert after(*fills) == (position_lots, cost, realised)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([{"fee_micros": 90, "fee_currency": "USD"}], (90, "USD", 0)),
        ([{"fee_micros": -90, "fee_currency": "USD"}], (-90, "USD", 0)),
        (
            [{"fee_micros": 90, "fee_currency": "USD"}, {"fee_micros": -20, "fee_currency": "USD"}],
            (70, "USD", 0),
        ),
        ([{"fee_micros": None, "fee_currency": None}], (0, "", 1)),
        ([{"fee_micros": 90, "fee_currency": None}], (0, "", 1)),
        ([{"fee_micros": 0, "fee_currency": None}], (0, "", 0)),
        (
            [{"fee_micros": 90, "fee_currency": "USD"}, {"fee_micros": 1, "fee_currency": "EUR"}],
            (90, "USD", 1),
        ),
        (
            [{"fee_micros": 90, "fee_currency": "USD"}, {"fee_micros": 0, "fee_currency": "EUR"}],
            (90, "USD", 0),
        ),
    ],
)
def test_fees_and_rebates(terms: list[dict[str, Any]], expected: tuple[int, str, int]) -> None:
    profit = None
    for position_lots, told in enumerate(terms):
        profit = booked(profit, position_lots, fill_of(position_lots + 1, Fill(BUY, 1, 100), **told))
    assert profit is not None
    assert (profit.fee_micros, profit.fee_currency, profit.fees_missing) == expected


# -- what is not known


def test_what_is_not_known_stays_so_until_the_position_is_flat() -> None:
    assert booked(None, 10, fill_of(1, Fill(BUY, 5, 100))) is None
    assert booked(None, 15, fill_of(2, Fill(SELL, 15, 100))) is None
    begun = booked(None, 0, fill_of(3, Fill(SELL, 5, 100)))
    assert begun == Profit(since_venue_sequence=3, cost_tick_lots=-500)


def test_one_that_goes_through_zero_is_not_flat_between() -> None:
    assert booked(None, 10, fill_of(1, Fill(SELL, 15, 100))) is None


# -- in the books


def traded(
    account: AccountRisk, sequence: int, fill: Fill, listing: InstrumentListed, **terms: Any
) -> AccountRisk:
    """An order for a lot more is approved and filled but for that one, which is cancelled."""
    order = an_order(
        order_id=f"acc-1-{sequence}", sequence=sequence, side=fill.side, quantity_lots=fill.lots + 1
    )
    account = apply_decision(account, an_approval(order), known({"BTC-USD": listing}))
    trade = a_fill(
        fill.lots,
        1,
        order_id=order.order_id,
        side=fill.side,
        price_ticks=fill.price_ticks,
        venue_sequence=2 * sequence,
        **(FREE | terms),
    )
    account, rest = apply_report(account, reserve(an_approval(order)), trade)
    ended = cancelled(1, order_id=order.order_id, side=fill.side, venue_sequence=2 * sequence + 1)
    account, rest = apply_report(account, rest, ended)
    assert rest is None
    return account


def test_orders_that_are_approved_or_end_without_a_fill_leave_the_profit_alone() -> None:
    account = traded(NEW_ACCOUNT, 1, Fill(BUY, 10, 100), listed(), fee_micros=3)
    profit = account.holding("BTC-USD").profit
    assert profit == Profit(since_venue_sequence=2, cost_tick_lots=1_000, fee_micros=3, fee_currency="USD")
    order = an_order(order_id="acc-1-2", sequence=2)
    account = apply_decision(account, an_approval(order), known({"BTC-USD": listed()}))
    assert account.holding("BTC-USD").profit is profit
    account, _ = apply_report(
        account, reserve(an_approval(order)), cancelled(10, order_id="acc-1-2", venue_sequence=9)
    )
    assert account.holding("BTC-USD").profit is profit


def former(scale: int = 1, **changed: Any) -> FormerScale:
    """BTC-USD as it was: a tick of a lot was one micro."""
    terms = {"base": "BTC", "currency": "USD", "tick": "0.01", "lot": "0.0001", "multiplier": 1}
    return FormerScale.model_validate({"scale": scale, **terms, **changed})


def relisted(*formers: FormerScale, **changed: Any) -> InstrumentListed:
    """BTC-USD in scale 2, of which a tick of a lot is ten micros."""
    return InstrumentListed(
        instrument=an_instrument(**({"lot": "0.001"} | changed)), version=2, scale=2, former=formers
    )


def test_a_change_of_scale_banks_what_was_realised() -> None:
    account = traded(NEW_ACCOUNT, 1, Fill(BUY, 10, 100), listed(), fee_micros=3)
    account = traded(account, 2, Fill(SELL, 10, 107), listed())
    account = traded(account, 3, Fill(SELL, 4, 50), relisted(former()))
    assert account.holding("BTC-USD") == Holding(
        position_lots=-4,
        reference_price_ticks=90_000,
        scale=2,
        profit=Profit(
            since_venue_sequence=2,
            cost_tick_lots=-200,
            realised_micros=70,
            fee_micros=3,
            fee_currency="USD",
        ),
    )
    assert marked(account.holding("BTC-USD"), relisted(former()), a_price(price_ticks=49, scale=2), NOW_MS)[
        :3
    ] == (70, 40, 3)


@pytest.mark.parametrize(
    "listing",
    [relisted(), relisted(former(7)), relisted(former(currency="EUR"))],
    ids=["none", "other", "EUR"],
)
def test_what_cannot_be_banked_is_not_known(listing: InstrumentListed) -> None:
    profit = Profit(since_venue_sequence=2, realised_tick_lots=70)
    assert rescaled(profit, 1, listing) is None
    account = replace(NEW_ACCOUNT, holdings={"BTC-USD": Holding(profit=profit)})
    account = traded(account, 3, Fill(SELL, 4, 50), listing)
    assert account.holding("BTC-USD").profit == Profit(since_venue_sequence=6, cost_tick_lots=-200)


# -- the mark

HELD = Holding(
    position_lots=3,
    profit=Profit(
        since_venue_sequence=1,
        cost_tick_lots=300,
        realised_tick_lots=7,
        realised_micros=5,
        fee_micros=2,
        fee_currency="USD",
    ),
)
TENFOLD = listed(lot="0.001")


def test_a_holding_is_marked_at_the_last_price() -> None:
    price = a_price(price_ticks=90, observed_at_ms=NOW_MS - 40)
    assert marked(HELD, TENFOLD, price, NOW_MS) == (75, -300, 2, 90, 40, {})


def test_a_short_holding_gains_when_the_price_falls() -> None:
    assert HELD.profit is not None
    short = replace(HELD, position_lots=-3, profit=replace(HELD.profit, cost_tick_lots=-300))
    assert marked(short, TENFOLD, a_price(price_ticks=90), NOW_MS).unrealised_micros == 300


def test_a_price_of_a_clock_that_is_ahead_is_new() -> None:
    assert marked(HELD, TENFOLD, a_price(observed_at_ms=NOW_MS + 9), NOW_MS).price_age_ms == 0


SCALE_1 = "the instrument is not known in scale 1"
NO_PRICE = "there is no price in scale 1"
ALL = ("realised_micros", "unrealised_micros", "fee_micros")


def why_not(holding: Holding, listing: InstrumentListed | None, price: Any) -> dict[str, str]:
    """What cannot be told and why; all that is named is None, and nothing else is."""
    found = marked(holding, listing, price, NOW_MS)
    unknown = {name for name, value in found._asdict().items() if value is None}
    assert unknown == found.why.keys()
    return dict(found.why)


@pytest.mark.parametrize(
    ("holding", "listing", "price", "why"),
    [
        (Holding(position_lots=3), TENFOLD, a_price(), dict.fromkeys(ALL, NOT_KNOWN)),
        (
            Holding(),
            TENFOLD,
            a_price(),
            {"realised_micros": NOT_KNOWN, "fee_micros": NOT_KNOWN},
        ),
        (HELD, None, a_price(), dict.fromkeys(ALL, SCALE_1)),
        (HELD, relisted(), a_price(), dict.fromkeys(ALL, SCALE_1)),
        (
            HELD,
            relisted(former()),
            a_price(scale=2),
            dict.fromkeys(("unrealised_micros", "price_ticks", "price_age_ms"), NO_PRICE),
        ),
        (
            HELD,
            TENFOLD,
            None,
            dict.fromkeys(("unrealised_micros", "price_ticks", "price_age_ms"), NO_PRICE),
        ),
        (
            replace(HELD, position_lots=0),
            TENFOLD,
            None,
            dict.fromkeys(("price_ticks", "price_age_ms"), NO_PRICE),
        ),
        (
            replace(HELD, profit=Profit(since_venue_sequence=1, fees_missing=2)),
            TENFOLD,
            a_price(),
            {"fee_micros": "the fees of 2 fills are missing"},
        ),
        (
            replace(HELD, profit=Profit(since_venue_sequence=1, fee_micros=2, fee_currency="EUR")),
            TENFOLD,
            a_price(),
            {"fee_micros": "they are in EUR, not in USD"},
        ),
    ],
)
def test_what_cannot_be_told_is_none_and_says_why(
    holding: Holding, listing: InstrumentListed | None, price: Any, why: dict[str, str]
) -> None:
    assert why_not(holding, listing, price) == why


def test_a_flat_holding_has_nothing_unrealised() -> None:
    assert marked(Holding(), None, None, NOW_MS).unrealised_micros == 0


# -- beside a slow model

SCALES = [an_instrument(lot=lot) for lot in ("0.0001", "0.001", "0.01")]
MICROS = [1, 10, 100]


class Books(RuleBasedStateMachine):
    """Fills of one account in one symbol, with losses of what is known, and changes of scale when flat.

    The model keeps the exact average in fractions, and rounds nothing. `closes` are the partial closes since
    the cost was last exact: each of them may leave less than one unit too little with what is open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.account = NEW_ACCOUNT
        self.sequence = 0
        self.scale = 1
        self.known = False
        self.held = 0
        self.cost, self.realised = Fraction(0), Fraction(0)
        self.closes = 0
        self.paid = 0
        self.banked_micros = 0
        self.fee_micros = 0
        self.fees_missing = 0
        self.since = 0

    def listing(self) -> InstrumentListed:
        formers = [
            FormerScale.model_validate(
                {"scale": number, **each.model_dump(include=set(FormerScale.model_fields))}
            )
            for number, each in enumerate(SCALES[: self.scale - 1], start=1)
        ]
        instrument: Instrument = SCALES[self.scale - 1]
        return InstrumentListed(
            instrument=instrument, version=self.scale, scale=self.scale, former=tuple(formers)
        )

    @rule(
        side=st.sampled_from(Side),
        lots=st.integers(1, 12),
        price_ticks=st.integers(1, 200),
        fee_micros=st.none() | st.integers(-50, 50),
    )
    def trade(self, side: Side, lots: int, price_ticks: int, fee_micros: int | None) -> None:
        self.sequence += 1
        fill = Fill(side, lots, price_ticks)
        self.account = traded(self.account, self.sequence, fill, self.listing(), fee_micros=fee_micros)
        if not self.held and not self.known:
            self.begin()
        self.fold(lots_of(fill), price_ticks)
        self.fee_micros += fee_micros or 0
        self.fees_missing += fee_micros is None

    def begin(self) -> None:
        self.known, self.since = True, 2 * self.sequence
        self.cost = self.realised = Fraction(0)
        self.closes = self.paid = self.banked_micros = self.fee_micros = self.fees_missing = 0

    def fold(self, lots: int, price_ticks: int) -> None:
        """One lot after the other: what leads towards zero closes at the average, the rest opens."""
        self.paid += lots * price_ticks
        step = 1 if lots > 0 else -1
        closed = min(abs(lots), abs(self.held)) if lots * self.held < 0 else 0
        for _ in range(closed):
            average = self.cost / self.held
            self.cost += step * average
            self.held += step
            self.realised += step * (average - price_ticks)
        self.closes = (self.closes + 1 if closed else self.closes) if self.held else 0
        self.held += lots - step * closed
        self.cost += (lots - step * closed) * price_ticks

    @precondition(lambda self: self.known)
    @rule()
    def lose(self) -> None:
        """A release that does not know profits has written the account."""
        holding = replace(self.account.holding("BTC-USD"), profit=None)
        self.account = replace(self.account, holdings={"BTC-USD": holding})
        self.known = False

    @precondition(lambda self: not self.held and self.scale < len(SCALES))
    @rule()
    def rescale(self) -> None:
        """The next approval is the first in the new scale."""
        self.banked_micros += int(self.realised) * MICROS[self.scale - 1]
        self.realised, self.paid = Fraction(0), 0
        self.scale += 1
        order = an_order(order_id="acc-1-x", sequence=self.sequence)
        approval = an_approval(order)
        self.account = apply_decision(self.account, approval, known({"BTC-USD": self.listing()}))
        ended = cancelled(10, order_id="acc-1-x", venue_sequence=2 * self.sequence + 1)
        self.account, _ = apply_report(self.account, reserve(approval), ended)

    @invariant()
    def what_is_known_is_what_the_model_says(self) -> None:
        holding = self.account.holding("BTC-USD")
        assert holding.position_lots == self.held
        profit = holding.profit
        assert (profit is not None) == self.known
        if profit is None:
            return
        assert profit.since_venue_sequence == self.since
        assert profit.realised_micros == self.banked_micros
        assert (profit.fee_micros, profit.fees_missing) == (self.fee_micros, self.fees_missing)
        assert profit.realised_tick_lots - profit.cost_tick_lots + self.paid == 0
        short_of = self.cost - profit.cost_tick_lots
        assert short_of == 0 or 0 < short_of < self.closes
        assert self.realised - profit.realised_tick_lots == short_of

    @invariant()
    def marked_it_is_exact_at_any_price(self) -> None:
        holding = self.account.holding("BTC-USD")
        if holding.profit is None:
            return
        for price_ticks in (1, 77, 10**6):
            found = marked(
                holding, self.listing(), a_price(price_ticks=price_ticks, scale=self.scale), NOW_MS
            )
            assert found.realised_micros is not None
            assert found.unrealised_micros is not None
            brought = self.held * price_ticks - self.paid
            expected_micros = self.banked_micros + brought * MICROS[self.scale - 1]
            assert found.realised_micros + found.unrealised_micros == expected_micros


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
