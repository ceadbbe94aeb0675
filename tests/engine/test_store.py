"""The store: one write for data and offset, what is damaged gives way, what is locked is waited for."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.errors import ChangelogMismatch
from app.engine.kafka.cluster import TP
from app.engine.state import store as store_module
from app.engine.state.restore import FORGET_AFTER_MS, _start
from app.engine.state.store import TaskStore

CHANGELOG = TP("sums-changelog", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a block of flocks" / "0"


@pytest.fixture
def store(path: Path) -> Iterator[TaskStore]:
    opened = TaskStore(path)
    yield opened
    opened.close()


def test_a_write_brings_data_and_offset_and_survives(store: TaskStore, path: Path) -> None:
    store.apply({"sums": {b"a": b"1", b"b": b"2"}, "other": {b"a": b"3"}}, {"sums": 7, "other": 9})
    store.apply({"sums": {b"a": None, b"c": b"4"}}, {"sums": 8})
    store.close()
    again = TaskStore(path)
    try:
        assert dict(again.scan("sums")) == {b"b": b"2", b"c": b"4"}
        assert dict(again.scan("other")) == {b"a": b"3"}
        assert again.get("sums", b"a") is None
        sums, other = again.applied("sums"), again.applied("other")
        assert sums is not None
        assert other is not None
        assert (sums.next_offset, other.next_offset) == (8, 9)
        assert again.applied("never") is None
    finally:
        again.close()


@given(st.dictionaries(st.binary(max_size=4), st.binary(max_size=3), max_size=20), st.binary(max_size=4))
def test_a_scan_is_in_the_order_of_keys_and_begins_behind_the_one_named(
    rows: dict[bytes, bytes], after: bytes
) -> None:
    table = f"t{os.urandom(6).hex()}"
    shared.apply({table: dict(rows), f"{table}\x01": {b"x": b"y"}, f"{table}2": {b"x": b"y"}}, {})
    assert list(shared.scan(table)) == sorted(rows.items())
    assert list(shared.scan(table, after)) == [each for each in sorted(rows.items()) if each[0] > after]


shared: TaskStore


@pytest.fixture(autouse=True, scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global shared
    shared = TaskStore(tmp_path_factory.mktemp("shared") / "0")
    yield
    shared.close()


def test_forgetting_a_table_takes_its_offset_along_and_leaves_the_others(store: TaskStore) -> None:
    store.apply({"sum": {b"a": b"0"}, "sums": {b"a": b"1"}, "sums2": {b"a": b"2"}}, {"sums": 7, "sums2": 7})
    store.forget("sums")
    assert dict(store.scan("sums")) == {}
    assert store.applied("sums") is None
    assert dict(store.scan("sum")) == {b"a": b"0"}
    assert dict(store.scan("sums2")) == {b"a": b"2"}
    assert store.applied("sums2") is not None


def test_forgetting_is_one_write(store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data gone and offset left, as a death in between two writes would have it, is a table with holes."""

    class OneWrite:
        def __init__(self) -> None:
            self.writes = 0

        def write(self, batch: object) -> None:
            self.writes += 1

    only = OneWrite()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_db", only)
        store.forget("sums")
    assert only.writes == 1


@pytest.mark.parametrize("what", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("how", ["garbage", "half", "gone"])
def test_a_damaged_database_is_moved_aside(
    what: str, how: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TaskStore(path)
    store.apply({"sums": {b"%d" % each: bytes(100) for each in range(500)}}, {"sums": 500})
    store._db.flush()
    store.close()
    for file in path.glob(what):
        data = file.read_bytes()
        file.unlink()
        if how != "gone":
            file.write_bytes(os.urandom(len(data)) if how == "garbage" else data[: len(data) // 2])
    with caplog.at_level(logging.ERROR):
        again = TaskStore(path)
    try:
        assert dict(again.scan("sums")) == {}
        assert again.applied("sums") is None
        again.apply({"sums": {b"a": b"1"}}, {"sums": 1})
    finally:
        again.close()
    assert len(list(path.parent.glob("0.damaged-*"))) <= 1


def test_only_the_latest_damaged_database_is_kept(path: Path) -> None:
    for _ in range(3):
        TaskStore(path).close()
        (path / "CURRENT").write_bytes(b"nonsense")
    TaskStore(path).close()
    assert len(list(path.parent.glob("0.damaged-*"))) == 1


@pytest.mark.parametrize(
    "error", ["IO error: No space left on device: While appending", "IO error: Permission denied: x"]
)
def test_a_sick_disk_is_no_damage(error: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TaskStore(path).close()

    def refuse(*_: object, **__: object) -> None:
        raise Exception(error)

    monkeypatch.setattr(store_module, "Rdict", refuse)
    with pytest.raises(Exception, match=error):
        TaskStore(path)
    assert path.exists()


def test_damage_that_does_not_go_away_is_an_error_and_no_endless_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TaskStore(path).close()
    opened = []

    def refuse(at: str, *_: object, **__: object) -> None:
        opened.append(at)
        Path(at).mkdir(exist_ok=True)
        raise Exception("Corruption: all of it")

    monkeypatch.setattr(store_module, "Rdict", refuse)
    with pytest.raises(Exception, match="Corruption"):
        TaskStore(path)
    assert len(opened) == 2


def test_a_store_in_use_is_waited_for_and_then_refused(
    store: TaskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_WAIT_S", 0.2)
    store.apply({"sums": {b"a": b"1"}}, {"sums": 1})
    with pytest.raises(Exception, match="lock"):
        TaskStore(path)
    assert store.get("sums", b"a") == b"1"


# -- where a restore begins


def at(store: TaskStore, offset: int, monkeypatch: pytest.MonkeyPatch, age_ms: int = 0) -> None:
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now - age_ms * 1_000_000)
        store.apply({"sums": {b"a": b"1"}}, {"sums": offset})


def test_a_new_table_is_restored_from_the_beginning_of_its_changelog(store: TaskStore) -> None:
    assert _start(store, "sums", CHANGELOG, 5, 90) == 5


@pytest.mark.parametrize("offset", [5, 6, 89, 90])
def test_a_table_goes_on_where_it_was(offset: int, store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    at(store, offset, monkeypatch, age_ms=FORGET_AFTER_MS - 60_000)
    assert _start(store, "sums", CHANGELOG, 5, 90) == offset
    assert store.get("sums", b"a") == b"1"


def test_a_table_ahead_of_its_changelog_is_refused(store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    at(store, 91, monkeypatch)
    with pytest.raises(ChangelogMismatch, match=r"ends at 90 but .* has applied it up to 91"):
        _start(store, "sums", CHANGELOG, 5, 90)
    assert store.get("sums", b"a") == b"1"


def test_a_table_whose_next_records_are_gone_is_refused(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(store, 4, monkeypatch)
    with pytest.raises(ChangelogMismatch, match=r"begins at 5 but .* needs it from 4"):
        _start(store, "sums", CHANGELOG, 5, 90)


def test_a_table_too_old_for_its_changelogs_deletions_is_restored_whole(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(store, 50, monkeypatch, age_ms=FORGET_AFTER_MS + 60_000)
    assert _start(store, "sums", CHANGELOG, 5, 90) == 5
    assert store.get("sums", b"a") is None
    assert store.applied("sums") is None


def test_what_a_failure_leaves_behind_does_not_keep_a_closed_database_open(tmp_path: Path) -> None:
    store = TaskStore(tmp_path / "0")
    store.apply({"sums": {b"a": b"1", b"b": b"2"}}, {"sums": 2})
    rest = store.scan("sums")
    next(rest)
    left_behind: list[object] = [rest]
    left_behind.append(left_behind)  # as an error's traceback and its frames hold each other
    store.close()
    del rest, left_behind
    again = TaskStore(tmp_path / "0")
    assert again.get("sums", b"b") == b"2"
    again.close()


def test_a_database_whose_opening_never_ended_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "0"
    store = TaskStore(path)
    store.apply({"sums": {b"a": b"1"}}, {"sums": 1})
    store.close()
    (tmp_path / "0.opening").write_text("another process")
    again = TaskStore(path)
    assert again.applied("sums") is None
    again.close()
    assert list(tmp_path.glob("0.damaged-*"))
    assert not (tmp_path / "0.opening").exists()
