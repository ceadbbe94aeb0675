"""How far a local table may be ahead of its changelog before the two cannot belong together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from app.engine.cluster import EARLIEST, READ_COMMITTED, READ_UNCOMMITTED, TP, Cluster
from app.engine.errors import ChangelogMismatch
from app.engine.restore import restore
from app.engine.store import TaskStore

CHANGELOG = TP("app-table-changelog", 0)


class Bounds:
    """A changelog whose log ends at `log`, of which all before `stable` is decided."""

    def __init__(self, stable: int, log: int) -> None:
        self._ends = {READ_COMMITTED: stable, READ_UNCOMMITTED: log}

    async def offsets(self, tps: Iterable[TP], which: int, isolation: int = READ_COMMITTED) -> dict[TP, int]:
        return dict.fromkeys(tps, 0 if which == EARLIEST else self._ends[isolation])


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


def test_the_fake_speaks_as_the_cluster_does() -> None:
    assert Bounds.offsets.__code__.co_varnames[:4] == Cluster.offsets.__code__.co_varnames[:4]
