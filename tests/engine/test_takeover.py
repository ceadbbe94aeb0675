"""The start of a task: what belongs together stays together, or the task does not start."""

import asyncio
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine import unit_of_work
from app.engine.core.manager import TaskManager
from app.engine.core.task import Task
from app.engine.errors import ChangelogMismatch, OffsetsLost, StoreFailed
from app.engine.kafka.cluster import TP, Cluster
from app.engine.state.store import TaskStore
from storm.steps import Gate, Step
from tests.engine.conftest import MakeWorld
from tests.engine.service import Number
from tests.engine.waiting import until
from tests.engine.workers import BareWorker
from tests.engine.world import World


async def test_the_first_take_over_commits_where_it_begins(world: World) -> None:
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        tps = [TP(world.numbers.name, 0), TP(world.corrections.name, 0)]

        async def committed() -> bool:
            found = await worker._cluster.committed(world.options.id, tps)
            return found == dict.fromkeys(tps, 0)

        await until(committed)


async def test_a_task_whose_companion_wrote_before_any_input_starts_again(make_world: MakeWorld) -> None:
    world = await make_world(ticks=3)
    world.expect_ticks()
    for _ in range(2):
        async with BareWorker(world.options, "only") as worker:
            await worker.own()
            await worker.ready()
            companion = worker.app.task_companions[0]
            await companion(worker.tasks[0])
            await worker.stop()
    assert await world.faults(directories=[Path(world.options.directory) / "only"]) == []


async def test_a_task_that_is_cancelled_while_it_ends_leaves_no_tables_open(world: World) -> None:
    """It waits for a commit under way, which may wait for a broker."""
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        task, run = worker.tasks[0], worker.runs[0]
        async with task.lock:
            task.stop()
            await until(lambda: task.closed)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()
        assert task.store is None
        TaskStore(task.path).close()


async def test_a_commit_that_is_cancelled_is_left_to_a_new_take_over(make_world: MakeWorld) -> None:
    world = await make_world(ticks=3)
    world.expect_ticks()
    in_commit = Gate(after=1)
    async with BareWorker(world.options, "only", {Step.BEFORE_COMMIT: in_commit}) as worker:
        await worker.own()
        await worker.ready()
        companion = worker.app.task_companions[0]
        ticking = worker._spawn(companion(worker.tasks[0]))
        await until(in_commit.reached.is_set)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        in_commit.open()
        await worker.ended()
        assert worker.tasks[0].fenced is not None
        await worker.revive_if_fenced()
        await worker.ready()
        await companion(worker.tasks[0])
        await world.send(*world.more(10))
        await world.all_processed()
        await worker.stop()
    assert await world.faults(directories=[Path(world.options.directory) / "only"]) == []


async def test_batches_without_effect_are_committed_with_the_next_and_when_nothing_comes(
    world: World,
) -> None:
    ignored = [Number(f"ignored-{each}", "key-1", 1, then="ignore") for each in range(30)]
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        for number in ignored[:10]:
            await world.send(number)
        await world.all_processed()
        for number in ignored[10:]:
            await world.send(number, *world.more(1))
        await world.all_processed()
        await world.send(Number("last", "key-1", 1, then="ignore"))
        await until(lambda: worker.tasks[0].positions[TP(world.numbers.name, 0)] == 51)
        await worker.stop()
    await world.all_processed()
    dead = [each.number.id for each in world.written if each.number.then]
    assert await world.faults(directories=[Path(world.options.directory) / "only"], dead=dead) == []


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (("numbers", "corrections"), "offsets have expired or were deleted"),
        (("numbers",), "no committed offsets of numbers-.*, which it has read before"),
    ],
)
async def test_tables_without_offsets_do_not_start_from_the_beginning(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...], told: str
) -> None:
    group_offsets = Cluster.group_offsets

    await world.send(*world.more(10))
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.all_processed()
        await worker.stop()

    async def expired(cluster: Cluster, group: str, tps: Any, **more: Any) -> Any:
        found = await group_offsets(cluster, group, tps, **more)
        return {tp: None if tp.topic.startswith(lost) else offset for tp, offset in found.items()}

    monkeypatch.setattr(Cluster, "group_offsets", expired)
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        with pytest.raises(OffsetsLost, match=told):
            await worker.ended()
    assert await world.faults() == []


async def test_a_worker_that_sleeps_in_its_first_take_over_finds_itself_fenced(world: World) -> None:
    asleep = Gate()
    async with (
        BareWorker(world.options, "old", {Step.READ_OFFSETS: asleep}) as old,
        BareWorker(world.options, "new") as new,
    ):
        await old.own()
        await until(asleep.reached.is_set)
        await new.own()
        await world.send(*world.more(10))
        await world.all_processed()
        asleep.open()
        await old.ended()
        assert old.tasks[0].fenced is not None
        await new.stop()
    assert await world.faults(directories=[Path(world.options.directory) / "new"]) == []


async def test_neither_task_nor_companion_begins_before_every_global_table_is_read() -> None:
    """The companions of a task begin with it, in `_run_once`."""
    tables = [SimpleNamespace(ready=asyncio.Event()) for _ in range(3)]
    began: list[int] = []

    async def run_once(partition: int, store: object) -> Any:
        began.append(partition)
        return SimpleNamespace(fenced=None)

    async def warm_store(partition: int) -> None:
        pass

    manager: Any = SimpleNamespace(
        app=SimpleNamespace(global_tables=tables, conf=SimpleNamespace(id="exchange")),
        wanted={0},
        should_stop=False,
        following={},
        _left={},
        _run_once=run_once,
        _warm_store=warm_store,
    )
    owning = asyncio.create_task(TaskManager.own(manager, 0, None))
    for table in tables:
        await asyncio.sleep(0.01)
        assert began == []
        table.ready.set()
    await asyncio.wait_for(owning, 5)
    assert began == [0]


async def test_a_companion_fails_for_good_only_where_its_task_is_still_ours(world: World) -> None:
    """One that slept sees old tables, which contradict what it hears from outside."""
    crashes: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        crashes.append(error)

    async def contradiction(task: Task) -> None:
        raise ArithmeticError("the tables and the world disagree")

    manager: Any = SimpleNamespace(app=SimpleNamespace(crash=crash))
    manager._judge = partial(TaskManager._judge, manager)
    async with (
        BareWorker(world.options, "old") as old,
        BareWorker(world.options, "new") as new,
    ):
        await old.own()
        await old.ready()
        sleeper = old.tasks[0]
        await new.own()
        await new.ready()
        await TaskManager._accompany(manager, sleeper, contradiction)
        assert sleeper.fenced is not None
        assert not crashes
        await TaskManager._accompany(manager, new.tasks[0], contradiction)
        assert [type(each) for each in crashes] == [ArithmeticError]
        assert new.tasks[0].fenced is None


async def test_a_table_ahead_of_its_changelog_does_not_start(world: World) -> None:
    path = Path(world.options.directory) / "only" / "tables" / "0"
    store = TaskStore(path)
    store.apply({}, {"sums": 1000})
    store.close()
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        with pytest.raises(ChangelogMismatch, match="ends at 0 but"):
            await worker.ended()


async def test_a_store_that_cannot_be_written_stops_the_task_and_nothing_is_done_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, full = TaskStore.apply, False

    def sometimes(*args: Any) -> None:
        if full:
            raise OSError("No space left on device")
        apply(*args)

    monkeypatch.setattr(TaskStore, "apply", sometimes)
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.send(*world.more(10))
        await world.all_processed()
        full = True
        await world.send(*world.more(10))
        with pytest.raises(StoreFailed, match="No space left"):
            await worker.ended()
    full = False
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.send(*world.more(10))
        await world.all_processed()
        await worker.stop()
    assert await world.faults(directories=[Path(world.options.directory) / "only"]) == []


async def test_an_agent_that_leaves_records_unread_acknowledges_none(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.send(*world.more(10))
    async with BareWorker(world.options, "only") as worker:

        async def lazy(batches: Any) -> None:
            async for batch in batches:
                async with unit_of_work(batch) as work:
                    next(iter(work.records()))

        worker.app.service_agent.fun = lazy
        await worker.own()
        await until(lambda: "left records of its batch unread" in caplog.text)
        await worker.vanish()
    assert await world.totals_out() == []
