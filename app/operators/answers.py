"""Prints what came of commands, for people and as JSON; a refusal is exit status 1."""

import json
from collections.abc import Sequence

from models.events import CommandAnswered

EXIT_REFUSED = 1


def status_of(answers: Sequence[CommandAnswered]) -> int:
    """0 when every command was accepted."""
    return 0 if all(each.accepted for each in answers) else EXIT_REFUSED


def print_answers(
    answers: Sequence[CommandAnswered], as_json: bool, told: Sequence[str] = (), *, otherwise: str = ""
) -> None:
    """Print each answer with what it changed (`told`); `otherwise` is for people if there is none."""
    if as_json:
        print(json.dumps([each.model_dump(mode="json") for each in answers], indent=2, ensure_ascii=False))
        return
    for number, each in enumerate(answers):
        print(line_of(each, told[number] if told else ""))
    if not answers and otherwise:
        print(otherwise)


def line_of(answer: CommandAnswered, told: str = "") -> str:
    """One answer in a line."""
    version = "" if answer.version is None else f" version {answer.version}"
    said = told if answer.accepted else answer.reason
    verdict = "accepted" if answer.accepted else "refused"
    return f"{verdict}: {answer.command} {answer.subject}{version}{': ' + said if said else ''}"
