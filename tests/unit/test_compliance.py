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
    is_judged,
    is_repeat,
)
from app.domain.errors import InvariantBroken
from models.events import (
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    OrderRiskApproved,
    RestrictionInForce,
)
from models.reasons import ComplianceReason
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


def refusal(
    order: OrderReceived | OrderRiskApproved,
    account: ComplianceAccount = NEW_COMPLIANCE_ACCOUNT,
    restriction: RestrictionInForce | None = None,
    *,
    is_restriction_unreadable: bool = False,
) -> str | None:
    """Judge an approval by risk, or that of an order which came when it was submitted."""
    approval = an_approval(order) if isinstance(order, OrderReceived) else order
    outcome = decide_compliance(
        approval, account, restriction, is_restriction_unreadable=is_restriction_unreadable
    )
    return outcome.reason if isinstance(outcome, OrderComplianceRejected) else None


def approved(account: ComplianceAccount, approval: OrderRiskApproved) -> ComplianceAccount:
    return apply_compliance(account, approval, OrderComplianceApproved(order=approval.order))


def after(*orders: OrderReceived) -> ComplianceAccount:
    """A new account after the approval of `orders`."""
    account = NEW_COMPLIANCE_ACCOUNT
    for order in orders:
        account = approved(account, an_approval(order))
    return account


def another_order(**changed: Any) -> OrderReceived:
    """The next order of the account, like `an_order` in all but its id."""
    return an_order(**({"order_id": "o-2", "sequence": 2} | changed))


def test_a_sound_order_is_approved() -> None:
    order = an_order()

    assert decide_compliance(an_approval(order), NEW_COMPLIANCE_ACCOUNT, None) == OrderComplianceApproved(
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
    account = approved(NEW_COMPLIANCE_ACCOUNT, an_approval(an_order(), received_at_ms=0))
    repeat = an_approval(another_order(submitted_at_ms=NOW_MS + 1_000), received_at_ms=0)
    later = an_approval(another_order(submitted_at_ms=NOW_MS + 1_001), received_at_ms=0)

    assert refusal(repeat, account) is ComplianceReason.DUPLICATE_ORDER
    assert refusal(later, account) is None


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


def test_of_a_rejected_order_only_its_sequence_is_kept() -> None:
    account = after(an_order())
    repeat = an_approval(another_order(submitted_at_ms=NOW_MS + 900))
    rejected = apply_compliance(account, repeat, decide_compliance(repeat, account, None))

    assert rejected == account.model_copy(update={"last_sequence": 2})
    assert refusal(another_order(submitted_at_ms=NOW_MS + 1_800), rejected) is None


def test_an_approval_that_comes_again_is_known() -> None:
    account = after(an_order())

    assert is_judged(account, an_approval(an_order()))
    assert is_judged(after(an_order(), another_order(quantity_lots=1)), an_approval(an_order()))
    assert not is_judged(account, an_approval(another_order()))


@pytest.mark.parametrize(
    "report", [acknowledged(), a_fill(4, leaves_lots=6), a_fill(10, leaves_lots=0)], ids=repr
)
def test_a_report_that_comes_again_after_its_order_has_ended_is_a_repeat(report: Any) -> None:
    account = apply_execution(after(an_order()), cancelled(10, venue_sequence=2))

    assert not is_repeat(after(an_order()), report)
    assert is_repeat(account, report)
    assert is_repeat(approved(account, an_approval(another_order())), report)


def test_an_acknowledgement_that_comes_again_while_its_order_is_open_changes_nothing() -> None:
    account = after(an_order())

    assert apply_execution(apply_execution(account, acknowledged()), acknowledged()) == account


def test_a_withheld_order_is_ended_once_and_comes_again_for_nothing() -> None:
    account = after(an_order(order_id="acc-1-1"))
    assert not is_repeat(account, withheld(10))
    account = apply_execution(account, withheld(10))

    assert account.open_orders == {}
    assert is_repeat(account, withheld(10))
    assert not is_repeat(account, withheld(10, order_id="acc-1-2"))


OF_THE_RELEASE_BEFORE = {
    "recent": {"BTC-USD/buy/10@90000": {"order_id": "o-1", "submitted_at_ms": NOW_MS}},
    "open_orders": {"o-1": {"symbol": "BTC-USD", "side": "buy", "price_ticks": 90_000, "rests": True}},
}


def test_what_the_release_before_has_kept_is_read_and_gone_on_with() -> None:
    account = ComplianceAccount.model_validate(OF_THE_RELEASE_BEFORE)

    assert refusal(another_order(), account) is ComplianceReason.DUPLICATE_ORDER
    assert apply_execution(account, cancelled(10)).open_orders == {}


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
        account = approved(account, an_approval(order))


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
    account = apply_execution(after(an_order()), ending)

    assert account.open_orders == {}
    assert refusal(another_order(side="sell"), account) is None


@pytest.mark.parametrize("report", [acknowledged(), a_fill(4, leaves_lots=6)], ids=repr)
def test_an_order_with_lots_left_still_rests(report: Any) -> None:
    account = apply_execution(after(an_order()), report)

    assert refusal(another_order(side="sell"), account) is ComplianceReason.SELF_MATCH


@pytest.mark.parametrize("report", [acknowledged(), a_fill(4, leaves_lots=6), cancelled(10)], ids=repr)
def test_a_report_of_an_order_that_is_not_open_is_a_bug(report: Any) -> None:
    assert not is_repeat(NEW_COMPLIANCE_ACCOUNT, report)
    with pytest.raises(InvariantBroken, match="o-1"):
        apply_execution(NEW_COMPLIANCE_ACCOUNT, report)


def test_the_reasons_precede_each_other_as_declared() -> None:
    account = after(an_order(side="sell"), an_order(order_id="o-2", side="buy"))
    order = another_order(order_id="o-3", side="buy")

    assert refusal(order, account, a_restriction()) is ComplianceReason.RESTRICTED_INSTRUMENT
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
