"""Every mutant that a worker can be started as, by name."""

from typing import Final

from storm.mutants.engine import BROKEN_RULES
from storm.mutants.mutant import Mutant

SERVICES: Final = ("marketdata", "risk", "compliance", "exchange")


def _rule(name: str, invariant: str, *faults: str, services: tuple[str, ...] = SERVICES) -> Mutant:
    return Mutant(name, services, faults, invariant, BROKEN_RULES[name].patch)


_ENGINE: Final = (
    _rule("offsets_in_front_of_the_transaction", "I1", "kill-at:before it produces"),
    _rule("store_before_commit", "I6", "kill-at:before the commit"),
)

MUTANTS: Final = {each.name: each for each in _ENGINE}
