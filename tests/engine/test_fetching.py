"""How a worker reads: from the right leader, each stretch once, fairly, and no more than a task can hold."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import (
    FetchSessionIdNotFound,
    InvalidFetchSessionEpoch,
    KafkaConnectionError,
    LeaderNotAvailableError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.protocol.fetch import FetchResponse_v11

from app.engine import GlobalTable, Task
from app.engine.core.inbox import Inbox
from app.engine.errors import PositionGap
from app.engine.kafka import fetcher as module
from app.engine.kafka.cluster import LATEST, TP, Cluster, Fetched
from app.engine.kafka.fetcher import Fetcher, Reading
from app.engine.kafka.fetching import Fetch
from tests.engine.conftest import MakeWorld
from tests.engine.recordsets import plain
from tests.engine.test_batches import CORRECTIONS, NUMBERS, a_task
from tests.engine.waiting import until
from tests.engine.workers import BareWorker

FIRST, SECOND, THIRD = TP(CORRECTIONS.name, 0), TP(NUMBERS.name, 0), TP(NUMBERS.name, 1)


class Poll:
    """A fetch that a node has been asked for, and all that the node reads for it."""

    def __init__(self, node: int, lane: Any, request: Fetch, positions: dict[TP, int], session: int) -> None:
        self.node = node
        self.is_main = lane[1] == 0
        self.request = request
        self.positions = positions
        self.done = asyncio.get_running_loop().create_future()
        self._session = session

    def answer(self, *parts: tuple[TP, Any], code: int = 0) -> None:
        """Each part is a partition with its record batches, an error's class, or (high, stable)."""
        topics: list[Any] = []
        for tp, what in parts:
            data = what if isinstance(what, bytes) else b""
            error: int = what.errno if isinstance(what, type) else 0  # type: ignore[attr-defined]
            high, stable = what if isinstance(what, tuple) else (1000, 1000)
            topics.append((tp.topic, [(tp.partition, error, high, stable, 0, [], -1, data)]))
        self.done.set_result(FetchResponse_v11(0, code, 0 if code else self._session, topics))


class Nodes:
    """A cluster of which a test says who leads what, and what each poll brings and when."""

    def __init__(self) -> None:
        self.leads: dict[TP, int | None] = {FIRST: 1, SECOND: 1, THIRD: 1}
        self.polls: list[Poll] = []
        self.refreshed = 0
        self.has_room = True
        self._sessions: dict[int, dict[TP, int]] = {}

    def leader(self, tp: TP) -> int | None:
        return self.leads[tp]

    async def refresh(self) -> None:
        self.refreshed += 1

    async def send(self, node: int, request: Fetch, lane: Any) -> Any:
        positions, session = dict(request.positions), 0
        if request.epoch == 0 and self.has_room:
            self._sessions.pop(request.session_id, None)
            session = len(self.polls) + 1
            self._sessions[session] = positions
        elif request.epoch > 0:
            session, positions = request.session_id, {**self._sessions[request.session_id], **positions}
            for tp in request.forgotten:
                del positions[tp]
            self._sessions[session] = positions
        self.polls.append(Poll(node, lane, request, dict(positions), session))
        return await self.polls[-1].done

    async def poll(self, number: int) -> Poll:
        await until(lambda: len(self.polls) >= number)
        return self.polls[number - 1]

    @property
    def main_polls(self) -> list[Poll]:
        return [each for each in self.polls if each.is_main]

    @property
    def waiting(self) -> list[Poll]:
        return [each for each in self.polls if not each.done.done()]

    async def settled(self) -> list[Poll]:
        """The polls under way once nothing is about to change any more."""
        await asyncio.sleep(2 * module.PATIENCE_S)
        return self.waiting


class Shelf:
    """A reader that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[TP, int]] = []
        self.heard: list[tuple[TP, int, int, int]] = []
        self.failures: list[tuple[TP, Exception]] = []
        self.full = False

    def is_full(self) -> bool:
        return self.full

    def take_in(self, fetched: Fetched) -> None:
        self.got += [(fetched.tp, each.offset) for each in fetched.records]

    def hear(self, tp: TP, position: int, high: int, stable: int) -> None:
        self.heard.append((tp, position, high, stable))

    def fail(self, tp: TP, error: Exception) -> None:
        self.failures.append((tp, error))


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def a_fetcher(nodes: Nodes) -> Fetcher:
    cluster: Any = nodes
    return Fetcher(cluster, "inputs", 1000)


@pytest.fixture
async def fetcher(nodes: Nodes) -> AsyncIterator[Fetcher]:
    fetcher = a_fetcher(nodes)
    yield fetcher
    fetcher.close()


def reading(fetcher: Fetcher, positions: Mapping[TP, int]) -> tuple[Shelf, Reading]:
    shelf = Shelf()
    return shelf, fetcher.read(shelf, positions)


async def test_a_reader_gets_on_from_where_each_fetch_ended(fetcher: Fetcher, nodes: Nodes) -> None:
    shelf, _ = reading(fetcher, {FIRST: 10, SECOND: 20})
    (await nodes.poll(1)).answer((SECOND, plain(20, 21, 22)))
    second = await nodes.poll(2)
    assert second.positions == {FIRST: 10, SECOND: 23}
    second.answer((FIRST, plain(10)), (SECOND, plain(23)))
    assert (await nodes.poll(3)).positions == {FIRST: 11, SECOND: 24}
    assert shelf.got == [(SECOND, 20), (SECOND, 21), (SECOND, 22), (FIRST, 10), (SECOND, 23)]


async def test_a_node_is_told_only_what_changes(fetcher: Fetcher, nodes: Nodes) -> None:
    _, first = reading(fetcher, {FIRST: 10, SECOND: 20})
    (await nodes.poll(1)).answer()
    second = await nodes.poll(2)
    assert (second.request.positions, second.request.forgotten) == ({}, [])
    second.answer((SECOND, plain(20)))
    third = await nodes.poll(3)
    assert third.request.positions == {SECOND: 21}
    first.close()
    reading(fetcher, {THIRD: 5})
    third.answer()
    await until(lambda: len(nodes.main_polls) >= 4 or any(not each.is_main for each in nodes.waiting))
    for each in nodes.waiting:
        if not each.is_main:  # what is new was fetched aside before the main line had its answer
            each.answer()
    await until(lambda: len(nodes.main_polls) >= 4)
    fourth = nodes.main_polls[3]
    assert (fourth.request.positions, set(fourth.request.forgotten)) == ({THIRD: 5}, {FIRST, SECOND})
    assert [each.request.epoch for each in nodes.main_polls] == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [FetchSessionIdNotFound, InvalidFetchSessionEpoch])
async def test_a_session_that_a_node_does_not_know_begins_anew(
    fetcher: Fetcher, nodes: Nodes, error: Any
) -> None:
    reading(fetcher, {FIRST: 10, SECOND: 20})
    (await nodes.poll(1)).answer((SECOND, plain(20)))
    (await nodes.poll(2)).answer(code=error.errno)
    third = await nodes.poll(3)
    assert (third.request.epoch, third.request.positions) == (0, {FIRST: 10, SECOND: 21})


@pytest.mark.parametrize("error", [LeaderNotAvailableError(), KafkaConnectionError(), ConnectionError()])
async def test_after_an_answer_is_lost_everything_is_asked_for_again(
    fetcher: Fetcher, nodes: Nodes, error: Exception
) -> None:
    reading(fetcher, {FIRST: 10, SECOND: 20})
    (await nodes.poll(1)).answer()
    (await nodes.poll(2)).done.set_exception(error)
    third = await nodes.poll(3)
    assert (third.request.epoch, third.request.positions) == (0, {FIRST: 10, SECOND: 20})


async def test_who_had_much_lets_the_others_go_first(fetcher: Fetcher, nodes: Nodes) -> None:
    """Kafka gives a record that is larger than asked for only to the first partition with any data."""
    nodes.has_room = False
    reading(fetcher, {FIRST: 10, SECOND: 20})
    (await nodes.poll(1)).answer((FIRST, plain(10)))
    second = await nodes.poll(2)
    assert list(second.request.positions) == [SECOND, FIRST]
    second.answer((SECOND, plain(20)))
    assert list((await nodes.poll(3)).request.positions) == [FIRST, SECOND]


async def test_who_comes_during_a_poll_does_not_wait_for_it_and_joins_the_next(
    fetcher: Fetcher, nodes: Nodes
) -> None:
    reading(fetcher, {FIRST: 10})
    main = await nodes.poll(1)
    shelf, _ = reading(fetcher, {SECOND: 20})
    aside = await nodes.poll(2)
    assert (aside.is_main, aside.positions) == (False, {SECOND: 20})
    assert aside.request.bounds.wait_ms < main.request.bounds.wait_ms
    aside.answer((SECOND, plain(20)))
    (await nodes.poll(3)).answer((SECOND, (21, 21)))
    main.answer()
    (joined,) = await nodes.settled()
    assert (joined.is_main, joined.positions) == (True, {FIRST: 10, SECOND: 21})
    assert shelf.got == [(SECOND, 20)]


async def test_who_has_had_nothing_does_not_wait_for_a_long_poll_of_others(
    fetcher: Fetcher, nodes: Nodes
) -> None:
    reading(fetcher, {FIRST: 10})
    await nodes.poll(1)
    reading(fetcher, {SECOND: 20})
    (await nodes.poll(2)).answer((SECOND, (20, 20)))
    again = await nodes.poll(3)
    assert (again.is_main, again.positions) == (False, {SECOND: 20})


async def test_several_that_come_at_once_are_one_poll(fetcher: Fetcher, nodes: Nodes) -> None:
    reading(fetcher, {FIRST: 10})
    await nodes.poll(1)
    reading(fetcher, {SECOND: 20})
    reading(fetcher, {THIRD: 30})
    _, aside = await nodes.settled()
    assert aside.positions == {SECOND: 20, THIRD: 30}


async def test_what_was_fetched_for_a_reading_never_reaches_another(fetcher: Fetcher, nodes: Nodes) -> None:
    old, ends = reading(fetcher, {FIRST: 10, SECOND: 20})
    late = await nodes.poll(1)
    ends.close()
    new, _ = reading(fetcher, {FIRST: 15})
    aside = await nodes.poll(2)
    assert aside.positions == {FIRST: 15}
    late.answer((FIRST, plain(10, 11)), (SECOND, OffsetOutOfRangeError))
    aside.answer((FIRST, plain(15)))
    (last,) = await nodes.settled()
    assert last.positions == {FIRST: 16}
    assert (old.got, old.failures, new.got) == ([], [], [(FIRST, 15)])


async def test_two_readings_of_one_partition_get_it_each_from_its_own_position(
    fetcher: Fetcher, nodes: Nodes
) -> None:
    old, _ = reading(fetcher, {FIRST: 10})
    new, _ = reading(fetcher, {FIRST: 12})
    for each in await nodes.settled():
        each.answer((FIRST, plain(*range(each.positions[FIRST], 14))))
    positions = [each.positions[FIRST] for each in await nodes.settled()]
    assert positions == [14, 14]
    assert old.got == [(FIRST, each) for each in range(10, 14)]
    assert new.got == [(FIRST, 12), (FIRST, 13)]


async def test_for_a_full_reader_nothing_is_fetched_and_for_the_others_everything(
    fetcher: Fetcher, nodes: Nodes
) -> None:
    full, paused = reading(fetcher, {FIRST: 10, SECOND: 20})
    reading(fetcher, {THIRD: 30})
    full.full = True
    assert (await nodes.poll(1)).positions == {THIRD: 30}
    full.full = False
    paused.go_on()
    aside = await nodes.poll(2)
    assert aside.positions == {FIRST: 10, SECOND: 20}
    aside.answer((FIRST, (10, 10)), (SECOND, (20, 20)))
    nodes.polls[0].answer()
    main = await nodes.poll(3)
    assert main.positions == {FIRST: 10, SECOND: 20, THIRD: 30}
    full.full = True
    main.answer((SECOND, plain(20)))
    last = await nodes.poll(4)
    assert last.positions == {THIRD: 30}
    full.full = False
    paused.go_on()
    assert (await nodes.poll(5)).positions == {FIRST: 10, SECOND: 21}


async def test_what_is_being_fetched_is_not_asked_for_at_another_leader(
    fetcher: Fetcher, nodes: Nodes
) -> None:
    shelf, _ = reading(fetcher, {FIRST: 10, SECOND: 20})
    first = await nodes.poll(1)
    nodes.leads[FIRST] = nodes.leads[SECOND] = 2
    assert await nodes.settled() == [first]
    first.answer((FIRST, plain(10)), (SECOND, NotLeaderForPartitionError))
    await until(lambda: len(nodes.waiting) == 2)
    assert {each.node: each.positions for each in nodes.waiting} == {1: {FIRST: 11}, 2: {SECOND: 20}}
    assert shelf.got == [(FIRST, 10)]
    assert nodes.refreshed > 0


async def test_a_partition_without_leader_is_waited_for_however_long_and_holds_up_nobody(
    fetcher: Fetcher, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE_S", 0.0)
    nodes.leads[FIRST] = None
    reading(fetcher, {FIRST: 10, SECOND: 20})
    assert (await nodes.poll(1)).positions == {SECOND: 20}
    await until(lambda: nodes.refreshed > 1000)
    nodes.leads[FIRST] = 1
    assert (await nodes.poll(2)).positions == {FIRST: 10}


async def test_a_node_that_is_away_holds_up_nobody(fetcher: Fetcher, nodes: Nodes) -> None:
    nodes.leads[SECOND] = 2
    shelf, _ = reading(fetcher, {FIRST: 10, SECOND: 20})
    await nodes.poll(2)
    for offset in range(10, 15):
        for each in await nodes.settled():
            if each.node == 2:
                each.done.set_exception(KafkaConnectionError())
            else:
                each.answer((FIRST, plain(offset)))
    await until(lambda: shelf.got == [(FIRST, each) for each in range(10, 15)])
    await until(lambda: any(each.node == 2 for each in nodes.waiting))
    nodes.leads[SECOND] = 1
    next(each for each in nodes.waiting if each.node == 2).done.set_exception(KafkaConnectionError())
    await until(lambda: any(SECOND in each.positions and each.node == 1 for each in nodes.polls))


@pytest.mark.parametrize(
    ("what", "error"), [(OffsetOutOfRangeError, "OutOfRange"), (plain(20)[:-1] + b"?", "Corrupt")]
)
async def test_what_cannot_be_read_ends_its_own_reading_alone(
    fetcher: Fetcher, nodes: Nodes, what: Any, error: str
) -> None:
    bad, _ = reading(fetcher, {SECOND: 20})
    good, _ = reading(fetcher, {FIRST: 10, THIRD: 30})
    (await nodes.poll(1)).answer((SECOND, what), (FIRST, plain(10)))
    assert (await nodes.poll(2)).positions == {FIRST: 11, THIRD: 30}
    ((tp, failure),) = bad.failures
    assert tp == SECOND
    assert error in type(failure).__name__
    assert (good.got, good.failures) == ([(FIRST, 10)], [])


async def test_what_nobody_expects_is_told_to_every_reader(fetcher: Fetcher, nodes: Nodes) -> None:
    readers = [reading(fetcher, {each: 10})[0] for each in (FIRST, SECOND)]
    (await nodes.poll(1)).done.set_exception(ZeroDivisionError())
    await until(lambda: all(each.failures for each in readers))


async def test_an_answer_that_leaves_out_an_open_transaction_says_that_it_is_still_open(
    fetcher: Fetcher, nodes: Nodes
) -> None:
    shelf, _ = reading(fetcher, {FIRST: 10, SECOND: 20})
    (await nodes.poll(1)).answer((FIRST, (15, 10)), (SECOND, (20, 20)))
    (await nodes.poll(2)).answer()
    (await nodes.poll(3)).answer((FIRST, plain(10)))
    (await nodes.poll(4)).answer()
    await nodes.poll(5)
    assert shelf.heard == [
        (FIRST, 10, 15, 10),
        (SECOND, 20, 20, 20),
        (FIRST, 10, 15, 10),
        (FIRST, 11, 1000, 1000),
    ]


# -- a task's inbox


@contextmanager
def filling(task: Task, positions: Mapping[TP, int]) -> Iterator["asyncio.Task[None]"]:
    running = asyncio.create_task(task.inbox.keep_filling(positions))
    yield running
    running.cancel()


@pytest.mark.parametrize("bound", ["inbox_records_max", "inbox_bytes_max"])
async def test_a_full_inbox_stops_the_reading_until_there_is_room(nodes: Nodes, bound: str) -> None:
    task = a_task(cluster=nodes)
    unlimited: Any = {"inbox_records_max": 10**6, "inbox_bytes_max": 10**9}
    settings = replace(task.settings, **{**unlimited, bound: 40 if "records" in bound else 3000})
    inbox = Inbox(task.inputs, a_fetcher(nodes), settings, task.watermarks, task.lane)
    running = asyncio.create_task(inbox.keep_filling({FIRST: 10, SECOND: 20}))
    begin = 10
    while not inbox.is_full():
        poll = await nodes.poll(len(nodes.polls) or 1)
        count = len(nodes.polls)
        poll.answer((FIRST, plain(*range(begin, begin + 12))))
        begin += 12
        await until(lambda: len(nodes.polls) > count or inbox.is_full())  # noqa: B023
    assert await nodes.settled() == []
    assert inbox.records_held == begin - 10
    while any(inbox.queues.values()):
        inbox.take(10)
    (poll,) = await nodes.settled()
    assert poll.positions == {FIRST: begin, SECOND: 20}
    running.cancel()


async def test_a_position_that_is_not_in_the_log_any_more_stops_the_task(nodes: Nodes) -> None:
    with filling(a_task(cluster=nodes), {FIRST: 10, SECOND: 20}) as running:
        (await nodes.poll(1)).answer((SECOND, OffsetOutOfRangeError))
        with pytest.raises(PositionGap, match=r"numbers-unit.*not in its log any more"):
            await running


# -- on a real Kafka


def watched(patch: pytest.MonkeyPatch) -> list[tuple[Fetch, Any]]:
    """All fetches from now on, with their answers."""
    found: list[tuple[Fetch, Any]] = []
    send = Cluster.send

    async def noting(cluster: Cluster, node: int, request: Any, lane: object = "default") -> Any:
        answer = await send(cluster, node, request, lane)
        if isinstance(request, Fetch):
            found.append((request, answer))
        return answer

    patch.setattr(Cluster, "send", noting)
    return found


async def test_many_idle_partitions_are_one_empty_poll(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a global table too, and what it holds is what has come meanwhile."""
    world = await make_world(partitions=16)
    fetches = watched(monkeypatch)
    table = GlobalTable(world.totals)
    async with BareWorker(world.options, "only") as worker:
        following = asyncio.create_task(table.run(worker._cluster, worker._inputs))
        await worker.own()
        await worker.ready()

        def is_quiet() -> bool:
            last = fetches[-4:]
            return len(last) == 4 and all(
                request.epoch > 0 and not request.positions and not answer.topics for request, answer in last
            )

        await until(is_quiet)
        await world.send(*world.more(100))
        await world.all_processed()
        await until(is_quiet)
        fetches.clear()
        await asyncio.sleep(2.2)
        assert 3 <= len(fetches) <= 5
        assert table.values() == await world.table()
        following.cancel()
        await worker.stop()
    assert await world.faults() == []


async def test_a_session_that_kafka_has_forgotten_costs_nothing_but_time(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(partitions=4)
    build = Fetch.build
    forgotten = 0

    def build_wrongly(fetch: Fetch, kind: Any) -> Any:
        nonlocal forgotten
        if fetch.epoch > 0 and fetch.epoch % 5 == 0:
            forgotten += 1
            fetch.session_id += 1
        if fetch.epoch > 0 and fetch.epoch % 7 == 0:
            forgotten += 1
            fetch.epoch += 1
        return build(fetch, kind)

    monkeypatch.setattr(Fetch, "build", build_wrongly)
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        while forgotten < 6:
            await world.send(*world.more(20))
            await asyncio.sleep(0.05)
        await world.all_processed()
        await worker.stop()
    assert await world.faults() == []


async def test_a_reading_that_follows_another_hears_of_partitions_where_nothing_is_new(
    make_world: MakeWorld,
) -> None:
    """As when all tasks of a worker are fenced together and taken over again, all of them by it."""
    world = await make_world(partitions=4)
    await world.send(*world.more(10))
    cluster = Cluster(world.options.bootstrap, "test")
    await cluster.start()
    fetcher = Fetcher(cluster, "inputs", 1_000_000)
    tps = [TP(world.numbers.name, p) for p in range(4)]
    ends = await cluster.offsets(tps, LATEST)
    try:
        for _ in range(3):
            shelf, its_reading = reading(fetcher, ends)
            await asyncio.sleep(2 * module.WAIT_S)
            assert {(tp, high) for tp, _, high, _ in shelf.heard} == set(ends.items())
            its_reading.close()
            await asyncio.sleep(2 * module.WAIT_S)  # the last poll is over, and nobody reads
    finally:
        fetcher.close()
        await cluster.stop()
