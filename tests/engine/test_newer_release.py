"""What a newer release has written is nobody's fault: the task waits in front of it, and says so once."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from app.engine import Fenced, NewerRelease, Poison, Record, Table, TopicSpec, UnitOfWork, unit_of_work
from app.engine.core import newer as newer_module
from app.engine.kafka.cluster import TP
from tests.engine.alone import APP, Alone, Raw, a_key
from tests.engine.conftest import MakeWorld
from tests.engine.service import JsonCodec, Number, Total, TotalCodec, key_of
from tests.engine.waiting import until
from tests.engine.workers import WorkerProcess

HOME, OTHER = a_key(1), a_key(1, 1)
SOON_S = 0.02
NEWER = (("schema-version", b"2"),)


def topic(name: str, release: int = 1, **more: Any) -> TopicSpec:
    return TopicSpec(name, JsonCodec(Number, release), key_of, **more)


EVENTS, EDGE = topic("events"), topic("edge", edge=True)


def a_number(id: str = "n", key: str = HOME, then: str = "") -> bytes:
    return msgspec.json.encode(Number(id, key, 1, then))


def take_it(work: UnitOfWork, record: Record) -> None:
    if record.value.then == "poison":
        raise Poison("this number can never be added")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Alone]]:
    made = []

    def make_one(**more: Any) -> Alone:
        made.append(Alone(tmp_path, **{"handle": take_it, "inputs": (EVENTS, EDGE), **more}))
        return made[-1]

    yield make_one
    for each in made:
        each.store.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newer_module, "NEWER_PAUSE_S", SOON_S)


async def waits(alone: Alone) -> str:
    await until(lambda: alone.task.waits_for is not None)
    assert alone.task.waits_for is not None
    return alone.task.waits_for


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("spec", [EVENTS, EDGE], ids=lambda spec: spec.name)
async def test_what_stands_before_it_is_committed_and_the_rest_waits(
    make: Callable[..., Alone], spec: TopicSpec, caplog: pytest.LogCaptureFixture
) -> None:
    alone = make()
    with caplog.at_level(logging.INFO):
        taking = alone.taking(
            (spec, Raw(0, OTHER.encode(), a_number("poison", OTHER, "poison"))),
            (spec, Raw(1, HOME.encode(), a_number())),
            (spec, Raw(2, HOME.encode(), a_number(), NEWER)),
            (spec, Raw(3, HOME.encode(), a_number())),
        )
        line = await waits(alone)
        await asyncio.sleep(10 * SOON_S)

    assert line == (
        f"task alone-1 waits at {spec.name}/1/2: Number in version 2 was written by a newer release; "
        "this build knows up to 1: upgrade this one"
    )
    assert caplog.text.count("newer release") == 1, "it is said once"
    assert alone.taken == [f"{spec.name}/0", f"{spec.name}/1"]
    assert [each["offset"] for each in alone.dead] == ["0"]
    assert not taking.done()
    assert alone.task.agent_turn.number is None, "to wait is not to be stuck"
    alone.task.stop()
    await taking


async def test_it_says_so_before_it_commits_what_was_deferred(make: Callable[..., Alone]) -> None:
    """A commit may take as long as Kafka is away, and companions go by what the task says."""
    alone, said, goes_on = make(), [], asyncio.Event()

    async def commit(_: Any) -> None:
        said.append(alone.task.waits_for)
        await goes_on.wait()

    unsafe: Any = alone.task
    unsafe.commit, alone.task.deferred = commit, {TP(EVENTS.name, 1): 5}
    taking = alone.taking((EVENTS, Raw(5, HOME.encode(), a_number(), NEWER)))
    await until(lambda: len(said) == 1)
    goes_on.set()
    alone.task.stop()
    await taking

    assert "waits at events/1/5: Number in version 2" in (said[0] or "")


@pytest.mark.usefixtures("soon")
async def test_it_goes_on_when_the_record_can_be_read(
    make: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make()
    taking = alone.taking(*((EVENTS, Raw(each, HOME.encode(), a_number(), NEWER)) for each in range(3)))
    await waits(alone)
    monkeypatch.setattr(EVENTS.codec, "_release", 2)
    await asyncio.wait_for(taking, 5)

    assert alone.task.waits_for is None
    assert alone.taken == [f"events/{each}" for each in range(3)]
    assert alone.dead == []


def sums(codec: TotalCodec) -> Table:
    return Table(APP, name=f"sums-{uuid4()}", value_type=codec)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("where", ["unit of work", "task"])
async def test_a_tables_value_holds_the_task_like_a_record(
    make: Callable[..., Alone], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback. It is the third record that needs the value: the first two are committed."""
    old, new = TotalCodec(1), TotalCodec(2)
    table = sums(old)

    def look(work: UnitOfWork, record: Record) -> None:
        if where == "task":
            work.task.table(table).get(record.value.key)
        else:
            work[table].get(record.value.key)

    alone = make(handle=look, tables=[table])
    value = new.encode(Total("n", OTHER, 1, 1))
    alone.store.apply({table.name: {OTHER.encode(): value}}, {table.name: 1})
    keys = (HOME, HOME, OTHER, HOME)
    taking = alone.taking(*((EVENTS, Raw(n, k.encode(), a_number(key=k))) for n, k in enumerate(keys)))
    assert "table sums in version 2 was written by a newer release" in await waits(alone)
    assert alone.taken == ["events/0", "events/1"]
    monkeypatch.setattr(old, "_release", 2)
    await asyncio.wait_for(taking, 5)

    assert len(alone.taken) == 4
    assert alone.dead == []
    assert alone.task.table(table).raw(OTHER) == value, "the web shows what nobody here can read"


async def test_a_companion_commits_while_its_task_waits(make: Callable[..., Alone]) -> None:
    """What comes from outside meanwhile is booked: nothing of it stands behind the record."""
    table = sums(TotalCodec(1))
    alone = make(tables=[table])
    taking = alone.taking((EVENTS, Raw(0, HOME.encode(), a_number(), NEWER)))
    await waits(alone)
    async with asyncio.timeout(1), unit_of_work(alone.task) as work:
        work[table][HOME] = Total("n", HOME, 1, 1)
    assert alone.task.table(table).get(HOME) == Total("n", HOME, 1, 1)
    assert alone.task.waits_for is not None
    alone.task.stop()
    await taking


@pytest.mark.parametrize("how", ["stop", "fence"])
async def test_a_stop_and_a_successor_end_the_wait_at_once(make: Callable[..., Alone], how: str) -> None:
    alone = make()
    taking = alone.taking((EVENTS, Raw(0, HOME.encode(), a_number(), NEWER)))
    await waits(alone)
    began = time.monotonic()
    if how == "stop":
        alone.task.stop()
    else:
        alone.task.give_up(Fenced("a newer build has it"))
    await taking

    assert time.monotonic() - began < newer_module.NEWER_PAUSE_S / 2
    assert not alone.taken
    assert not alone.dead


@pytest.mark.usefixtures("soon")
async def test_a_companion_waits_too_and_begins_again(
    make: Callable[..., Alone], caplog: pytest.LogCaptureFixture
) -> None:
    alone, begun = make(), 0
    known, over = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        if not known.is_set():
            raise NewerRelease("Intent", 3, 2)
        await over.wait()

    async def companion(task: Any) -> None:
        nonlocal begun
        begun += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(read())

    running = asyncio.create_task(alone.task.accompany(companion))
    assert "Intent in version 3 was written by a newer release; this build knows up to 2" in await waits(
        alone
    )
    await until(lambda: begun > 3)
    assert caplog.text.count("newer release") == 1
    assert alone.task.waits_for is not None
    known.set()
    await until(lambda: alone.task.waits_for is None)
    over.set()
    await asyncio.wait_for(running, 5)


@pytest.mark.usefixtures("soon")
async def test_a_companion_that_ends_does_not_wait_any_more(make: Callable[..., Alone]) -> None:
    alone, errors = make(), [NewerRelease("Intent", 3, 2)]

    async def companion(task: Any) -> None:
        if errors:
            raise errors.pop()

    await asyncio.wait_for(alone.task.accompany(companion), 5)
    assert alone.task.waits_for is None


async def test_a_companion_that_fails_otherwise_fails(make: Callable[..., Alone]) -> None:
    alone = make()

    async def companion(task: Any) -> None:
        raise ExceptionGroup("both", [NewerRelease("Intent", 3, 2), KeyError("a bug")])

    with pytest.raises(ExceptionGroup, match="both"):
        await alone.task.accompany(companion)
    assert alone.task.waits_for is None


async def test_a_companion_that_waits_ends_with_its_task(make: Callable[..., Alone]) -> None:
    alone = make()

    async def companion(task: Any) -> None:
        raise NewerRelease("Intent", 3, 2)

    running = asyncio.create_task(alone.task.accompany(companion))
    await waits(alone)
    alone.task.stop()
    await asyncio.wait_for(running, newer_module.NEWER_PAUSE_S / 2)


def test_the_line_tells_an_unknown_type_from_an_unknown_version() -> None:
    error = NewerRelease("OrderAmended", 1, 0)
    assert (error.what, error.version, error.known) == ("OrderAmended", 1, 0)
    assert str(error) == (
        "OrderAmended in version 1 was written by a newer release; this build does not know OrderAmended: "
        "upgrade this one"
    )


async def test_an_old_worker_that_inherits_from_a_newer_one_waits_and_hands_on_what_it_cannot_read(
    make_world: MakeWorld,
) -> None:
    """A rollback that was too early: one worker is new, dies, and the old one gets its partition."""
    world = await make_world(partitions=2, session_timeout_s=1.5)
    newer = msgspec.structs.replace(world.options, release=2)
    old = WorkerProcess(world.options, "a")
    started = [old]
    try:
        await until(lambda: old.said().count("is ours after") == 2)
        new = WorkerProcess(newer, "b")
        started.append(new)
        await until(lambda: "is ours after" in new.said())
        await world.send(*world.more(40))
        await world.all_processed()
        new.kill()
        await until(lambda: old.said().count("is ours after") == 3)
        await world.send(*world.more(40))
        await until(lambda: "table sums in version 2 was written by a newer release" in old.said())

        async def only_one_waits() -> bool:
            return len({tp.partition for tp in await world.behind()}) == 1

        assert len({at.partition for at in world.written}) == 2
        await until(only_one_waits)
        old.signal(signal.SIGTERM)
        assert await old.ended() == 0
        new = WorkerProcess(newer, "b")
        started.append(new)
        await world.all_processed()
        new.signal(signal.SIGTERM)
        assert await new.ended() == 0
    finally:
        for each in started:
            each.kill()
    assert await world.wrong_dead_letters([]) == []
    directories = [Path(world.options.directory) / name for name in "ab"]
    assert await world.faults(directories=directories) == []
