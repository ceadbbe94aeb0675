"""Reads what the venue sends on its report stream, each report by itself: a bad one costs no other.

Fields that this build does not know are left out and named: the venue may add some at any time.
"""

import json
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
from pydantic import TypeAdapter, ValidationError

from app.engine import KEY_SHARDS, shard_of
from models.events import AnyVenueReport
from models.registry import REPORTS

REPORT_BYTES_MAX: Final = 64 * 1024
SEQUENCE_MAX: Final = 2**62
NAME_CHARS_MAX: Final = 256
OURS: Final = {"type", "session", "follows"}
"""What a report has besides the fields of its event."""

_MODELS: Final = [each.model for each in REPORTS.values()]
_ADAPTERS: Final[dict[str, TypeAdapter[Any]]] = {each.__name__: TypeAdapter(each) for each in _MODELS}
_FIELDS: Final = {each.__name__: frozenset(each.model_fields) for each in _MODELS}
_parts: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Unreadable(ValueError):
    """The venue sent something that is no report as we know them."""


class Reported(NamedTuple):
    """One report as it came: `report` is None when it can't be read, and `error` says why.

    `session` is its own, else the shard of its account; it and `sequence` are None where they are missing or
    odd, as are `account_id` and `order_id`. `follows` is the number of the report before it, which the venue
    tells where numbers leap. `unknown` are fields that this build does not know.
    """

    raw: bytes
    session: int | None = None
    sequence: int | None = None
    account_id: str | None = None
    order_id: str | None = None
    report: AnyVenueReport | None = None
    error: Unreadable | None = None
    unknown: tuple[str, ...] = ()
    follows: int | None = None

    @property
    def digest(self) -> str:
        return sha256(self.raw).hexdigest()[:16]

    @property
    def source(self) -> str:
        """Where it stands at the venue, for people."""
        session, sequence = ("?" if each is None else each for each in (self.session, self.sequence))
        return f"venue/{session}/{sequence}"


def read_frame(data: str | bytes) -> list[Reported]:
    """The reports of one WebSocket frame; raises Unreadable when it is no JSON array at all."""
    try:
        parts = [bytes(part) for part in _parts.decode(data)]
    except (ValueError, RecursionError):
        parts = _split_leniently(data)
    return [read_report(part) for part in parts]


def _split_leniently(data: str | bytes) -> list[bytes]:
    """What Python's reader takes and others do not: NaN, halves of surrogate pairs."""
    try:
        items = json.loads(data)
        if isinstance(items, list):
            return [json.dumps(item).encode() for item in items]
        told = f"a JSON {type(items).__name__}"
    except (ValueError, RecursionError) as error:
        told = str(error)
    raise Unreadable(f"the venue sent a frame that is no array of reports: {told}") from None


def read_report(raw: bytes) -> Reported:
    """Read one report; never raises."""
    try:
        fields, strict = _object(raw)
    except (ValueError, RecursionError) as error:
        return Reported(raw, error=Unreadable(f"it cannot be read: {error}"))
    account_id, order_id = _name(fields.get("account_id")), _name(fields.get("order_id"))
    session = _whole(fields.get("session"), 0, KEY_SHARDS - 1)
    if session is None and account_id is not None:
        session = shard_of(account_id.encode())
    sequence = _whole(fields.get("venue_sequence"), 1, SEQUENCE_MAX)
    follows = _whole(fields.get("follows"), 0, SEQUENCE_MAX)
    try:
        if len(raw) > REPORT_BYTES_MAX:
            raise Unreadable(f"{len(raw)} bytes: a report has at most {REPORT_BYTES_MAX}")
        report, unknown = _report(fields, strict)
    except Unreadable as error:
        return Reported(raw, session, sequence, account_id, order_id, error=error, follows=follows)
    return Reported(raw, session, sequence, account_id, order_id, report, unknown=unknown, follows=follows)


def _object(raw: bytes) -> tuple[dict[str, Any], bool]:
    """The fields, and whether a strict reader takes them."""
    strict = True
    try:
        fields = msgspec.json.decode(raw)
    except ValueError:
        fields, strict = json.loads(raw, parse_int=_int), False
    if not isinstance(fields, dict):
        raise Unreadable(f"a JSON {type(fields).__name__} and no object")
    return fields, strict


def _int(digits: str) -> int | float:
    """A number that Python reads; what has more digits than any of ours is none."""
    return int(digits) if len(digits) < 1_000 else float("nan")


def _report(fields: dict[str, Any], strict: bool) -> tuple[AnyVenueReport, tuple[str, ...]]:
    name = fields.get("type")
    adapter = _ADAPTERS.get(name) if isinstance(name, str) else None
    if adapter is None or not isinstance(name, str):
        raise Unreadable(f"unknown type of report {str(name)[:64]!r}; known: {', '.join(_ADAPTERS)}")
    known = _FIELDS[name]
    unknown = tuple(fields.keys() - known - OURS)
    named = {key: value for key, value in fields.items() if key in known}
    try:
        if not strict:
            json.dumps(named, ensure_ascii=False).encode()
        report: AnyVenueReport = adapter.validate_python(named)
    except UnicodeEncodeError:
        raise Unreadable("text with half of a surrogate pair") from None
    except ValidationError as error:
        told = (
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]
        )
        raise Unreadable("; ".join(told)) from None
    return report, unknown


def _whole(value: Any, low: int, high: int) -> int | None:
    """A whole number in these bounds, also one that is written as text or as 5.0; else None."""
    if type(value) is int:
        return value if low <= value <= high else None
    as_text = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
    if as_text or (isinstance(value, float) and value.is_integer()):
        value = int(value)
        return value if low <= value <= high else None
    return None


def _name(value: Any) -> str | None:
    """A text that can be a key, else None."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return value
