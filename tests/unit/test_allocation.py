"""Allocation: case by case, then random weights and fills beside exact fractions."""

from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.domain.allocation import (
    SHARES_MAX,
    BlockAccount,
    BlockOrder,
    Standing,
    after_report,
    decide_instruction,
    end,
    fill,
    given_by,
    is_repeat,
    micros_per_tick_lot,
    share_out,
    split,
)
from models.commands import AllocationShare, SetAllocation
from models.events import AveragePrice, Diverted, TradeAllocated
from models.reasons import DivertedReason
from models.values import INT64_MAX, AllocationMethod
from tests.builders import BTC, PRICE_TICKS, a_fill, cancelled, known, registered

SUBS = ("a", "b", "c")
ACCOUNTS = known({name: registered(account_id=name) for name in ("acc-1", *SUBS)})
NEW = BlockOrder(leaves_lots=0, micros_per_tick_lot=1, given=())
PAID: dict[str, Any] = {"fee_micros": 7, "fee_currency": "USD"}


def by_weight(*weights: int) -> tuple[AllocationShare, ...]:
    return tuple(
        AllocationShare(sub_account=name, weight=weight) for name, weight in zip(SUBS, weights, strict=False)
    )


def in_turn(*lots: int | None) -> tuple[AllocationShare, ...]:
    return tuple(AllocationShare(sub_account=name, lots=each) for name, each in zip(SUBS, lots, strict=False))


def instruction(method: str = "pro_rata", **changed: Any) -> SetAllocation:
    command = {
        "account_id": "acc-1",
        "order_id": "*",
        "method": method,
        "shares": in_turn(5, None) if method == "priority" else by_weight(3, 2, 1),
        "version": 1,
        "who": "ann",
        "why": "a test",
    }
    return SetAllocation.model_validate(command | changed)


def parts(allocations: list[TradeAllocated]) -> dict[str, int]:
    return {each.sub_account: each.quantity_lots for each in allocations}


def trade(lots: int, number: int = 1, leaves_lots: int = 100, **changed: Any) -> Any:
    return a_fill(lots, leaves_lots, trade_id=f"t-{number}", venue_sequence=number, **changed)


def fills(wanted: SetAllocation | None, *lots: int) -> tuple[BlockOrder, list[dict[str, int]]]:
    """The order after fills, and what each gave to whom."""
    order, told = NEW, []
    for number, each in enumerate(lots, 1):
        order, allocations = fill(order, wanted, trade(each, number), ACCOUNTS)
        told.append(parts(allocations))
    return order, told


# -- one fill after the other


@pytest.mark.parametrize(
    ("wanted", "lots", "expected"),
    [
        (None, (4, 3), [{"acc-1": 4}, {"acc-1": 3}]),
        (instruction(), (6, 12), [{"a": 3, "b": 2, "c": 1}, {"a": 6, "b": 4, "c": 2}]),
        (instruction(), (1, 1, 1, 1, 1, 1), [{"a": 1}, {"b": 1}, {"a": 1}, {"b": 1}, {"a": 1}, {"c": 1}]),
        (instruction(shares=by_weight(1, 1, 1)), (1, 1, 2), [{"a": 1}, {"b": 1}, {"a": 1, "c": 1}]),
        (instruction("priority"), (3, 4, 9), [{"a": 3}, {"a": 2, "b": 2}, {"b": 9}]),
        (instruction("priority", shares=in_turn(2, 1, None)), (7,), [{"a": 2, "b": 1, "c": 4}]),
        (instruction("average_price"), (3, 4), [{}, {}]),
    ],
    ids=["none", "even", "lot by lot", "ties", "in turn", "in one", "waits"],
)
def test_each_fill_goes_to_whom_it_is_due(
    wanted: SetAllocation | None, lots: tuple[int, ...], expected: list[dict[str, int]]
) -> None:
    assert fills(wanted, *lots)[1] == expected


def test_an_allocation_has_all_terms_of_its_fill() -> None:
    terms: dict[str, Any] = {"trade_date": "2026-01-31", "traded_at_ms": 5, "counterparty": "MARKET"}
    _, allocations = fill(NEW, instruction(), trade(6, **PAID, **terms), ACCOUNTS)
    first = allocations[0]
    assert first == TradeAllocated(
        allocation_id="t-1/a",
        account_id="acc-1",
        sub_account="a",
        order_id=first.order_id,
        trade_id="t-1",
        symbol="BTC-USD",
        side=first.side,
        quantity_lots=3,
        price_ticks=PRICE_TICKS,
        notional_micros=3 * PRICE_TICKS,
        fee_micros=4,
        fee_currency="USD",
        **terms,
        method=AllocationMethod.PRO_RATA,
        instruction_order="*",
        instruction_version=1,
    )
    assert [each.fee_micros for each in allocations] == [4, 2, 1]


@pytest.mark.parametrize(("fee", "expected"), [(7, [4, 2, 1]), (-7, [-4, -2, -1]), (0, [0, 0, 0])])
def test_a_fee_or_rebate_follows_the_lots(fee: int, expected: list[int]) -> None:
    _, allocations = fill(NEW, instruction(), trade(6, fee_micros=fee, fee_currency="USD"), ACCOUNTS)
    assert [each.fee_micros for each in allocations] == expected


def test_what_is_not_told_or_not_known_stays_so() -> None:
    order = replace(NEW, micros_per_tick_lot=None)
    _, allocations = fill(order, instruction(), trade(6, fee_currency="USD"), ACCOUNTS)
    assert {(each.notional_micros, each.fee_micros, each.fee_currency) for each in allocations} == {
        (None, None, None)
    }


# -- average price


def average(*trades: Any, wanted: SetAllocation | None = None) -> list[TradeAllocated]:
    order = NEW
    for each in trades:
        order, allocations = fill(order, instruction("average_price"), each, ACCOUNTS)
        assert allocations == []
    return end(order, wanted or instruction("average_price"), cancelled(5), ACCOUNTS)


def test_all_fills_of_an_order_go_at_one_price_when_it_ends() -> None:
    told = average(trade(3, 1, price_ticks=100, **PAID), trade(4, 2, price_ticks=101, **PAID))
    assert parts(told) == {"a": 4, "b": 2, "c": 1}
    assert {each.average for each in told} == {AveragePrice(tick_lots=704, lots=7)}
    assert {(each.trade_id, each.price_ticks) for each in told} == {(None, None)}
    assert [each.allocation_id for each in told] == [f"{told[0].order_id}/{name}" for name in SUBS]
    assert [each.notional_micros for each in told] == [403, 201, 100]
    assert [each.fee_micros for each in told] == [8, 4, 2]


@pytest.mark.parametrize(
    ("second", "fee"),
    [
        ({"fee_micros": 5, "fee_currency": "USD"}, (12, "USD")),
        ({"fee_micros": 5, "fee_currency": "EUR"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_fees_are_added_up_only_where_all_are_told_in_one_currency(
    second: dict[str, Any], fee: tuple[int | None, str | None]
) -> None:
    told = average(trade(3, 1, **PAID), trade(3, 2, **second))
    fees = [each.fee_micros for each in told]
    assert (None if None in fees else sum(each or 0 for each in fees)) == fee[0]
    assert {each.fee_currency for each in told} == {fee[1]}


def test_what_waits_follows_the_instruction_in_force_at_the_end() -> None:
    later = instruction("average_price", version=2, shares=by_weight(1, 1))
    assert parts(average(trade(3, 1), trade(5, 2), wanted=later)) == {"a": 4, "b": 4}
    first = instruction("priority", version=2)
    assert parts(average(trade(3, 1), trade(5, 2), wanted=first)) == {"a": 5, "b": 3}


def test_the_counterparty_is_told_where_it_is_one() -> None:
    one = average(trade(3, 1, counterparty="X"), trade(3, 2, counterparty="X"))
    two = average(trade(3, 1, counterparty="X"), trade(3, 2, counterparty="Y"))
    assert [each[0].counterparty for each in (one, two)] == ["X", None]


def test_an_end_without_what_waits_allocates_nothing() -> None:
    assert end(NEW, instruction(), cancelled(5), ACCOUNTS) == []


# -- instructions that change, sub-accounts that can have nothing


def test_a_changed_instruction_counts_from_the_next_fill_on() -> None:
    order, _ = fills(instruction(), 6)
    order, told = fill(order, instruction(version=2, shares=by_weight(1, 1)), trade(4, 2), ACCOUNTS)
    assert parts(told) == {"a": 2, "b": 2}
    assert order.allocated_lots == 10
    order, told = fill(order, instruction(order_id="acc-1-1", version=2), trade(6, 3), ACCOUNTS)
    assert parts(told) == {"a": 3, "b": 2, "c": 1}


@pytest.mark.parametrize(
    ("accounts", "reason"),
    [
        (known({"a": registered(), "b": registered(status="suspended")}), DivertedReason.ACCOUNT_SUSPENDED),
        (known({"a": registered()}), DivertedReason.UNKNOWN_ACCOUNT),
        (known({"a": registered(), "b": registered()}, b="garbage"), DivertedReason.UNREADABLE_ACCOUNT),
    ],
)
def test_the_block_account_keeps_what_a_sub_account_cannot_have(
    accounts: Any, reason: DivertedReason
) -> None:
    order, told = fill(NEW, instruction(shares=by_weight(2, 1)), trade(9), accounts)
    assert parts(told) == {"a": 6, "acc-1": 3}
    assert [each.diverted for each in told] == [
        (),
        (Diverted(sub_account="b", quantity_lots=3, reason=reason),),
    ]
    assert order.given == (6, 3)


def test_it_is_one_allocation_for_the_block_account_whatever_it_keeps() -> None:
    shares = (AllocationShare(sub_account="acc-1", weight=1), *by_weight(1, 1))
    _, told = fill(NEW, instruction(shares=shares), trade(9), known({}))
    assert parts(told) == {"acc-1": 9}
    assert [each.sub_account for each in told[0].diverted] == ["a", "b"]


def test_the_block_account_keeps_what_no_share_has_room_for() -> None:
    _, told = fill(NEW, instruction("priority", shares=in_turn(2, 1)), trade(5), ACCOUNTS)
    assert parts(told) == {"a": 2, "b": 1, "acc-1": 2}
    assert told[2].diverted == (Diverted(sub_account=None, quantity_lots=2, reason=DivertedReason.NO_ROOM),)


def test_a_report_counts_once_and_what_a_fill_gave_is_kept() -> None:
    account = after_report(BlockAccount(), trade(3, 7), 1)
    assert is_repeat(account, trade(3, 7))
    assert is_repeat(account, cancelled(1, venue_sequence=6))
    assert not is_repeat(account, trade(3, 8))
    _, told = fill(NEW, instruction(), trade(6), ACCOUNTS)
    kept = given_by(told)
    assert (kept.trade_id, [(each.sub_account, each.lots) for each in kept.parts]) == (
        "t-1",
        [("a", 3), ("b", 2), ("c", 1)],
    )


def test_the_worth_of_a_lot_is_the_instrument_s() -> None:
    assert micros_per_tick_lot(known({"BTC-USD": BTC}), "BTC-USD") == 1
    assert micros_per_tick_lot(known({}), "ETH-USD") == 10  # dealt in before there were listings
    assert micros_per_tick_lot(known({}, X="garbage"), "X") is None
    with pytest.raises(LookupError, match="'X' has a fill, and is not listed"):
        micros_per_tick_lot(known({}), "X")


# -- what is accepted


def answer(command: SetAllocation, **standing: Any) -> str:
    """The reason of a refusal; what stays as it is where it was accepted is told behind `accepted: `."""
    told = decide_instruction(command, Standing(**({"in_force": None, "accounts": ACCOUNTS} | standing)))
    assert (told.command, told.subject, told.version) == ("SetAllocation", "acc-1", command.version)
    return f"accepted: {told.reason}" if told.accepted else told.reason


@pytest.mark.parametrize(
    ("method", "changed", "refusal"),
    [
        ("pro_rata", {"order_id": "other-1"}, "'other-1' is no order of the account"),
        ("pro_rata", {"order_id": "acc-1-x"}, "is no order of the account"),
        ("pro_rata", {"shares": ()}, "there are 0; send 1 to 100"),
        (
            "pro_rata",
            {"shares": [{"sub_account": str(at), "weight": 1} for at in range(SHARES_MAX + 1)]},
            "there are 101",
        ),
        ("pro_rata", {"shares": by_weight(1, 1) + by_weight(1)}, "'a' is there twice"),
        ("pro_rata", {"shares": by_weight(1, 0)}, "weight of 'b' is 0: send 1 or more"),
        ("average_price", {"shares": by_weight(1, -2)}, "weight of 'b' is -2"),
        ("pro_rata", {"shares": in_turn(None)}, "weight of 'a': pro_rata needs one"),
        (
            "pro_rata",
            {"shares": [{"sub_account": "a", "weight": 1, "lots": 1}]},
            "lots of 'a': pro_rata goes",
        ),
        ("priority", {"shares": by_weight(1)}, "weight of 'a': priority goes by lots"),
        ("priority", {"shares": in_turn(None, 1)}, "lots of 'a': priority needs one"),
        ("priority", {"shares": in_turn(0, None)}, "lots of 'a' is 0"),
        ("priority", {"shares": in_turn(5, 5)}, "an order may have more than the 10 lots of all shares"),
        ("pro_rata", {"shares": [{"sub_account": "x", "weight": 1}]}, "'x' is not registered: register it"),
    ],
)
def test_a_refusal_says_what_to_do(method: str, changed: dict[str, Any], refusal: str) -> None:
    assert refusal in answer(instruction(method, **changed))


def test_accounts_have_to_be_readable_and_of_one_currency() -> None:
    assert "'b' cannot be read" in answer(instruction(), accounts=known(ACCOUNTS.values, b="garbage"))
    euro = known({**ACCOUNTS.values, "b": registered(account_id="b", base_currency="EUR")})
    assert "base currency of 'b' is EUR, the block account's USD" in answer(instruction(), accounts=euro)
    nobody = known({name: registered(account_id=name) for name in SUBS})
    assert "'acc-1' is not registered" in answer(instruction(), accounts=nobody)
    asleep = known({**ACCOUNTS.values, "b": registered(account_id="b", status="suspended")})
    assert answer(instruction(), accounts=asleep) == "accepted: "


@pytest.mark.parametrize(("version", "accepted"), [(1, False), (2, False), (3, True)])
def test_a_version_has_to_be_above_the_one_in_force(version: int, accepted: bool) -> None:
    in_force = instruction(version=2)
    assert answer(in_force, in_force=in_force) == "accepted: "
    told = answer(instruction(version=version, shares=by_weight(1)), in_force=in_force)
    assert told.startswith("accepted") if accepted else "is not above 2" in told


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        (None, ""),
        (BlockOrder(leaves_lots=10, micros_per_tick_lot=1, given=(), allocated_lots=90), ""),
        (
            BlockOrder(leaves_lots=11, micros_per_tick_lot=1, given=()),
            "the order has 11 lots to divide, all shares",
        ),
    ],
)
def test_limited_shares_have_to_hold_what_is_left_of_the_order(
    order: BlockOrder | None, refusal: str
) -> None:
    command = instruction("priority", order_id="acc-1-1", shares=in_turn(5, 5))
    told = answer(command, order=order)
    assert refusal in told if refusal else told.startswith("accepted")


def test_the_answer_to_a_late_instruction_says_what_stays() -> None:
    command = instruction(order_id="acc-1-1")
    order, _ = fills(None, 4)
    assert answer(command, order=order) == "accepted: counts from the next fill on, 4 lots stay allocated"
    order, _ = fills(instruction("average_price"), 4)
    assert "0 lots stay allocated; 4 lots wait for the order's end and follow it" in answer(
        command, order=order
    )
    every = answer(instruction(), account=BlockAccount(venue_sequence_last=3, fills_given=1))
    assert every == "accepted: counts from the next fill on, what is allocated stays"


# -- beside exact fractions

WEIGHTS = st.lists(st.integers(1, 20) | st.integers(1, INT64_MAX), min_size=1, max_size=12)
FILLS = st.lists(st.integers(1, 3) | st.integers(1, 10**15), min_size=1, max_size=40)


@given(WEIGHTS, FILLS)
def test_after_every_fill_all_is_given_and_nobody_is_a_lot_off(weights: list[int], lots: list[int]) -> None:
    had = [0] * len(weights)
    for filled, each in zip(accumulate(lots), lots, strict=True):
        part = split(each, weights, had)
        had = [before + now for before, now in zip(had, part, strict=True)]
        assert min(part) >= 0
        assert sum(part) == each
        for given_lots, weight in zip(had, weights, strict=True):
            assert abs(given_lots - Fraction(filled * weight, sum(weights))) < 1


@given(WEIGHTS, st.integers(1, 200))
def test_a_fill_gives_what_its_lots_would_have_given_one_by_one_within_a_lot(
    weights: list[int], lots: int
) -> None:
    one_by_one = [0] * len(weights)
    for _ in range(lots):
        part = split(1, weights, one_by_one)
        one_by_one = [had + now for had, now in zip(one_by_one, part, strict=True)]
    at_once = split(lots, weights, [0] * len(weights))
    assert max(abs(one - other) for one, other in zip(at_once, one_by_one, strict=True)) <= 1


@given(st.integers(-(10**18), 10**18), st.lists(st.integers(1, 10**15), min_size=1, max_size=12))
def test_a_fee_adds_up_and_nobody_pays_a_micro_more_or_less(fee: int, lots: list[int]) -> None:
    told = share_out(fee, lots)
    assert sum(told) == fee
    for part, each in zip(told, lots, strict=True):
        assert abs(part - Fraction(fee * each, sum(lots))) < 1


@given(WEIGHTS, st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**9)), min_size=1, max_size=10))
def test_an_average_price_adds_up_to_all_fills(weights: list[int], traded: list[tuple[int, int]]) -> None:
    names = [f"s-{at}" for at in range(len(weights))]
    shares = tuple(
        AllocationShare(sub_account=name, weight=each) for name, each in zip(names, weights, strict=True)
    )
    accounts = known({name: registered(account_id=name) for name in names})
    wanted, order = instruction("average_price", shares=shares), replace(NEW, micros_per_tick_lot=7)
    for number, (lots, price_ticks) in enumerate(traded, 1):
        order, _ = fill(order, wanted, trade(lots, number, price_ticks=price_ticks, **PAID), accounts)
    told = end(order, wanted, cancelled(1), accounts)
    notional = 7 * sum(lots * price_ticks for lots, price_ticks in traded)
    all_lots = sum(lots for lots, _ in traded)
    assert sum(each.quantity_lots for each in told) == all_lots
    assert sum(each.notional_micros or 0 for each in told) == notional
    assert sum(each.fee_micros or 0 for each in told) == 7 * len(traded)
    for each in told:
        exact = Fraction(notional * each.quantity_lots, all_lots)
        assert abs((each.notional_micros or 0) - exact) < 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=3), FILLS)
def test_shares_in_turn_are_filled_one_after_the_other(limits: list[int], lots: list[int]) -> None:
    wanted = instruction("priority", order_id="acc-1-1", shares=in_turn(*limits))
    order = NEW
    for number, (filled, each) in enumerate(zip(accumulate(lots), lots, strict=True), 1):
        order, told = fill(order, wanted, trade(each, number), ACCOUNTS)
        assert sum(part.quantity_lots for part in told) == each
        before = [0, *accumulate(limits)]
        expected = [min(limit, max(0, filled - first)) for limit, first in zip(limits, before, strict=False)]
        assert list(order.given) == expected
