"""Which fields the JSON of a type may have, to any depth; what stands there beyond them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel

ANY_KEY = "*"
"""Stands for the keys of a map and the places of a list: they are data, not names."""


@dataclass(frozen=True)
class Shape:
    """An object of these `fields`, or a map or list whose `values` have that shape; else a plain value."""

    fields: Mapping[str, "Shape"] | None = None
    values: "Shape | None" = None

    @cached_property
    def _nested(self) -> Mapping[str, "Shape"]:
        """The fields in which there may be something unknown."""
        return {name: each for name, each in (self.fields or {}).items() if each != PLAIN}

    def strip(self, value: Any) -> set[str]:
        """Remove from a value that came from JSON what its shape does not know; returns the dotted names."""
        unknown: set[str] = set()
        self._strip(value, "", unknown)
        return unknown

    def _strip(self, value: Any, path: str, unknown: set[str]) -> None:
        if self.fields is not None and isinstance(value, dict):
            for name in value.keys() - self.fields.keys():
                del value[name]
                unknown.add(path + name)
            for name, shape in self._nested.items():
                if name in value:
                    shape._strip(value[name], f"{path}{name}.", unknown)
        elif self.values is not None and isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                self.values._strip(each, f"{path}{ANY_KEY}.", unknown)


PLAIN = Shape()


def shape_of(kind: Any) -> Shape:
    """The shape of a model, a struct or what is made of them; TypeError: it could be one of two."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return shape_of(parts[0])
    if origin in (Union, UnionType):
        return _shape_of_union(kind, [each for each in parts if each is not NoneType])
    if origin is dict:
        return _shape_of_values(parts[1])
    if origin in (list, set, frozenset) or (origin is tuple and parts[1:] == (...,)):
        return _shape_of_values(parts[0])
    if origin is not None or not isinstance(kind, type):
        raise TypeError(f"{kind!r}: no field of a contract can have this type yet; teach models/shape.py")
    if issubclass(kind, BaseModel):
        return Shape({name: shape_of(each.annotation) for name, each in kind.model_fields.items()})
    if issubclass(kind, msgspec.Struct):
        return Shape({each.encode_name: shape_of(each.type) for each in msgspec.structs.fields(kind)})
    return PLAIN


def _shape_of_values(kind: Any) -> Shape:
    shape = shape_of(kind)
    return PLAIN if shape == PLAIN else Shape(values=shape)


def _shape_of_union(kind: Any, members: list[Any]) -> Shape:
    shapes = [shape for each in members if (shape := shape_of(each)) != PLAIN]
    if len(shapes) > 1:
        raise TypeError(f"{kind!r} could be either of two objects: nobody could tell whose a field is")
    return shapes[0] if shapes else PLAIN
