"""Operators' commands about one account: its limits, its kill switch, and which order counts as its last.

Decide, then apply: what came of a command is its answer, `CommandAnswered`; one that was accepted is applied.
A kill switch that is switched on always takes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from app.domain.risk import AccountRisk, with_last_sequence
from models.commands import SetAccountSequence, SetRiskLimits
from models.events import CommandAnswered

SUBJECT_LENGTH_MAX: Final = 256
TEXT_LENGTH_MAX: Final = 1_024
OFF: Final = frozenset({"false", "f", "0", "0.0", "off", "no", "n", "none", "null", ""})
"""What says of a kill switch that it is off, as a command that can be read may say it, or says nothing."""
_KILL_SWITCH: Final = re.compile(r"kill[ _-]?switch", re.IGNORECASE)
_KILL_SWITCH_IN_TEXT: Final = re.compile(rb"kill[ _-]?switch[\\\"']*\s*[:=]\s*[\\\"']*(\w+)", re.IGNORECASE)


class Unread(NamedTuple):
    """What comes of a command that cannot be read: its answer, and the limits that are in force after it."""

    answer: CommandAnswered
    limits: SetRiskLimits | None


def decide_limits(command: SetRiskLimits, in_force: SetRiskLimits | None) -> CommandAnswered:
    """Accept limits of a version above those in force, and the kill switch in any: see `apply_limits`."""
    accepted = command.kill_switch or is_newer(command, in_force)
    version = None if in_force is None else in_force.version
    return CommandAnswered(
        command=SetRiskLimits.__name__,
        subject=command.account_id,
        version=command.version,
        accepted=accepted,
        reason="" if accepted else f"version {version} is in force: send a higher one",
        who=command.who,
        why=command.why,
    )


def apply_limits(command: SetRiskLimits, in_force: SetRiskLimits | None) -> SetRiskLimits:
    """The limits after an accepted command: if it is not newer, only its kill switch counts."""
    if in_force is None or is_newer(command, in_force):
        return command
    return killed(in_force)


def killed(in_force: SetRiskLimits) -> SetRiskLimits:
    """The same limits with the kill switch on."""
    return in_force if in_force.kill_switch else in_force.model_copy(update={"kill_switch": True})


def is_newer(command: SetRiskLimits, in_force: SetRiskLimits | None) -> bool:
    """Whether the command replaces what is in force: one that comes late or twice does not."""
    return in_force is None or command.version > in_force.version


def decide_removal(account_id: str, in_force: SetRiskLimits | None) -> CommandAnswered:
    """Accept that an account's limits are removed: from then on every order of it is refused."""
    return CommandAnswered(
        command=SetRiskLimits.__name__,
        subject=account_id,
        version=None,
        accepted=in_force is not None,
        reason="" if in_force else "the account has no limits to remove",
        why="a record without a value removes the limits",
    )


def decide_sequence(command: SetAccountSequence, account: AccountRisk, *, is_known: bool) -> CommandAnswered:
    """Accept any sequence not below the last order that was approved: its id would stand for two orders."""
    reason = ""
    if not is_known:
        reason = "the account is not known: register it and set its limits first"
    elif command.last_sequence < account.approved_up_to:
        reason = f"order {account.approved_up_to} was approved: set that or a higher one"
    return CommandAnswered(
        command=SetAccountSequence.__name__,
        subject=command.account_id,
        version=None,
        accepted=not reason,
        reason=reason,
        who=command.who,
        why=command.why,
    )


def apply_sequence(account: AccountRisk, command: SetAccountSequence) -> AccountRisk:
    """The account after an accepted command: the next order has to be above its `last_sequence`."""
    return with_last_sequence(account, command.last_sequence)


def decide_unread(
    command: str, account_id: str, value: bytes | None, why_not: str, in_force: SetRiskLimits | None
) -> Unread:
    """Refuse a command of type `command` that cannot be read, with whatever it tells all the same.

    If it was to switch the kill switch on, that is done: who sends it wants no more orders of the account.
    """
    fields = _fields(value)
    version = fields.get("version")
    reason, limits = f"it cannot be read: {why_not}", in_force
    if asks_to_kill(value) and in_force is not None:
        reason, limits = f"the kill switch is on, the rest is refused: {reason}", killed(in_force)
    answer = CommandAnswered(
        command=command,
        subject=account_id[:SUBJECT_LENGTH_MAX],
        version=version if type(version) is int else None,
        accepted=False,
        reason=reason[:TEXT_LENGTH_MAX],
        who=_text(fields.get("who")),
        why=_text(fields.get("why")),
    )
    return Unread(answer, limits)


def asks_to_kill(value: bytes | None) -> bool:
    """Whether a command that cannot be read may have been to switch the kill switch on.

    It was if it names the kill switch, however it spells it, and does not say plainly that it is off. Where
    no field of its own names it, its text counts: it may be no JSON, or have it further inside.
    """
    said = [each for name, each in _fields(value).items() if _KILL_SWITCH.fullmatch(name)]
    if not said:
        said = [found[1].decode(errors="replace") for found in _KILL_SWITCH_IN_TEXT.finditer(value or b"")]
    return any(str(each).strip().lower() not in OFF for each in said)


def _fields(value: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(value or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return value[:TEXT_LENGTH_MAX].encode("utf-8", "backslashreplace").decode()  # JSON may hold half a pair
