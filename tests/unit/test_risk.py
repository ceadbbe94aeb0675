"""Pre-trade risk: every refusal and its precedence, and what approvals and reports do to the books."""

import json
from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from app.domain.errors import InvariantBroken
from app.domain.profit import Profit
from app.domain.reference import Known
from app.domain.risk import (
    NEW_ACCOUNT,
    SEQUENCE_LEAP_MAX,
    TRACELESS,
    AccountRisk,
    Holding,
    Refusal,
    apply_decision,
    apply_report,
    decide_risk,
    is_limit_breach,
    is_repeat,
    rejection,
    reserve,
)
from app.engine.state.table import json_functions
from models.events import OrderComplianceRejected, OrderReceived, OrderRiskApproved, OrderRiskRejected
from models.reasons import ComplianceReason, RiskReason
from models.values import InstrumentStatus, PartyStatus
from tests.builders import (
    BTC,
    ETH,
    NOW_MS,
    PRICE_TICKS,
    a_fill,
    a_halt,
    a_price,
    a_reservation,
    acknowledged,
    an_account,
    an_order,
    cancelled,
    expired,
    known,
    limits,
    listed,
    reference,
    registered,
    venue_rejected,
    withheld,
)

BTC_MICROS = PRICE_TICKS  # one lot of BTC-USD at the market's price
INSTRUMENTS = reference().instruments


def decide(order: OrderReceived, **changed: Any) -> OrderRiskApproved | OrderRiskRejected:
    """Decide at once; `accounts`, `instruments`, `halts` and `prices` are changed in the reference data."""
    known_too = {name: changed.pop(name) for name in reference()._fields if name in changed}
    world: dict[str, Any] = {
        "received_at_ms": NOW_MS,
        "decided_at_ms": NOW_MS,
        "account": NEW_ACCOUNT,
        "limits": limits(),
        "reference": reference(**known_too),
    }
    outcome = decide_risk(order, **(world | changed))
    return rejection(order, outcome, "orders/3/17") if isinstance(outcome, Refusal) else outcome


def rejected(order: OrderReceived, **changed: Any) -> OrderRiskRejected:
    outcome = decide(order, **changed)
    assert isinstance(outcome, OrderRiskRejected)
    return outcome


def refusal(order: OrderReceived, **changed: Any) -> str | None:
    outcome = decide(order, **changed)
    return outcome.reason if isinstance(outcome, OrderRiskRejected) else None


def approved(order: OrderReceived, **changed: Any) -> OrderRiskApproved:
    outcome = decide(order, **changed)
    assert isinstance(outcome, OrderRiskApproved)
    return outcome


def applied(account: AccountRisk, outcome: OrderRiskApproved | OrderRiskRejected) -> AccountRisk:
    return apply_decision(account, outcome, INSTRUMENTS)


OF_REPLACES = {
    RiskReason.UNKNOWN_ORDER,
    RiskReason.ORDER_ENDED,
    RiskReason.CANCEL_PENDING,
    RiskReason.REPLACE_PENDING,
}
OF_ORDERS = [reason for reason in RiskReason if reason not in OF_REPLACES]
ORDER_WRONG: dict[RiskReason, dict[str, Any]] = {
    RiskReason.DUPLICATE_ORDER_ID: {"sequence": 0},
    RiskReason.SEQUENCE_LEAP: {"sequence": SEQUENCE_LEAP_MAX + 1},
    RiskReason.UNKNOWN_INSTRUMENT: {"symbol": "DOGE-USD"},
    RiskReason.QUANTITY_NOT_POSITIVE: {"quantity_lots": 0},
    RiskReason.PRICE_NOT_POSITIVE: {"price_ticks": 0},
    RiskReason.TIMESTAMP_IN_FUTURE: {"submitted_at_ms": NOW_MS + 1_001},
    RiskReason.ORDER_TOO_OLD: {"submitted_at_ms": NOW_MS - 30_001},
}
INSTRUMENT_WRONG: dict[RiskReason, dict[str, Any]] = {
    RiskReason.INSTRUMENT_NOT_TRADABLE: {"status": "halted"},
    RiskReason.INSTRUMENT_CHANGED: {"scale": 2},
    RiskReason.CURRENCY_MISMATCH: {"currency": "EUR"},
}
WORLD_WRONG: dict[RiskReason, dict[str, Any]] = {
    RiskReason.UNKNOWN_ACCOUNT: {"limits": None},
    RiskReason.UNKNOWN_FIELD: {"unknown_fields": ("stop_price_ticks",)},
    RiskReason.ACCOUNT_SUSPENDED: {"accounts": known({"acc-1": registered(status="suspended")})},
    RiskReason.HALTED: {"halts": known({"acc-1": a_halt()})},
    RiskReason.NO_PRICE: {"prices": known({})},
    RiskReason.STALE_PRICE: {"prices": known({"BTC-USD": a_price(observed_at_ms=NOW_MS - 5_001)})},
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
NEVER_BOTH = {
    (RiskReason.DUPLICATE_ORDER_ID, RiskReason.SEQUENCE_LEAP),
    (RiskReason.TIMESTAMP_IN_FUTURE, RiskReason.ORDER_TOO_OLD),
    (RiskReason.NO_PRICE, RiskReason.STALE_PRICE),
    *((RiskReason.UNKNOWN_INSTRUMENT, reason) for reason in INSTRUMENT_WRONG),
}
"""Faults that exclude each other: what is not listed, say, has neither a status nor a currency."""


def world_with(*reasons: RiskReason) -> tuple[OrderReceived, dict[str, Any]]:
    """An order and a world in which every one of `reasons` holds, and no other."""
    order: dict[str, Any] = {}
    world: dict[str, Any] = {}
    instrument: dict[str, Any] = {}
    changed_limits: dict[str, Any] = {}
    for reason in reversed(reasons):
        order |= ORDER_WRONG.get(reason, {})
        world |= WORLD_WRONG.get(reason, {})
        instrument |= INSTRUMENT_WRONG.get(reason, {})
        changed_limits |= LIMITS_WRONG.get(reason, {})
    holdings = {"BTC-USD": Holding(position_lots=-1)} if "scale" in instrument else {}
    account = AccountRisk(last_sequence=0, open_orders=1, holdings=holdings)
    return an_order(**order), {
        "account": account,
        "limits": limits(**changed_limits),
        "instruments": known({"BTC-USD": listed(**instrument)}),
    } | world


def test_every_reason_has_a_case() -> None:
    assert {*ORDER_WRONG, *INSTRUMENT_WRONG, *WORLD_WRONG, *LIMITS_WRONG} == {*OF_ORDERS}


@pytest.mark.parametrize("reason", OF_ORDERS)
def test_an_order_with_one_fault_is_rejected_for_it(reason: RiskReason) -> None:
    order, world = world_with(reason)

    assert refusal(order, **world) is reason


@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in combinations(OF_ORDERS, 2) if pair not in NEVER_BOTH]
)
def test_of_two_faults_the_one_declared_first_is_named(first: RiskReason, second: RiskReason) -> None:
    order, world = world_with(first, second)

    assert refusal(order, **world) is first


def test_a_sound_order_is_approved_with_what_the_decision_rests_on() -> None:
    order = an_order()
    prices = known({"BTC-USD": a_price(epoch=3)})

    assert decide(order, decided_at_ms=NOW_MS + 50, prices=prices) == OrderRiskApproved(
        order=order,
        reference_price_ticks=PRICE_TICKS,
        reference_tick_sequence=42,
        reference_tick_epoch=3,
        price_age_ms=150,
        limits_version=7,
        received_at_ms=NOW_MS,
        decided_at_ms=NOW_MS + 50,
    )


def test_an_approval_has_every_field_and_is_written_like_one_that_was_checked() -> None:
    approval = approved(an_order())

    assert set(vars(approval)) == set(OrderRiskApproved.model_fields)
    assert OrderRiskApproved.model_validate_json(approval.model_dump_json()) == approval


def test_a_rejection_names_where_the_order_stands() -> None:
    outcome = decide(an_order(quantity_lots=-5))

    assert isinstance(outcome, OrderRiskRejected)
    assert outcome.source == "orders/3/17"


@pytest.mark.parametrize(
    ("last_sequence", "sequence", "reason"),
    [
        (None, 1, None),
        (None, SEQUENCE_LEAP_MAX, None),
        (None, SEQUENCE_LEAP_MAX + 1, RiskReason.SEQUENCE_LEAP),
        (None, 2**63 - 1, RiskReason.SEQUENCE_LEAP),
        (5, 4, RiskReason.DUPLICATE_ORDER_ID),
        (5, 5, RiskReason.DUPLICATE_ORDER_ID),
        (5, 6, None),
        (5, 5 + SEQUENCE_LEAP_MAX, None),
        (5, 6 + SEQUENCE_LEAP_MAX, RiskReason.SEQUENCE_LEAP),
        (2**62, 2**62 + 1, None),
    ],
)
def test_a_sequence_is_above_the_last_one_and_does_not_leap(
    last_sequence: int | None, sequence: int, reason: RiskReason | None
) -> None:
    account = AccountRisk(last_sequence=last_sequence, holdings={})

    assert refusal(an_order(sequence=sequence), account=account) is reason


def test_after_a_leap_the_account_goes_on_where_it_was() -> None:
    account = applied(NEW_ACCOUNT, approved(an_order(sequence=7)))
    account = applied(account, rejected(an_order(sequence=2**63 - 1), account=account))

    assert refusal(an_order(sequence=8), account=account) is None


@pytest.mark.parametrize("missing", [{"limits": None}, {"accounts": known({})}], ids=["limits", "account"])
def test_an_unknown_account_leaves_no_state(missing: dict[str, Any]) -> None:
    outcome = rejected(an_order(sequence=2**63 - 1), **missing)

    assert outcome.reason is RiskReason.UNKNOWN_ACCOUNT
    assert applied(NEW_ACCOUNT, outcome) is NEW_ACCOUNT


def test_the_names_of_unknown_fields_are_told_but_not_all_of_a_thousand() -> None:
    assert rejected(an_order(), unknown_fields=("stop_price_ticks", "expiry")).detail == (
        "stop_price_ticks, expiry"
    )
    thousand = rejected(an_order(), unknown_fields=("x" * 1_000,) * 1_000).detail
    assert thousand.endswith(" and 992 more")
    assert len(thousand) < 600


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("accounts", "acc-1", RiskReason.ACCOUNT_SUSPENDED),
        ("halts", "acc-1", RiskReason.HALTED),
        ("halts", "*", RiskReason.HALTED),
        ("instruments", "BTC-USD", RiskReason.INSTRUMENT_NOT_TRADABLE),
        ("prices", "BTC-USD", RiskReason.NO_PRICE),
    ],
)
def test_what_cannot_be_read_refuses_the_order_though_an_older_value_is_there(
    name: str, key: str, reason: RiskReason
) -> None:
    sound = getattr(reference(), name).values
    unreadable = Known(sound, {key: "written by a martian"})

    outcome = rejected(an_order(), **{name: unreadable})

    assert outcome.reason is reason
    assert name == "prices" or "written by a martian" in outcome.detail
    assert refusal(an_order(), **{name: Known(sound, {"another": "unreadable"})}) is None


def test_an_instrument_that_never_could_be_read_is_not_tradable() -> None:
    instruments = known({}, BTC_USD="written by a martian")

    assert refusal(an_order(), instruments=instruments) is RiskReason.INSTRUMENT_NOT_TRADABLE


@pytest.mark.parametrize("scope", ["acc-1", "*"])
def test_a_halt_of_the_account_or_of_everybody_refuses_and_names_who_and_why(scope: str) -> None:
    outcome = rejected(an_order(), halts=known({scope: a_halt(scope=scope)}))

    assert outcome.reason is RiskReason.HALTED
    assert outcome.detail == f"{scope} is halted by the desk: a test"


def test_a_halt_that_has_ended_and_a_halt_of_another_account_do_not_refuse() -> None:
    halts = known({"*": a_halt(scope="*", halted=False), "acc-2": a_halt(scope="acc-2")})

    assert refusal(an_order(), halts=halts) is None


@pytest.mark.parametrize("status", [each for each in InstrumentStatus if each != "active"])
def test_an_instrument_that_is_not_active_takes_no_orders(status: InstrumentStatus) -> None:
    instruments = known({"BTC-USD": listed(status=status)})

    assert rejected(an_order(), instruments=instruments).detail == f"it is {status}"


@pytest.mark.parametrize(
    ("valid_from_ms", "valid_until_ms", "is_valid"),
    [
        (NOW_MS, None, True),
        (NOW_MS + 1, None, False),
        (None, NOW_MS + 1, True),
        (None, NOW_MS, False),
        (NOW_MS, NOW_MS + 1, True),
    ],
)
def test_an_instrument_takes_orders_from_and_until_not_at_the_end_by_the_brokers_clock(
    valid_from_ms: int | None, valid_until_ms: int | None, is_valid: bool
) -> None:
    instruments = known({"BTC-USD": listed(valid_from_ms=valid_from_ms, valid_until_ms=valid_until_ms)})
    expected = None if is_valid else RiskReason.INSTRUMENT_NOT_TRADABLE

    assert refusal(an_order(), instruments=instruments, decided_at_ms=NOW_MS + 2_000) is expected


@pytest.mark.parametrize(
    "held", [{"position_lots": -1}, {"open_buy_lots": 1}, {"open_sell_lots": 1}], ids=str
)
def test_an_order_does_not_mix_with_a_holding_of_another_scale(held: dict[str, int]) -> None:
    instruments = known({"BTC-USD": listed(scale=2)})
    account = an_account(**held)

    assert refusal(an_order(), account=account, instruments=instruments) is RiskReason.INSTRUMENT_CHANGED


def test_a_flat_holding_takes_over_the_scale_of_the_next_order() -> None:
    instruments = known({"BTC-USD": listed(scale=2)})
    prices = known({"BTC-USD": a_price(scale=2)})
    account = an_account(position_lots=0)
    outcome = approved(an_order(), account=account, instruments=instruments, prices=prices)

    assert apply_decision(an_account(position_lots=0), outcome, instruments).holding("BTC-USD").scale == 2


def test_cash_of_another_currency_is_never_added() -> None:
    accounts = known({"acc-1": registered(base_currency="EUR")})

    outcome = rejected(an_order(), accounts=accounts)

    assert (outcome.reason, outcome.detail) == (RiskReason.CURRENCY_MISMATCH, "USD, not EUR")


def test_a_suspended_account_sends_nothing() -> None:
    accounts = known({"acc-1": registered(status=PartyStatus.SUSPENDED)})

    assert refusal(an_order(), accounts=accounts) is RiskReason.ACCOUNT_SUSPENDED


def test_a_clock_one_second_ahead_is_tolerated() -> None:
    assert refusal(an_order(submitted_at_ms=NOW_MS + 1_000)) is None


@pytest.mark.parametrize(
    ("submitted_at_ms", "decided_at_ms", "is_too_old"),
    [
        (NOW_MS - 30_000, NOW_MS, False),
        (NOW_MS - 30_001, NOW_MS, True),
        (NOW_MS // 1_000, NOW_MS, True),
        (NOW_MS - 24 * 3_600 * 1_000, NOW_MS, True),
        (NOW_MS, NOW_MS + 30_000, False),
        (NOW_MS, NOW_MS + 81_000, True),
        (NOW_MS + 1_000, NOW_MS + 30_001, True),
    ],
    ids=[
        "half a minute",
        "and a millisecond",
        "in seconds",
        "a day",
        "waited half a minute",
        "waited while services were down",
        "waited, from a clock that is ahead",
    ],
)
def test_an_order_is_too_old_by_the_clients_clock_or_by_the_brokers(
    submitted_at_ms: int, decided_at_ms: int, is_too_old: bool
) -> None:
    prices = known({"BTC-USD": a_price(observed_at_ms=decided_at_ms)})
    order = an_order(submitted_at_ms=submitted_at_ms)
    reason = refusal(order, decided_at_ms=decided_at_ms, prices=prices)

    assert reason is (RiskReason.ORDER_TOO_OLD if is_too_old else None)


def test_the_maximum_age_is_the_accounts_own() -> None:
    patient = limits(order_age_ms_max=3_600_000)

    assert refusal(an_order(submitted_at_ms=NOW_MS - 3_600_000), limits=patient) is None
    assert refusal(an_order(submitted_at_ms=NOW_MS - 3_600_001), limits=patient) is RiskReason.ORDER_TOO_OLD


@pytest.mark.parametrize(("waited_ms", "age_ms"), [(0, 4_000), (1_000, 5_000), (-9_000, 0)])
def test_a_prices_age_counts_to_the_decision(waited_ms: int, age_ms: int) -> None:
    prices = known({"BTC-USD": a_price(observed_at_ms=NOW_MS - 4_000)})

    assert approved(an_order(), decided_at_ms=NOW_MS + waited_ms, prices=prices).price_age_ms == age_ms


def test_a_price_that_grew_stale_while_the_order_waited_is_not_used() -> None:
    prices = known({"BTC-USD": a_price(observed_at_ms=NOW_MS - 4_000)})

    assert refusal(an_order(), decided_at_ms=NOW_MS + 1_001, prices=prices) is RiskReason.STALE_PRICE


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


TIGHT = limits(position_lots_max=50, gross_exposure_micros_max=1)


@pytest.mark.parametrize(
    ("held", "order", "passes"),
    [
        ({"position_lots": 100}, {"side": "sell", "quantity_lots": 100}, True),
        ({"position_lots": 100}, {"side": "sell", "quantity_lots": 101}, False),
        ({"position_lots": 100}, {"side": "sell", "quantity_lots": 200}, False),
        ({"position_lots": 100, "open_sell_lots": 60}, {"side": "sell", "quantity_lots": 40}, True),
        ({"position_lots": 100, "open_sell_lots": 60}, {"side": "sell", "quantity_lots": 41}, False),
        ({"position_lots": 100, "open_buy_lots": 60}, {"side": "sell", "quantity_lots": 100}, True),
        ({"position_lots": -100}, {"side": "buy", "quantity_lots": 100}, True),
        ({"position_lots": -100}, {"side": "buy", "quantity_lots": 101}, False),
        ({"position_lots": -100, "open_buy_lots": 60}, {"side": "buy", "quantity_lots": 41}, False),
        ({"position_lots": 100}, {"side": "buy", "quantity_lots": 1}, False),
        ({"position_lots": 0, "open_buy_lots": 100}, {"side": "sell", "quantity_lots": 1}, False),
        ({"position_lots": 0}, {"side": "sell", "quantity_lots": 1}, False),
    ],
    ids=str,
)
def test_above_the_limits_an_order_passes_that_leads_towards_zero_and_not_through_it(
    held: dict[str, int], order: dict[str, Any], passes: bool
) -> None:
    assert (refusal(an_order(**order), account=an_account(**held), limits=TIGHT) is None) is passes


@pytest.mark.parametrize(
    ("quantity_lots", "passes"), [(150, True), (151, False)], ids=["to the limit", "beyond"]
)
def test_an_order_through_zero_may_lead_to_the_limit_of_the_other_side(
    quantity_lots: int, passes: bool
) -> None:
    account = an_account(position_lots=100)
    order = an_order(side="sell", quantity_lots=quantity_lots)

    assert (refusal(order, account=account, limits=limits(position_lots_max=50)) is None) is passes


def exposure_reaches(micros: int, order: OrderReceived, **world: Any) -> bool:
    """Whether the account's worst case with the order is exactly so much cash."""
    return (
        refusal(order, limits=limits(gross_exposure_micros_max=micros), **world) is None
        and refusal(order, limits=limits(gross_exposure_micros_max=micros - 1), **world)
        is RiskReason.GROSS_EXPOSURE_LIMIT
    )


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize(("price_ticks", "counts_at_ticks"), [(94_000, 94_000), (86_000, PRICE_TICKS)])
def test_an_order_counts_at_the_worse_of_its_own_price_and_the_markets(
    side: str, price_ticks: int, counts_at_ticks: int
) -> None:
    order = an_order(side=side, price_ticks=price_ticks)

    assert exposure_reaches(10 * counts_at_ticks, order)


@pytest.mark.parametrize(("side", "other"), [("buy", "sell"), ("sell", "buy")])
def test_exposure_is_that_of_the_worse_side_whichever_the_order_grows(side: str, other: str) -> None:
    account = an_account(**{f"open_{other}_lots": 100})

    assert exposure_reaches(100 * BTC_MICROS, an_order(side=side), account=account)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_an_open_order_counts_at_its_own_price_until_its_side_is_empty(side: str) -> None:
    account = applied(NEW_ACCOUNT, approved(an_order(side=side, price_ticks=94_000)))
    account = applied(
        account,
        approved(an_order(sequence=2, order_id="o-2", side=side, price_ticks=93_000), account=account),
    )
    assert exposure_reaches(30 * 94_000, an_order(sequence=3, side=side), account=account)

    first = a_reservation(side=side, price_ticks=94_000)
    account, _ = apply_report(account, first, cancelled(10, side=side))
    assert exposure_reaches(20 * 94_000, an_order(sequence=3, side=side), account=account)

    second = a_reservation(side=side, order_id="o-2", price_ticks=93_000)
    account, _ = apply_report(account, second, cancelled(10, order_id="o-2", side=side))
    assert exposure_reaches(10 * PRICE_TICKS, an_order(sequence=3, side=side), account=account)


def test_other_symbols_count_at_todays_price_not_at_that_of_their_last_order() -> None:
    account = AccountRisk(holdings={"ETH-USD": Holding(position_lots=-3, reference_price_ticks=7_000)})
    prices = known({"BTC-USD": a_price(), "ETH-USD": a_price(symbol="ETH-USD", price_ticks=8_000)})

    assert exposure_reaches(3 * 8_000 * 10 + 10 * BTC_MICROS, an_order(), account=account, prices=prices)


def test_without_a_price_another_symbol_counts_at_that_of_its_last_order() -> None:
    account = AccountRisk(holdings={"ETH-USD": Holding(position_lots=-3, reference_price_ticks=7_000)})

    assert exposure_reaches(3 * 7_000 * 10 + 10 * BTC_MICROS, an_order(), account=account)


def test_a_price_in_ticks_of_another_scale_is_no_price() -> None:
    prices = known({"BTC-USD": a_price(scale=1)})
    for scale, expected in ((1, None), (2, RiskReason.NO_PRICE)):
        instruments = known({"BTC-USD": listed(scale=scale)})
        assert refusal(an_order(), instruments=instruments, prices=prices) is expected


def test_nor_is_it_one_of_another_symbol() -> None:
    """Its instrument was changed and changed back, and its price is still the one from in between."""
    account = AccountRisk(holdings={"ETH-USD": Holding(position_lots=-3, reference_price_ticks=7_000)})
    eth = a_price(symbol="ETH-USD", price_ticks=80, scale=2)
    prices = known({"BTC-USD": a_price(), "ETH-USD": eth})

    assert exposure_reaches(3 * 7_000 * 10 + 10 * BTC_MICROS, an_order(), account=account, prices=prices)


def test_open_orders_of_another_symbol_count_at_their_own_price_if_that_is_worse() -> None:
    held = Holding(open_sell_lots=3, open_sell_price_ticks=9_000, reference_price_ticks=7_000)
    account = AccountRisk(holdings={"ETH-USD": held})

    assert exposure_reaches(3 * 9_000 * 10 + 10 * BTC_MICROS, an_order(), account=account)


def test_the_holding_of_the_orders_symbol_counts_once_and_at_todays_price() -> None:
    account = an_account(position_lots=5, open_buy_lots=5, reference_price_ticks=1)

    assert exposure_reaches(20 * BTC_MICROS, an_order(), account=account)


@pytest.mark.parametrize(
    "instruments",
    [
        known({"BTC-USD": BTC}),
        known({"BTC-USD": BTC, "ETH-USD": listed(symbol="ETH-USD", lot="0.001", scale=2)}),
        known({"BTC-USD": BTC, "ETH-USD": ETH}, ETH_USD="written by a martian"),
    ],
    ids=["not listed any more", "of another scale", "unreadable"],
)
def test_while_nobody_can_say_what_another_holding_is_worth_orders_may_only_reduce(
    instruments: Known[Any],
) -> None:
    ethereum = Holding(position_lots=-3, reference_price_ticks=7_000)
    account = AccountRisk(holdings={"BTC-USD": Holding(position_lots=10), "ETH-USD": ethereum})

    outcome = rejected(an_order(), account=account, instruments=instruments)
    assert (outcome.reason, outcome.detail) == (
        RiskReason.GROSS_EXPOSURE_LIMIT,
        "nobody can say what ETH-USD is worth",
    )
    assert refusal(an_order(side="sell"), account=account, instruments=instruments) is None
    flat = replace(account, holdings={"ETH-USD": Holding(reference_price_ticks=7_000)})
    assert refusal(an_order(), account=flat, instruments=instruments) is None


BREACHES = {
    RiskReason.PRICE_OUTSIDE_COLLAR,
    RiskReason.ORDER_TOO_LARGE,
    RiskReason.ORDER_NOTIONAL_TOO_LARGE,
    RiskReason.TOO_MANY_OPEN_ORDERS,
    RiskReason.POSITION_LIMIT,
    RiskReason.GROSS_EXPOSURE_LIMIT,
}


@pytest.mark.parametrize("reason", RiskReason)
def test_people_are_alerted_when_a_limit_would_be_broken_and_only_then(reason: RiskReason) -> None:
    assert is_limit_breach(reason) is (reason in BREACHES)


def test_an_approval_reserves_the_orders_lots() -> None:
    outcome = approved(an_order(side="sell", quantity_lots=7, price_ticks=91_000))

    assert applied(NEW_ACCOUNT, outcome) == AccountRisk(
        last_sequence=1,
        open_orders=1,
        last_approved_sequence=1,
        holdings={
            "BTC-USD": Holding(
                open_sell_lots=7, reference_price_ticks=PRICE_TICKS, open_sell_price_ticks=91_000
            )
        },
    )
    assert reserve(outcome) == a_reservation(side="sell", open_lots=7, quantity_lots=7, price_ticks=91_000)


def test_an_approval_of_what_is_not_listed_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="BTC-USD is not listed"):
        apply_decision(NEW_ACCOUNT, approved(an_order()), known({}))


@pytest.mark.parametrize("reason", [reason for reason in RiskReason if reason not in TRACELESS])
def test_a_rejected_order_is_the_accounts_last_and_changes_nothing_else(reason: RiskReason) -> None:
    account = an_account(position_lots=4, open_buy_lots=2)
    outcome = OrderRiskRejected(order=an_order(sequence=9), reason=reason, source="orders/0/0")

    assert applied(account, outcome) == replace(account, last_sequence=9)


@pytest.mark.parametrize("reason", sorted(TRACELESS))
def test_some_refusals_leave_no_trace(reason: RiskReason) -> None:
    account = AccountRisk(last_sequence=9, holdings={})
    outcome = OrderRiskRejected(order=an_order(sequence=99), reason=reason, source="orders/0/0")

    assert applied(account, outcome) is account


def test_a_fill_moves_its_lots_from_open_to_the_position() -> None:
    account, reservation = apply_report(
        booked(quantity_lots=10), a_reservation(), a_fill(4, leaves_lots=6, price_ticks=89_000)
    )

    assert account.holding("BTC-USD") == Holding(
        position_lots=4,
        open_buy_lots=6,
        reference_price_ticks=PRICE_TICKS,
        open_buy_price_ticks=PRICE_TICKS,
        profit=Profit(since_venue_sequence=1, cost_tick_lots=4 * 89_000, fees_missing=1),
    )
    assert account.open_orders == 1
    assert reservation == a_reservation(open_lots=6)


def test_the_last_fill_ends_the_reservation() -> None:
    account, reservation = apply_report(
        booked(side="sell"), a_reservation(side="sell"), a_fill(10, leaves_lots=0, side="sell")
    )

    assert account.holding("BTC-USD") == Holding(
        position_lots=-10,
        reference_price_ticks=PRICE_TICKS,
        profit=Profit(since_venue_sequence=1, cost_tick_lots=-10 * PRICE_TICKS, fees_missing=1),
    )
    assert account.open_orders == 0
    assert reservation is None


@pytest.mark.parametrize(
    "ending",
    [
        cancelled(10),
        expired(10),
        venue_rejected(10),
        withheld(10, order_id="o-1"),
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
        withheld(9, order_id="o-1"),
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
    assert not is_repeat(booked(), None, report)
    with pytest.raises(InvariantBroken, match="o-1, for which nothing is reserved"):
        apply_report(booked(), None, report)


def test_a_reservation_that_the_account_does_not_know_is_a_bug() -> None:
    one_open = replace(an_account(open_buy_lots=9), open_orders=1)
    with pytest.raises(InvariantBroken, match="o-1"):
        apply_report(one_open, a_reservation(), cancelled(10))
    with pytest.raises(InvariantBroken, match="none open"):
        apply_report(an_account(open_buy_lots=10), a_reservation(), cancelled(10))


def booked(**changed: Any) -> AccountRisk:
    """A new account after the approval of `an_order(**changed)`."""
    return applied(NEW_ACCOUNT, approved(an_order(**changed)))


@pytest.mark.parametrize(
    "report",
    [a_fill(4, leaves_lots=6), a_fill(10, leaves_lots=0), cancelled(10), venue_rejected(10)],
    ids=repr,
)
def test_a_venue_report_that_comes_again_is_a_repeat_for_ever(report: Any) -> None:
    assert not is_repeat(booked(), a_reservation(), report)
    account, reservation = apply_report(booked(), a_reservation(), report)
    assert is_repeat(account, reservation, report)

    account = applied(account, approved(an_order(order_id="o-2", sequence=2), account=account))
    assert is_repeat(account, reservation, report)
    account, _ = apply_report(
        account, a_reservation(order_id="o-2"), cancelled(10, order_id="o-2", venue_sequence=8)
    )
    assert is_repeat(account, reservation, report)


def test_an_acknowledgement_that_comes_after_its_order_has_ended_is_a_repeat() -> None:
    account, _ = apply_report(booked(), a_reservation(), cancelled(10, venue_sequence=2))

    assert is_repeat(account, None, acknowledged(venue_sequence=1))


def test_a_rejection_by_compliance_that_comes_again_is_a_repeat() -> None:
    rejection = OrderComplianceRejected(order=an_order(), reason=ComplianceReason.SELF_MATCH)
    assert not is_repeat(booked(), a_reservation(), rejection)
    account, reservation = apply_report(booked(), a_reservation(), rejection)

    assert is_repeat(account, reservation, rejection)
    account = applied(account, approved(an_order(order_id="o-2", sequence=2), account=account))
    assert is_repeat(account, reservation, rejection)


def test_a_withheld_order_that_comes_again_is_a_repeat_but_one_that_never_was_approved_is_a_bug() -> None:
    account = booked(order_id="acc-1-1")
    reservation = a_reservation(order_id="acc-1-1")
    assert not is_repeat(account, reservation, withheld(10))
    account, ended = apply_report(account, reservation, withheld(10))
    assert is_repeat(account, ended, withheld(10))

    never_was = withheld(10, order_id="acc-1-2")
    assert not is_repeat(account, None, never_was)
    with pytest.raises(InvariantBroken, match="acc-1-2, for which nothing is reserved"):
        apply_report(account, None, never_was)
    with pytest.raises(InvariantBroken, match="no order id of account"):
        is_repeat(account, None, withheld(10, order_id="something else"))


OF_THE_RELEASE_BEFORE = {
    "holdings": {
        "BTC-USD": {
            "position_lots": -3,
            "open_buy_lots": 4,
            "open_sell_lots": 0,
            "reference_price_ticks": PRICE_TICKS,
        }
    },
    "last_sequence": 17,
    "open_orders": 1,
}


def test_books_of_the_release_before_are_read_and_gone_on_with() -> None:
    decode, encode = json_functions(AccountRisk)
    account = decode(json.dumps(OF_THE_RELEASE_BEFORE).encode())

    assert account.holding("BTC-USD").scale == 1
    assert account.approved_up_to == 17
    account = applied(account, rejected(an_order(sequence=18, quantity_lots=0), account=account))
    assert (account.last_sequence, account.approved_up_to) == (18, 17)
    assert decode(encode(account)) == account
