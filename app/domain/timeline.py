"""What was in force when: values by the time from which they counted."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")


class Timeline(Generic[V]):
    """The values of one key; each counts from its time, in ms, until the next one does."""

    __slots__ = ("_times", "_values")

    def __init__(self, changes: Iterable[tuple[int, V]] = ()) -> None:
        ordered = sorted(changes, key=lambda each: each[0])
        self._times = [at_ms for at_ms, _ in ordered]
        self._values = [value for _, value in ordered]

    def at(self, ms: int) -> V | None:
        """The value at that time; None before the first one."""
        number = bisect_right(self._times, ms)
        return self._values[number - 1] if number else None

    def changes(self, after_ms: int, until_ms: int) -> Sequence[int]:
        """When it changed, after the one time and not after the other."""
        return self._times[bisect_right(self._times, after_ms) : bisect_right(self._times, until_ms)]

    @property
    def values(self) -> Sequence[V]:
        """All values, the oldest first."""
        return self._values


class AsOf(Mapping[str, V]):
    """The values of many keys as they were at `ms`; those of `instead` count instead of what was."""

    __slots__ = ("_found", "_ms", "_timelines")

    def __init__(
        self, timelines: Mapping[str, Timeline[V]], ms: int, instead: Mapping[str, V] | None = None
    ) -> None:
        self._timelines = timelines
        self._ms = ms
        self._found: dict[str, V | None] = {} if instead is None else dict(instead)
        """What was asked for before, which is asked for again and again."""

    def get(self, key: str, default: V | None = None) -> V | None:  # type: ignore[override]
        if key in self._found:
            value = self._found[key]
        else:
            timeline = self._timelines.get(key)
            value = self._found[key] = None if timeline is None else timeline.at(self._ms)
        return default if value is None else value

    def __getitem__(self, key: str) -> V:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return (key for key in {**self._timelines, **self._found} if self.get(key) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
