"""`python -m app refdata`: load a file of reference data, show what is in force, compare the two."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from app.domain.refdata import scale_after, scale_changes
from app.operators.answers import print_answers, status_of
from app.operators.desk import Desk, NotAnswered, Unreadable, login_name, next_version
from app.operators.holders import Holders
from app.operators.refdata_files import BadFile, Entry, Fault, read_file
from app.operators.refdata_kinds import CONTROLS, KINDS, Fields, Kind
from app.operators.refdata_state import confirmed
from app.topics import OPERATOR_COMMANDS
from models.commands import SetInstrument
from models.events import InstrumentListed

EXIT_DIFFERENT = 1


class Change(NamedTuple):
    """What loading an entry means: `before` is in force (None: nothing), `fields` differ: old and new.

    `unreadable` says why the services can't read what is in force: loaded, it is told again.
    """

    entry: Entry
    before: Any
    fields: Mapping[str, tuple[Any, Any]]
    unreadable: str = ""

    @property
    def is_new(self) -> bool:
        return self.before is None

    @property
    def version(self) -> int:
        return next_version(None if self.before is None else self.before.version)

    def told(self) -> str:
        """What differs, in a line."""
        if self.is_new:
            said = [f"{name} {new}" for name, (_, new) in self.fields.items() if new is not None]
        else:
            said = [f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in self.fields.items()]
        return ", ".join(said + [f"told again, it can't be read: {self.unreadable}"] * bool(self.unreadable))


class Comparison(NamedTuple):
    """A file beside what is in force: `changes` by entry, and what is in force without being in the file."""

    changes: list[Change]
    only_in_force: list[tuple[str, str]]

    @property
    def different(self) -> list[Change]:
        return [each for each in self.changes if each.fields or each.unreadable]


async def load(options: argparse.Namespace) -> int:
    """Put a file in force. Nothing is sent when anything in it is wrong or would be refused."""
    entries = read_file(options.file)
    who, why = options.who or login_name(), options.why or _loaded_from(options.file)
    async with Desk.open(options.bootstrap, options.wait) as desk:
        wanted = (await compare(desk, entries)).different
        faults = _version_faults(wanted) + _refusals(wanted) + await _scale_faults(desk, wanted)
        if faults:
            raise BadFile(options.file, faults)
        commands = [
            each.entry.command.model_copy(update={"version": each.version, "who": who, "why": why})
            for each in wanted
        ]
        if not commands:
            print_answers(
                [],
                options.json,
                otherwise=f"nothing to change: {_counted(len(entries))} in force as the file has them",
            )
            return 0
        told = [each.told() for each in wanted]
        try:
            answers = await desk.order(OPERATOR_COMMANDS, commands)
        except NotAnswered as error:
            print_answers(error.answers, options.json)
            raise
    print_answers(answers, options.json, told)
    return status_of(answers)


async def diff(options: argparse.Namespace) -> int:
    """Tell what `load` would change; 1 when it would change anything."""
    entries = read_file(options.file)
    async with Desk.open(options.bootstrap, options.wait) as desk:
        found = await compare(desk, entries)
    faults = _version_faults(found.different)
    if faults:
        raise BadFile(options.file, faults)
    if options.json:
        print(json.dumps([_change_json(each) for each in found.different], indent=2, ensure_ascii=False))
    else:
        for each in found.different:
            print(f"{'+' if each.is_new else '~'} {each.entry.kind.name} {each.entry.subject}: {each.told()}")
        for kind, name in found.only_in_force:
            print(f"= {kind} {name}: in force, not in the file; load leaves it as it is")
        print(f"{len(found.different)} of {_counted(len(entries))} would change")
    return EXIT_DIFFERENT if found.different else 0


async def show(options: argparse.Namespace) -> int:
    """Print what is in force: of one kind or all."""
    names = [options.kind] if options.kind else [*KINDS, *CONTROLS]
    async with Desk.open(options.bootstrap, options.wait) as desk:
        found = {name: await desk.in_force(_topic(name)) for name in names}
    tables = {name: [_row(name, key, value) for key, value in sorted(found[name].items())] for name in names}
    if options.json:
        print(json.dumps(tables, indent=2, ensure_ascii=False))
        return 0
    for name, rows in tables.items():
        print("\n".join(_table(name, rows)))
    return 0


ACTIONS = {"load": load, "diff": diff, "show": show}


async def compare(desk: Desk, entries: Sequence[Entry]) -> Comparison:
    """Each entry of a file beside what is in force."""
    kinds = {entry.kind.name: entry.kind for entry in entries}
    in_force = {name: await desk.in_force(kind.state) for name, kind in kinds.items()}
    changes = []
    for entry in entries:
        told = in_force[entry.kind.name].pop(entry.subject, None)
        before, unreadable = await confirmed(desk, entry.kind.state, entry.subject, told)
        fields = _differences(entry.kind, before, entry.command)
        changes.append(Change(entry, before, fields, unreadable))
    return Comparison(changes, [(name, key) for name in in_force for key in sorted(in_force[name])])


def _differences(kind: Kind, before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    old: Fields = dict.fromkeys(kind.fields) if before is None else kind.fields_of(before)
    new = kind.fields_of(after)
    return {name: (old[name], new[name]) for name in kind.fields if before is None or old[name] != new[name]}


def _version_faults(changes: Sequence[Change]) -> list[Fault]:
    """A file that was made from another version than the one in force would undo somebody's change."""
    return [
        Fault(
            each.entry.line,
            "version",
            f"the file was made from version {each.entry.based_on} of {each.entry.subject!r}, in force is "
            f"{'none' if each.before is None else each.before.version}: look at it again with 'refdata show'",
        )
        for each in changes
        if each.entry.based_on is not None and each.entry.based_on != each.version - 1
    ]


def _refusals(changes: Sequence[Change]) -> list[Fault]:
    """What the service would refuse, as far as can be seen from here."""
    return [
        Fault(each.entry.line, "", f"{each.entry.subject!r} would be refused: {decision.refusal}")
        for each in changes
        if not (
            decision := each.entry.kind.decide(
                each.entry.command.model_copy(update={"version": each.version}), each.before
            )
        ).accepted
    ]


async def _scale_faults(desk: Desk, changes: Sequence[Change]) -> list[Fault]:
    """Lots and ticks may not change while somebody has some or an order of them that would not fit then."""
    scaled, scales = {}, {}
    for each in changes:
        before, command = each.before, each.entry.command
        if (
            isinstance(before, InstrumentListed)
            and isinstance(command, SetInstrument)
            and scale_changes(before.instrument, command.instrument)
        ):
            scaled[each.entry.subject] = each
            scales[each.entry.subject], _ = scale_after(before, command.instrument)
    if not scaled:
        return []
    holders = await Holders.of(desk, scales)
    return [
        Fault(
            each.entry.line,
            ", ".join(name for name in each.fields if name != "status"),
            f"{symbol!r} can't change: {told}; close them first",
        )
        for symbol, each in scaled.items()
        if (told := holders.told(symbol))
    ]


def _loaded_from(path: Path) -> str:
    return f"refdata load {path}".encode("utf-8", "backslashreplace").decode()[:1024]


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "kind": change.entry.kind.name,
        "key": change.entry.subject,
        "line": change.entry.line,
        "new": change.is_new,
        "fields": {name: [old, new] for name, (old, new) in change.fields.items()},
        "unreadable": change.unreadable or None,
    }


def _topic(name: str) -> Any:
    return KINDS[name].state if name in KINDS else CONTROLS[name]


def _row(name: str, key: str, value: Any) -> Fields:
    """What `show` tells of one thing: the fields that a file has, and the version."""
    if isinstance(value, Unreadable):
        return {KINDS[name].key if name in KINDS else "key": key, "unreadable": value.reason}
    if name in KINDS:
        return {**KINDS[name].fields_of(value), "version": value.version}
    return dict(value.model_dump(mode="json"))


def _table(name: str, rows: Sequence[Fields]) -> list[str]:
    """Rows for people: a column a field, those that are empty everywhere left out."""
    if not rows:
        return [f"{name}: none"]
    heads = [
        head
        for head in dict.fromkeys(h for row in rows for h in row)
        if any(row.get(head) is not None for row in rows)
    ]
    cells = [[_shown(row.get(head)) for head in heads] for row in rows]
    widths = [max(len(line[at]) for line in [heads, *cells]) for at in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *cells]
    ]
    return [f"{name}: {len(rows)}", *(f"  {line}" for line in lines)]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _counted(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"
