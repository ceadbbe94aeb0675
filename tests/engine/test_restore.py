"""How far a local table may be ahead of its changelog before the two cannot belong together."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.engine.errors import ChangelogMismatch
from app.engine.kafka.cluster import EARLIEST, READ_COMMITTED, READ_UNCOMMITTED, TP, Cluster, Fetched
from app.engine.state.restore import follow, restore
from app.engine.state.store import TaskStore
from tests.engine.waiting import until

CHANGELOG = TP("app-table-changelog", 0)


class Bounds:
    """A changelog whose log ends at `log`, of which all before `stable` is decided."""

    def __init__(self, stable: int, log: int) -> None:
        self._ends = {READ_COMMITTED: stable, READ_UNCOMMITTED: log}

    async def offsets(self, tps: Iterable[TP], which: int, isolation: int = READ_COMMITTED) -> dict[TP, int]:
        return dict.fromkeys(tps, 0 if which == EARLIEST else self._ends[isolation])


class Readings:
    """A fetcher that fetches nothing, and remembers who reads from where."""

    def __init__(self) -> None:
        self.asked: list[dict[TP, int]] = []
        self.readers: list[Any] = []

    def read(self, reader: Any, positions: dict[TP, int]) -> Any:
        self.readers.append(reader)
        self.asked.append(dict(positions))
        return SimpleNamespace(go_on=lambda: None, close=lambda: None)


def a_fetcher() -> Any:
    return Readings()


async def restored(directory: Path, applied: int, bounds: Bounds) -> int:
    store = TaskStore(directory / "0")
    try:
        store.apply({"table": {b"key": b"value"}}, {"table": applied})
        return await restore(store, cast(Any, bounds), {"table": CHANGELOG}, "lane")
    finally:
        store.close()


async def test_a_table_may_hold_a_commit_whose_marker_is_not_written_yet(tmp_path: Path) -> None:
    assert await restored(tmp_path, applied=52, bounds=Bounds(stable=48, log=52)) == 0


async def test_a_table_that_is_ahead_of_the_whole_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChangelogMismatch, match="ends at 51 but"):
        await restored(tmp_path, applied=52, bounds=Bounds(stable=48, log=51))


async def test_a_standby_that_nobody_writes_to_stays_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.state.restore.STAMP_S", 0.05)
    store = TaskStore(tmp_path / "0")
    changelogs = {"at its end": TP("a", 0), "behind": TP("b", 0)}
    store.apply({}, {"at its end": 52, "behind": 51})
    before = {table: store.applied(table) for table in changelogs}
    lag: dict[str, int] = {}
    bounds: Any = Bounds(stable=52, log=52)
    following = asyncio.create_task(follow(store, bounds, a_fetcher(), changelogs, lag))
    await asyncio.sleep(0.3)
    assert lag == {"at its end": 0, "behind": 1}
    assert store.applied("behind") == before["behind"]
    fresh = store.applied("at its end")
    assert fresh is not None
    assert before["at its end"] is not None
    assert (fresh.next_offset, fresh.at_ms > before["at its end"].at_ms) == (52, True)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    store.close()


async def test_a_standby_that_heard_nothing_for_too_long_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction may have removed the deletions that it has missed."""
    fetcher = a_fetcher()
    monkeypatch.setattr("app.engine.state.restore.FORGET_AFTER_MS", 50)
    store = TaskStore(tmp_path / "0")
    store.apply({"table": {b"deleted since": b"1"}}, {"table": 52})
    bounds: Any = Bounds(stable=60, log=60)
    following = asyncio.create_task(follow(store, bounds, fetcher, {"table": CHANGELOG}, {}))
    await until(lambda: len(fetcher.asked) == 1)
    await asyncio.sleep(0.2)
    assert fetcher.asked == [{CHANGELOG: 52}]
    fetcher.readers[0].take_in(Fetched(CHANGELOG, 52, 53, 53, []))
    await until(lambda: len(fetcher.asked) == 2)
    assert fetcher.asked[1] == {CHANGELOG: 0}
    assert store.get("table", b"deleted since") is None
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    store.close()


async def test_a_standby_ends_when_told_to_though_something_comes_at_that_moment(tmp_path: Path) -> None:
    store = TaskStore(tmp_path / "0")
    fetcher = a_fetcher()
    bounds: Any = Bounds(stable=60, log=60)
    following = asyncio.create_task(follow(store, bounds, fetcher, {"table": CHANGELOG}, {}))
    await until(lambda: len(fetcher.asked) == 1)
    fetcher.readers[0].take_in(Fetched(CHANGELOG, 0, 1, 60, []))
    await asyncio.sleep(0.02)
    fetcher.readers[0].take_in(Fetched(CHANGELOG, 1, 2, 60, []))
    for _ in range(2):  # until what waits for it is done, and nobody has gone on yet
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait_for(asyncio.gather(following, return_exceptions=True), 5)
    assert following.cancelled()
    store.close()


def test_the_fake_speaks_as_the_cluster_does() -> None:
    assert Bounds.offsets.__code__.co_varnames[:4] == Cluster.offsets.__code__.co_varnames[:4]
