"""`make schemas`: write models/schemas, a JSON Schema with samples for each version of each contract.

A file is `<contract>.v<version>.json`; its `examples` are samples as they stand on the wire or in the table,
and none of them is ever removed: today's build has to read them all. A change of a recorded version that some
reader could not read is refused: give the contract an upcaster, and with it a new version.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from pydantic import TypeAdapter

import tables
from app.codecs import TABLE_CODECS
from models.compatibility import breaks
from models.contract import MARK, Contract, Origin
from models.registry import CONTRACTS, REPORTS, TABLES

SCHEMAS: Final = Path(__file__).parents[1] / "models" / "schemas"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SAYINGS: Final = ("title", "description")
TEXTS: Final = {
    "currency": "USD",
    "base_currency": "USD",
    "fee_currency": "USD",
    "tick": "0.01",
    "lot": "0.001",
    "trade_date": "2026-01-31",
}
"""What a sample has in fields that not every text fits into."""


class Kept(NamedTuple):
    """A contract and how its samples look: with a table value's mark, or a report's `type`."""

    contract: Contract
    marks: Mapping[str, Any]

    def file(self, version: int | None = None) -> Path:
        return SCHEMAS / f"{self.contract.name}.v{version or self.contract.version}.json"


def kept() -> list[Kept]:
    """Everything that has a contract; imports the tables, whose value types the services own."""
    for each in pkgutil.iter_modules(tables.__path__):
        importlib.import_module(f"tables.{each.name}")
    if missing := TABLES.keys() - TABLE_CODECS.keys():
        raise LookupError(f"no table in tables/ has the contracts {', '.join(sorted(missing))}")
    values = [TABLE_CODECS[name].contract for name in TABLES]
    return [
        *(Kept(each, {}) for each in CONTRACTS.values()),
        *(Kept(each, {"type": each.model.__name__}) for each in REPORTS.values()),
        *(Kept(each, {} if each.version == 1 else {MARK: each.version}) for each in values),
    ]


def schema_of(each: Kept) -> dict[str, Any]:
    """The JSON Schema of today's version; titles and descriptions are the models'."""
    model = each.contract.model
    if isinstance(model, type) and issubclass(model, msgspec.Struct):
        found = msgspec.json.schema(model)
    else:
        found = TypeAdapter(model).json_schema()
    closed = each.contract.origin is Origin.EDGE
    body = _resolved(found, found.get("$defs", {}), closed=closed)
    if each.marks:
        marks = {name: {"const": value} for name, value in each.marks.items()}
        body["properties"] = {**marks, **body["properties"]}
        body["required"] = [*marks, *body.get("required", [])]
    return {
        "$schema": DIALECT,
        "title": each.contract.name,
        "x-version": each.contract.version,
        "x-origin": str(each.contract.origin),
        **body,
    }


def _resolved(schema: Any, definitions: Mapping[str, Any], *, closed: bool, names: bool = False) -> Any:
    """A schema without references; `names` says that the keys are names of fields.

    Objects are closed at the edge alone: everywhere else a field more is ignored.
    """
    if isinstance(schema, list):
        return [_resolved(each, definitions, closed=closed) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema and not names:
        referred = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**referred, **{key: each for key, each in schema.items() if key != "$ref"}}
    return {
        key: _resolved(each, definitions, closed=closed, names=key == "properties" and not names)
        for key, each in schema.items()
        if names or not _is_left_out(key, each, closed=closed)
    }


def _is_left_out(key: str, value: Any, *, closed: bool) -> bool:
    if key in (*SAYINGS, "$defs") or (key == "required" and value == []):
        return True
    return key == "additionalProperties" and value is False and not closed


def sample_of(each: Kept, schema: Mapping[str, Any]) -> dict[str, Any]:
    """One sound value with every field, as it is written."""
    made = _made(schema, "")
    for name in each.marks:
        del made[name]
    data = each.contract.encode(each.contract.decode_object(made))
    sample: dict[str, Any] = {**each.marks, **json.loads(data)}
    return sample


def _made(schema: Mapping[str, Any], name: str) -> Any:
    if "anyOf" in schema:
        return _made(next(one for one in schema["anyOf"] if one.get("type") != "null"), name)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema["type"] == "object":
        if "properties" in schema:
            return {key: _made(each, key) for key, each in schema["properties"].items()}
        return {"key": _made(schema["additionalProperties"], name)}
    if schema["type"] == "array":
        return [_made(schema["items"], name)]
    if schema["type"] == "boolean":
        return True
    if name in TEXTS:
        return TEXTS[name]
    return name[: schema.get("maxLength", 64)] or "text" if schema["type"] == "string" else 1


def refusals(each: Kept, schema: Mapping[str, Any]) -> list[str]:
    """Why the contract may not be as it is, given the files that are there: contract, field, why."""
    name, version = each.contract.name, each.contract.version
    missing = [number for number in range(1, version) if not each.file(number).exists()]
    found = [f"{name}: the schema of version {number} is gone: bring it back" for number in missing]
    if each.file(version + 1).exists():
        return [*found, f"{name}: version {version + 1} is recorded; this tree has only {version}"]
    if not each.file().exists():
        return found
    inside = each.contract.origin is Origin.INSIDE
    changes = breaks(_read(each.file()), schema, old_reads_new=inside)
    return found + [f"{name} {version}: {change}" for change in changes]


def written(each: Kept, schema: Mapping[str, Any]) -> str:
    """What the contract's file has to hold: the schema, its samples, and one more where fields were added."""
    samples = _read(each.file()).get("examples", []) if each.file().exists() else []
    sample = sample_of(each, schema)
    if not any(_fields(sample) == _fields(other) for other in samples):
        samples = [*samples, sample]
    return json.dumps({**schema, "examples": samples}, indent=2, ensure_ascii=False) + "\n"


def _fields(value: Any) -> Any:
    """A sample's names and structure, without its values."""
    if isinstance(value, dict):
        return {name: _fields(each) for name, each in value.items()}
    return [_fields(each) for each in value] if isinstance(value, list) else None


def strangers(contracts: Sequence[Kept]) -> Iterator[str]:
    """Files of contracts that are not there any more: their records may be."""
    known = {each.file(number).name for each in contracts for number in range(1, each.contract.version + 1)}
    for path in sorted(SCHEMAS.glob("*.json")):
        if path.name not in known:
            yield f"{path.name}: there is no such contract any more, but there may be records of it"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> int:
    """Write what has changed, or nothing when a change needs a new version; returns the exit status."""
    contracts = kept()
    schemas = [(each, schema_of(each)) for each in contracts]
    refused = [*strangers(contracts), *(why for each in schemas for why in refusals(*each))]
    if refused:
        print(
            "nothing was written: these changes need a new version (docs/evolution.md)", *refused, sep="\n  "
        )
        return 1
    for each, schema in schemas:
        text = written(each, schema)
        if not each.file().exists() or each.file().read_text(encoding="utf-8") != text:
            each.file().write_text(text, encoding="utf-8")
            print(f"wrote {each.file().relative_to(SCHEMAS.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
