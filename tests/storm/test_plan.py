"""The schedule of a storm: the same from the same seed, and what was asked for."""

from collections import Counter
from dataclasses import replace

import pytest

from app.errors import UserError
from storm.options import KILLS, Kind, storm_options
from storm.plan import Fault, counts, schedule
from tests.storm.parsing import parsed

STEPS = ["before the commit", "restored"]
VENUE_STEPS = ["before the call to the venue"]


def a_schedule(seed: int, **wanted: int) -> list[Fault]:
    kinds = {Kind(name.replace("_", "-")): count for name, count in wanted.items()}
    return schedule(seed, kinds, STEPS, 2, exchange_steps=VENUE_STEPS)


def test_a_seed_gives_the_same_storm_again_and_another_one_another() -> None:
    wanted = {"kill": 20, "kill_at": 20, "freeze": 3, "cut": 5}
    assert a_schedule(7, **wanted) == a_schedule(7, **wanted)
    assert a_schedule(7, **wanted) != a_schedule(8, **wanted)


def test_every_kind_comes_as_often_as_wanted() -> None:
    found = Counter(fault.kind for fault in a_schedule(1, kill=20, kill_at=10, poison=3))
    assert found == {Kind.KILL: 20, Kind.KILL_AT: 10, Kind.POISON: 3}


def test_faults_at_a_step_name_one_and_the_venues_steps_hit_the_exchange_only() -> None:
    faults = a_schedule(3, kill_at=200, kill=50)
    assert {fault.step for fault in faults if fault.kind is Kind.KILL_AT} == {*STEPS, *VENUE_STEPS}
    assert {fault.step for fault in faults if fault.kind is Kind.KILL} == {None}
    assert {fault.service for fault in faults if fault.step in VENUE_STEPS} == {"exchange"}


def test_all_workers_of_a_service_suffer_from_network_faults_only() -> None:
    faults = a_schedule(4, kill=100, freeze=100, cut=100)
    assert {fault.kind for fault in faults if fault.worker == 0} == {Kind.CUT}


def test_kills_and_others_are_drawn_among_the_kinds_that_take_part() -> None:
    found = counts(1, 40, 10, {Kind.KILL: None, Kind.KILL_AT: None, Kind.POISON: None})
    assert found[Kind.KILL] + found[Kind.KILL_AT] == 40
    assert found[Kind.POISON] == 10


def test_a_count_that_is_told_is_kept_and_the_rest_is_drawn() -> None:
    found = counts(1, 40, 10, {Kind.KILL: 5, Kind.KILL_AT: None, Kind.FREEZE: 2, Kind.CUT: None})
    assert found == {Kind.KILL: 5, Kind.KILL_AT: 35, Kind.FREEZE: 2, Kind.CUT: 8}


def test_without_other_words_three_other_faults_go_with_ten_kills_and_all_kinds_take_part() -> None:
    options = storm_options(parsed("--kills", "100"))
    assert (options.kills, options.others) == (100, 30)
    found = counts(options.seed, options.kills, options.others, options.faults)
    assert sum(found[kind] for kind in KILLS) == 100
    assert sum(found.values()) == 130
    assert set(found) == set(Kind)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--faults", "earthquake"), "'earthquake': allowed is KIND"),
        (("--faults", "kill=many"), "'kill=many': allowed is KIND"),
        (("--kills", "-1"), "'-1': allowed is a whole number"),
        (("--brokers", "2"), "invalid choice: 2"),
    ],
)
def test_a_wrong_option_is_named(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert says in capsys.readouterr().err


def test_a_market_cannot_stand_still() -> None:
    with pytest.raises(UserError, match=r"--speed is 0\.0"):
        storm_options(parsed("--speed", "0"))


def test_a_measuring_storm_is_the_same_with_every_fault_alone() -> None:
    alone = schedule(5, {Kind.KILL: 30}, STEPS, 2, all_alone=True)
    assert all(fault.alone for fault in alone)
    assert [replace(fault, alone=False) for fault in alone] == [
        replace(fault, alone=False) for fault in a_schedule(5, kill=30)
    ]
