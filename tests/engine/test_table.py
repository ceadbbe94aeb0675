"""Tables inside and outside a unit of work."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict

from app.engine import Table, TaskTable
from app.engine.core.effects import TableView
from app.engine.kafka.cluster import partition_of
from app.engine.shards import shards_of
from app.engine.state import table as table_module
from app.engine.state.store import TaskStore
from tests.engine.service import Options, Total, make_app

APP = make_app(Options(bootstrap="127.0.0.1:1", id="unit-tables", directory="nowhere"))
TABLES: Any = APP.tables
SUMS: Table = TABLES["sums"]


class Loose(BaseModel):
    """A model that can be edited."""

    count: int = 0


class Tight(BaseModel):
    """A model that cannot."""

    model_config = ConfigDict(frozen=True)
    count: int = 0


class LooseStruct(msgspec.Struct):
    count: int = 0


@pytest.fixture
def table(tmp_path: Path) -> Any:
    store = TaskStore(tmp_path / "0")
    yield TaskTable(SUMS, store, 0)
    store.close()


def a_total(count: int = 1, key: str = "k") -> Total:
    return Total(f"n{count}", key, count, count * 10)


def write(table: TaskTable, rows: dict[str, Total | None], offset: int) -> None:
    encoded = {k.encode(): None if v is None else SUMS.encode(v) for k, v in rows.items()}
    table._store.apply({"sums": encoded}, {"sums": offset})
    table.committed(rows)


def test_a_view_has_what_is_committed_under_what_was_changed(table: TaskTable) -> None:
    write(table, {"a": a_total(1), "b": a_total(2), "c": a_total(3)}, 3)
    view = TableView(table)
    view["a"] = a_total(9)
    del view["b"]
    assert view["a"] == a_total(9)
    assert "a" in view
    assert "b" not in view
    assert view.get("b") is None
    assert view.get("b", a_total(0)) == a_total(0)
    with pytest.raises(KeyError, match="b"):
        view["b"]
    assert view["c"] == a_total(3)
    assert view.get("never", a_total(0)) == a_total(0)
    assert view.changes == {"a": a_total(9), "b": None}


def test_nothing_of_a_view_shows_outside_before_it_is_committed(table: TaskTable) -> None:
    write(table, {"a": a_total(1)}, 1)
    view, other = TableView(table), TableView(table)
    view["a"] = a_total(2)
    del view["b"]
    assert table.get("a") == other["a"] == a_total(1)
    assert table.offset == 1


def test_a_default_is_not_stored(table: TaskTable) -> None:
    view = TableView(table)
    view.get("a", a_total())
    assert view.changes == {}


def test_deleting_twice_and_what_never_was_is_no_error(table: TaskTable) -> None:
    view = TableView(table)
    del view["a"]
    del view["a"]
    assert view.changes == {"a": None}
    view["a"] = a_total()
    assert view["a"] == a_total()


def test_a_table_forgets_what_was_deleted(table: TaskTable) -> None:
    write(table, {"a": a_total(1), "b": a_total(2)}, 2)
    assert table.get("a") == a_total(1)
    write(table, {"a": None}, 3)
    assert table.get("a") is None
    assert list(table.items()) == [("b", a_total(2))]


def test_the_cache_is_bounded_and_nothing_is_lost_from_it(
    table: TaskTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "CACHE_KEYS_MAX", 20)
    rows: dict[str, Total | None] = {f"k{each}": a_total(each) for each in range(100)}
    for key, total in rows.items():
        write(table, {key: total}, 1)
        assert len(table._cache) <= 20
    for key, total in rows.items():
        assert table.get(key) == total
        assert len(table._cache) <= 20


def test_items_come_in_the_order_of_keys_from_behind_the_one_named(table: TaskTable) -> None:
    write(table, {key: a_total(key=key) for key in ("b", "a/2", "a", "ä", "a/10")}, 5)
    assert [key for key, _ in table.items()] == ["a", "a/10", "a/2", "b", "ä"]
    assert [key for key, _ in table.items(after="a/10")] == ["a/2", "b", "ä"]
    assert [key for key, _ in table.items(after="zz")] == ["ä"]


def test_the_digest_tells_states_apart_whatever_way_they_were_reached(table: TaskTable) -> None:
    write(table, {"a": a_total(1), "bc": a_total(2)}, 2)
    first = table.digest()
    write(table, {"x": a_total(3)}, 3)
    assert table.digest() != first
    write(table, {"x": None}, 4)
    assert table.digest() == first
    assert first[0] == 2


def test_the_part_before_the_slash_decides_where_a_key_lives() -> None:
    assert Table.routing_key("account/order/1") == b"account"
    assert Table.routing_key("account") == b"account"


@pytest.mark.parametrize("partitions", [1, 2, 8, 256])
def test_a_table_by_shard_has_its_keys_on_the_partition_of_their_shard(partitions: int) -> None:
    table = Table(APP, name=f"shards-{uuid4()}", value_type=int, by_shard=True)
    for partition in range(partitions):
        shards = shards_of(partition, partitions)
        assert {table.home(str(shard), partitions) for shard in shards} == {partition}
    assert {table.home(key, partitions) for key in ("256", "-1", "01", "1.0", "", "²", "x", "9" * 99)} == {
        None
    }
    assert SUMS.home("key/7", partitions) == partition_of(b"key", partitions)


class Marked:
    """A codec that marks what it writes."""

    frozen = False

    def decode(self, data: bytes, /) -> list[int]:
        assert data.startswith(b"[0,")
        return [int(each) for each in data[1:-1].split(b",")][1:]

    def encode(self, value: list[int], /) -> bytes:
        return b"[%b]" % b",".join(b"%d" % each for each in [0, *value])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_codec_takes_the_place_of_a_type(frozen: bool, tmp_path: Path) -> None:
    codec = Marked()
    codec.frozen = frozen
    declared = Table(APP, name=f"codec-{uuid4()}", value_type=codec)
    store = TaskStore(tmp_path / "0")
    table = TaskTable(declared, store, 0)
    store.apply({declared.name: {b"k": declared.encode([7, 8])}}, {declared.name: 1})
    assert table.raw("k") == b"[0,7,8]"
    read = table.get("k")
    assert read == [7, 8]
    assert (table.get("k") is read) == frozen
    assert table.raw("l") is None
    assert table.get("l") is None
    store.close()


class Coded(msgspec.Struct, frozen=True):
    """A value whose own fields are called like a codec's methods."""

    decode: int = 1
    encode: int = 2
    frozen: bool = False


def test_a_type_is_no_codec_whatever_its_fields_are_called(tmp_path: Path) -> None:
    declared = Table(APP, name=f"coded-{uuid4()}", value_type=Coded)
    assert declared.decode(declared.encode(Coded(3))) == Coded(3)
    assert declared.frozen


@pytest.mark.parametrize(
    ("value_type", "value"),
    [(dict[str, int], {"n": 1}), (list[int], [1]), (Loose, Loose(count=1)), (LooseStruct, LooseStruct(1))],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_what_can_be_edited_is_read_as_a_copy_and_counts_as_changed(
    value_type: Any, value: Any, tmp_path: Path
) -> None:
    """Python's habit, and Faust's: read, edit, assign. It must not be lost, nor leak when it fails."""
    declared = Table(APP, name=f"edited-{uuid4()}", value_type=value_type)
    store = TaskStore(tmp_path / "0")
    table = TaskTable(declared, store, 0)
    store.apply({declared.name: {b"k": declared.encode(value)}}, {declared.name: 1})
    table.committed({"k": value})
    read = table.get("k")
    assert read == value
    assert not table.has("k", read)
    if isinstance(read, dict):
        read["n"] = 2
    elif isinstance(read, list):
        read.append(2)
    else:
        read.count = 2
    assert table.get("k") == value, "an edit that was never committed shows"
    store.close()


@pytest.mark.parametrize("value_type", [Tight, Total, str, int], ids=lambda each: each.__name__)
def test_what_cannot_be_edited_is_decoded_once(value_type: Any, tmp_path: Path) -> None:
    declared = Table(APP, name=f"frozen-{uuid4()}", value_type=value_type)
    store = TaskStore(tmp_path / "0")
    table = TaskTable(declared, store, 0)
    value = {Tight: Tight(count=3), Total: a_total(), str: "text" * 99, int: 10**9}[value_type]
    store.apply({declared.name: {b"k": declared.encode(value)}}, {declared.name: 1})
    read = table.get("k")
    assert read == value
    assert table.get("k") is read
    assert table.has("k", read)
    assert not table.has("k", None)
    store.close()
