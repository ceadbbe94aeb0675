"""Reads files of reference data, CSV and JSON: all of a file or nothing, and every error with its line."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Set
from decimal import Decimal
from difflib import get_close_matches
from json.decoder import JSONArray, JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from app.errors import UserError
from app.operators.refdata_kinds import KINDS, MOMENTS, Command, Fields, Kind, to_ms

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
ERRORS_SHOWN_MAX: Final = 50
VERSION: Final = "version"
VERSION_HELP: Final = (
    "the version in force that this was made from; leave it out to take whatever is in force"
)


class Entry(NamedTuple):
    """One instrument, account or counterparty of a file: a command of version 0 by nobody, and its line.

    `based_on` is the version in force that the file says it was made from.
    """

    kind: Kind
    command: Command
    line: int
    based_on: int | None

    @property
    def subject(self) -> str:
        return self.kind.subject(self.command)


class Fault(NamedTuple):
    """One thing that is wrong with a file. `field` is empty where it is about a whole line."""

    line: int
    field: str
    text: str


class BadFile(UserError):
    """A file that can't be taken, with everything that is wrong with it."""

    def __init__(self, path: Path, faults: list[Fault]) -> None:
        self.faults = faults
        lines = [
            f"{path}:{line}: {field + ': ' if field else ''}{text}"
            for line, field, text in sorted(faults)[:ERRORS_SHOWN_MAX]
        ]
        more = len(faults) - ERRORS_SHOWN_MAX
        if more > 0:
            lines.append(f"and {more} more")
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        super().__init__("\n  ".join([f"{count} in {path}, nothing was sent:", *lines]))


class _Raw(NamedTuple):
    """An entry as it stands in the file: its fields, and the line of each."""

    kind: Kind
    fields: Fields
    line: int
    lines: Mapping[str, int]


def read_file(path: Path) -> list[Entry]:
    """Every entry of a file; raises UserError, a BadFile when it is about the content."""
    text = _text(path)
    faults: list[Fault] = []
    is_json = path.suffix.lower() == ".json" or (
        path.suffix.lower() != ".csv" and text.lstrip().startswith(("{", "["))
    )
    raws = list((_json_entries if is_json else _csv_entries)(text, faults))
    entries = [entry for raw in raws if (entry := _entry(raw, faults)) is not None]
    _refuse_twins(entries, faults)
    if not faults and not entries:
        faults.append(Fault(1, "", "the file has no entries"))
    if faults:
        raise BadFile(path, faults)
    return entries


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise UserError(f"{path} is larger than {FILE_BYTES_MAX} bytes: load it in parts")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile(path, [Fault(line, "", "is not UTF-8; save the file as UTF-8")]) from None


# -- CSV: a heading, then a line each; the heading tells the kind -----------------------------------------


def _csv_entries(text: str, faults: list[Fault]) -> Iterator[_Raw]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    kind, heading = None, []
    before = 0
    try:
        for row in lines:
            line, before = before + 1, lines.line_num
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if kind is None:
                kind, heading = _csv_kind(cells, line, faults), cells
                if kind is None:
                    return
            elif len(cells) != len(heading):
                faults.append(
                    Fault(line, "", f"has {len(cells)} cells, the heading has {len(heading)} columns")
                )
            else:
                fields = {name: cell for name, cell in zip(heading, cells, strict=True) if cell}
                yield _Raw(kind, fields, line, {})
    except csv.Error as error:
        faults.append(Fault(lines.line_num, "", f"is no CSV: {error}"))


def _csv_kind(heading: list[str], line: int, faults: list[Fault]) -> Kind | None:
    kinds = [kind for kind in KINDS.values() if kind.key in heading]
    if len(kinds) != 1:
        keys = ", ".join(f"{kind.key} ({name})" for name, kind in KINDS.items())
        hint = "; separate columns by commas" if len(heading) == 1 and ";" in heading[0] else ""
        faults.append(Fault(line, "", f"the heading needs exactly one of these columns: {keys}{hint}"))
        return None
    (kind,) = kinds
    bad = [
        Fault(line, name or "(empty)", _unknown(name, kind)) for name in heading if not _is_known(name, kind)
    ]
    bad += [
        Fault(line, name, f"this column is missing: {text}")
        for name, text in kind.fields.items()
        if name not in heading and name not in kind.optional
    ]
    bad += [
        Fault(line, name, "this column is there twice; remove one")
        for name in dict.fromkeys(heading)
        if heading.count(name) > 1
    ]
    faults += bad
    return None if bad else kind


# -- JSON: {"instruments": [{...}, ...], "accounts": [...], "counterparties": [...]} -----------------------


class _Object(dict[str, Any]):
    """A JSON object that knows where it and its values begin, and which names it has twice."""

    at = 0
    starts: Mapping[str, int] = {}
    twice: tuple[str, ...] = ()


class _Decoder(json.JSONDecoder):
    """Makes `_Object`s, and decimals of fractions."""

    def __init__(self) -> None:
        super().__init__(parse_float=Decimal, parse_constant=self._no_constant)
        self.parse_object = self._object
        self.parse_array = JSONArray
        self.scan_once = py_make_scanner(self)

    @staticmethod
    def _no_constant(text: str) -> Any:
        raise ValueError(f"{text} is no number")

    def _object(self, s_and_end: tuple[str, int], strict: bool, scan_once: Any, *_: Any, **__: Any) -> Any:
        starts: list[int] = []

        def noting(text: str, at: int) -> Any:
            starts.append(at)
            return scan_once(text, at)

        pairs, end = JSONObject(s_and_end, strict, noting, None, list)
        found = _Object(pairs)
        names = [name for name, _ in pairs]
        found.at = s_and_end[1] - 1
        found.starts = dict(zip(names, starts, strict=True))
        found.twice = tuple(name for name in found if names.count(name) > 1)
        return found, end


def _json_entries(text: str, faults: list[Fault]) -> Iterator[_Raw]:
    def line_of(at: int) -> int:
        return text.count("\n", 0, at) + 1

    try:
        found = _Decoder().decode(text)
    except json.JSONDecodeError as error:
        faults.append(Fault(error.lineno, "", f"is no JSON, at column {error.colno}: {error.msg}"))
        return
    except (ValueError, RecursionError) as error:
        text_of = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        faults.append(Fault(1, "", f"is no JSON: {text_of}"))
        return
    if not isinstance(found, _Object):
        faults.append(Fault(1, "", f"must be an object with any of {', '.join(KINDS)}, each a list"))
        return
    faults += [
        Fault(line_of(found.starts[name]), name, "is there twice; put them together") for name in found.twice
    ]
    for name, listed in found.items():
        at = found.starts[name]
        if name not in KINDS:
            faults.append(
                Fault(line_of(at), name, f"is no kind of reference data; known: {', '.join(KINDS)}")
            )
        elif not isinstance(listed, list) or not all(isinstance(each, _Object) for each in listed):
            faults.append(Fault(line_of(at), name, "must be a list of objects"))
        else:
            yield from (_json_entry(KINDS[name], each, line_of, faults) for each in listed)


def _json_entry(kind: Kind, found: _Object, line_of: Any, faults: list[Fault]) -> _Raw:
    lines = {name: line_of(at) for name, at in found.starts.items()}
    faults += [Fault(lines[name], name, "is there twice; remove one") for name in found.twice]
    faults += [
        Fault(lines[name], name, "must be text or a number")
        for name, value in found.items()
        if isinstance(value, dict | list | bool)
    ]
    fields = {
        name: value
        for name, value in found.items()
        if value is not None and not isinstance(value, dict | list | bool)
    }
    return _Raw(kind, fields, line_of(found.at), lines)


# -- both ---------------------------------------------------------------------------------------------------


def _entry(raw: _Raw, faults: list[Fault]) -> Entry | None:
    """Check one entry; None, with the faults told, when anything is wrong with it."""
    kind, fields = raw.kind, dict(raw.fields)
    bad: list[Fault] = []

    def fault(name: str, text: str) -> None:
        bad.append(Fault(raw.lines.get(name, raw.line), name, text))

    for name in [name for name in fields if not _is_known(name, kind)]:
        fault(name, _unknown(name, kind))
        del fields[name]
    for name in kind.fields:
        if name not in fields and name not in kind.optional:
            fault(name, f"is missing: {kind.fields[name]}")
    based_on = _based_on(fields.pop(VERSION, None), fault)
    for name in MOMENTS:
        _read_moment(name, fields, kind, fault)
    command = _command(kind, fields, fault, {each.field for each in bad})
    faults += bad
    return None if command is None or bad else Entry(kind, command, raw.line, based_on)


def _based_on(value: Any, fault: Any) -> int | None:
    if value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()):
        fault(VERSION, f"{value!r} is no version: {VERSION_HELP}")
        return None
    return int(text)


def _read_moment(name: str, fields: Fields, kind: Kind, fault: Any) -> None:
    if name not in fields or name not in kind.fields:
        return
    try:
        if not isinstance(fields[name], str):
            raise ValueError("is no text")
        fields[name] = to_ms(fields[name])
    except ValueError as error:
        fault(name, f"{fields.pop(name)!r} {error}: {kind.fields[name]}")


def _command(kind: Kind, fields: Fields, fault: Any, faulty: Set[str]) -> Command | None:
    """Make the command; of fields that are `faulty` already nothing more is told."""
    try:
        return kind.command(fields)
    except ValidationError as error:
        names = {ms: name for name, ms in MOMENTS.items()}
        for each in error.errors():
            last = str(each["loc"][-1]) if each["loc"] else ""
            name = names.get(last, last)
            message = each["msg"].removeprefix("Value error, ")
            if name in faulty:
                continue
            if name in kind.fields:
                fault(name, f"{fields.get(name)!r} is refused ({message}): {kind.fields[name]}")
            else:
                fault("", message)
        return None


def _refuse_twins(entries: list[Entry], faults: list[Fault]) -> None:
    first: dict[tuple[str, str], int] = {}
    for entry in entries:
        line = first.setdefault((entry.kind.name, entry.subject), entry.line)
        if line != entry.line:
            faults.append(
                Fault(entry.line, entry.kind.key, f"{entry.subject!r} is in line {line} already; remove one")
            )


def _is_known(name: str, kind: Kind) -> bool:
    return name in kind.fields or name == VERSION


def _unknown(name: str, kind: Kind) -> str:
    close = get_close_matches(name, kind.fields, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"no field of {kind.name} has this name; {meant}known: {', '.join(kind.fields)}"
