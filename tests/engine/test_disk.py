"""Disks that are full and files that are damaged: nothing is lost or guessed, and it mends itself."""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from app.engine.errors import StoreDamaged
from app.engine.kafka.cluster import TP
from app.engine.state.store import TaskStore
from app.engine.state.table import TaskTable
from app.engine.web.read import Busy, Reader
from tests.engine.conftest import MakeWorld
from tests.engine.damage import DAMAGES, garbled_tables
from tests.engine.running import directories, load, workers
from tests.engine.waiting import until
from tests.engine.workers import BareWorker
from tests.engine.world import World, stores_below

DISK_BYTES = 24 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the tables of worker `a`."""
    path = tmp_path / "a" / "v1"
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs can be mounted here: that takes root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, leave_bytes: int) -> Path:
    """Write a file that leaves only so much room; a worker may take some of it meanwhile."""
    found = os.statvfs(disk)
    ballast = disk / "ballast"
    try:
        ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - leave_bytes)))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return ballast


async def test_a_worker_without_room_acknowledges_nothing_and_goes_on_when_there_is_some(
    make_world: MakeWorld, small_disk: Path
) -> None:
    world = await make_world(partitions=2, disk_free_bytes_min=8 * 1024 * 1024)
    with workers() as start:
        process = start(world, "a")
        await world.send(*world.more(40))
        await world.all_processed()
        ballast = fill(small_disk, 4 * 1024 * 1024)
        async with load(world):
            await until(lambda: "disk full" in process.said())
            await asyncio.sleep(1.0)  # what the other task had begun to commit may end
            before = await world.totals_out()
            await asyncio.sleep(1.0)  # time for a worker that goes on all the same
        assert len(await world.totals_out()) == len(before)
        assert await world.behind()
        ballast.unlink()
        await world.all_processed()
        assert [process.said().count(each) for each in ("disk full", "going on")] == [1, 1]
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await world.faults(directories=directories(world, "a")) == []


async def test_a_disk_that_is_full_after_a_commit_costs_a_restore_of_the_tail(
    make_world: MakeWorld, small_disk: Path
) -> None:
    world = await make_world(partitions=2)
    with workers() as start:
        process = start(world, "a")
        await world.send(*world.more(40))
        await world.all_processed()
        ballast = fill(small_disk, 0)
        await world.send(*world.more(4_000, keys=500))
        await until(lambda: "has no room" in process.said())
        ballast.unlink()
        await world.all_processed()
        assert process.exit_code is None
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await world.faults(directories=directories(world, "a")) == []


async def test_damaged_tables_are_moved_aside_and_restored_whatever_is_damaged(make_world: MakeWorld) -> None:
    world, healed = await make_world(partitions=2), 0
    with workers() as start:
        for damage in DAMAGES:
            process = start(world, "a")
            await world.send(*world.more(60, keys=20))
            await world.all_processed()
            process.kill()
            healed += "restoring from the changelog" in process.said()
            (directory,) = directories(world, "a")
            for path in stores_below(directory):
                damage(path)
        process = start(world, "a")
        await world.send(*world.more(60, keys=20))
        await world.all_processed()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert healed >= len(DAMAGES) // 2  # a log that is cut or damaged is read up to there
    assert await world.dead() == []
    assert await world.faults(directories=directories(world, "a")) == []


def a_store(path: Path) -> TaskStore:
    """A store with a table on disk, opened anew."""
    store = TaskStore(path)
    for part in range(4):
        records = {f"{part}-{key}".encode(): os.urandom(300) for key in range(1_000)}
        store.apply({"sums": dict(records)}, {"sums": part})
    store.close()
    return TaskStore(path)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: [store.get("sums", f"1-{key}".encode()) for key in range(1_000)],
        lambda store: list(store.scan("sums")),
    ],
    ids=["read", "scan"],
)
def test_damage_under_an_open_store_is_found_out_by(
    tmp_path: Path, use: Callable[[TaskStore], object]
) -> None:
    store = a_store(tmp_path / "0")
    garbled_tables(tmp_path / "0")
    with pytest.raises(StoreDamaged):
        use(store)
    store.close()


async def test_a_damaged_standby_heals(world: World) -> None:
    async with BareWorker(world.options, "owner") as owner, BareWorker(world.options, "standby") as second:
        await world.send(*world.more(40))
        await owner.own()
        await world.all_processed()
        for _ in range(2):
            async with second.standby(0) as following:
                await until(lambda: following.lag == {"sums": 0, "quarantine": 0})
            (path,) = stores_below(Path(world.options.directory) / "standby")
            garbled_tables(path)
        async with second.standby(0) as following:
            await until(lambda: following.lag == {"sums": 0, "quarantine": 0})
            await world.send(*world.more(40))
            await world.all_processed()
        await owner.stop()
    assert list(path.parent.glob("0.damaged-*"))
    assert await world.faults(directories=[Path(world.options.directory) / "standby"]) == []


async def test_a_table_that_a_reader_finds_damaged_is_given_up_to_be_restored(world: World) -> None:
    async with BareWorker(world.options, "a") as worker:
        await world.send(*world.more(40))
        await worker.own(0)
        await worker.ready()
        task = worker.tasks[0]
        reader = Reader(SimpleNamespace(tables=SimpleNamespace(tasks={0: task})))
        with (
            mock.patch.object(TaskTable, "digest", side_effect=StoreDamaged("a block is damaged")),
            pytest.raises(Busy, match="partition 0 is about to be restored: a block is damaged"),
        ):
            await reader.states()
        with pytest.raises(StoreDamaged):
            await worker.runs[0]


async def test_a_standby_that_a_reader_finds_damaged_heals(world: World) -> None:
    async with BareWorker(world.options, "owner") as owner, BareWorker(world.options, "standby") as second:
        await world.send(*world.more(40))
        await owner.own()
        await world.all_processed()
        async with second.standby(0) as following:
            await until(lambda: following.lag == {"sums": 0, "quarantine": 0})
            following.give_up(StoreDamaged("a block is damaged"))
            await until(lambda: following.lag == {})
            await until(lambda: following.lag == {"sums": 0, "quarantine": 0})
            (path,) = stores_below(Path(world.options.directory) / "standby")
        await owner.stop()
    assert list(path.parent.glob("0.damaged-*"))
    assert await world.faults(directories=[Path(world.options.directory) / "standby"]) == []


async def test_a_standby_ahead_of_its_changelog_says_so_and_ends_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store = TaskStore(Path(world.options.directory) / "standby" / "tables" / "0")
    store.apply({}, {"sums": 1000})
    store.close()
    async with BareWorker(world.options, "standby") as second:
        async with second.standby(0):
            await until(lambda: "no standby of partition 0" in caplog.text)
        assert "If that was meant, remove" in caplog.text
        assert await second._cluster.committed(world.options.id, [TP(world.numbers.name, 0)])
