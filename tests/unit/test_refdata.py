"""Reference data and controls: what each command may change, and what is said when it may not."""

from typing import Any

import pytest

from app.domain.refdata import (
    FORMER_SCALES_MAX,
    decide_account,
    decide_counterparty,
    decide_halt,
    decide_instrument,
    decide_restriction,
)
from models.commands import SetAccount, SetCounterparty, SetHalt, SetInstrument, SetRestriction
from models.events import (
    AccountRegistered,
    CounterpartyRegistered,
    HaltInForce,
    InstrumentListed,
    RestrictionInForce,
)
from models.values import Instrument

BY = {"who": "ann", "why": "a test"}


def an_instrument(**changed: Any) -> Instrument:
    fields = {"symbol": "BTC-USD", "base": "BTC", "currency": "USD", "tick": "0.01", "lot": "0.0001"}
    return Instrument.model_validate(fields | changed)


def set_instrument(version: int = 1, **changed: Any) -> SetInstrument:
    return SetInstrument(instrument=an_instrument(**changed), version=version, **BY)


def listed(version: int = 1, scale: int = 1, **changed: Any) -> InstrumentListed:
    return InstrumentListed(instrument=an_instrument(**changed), version=version, scale=scale)


def set_account(version: int = 1, **changed: Any) -> SetAccount:
    fields = {"account_id": "acc-1", "owner": "ann", "firm": "f", "base_currency": "USD", "version": version}
    return SetAccount.model_validate(fields | BY | changed)


def registered(version: int = 1, **changed: Any) -> AccountRegistered:
    fields = {"account_id": "acc-1", "owner": "ann", "firm": "f", "base_currency": "USD", "version": version}
    return AccountRegistered.model_validate(fields | {"status": "active"} | changed)


def set_counterparty(version: int = 1, **changed: Any) -> SetCounterparty:
    fields = {"counterparty_id": "cp-1", "name": "One", "version": version}
    return SetCounterparty.model_validate(fields | BY | changed)


def a_counterparty(version: int = 1, **changed: Any) -> CounterpartyRegistered:
    fields = {"counterparty_id": "cp-1", "name": "One", "status": "active", "version": version}
    return CounterpartyRegistered.model_validate(fields | changed)


def set_restriction(restricted: bool, version: int | None = None) -> SetRestriction:
    return SetRestriction(symbol="BTC-USD", restricted=restricted, version=version, **BY)


def in_force(restricted: bool, version: int | None = None) -> RestrictionInForce:
    return RestrictionInForce(symbol="BTC-USD", restricted=restricted, version=version, **BY)


def set_halt(halted: bool, version: int = 1, **changed: Any) -> SetHalt:
    return SetHalt.model_validate({"scope": "*", "halted": halted, "version": version} | BY | changed)


def a_halt(halted: bool, version: int = 1) -> HaltInForce:
    return HaltInForce(scope="*", halted=halted, version=version, **BY)


# -- instruments -------------------------------------------------------------------------------------------


def test_a_new_instrument_is_listed_at_its_first_scale() -> None:
    assert decide_instrument(set_instrument(7), None).in_force == listed(version=7, scale=1)


@pytest.mark.parametrize(
    ("changed", "scale"),
    [
        ({}, 1),
        ({"status": "halted"}, 1),
        ({"lot": "0.001"}, 2),
        ({"currency": "EUR"}, 2),
        ({"symbol": "SOL-USD", "lot": "0.1"}, 1),
    ],
    ids=str,
)
def test_holdings_of_the_release_before_are_of_the_first_scale_only_in_its_units(
    changed: dict[str, Any], scale: int
) -> None:
    found = decide_instrument(set_instrument(1, **changed), None).in_force
    assert found is not None
    assert found.model_copy(update={"former": ()}) == listed(scale=scale, **changed)
    gone = found.model_copy(update={"instrument": an_instrument(**changed | {"status": "delisted"})})
    back = {} if "symbol" not in changed else changed
    again = decide_instrument(set_instrument(2, **back), gone).in_force
    assert again is not None
    assert again.scale == 1, "changed back to the units that were built in, it takes orders of what is held"


def test_a_status_changes_and_the_scale_stays() -> None:
    decision = decide_instrument(set_instrument(2, status="delisted"), listed())
    assert decision.in_force == listed(version=2, scale=1, status="delisted")


def test_a_repeat_is_accepted_and_changes_nothing() -> None:
    before = listed(3, scale=2)
    decision = decide_instrument(set_instrument(3, tick="0.010"), before)
    assert decision.accepted
    assert decision.in_force is before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_version_that_does_not_grow_is_refused_and_both_are_named(version: int) -> None:
    before = listed(3)
    decision = decide_instrument(set_instrument(version, status="halted"), before)
    assert decision.in_force is before
    assert f"version {version} is not above 3" in decision.refusal


@pytest.mark.parametrize(
    "changed", [{"tick": "0.1"}, {"lot": "0.001"}, {"multiplier": 10}, {"currency": "EUR"}, {"base": "ETH"}]
)
@pytest.mark.parametrize("status", ["active", "halted"])
def test_what_a_lot_and_a_tick_are_does_not_change_while_they_may_be_held(
    changed: dict[str, Any], status: str
) -> None:
    before = listed(1, status=status)
    decision = decide_instrument(set_instrument(2, **changed), before)
    assert decision.in_force is before
    assert f"{next(iter(changed))}: may only change while the instrument is delisted" in decision.refusal
    assert f"its status is {status}" in decision.refusal


def test_a_delisted_instrument_may_change_its_tick_and_its_scale_grows() -> None:
    before = listed(2, scale=4, status="delisted")
    in_force = decide_instrument(set_instrument(3, tick="0.1"), before).in_force
    assert in_force is not None
    assert (in_force.instrument, in_force.scale) == (an_instrument(tick="0.1"), 5)


def changed_in_turn(*ticks: str) -> list[InstrumentListed]:
    """What is in force after each tick that a delisted instrument is given; it has 0.01 before the first."""
    found = [listed(status="delisted")]
    for version, tick in enumerate(ticks, 2):
        command = set_instrument(version, tick=tick, status="delisted")
        in_force = decide_instrument(command, found[-1]).in_force
        assert in_force is not None
        found.append(in_force)
    return found[1:]


def test_a_scale_that_an_instrument_had_before_is_that_one_again_and_no_number_stands_for_two() -> None:
    """Else a change by mistake, and back, would leave all that is held without a way to close it."""
    steps = changed_in_turn("0.1", "0.010", "1", "0.1", "10")
    assert [each.scale for each in steps] == [2, 1, 3, 2, 4]
    assert [[former.scale for former in each.former] for each in steps] == [
        [1],
        [2],
        [1, 2],
        [1, 3],
        [1, 2, 3],
    ]


def test_a_former_scale_is_one_only_in_all_that_lots_and_ticks_are() -> None:
    before = changed_in_turn("0.1")[0]
    for changed in ({"lot": "0.001"}, {"multiplier": 10}, {"currency": "EUR"}, {"base": "ETH"}):
        in_force = decide_instrument(set_instrument(9, **changed), before).in_force
        assert in_force is not None
        assert in_force.scale == 3, changed


def test_a_status_that_changes_keeps_the_former_scales() -> None:
    before = changed_in_turn("0.1", "1")[-1]
    after = decide_instrument(set_instrument(9, tick="1", status="active"), before).in_force
    assert after is not None
    assert (after.scale, after.former) == (before.scale, before.former)


def test_former_scales_are_bounded_and_a_forgotten_number_does_not_come_again() -> None:
    steps = changed_in_turn(*(str(each) for each in range(1, FORMER_SCALES_MAX + 10)), "0.01")
    assert max(len(each.former) for each in steps) == FORMER_SCALES_MAX
    assert [each.scale for each in steps] == list(range(2, len(steps) + 2))


@pytest.mark.parametrize(
    ("start", "end", "good"), [(5, 6, True), (5, 5, False), (6, 5, False), (None, 5, True)]
)
def test_an_instrument_that_could_never_be_traded_is_refused(start: int | None, end: int, good: bool) -> None:
    decision = decide_instrument(set_instrument(valid_from_ms=start, valid_until_ms=end), None)
    assert decision.accepted is good
    if not good:
        assert decision.refusal.startswith("valid_until_ms is not after valid_from_ms")


# -- accounts and counterparties ---------------------------------------------------------------------------


def test_an_account_is_registered_and_suspended() -> None:
    assert decide_account(set_account(), None).in_force == registered()
    assert decide_account(set_account(2, status="suspended"), registered()).in_force == registered(
        2, status="suspended"
    )


def test_the_base_currency_of_an_account_never_changes() -> None:
    decision = decide_account(set_account(2, base_currency="EUR"), registered())
    assert decision.in_force == registered()
    assert "base_currency: USD never changes to EUR" in decision.refusal


def test_a_repeated_account_changes_nothing_and_an_old_one_is_refused() -> None:
    assert decide_account(set_account(2), registered(2)).accepted
    assert "version 2 is not above 2" in decide_account(set_account(2, owner="bob"), registered(2)).refusal


def test_a_counterparty_is_registered_changed_and_keeps_its_version() -> None:
    assert decide_counterparty(set_counterparty(), None).in_force == a_counterparty()
    assert decide_counterparty(set_counterparty(2, name="Two"), a_counterparty()).in_force == a_counterparty(
        2, name="Two"
    )
    assert decide_counterparty(set_counterparty(2), a_counterparty(2)).accepted
    assert not decide_counterparty(set_counterparty(1, name="Two"), a_counterparty(2)).accepted


@pytest.mark.parametrize("name", ["*", " acc-1", "acc-1 ", "acc/1", "acc\n1"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    assert decide_account(set_account(account_id=name), None).refusal.startswith("account_id: ")
    assert decide_instrument(set_instrument(symbol=name), None).refusal.startswith("symbol: ")
    assert decide_counterparty(set_counterparty(counterparty_id=name), None).refusal.startswith(
        "counterparty_id: "
    )


# -- restrictions ------------------------------------------------------------------------------------------


def test_a_restriction_is_set_and_lifted_with_growing_versions() -> None:
    assert decide_restriction(set_restriction(True, 1), None).in_force == in_force(True, 1)
    assert decide_restriction(set_restriction(False, 2), in_force(True, 1)).in_force == in_force(False, 2)


@pytest.mark.parametrize("version", [None, 1, 3, 4])
def test_restricting_always_takes_and_the_version_never_falls(version: int | None) -> None:
    decision = decide_restriction(set_restriction(True, version), in_force(False, 3))
    assert decision.in_force == in_force(True, max(3, version or 0))


@pytest.mark.parametrize("version", [1, 3])
def test_a_lift_of_an_old_version_is_refused(version: int) -> None:
    decision = decide_restriction(set_restriction(False, version), in_force(True, 3))
    assert decision.in_force == in_force(True, 3)
    assert f"version {version} is not above 3" in decision.refusal


def test_a_lift_without_a_version_takes_and_a_repeated_lift_changes_nothing() -> None:
    assert decide_restriction(set_restriction(False), in_force(True, 3)).in_force == in_force(False, 3)
    before = in_force(False, 3)
    assert decide_restriction(set_restriction(False, 3), before).in_force is before


# -- halts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 3, 4])
@pytest.mark.parametrize("before", [None, a_halt(False, 3), a_halt(True, 3)])
def test_a_halt_always_takes(before: HaltInForce | None, version: int) -> None:
    decision = decide_halt(set_halt(True, version), before)
    assert decision.accepted
    assert decision.in_force is not None
    assert decision.in_force.halted
    assert decision.in_force.version == max(version, before.version if before else 0)


def test_trading_goes_on_only_with_a_version_above_the_halt() -> None:
    assert decide_halt(set_halt(False, 4), a_halt(True, 3)).in_force == a_halt(False, 4)
    for version in (0, 3):
        decision = decide_halt(set_halt(False, version), a_halt(True, 3))
        assert decision.in_force == a_halt(True, 3)
        assert f"version {version} is not above 3" in decision.refusal


def test_a_resume_that_comes_again_changes_nothing_and_can_not_undo_a_later_halt() -> None:
    before = a_halt(False, 3)
    assert decide_halt(set_halt(False, 3), before).in_force is before
    halted_again = decide_halt(set_halt(True, 3), before).in_force
    assert not decide_halt(set_halt(False, 3), halted_again).accepted
