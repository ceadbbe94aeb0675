"""The values of a list as columns: the fields of objects, and those of objects within that are alike."""

from collections.abc import Sequence
from typing import Any

Path = tuple[str, ...]
"""A field, by its name and those of the objects around it, the outermost first."""

COLUMNS_MAX = 24
NESTED_FIELDS_MAX = 12


def columns(values: Sequence[Any]) -> list[Path]:
    """The fields to show, in the order in which they come; none where the values are no objects, or too many.

    An object inside is taken apart where all values have the same fields in it: elsewhere its names are data.
    """
    if not values or not all(isinstance(each, dict) and each for each in values):
        return []
    found: list[Path] = []
    for name in dict.fromkeys(name for each in values for name in each):
        inner = [each[name] for each in values if name in each]
        found += [(name, *path) for path in _fields(inner)]
    return found if len(found) <= COLUMNS_MAX else []


def at(value: Any, path: Path) -> Any:
    """What stands there; None where nothing does."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _fields(inner: Sequence[Any]) -> list[Path]:
    """The fields that all these objects have; the empty path for what stays whole."""
    if not all(isinstance(each, dict) for each in inner):
        return [()]
    names = {tuple(each) for each in inner}
    if len(names) != 1 or not 0 < len(inner[0]) <= NESTED_FIELDS_MAX or len(inner) < 2:
        return [()]
    return [(name,) for name in inner[0]]
