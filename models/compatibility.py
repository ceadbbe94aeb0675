"""Whether a change of a JSON Schema needs a new version: what readers of the other release could not read.

Two questions a change has to pass: does today's build read what was written before (always), and does the
build before read what is written today (where that build may be running beside it: inside)? Schemas are those
of models/schemas, without references. What is not known here is refused, not passed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

Schema = Mapping[str, Any]

LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
FORMS: Final = ("pattern", "format", "multipleOf", "const", "uniqueItems")
STRUCTURE: Final = ("anyOf", "type", "properties", "required", "additionalProperties", "items", "enum")
SAYINGS: Final = ("$schema", "title", "examples", "default", "x-version", "x-origin")
"""They say something about the values but don't bound them; `default` is looked at field by field."""
KNOWN: Final = frozenset((*LOWER_BOUNDS, *UPPER_BOUNDS, *FORMS, *STRUCTURE, *SAYINGS))

NO_DEFAULT: Final = object()


class Break(NamedTuple):
    """A change at a field that needs a new version, and why."""

    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


def breaks(old: Schema, new: Schema, *, old_reads_new: bool) -> list[Break]:
    """What of a change from `old` to `new` needs a version; `old_reads_new`: the build before reads, too."""
    return [
        Break(found.path or "value", found.why)
        for found in _changes(old, new, "")
        if old_reads_new or not found.widens
    ]


class _Change(NamedTuple):
    """`widens`: values are allowed that were not; only an old reader is hurt by it."""

    path: str
    why: str
    widens: bool = False


def _changes(old: Schema, new: Schema, path: str) -> Iterator[_Change]:
    before, after = _kinds(old), _kinds(new)
    if not before.keys() & after.keys():
        yield _Change(path, f"its type changed from {_listed(before)} to {_listed(after)}")
        return
    for kind in before.keys() - after.keys():
        yield _Change(path, f"it can no longer be {kind}, which older records may hold")
    for kind in after.keys() - before.keys():
        yield _Change(path, f"it can be {kind} now, which older builds can't read", widens=True)
    for kind in sorted(before.keys() & after.keys()):
        yield from _changes_within(before[kind], after[kind], path)


def _kinds(schema: Schema) -> dict[str, Schema]:
    """The schema of each JSON type that a value may have; an enumeration beside any text is any text."""
    if "anyOf" not in schema:
        return {_kind(schema): schema}
    found: dict[str, Schema] = {}
    for each in schema["anyOf"]:
        for kind, member in _kinds(each).items():
            if kind in found and "enum" in member and "enum" not in found[kind]:
                continue
            found[kind] = member
    return found


def _kind(schema: Schema) -> str:
    if "type" in schema:
        return str(schema["type"])
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    names = {_type_name(value) for value in values}
    return names.pop() if len(names) == 1 else "anything"


def _type_name(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    return {str: "string", int: "integer", float: "number"}.get(type(value), "anything")


def _changes_within(old: Schema, new: Schema, path: str) -> Iterator[_Change]:
    """Changes of two schemas of one JSON type."""
    yield from _bounds(old, new, path)
    yield from _members(old, new, path)
    for key in sorted((old.keys() | new.keys()) - KNOWN):
        if old.get(key) != new.get(key):
            yield _Change(path, f"`{key}` changed, and nobody has written down what that means for readers")
    yield from _fields(old, new, path)
    for key in ("additionalProperties", "items"):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _changes(before, after, f"{path}.*" if path else "*")
        elif isinstance(before, Mapping) or isinstance(after, Mapping):
            yield _Change(path, f"`{key}` changed: what stands in it has another type")


def _bounds(old: Schema, new: Schema, path: str) -> Iterator[_Change]:
    for key in (*LOWER_BOUNDS, *UPPER_BOUNDS, *FORMS):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        what = f"`{key}` changed from {_bound(before)} to {_bound(after)}"
        if after is None:
            yield _Change(path, f"{what}: older builds refuse what is beyond", widens=True)
        elif before is None or key in FORMS:
            yield _Change(path, f"{what}: older records may be beyond")
        elif (after < before) == (key in LOWER_BOUNDS):
            yield _Change(path, f"{what}: older builds refuse what is beyond", widens=True)
        else:
            yield _Change(path, f"{what}: older records may be beyond")


def _bound(value: Any) -> str:
    return "none" if value is None else repr(value)


def _members(old: Schema, new: Schema, path: str) -> Iterator[_Change]:
    before, after = old.get("enum"), new.get("enum")
    if before == after:
        return
    if before is None:
        yield _Change(path, f"only {_listed(after or ())} are allowed now: older records may hold others")
    elif after is None:
        yield _Change(path, f"any text is allowed now; older builds know {_listed(before)}", widens=True)
    else:
        for member in before:
            if member not in after:
                yield _Change(path, f"{member!r} is no value of it any more: older records hold it")
        for member in after:
            if member not in before:
                yield _Change(path, f"{member!r} is a new value of it: older builds refuse it", widens=True)


def _fields(old: Schema, new: Schema, path: str) -> Iterator[_Change]:
    before, after = old.get("properties", {}), new.get("properties", {})
    had_to, have_to = set(old.get("required", ())), set(new.get("required", ()))
    for name in before:
        where = f"{path}.{name}" if path else name
        if name not in after:
            yield _Change(where, "the field was removed: older builds need it, and older records hold it")
            continue
        if name in have_to - had_to:
            yield _Change(where, "the field is required now: older records may lack it")
        elif name not in had_to and _default(before[name]) != _default(after[name]):
            yield _Change(where, "its default changed: a record without it would mean something else")
        yield from _changes(before[name], after[name], where)
    for name in after:
        if name not in before and name in have_to:
            where = f"{path}.{name}" if path else name
            yield _Change(where, "the field is new and required: older records lack it; give it a default")


def _default(schema: Schema) -> Any:
    return schema.get("default", NO_DEFAULT)


def _listed(names: Any) -> str:
    return " or ".join(str(name) for name in names)
