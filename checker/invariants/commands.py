"""What operators said is answered or a dead letter (I5), protects (I7), and is in force (I3)."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from app.topology import readers_of
from checker.findings import Findings
from checker.history import Shared
from checker.records import (
    ACCOUNT_COMMANDS,
    ALLOCATION_INSTRUCTIONS,
    COMMANDING,
    OPERATOR_COMMANDS,
    DeadLetter,
    HaltInForce,
    Limits,
    Origin,
    RestrictionInForce,
    SetHalt,
    SetRestriction,
)
from checker.reference import Commanded, Reference, Subject

I3, I5, I7 = "I3", "I5", "I7"
READERS: Final = {topic: readers_of(topic) for topic in COMMANDING}
KEPT: Final = frozenset({ACCOUNT_COMMANDS, OPERATOR_COMMANDS, ALLOCATION_INSTRUCTIONS})
"""Topics of commands from which nothing is ever removed."""


def check_commands(shared: Shared, letters: Iterable[DeadLetter], *, quiet: bool) -> Findings:
    """Judge the commands and their answers; only once all is quiet is what is missing a violation."""
    found = Findings()
    buried: dict[Origin, set[str]] = {}
    for letter in letters:
        if letter.origin.topic in COMMANDING:
            buried.setdefault(letter.origin, set()).add(letter.service)
    reference = shared.reference
    for subject in reference.commands:
        _check_protection(reference, subject, found)
    if not quiet:
        return found
    _check_unusable(shared, buried, found)
    misread = {origin.topic for origin, _ in shared.unusable}
    if reference.answers_are_whole:
        _check_answers(reference, buried, misread, found)
    else:
        found.skip(I5, "the first answers to commands are gone", "command-answers")
    for subject in reference.commands:
        _check_in_force(reference, subject, misread, found)
    return found


def _check_protection(reference: Reference, subject: Subject, found: Findings) -> None:
    for given, answered in reference.paired(subject):
        if _protects(given) and not answered.answer.accepted:
            found.violate(I7, "a kill switch or a halt that is switched on was refused", _place(given))


def _protects(given: Commanded) -> bool:
    match given.command:
        case Limits(kill_switch=True) | SetHalt(halted=True) | SetRestriction(restricted=True):
            return True
    return False


def _check_unusable(shared: Shared, buried: Mapping[Origin, set[str]], found: Findings) -> None:
    for origin, is_stray in shared.unusable:
        missing = [each for each in READERS[origin.topic] if each not in buried.get(origin, ())]
        what = "on another partition than its key's" if is_stray else "that nobody can read"
        for service in missing:
            found.violate(I5, f"{service} has no dead letter of a command {what}", origin)


def _check_answers(
    reference: Reference, buried: Mapping[Origin, set[str]], misread: AbstractSet[str], found: Findings
) -> None:
    """Every command that stands in the log has an answer; commands of a release that gave none are older.

    What nobody can read is answered too, maybe as one of these: then too many answers mean nothing.
    """
    answered = [each.timestamp_ms for given in reference.answers.values() for each in given]
    since_ms = min([*answered, *reference.accounts.begins(), *reference.instruments.begins()], default=None)
    if since_ms is None:
        return  # a release that answered nothing
    for subject, commands in reference.commands.items():
        due = [
            each
            for each in commands
            if each.timestamp_ms >= since_ms and COMMANDING[each.topic] not in buried.get(_place(each), ())
        ]
        answers = len(reference.answers.get(subject, ()))
        for given in due[: max(0, len(due) - answers)]:
            found.violate(I5, "a command has no answer", _place(given))
        is_exact = len(due) == len(commands) and commands[0].topic in KEPT - misread
        if is_exact and answers > len(commands):
            found.violate(I5, "a command was answered more than once", _place(commands[-1]))


def _check_in_force(
    reference: Reference, subject: Subject, misread: AbstractSet[str], found: Findings
) -> None:
    """The last halt or restriction that was accepted is in force, or a safer one where some was misread."""
    commands = reference.commands[subject]
    paired = [each for each in reference.paired(subject) if each[1].answer.accepted]
    if not paired or paired[-1][0] is not commands[-1]:
        return  # what came after it was refused
    given = paired[-1][0]
    match given.command:
        case SetHalt(scope=scope, halted=wanted):
            halt = reference.halts.last(scope)
            holds = halt.halted if isinstance(halt, HaltInForce) else None
        case SetRestriction(symbol=symbol, restricted=wanted):
            restriction = reference.restricted.last(symbol)
            holds = restriction.restricted if isinstance(restriction, RestrictionInForce) else None
        case _:
            return
    is_safer = given.topic in misread and holds is not False
    if holds != wanted and not is_safer:
        found.violate(I3, "a halt or restriction in force is not the last that was accepted", _place(given))


def _place(given: Commanded) -> Origin:
    return Origin(given.topic, given.partition, given.offset)
