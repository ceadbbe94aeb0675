"""Compliance: restricted instruments, duplicate orders, self-matches, and what is remembered for them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import recent as recent_module
from app.domain.compliance import (
    NEW_COMPLIANCE_ACCOUNT,
    ComplianceAccount,
    FormerRecent,
    Remembered,
    apply_compliance,
    apply_execution,
    decide_compliance,
    decide_replace,
    is_judged,
    is_repeat,
    moved,
    open_order,
    recent_order,
    replacing,
)
from app.domain.errors import InvariantBroken
from app.domain.recent import RECENT_ORDERS_MAX, Recent, RecentOrder
from app.domain.resting import OpenOrder, Resting
from models.events import (
    CancelRejected,
    Execution,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    OrderReplaced,
    OrderRiskApproved,
    ReplaceComplianceApproved,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceWithheld,
    RestrictionInForce,
)
from models.reasons import ComplianceReason
from models.values import Side
from tests.builders import (
    NOW_MS,
    a_fill,
    a_restriction,
    acknowledged,
    an_approval,
    an_order,
    cancelled,
    expired,
    venue_rejected,
    withheld,
)


class Kept:
    """What is kept of an account, without the tables."""

    def __init__(self) -> None:
        self.account = NEW_COMPLIANCE_ACCOUNT
        self.remembered = Remembered(Recent(), Resting())
        self.open_orders: dict[str, OpenOrder] = {}

    def approve(self, approval: OrderRiskApproved) -> "Kept":
        order = approval.order
        self.account = apply_compliance(self.account, order.sequence)
        self.open_orders[order.order_id] = opened = open_order(order)
        self.remembered.resting.add(opened)
        self.remembered.recent.add(recent_order(approval))
        return self

    def book(self, report: Any) -> "Kept":
        opened = self.open_orders.get(report.order_id)
        self.account, left = apply_execution(self.account, opened, report)
        if opened is not None and left is None:
            self.remembered.resting.remove(self.open_orders.pop(report.order_id))
        return self

    def knows(self, report: Any) -> bool:
        """Whether the report is a repeat."""
        return is_repeat(self.account, self.open_orders.get(report.order_id), report)


def refusal(
    order: OrderReceived | OrderRiskApproved,
    kept: Kept | None = None,
    restriction: RestrictionInForce | None = None,
    *,
    is_restriction_unreadable: bool = False,
) -> str | None:
    """Judge an approval by risk, or that of an order which came when it was submitted."""
    approval = an_approval(order) if isinstance(order, OrderReceived) else order
    outcome = decide_compliance(
        approval,
        (kept or Kept()).remembered,
        restriction,
        is_restriction_unreadable=is_restriction_unreadable,
    )
    return outcome.reason if isinstance(outcome, OrderComplianceRejected) else None


def after(*orders: OrderReceived) -> Kept:
    """A new account after the approval of `orders`."""
    kept = Kept()
    for order in orders:
        kept.approve(an_approval(order))
    return kept


def another_order(**changed: Any) -> OrderReceived:
    """The next order of the account, like `an_order` in all but its id."""
    return an_order(**({"order_id": "o-2", "sequence": 2} | changed))


def test_a_sound_order_is_approved() -> None:
    order = an_order()

    assert decide_compliance(an_approval(order), Kept().remembered, None) == OrderComplianceApproved(
        order=order
    )


@pytest.mark.parametrize(
    ("restriction", "unreadable", "is_refused"),
    [
        (None, False, False),
        (a_restriction(restricted=False), False, False),
        (a_restriction(), False, True),
        (None, True, True),
        (a_restriction(restricted=False), True, True),
    ],
    ids=["none", "lifted", "restricted", "unreadable", "unreadable since it was lifted"],
)
def test_an_instrument_is_restricted_by_the_list_or_if_nobody_can_read_whether_it_is(
    restriction: RestrictionInForce | None, unreadable: bool, is_refused: bool
) -> None:
    reason = refusal(an_order(), restriction=restriction, is_restriction_unreadable=unreadable)

    assert reason is (ComplianceReason.RESTRICTED_INSTRUMENT if is_refused else None)


@pytest.mark.parametrize("received_at_ms", [NOW_MS - 1_000, NOW_MS, NOW_MS + 1_000])
@pytest.mark.parametrize("submitted_at_ms", [NOW_MS, NOW_MS + 1_900, NOW_MS - 100_000])
def test_the_same_order_under_another_id_within_a_second_of_the_brokers_is_a_duplicate(
    received_at_ms: int, submitted_at_ms: int
) -> None:
    repeat = an_approval(another_order(submitted_at_ms=submitted_at_ms), received_at_ms=received_at_ms)

    assert refusal(repeat, after(an_order())) is ComplianceReason.DUPLICATE_ORDER


def test_the_same_order_a_second_later_by_the_brokers_clock_is_none_whatever_the_clients_says() -> None:
    later = an_approval(another_order(submitted_at_ms=NOW_MS), received_at_ms=NOW_MS + 1_001)

    assert refusal(later, after(an_order())) is None


def test_where_risk_did_not_tell_the_brokers_time_the_clients_counts() -> None:
    kept = Kept().approve(an_approval(an_order(), received_at_ms=0))
    repeat = an_approval(another_order(submitted_at_ms=NOW_MS + 1_000), received_at_ms=0)
    later = an_approval(another_order(submitted_at_ms=NOW_MS + 1_001), received_at_ms=0)

    assert refusal(repeat, kept) is ComplianceReason.DUPLICATE_ORDER
    assert refusal(later, kept) is None


@pytest.mark.parametrize(
    "difference",
    [
        {"submitted_at_ms": NOW_MS + 1_001},
        {"submitted_at_ms": NOW_MS - 1_001},
        {"quantity_lots": 11},
        {"price_ticks": 89_999},
        {"symbol": "ETH-USD"},
        {"order_id": "o-1"},
    ],
    ids=str,
)
def test_an_order_that_differs_is_no_duplicate(difference: dict[str, Any]) -> None:
    assert refusal(another_order(**difference), after(an_order())) is None


def test_an_order_that_has_ended_can_still_be_repeated_by_mistake() -> None:
    kept = after(an_order()).book(a_fill(10, leaves_lots=0))

    assert refusal(another_order(), kept) is ComplianceReason.DUPLICATE_ORDER


def test_of_a_decision_the_account_keeps_the_sequence() -> None:
    account = ComplianceAccount(last_sequence=1, last_venue_sequence=7)

    assert apply_compliance(account, another_order().sequence) == ComplianceAccount(
        last_sequence=2, last_venue_sequence=7
    )


def test_an_approval_that_comes_again_is_known() -> None:
    assert is_judged(after(an_order()).account, an_order().sequence)
    assert is_judged(after(an_order(), another_order(quantity_lots=1)).account, an_order().sequence)
    assert not is_judged(after(an_order()).account, another_order().sequence)


@pytest.mark.parametrize(
    "report", [acknowledged(), a_fill(4, leaves_lots=6), a_fill(10, leaves_lots=0)], ids=repr
)
def test_a_report_that_comes_again_after_its_order_has_ended_is_a_repeat(report: Any) -> None:
    kept = after(an_order()).book(cancelled(10, venue_sequence=2))

    assert not after(an_order()).knows(report)
    assert kept.knows(report)
    assert kept.approve(an_approval(another_order())).knows(report)


def test_an_acknowledgement_that_comes_again_while_its_order_is_open_changes_nothing() -> None:
    account, opened = ComplianceAccount(last_sequence=1), open_order(an_order())

    assert apply_execution(account, opened, acknowledged()) == (account, opened)


def test_a_withheld_order_is_ended_once_and_comes_again_for_nothing() -> None:
    kept = after(an_order(order_id="acc-1-1"))
    assert not kept.knows(withheld(10))
    kept.book(withheld(10))

    assert kept.open_orders == {}
    assert kept.knows(withheld(10))
    assert not kept.knows(withheld(10, order_id="acc-1-2"))


def test_what_version_1_had_in_the_account_becomes_rows_below_the_place_of_any_order_to_come() -> None:
    account = ComplianceAccount(
        last_sequence=9,
        last_venue_sequence=4,
        recent={
            "BTC-USD/buy/10@90000": FormerRecent(order_id="o-1", submitted_at_ms=NOW_MS),
            "BTC-USD/buy/11@90000": FormerRecent(order_id="o-2", submitted_at_ms=1, received_at_ms=NOW_MS),
        },
        open_orders={"o-1": open_order(an_order())},
    )
    parts = moved(account)

    assert parts is not None
    assert parts.account == ComplianceAccount(last_sequence=9, last_venue_sequence=4)
    assert moved(parts.account) is None
    assert parts.open_orders == account.open_orders
    assert [(row.order_id, row.at_ms, row.place) for row in parts.recent] == [
        ("o-1", NOW_MS, 8),
        ("o-2", NOW_MS, 9),
    ]
    kept = Kept()
    kept.remembered = Remembered(Recent(enumerate(parts.recent)), Resting())
    assert refusal(another_order(order_id="o-3"), kept) is ComplianceReason.DUPLICATE_ORDER


@pytest.mark.parametrize(
    ("resting", "arriving"),
    [
        ({"side": "buy", "price_ticks": 100}, {"side": "sell", "price_ticks": 100}),
        ({"side": "buy", "price_ticks": 100}, {"side": "sell", "price_ticks": 99}),
        ({"side": "sell", "price_ticks": 100}, {"side": "buy", "price_ticks": 100}),
        ({"side": "sell", "price_ticks": 100}, {"side": "buy", "price_ticks": 101}),
        ({"side": "sell", "price_ticks": 100}, {"side": "buy", "price_ticks": 101, "time_in_force": "ioc"}),
    ],
)
def test_an_order_that_meets_an_own_resting_order_is_a_self_match(
    resting: dict[str, Any], arriving: dict[str, Any]
) -> None:
    kept = after(an_order(**resting))

    assert refusal(another_order(**arriving), kept) is ComplianceReason.SELF_MATCH


@pytest.mark.parametrize(
    ("resting", "arriving"),
    [
        ({"side": "buy", "price_ticks": 100}, {"side": "buy", "price_ticks": 200}),
        ({"side": "buy", "price_ticks": 100}, {"side": "sell", "price_ticks": 99, "symbol": "ETH-USD"}),
        ({"side": "buy", "price_ticks": 100, "time_in_force": "ioc"}, {"side": "sell", "price_ticks": 99}),
    ],
)
def test_an_order_that_cannot_meet_the_resting_one_passes(
    resting: dict[str, Any], arriving: dict[str, Any]
) -> None:
    assert refusal(another_order(**arriving), after(an_order(**resting))) is None


def test_a_maker_may_quote_both_sides_at_once() -> None:
    bids = [an_order(order_id=f"b-{n}", side="buy", price_ticks=99 - n) for n in range(5)]
    offers = [an_order(order_id=f"s-{n}", side="sell", price_ticks=100 + n) for n in range(5)]
    kept = Kept()

    for order in [quote for pair in zip(bids, offers, strict=True) for quote in pair]:
        assert refusal(order, kept) is None
        kept.approve(an_approval(order))


@pytest.mark.parametrize(
    "ending",
    [
        a_fill(10, leaves_lots=0),
        cancelled(10),
        expired(10),
        venue_rejected(10),
        withheld(10, order_id="o-1"),
    ],
    ids=repr,
)
def test_an_order_that_has_ended_no_longer_rests(ending: Any) -> None:
    kept = after(an_order()).book(ending)

    assert kept.open_orders == {}
    assert refusal(another_order(side="sell"), kept) is None


@pytest.mark.parametrize("report", [acknowledged(), a_fill(4, leaves_lots=6)], ids=repr)
def test_an_order_with_lots_left_still_rests(report: Any) -> None:
    kept = after(an_order()).book(report)

    assert refusal(another_order(side="sell"), kept) is ComplianceReason.SELF_MATCH


@pytest.mark.parametrize("report", [acknowledged(), a_fill(4, leaves_lots=6), cancelled(10)], ids=repr)
def test_a_report_of_an_order_that_is_not_open_is_a_bug(report: Any) -> None:
    assert not Kept().knows(report)
    with pytest.raises(InvariantBroken, match="o-1"):
        Kept().book(report)


def test_the_reasons_precede_each_other_as_declared() -> None:
    kept = after(an_order(side="sell"), an_order(order_id="o-2", side="buy"))
    order = another_order(order_id="o-3", side="buy")

    assert refusal(order, kept, a_restriction()) is ComplianceReason.RESTRICTED_INSTRUMENT
    assert refusal(order, kept) is ComplianceReason.DUPLICATE_ORDER
    assert refusal(order.model_copy(update={"quantity_lots": 1}), kept) is ComplianceReason.SELF_MATCH


def test_the_window_keeps_the_last_orders_only() -> None:
    orders = [an_order(order_id=f"o-{n}", quantity_lots=n + 1) for n in range(RECENT_ORDERS_MAX + 1)]
    kept = after(*orders)

    assert len(kept.remembered.recent.rows()) == RECENT_ORDERS_MAX
    assert refusal(orders[0].model_copy(update={"order_id": "again"}), kept) is None
    assert refusal(orders[1].model_copy(update={"order_id": "again"}), kept) is (
        ComplianceReason.DUPLICATE_ORDER
    )


def test_the_window_remembers_an_order_for_exactly_as_long_as_it_can_be_repeated() -> None:
    kept = after(an_order(), another_order(quantity_lots=1, submitted_at_ms=NOW_MS + 1_000))
    repeat = another_order(order_id="o-3", submitted_at_ms=NOW_MS + 1_000)

    assert refusal(repeat, kept) is ComplianceReason.DUPLICATE_ORDER


def test_the_window_forgets_what_is_too_old_to_be_repeated() -> None:
    kept = after(an_order(), another_order(quantity_lots=1, submitted_at_ms=NOW_MS + 1_001))

    assert [row.order_id for row in kept.remembered.recent.rows()] == ["o-2"]


def test_the_rows_of_what_is_forgotten_are_taken_again_and_never_more_than_there_is_room() -> None:
    recent = Recent()
    numbers = [
        recent.add(recent_order(an_approval(an_order(quantity_lots=n, submitted_at_ms=NOW_MS + 100 * n))))
        for n in range(1, 500)
    ]
    at_once = [
        recent.add(recent_order(an_approval(an_order(quantity_lots=n, submitted_at_ms=NOW_MS + 10**6))))
        for n in range(500, 700)
    ]

    assert set(numbers) == set(range(11))
    assert set(at_once) == set(range(RECENT_ORDERS_MAX))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 0, 1, 600, 1_001, -600, -1_001])), max_size=30)
)
def test_the_rows_alone_tell_what_is_known_even_where_clocks_go_back(sent: list[tuple[int, int]]) -> None:
    """Orders of some kinds, each so many ms after the one before; there is room for three."""
    recent, rows, kept, at_ms = Recent(), dict[int, RecentOrder](), dict[str, RecentOrder](), NOW_MS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_module, "RECENT_ORDERS_MAX", 3)
        for place, (kind, after_ms) in enumerate(sent):
            at_ms += after_ms
            row = RecentOrder(kind=str(kind), order_id=f"o-{place}", at_ms=at_ms, place=place)
            kept = {each.kind: each for each in kept.values() if each.at_ms >= at_ms - 1_000}
            kept.pop(row.kind, None)
            if len(kept) == 3:
                del kept[next(iter(kept))]
            kept[row.kind] = row
            rows[recent.add(row)] = row
            assert recent.rows() == list(kept.values())
            assert Recent(rows.items()).rows() == recent.rows()
            assert rows.keys() <= set(range(3))


@given(st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 20), st.booleans()), max_size=80))
def test_the_best_price_is_that_of_all_that_rest(steps: list[tuple[Side, int, bool]]) -> None:
    """Each step is an order that comes to rest, or the end of one at its side and price, if there is one."""
    resting, prices = Resting(), {side: list[int]() for side in Side}
    for side, price, comes in steps:
        order = OpenOrder(symbol="BTC-USD", side=side, price_ticks=price, rests=True)
        if comes:
            resting.add(order)
            prices[side].append(price)
        elif price in prices[side]:
            resting.remove(order)
            prices[side].remove(price)
        assert resting.best_buy("BTC-USD") == max(prices[Side.BUY], default=None)
        assert resting.best_sell("BTC-USD") == min(prices[Side.SELL], default=None)
        assert resting.best_sell("ETH-USD") is None


def test_prices_that_are_gone_take_no_room_beside_those_that_are_not() -> None:
    resting = Resting()
    far = OpenOrder(symbol="BTC-USD", side=Side.SELL, price_ticks=1, rests=True)
    resting.add(far)
    for price in range(2, 10_000):
        passing = OpenOrder(symbol="BTC-USD", side=Side.SELL, price_ticks=price, rests=True)
        resting.add(passing)
        resting.remove(passing)

    assert len(resting._sells["BTC-USD"]._heap) < 20
    assert resting.best_sell("BTC-USD") == 1


# -- replace


def a_replace(price_ticks: int = 90_000) -> ReplaceRiskApproved:
    request = ReplaceRequested(
        request_id="acc-1-2",
        account_id="acc-1",
        sequence=2,
        order_id="acc-1-1",
        quantity_lots=5,
        price_ticks=price_ticks,
        submitted_at_ms=NOW_MS,
    )
    return ReplaceRiskApproved(
        request=request,
        symbol="BTC-USD",
        side=Side.BUY,
        reference_price_ticks=90_000,
        reference_tick_sequence=1,
        reference_tick_epoch=0,
        price_age_ms=0,
        limits_version=1,
        received_at_ms=NOW_MS,
        decided_at_ms=NOW_MS,
    )


def resting_at(*prices_ticks: int, side: Side) -> Remembered:
    resting = Resting()
    for price_ticks in prices_ticks:
        resting.add(OpenOrder(symbol="BTC-USD", side=side, price_ticks=price_ticks, rests=True))
    return Remembered(Recent(), resting)


OPENED = OpenOrder(symbol="BTC-USD", side=Side.BUY, price_ticks=90_000, rests=True)
NOTHING_RESTS = resting_at(side=Side.BUY)


@pytest.mark.parametrize(
    ("opened", "remembered", "restricted", "unreadable", "reason"),
    [
        (None, NOTHING_RESTS, True, False, ComplianceReason.ORDER_ENDED),
        (OPENED, NOTHING_RESTS, True, False, ComplianceReason.RESTRICTED_INSTRUMENT),
        (OPENED, NOTHING_RESTS, False, True, ComplianceReason.RESTRICTED_INSTRUMENT),
        (OPENED, resting_at(90_000, side=Side.SELL), False, False, ComplianceReason.SELF_MATCH),
        (OPENED, resting_at(90_001, side=Side.SELL), False, False, None),
        (OPENED, resting_at(80_000, 99_000, side=Side.BUY), False, False, None),
    ],
)
def test_a_replace_is_judged_by_its_new_price(
    opened: OpenOrder | None,
    remembered: Remembered,
    restricted: bool,
    unreadable: bool,
    reason: ComplianceReason | None,
) -> None:
    outcome = decide_replace(
        a_replace(),
        opened,
        remembered,
        a_restriction(restricted=restricted),
        is_restriction_unreadable=unreadable,
    )

    assert outcome.request == a_replace().request
    assert getattr(outcome, "reason", None) is reason
    assert isinstance(outcome, ReplaceComplianceApproved) is (reason is None)


def test_while_a_replace_is_on_its_way_the_order_rests_at_both_prices() -> None:
    resting = Resting()
    asked = replacing(OPENED, a_replace(91_000).request)
    resting.add(asked)
    assert resting.best_buy("BTC-USD") == 91_000

    resting.remove(asked)
    resting.add(OPENED)
    assert resting.best_buy("BTC-USD") == 90_000


OURS: dict[str, Any] = {"order_id": "acc-1-1", "account_id": "acc-1", "symbol": "BTC-USD", "side": "buy"}
FROM_VENUE = {**OURS, "venue_order_id": "V1", "venue_sequence": 3, "request_id": "acc-1-2"}
TERMS = {"quantity_lots": 5, "price_ticks": 91_000}


@pytest.mark.parametrize(
    ("event", "price_ticks"),
    [
        (OrderReplaced(**FROM_VENUE, **TERMS, leaves_lots=5), 91_000),
        (ReplaceRejected(**FROM_VENUE, reason="order_ended"), 90_000),
        (ReplaceWithheld(**OURS, request_id="acc-1-2", reason="halted", looked_at_ms=0), 90_000),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_answer_to_a_replace_leaves_one_price(event: Execution, price_ticks: int) -> None:
    asked = replacing(OPENED, a_replace(91_000).request)

    _, left = apply_execution(NEW_COMPLIANCE_ACCOUNT, asked, event)

    assert left == OpenOrder(symbol="BTC-USD", side=Side.BUY, price_ticks=price_ticks, rests=True)
    assert apply_execution(NEW_COMPLIANCE_ACCOUNT, left, event)[1] is left
    assert is_repeat(NEW_COMPLIANCE_ACCOUNT, None, event) is not isinstance(event, OrderReplaced)


def test_a_refused_cancel_changes_nothing_before_and_behind_the_orders_end() -> None:
    event = CancelRejected(**FROM_VENUE, reason="order_ended")

    assert apply_execution(NEW_COMPLIANCE_ACCOUNT, OPENED, event)[1] is OPENED
    assert is_repeat(NEW_COMPLIANCE_ACCOUNT, None, event)


def test_a_replace_to_what_is_filled_ends_the_order() -> None:
    event = OrderReplaced(**FROM_VENUE, **TERMS, leaves_lots=0)

    account, left = apply_execution(NEW_COMPLIANCE_ACCOUNT, OPENED, event)

    assert left is None
    assert is_repeat(account, None, event)
