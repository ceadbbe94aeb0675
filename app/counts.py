"""What the agents of a service count, for `/metrics`: refusals, repeats, answers."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby

from app.engine import UnitOfWork
from app.engine.web.status import Measure

_Labels = tuple[tuple[str, str], ...]

_counts: Counter[tuple[str, _Labels]] = Counter()
_meanings: dict[str, str] = {}


class Count:
    """One thing that is counted, in every task of this worker together; `name` ends in `_total`."""

    def __init__(self, name: str, meaning: str) -> None:
        self._name = name
        _meanings[name] = meaning

    def add(self, work: UnitOfWork, number: int = 1, **labels: str) -> None:
        """Count when the unit of work commits.

        Labels come from a set that is bounded by us: reasons, types, instruments. Never from a client.
        """
        work.after_commit(partial(_add, self._name, number, tuple(sorted(labels.items()))))

    def so_far(self, **labels: str) -> int:
        """How often something with these labels has been counted, whatever its others."""
        return sum(
            number
            for (name, found), number in _counts.items()
            if name == self._name and labels.items() <= dict(found).items()
        )


def count_measures() -> Iterator[Measure]:
    """All that this worker has counted since it started."""
    for name, found in groupby(sorted(_counts.items()), lambda each: each[0][0]):
        yield Measure(name, _meanings[name], [(dict(labels), number) for (_, labels), number in found])


def _add(name: str, number: int, labels: _Labels) -> None:
    _counts[name, labels] += number
