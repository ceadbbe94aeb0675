"""Who gets which partition: standbys take over, living owners keep what they have, the rest is balance."""

from collections import Counter

from faust.assignor.client_assignment import CopartitionedAssignment
from hypothesis import given
from hypothesis import strategies as st

from app.engine.kafka.assignor import distribute

Held = dict[str, CopartitionedAssignment]


def newcomer() -> CopartitionedAssignment:
    return CopartitionedAssignment()


def owners(held: Held) -> dict[int, str]:
    return {partition: member for member, part in held.items() for partition in part.actives}


def followers(held: Held) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for member, part in held.items():
        for partition in part.standbys:
            found.setdefault(partition, set()).add(member)
    return found


def a_group(*members: str, partitions: int = 8, replicas: int = 1) -> Held:
    """A group whose members have come one after the other."""
    held: Held = {}
    for member in members:
        held = distribute(held | {member: newcomer()}, partitions, replicas)
    return held


def without(held: Held, *dead: str) -> Held:
    return {member: part for member, part in held.items() if member not in dead}


def test_what_a_dead_member_had_goes_to_its_standbys_and_nothing_starts_cold() -> None:
    for members in ("ab", "abc", "abcd", "abcde"):
        group = a_group(*members)
        for dead in members:
            after = distribute(without(group, dead), 8, 1)
            for partition in group[dead].actives:
                assert owners(after)[partition] in followers(group)[partition]


def test_a_member_that_comes_back_finds_its_share_and_the_former_owners_follow() -> None:
    group = a_group("a", "b")
    alone = distribute(without(group, "b"), 8, 1)
    again = distribute(alone | {"b2": newcomer()}, 8, 1)
    assert sorted(len(part.actives) for part in again.values()) == [4, 4]
    assert again["a"].standbys == again["b2"].actives


def test_nothing_moves_in_a_group_that_stays_as_it_is() -> None:
    group = a_group("a", "b", "c")
    again = distribute(group, 8, 1)
    assert (owners(again), followers(again)) == (owners(group), followers(group))


def test_of_two_that_claim_a_partition_one_gets_it() -> None:
    both = {"true": CopartitionedAssignment({0, 1}), "zombie": CopartitionedAssignment({0, 1})}
    after = distribute(both, 2, 1)
    assert sorted(owners(after)) == [0, 1]
    assert sum(len(part.actives) for part in after.values()) == 2


@given(
    st.integers(1, 12),
    st.integers(0, 2),
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=12),
)
def test_every_partition_has_one_owner_and_standbys_elsewhere_whoever_comes_and_goes(
    partitions: int, replicas: int, events: list[tuple[bool, int]]
) -> None:
    held = distribute({"first": newcomer()}, partitions, replicas)
    for number, (comes, who) in enumerate(events):
        if comes:
            held = distribute(held | {f"m{number}": newcomer()}, partitions, replicas)
        elif len(held) > 1:
            dead = sorted(held)[who % len(held)]
            warm = {p for p in held[dead].actives if followers(without(held, dead)).get(p)}
            before = followers(held)
            held = distribute(without(held, dead), partitions, replicas)
            assert all(owners(held)[p] in before[p] for p in warm)
        count = Counter(p for part in held.values() for p in part.actives)
        assert count == Counter(range(partitions))
        for partition in range(partitions):
            follow = followers(held).get(partition, set())
            assert owners(held)[partition] not in follow
            assert len(follow) == min(replicas, len(held) - 1)
    loads = [len(part.actives) for part in distribute(held, partitions, replicas).values()]
    assert max(loads) - min(loads) <= 1
