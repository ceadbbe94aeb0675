"""models/schemas tells what each release reads: it is up to date, its samples are read, breaks refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.compatibility import breaks
from models.contract import UNKNOWN, Contract, Origin, ValueCodec
from models.registry import CONTRACTS, REPORTS
from models.values import Frozen
from scripts import schemas
from scripts.schemas import Kept, kept, refusals, schema_of, strangers, written

ALL = kept()
RECORDED = [
    (each, version, sample)
    for each in ALL
    for version in range(1, each.contract.version + 1)
    if each.file(version).exists()
    for sample in json.loads(each.file(version).read_text(encoding="utf-8"))["examples"]
]


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.contract.name)
def test_no_change_needs_a_new_version(each: Kept) -> None:
    assert refusals(each, schema_of(each)) == []


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.contract.name)
def test_the_schemas_are_what_make_schemas_would_write(each: Kept) -> None:
    assert each.file().exists(), "run `make schemas`"
    assert each.file().read_text(encoding="utf-8") == written(each, schema_of(each)), "run `make schemas`"


def test_every_recorded_schema_has_its_contract() -> None:
    assert list(strangers(ALL)) == []


@pytest.mark.parametrize(
    ("each", "version", "sample"), RECORDED, ids=[f"{each.contract.name}-{v}" for each, v, _ in RECORDED]
)
def test_every_recorded_sample_is_read_by_this_build(
    each: Kept, version: int, sample: dict[str, Any]
) -> None:
    before = dict(UNKNOWN.all())
    if each.contract.name in REPORTS:
        each.contract.decode_object({name: value for name, value in sample.items() if name != "type"})
    elif each.contract.name in CONTRACTS:
        each.contract.decode(version, json.dumps(sample).encode())
    else:
        ValueCodec(each.contract).decode(json.dumps(sample, separators=(",", ":")).encode())

    assert dict(UNKNOWN.all()) == before, "a field that was written once is unknown today"


def test_every_contract_has_a_sample_of_every_version() -> None:
    recorded = {(each.contract.name, version) for each, version, _ in RECORDED}

    assert recorded == {
        (each.contract.name, number) for each in ALL for number in range(1, each.contract.version + 1)
    }


# -- what needs a new version

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
SIDES = {"type": "string", "enum": ["buy", "sell"]}
OPEN = {"anyOf": [SIDES, TEXT]}


def one(schema: Any, *, optional: bool = False, **more: Any) -> dict[str, Any]:
    """An object with the field `it`, and more optional ones."""
    properties = {"it": schema, **more}
    return {"type": "object", "properties": properties, "required": [] if optional else ["it"]}


def either(*schemas: Any, **more: Any) -> dict[str, Any]:
    return {"anyOf": [*schemas], **more}


NULL = {"type": "null"}
ADDITIVE = {
    "a new optional field": (one(TEXT), one(TEXT, more={"type": "string", "default": ""})),
    "a field that need not be there any more": (one(TEXT), one({**TEXT, "default": ""}, optional=True)),
    "a new reason of an open set": (one(OPEN), one(either({**SIDES, "enum": ["buy", "sell", "swap"]}, TEXT))),
    "a closed set whose members stand in another order": (
        one(SIDES),
        one({**SIDES, "enum": ["sell", "buy"]}),
    ),
    "a title": (one(TEXT), one({**TEXT, "title": "It"})),
    "a new optional field deep inside": (one(one(TEXT)), one(one(TEXT, more={"type": "null"}))),
}
BREAKING = {
    "a field removed": (one(TEXT, more=WHOLE), one(TEXT), "more: the field was removed"),
    "a field renamed": (one(TEXT, old=WHOLE), one(TEXT, new=WHOLE), "old: the field was removed"),
    "a new required field": (
        one(TEXT),
        {**one(TEXT, more=WHOLE), "required": ["it", "more"]},
        "more: the field is new and required",
    ),
    "a field required that was not": (one(TEXT, optional=True), one(TEXT), "it: the field is required now"),
    "another type": (one(WHOLE), one(TEXT), "it: its type changed from integer to string"),
    "another type deep inside": (one(one(WHOLE)), one(one(TEXT)), r"it\.it: its type changed"),
    "another type in a map": (
        one({"type": "object", "additionalProperties": WHOLE}),
        one({"type": "object", "additionalProperties": TEXT}),
        r"it\.\*: its type changed",
    ),
    "another type in a list": (
        one({"type": "array", "items": WHOLE}),
        one({"type": "array", "items": TEXT}),
        r"it\.\*: its type changed",
    ),
    "a map that becomes an object": (
        one({"type": "object", "additionalProperties": WHOLE}),
        one({"type": "object"}),
        "it: `additionalProperties` changed",
    ),
    "no null any more": (one(either(TEXT, NULL)), one(TEXT), "it: it can no longer be null"),
    "a smaller maximum": (
        one({**WHOLE, "maximum": 9}),
        one({**WHOLE, "maximum": 8}),
        "it: `maximum` changed",
    ),
    "a greater minimum": (
        one({**WHOLE, "minimum": 1}),
        one({**WHOLE, "minimum": 2}),
        "it: `minimum` changed",
    ),
    "a bound where there was none": (
        one(TEXT),
        one({**TEXT, "maxLength": 9}),
        "`maxLength` changed from none",
    ),
    "another pattern": (
        one({**TEXT, "pattern": "a"}),
        one({**TEXT, "pattern": "b"}),
        "it: `pattern` changed",
    ),
    "a member of a closed set removed": (
        one(SIDES),
        one({**SIDES, "enum": ["buy"]}),
        "it: 'sell' is no value of it any more",
    ),
    "an open set closed": (one(TEXT), one(SIDES), "it: only buy or sell are allowed now"),
    "another default": (
        one({**WHOLE, "default": 1}, optional=True),
        one({**WHOLE, "default": 2}, optional=True),
        "it: its default changed",
    ),
    "a keyword that nobody has thought of": (
        one(TEXT),
        one({**TEXT, "contains": 1}),
        "it: `contains` changed",
    ),
}
WIDENING = {
    "null": (one(TEXT), one(either(TEXT, NULL)), "it: it can be null now"),
    "another type as well": (one(TEXT), one(either(TEXT, WHOLE)), "it: it can be integer now"),
    "a member of a closed set": (
        one(SIDES),
        one({**SIDES, "enum": ["buy", "sell", "swap"]}),
        "it: 'swap' is a new value of it",
    ),
    "a closed set opened": (one(SIDES), one(OPEN), "it: any text is allowed now"),
    "a greater maximum": (
        one({**WHOLE, "maximum": 9}),
        one({**WHOLE, "maximum": 10}),
        "it: `maximum` changed",
    ),
    "a smaller minimum": (
        one({**WHOLE, "minimum": 1}),
        one({**WHOLE, "minimum": 0}),
        "it: `minimum` changed",
    ),
    "no bound any more": (one({**TEXT, "maxLength": 9}), one(TEXT), "it: `maxLength` changed from 9 to none"),
}


@pytest.mark.parametrize(("old", "new"), ADDITIVE.values(), ids=ADDITIVE)
def test_an_additive_change_keeps_the_version(old: Any, new: Any) -> None:
    assert breaks(old, new, old_reads_new=True) == []


@pytest.mark.parametrize(("old", "new", "told"), BREAKING.values(), ids=BREAKING)
@pytest.mark.parametrize("inside", [True, False])
def test_what_today_could_not_read_of_before_needs_a_version(
    old: Any, new: Any, told: str, inside: bool
) -> None:
    (found, *_) = breaks(old, new, old_reads_new=inside)

    assert re.search(told, str(found)), found


@pytest.mark.parametrize(("old", "new", "told"), WIDENING.values(), ids=WIDENING)
def test_what_a_build_before_could_not_read_needs_a_version_inside_alone(
    old: Any, new: Any, told: str
) -> None:
    (found,) = breaks(old, new, old_reads_new=True)

    assert re.search(told, str(found)), found
    assert breaks(old, new, old_reads_new=False) == []


# -- make schemas


class Transfer(Frozen):
    account_id: str
    minor: int


class TransferWithNote(Frozen):
    account_id: str
    minor: int
    note: str = ""


class TransferInUnits(Frozen):
    account_id: str
    units: int


def transfer(model: Any, *upcasts: Any) -> Kept:
    return Kept(Contract("Transfer", model, Origin.INSIDE, upcasts=upcasts), {})


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of schemas in which version 1 of a transfer is recorded."""
    monkeypatch.setattr(schemas, "SCHEMAS", tmp_path)
    each = transfer(Transfer)
    each.file().write_text(written(each, schema_of(each)), encoding="utf-8")
    return tmp_path


def test_an_optional_field_adds_a_sample_and_keeps_the_old_one(recorded: Path) -> None:
    each = transfer(TransferWithNote)

    assert refusals(each, schema_of(each)) == []
    samples = json.loads(written(each, schema_of(each)))["examples"]
    assert [set(sample) for sample in samples] == [
        {"account_id", "minor"},
        {"account_id", "minor", "note"},
    ]


def test_a_breaking_change_is_refused_with_the_field_and_why(recorded: Path) -> None:
    each = transfer(TransferInUnits)

    assert refusals(each, schema_of(each)) == [
        "Transfer 1: minor: the field was removed: older builds need it, and older records hold it",
        "Transfer 1: units: the field is new and required: older records lack it; give it a default",
    ]


def test_a_breaking_change_with_an_upcaster_is_a_version_of_its_own(recorded: Path) -> None:
    each = transfer(TransferInUnits, lambda value: {**value, "units": value.pop("minor") // 100})

    assert refusals(each, schema_of(each)) == []
    assert each.file() == recorded / "Transfer.v2.json"


def test_a_version_cannot_be_taken_back_once_it_is_recorded(recorded: Path) -> None:
    (recorded / "Transfer.v2.json").write_text("{}", encoding="utf-8")
    each = transfer(Transfer)

    assert refusals(each, schema_of(each)) == ["Transfer: version 2 is recorded; this tree has only 1"]


def test_the_schema_of_an_old_version_may_not_go(recorded: Path) -> None:
    (recorded / "Transfer.v1.json").unlink()
    each = transfer(TransferInUnits, lambda value: value)

    assert refusals(each, schema_of(each)) == ["Transfer: the schema of version 1 is gone: bring it back"]


def test_a_contract_that_is_gone_leaves_its_schema_as_a_stranger(recorded: Path) -> None:
    (told,) = strangers([])

    assert told.startswith("Transfer.v1.json: there is no such contract any more")


def test_a_table_value_above_version_1_has_its_mark_in_schema_and_sample(recorded: Path) -> None:
    contract = Contract("bank.transfers", TransferWithNote, upcasts=(lambda value: value,))
    each = Kept(contract, {"$v": 2})
    found = json.loads(written(each, schema_of(each)))

    assert found["properties"]["$v"] == {"const": 2}
    assert found["examples"][0]["$v"] == 2
    assert ValueCodec(contract).decode(json.dumps(found["examples"][0], separators=(",", ":")).encode())
