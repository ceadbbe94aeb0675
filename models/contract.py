"""What a contract is: a type on the wire or in a table, its version, and how any version of it is read.

- A version grows only for a change that an old reader can't read; a new optional field keeps it.
- An older version is made today's by its upcasters, one a version, which work on the JSON object.
- A newer one raises NewerVersion: whoever wrote it is a newer release of ours, so it is nobody's fault.
- Unknown fields are ignored and counted inside and from the venue. From the edge (clients, operators) they
  may be instructions: they raise UnknownFields.

Errors are ValueErrors with a text for people:

ValueError
├── NewerVersion   written by a newer release: wait for a build that knows it
└── UnknownFields  the edge named fields that this build does not know
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from models.shape import shape_of

log = logging.getLogger(__name__)

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the JSON object of a version that of the next one."""

UNKNOWN_KINDS_MAX: Final = 1_000
NAME_CHARACTERS_MAX: Final = 100
TOO_MANY: Final = "(others)"
ERRORS_TOLD_MAX: Final = 5
MARK: Final = "$v"
_MARK_START: Final = b'{"$v":'
_DIGITS_MAX: Final = 9


class Origin(StrEnum):
    """Who writes a type: our services, a client or operator at the edge, or the venue."""

    INSIDE = "inside"
    EDGE = "edge"
    VENUE = "venue"


class NewerVersion(ValueError):
    """A newer release has written this; `known` is the newest version that this build reads, 0: none."""

    def __init__(self, what: str, version: int, known: int) -> None:
        super().__init__(what, version, known)
        self.what = what
        self.version = version
        self.known = known

    def __str__(self) -> str:
        knows = f"knows up to {self.known}" if self.known else "does not know it"
        return f"{self.what} in version {self.version} was written by a newer release; this build {knows}"


class UnknownFields(ValueError):
    """The edge named fields that this build does not know; `value` is what it would be without them."""

    def __init__(self, what: str, fields: Sequence[str], value: Any) -> None:
        super().__init__(what, fields)
        self.what = what
        self.fields = tuple(fields)
        self.value = value

    def __str__(self) -> str:
        return (
            f"{self.what} has fields that this build does not know: {_listed(self.fields)}. They may be "
            "instructions, so none of it is taken: leave them out, or send it when they are supported"
        )


class UnknownCounts:
    """How often unknown fields were ignored, by (type, field); the first of each is logged."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, what: str, fields: Sequence[str]) -> None:
        for name in fields:
            key = (what, name[:NAME_CHARACTERS_MAX])
            if key not in self._counts and len(self._counts) >= UNKNOWN_KINDS_MAX:
                key = (what, TOO_MANY)
            if key not in self._counts:
                log.warning("%s: the unknown field %r is ignored, here and from now on", *key)
            self._counts[key] += 1

    def all(self) -> Mapping[tuple[str, str], int]:
        return MappingProxyType(dict(self._counts))


UNKNOWN: Final = UnknownCounts()
"""Of this process."""


class Contract:
    """A type, how its values go to JSON, and how JSON of any version comes back.

    `upcasts` are one for each version before today's, oldest first; so there are as many versions and one
    more. `misread` makes of an edge value and its unknown fields what is passed on in the place of an error.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        origin: Origin = Origin.INSIDE,
        *,
        upcasts: Sequence[Upcast] = (),
        misread: Callable[[Any, tuple[str, ...]], Any] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.origin = origin
        self.version = len(upcasts) + 1
        self.frozen = is_frozen(model)
        self.strict: Callable[[bytes], Any]
        """Reads today's version and refuses unknown fields: the fast path."""
        self.encode: Callable[[Any], bytes]
        self._upcasts = tuple(upcasts)
        self._misread = misread
        self._shape = shape_of(model)
        if isinstance(model, type) and issubclass(model, msgspec.Struct):
            self.strict, self.encode = msgspec.json.Decoder(model).decode, msgspec.json.encode
            self._tolerant: Callable[[bytes], Any] = self._struct_from_known
            self._from_object: Callable[[Any], Any] = self._struct_from
        else:
            adapter: TypeAdapter[Any] = TypeAdapter(model)
            self.strict, self.encode = adapter.validator.validate_json, adapter.serializer.to_json
            self._tolerant = lambda data: adapter.validator.validate_json(data, extra="ignore")
            self._from_object = adapter.validator.validate_python

    def __repr__(self) -> str:
        return f"Contract({self.name} {self.version}, {self.origin})"

    def decode(self, version: int, data: bytes) -> Any:
        """Read what was written in that version. Raises ValueErrors."""
        if version != self.version:
            data = self.upcast(version, data)
        try:
            return self.strict(data)
        except ValueError as error:
            return self.decode_amiss(data, error)

    def decode_object(self, value: Any) -> Any:
        """Read today's version from what JSON was made into already. Raises ValueErrors."""
        try:
            return self._from_object(value)
        except ValueError as error:
            return self.decode_amiss(_to_json(value), error)

    def decode_amiss(self, data: bytes, error: ValueError) -> Any:
        """Try again after `strict` failed; its error stands unless unknown fields were all of it."""
        fields = self._unknown_in(data)
        if not fields:
            raise ValueError(describe_invalid(error)) from None
        try:
            value = self._tolerant(data)
        except ValueError:
            raise ValueError(describe_invalid(error)) from None
        if self.origin is not Origin.EDGE:
            UNKNOWN.add(self.name, fields)
            return value
        if self._misread is not None:
            return self._misread(value, fields)
        raise UnknownFields(self.name, fields, value)

    def upcast(self, version: int, data: bytes) -> bytes:
        """The JSON of that version as today's; the same bytes where it is today's."""
        if version == self.version:
            return data
        if version > self.version:
            raise NewerVersion(self.name, version, self.version)
        if version < 1:
            raise ValueError(f"{self.name} in version {version}: versions count from 1")
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"{self.name} in version {version} is no JSON object")
        for number in range(version, self.version):
            try:
                value = self._upcasts[number - 1](value)
            except (LookupError, TypeError, ArithmeticError) as error:
                raise ValueError(
                    f"{self.name} in version {version} cannot be made version {number + 1}: {error!r}"
                ) from error
        return _to_json(value)

    def _unknown_in(self, data: bytes) -> tuple[str, ...]:
        try:
            return tuple(sorted(self._shape.strip(json.loads(data))))
        except ValueError:
            return ()

    def _struct_from_known(self, data: bytes) -> Any:
        value = msgspec.json.decode(data)
        self._shape.strip(value)
        return self._struct_from(value)

    def _struct_from(self, value: Any) -> Any:
        return msgspec.convert(value, self.model, str_keys=True)


class ValueCodec:
    """The values of a table: version 1 bare, version n > 1 with `"$v": n` as the object's first member."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.frozen = contract.frozen
        self.encode: Callable[[Any], bytes] = self._marked if contract.version > 1 else contract.encode
        self._mark = b'{"%s":%d' % (MARK.encode(), contract.version)

    def decode(self, data: bytes) -> Any:
        """Raises ValueErrors, NewerVersion among them."""
        version = 1
        if data.startswith(_MARK_START):
            version, data = self._unmarked(data)
        return self.contract.decode(version, data)

    def _marked(self, value: Any) -> bytes:
        data = self.contract.encode(value)
        return self._mark + (b"}" if data == b"{}" else b"," + data[1:])

    def _unmarked(self, data: bytes) -> tuple[int, bytes]:
        """The version that the mark tells, and the object without it."""
        start = len(_MARK_START)
        end = next((at for at in range(start, start + _DIGITS_MAX) if not data[at : at + 1].isdigit()), start)
        rest = data[end:]
        if end == start or rest[:1] not in (b",", b"}"):
            raise ValueError(f"{self.contract.name}: its mark {data[:32]!r} tells no version")
        return int(data[start:end]), b"{" + rest.removeprefix(b",")


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def is_frozen(kind: Any) -> bool:
    """Whether values cannot be edited in place, so that one object can serve everybody who reads the key."""
    if not isinstance(kind, type):
        return False
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_config__.frozen
    if issubclass(kind, BaseModel):
        return bool(kind.model_config.get("frozen"))
    return issubclass(kind, str | bytes | int | float)


def describe_invalid(error: ValueError) -> str:
    """What was wrong, where; a pydantic error is told without its input and its links."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in found[:ERRORS_TOLD_MAX])


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:NAME_CHARACTERS_MAX] for part in loc) or "value"


def _listed(fields: Sequence[str]) -> str:
    shown = ", ".join(name[:NAME_CHARACTERS_MAX] for name in fields[:ERRORS_TOLD_MAX])
    return shown if len(fields) <= ERRORS_TOLD_MAX else f"{shown} and {len(fields) - ERRORS_TOLD_MAX} more"
