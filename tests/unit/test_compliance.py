"""Compliance: restricted instruments, duplicate orders, self-matches, and what is remembered for them."""

from typing import Any

import pytest

from app.domain.compliance import (
    NEW_COMPLIANCE_ACCOUNT,
    RECENT_ORDERS_MAX,
    ComplianceAccount,
    apply_compliance,
    apply_execution,
    decide_compliance,
)
from app.domain.errors import InvariantBroken
from models.events import OrderComplianceApproved, OrderComplianceRejected, OrderReceived
from models.reasons import ComplianceReason
from tests.builders import NOW_MS, a_fill, acknowledged, an_order, cancelled, expired, venue_rejected


def refusal(
    order: OrderReceived, account: ComplianceAccount = NEW_COMPLIANCE_ACCOUNT, restricted: bool = False
) -> str | None:
    outcome = decide_compliance(order, account, restricted)
    return outcome.reason if isinstance(outcome, OrderComplianceRejected) else None


def after(*orders: OrderReceived) -> ComplianceAccount:
    """A new account after the approval of `orders`."""
    account = NEW_COMPLIANCE_ACCOUNT
    for order in orders:
        account = apply_compliance(account, OrderComplianceApproved(order=order))
    return account


def another_order(**changed: Any) -> OrderReceived:
    """The next order of the account, like `an_order` in all but its id."""
    return an_order(**({"order_id": "o-2", "sequence": 2} | changed))


def test_a_sound_order_is_approved() -> None:
    order = an_order()

    assert decide_compliance(order, NEW_COMPLIANCE_ACCOUNT, restricted=False) == OrderComplianceApproved(
        order=order
    )


def test_an_order_in_a_restricted_instrument_is_rejected() -> None:
    assert refusal(an_order(), restricted=True) is ComplianceReason.RESTRICTED_INSTRUMENT


@pytest.mark.parametrize("submitted_at_ms", [NOW_MS - 1_000, NOW_MS, NOW_MS + 1_000])
def test_the_same_order_under_another_id_within_a_second_is_a_duplicate(submitted_at_ms: int) -> None:
    repeat = another_order(submitted_at_ms=submitted_at_ms)

    assert refusal(repeat, after(an_order())) is ComplianceReason.DUPLICATE_ORDER


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
    account = apply_execution(after(an_order()), a_fill(10, leaves_lots=0))

    assert refusal(another_order(), account) is ComplianceReason.DUPLICATE_ORDER


def test_a_rejected_order_leaves_no_trace() -> None:
    account = after(an_order())
    repeat = another_order(submitted_at_ms=NOW_MS + 900)

    assert apply_compliance(account, decide_compliance(repeat, account, restricted=False)) == account
    assert refusal(another_order(submitted_at_ms=NOW_MS + 1_800), account) is None


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
    account = after(an_order(**resting))

    assert refusal(another_order(**arriving), account) is ComplianceReason.SELF_MATCH


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
    account = NEW_COMPLIANCE_ACCOUNT

    for order in [quote for pair in zip(bids, offers, strict=True) for quote in pair]:
        assert refusal(order, account) is None
        account = apply_compliance(account, OrderComplianceApproved(order=order))


@pytest.mark.parametrize(
    "ending", [a_fill(10, leaves_lots=0), cancelled(10), expired(10), venue_rejected(10)], ids=repr
)
def test_an_order_that_has_ended_no_longer_rests(ending: Any) -> None:
    account = apply_execution(after(an_order()), ending)

    assert account.open_orders == {}
    assert refusal(another_order(side="sell"), account) is None


@pytest.mark.parametrize("report", [acknowledged(), a_fill(4, leaves_lots=6)], ids=repr)
def test_an_order_with_lots_left_still_rests(report: Any) -> None:
    account = apply_execution(after(an_order()), report)

    assert refusal(another_order(side="sell"), account) is ComplianceReason.SELF_MATCH


@pytest.mark.parametrize("report", [acknowledged(), a_fill(4, leaves_lots=6), cancelled(10)], ids=repr)
def test_a_report_of_an_order_that_is_not_open_is_a_bug(report: Any) -> None:
    with pytest.raises(InvariantBroken, match="o-1"):
        apply_execution(NEW_COMPLIANCE_ACCOUNT, report)


def test_the_reasons_precede_each_other_as_declared() -> None:
    account = after(an_order(side="sell"), an_order(order_id="o-2", side="buy"))
    order = another_order(order_id="o-3", side="buy")

    assert refusal(order, account, restricted=True) is ComplianceReason.RESTRICTED_INSTRUMENT
    assert refusal(order, account) is ComplianceReason.DUPLICATE_ORDER
    assert refusal(order.model_copy(update={"quantity_lots": 1}), account) is ComplianceReason.SELF_MATCH


def test_the_window_keeps_the_last_orders_only() -> None:
    orders = [an_order(order_id=f"o-{n}", quantity_lots=n + 1) for n in range(RECENT_ORDERS_MAX + 1)]
    account = after(*orders)

    assert len(account.recent) == RECENT_ORDERS_MAX
    assert refusal(orders[0].model_copy(update={"order_id": "again"}), account) is None
    assert refusal(orders[1].model_copy(update={"order_id": "again"}), account) is (
        ComplianceReason.DUPLICATE_ORDER
    )


def test_the_window_remembers_an_order_for_exactly_as_long_as_it_can_be_repeated() -> None:
    account = after(an_order(), another_order(quantity_lots=1, submitted_at_ms=NOW_MS + 1_000))
    repeat = another_order(order_id="o-3", submitted_at_ms=NOW_MS + 1_000)

    assert refusal(repeat, account) is ComplianceReason.DUPLICATE_ORDER


def test_the_window_forgets_what_is_too_old_to_be_repeated() -> None:
    account = after(an_order(), another_order(quantity_lots=1, submitted_at_ms=NOW_MS + 1_001))

    assert [recent.order_id for recent in account.recent.values()] == ["o-2"]
