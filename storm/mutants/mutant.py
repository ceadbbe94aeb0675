"""What a mutant of the pipeline is."""

from collections.abc import Callable
from dataclasses import dataclass

from storm.mutants.patching import Patch


@dataclass(frozen=True)
class Mutant:
    """A planted bug of some services' workers.

    `faults` are the kinds of fault that show it, `none` where plain order flow does. `invariant` is the one
    of I1 to I7 that breaks, `engine` where the workers stop themselves, loudly, or everything stands still.
    `workers` is how many a service has to have; None: any number above one.
    """

    name: str
    services: tuple[str, ...]
    faults: tuple[str, ...]
    invariant: str
    patch: Callable[[Patch], None]
    told: str
    """What is wrong with it, in a sentence."""
    workers: int | None = None
