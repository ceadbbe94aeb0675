"""What compacted topics have said over time: reference data, halts, restrictions, prices.

These topics reach the services as global tables, beside the records that they decide on. So what they say
takes a moment to bind, and what was in force at a decision is only known to be one of what was in force
shortly before it.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from checker.records import (
    AccountRegistered,
    Command,
    CommandAnswered,
    HaltInForce,
    InstrumentListed,
    Limits,
    RestrictionInForce,
    SetAccountSequence,
)

BINDS_WITHIN_MS: Final = 1_000
"""How long a halt, a restriction or an account's status may be in the log before every worker goes by it.

By the broker's clock. Past that an approval is a violation, whatever kept the worker from reading.
"""

MARKS_WITHIN_MS: Final = 10_000
"""How old a price may be that an account's other symbols are valued at.

It is longer than a worker sleeps before it is taken for dead. An exposure above its limit at the lowest
price of that time is certain, at the newest it is possible.
"""

EVERYBODY: Final = "*"
TIME_MS_MAX: Final = 2**63

T = TypeVar("T")


class Unreadable:
    """In place of a value: what the topic says of this key cannot be read."""


class Timeline(Generic[T]):
    """What a topic has said of each key, by the broker's clock, in the order of its log."""

    def __init__(self) -> None:
        self._times: dict[str, list[int]] = {}
        self._values: dict[str, list[T | Unreadable | None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._times

    def __iter__(self) -> Iterator[str]:
        return iter(self._times)

    def add(self, key: str, at_ms: int, value: T | Unreadable | None) -> None:
        """Note the next record of a key; a clock that runs back stands still."""
        times = self._times.setdefault(key, [])
        times.append(max(at_ms, times[-1]) if times else at_ms)
        self._values.setdefault(key, []).append(value)

    def begins(self) -> Iterator[int]:
        """When each key was first told of."""
        return (times[0] for times in self._times.values())

    def last(self, key: str) -> T | Unreadable | None:
        """What it says last; None when it never said anything."""
        values = self._values.get(key)
        return values[-1] if values else None

    def begins_by(self, key: str, at_ms: int) -> bool:
        """Whether a record of the key that stood in the log by then is left: from it on none is missing."""
        times = self._times.get(key)
        return times is not None and times[0] <= at_ms

    def between(self, key: str, since_ms: int, until_ms: int) -> list[T | Unreadable | None]:
        """All that was in force at a moment of that time, bounds included; None where nothing was said."""
        times = self._times.get(key)
        if times is None:
            return [None]
        first, last = bisect_right(times, since_ms), bisect_right(times, until_ms)
        found: list[T | Unreadable | None] = [None] if first == 0 else []
        found += self._values[key][max(0, first - 1) : last]
        return found


class Mark(NamedTuple):
    """A price, in ticks of one scale of its instrument."""

    price_ticks: int
    scale: int = 1


class Commanded(NamedTuple):
    """A command that was understood, and where its record stands."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    command: Command


class Answered(NamedTuple):
    """An answer and the broker's time of it."""

    timestamp_ms: int
    answer: CommandAnswered


Subject = tuple[str, str]
"""The type of a command, and whom or what it is about."""


@dataclass
class Reference:
    """What the topics beside an order's way say; `commands` and `answers` in the order of the log.

    `answers_are_whole` says that no answer is gone.
    """

    instruments: Timeline[InstrumentListed] = field(default_factory=Timeline)
    accounts: Timeline[AccountRegistered] = field(default_factory=Timeline)
    halts: Timeline[HaltInForce] = field(default_factory=Timeline)
    restricted: Timeline[RestrictionInForce] = field(default_factory=Timeline)
    prices: Timeline[Mark] = field(default_factory=Timeline)
    commands: dict[Subject, list[Commanded]] = field(default_factory=dict)
    answers: dict[Subject, list[Answered]] = field(default_factory=dict)
    answers_are_whole: bool = True
    switches: Timeline[bool] = field(default_factory=Timeline)
    """Whether an account's kill switch was on, from when risk answered that it had taken it."""
    sequences: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """By account: when risk answered that it had set the last sequence, and to what."""

    def was_rescaled(self, symbol: str) -> bool:
        """Whether lots and ticks of an instrument were not always what they are, as far as the log tells."""
        told = self.instruments.between(symbol, 0, TIME_MS_MAX)
        return any(isinstance(each, InstrumentListed) and (each.scale != 1 or each.former) for each in told)

    def paired(self, subject: Subject) -> list[tuple[Commanded, Answered]]:
        """The commands of one kind about one subject that have an answer, in order, each with it."""
        return pair(self.commands.get(subject, ()), self.answers.get(subject, ()))

    def settle(self) -> None:
        """Work out what the answers make of switches and sequences, once all is read."""
        self.switches, self.sequences = Timeline(), {}
        for subject in self.commands:
            for given, answered in self.paired(subject):
                match given.command:
                    case Limits() as limits:
                        self._switch(limits, answered)
                    case SetAccountSequence() as command if answered.answer.accepted:
                        set_at = self.sequences.setdefault(command.account_id, [])
                        set_at.append((answered.timestamp_ms, command.last_sequence))
                    case _:
                        pass

    def _switch(self, limits: Limits, answered: Answered) -> None:
        """A switch that is turned on always takes, one that is off only with a version that does."""
        if limits.kill_switch or answered.answer.accepted:
            self.switches.add(limits.account_id, answered.timestamp_ms, limits.kill_switch)


def pair(commands: Sequence[Commanded], answers: Sequence[Answered]) -> list[tuple[Commanded, Answered]]:
    """Commands about one subject with their answers, matched from the end: the first ones may be gone.

    An answer whose version and author are no command's is one of something else: of a tombstone, or of a
    record that nobody could read.
    """
    paired = []
    left = len(answers)
    for given in reversed(commands):
        at = left - 1
        while at >= 0 and not _fits(given.command, answers[at].answer):
            at -= 1
        if at >= 0:
            paired.append((given, answers[at]))
            left = at
    return paired[::-1]


def _fits(command: Command, answer: CommandAnswered) -> bool:
    version = getattr(command, "version", None)
    return (answer.version, answer.who, answer.why) == (version, command.who, command.why)
