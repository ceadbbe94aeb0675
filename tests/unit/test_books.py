"""Random lives of orders, folded through risk and the exchange together: the books always add up.

Beside them a slow model keeps every order for itself, and tries every way in which they may be filled.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.domain.exchange import NEW_SESSION, Intent, apply_venue_report, new_intent
from app.domain.risk import (
    NEW_ACCOUNT,
    Holding,
    Refusal,
    Reservation,
    apply_decision,
    apply_report,
    decide_risk,
    is_repeat,
    rejection,
    reserve,
)
from models.events import (
    OrderComplianceRejected,
    OrderReceived,
    OrderReport,
    OrderRiskApproved,
    TradeExecuted,
)
from models.reasons import ComplianceReason, RiskReason
from models.values import Side
from tests.builders import (
    BTC,
    ETH,
    NOW_MS,
    a_fill,
    a_price,
    acknowledged,
    an_order,
    cancelled,
    expired,
    known,
    limits,
    reference,
    venue_rejected,
    withheld,
)

LIMITS = limits(position_lots_max=40, gross_exposure_micros_max=5_000_000, open_orders_max=6)
INSTRUMENTS = {"BTC-USD": BTC, "ETH-USD": ETH}
MICROS = {"BTC-USD": 1, "ETH-USD": 10}
ENDINGS: dict[str, Callable[..., OrderReport]] = {
    "cancelled": cancelled,
    "expired": expired,
    "rejected": venue_rejected,
}


class OpenOrder(NamedTuple):
    """One open order of the slow model."""

    symbol: str
    side: Side
    lots: int
    price_ticks: int


def reachable_positions(position_lots: int, orders: Iterable[OpenOrder]) -> list[int]:
    """Every position that fills may lead to; each order may be filled in whole or not at all."""
    moves = [(0, each.lots if each.side is Side.BUY else -each.lots) for each in orders]
    return [position_lots + sum(chosen) for chosen in product(*moves)]


def exact_refusal(
    positions: dict[str, int],
    open_orders: list[OpenOrder],
    asked_ticks: dict[tuple[str, Side], list[int]],
    order: OrderReceived,
    marks: dict[str, int],
) -> RiskReason | None:
    """What risk has to say of limits on position and exposure, worked out order by order.

    `asked_ticks` are the prices of all orders approved since their side was last empty.
    """
    new = OpenOrder(order.symbol, order.side, order.quantity_lots, order.price_ticks)
    same_side = [each for each in open_orders if each[:2] == (new.symbol, new.side)]
    sign = 1 if new.side is Side.BUY else -1
    furthest_lots = max(sign * each for each in reachable_positions(positions[new.symbol], [*same_side, new]))
    if furthest_lots <= 0:
        return None
    if furthest_lots > LIMITS.position_lots_max:
        return RiskReason.POSITION_LIMIT
    micros = 0
    for symbol, position_lots in positions.items():
        orders = [each for each in [*open_orders, new] if each.symbol == symbol]
        lots = max(abs(each) for each in reachable_positions(position_lots, orders))
        if lots:
            asked = [at for side in Side for at in asked_ticks.get((symbol, side), [])]
            price_ticks = max([marks[symbol], *asked, *([new.price_ticks] if symbol == new.symbol else [])])
            micros += lots * price_ticks * MICROS[symbol]
    return RiskReason.GROSS_EXPOSURE_LIMIT if micros > LIMITS.gross_exposure_micros_max else None


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
        self.marks: dict[str, int] = {}
        self.approvals: list[OrderReceived] = []
        self.since: Counter[tuple[str, Side]] = Counter()
        self.seen: list[OrderReport | OrderComplianceRejected] = []

    @rule(
        symbol=st.sampled_from(sorted(INSTRUMENTS)),
        side=st.sampled_from(Side),
        quantity_lots=st.integers(-1, 30),
        mark_ticks=st.integers(60_000, 120_000),
        offset_ticks=st.integers(-3_000, 3_000),
    )
    def order_arrives(
        self, symbol: str, side: Side, quantity_lots: int, mark_ticks: int, offset_ticks: int
    ) -> None:
        self.sequence += 1
        self.marks[symbol] = mark_ticks
        order = an_order(
            order_id=f"acc-1-{self.sequence}",
            sequence=self.sequence,
            symbol=symbol,
            side=side,
            quantity_lots=quantity_lots,
            price_ticks=mark_ticks + offset_ticks,
        )
        world = reference(
            prices=known({name: a_price(symbol=name, price_ticks=at) for name, at in self.marks.items()})
        )
        decided = decide_risk(
            order,
            received_at_ms=NOW_MS,
            decided_at_ms=NOW_MS,
            account=self.account,
            limits=LIMITS,
            reference=world,
        )
        outcome = rejection(order, decided, "orders/0/0") if isinstance(decided, Refusal) else decided
        if quantity_lots > 0 and len(self.reservations) < LIMITS.open_orders_max:
            expected = exact_refusal(self.positions(), self.open_orders(), self.asked(), order, self.marks)
            assert (None if isinstance(outcome, OrderRiskApproved) else outcome.reason) is expected
        self.account = apply_decision(self.account, outcome, world.instruments)
        assert self.account.last_sequence == self.sequence
        if isinstance(outcome, OrderRiskApproved):
            self.reservations[order.order_id] = reserve(outcome)
            self.approvals.append(order)
            assert self.account.open_orders <= LIMITS.open_orders_max

    def positions(self) -> dict[str, int]:
        return {symbol: self.filled[symbol] for symbol in INSTRUMENTS}

    def asked(self) -> dict[tuple[str, Side], list[int]]:
        """By symbol and side, the prices of the approvals since the last one that found the side empty."""
        return {
            (symbol, side): [
                order.price_ticks
                for order in self.approvals
                if (order.symbol, order.side) == (symbol, side) and order.sequence >= self.since[symbol, side]
            ]
            for symbol, side in product(INSTRUMENTS, Side)
        }

    @invariant()
    def remember_when_a_side_was_empty(self) -> None:
        for symbol, side in product(INSTRUMENTS, Side):
            if not any((held.symbol, held.side) == (symbol, side) for held in self.reservations.values()):
                self.since[symbol, side] = self.sequence + 1

    def open_orders(self) -> list["OpenOrder"]:
        return [
            OpenOrder(held.symbol, held.side, held.open_lots, held.price_ticks)
            for held in self.reservations.values()
        ]

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def report_comes_again(self, data: st.DataObject) -> None:
        report = data.draw(st.sampled_from(self.seen))
        order = report.order if isinstance(report, OrderComplianceRejected) else report
        assert is_repeat(self.account, self.reservations.get(order.order_id), report)

    @precondition(lambda self: self.reservations.keys() - self.intents.keys())
    @rule(data=st.data())
    def order_is_withheld(self, data: st.DataObject) -> None:
        order_id = data.draw(st.sampled_from(sorted(self.reservations.keys() - self.intents.keys())))
        held = self.reservations.pop(order_id)
        event = withheld(held.open_lots, order_id=order_id, symbol=held.symbol, side=held.side)
        assert not is_repeat(self.account, held, event)
        self.account, ended = apply_report(self.account, held, event)
        assert ended is None
        assert is_repeat(self.account, None, event)

    @precondition(lambda self: self.reservations.keys() - self.intents.keys())
    @rule(passes=st.integers(0, 3))
    def compliance_decides(self, passes: int) -> None:
        order_id = min(self.reservations.keys() - self.intents.keys(), key=lambda each: int(each[6:]))
        held = self.reservations[order_id]
        order = an_order(
            order_id=order_id,
            sequence=int(order_id.removeprefix("acc-1-")),
            symbol=held.symbol,
            side=held.side,
            quantity_lots=held.open_lots,
        )
        if passes:
            self.intents[order_id] = new_intent(order)
            self.report(order_id, acknowledged(**self.identity(order_id)))
        else:
            rejected = OrderComplianceRejected(order=order, reason=ComplianceReason.SELF_MATCH)
            assert not is_repeat(self.account, held, rejected)
            self.account, ended = apply_report(self.account, held, rejected)
            assert ended is None
            del self.reservations[order_id]
            self.seen.append(rejected)

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

    def report(self, order_id: str, report: OrderReport) -> None:
        """The venue's report goes through the exchange, which reads it twice, and then through risk."""
        self.session, intent, emit = apply_venue_report(self.session, self.intents[order_id], report)
        assert emit
        assert apply_venue_report(self.session, intent, report) == (self.session, intent, False)
        worst_before = {symbol: self.account.holding(symbol).worst_lots for symbol in INSTRUMENTS}
        assert not is_repeat(self.account, self.reservations[order_id], report)
        self.account, reservation = apply_report(self.account, self.reservations[order_id], report)
        for symbol in INSTRUMENTS:
            assert self.account.holding(symbol).worst_lots <= worst_before[symbol]
        if reservation != self.reservations[order_id]:
            self.seen.append(report)
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
