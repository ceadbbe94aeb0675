"""Pre-trade risk: every refusal and its precedence, and what approvals and reports do to the books."""

from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from app.domain.errors import InvariantBroken
from app.domain.risk import (
    NEW_ACCOUNT,
    AccountRisk,
    Holding,
    apply_decision,
    apply_report,
    decide_risk,
    is_limit_breach,
    is_newer,
    reserve,
)
from models.events import OrderComplianceRejected, OrderReceived, OrderRiskApproved, OrderRiskRejected
from models.reasons import ComplianceReason, RiskReason
from tests.builders import (
    NOW_MS,
    PRICE_TICKS,
    a_fill,
    a_price,
    a_reservation,
    acknowledged,
    an_account,
    an_order,
    cancelled,
    expired,
    limits,
    venue_rejected,
)

BTC_MICROS = PRICE_TICKS  # one lot of BTC-USD at the market's price


def decide(order: OrderReceived, **changed: Any) -> OrderRiskApproved | OrderRiskRejected:
    world: dict[str, Any] = {
        "source": "orders/3/17",
        "received_at_ms": NOW_MS,
        "account": NEW_ACCOUNT,
        "limits": limits(),
        "price": a_price(),
    }
    return decide_risk(order, **(world | changed))


def refusal(order: OrderReceived, **changed: Any) -> str | None:
    outcome = decide(order, **changed)
    return outcome.reason if isinstance(outcome, OrderRiskRejected) else None


def approved(order: OrderReceived, **changed: Any) -> OrderRiskApproved:
    outcome = decide(order, **changed)
    assert isinstance(outcome, OrderRiskApproved)
    return outcome


ORDER_WRONG: dict[RiskReason, dict[str, Any]] = {
    RiskReason.DUPLICATE_ORDER_ID: {"sequence": 0},
    RiskReason.UNKNOWN_INSTRUMENT: {"symbol": "DOGE-USD"},
    RiskReason.QUANTITY_NOT_POSITIVE: {"quantity_lots": 0},
    RiskReason.PRICE_NOT_POSITIVE: {"price_ticks": 0},
    RiskReason.TIMESTAMP_IN_FUTURE: {"submitted_at_ms": NOW_MS + 1_001},
}
WORLD_WRONG: dict[RiskReason, dict[str, Any]] = {
    RiskReason.UNKNOWN_ACCOUNT: {"limits": None},
    RiskReason.NO_PRICE: {"price": None},
    RiskReason.STALE_PRICE: {"price": a_price(observed_at_ms=NOW_MS - 5_001)},
}
LIMITS_WRONG: dict[RiskReason, dict[str, Any]] = {
    RiskReason.KILL_SWITCH_ON: {"kill_switch": True},
    RiskReason.PRICE_OUTSIDE_COLLAR: {"price_collar_bps": -1},
    RiskReason.ORDER_TOO_LARGE: {"order_quantity_lots_max": 9},
    RiskReason.ORDER_NOTIONAL_TOO_LARGE: {"order_notional_micros_max": 10 * BTC_MICROS - 1},
    RiskReason.TOO_MANY_OPEN_ORDERS: {"open_orders_max": 1},
    RiskReason.POSITION_LIMIT: {"position_lots_max": 9},
    RiskReason.GROSS_EXPOSURE_LIMIT: {"gross_exposure_micros_max": 10 * BTC_MICROS - 1},
}


def world_with(*reasons: RiskReason) -> tuple[OrderReceived, dict[str, Any]]:
    """An order and a world in which every one of `reasons` holds, and no other."""
    order: dict[str, Any] = {}
    world: dict[str, Any] = {}
    changed_limits: dict[str, Any] = {}
    for reason in reversed(reasons):
        order |= ORDER_WRONG.get(reason, {})
        world |= WORLD_WRONG.get(reason, {})
        changed_limits |= LIMITS_WRONG.get(reason, {})
    account = AccountRisk(last_sequence=0, open_orders=1, holdings={})
    return an_order(**order), {"account": account, "limits": limits(**changed_limits)} | world


def test_every_reason_has_a_case() -> None:
    assert {*ORDER_WRONG, *WORLD_WRONG, *LIMITS_WRONG} == {*RiskReason}


@pytest.mark.parametrize("reason", RiskReason)
def test_an_order_with_one_fault_is_rejected_for_it(reason: RiskReason) -> None:
    order, world = world_with(reason)

    assert refusal(order, **world) is reason


@pytest.mark.parametrize(("first", "second"), [*combinations(RiskReason, 2)])
def test_of_two_faults_the_one_declared_first_is_named(first: RiskReason, second: RiskReason) -> None:
    order, world = world_with(first, second)

    assert refusal(order, **world) is first


def test_a_sound_order_is_approved_with_what_the_decision_rests_on() -> None:
    order = an_order()

    assert decide(order) == OrderRiskApproved(
        order=order,
        reference_price_ticks=PRICE_TICKS,
        reference_tick_sequence=42,
        price_age_ms=100,
        limits_version=7,
    )


def test_a_rejection_names_where_the_order_stands() -> None:
    outcome = decide(an_order(quantity_lots=-5))

    assert isinstance(outcome, OrderRiskRejected)
    assert outcome.source == "orders/3/17"


@pytest.mark.parametrize("sequence", [-3, 0, 1, 2**63 - 1])
def test_the_first_order_of_an_account_may_have_any_sequence(sequence: int) -> None:
    assert refusal(an_order(sequence=sequence)) is None


@pytest.mark.parametrize(("sequence", "is_duplicate"), [(4, True), (5, True), (6, False), (60, False)])
def test_a_sequence_not_above_the_last_is_a_duplicate(sequence: int, is_duplicate: bool) -> None:
    account = AccountRisk(last_sequence=5, holdings={})

    assert (
        refusal(an_order(sequence=sequence), account=account) is RiskReason.DUPLICATE_ORDER_ID
    ) is is_duplicate


def test_a_repeat_of_an_unknown_accounts_order_is_a_duplicate() -> None:
    order = an_order()
    account = apply_decision(NEW_ACCOUNT, decide(order, limits=None))

    assert refusal(order, account=account, limits=None) is RiskReason.DUPLICATE_ORDER_ID


def test_a_clock_one_second_ahead_is_tolerated() -> None:
    assert refusal(an_order(submitted_at_ms=NOW_MS + 1_000)) is None


def test_an_order_submitted_long_ago_is_judged_at_the_time_it_was_logged() -> None:
    assert refusal(an_order(submitted_at_ms=0)) is None


def test_a_price_of_exactly_the_allowed_age_is_used() -> None:
    assert approved(an_order(), price=a_price(observed_at_ms=NOW_MS - 5_000)).price_age_ms == 5_000


def test_a_price_observed_after_the_order_was_logged_has_no_age() -> None:
    assert approved(an_order(), price=a_price(observed_at_ms=NOW_MS + 30)).price_age_ms == 0


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize(
    ("price_ticks", "is_outside"), [(85_499, True), (85_500, False), (94_500, False), (94_501, True)]
)
def test_the_collar_bounds_the_price_on_both_sides(side: str, price_ticks: int, is_outside: bool) -> None:
    order = an_order(side=side, price_ticks=price_ticks)

    assert (refusal(order) is RiskReason.PRICE_OUTSIDE_COLLAR) is is_outside


def test_limits_are_inclusive() -> None:
    exact = limits(
        order_quantity_lots_max=10,
        order_notional_micros_max=10 * BTC_MICROS,
        position_lots_max=10,
        gross_exposure_micros_max=10 * BTC_MICROS,
        open_orders_max=1,
        price_collar_bps=0,
    )

    assert refusal(an_order(), limits=exact) is None


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_open_orders_count_towards_the_position_limit(side: str) -> None:
    account = an_account(**{f"open_{side}_lots": 95})

    assert refusal(an_order(side=side), account=account, limits=limits(position_lots_max=100)) is (
        RiskReason.POSITION_LIMIT
    )


def test_open_orders_of_the_other_side_do_not_make_room() -> None:
    account = an_account(position_lots=95, open_sell_lots=90)

    assert refusal(an_order(), account=account, limits=limits(position_lots_max=100)) is (
        RiskReason.POSITION_LIMIT
    )


def test_an_order_that_can_only_reduce_passes_above_every_limit() -> None:
    account = an_account(position_lots=500)
    tight = limits(position_lots_max=100, gross_exposure_micros_max=1)

    assert refusal(an_order(side="sell"), account=account, limits=tight) is None


def test_an_order_through_zero_to_the_same_size_can_only_reduce() -> None:
    account = an_account(position_lots=50)
    tight = limits(position_lots_max=40)

    assert refusal(an_order(side="sell", quantity_lots=100), account=account, limits=tight) is None
    assert refusal(an_order(side="sell", quantity_lots=101), account=account, limits=tight) is (
        RiskReason.POSITION_LIMIT
    )


def test_gross_exposure_adds_up_over_symbols_each_at_its_own_reference_price() -> None:
    ethereum = Holding(position_lots=-3, reference_price_ticks=7_000)  # 3 x 7,000 x 10 micros
    account = AccountRisk(holdings={"ETH-USD": ethereum})
    exposure_micros = 210_000 + 10 * BTC_MICROS

    assert (
        refusal(an_order(), account=account, limits=limits(gross_exposure_micros_max=exposure_micros)) is None
    )
    assert refusal(
        an_order(), account=account, limits=limits(gross_exposure_micros_max=exposure_micros - 1)
    ) is (RiskReason.GROSS_EXPOSURE_LIMIT)


def test_gross_exposure_counts_the_orders_own_symbol_once_with_the_order_in_it() -> None:
    account = an_account(position_lots=5, open_buy_lots=5)
    exposure_micros = 20 * BTC_MICROS

    assert (
        refusal(an_order(), account=account, limits=limits(gross_exposure_micros_max=exposure_micros)) is None
    )
    assert refusal(
        an_order(), account=account, limits=limits(gross_exposure_micros_max=exposure_micros - 1)
    ) is (RiskReason.GROSS_EXPOSURE_LIMIT)


def test_an_approval_values_the_whole_holding_at_its_own_reference_price() -> None:
    account = an_account(position_lots=10, reference_price_ticks=1)

    after = apply_decision(account, approved(an_order(), account=account))

    assert after.gross_exposure_micros == 20 * BTC_MICROS


@pytest.mark.parametrize(
    "reason", [reason for reason in RiskReason if "limit" in reason or reason.startswith(("order_", "too_"))]
)
def test_people_are_alerted_when_a_limit_would_be_broken(reason: RiskReason) -> None:
    assert is_limit_breach(reason)


def test_people_are_not_alerted_when_an_order_could_not_be_judged() -> None:
    assert not is_limit_breach(RiskReason.DUPLICATE_ORDER_ID)
    assert not is_limit_breach(RiskReason.STALE_PRICE)


def test_an_approval_reserves_the_orders_lots() -> None:
    outcome = approved(an_order(side="sell", quantity_lots=7))

    assert apply_decision(NEW_ACCOUNT, outcome) == AccountRisk(
        last_sequence=1,
        open_orders=1,
        holdings={"BTC-USD": Holding(open_sell_lots=7, reference_price_ticks=PRICE_TICKS)},
    )
    assert reserve(outcome) == a_reservation(side="sell", open_lots=7)


@pytest.mark.parametrize("reason", [reason for reason in RiskReason if reason != "duplicate_order_id"])
def test_a_rejected_order_is_the_accounts_last_and_changes_nothing_else(reason: RiskReason) -> None:
    account = an_account(position_lots=4, open_buy_lots=2)
    outcome = OrderRiskRejected(order=an_order(sequence=9), reason=reason, source="orders/0/0")

    assert apply_decision(account, outcome) == replace(account, last_sequence=9)


def test_a_duplicate_changes_nothing() -> None:
    account = AccountRisk(last_sequence=9, holdings={})

    assert apply_decision(account, decide(an_order(), account=account)) == account


def test_a_fill_moves_its_lots_from_open_to_the_position() -> None:
    account, reservation = apply_report(
        booked(quantity_lots=10), a_reservation(), a_fill(4, leaves_lots=6, price_ticks=89_000)
    )

    assert account.holding("BTC-USD") == Holding(
        position_lots=4, open_buy_lots=6, reference_price_ticks=PRICE_TICKS
    )
    assert account.open_orders == 1
    assert reservation == a_reservation(open_lots=6)


def test_the_last_fill_ends_the_reservation() -> None:
    account, reservation = apply_report(
        booked(side="sell"), a_reservation(side="sell"), a_fill(10, leaves_lots=0, side="sell")
    )

    assert account.holding("BTC-USD") == Holding(position_lots=-10, reference_price_ticks=PRICE_TICKS)
    assert account.open_orders == 0
    assert reservation is None


@pytest.mark.parametrize(
    "ending",
    [
        cancelled(10),
        expired(10),
        venue_rejected(10),
        OrderComplianceRejected(order=an_order(), reason=ComplianceReason.SELF_MATCH),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_ending_releases_what_is_open(ending: Any) -> None:
    account, reservation = apply_report(booked(), a_reservation(), ending)

    assert account.holding("BTC-USD") == Holding(reference_price_ticks=PRICE_TICKS)
    assert account.open_orders == 0
    assert reservation is None


def test_an_acknowledgement_changes_nothing() -> None:
    assert apply_report(booked(), a_reservation(), acknowledged()) == (booked(), a_reservation())


@pytest.mark.parametrize(
    "report",
    [
        a_fill(11, leaves_lots=0),
        a_fill(11, leaves_lots=-1),
        a_fill(4, leaves_lots=5),
        a_fill(0, leaves_lots=10),
        a_fill(-1, leaves_lots=11),
        cancelled(9),
        expired(11),
        venue_rejected(0),
        a_fill(10, leaves_lots=0, side="sell"),
        a_fill(10, leaves_lots=0, symbol="ETH-USD"),
        cancelled(10, order_id="o-2"),
    ],
)
def test_a_report_that_does_not_fit_its_reservation_is_a_bug(report: Any) -> None:
    with pytest.raises(InvariantBroken, match=report.order_id):
        apply_report(booked(), a_reservation(), report)


@pytest.mark.parametrize("report", [acknowledged(), a_fill(1, leaves_lots=9), cancelled(10)])
def test_a_report_without_a_reservation_is_a_bug(report: Any) -> None:
    with pytest.raises(InvariantBroken, match="o-1, for which nothing is reserved"):
        apply_report(booked(), None, report)


def test_a_reservation_that_the_account_does_not_know_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="o-1"):
        apply_report(an_account(open_buy_lots=9), a_reservation(), cancelled(10))
    with pytest.raises(InvariantBroken, match="none open"):
        apply_report(an_account(open_buy_lots=10), a_reservation(), cancelled(10))


def booked(**changed: Any) -> AccountRisk:
    """A new account after the approval of `an_order(**changed)`."""
    return apply_decision(NEW_ACCOUNT, approved(an_order(**changed)))


def test_limits_that_come_late_or_twice_change_nothing() -> None:
    in_force = limits(version=4)
    assert is_newer(in_force, None)
    assert is_newer(limits(version=5), in_force)
    assert not is_newer(limits(version=4), in_force)
    assert not is_newer(limits(version=3), in_force)
