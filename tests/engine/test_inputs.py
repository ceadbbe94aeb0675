"""Inputs come and go with releases: a new one is read from its beginning, a lost one is refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.engine.core import take_over as take_over_module
from app.engine.core.task import Task
from app.engine.errors import OffsetsLost
from app.engine.kafka.cluster import EARLIEST, TP, Cluster, Committed
from app.engine.kafka.transaction import NOTE_BYTES_MAX, is_by_worker, read_note, write_note
from tests.engine.conftest import MakeWorld
from tests.engine.workers import BareWorker
from tests.engine.world import World


class Release:
    """A build of the service that reads these inputs of the world."""

    def __init__(self, world: World, *inputs: str) -> None:
        self.world = world
        self.inputs = inputs or ("corrections", "numbers")

    def worker(self) -> BareWorker:
        worker = BareWorker(self.world.options, "only")
        worker.app.input_specs = [
            each for each in worker.app.input_specs if each.name.startswith(self.inputs)
        ]
        return worker

    async def runs(self) -> Task:
        """Run until all that it reads is processed; gives the task that did."""
        async with self.worker() as worker:
            await worker.own()
            await worker.ready()
            await self._processed(worker)
            task = worker.tasks[0]
            await worker.stop()
            return task

    async def _processed(self, worker: BareWorker) -> None:
        names = [each.name for each in worker.app.input_specs]
        await worker.committed(sum(each.topic in names for each in self.world.written))

    async def is_refused(self, told: str) -> None:
        async with self.worker() as worker:
            await worker.own()
            with pytest.raises(OffsetsLost, match=told):
                await worker.ended()


async def committed(world: World) -> dict[str, Committed | None]:
    """The group's offsets, by input."""
    cluster = Cluster(world.options.bootstrap, "test")
    await cluster.start()
    try:
        tps = [TP(spec.name, 0) for spec in (world.corrections, world.numbers)]
        found = await cluster.group_offsets(world.options.id, tps)
        return {tp.topic.partition("-")[0]: each for tp, each in found.items()}
    finally:
        await cluster.stop()


def lose(monkeypatch: pytest.MonkeyPatch, *inputs: str) -> None:
    """The group's offsets of these are gone from here on."""
    group_offsets = Cluster.group_offsets

    async def without(cluster: Cluster, group: str, tps: Any, **more: Any) -> Any:
        found = await group_offsets(cluster, group, tps, **more)
        return {tp: None if tp.topic.startswith(inputs) else each for tp, each in found.items()}

    monkeypatch.setattr(Cluster, "group_offsets", without)


def of_the_last_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits name no inputs."""
    monkeypatch.setattr(take_over_module, "write_note", lambda *_, **more: "")


@pytest.mark.parametrize("exactly_once", [True, False])
async def test_an_input_that_is_new_is_read_from_its_beginning(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture, exactly_once: bool
) -> None:
    world = await make_world(exactly_once=exactly_once)
    await world.send(*world.more(5), topic=world.corrections.name)
    await world.send(*world.more(10))
    await Release(world, "numbers").runs()
    assert (await committed(world))["corrections"] is None
    async with Release(world).worker() as worker:
        await worker.own()
        await worker.committed(5)
        await worker.stop()
    assert f"reads them from where they begin: {world.corrections.name} (offset 0)" in caplog.text
    directory = Path(world.options.directory) / "only"
    assert await world.faults(directories=[directory]) == []


async def test_an_input_that_was_read_before_and_lacks_offsets_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.send(*world.more(5), topic=world.corrections.name)
    await world.send(*world.more(10))
    await Release(world).runs()
    lose(monkeypatch, "corrections")
    await Release(world).is_refused("no committed offsets of corrections-.*, which it has read before")


async def test_an_input_is_known_though_a_release_between_did_not_read_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.send(*world.more(5), topic=world.corrections.name)
    await world.send(*world.more(10))
    await Release(world).runs()
    await world.send(*world.more(10))
    async with Release(world, "numbers").worker() as worker:
        await worker.own()
        await worker.committed(10)
        await worker.stop()
    lose(monkeypatch, "corrections")
    await Release(world).is_refused("which it has read before")


async def test_what_the_last_release_or_a_person_committed_is_named_at_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.send(*world.more(10))
    with monkeypatch.context() as last_release:
        of_the_last_release(last_release)
        await Release(world).runs()
    found = (await committed(world))["numbers"]
    assert found is not None
    assert found.note == ""
    async with Release(world).worker() as worker:
        await worker.own()
        await worker.ready()
        named = {world.corrections.name, world.numbers.name}
        notes = [each.note for each in (await committed(world)).values() if each is not None]
        assert [read_note(each) for each in notes] == [named, named]
        assert all(map(is_by_worker, notes))
        await worker.stop()
    assert f"without the note of a worker, as somebody may have set them: {world.corrections.name}" in (
        caplog.text
    )
    caplog.clear()
    async with Release(world).worker() as worker:
        await worker.own()
        await worker.ready()
        await worker.stop()
    assert "somebody may have set them" not in caplog.text
    assert await world.faults() == []


async def test_an_input_that_lacks_offsets_after_the_last_release_counts_as_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.send(*world.more(10))
    with monkeypatch.context() as last_release:
        of_the_last_release(last_release)
        await Release(world).runs()
    lose(monkeypatch, "corrections")
    async with Release(world).worker() as worker:
        await worker.own()
        await worker.ready()
        tp = TP(world.corrections.name, 0)
        assert worker.tasks[0].positions[tp] == (await worker._cluster.offsets([tp], EARLIEST))[tp]
        await worker.stop()


@pytest.mark.parametrize("names", [["orders"], ["orders", "executions", "risk-limits"]])
def test_a_note_names_inputs(names: Iterable[str]) -> None:
    for by_worker in (True, False):
        note = write_note(names, by_worker=by_worker)
        assert (read_note(note), is_by_worker(note)) == (set(names), by_worker)


@pytest.mark.parametrize("foreign", ["", "orders", "{}", "set by hand"])
def test_a_note_of_another_origin_names_none(foreign: str) -> None:
    assert read_note(foreign) == set()


def test_the_note_of_many_inputs_fits_into_a_commit() -> None:
    assert (
        len(write_note((f"a-topic-with-a-rather-long-name-{each}" for each in range(100)), by_worker=True))
        < NOTE_BYTES_MAX
    )
