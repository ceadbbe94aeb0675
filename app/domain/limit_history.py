"""Which limits of an account were in force when: commands and their answers, folded as risk folds them."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from app.domain.limits import apply_limits, decide_limits, decide_unread
from app.domain.timeline import Timeline
from models.commands import SetRiskLimits
from models.events import CommandAnswered


class Garbled(NamedTuple):
    """A command that cannot be read: its bytes, and why not."""

    value: bytes | None
    why: str


class Commanded(NamedTuple):
    """A record of `risk-limits`, by the id that its answer names; without a command it removes the limits."""

    at_ms: int
    id: str
    command: SetRiskLimits | Garbled | None


class Answered(NamedTuple):
    """Risk's answer to the record of that id; `at_ms` is the broker's time of it."""

    at_ms: int
    id: str
    answer: CommandAnswered


class Gone(NamedTuple):
    """Limits that were in force, and of which the log has only the answer: the command is compacted away."""

    version: int | None
    who: str
    why: str


InForce = SetRiskLimits | Gone | None


def limit_history(
    account_id: str, commands: Sequence[Commanded], answered: Sequence[Answered], *, answers_cut: bool
) -> Timeline[InForce]:
    """What was in force from when on.

    A command counts from its answer on. One without an answer has not been judged yet; where the log of
    answers has lost its beginning (`answers_cut`), it counts from its own time.
    """
    changes: list[tuple[int, InForce]] = []
    in_force: InForce = None
    for at_ms, command in _by_time(commands, answered, answers_cut=answers_cut):
        in_force = _after(account_id, command, in_force)
        changes.append((at_ms, in_force))
    return Timeline(changes)


def _by_time(
    commands: Sequence[Commanded], answered: Sequence[Answered], *, answers_cut: bool
) -> Iterator[tuple[int, SetRiskLimits | Garbled | Gone | None]]:
    waiting: dict[str, deque[Commanded]] = defaultdict(deque)
    for command in commands:
        waiting[command.id].append(command)
    found: list[tuple[int, SetRiskLimits | Garbled | Gone | None]] = []
    for at_ms, id_, answer in answered:
        command_or_none = waiting[id_].popleft() if waiting[id_] else None
        if command_or_none is not None:
            found.append((at_ms, command_or_none.command))
        elif answer.accepted:
            removed = answer.version is None
            found.append((at_ms, None if removed else Gone(answer.version, answer.who, answer.why)))
    found += [
        (left.at_ms, left.command)
        for queue in waiting.values()
        for left in queue
        if answers_cut or isinstance(left.command, Garbled)
    ]
    yield from sorted(found, key=lambda each: each[0])


def _after(
    account_id: str, command: SetRiskLimits | Garbled | Gone | None, in_force: InForce
) -> SetRiskLimits | Gone | None:
    known = in_force if isinstance(in_force, SetRiskLimits) else None
    match command:
        case SetRiskLimits():
            if isinstance(in_force, Gone) and in_force.version is not None:
                return command if command.version > in_force.version else in_force
            return apply_limits(command, known) if decide_limits(command, known).accepted else in_force
        case Garbled(value, why):
            after = decide_unread(SetRiskLimits.__name__, account_id, value, why, known).limits
            return in_force if known is None else after
        case _:
            return command
