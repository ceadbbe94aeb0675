"""Planted bugs of the services' own rules are caught by the checker, on their own code without a cluster."""

from collections.abc import Callable
from typing import Any

import pytest

from app.topics import COMPLIANCE_DECISIONS, EXECUTIONS, RISK_DECISIONS
from storm.mutants.registry import MUTANTS
from tests.builders import PRICE_TICKS
from tests.pipelines import Pipeline, Rebinding

Script = Callable[[Pipeline], Any]


def a_day(day: Pipeline) -> None:
    """Everything that mutants get wrong happens once."""
    day.limit()
    day.order()
    day.order("nobody")
    reduce(day)
    pay_more(day)
    hold_another_symbol(day)
    trade_in_euro(day)
    halt(day)
    restrict(day)
    submit_late(day)
    trade_around_zero(day)
    repeat_reports(day)
    repeat_an_approval(day)
    kill_under_the_same_version(day)
    forbid_what_is_approved(day)
    print_far_off(day)
    jump(day)
    wait_for_the_exchange(day)
    trade_in_blocks(day)


def reduce(day: Pipeline) -> None:
    """Long 10 under a limit of 5: to sell 20 goes through zero, to sell 8 does not."""
    day.limit("reducer", position_lots_max=10)
    day.order("reducer")
    day.limit("reducer", version=2, position_lots_max=5)
    day.order("reducer", side="sell", quantity_lots=20)
    day.order("reducer", side="sell", quantity_lots=8)


def pay_more(day: Pipeline) -> None:
    """An order that offers 4 % more than the market, under a limit of 2 % more."""
    day.limit("payer", gross_exposure_micros_max=10 * PRICE_TICKS * 102 // 100)
    day.order("payer", price_ticks=PRICE_TICKS * 104 // 100)


def hold_another_symbol(day: Pipeline) -> None:
    """What is held of another symbol becomes half as dear again while the account waits."""
    day.limit("holder", gross_exposure_micros_max=22 * PRICE_TICKS)
    day.order("holder", symbol="ETH-USD")
    for percent in (115, 130, 150):
        day.tick(PRICE_TICKS * percent // 100, symbol="ETH-USD")
    day.wait(15_000)
    day.tick()
    day.order("holder")


def trade_in_euro(day: Pipeline) -> None:
    day.limit("dollar")
    day.tick(symbol="BTC-EUR")
    day.order("dollar", symbol="BTC-EUR")


def halt(day: Pipeline) -> None:
    day.limit("halted")
    day.halt("halted")
    day.order("halted")
    day.halt("halted", version=2, halted=False)
    day.order("halted")


def restrict(day: Pipeline) -> None:
    day.limit("restricted")
    day.restrict()
    day.order("restricted")
    day.restrict(restricted=False)


def submit_late(day: Pipeline) -> None:
    """A client sends its time in seconds."""
    day.limit("late")
    day.order("late", submitted_at_ms=day.now_ms // 1_000)


def trade_around_zero(day: Pipeline) -> None:
    """Long, less long, short and less short, each at another price."""
    day.limit("trader")
    day.order("trader", price_ticks=PRICE_TICKS + 7)
    day.order("trader", side="sell", quantity_lots=3, price_ticks=PRICE_TICKS + 50)
    day.order("trader", side="sell", quantity_lots=16, price_ticks=PRICE_TICKS + 80)
    day.order("trader", quantity_lots=4, price_ticks=PRICE_TICKS + 60)


def repeat_reports(day: Pipeline) -> None:
    """A tool writes the fill of an open order again."""
    day.limit("filled")
    day.fills = False
    order = day.order("filled")
    day.fill(order, 4)
    day.step()
    day.repeat(EXECUTIONS)
    day.repeat(RISK_DECISIONS)
    day.expire(order)
    day.repeat(EXECUTIONS, -3)
    day.fills = True


def repeat_an_approval(day: Pipeline) -> None:
    """A tool writes an approval of an order that has ended again."""
    day.limit("again")
    day.order("again")
    day.repeat(COMPLIANCE_DECISIONS)


def kill_under_the_same_version(day: Pipeline) -> None:
    day.limit("killed")
    day.limit("killed", kill_switch=True)
    day.order("killed")


def forbid_what_is_approved(day: Pipeline) -> None:
    """Before approved orders leave, an account is suspended, an instrument delisted, another restricted."""
    day.register("delisted", currency="EUR")
    for account_id in ("suspended", "delisted", "forbidden"):
        day.limit(account_id)
    day.tick(symbol="BTC-EUR")
    day.away.add("exchange")
    day.order("suspended")
    day.order("delisted", symbol="BTC-EUR")
    day.order("forbidden")
    day.register("suspended", status="suspended")
    day.list_instrument("BTC-EUR", version=2, currency="EUR", status="delisted")
    day.restrict()
    day.away.clear()
    day.step()
    day.list_instrument("BTC-EUR", version=3, currency="EUR")
    day.restrict(restricted=False)


def print_far_off(day: Pipeline) -> None:
    day.tick(PRICE_TICKS * 2)
    day.tick(PRICE_TICKS)


def jump(day: Pipeline) -> None:
    before = day.last_sequence("BTC-USD")
    day.tick(sequence=10**12)
    day.tick(sequence=before + 1)


def wait_for_the_exchange(day: Pipeline) -> None:
    """The exchange is away for a minute while orders are approved, and trading is halted meanwhile."""
    day.limit("waiting")
    day.limit("stopped")
    day.away.add("exchange")
    day.order("stopped")
    day.order("waiting")
    day.halt("stopped")
    day.wait(60_000)
    day.tick()
    day.away.clear()
    day.order("waiting")


def trade_in_blocks(day: Pipeline) -> None:
    """Fills lot by lot by each method, the last one of each reported twice; one is nobody's any more."""
    halves = ({"sub_account": "fund-a", "weight": 2}, {"sub_account": "fund-b", "weight": 1})
    in_turn = ({"sub_account": "fund-b", "lots": 3}, {"sub_account": "fund-a"})
    day.register("fund-c", status="suspended")
    day.fills = False
    for account_id, method, shares in (
        ("pro-rata", "pro_rata", halves),
        ("in-turn", "priority", in_turn),
        ("average", "average_price", halves),
        ("diverted", "pro_rata", (*halves, {"sub_account": "fund-c", "weight": 4})),
        ("changed", "pro_rata", halves),
    ):
        day.limit(account_id)
        day.allocate(account_id, method, *shares)
        order = day.order(account_id)
        for lots in (1, 1, 2, 3):
            day.fill(order, lots)
        day.step()
        day.repeat(EXECUTIONS)
        if account_id == "changed":
            day.allocate(account_id, "average_price", *halves, version=2)
            day.fill(order, 1)
        day.expire(order)
    day.fills = True


def test_a_day_of_the_services_has_no_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    day = Pipeline(monkeypatch)
    a_day(day)
    findings = day.findings()
    assert findings.violations == []
    assert not [each for each in findings.unverifiable if each.invariant == "I3"]


CAUGHT = {
    "order_age_not_checked": "I7: an order was approved that was too old",
    "reduction_through_zero": "I4: an order above the position limit was approved",
    "exposure_at_the_reference": "I4: an order above the gross exposure limit was approved",
    "other_symbols_at_old_marks": "I4: an order above the gross exposure limit was approved",
    "wrong_currency_passes": "I4: an order in another currency than its account's was approved",
    "halt_ignored": "I7: an order was approved while trading was halted",
    "restriction_ignored": "I7: an order in a restricted instrument was approved",
    "unknown_account_leaves_state": "I3: risk has books of an account that it does not know",
    "repeated_report_booked_by_risk": "I3: a position is not the sum of its executions",
    "kill_switch_waits_for_a_version": "I3: a kill switch is not in force that was switched on",
    "cost_not_relieved": "I3: the cost of a position is not what its executions make it",
    "through_zero_at_the_old_cost": "I3: the realised profit is not what the executions make it",
    "short_position_costs_money": "I3: the cost of a position is not what its executions make it",
    "fee_booked_twice": "I3: the fees are not those of the executions",
    "far_off_print_believed": "I7: a price is made of a tick that had to be borne out first",
    "jump_believed": "I7: a price is made of a tick that had to be borne out first",
    "repeated_approval_sends_again": "I2: an order was sent to the venue more than once",
    "last_look_forgotten": "I7: an order was sent while trading was halted",
    "last_look_without_reference": "I7: an order was sent in a restricted instrument",
    "last_look_without_age": "I7: an order was sent that was too old",
    "fill_allocated_twice": "I3: a fill was allocated to a sub-account more than once",
    "allocation_dropped": "I3: less was allocated than was filled",
    "allocation_rounded": "I3: the fees of allocations are not the fee of their fill",
    "remainder_to_the_first": "I3: an allocation is not what its instruction says",
    "average_price_before_the_end": "I3: a fill was allocated that has to wait for the order's end",
}


@pytest.mark.parametrize("name", CAUGHT)
def test_the_checker_catches_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name].patch(Rebinding(monkeypatch))
    day = Pipeline(monkeypatch)
    a_day(day)
    assert CAUGHT[name] in day.broken()
