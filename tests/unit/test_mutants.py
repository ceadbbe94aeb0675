"""The registry of mutants: each says where it lives and what shows it, and replaces what is really there."""

import pytest

from app.topology import SERVICES
from storm.mutants.engine import BROKEN_RULES, BrokenRule
from storm.mutants.mutant import Mutant
from storm.mutants.registry import MUTANTS
from storm.steps import Step

INVARIANTS = {"engine", *(f"I{number}" for number in range(1, 8))}
KINDS = {"none", "kill", "kill-unseen", "freeze", "broker", "cut", "slow", "poison"}
KINDS |= {"venue-hang", "venue-drop-ack", "venue-twice", "rolling"}
AT_A_STEP = {"kill-at", "freeze-at"}


def is_fault(fault: str) -> bool:
    kind, _, step = fault.partition(":")
    return step in set(Step) if kind in AT_A_STEP else fault in KINDS


def test_there_are_mutants_enough() -> None:
    assert len(MUTANTS) >= 24


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_says_where_it_lives_and_what_shows_it(mutant: Mutant) -> None:
    assert mutant.services
    assert set(mutant.services) <= set(SERVICES)
    assert mutant.faults
    assert all(map(is_fault, mutant.faults)), mutant.faults
    assert mutant.invariant in INVARIANTS
    assert mutant.told.endswith(".")


@pytest.mark.parametrize("mutant", {**BROKEN_RULES, **MUTANTS}.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_replaces_what_is_there(mutant: Mutant | BrokenRule) -> None:
    replaced = []

    class Noting:
        def setattr(self, owner: object, name: str, value: object, /) -> None:
            assert hasattr(owner, name), f"{owner} has no {name}"
            replaced.append(value is not getattr(owner, name))

    mutant.patch(Noting())
    assert replaced
    assert all(replaced)
