"""A command that could not be read: what it probably was, whom it meant, and what is closed because of it.

What protects fails closed: under every name that an unreadable restriction or halt may have meant, trading is
restricted or halted, with the reason. Anything else that can't be read changes nothing.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from models.commands import SetAccount, SetCounterparty, SetHalt, SetInstrument, SetRestriction
from models.values import EVERYBODY

NOTE_CHARS_MAX: Final = 1_000
SUBJECT_CHARS_MAX: Final = 256
_SYMBOL_CHARS_MAX: Final = 64
_ACCOUNT_CHARS_MAX: Final = 256
_NAMED_BY: Final = {
    SetInstrument.__name__: "symbol",
    SetAccount.__name__: "account_id",
    SetCounterparty.__name__: "counterparty_id",
    SetHalt.__name__: "scope",
    SetRestriction.__name__: "symbol",
}
UNKNOWN: Final = "unknown"
CLOSED_BY: Final = "refdata"
"""Who has restricted or halted what an unreadable command may have meant."""


class Unread(NamedTuple):
    """What can be told of a command that could not be read.

    `subject` is for the answer: the record's key, else the name in its value. `closes` are the commands that
    follow from it, one for each name that it may have meant.
    """

    command: str
    subject: str
    version: int | None
    who: str
    why: str
    closes: tuple[SetRestriction | SetHalt, ...]


def understand(command: str, key: bytes | None, value: bytes | None, error: str) -> Unread:
    """Make the most of a record. `command` is the type that its topic or its header names, `error` why it
    could not be read."""
    fields = _fields(value)
    command = _kind(command, key, fields)
    names = _names(command, key, fields)
    version = fields.get("version")
    return Unread(
        command=command,
        subject=names[0][:SUBJECT_CHARS_MAX] if names else "",
        version=version if isinstance(version, int) and not isinstance(version, bool) else None,
        who=_note(fields.get("who")),
        why=_note(fields.get("why")),
        closes=tuple(each for name in names if (each := _closing(command, name, error)) is not None),
    )


def _closing(command: str, name: str, error: str) -> SetRestriction | SetHalt | None:
    why = f"a command could not be read: {error}"[:NOTE_CHARS_MAX]
    if command == SetRestriction.__name__ and 0 < len(name) <= _SYMBOL_CHARS_MAX:
        return SetRestriction(symbol=name, restricted=True, who=CLOSED_BY, why=why)
    if command == SetHalt.__name__ and 0 < len(name) <= _ACCOUNT_CHARS_MAX:
        return SetHalt(scope=name, halted=True, version=0, who=CLOSED_BY, why=why)
    return None


def _kind(told: str, key: bytes | None, fields: Mapping[str, Any]) -> str:
    """The command's type: the one told if there is such a one, else a halt if anything hints at one."""
    if told in _NAMED_BY:
        return told
    is_halt = "scope" in fields or "halted" in fields or key == EVERYBODY.encode()
    return SetHalt.__name__ if is_halt else UNKNOWN


def _names(command: str, key: bytes | None, fields: Mapping[str, Any]) -> list[str]:
    """Whom it may have meant: its key, and the name in its value."""
    within = fields.get("instrument")
    named = within if command == SetInstrument.__name__ and isinstance(within, dict) else fields
    found = [] if key is None else [key.decode("utf-8", "backslashreplace")]
    value = named.get(_NAMED_BY.get(command, ""))
    if isinstance(value, str) and value not in found and _is_text(value):
        found.append(value)
    return found


def _fields(value: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(value or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(value: Any) -> str:
    return value[:NOTE_CHARS_MAX] if isinstance(value, str) and _is_text(value) else ""


def _is_text(value: str) -> bool:
    """JSON may hold half a surrogate pair, which no key of Kafka's can be."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
