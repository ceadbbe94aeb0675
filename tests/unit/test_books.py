"""Random lives of orders, folded through risk and the exchange together: the books always add up."""

from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.domain.exchange import NEW_SESSION, Intent, apply_venue_report, new_intent
from app.domain.risk import (
    NEW_ACCOUNT,
    Holding,
    Reservation,
    apply_decision,
    apply_report,
    decide_risk,
    reserve,
)
from models.events import OrderComplianceRejected, OrderRiskApproved, TradeExecuted, VenueReport
from models.reasons import ComplianceReason
from models.values import INSTRUMENTS, Side
from tests.builders import (
    NOW_MS,
    a_fill,
    a_price,
    acknowledged,
    an_order,
    cancelled,
    expired,
    limits,
    venue_rejected,
)

LIMITS = limits(position_lots_max=40, gross_exposure_micros_max=5_000_000, open_orders_max=6)
ENDINGS: dict[str, Callable[..., VenueReport]] = {
    "cancelled": cancelled,
    "expired": expired,
    "rejected": venue_rejected,
}


class Books(RuleBasedStateMachine):
    """Orders and reports in any legal order; the same books are kept a second time, naively."""

    def __init__(self) -> None:
        super().__init__()
        self.account = NEW_ACCOUNT
        self.reservations: dict[str, Reservation] = {}
        self.intents: dict[str, Intent] = {}
        self.session = NEW_SESSION
        self.filled: Counter[str] = Counter()
        self.sequence = 0

    @rule(
        symbol=st.sampled_from(sorted(INSTRUMENTS)),
        side=st.sampled_from(Side),
        quantity_lots=st.integers(-1, 30),
        reference_price_ticks=st.integers(60_000, 120_000),
    )
    def order_arrives(self, symbol: str, side: Side, quantity_lots: int, reference_price_ticks: int) -> None:
        self.sequence += 1
        before = self.account.holding(symbol)
        outcome = decide_risk(
            an_order(
                order_id=f"o-{self.sequence}",
                sequence=self.sequence,
                symbol=symbol,
                side=side,
                quantity_lots=quantity_lots,
                price_ticks=reference_price_ticks,
            ),
            source="orders/0/0",
            received_at_ms=NOW_MS,
            account=self.account,
            limits=LIMITS,
            price=a_price(symbol=symbol, price_ticks=reference_price_ticks),
        )
        self.account = apply_decision(self.account, outcome)
        assert self.account.last_sequence == self.sequence
        if isinstance(outcome, OrderRiskApproved):
            self.reservations[outcome.order.order_id] = reserve(outcome)
            worst_lots = self.account.holding(symbol).worst_lots
            assert worst_lots == before.worst_lots or (
                worst_lots <= LIMITS.position_lots_max
                and self.account.gross_exposure_micros <= LIMITS.gross_exposure_micros_max
            )
            assert worst_lots <= LIMITS.position_lots_max
            assert self.account.open_orders <= LIMITS.open_orders_max

    @precondition(lambda self: self.reservations.keys() - self.intents.keys())
    @rule(data=st.data(), passes=st.integers(0, 3))
    def compliance_decides(self, data: st.DataObject, passes: int) -> None:
        order_id = data.draw(st.sampled_from(sorted(self.reservations.keys() - self.intents.keys())))
        held = self.reservations[order_id]
        order = an_order(order_id=order_id, symbol=held.symbol, side=held.side, quantity_lots=held.open_lots)
        if passes:
            self.intents[order_id] = new_intent(order)
            self.report(order_id, acknowledged(**self.identity(order_id)))
        else:
            rejected = OrderComplianceRejected(order=order, reason=ComplianceReason.SELF_MATCH)
            self.account, ended = apply_report(self.account, held, rejected)
            assert ended is None
            del self.reservations[order_id]

    @precondition(lambda self: self.intents)
    @rule(data=st.data())
    def order_is_filled(self, data: st.DataObject) -> None:
        order_id = data.draw(st.sampled_from(sorted(self.intents)))
        open_lots = self.intents[order_id].open_lots
        quantity_lots = data.draw(st.integers(1, open_lots))
        self.report(order_id, a_fill(quantity_lots, open_lots - quantity_lots, **self.identity(order_id)))

    @precondition(lambda self: self.intents)
    @rule(data=st.data(), ending=st.sampled_from(sorted(ENDINGS)))
    def order_is_ended(self, data: st.DataObject, ending: str) -> None:
        order_id = data.draw(st.sampled_from(sorted(self.intents)))
        intent = self.intents[order_id]
        if ending == "rejected" and intent.open_lots != intent.order.quantity_lots:
            ending = "expired"
        self.report(order_id, ENDINGS[ending](intent.open_lots, **self.identity(order_id)))

    def identity(self, order_id: str) -> dict[str, object]:
        held = self.reservations[order_id]
        venue_sequence = self.session.venue_sequence_last + 1
        return {
            "order_id": order_id,
            "symbol": held.symbol,
            "side": held.side,
            "venue_sequence": venue_sequence,
        }

    def report(self, order_id: str, report: VenueReport) -> None:
        """The venue's report goes through the exchange, which reads it twice, and then through risk."""
        self.session, intent, emit = apply_venue_report(self.session, self.intents[order_id], report)
        assert emit
        assert apply_venue_report(self.session, intent, report) == (self.session, intent, False)
        exposure_micros = self.account.gross_exposure_micros
        self.account, reservation = apply_report(self.account, self.reservations[order_id], report)
        assert self.account.gross_exposure_micros <= exposure_micros
        if isinstance(report, TradeExecuted):
            signed_lots = report.quantity_lots if report.side is Side.BUY else -report.quantity_lots
            self.filled[report.symbol] += signed_lots
        assert (intent is None) == (reservation is None)
        if intent is None or reservation is None:
            del self.intents[order_id], self.reservations[order_id]
            return
        assert intent.open_lots == reservation.open_lots
        self.intents[order_id], self.reservations[order_id] = intent, reservation

    @invariant()
    def positions_are_the_sum_of_the_fills(self) -> None:
        for symbol in INSTRUMENTS:
            assert self.account.holding(symbol).position_lots == self.filled[symbol]

    @invariant()
    def what_is_open_is_the_sum_of_the_reservations(self) -> None:
        assert self.account.open_orders == len(self.reservations)
        reserved: Counter[tuple[str, Side]] = Counter()
        for held in self.reservations.values():
            assert held.open_lots > 0
            reserved[held.symbol, held.side] += held.open_lots
        for symbol in INSTRUMENTS:
            holding = self.account.holding(symbol)
            assert holding.open_buy_lots == reserved[symbol, Side.BUY]
            assert holding.open_sell_lots == reserved[symbol, Side.SELL]

    def teardown(self) -> None:
        """When every order has ended nothing is reserved."""
        for order_id in [*self.reservations]:
            if order_id not in self.intents:
                held = self.reservations[order_id]
                order = an_order(order_id=order_id, symbol=held.symbol, side=held.side)
                rejected = OrderComplianceRejected(order=order, reason=ComplianceReason.SELF_MATCH)
                self.account, _ = apply_report(self.account, self.reservations.pop(order_id), rejected)
            else:
                self.report(order_id, expired(self.intents[order_id].open_lots, **self.identity(order_id)))
        assert self.account.open_orders == 0
        for holding in self.account.holdings.values():
            assert (holding.open_buy_lots, holding.open_sell_lots) == (0, 0)
            assert holding.worst_lots == abs(holding.position_lots)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


position_lots = st.integers(-100, 100)
open_lots = st.integers(0, 100)


@given(position_lots, open_lots, open_lots)
def test_the_worst_case_is_the_one_that_the_architecture_defines(
    position_lots: int, open_buy_lots: int, open_sell_lots: int
) -> None:
    holding = Holding(position_lots=position_lots, open_buy_lots=open_buy_lots, open_sell_lots=open_sell_lots)

    assert holding.worst_lots == max(abs(position_lots + open_buy_lots), abs(position_lots - open_sell_lots))


@given(position_lots, open_lots, open_lots, st.data())
def test_no_set_of_fills_leads_beyond_the_worst_case(
    position_lots: int, open_buy_lots: int, open_sell_lots: int, data: st.DataObject
) -> None:
    holding = Holding(position_lots=position_lots, open_buy_lots=open_buy_lots, open_sell_lots=open_sell_lots)
    bought_lots = data.draw(st.integers(0, open_buy_lots))
    sold_lots = data.draw(st.integers(0, open_sell_lots))

    assert abs(position_lots + bought_lots - sold_lots) <= holding.worst_lots
