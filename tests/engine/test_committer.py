"""One transaction for all tasks of a worker: who is in it, and whose failure it is when it fails."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from app.engine.core import committer as committer_module
from app.engine.core.committer import Committer, Share
from app.engine.errors import Fenced, InDoubt, StaleGeneration
from app.engine.kafka.cluster import TP, Committed, Membership
from app.engine.kafka.transaction import LeaderAway, Outbox, Producer, RecordRefused, TransactionFailed
from app.engine.retries import Pauses
from tests.engine.waiting import until

FIRST, SECOND = Membership(1, "me"), Membership(2, "me")


class Task:
    """What a committer sees of one."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.membership = FIRST
        self.closed = False
        self.has_more = False
        self.inputs: dict[TP, Any] = {}

    def give_up(self, error: Exception) -> None:
        self.closed = True


class Kafka:
    """In the place of a producer: does as it is told, and notes each transaction that it has committed."""

    def __init__(self) -> None:
        self.committed: list[tuple[list[TP], Mapping[TP, Committed], Membership]] = []
        self.fails: Callable[[list[TP], Membership], BaseException | None] = lambda tps, membership: None
        self.answers = asyncio.Event()
        self.answers.set()
        self.aborted = 0
        self.begun = 0
        self._open: tuple[list[TP], Mapping[TP, Committed], Membership] | None = None

    async def add(self, partitions: Iterable[TP], offsets: Iterable[TP]) -> None:
        assert self._open is None, "a transaction is open"
        self._open = (list(partitions), {}, FIRST)

    async def send(self, outboxes: list[Outbox], patience_s: float | None = None) -> list[dict[TP, int]]:
        await self.answers.wait()
        return [dict.fromkeys(outbox.partitions, 10) for outbox in outboxes]

    async def send_offsets(self, offsets: Mapping[TP, Committed], membership: Membership) -> None:
        assert self._open is not None
        self._open = (self._open[0], offsets, membership)

    async def commit(self) -> None:
        assert self._open is not None
        partitions, _, membership = self._open
        if (error := self.fails(partitions, membership)) is not None:
            if isinstance(error, Fenced) and not isinstance(error, StaleGeneration):
                self._open = None
            raise error
        self.committed.append(self._open)
        self._open = None

    async def abort(self) -> None:
        self.aborted += 1
        self._open = None

    async def begin(self) -> None:
        self.begun += 1

    @property
    def shared(self) -> list[list[int]]:
        """The partitions of each transaction."""
        return [[tp.partition for tp in partitions] for partitions, _, _ in self.committed]


class World:
    """A committer and what is around it."""

    def __init__(self, interval_s: float = 0.0) -> None:
        self.kafka = Kafka()
        self.membership = FIRST
        self.given_up: list[Task] = []
        self.committer = Committer(
            cast(Producer, self.kafka), lambda: self.membership, self._epoch_lost, interval_s
        )

    async def _epoch_lost(self) -> None:
        await self.kafka.begin()
        for task in self.given_up:
            task.give_up(Fenced("taken over"))

    def commit(self, *partitions: int, task: Task | None = None) -> "asyncio.Task[dict[TP, int]]":
        """One task's share, with a record for each of the partitions."""
        outbox = Outbox(transactional=True)
        for partition in partitions:
            outbox.append(TP("out", partition), b"k", b"v", [], 0)
        offsets = {TP("in", partitions[0]): Committed(7, "")}
        share = Share(task or Task(partitions[0]), outbox, offsets)
        return asyncio.create_task(self.committer.commit(share))


@asynccontextmanager
async def running(interval_s: float = 0.0) -> AsyncIterator[World]:
    world = World(interval_s)
    run = asyncio.create_task(world.committer.run())
    try:
        async with asyncio.timeout(10):
            yield world
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_what_is_ready_while_a_transaction_is_under_way_shares_the_next() -> None:
    async with running() as world:
        world.kafka.answers.clear()
        first = world.commit(0)
        await asyncio.sleep(0.01)
        others = [world.commit(partition) for partition in (1, 2, 3)]
        await asyncio.sleep(0.01)
        world.kafka.answers.set()
        ends = await asyncio.gather(first, *others)
    assert world.kafka.shared == [[0], [1, 2, 3]]
    assert ends[2] == {TP("out", 2): 10}, "each gets the ends of its own records"
    assert world.kafka.committed[1][1].keys() == {TP("in", 1), TP("in", 2), TP("in", 3)}
    assert world.committer.count == 2


async def test_a_transaction_waits_a_little_for_tasks_that_have_a_batch_in_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(committer_module, "GATHER_S_MAX", 5.0)
    late = Task(1)
    async with running() as world:
        world.committer.expect(late)
        first = world.commit(0)
        await asyncio.sleep(0.02)
        assert world.kafka.committed == []
        await asyncio.gather(first, world.commit(1, task=late))
        assert world.kafka.shared == [[0, 1]]
        world.committer.expect(late)
        again = world.commit(0)
        await asyncio.sleep(0.02)
        world.committer.expect_no_more(late)  # its batch has failed, or had nothing to commit
        await again
    assert world.kafka.shared == [[0, 1], [0]]


async def test_a_task_that_has_more_gets_into_the_next_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "GATHER_S_MAX", 5.0)
    busy = Task(1)
    busy.has_more = True
    async with running() as world:
        world.kafka.answers.clear()
        first = world.commit(1, task=busy)
        await asyncio.sleep(0.01)
        second = world.commit(0)
        world.kafka.answers.set()
        await first
        await asyncio.sleep(0.02)  # in which it processes what it has
        await asyncio.gather(world.commit(1, task=busy), second)
        assert world.kafka.shared == [[1], [0, 1]]


async def test_a_task_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "GATHER_S_MAX", 0.01)
    async with running() as world:
        world.committer.expect(Task(1))
        await world.commit(0)
        monkeypatch.setattr(committer_module, "GATHER_S_MAX", 5.0)
        await asyncio.wait_for(world.commit(0), 1.0)
    assert world.kafka.shared == [[0], [0]]


async def test_transactions_keep_their_distance() -> None:
    async with running(interval_s=0.2) as world:
        await world.commit(0)
        second = world.commit(0)
        await asyncio.sleep(0.05)
        third = world.commit(1)
        await asyncio.gather(second, third)
    assert world.kafka.shared == [[0], [0, 1]]


async def test_a_record_that_kafka_refuses_fails_its_own_share_alone() -> None:
    async with running() as world:
        world.kafka.fails = lambda tps, _: RecordRefused(TP("out", 1), {10}) if TP("out", 1) in tps else None
        shares = [world.commit(partition) for partition in (0, 1, 2)]
        done = await asyncio.gather(*shares, return_exceptions=True)
    assert isinstance(done[1], RecordRefused)
    assert world.kafka.shared == [[0, 2]], "the others need one more try"
    assert world.kafka.aborted == 1


async def test_of_several_that_may_be_at_fault_each_goes_alone() -> None:
    async with running() as world:
        world.kafka.fails = lambda tps, _: TransactionFailed("no") if TP("out", 1) in tps else None
        shares = [world.commit(partition) for partition in (0, 1, 2)]
        done = await asyncio.gather(*shares, return_exceptions=True)
    assert isinstance(done[1], TransactionFailed)
    assert world.kafka.shared == [[0], [2]]


async def test_whoever_is_fenced_goes_on_with_what_is_still_its_own() -> None:
    gone, stays = Task(1), Task(0)
    async with running() as world:
        world.given_up = [gone]
        world.kafka.fails = lambda *_: None if world.kafka.begun else Fenced("a new epoch")
        shares = [world.commit(0, task=stays), world.commit(1, task=gone)]
        done = await asyncio.gather(*shares, return_exceptions=True)
    assert done[0] == {TP("out", 0): 10}
    assert isinstance(done[1], Fenced)
    assert world.kafka.shared == [[0]]


async def test_what_waits_while_its_task_is_given_up_is_not_committed() -> None:
    gone = Task(1)
    async with running() as world:
        world.kafka.answers.clear()
        first = world.commit(0)
        await asyncio.sleep(0.01)
        waits = world.commit(1, task=gone)
        await asyncio.sleep(0.01)
        gone.give_up(Fenced("taken over"))
        world.kafka.answers.set()
        done = await asyncio.gather(first, waits, world.commit(1, task=gone), return_exceptions=True)
        await world.commit(2)
    assert [type(each) for each in done[1:]] == [Fenced, Fenced]
    assert world.kafka.shared == [[0], [2]]


async def test_a_commit_in_doubt_is_nobody_s_to_repeat() -> None:
    async with running() as world:
        world.kafka.fails = lambda *_: None if world.kafka.begun else InDoubt("who knows")
        done = await asyncio.gather(world.commit(0), world.commit(1), return_exceptions=True)
        assert all(isinstance(each, InDoubt) for each in done)
        assert world.kafka.committed == []
        await world.commit(2)
    assert world.kafka.shared == [[2]]


async def test_offsets_of_an_old_generation_wait_for_the_next_one() -> None:
    async with running() as world:
        world.kafka.fails = lambda _, membership: StaleGeneration("old") if membership == FIRST else None
        share = world.commit(0)
        await until(lambda: world.kafka.aborted == 1)
        await asyncio.sleep(0.02)
        assert not share.done()
        world.membership = SECOND
        world.committer.assigned()
        assert await share == {TP("out", 0): 10}
    assert [membership for _, _, membership in world.kafka.committed] == [SECOND]


async def test_a_partition_without_a_leader_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "AWAY", Pauses(0.05, 0.05))
    away = {TP("out", 1)}

    def fails(tps: list[TP], membership: Membership) -> Exception | None:
        return LeaderAway(away & set(tps), 2.0) if away & set(tps) else None

    async with running() as world:
        world.kafka.fails = fails
        shares = [world.commit(partition) for partition in (0, 1, 2)]
        await asyncio.gather(shares[0], shares[2])
        await world.commit(3)
        assert not shares[1].done()
        away.clear()
        await shares[1]
    assert world.kafka.shared == [[0, 2], [3], [1]]


async def test_a_commit_whose_asker_is_gone_disturbs_nobody() -> None:
    async with running() as world:
        world.kafka.answers.clear()
        gone, stays = world.commit(0), world.commit(1)
        await asyncio.sleep(0.01)
        gone.cancel()
        world.kafka.answers.set()
        await stays
        assert world.kafka.shared == [[0, 1]]


async def test_when_a_committer_ends_nobody_waits_for_it() -> None:
    async with running() as world:
        world.kafka.answers.clear()
        under_way = world.commit(0)
        await asyncio.sleep(0.01)
        waiting: Any = world.commit(1)
    for share in (under_way, waiting, world.commit(2)):
        with pytest.raises(Fenced):
            await share


async def test_one_that_ends_while_it_waits_for_a_generation_leaves_nobody_waiting() -> None:
    async with running() as world:
        world.kafka.fails = lambda *_: StaleGeneration("old")
        share = world.commit(0)
        await until(lambda: world.kafka.aborted == 1)
        await asyncio.sleep(0.02)
    with pytest.raises(Fenced):
        await asyncio.wait_for(share, 5)


async def test_one_that_ends_while_its_turn_is_another_s_leaves_nobody_waiting() -> None:
    async with running() as world:
        await world.committer._turn.acquire()
        share = world.commit(0)
        await asyncio.sleep(0.05)
    with pytest.raises(Fenced):
        await asyncio.wait_for(share, 5)


@pytest.mark.parametrize("failure", [Fenced("a new epoch"), InDoubt("who knows")])
async def test_a_new_epoch_that_kafka_refuses_leaves_nobody_waiting(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(kafka: Kafka) -> None:
        raise TransactionFailed("no epoch for you")

    monkeypatch.setattr(Kafka, "begin", refused)
    world = World()
    world.kafka.fails = lambda *_: failure
    run = asyncio.create_task(world.committer.run())
    with pytest.raises(Fenced):
        await asyncio.wait_for(world.commit(0), 5)
    with pytest.raises(TransactionFailed):
        await run


async def test_a_task_that_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commit was cancelled while it was under way, with records in its inbox."""
    monkeypatch.setattr(committer_module, "GATHER_S_MAX", 5.0)
    ended = Task(0)
    ended.has_more = True
    async with running() as world:
        world.kafka.answers.clear()
        gone = world.commit(0, task=ended)
        await asyncio.sleep(0.01)
        gone.cancel()
        ended.give_up(Fenced("cancelled"))
        world.committer.expect_no_more(ended)
        world.kafka.answers.set()
        async with asyncio.timeout(2):
            await world.commit(1)
    assert world.kafka.shared == [[0], [1]]


async def test_what_another_owns_in_the_next_generation_is_not_sent_again() -> None:
    """Whoever has lost the register, or never knew of it, fences nobody."""
    gone, stays = Task(1), Task(0)
    async with running() as world:
        world.given_up = [gone]
        world.kafka.fails = lambda _, membership: StaleGeneration("old") if membership == FIRST else None
        shares = [world.commit(0, task=stays), world.commit(1, task=gone)]
        await until(lambda: world.kafka.aborted == 1)
        world.membership = SECOND
        world.committer.assigned()
        done = await asyncio.gather(*shares, return_exceptions=True)
    assert done[0] == {TP("out", 0): 10}
    assert isinstance(done[1], Fenced)
    assert world.kafka.shared == [[0]]
