"""What a check has found: violations, and what could not be checked, each with the ids concerned."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold: the rule that was broken, and the ids that break it."""

    invariant: str
    message: str
    ids: tuple[str, ...]


@dataclass
class Findings:
    """Grows by `violate` and `skip`; ids that break the same rule stand together."""

    _broken: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _unverifiable: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def violate(self, invariant: str, message: str, identity: object) -> None:
        self._broken.setdefault((invariant, message), []).append(str(identity))

    def skip(self, invariant: str, message: str, identity: object) -> None:
        """Note what nobody can check any more, and why."""
        self._unverifiable.setdefault((invariant, message), []).append(str(identity))

    def add(self, others: Iterable["Findings"]) -> "Findings":
        for other in others:
            for mine, theirs in (
                (self._broken, other._broken),
                (self._unverifiable, other._unverifiable),
            ):
                for rule, ids in theirs.items():
                    mine.setdefault(rule, []).extend(ids)
        return self

    @property
    def violations(self) -> list[Violation]:
        return _listed(self._broken)

    @property
    def unverifiable(self) -> list[Violation]:
        return _listed(self._unverifiable)


def _listed(found: dict[tuple[str, str], list[str]]) -> list[Violation]:
    return [Violation(*rule, tuple(dict.fromkeys(ids))) for rule, ids in sorted(found.items())]
