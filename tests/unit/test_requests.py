"""Cancel and replace in risk's books: every refusal, and what is reserved until the answer comes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.domain.errors import InvariantBroken
from app.domain.requests import (
    apply_answer,
    apply_cancel,
    apply_rejection,
    apply_replace,
    decide_cancel,
    decide_replace,
    is_answered,
    replace_rejection,
)
from app.domain.risk import AccountRisk, Holding, PendingReplace, Refusal, Reservation, apply_report
from models.events import (
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CancelRequested,
    OrderReplaced,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceWithheld,
)
from models.reasons import CancelReason, ComplianceReason, RiskReason, VenueReason, WithheldReason
from models.values import Side
from tests.builders import (
    NOW_MS,
    PRICE_TICKS,
    a_fill,
    a_price,
    a_reservation,
    cancelled,
    known,
    limits,
    reference,
)

ORDER = "acc-1-1"
REPORT: dict[str, Any] = {
    "order_id": ORDER,
    "account_id": "acc-1",
    "symbol": "BTC-USD",
    "side": "buy",
    "venue_order_id": "V1",
    "venue_sequence": 5,
}


def reserved(**changed: Any) -> Reservation:
    return a_reservation(**({"order_id": ORDER} | changed))


def books(open_lots: int = 10, position_lots: int = 0, **changed: Any) -> AccountRisk:
    """An account with one order to buy open, its first."""
    holding = Holding(
        position_lots=position_lots,
        open_buy_lots=open_lots,
        open_buy_price_ticks=PRICE_TICKS,
        reference_price_ticks=PRICE_TICKS,
    )
    account = AccountRisk(
        holdings={"BTC-USD": holding}, last_sequence=1, open_orders=1, last_approved_sequence=1
    )
    return replace(account, **changed)


def a_cancel(**changed: Any) -> CancelRequested:
    cancel = {"request_id": "c-1", "account_id": "acc-1", "order_id": ORDER, "submitted_at_ms": NOW_MS}
    return CancelRequested(**(cancel | changed))


def a_replace(**changed: Any) -> ReplaceRequested:
    request = {
        "request_id": "acc-1-2",
        "account_id": "acc-1",
        "sequence": 2,
        "order_id": ORDER,
        "quantity_lots": 12,
        "price_ticks": PRICE_TICKS,
        "submitted_at_ms": NOW_MS,
    }
    return ReplaceRequested(**(request | changed))


def decide(request: ReplaceRequested, **changed: Any) -> ReplaceRiskApproved | Refusal:
    world: dict[str, Any] = {
        "received_at_ms": NOW_MS,
        "decided_at_ms": NOW_MS,
        "account": books(),
        "reservation": reserved(),
        "limits": limits(),
        "reference": reference(),
    }
    return decide_replace(request, **(world | changed))


def approved(request: ReplaceRequested, **changed: Any) -> ReplaceRiskApproved:
    outcome = decide(request, **changed)
    assert isinstance(outcome, ReplaceRiskApproved), outcome
    return outcome


def pending(**terms: Any) -> tuple[AccountRisk, Reservation]:
    """The books while a replace is on its way."""
    return apply_replace(books(), reserved(), approved(a_replace(**terms)))


def replaced(quantity_lots: int, leaves_lots: int, **changed: Any) -> OrderReplaced:
    fields = {
        "request_id": "acc-1-2",
        "quantity_lots": quantity_lots,
        "price_ticks": PRICE_TICKS,
        "leaves_lots": leaves_lots,
    }
    return OrderReplaced(**(REPORT | fields | changed))


def not_replaced(**changed: Any) -> ReplaceRejected:
    return ReplaceRejected(
        **(REPORT | {"request_id": "acc-1-2", "reason": VenueReason.ORDER_ENDED} | changed)
    )


def open_lots(account: AccountRisk) -> int:
    return account.holding("BTC-USD").open_buy_lots


# -- cancel


@pytest.mark.parametrize(
    ("order_id", "reservation", "reason"),
    [
        (ORDER, None, CancelReason.ORDER_ENDED),
        ("acc-1-2", None, CancelReason.UNKNOWN_ORDER),
        ("acc-1-0", None, CancelReason.UNKNOWN_ORDER),
        ("acc-2-1", None, CancelReason.UNKNOWN_ORDER),
        ("acc-1-", None, CancelReason.UNKNOWN_ORDER),
        ("acc-1-" + "9" * 5_000, None, CancelReason.UNKNOWN_ORDER),
        (ORDER, reserved(cancel_id="acc-1-c1"), CancelReason.CANCEL_PENDING),
    ],
)
def test_there_is_nothing_to_cancel(
    order_id: str, reservation: Reservation | None, reason: CancelReason
) -> None:
    request = a_cancel(order_id=order_id)

    assert decide_cancel(request, books(), reservation, "orders/0/7") == CancelRefused(
        request=request, reason=reason, source="orders/0/7"
    )


def test_a_cancel_takes_the_accounts_next_number_and_no_other_follows_it() -> None:
    account, reservation = books(cancels=3), reserved()
    accepted = decide_cancel(a_cancel(), account, reservation, "orders/0/7")
    assert isinstance(accepted, CancelAccepted)

    account, reservation = apply_cancel(account, reservation, accepted)

    assert (accepted.cancel_id, accepted.symbol, accepted.side) == ("acc-1-c4", "BTC-USD", Side.BUY)
    assert account == books(cancels=4)
    assert reservation == reserved(cancel_id="acc-1-c4")


def test_a_cancel_may_come_on_top_of_a_replace() -> None:
    account, reservation = pending()

    assert isinstance(decide_cancel(a_cancel(), account, reservation, ""), CancelAccepted)


def test_a_cancel_that_the_venue_refuses_leaves_the_order_and_may_be_asked_again() -> None:
    answer = CancelRejected(**REPORT, request_id="acc-1-c1", reason=VenueReason.ORDER_ENDED)

    account, reservation = apply_answer(books(), reserved(cancel_id="acc-1-c1"), answer)

    assert reservation == reserved()
    assert account == books(last_venue_sequence=5)
    assert is_answered(account, reservation, answer)


# -- replace: refusals


@pytest.mark.parametrize(
    ("world", "request_terms", "reason"),
    [
        ({"limits": None}, {}, RiskReason.UNKNOWN_ACCOUNT),
        ({}, {"sequence": 1, "request_id": "acc-1-1"}, RiskReason.DUPLICATE_ORDER_ID),
        ({"limits": limits(kill_switch=True)}, {}, RiskReason.KILL_SWITCH_ON),
        ({"reservation": None}, {"order_id": "acc-1-9"}, RiskReason.UNKNOWN_ORDER),
        ({"reservation": None}, {}, RiskReason.ORDER_ENDED),
        ({"reservation": reserved(cancel_id="acc-1-c1")}, {}, RiskReason.CANCEL_PENDING),
        (
            {
                "reservation": reserved(
                    replace=PendingReplace(request_id="acc-1-0", quantity_lots=9, price_ticks=1)
                )
            },
            {},
            RiskReason.REPLACE_PENDING,
        ),
        ({"reservation": reserved(quantity_lots=None)}, {}, RiskReason.REPLACE_PENDING),
        ({}, {"quantity_lots": 0}, RiskReason.QUANTITY_NOT_POSITIVE),
        ({}, {"quantity_lots": -1}, RiskReason.QUANTITY_NOT_POSITIVE),
        ({}, {"price_ticks": 0}, RiskReason.PRICE_NOT_POSITIVE),
        ({}, {"submitted_at_ms": NOW_MS - 30_001}, RiskReason.ORDER_TOO_OLD),
        ({"reference": reference(prices=known({}))}, {}, RiskReason.NO_PRICE),
        ({}, {"price_ticks": 2 * PRICE_TICKS}, RiskReason.PRICE_OUTSIDE_COLLAR),
        ({"limits": limits(order_quantity_lots_max=11)}, {}, RiskReason.ORDER_TOO_LARGE),
        (
            {"limits": limits(order_notional_micros_max=12 * PRICE_TICKS - 1)},
            {},
            RiskReason.ORDER_NOTIONAL_TOO_LARGE,
        ),
        ({"limits": limits(position_lots_max=11)}, {}, RiskReason.POSITION_LIMIT),
        (
            {"limits": limits(gross_exposure_micros_max=12 * PRICE_TICKS - 1)},
            {},
            RiskReason.GROSS_EXPOSURE_LIMIT,
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_replace_is_refused(
    world: dict[str, Any], request_terms: dict[str, Any], reason: RiskReason
) -> None:
    outcome = decide(a_replace(**request_terms), **world)

    assert isinstance(outcome, Refusal)
    assert outcome.reason is reason


def test_only_what_it_adds_counts_towards_position_exposure_and_working_orders() -> None:
    exactly = limits(position_lots_max=12, gross_exposure_micros_max=12 * PRICE_TICKS, open_orders_max=1)

    assert isinstance(decide(a_replace(), limits=exactly), ReplaceRiskApproved)


def test_what_reduces_is_let_through_above_position_and_exposure_limits() -> None:
    lowered = limits(position_lots_max=5, gross_exposure_micros_max=1)

    assert isinstance(decide(a_replace(quantity_lots=9), limits=lowered), ReplaceRiskApproved)
    dearer = decide(a_replace(quantity_lots=9, price_ticks=PRICE_TICKS + 1), limits=lowered)
    assert dearer == Refusal(RiskReason.POSITION_LIMIT)


def test_an_approval_tells_what_it_rests_on() -> None:
    prices = known({"BTC-USD": a_price(epoch=3)})

    assert approved(a_replace(), reference=reference(prices=prices)) == ReplaceRiskApproved(
        request=a_replace(),
        symbol="BTC-USD",
        side=Side.BUY,
        reference_price_ticks=PRICE_TICKS,
        reference_tick_sequence=a_price().tick_sequence,
        reference_tick_epoch=3,
        price_age_ms=NOW_MS - a_price().observed_at_ms,
        limits_version=limits().version,
        received_at_ms=NOW_MS,
        decided_at_ms=NOW_MS,
    )


def test_a_refused_replace_uses_its_number_unless_it_is_a_repeat() -> None:
    refused = replace_rejection(a_replace(), Refusal(RiskReason.NO_PRICE), "orders/0/7")
    assert apply_rejection(books(), refused) == books(last_sequence=2)

    repeated = replace_rejection(a_replace(), Refusal(RiskReason.DUPLICATE_ORDER_ID), "orders/0/7")
    assert apply_rejection(books(), repeated) == books()


# -- replace: what is reserved


@pytest.mark.parametrize(
    ("quantity_lots", "reserved_lots"), [(12, 12), (10, 10), (7, 10)], ids=["more", "same", "less"]
)
def test_the_larger_of_both_quantities_is_reserved(quantity_lots: int, reserved_lots: int) -> None:
    account, reservation = pending(quantity_lots=quantity_lots)

    assert open_lots(account) == reserved_lots
    assert reservation.open_lots == 10
    assert (account.last_sequence, account.last_approved_sequence) == (2, 2)


@pytest.mark.parametrize("step", [-1, 1])
def test_the_larger_of_both_prices_is_reserved(step: int) -> None:
    account, _ = pending(price_ticks=PRICE_TICKS + step)

    assert account.holding("BTC-USD").open_buy_price_ticks == PRICE_TICKS + max(0, step)


def test_a_fill_of_the_old_terms_leaves_less_of_the_new_ones() -> None:
    account, reservation = apply_report(*pending(), a_fill(4, 6, **REPORT))
    assert reservation is not None
    assert (open_lots(account), reservation.open_lots) == (8, 6)

    account, reservation = apply_answer(account, reservation, replaced(12, 8, venue_sequence=6))

    assert reservation == reserved(open_lots=8, quantity_lots=12)
    assert (open_lots(account), account.holding("BTC-USD").position_lots) == (8, 4)


def test_to_what_is_filled_or_less_is_filled() -> None:
    account, reservation = apply_report(*pending(quantity_lots=3), a_fill(4, 6, **REPORT))
    assert reservation is not None

    account, after = apply_answer(account, reservation, replaced(4, 0, venue_sequence=6))

    assert after is None
    assert (open_lots(account), account.open_orders) == (0, 0)
    assert account.holding("BTC-USD").position_lots == 4


NOT_REPLACED = [
    not_replaced(),
    ReplaceComplianceRejected(request=a_replace(), reason=ComplianceReason.SELF_MATCH),
    ReplaceWithheld(
        **{name: REPORT[name] for name in ("order_id", "account_id", "symbol", "side")},
        request_id="acc-1-2",
        reason=WithheldReason.HALTED,
        looked_at_ms=NOW_MS,
    ),
]


@pytest.mark.parametrize("answer", NOT_REPLACED, ids=lambda each: type(each).__name__)
def test_a_replace_that_comes_to_nothing_releases_what_it_added(answer: Any) -> None:
    account, reservation = apply_answer(*pending(), answer)

    assert reservation == reserved()
    assert open_lots(account) == 10
    assert is_answered(account, reservation, answer)


@pytest.mark.parametrize("answer", NOT_REPLACED, ids=lambda each: type(each).__name__)
def test_an_answer_behind_the_orders_end_changes_nothing(answer: Any) -> None:
    account, reservation = apply_report(*pending(), a_fill(10, 0, **REPORT))
    assert (open_lots(account), reservation) == (0, None)

    assert is_answered(account, reservation, answer)


def test_a_cancel_releases_all_of_it() -> None:
    account, reservation = apply_report(*pending(), cancelled(10, **REPORT, request_id="acc-1-c1"))

    assert reservation is None
    assert (open_lots(account), account.open_orders) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        replaced(11, 11),
        replaced(12, 11),
        replaced(12, 12, price_ticks=1),
        replaced(12, 12, request_id="acc-1-9"),
        not_replaced(request_id="acc-1-9"),
        CancelRejected(**REPORT, request_id="acc-1-c9", reason="unknown_order"),
    ],
    ids=["quantity", "leaves", "price", "other replace", "other rejection", "other cancel"],
)
def test_an_answer_to_what_was_not_asked_is_a_contradiction(answer: Any) -> None:
    account, reservation = pending()

    with pytest.raises(InvariantBroken):
        apply_answer(account, reservation, answer)


# -- whatever comes


@given(
    total_lots=st.integers(1, 30),
    price_ticks=st.integers(PRICE_TICKS - 50, PRICE_TICKS + 50),
    fills=st.lists(st.integers(1, 5), max_size=5),
    accepts=st.booleans(),
)
def test_what_is_reserved_is_never_less_than_what_the_venue_may_fill(
    total_lots: int, price_ticks: int, fills: list[int], accepts: bool
) -> None:
    account, after = pending(quantity_lots=total_lots, price_ticks=price_ticks)
    reservation: Reservation | None = after
    filled = 0
    for number, lots in enumerate(fills, 1):
        lots = min(lots, 10 - filled)
        if not lots or reservation is None:
            break
        filled += lots
        fill = a_fill(lots, 10 - filled, **(REPORT | {"venue_sequence": number}))
        account, reservation = apply_report(account, reservation, fill)
        if reservation is not None:
            assert open_lots(account) == max(10, total_lots) - filled
    if reservation is not None:
        total = max(total_lots, filled)
        terms = replaced(total, total - filled, price_ticks=price_ticks, venue_sequence=99)
        answer = terms if accepts else not_replaced(venue_sequence=99)
        account, reservation = apply_answer(account, reservation, answer)
    assert open_lots(account) == (reservation.open_lots if reservation is not None else 0)
    assert account.open_orders == (reservation is not None)
    assert account.holding("BTC-USD").position_lots == filled


def test_the_instrument_of_the_order_is_judged() -> None:
    delisted = reference(instruments=known({}))

    assert decide(a_replace(), reference=delisted) == Refusal(RiskReason.UNKNOWN_INSTRUMENT)
