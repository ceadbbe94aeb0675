"""Deaths that the storm means are not counted; whether one is meant can be asked until the next life."""

from storm.field import Deaths


def test_a_death_that_is_meant_is_so_until_the_next_life() -> None:
    deaths = Deaths(1.0)
    deaths.meant = True

    assert deaths.pause_after(0.1, 100.0) == 1.0
    assert deaths.meant
    deaths.begin_life()
    assert not deaths.meant


def test_deaths_that_are_meant_are_not_counted() -> None:
    deaths = Deaths(1.0)
    for second in range(20):
        deaths.meant = True
        assert deaths.pause_after(0.1, second) == 1.0
        deaths.begin_life()

    assert [deaths.pause_after(0.1, 20.0 + n) for n in range(5)][-1] is None


def test_a_pause_of_its_own_is_for_one_death() -> None:
    deaths = Deaths(1.0)
    deaths.meant, deaths.pause_s = True, 7.0

    assert deaths.pause_after(0.1, 0.0) == 7.0
    assert deaths.pause_after(0.1, 1.0) == 1.0
