"""Whose a partition is: claims in the register, fences, and what interrupts them. Kafka is a model here."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.protocol.commit import OffsetCommitRequest

from app.engine.core import ownership
from app.engine.core.manager import TaskManager
from app.engine.core.ownership import OWNERS, ByPartition, ByWorker, Register
from app.engine.errors import Fenced, StaleGeneration
from app.engine.kafka import waits
from app.engine.kafka.cluster import NO_MEMBER, TP, Cluster, Committed, Membership
from app.engine.kafka.protocol import ApiVersions, InitProducerId
from app.engine.kafka.transaction import NOTE, NOTE_BY_WORKER

GROUP, REGISTER, IN = "sum", "sum-quarantine-changelog", TP("in", 0)
LAST = f"{GROUP}-last"
"""The worker that worked before."""
ILLEGAL_GENERATION, PRODUCER_FENCED = 22, 90


class Party:
    """What ownership sees of a task."""

    def __init__(self, membership: Membership) -> None:
        self.partition = 0
        self.membership = membership
        self.closed = False
        self.has_more = False
        self.inputs: Mapping[TP, Any] = {IN: None}
        self.fenced: Exception | None = None

    def give_up(self, error: Exception) -> None:
        self.closed, self.fenced = True, error


class Kafka:
    """A group's offsets, which only members of its generation may change, and the epochs of producers."""

    def __init__(self, note: str = NOTE_BY_WORKER + "in", owners: str = "") -> None:
        self.generation = 1
        self.offsets: dict[TP, Committed] = {IN: Committed(7, note)}
        if owners:
            self.offsets[TP(REGISTER, 0)] = Committed(0, OWNERS + owners)
        self.epochs: dict[str, int] = {}
        self.looked_up: set[str] = set()
        self.before: Callable[[Any], Any] = lambda request: 0
        """Gives the error code of what is asked, and may do something before."""

    async def coordinator(self, kind: int, key: str) -> int:
        self.looked_up.add(key)
        return 1

    def forget_coordinator(self, kind: int, key: str) -> None:
        self.looked_up.discard(key)

    async def group_offsets(
        self, group: str, tps: Sequence[TP], *, stable: bool = False
    ) -> dict[TP, Committed | None]:
        await asyncio.sleep(0)
        return {tp: self.offsets.get(tp) for tp in tps}

    async def send(self, node: int, request: Any, lane: object) -> Any:
        await asyncio.sleep(0)
        code = self.before(request)
        match request:
            case ApiVersions():
                return SimpleNamespace(error_code=code, api_versions=[], tags={})
            case InitProducerId():
                name = request._fields[0]
                if not code:
                    self.epochs[name] = self.epochs.get(name, -1) + 1
                return SimpleNamespace(
                    error_code=code, producer_id=1, producer_epoch=self.epochs.get(name, 0)
                )
            case OffsetCommitRequest():
                return SimpleNamespace(topics=[(REGISTER, [(0, code or self.write(request))])])
        raise AssertionError(request)

    def write(self, request: OffsetCommitRequest) -> int:
        """Take an offset commit; returns its error code."""
        if claimed(request)[0] != self.generation:
            return ILLEGAL_GENERATION
        self.offsets[TP(REGISTER, 0)] = Committed(0, OWNERS + ",".join(claimed(request)[1]))
        return 0

    @property
    def owners(self) -> list[str]:
        return self.offsets[TP(REGISTER, 0)].note.removeprefix(OWNERS).split(",")

    def fenced(self, name: str) -> bool:
        """Whether somebody has taken a new epoch of the id."""
        return name in self.epochs

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[ByWorker]:
        worker = ByWorker(cast(Cluster, self), GROUP, REGISTER, 1_000)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def claimed(request: Any) -> tuple[int, list[str]]:
    """The generation of a write to the register, and the owners in it."""
    ((_, ((_, _, note),)),) = request._topics
    return request._consumer_group_generation_id, note.removeprefix(OWNERS).split(",")


def me(generation: int) -> Party:
    return Party(Membership(generation, "me"))


async def test_a_take_over_claims_then_fences_then_says_that_it_is_alone() -> None:
    kafka = Kafka(owners=LAST)
    steps: list[str] = []

    def before(request: Any) -> int:
        if isinstance(request, OffsetCommitRequest):
            steps.append("claim")
        elif isinstance(request, InitProducerId) and request._fields[0] == LAST:
            steps.append("fence")
        return 0

    kafka.before = before
    async with kafka.worker() as worker:
        task = me(1)
        await worker.take(task)
        assert kafka.owners == [worker.id, LAST]
        await worker.confirm(task)
        assert kafka.owners == [worker.id]
    assert steps == ["claim", "fence", "claim"]
    assert not kafka.fenced(f"{GROUP}-0"), "the release before was not here"


async def test_everybody_who_may_still_commit_is_fenced() -> None:
    """A claim that got no answer may be written again behind the word that its worker is alone.

    So the first in the register may be at work, though others stand behind it.
    """
    kafka = Kafka(owners=LAST)
    claims: list[Any] = []

    def before(request: Any) -> int:
        if isinstance(request, OffsetCommitRequest):
            claims.append(request)
        return 0

    kafka.before = before
    async with kafka.worker() as first, kafka.worker() as second:
        task = me(1)
        await first.take(task)
        await first.confirm(task)
        assert kafka.write(claims[0]) == 0, "it comes late"
        assert kafka.owners == [first.id, LAST]
        epoch = kafka.epochs[first.id]
        kafka.generation = 2
        await second.take(me(2))
        assert kafka.epochs[first.id] > epoch, "whoever works there has to find out"
        assert kafka.owners == [second.id, first.id]
        await first.check_all()
        assert isinstance(task.fenced, Fenced)


async def test_take_overs_that_end_before_they_fence_leave_nobody_out() -> None:
    kafka = Kafka(owners=LAST)
    async with kafka.worker() as first, kafka.worker() as second, kafka.worker() as third:
        kafka.before = lambda request: -1 if _is_fence(request, LAST) else 0
        for worker in (first, second):
            with pytest.raises(Exception, match=r"last: Unknown"):
                await worker.take(me(1))
        kafka.before = lambda request: 0
        await third.take(me(1))
        assert kafka.fenced(LAST)
        assert kafka.owners[0] == third.id
        assert len(kafka.owners) == 2, "the register does not grow"


def _is_fence(request: Any, name: str) -> bool:
    return isinstance(request, InitProducerId) and request._fields[0] == name


async def test_a_stale_member_claims_nothing() -> None:
    kafka = Kafka(owners=LAST)
    kafka.generation = 2
    async with kafka.worker() as worker:
        with pytest.raises(StaleGeneration):
            await worker.take(me(1))
    assert kafka.owners == [LAST]


async def test_whoever_was_overtaken_in_its_take_over_does_not_begin() -> None:
    kafka = Kafka(owners=LAST)
    async with kafka.worker() as first, kafka.worker() as second:
        task = me(1)
        await first.take(task)
        kafka.generation = 2
        await second.take(me(2))
        with pytest.raises(Fenced):
            await first.confirm(task)
        assert kafka.owners[0] == second.id


async def test_a_register_that_is_lost_is_outwaited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    async def outwait(worker: ByWorker, partition: int) -> None:
        waited.append(partition)

    monkeypatch.setattr(ByWorker, "_outwait", outwait)
    for note, wants in ((NOTE_BY_WORKER + "in", [0]), (NOTE + "in", []), ("", [])):
        waited.clear()
        kafka = Kafka(note)
        async with kafka.worker() as worker:
            await worker.take(me(1))
        assert waited == wants
        assert kafka.fenced(f"{GROUP}-0") == (not wants)


@pytest.mark.parametrize("owners", ["another", f"{GROUP}-{'x' * 4_000}", f"{LAST},another"])
async def test_a_register_that_a_stranger_has_written_is_a_lost_one(
    monkeypatch: pytest.MonkeyPatch, owners: str
) -> None:
    """The one whom it names may be nobody, and whoever may still commit would not be fenced."""
    monkeypatch.setattr(ownership, "CLEANED_UP_S", -0.9)
    kafka = Kafka(owners=owners)
    task = me(1)
    async with kafka.worker() as worker:
        monkeypatch.setattr(waits, "LASTS_S", 0.0)
        taking = asyncio.create_task(worker.take(task))
        await asyncio.sleep(0.05)
        (line,) = worker.waits.lasting
        assert line.startswith(f"{GROUP}-0: the register of owners is lost; begins in 0 s (since ")
        await taking
        await worker.confirm(task)
        assert worker.waits.lasting == []
        assert kafka.owners == [worker.id]
    assert set(kafka.epochs) == {worker.id}, "no stranger is fenced"


async def test_a_lost_register_is_outwaited_though_an_input_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    async def outwait(worker: ByWorker, partition: int) -> None:
        waited.append(partition)

    monkeypatch.setattr(ByWorker, "_outwait", outwait)
    kafka = Kafka()
    task = me(1)
    task.inputs = {IN: None, TP("new", 0): None}
    async with kafka.worker() as worker:
        await worker.take(task)
    assert waited == [0]


async def test_fences_of_one_worker_are_shared_and_not_kept() -> None:
    kafka = Kafka()
    async with kafka.worker() as worker:
        await asyncio.gather(*(worker._fence(LAST) for _ in range(8)))
        await asyncio.gather(*(worker._fence(f"worker-{number}") for number in range(8)))
        assert kafka.epochs[LAST] <= 1
        assert worker._fences == {}
        assert kafka.looked_up <= {worker.id}, "nor who coordinates it"


async def test_who_begins_a_new_epoch_while_others_fence_it_goes_on() -> None:
    """Nobody is fenced who names no epoch: Kafka only tells that several come at once."""
    kafka = Kafka()
    refusals = [PRODUCER_FENCED, PRODUCER_FENCED]
    async with kafka.worker() as worker:
        await worker._begin()
        epoch = kafka.epochs[worker.id]
        kafka.before = lambda request: refusals.pop() if refusals and _is_fence(request, worker.id) else 0
        await worker._epoch_lost()
        assert kafka.epochs[worker.id] > epoch
    assert refusals == []


async def test_a_member_that_slept_takes_nothing_over_by_partition() -> None:
    """It has the id of the release before, which fences nobody who commits for all its tasks."""
    kafka = Kafka(NOTE + "in")
    async with kafka.worker() as other:
        register = Register(cast(Cluster, kafka), GROUP, REGISTER, other._producer)
        way = ByPartition(cast(Cluster, kafka), GROUP, 0, register, 1_000)
        task = me(1)
        kafka.generation = 2
        await other.take(me(2))
        await way.take(task)
        with pytest.raises(StaleGeneration):
            await way.confirm(task)
        await way.release(task)
        assert kafka.owners[0] == other.id


async def test_a_member_takes_over_by_partition_and_leaves_the_register_as_it_is() -> None:
    for owners in ("", f"{GROUP}-one-that-has-stopped"):
        kafka = Kafka(NOTE + "in", owners)
        async with kafka.worker() as other:
            way = ByPartition(cast(Cluster, kafka), GROUP, 0, other.register, 1_000)
            task = me(1)
            await way.take(task)
            await way.confirm(task)
            await way.release(task)
            assert await other.owners([0]) == {0: [owners] if owners else []}


async def test_an_assignment_to_nobody_starts_no_task() -> None:
    """The group has put the worker out between the assignment and its coming here."""
    started: list[int] = []
    app = SimpleNamespace(
        conf=SimpleNamespace(id=GROUP),
        consumer=SimpleNamespace(membership=lambda: NO_MEMBER),
        input_specs=[SimpleNamespace(name=IN.topic)],
        assignor=SimpleNamespace(assigned_standbys=set, is_by_worker=True),
        settings=SimpleNamespace(exactly_once=True),
    )

    async def own(partition: int, previous: object) -> None:
        started.append(partition)

    manager: Any = SimpleNamespace(
        app=app,
        wanted={3},
        tasks={},
        assignments=1,
        own=own,
        _running={},
        _assigned=asyncio.Condition(),
        _join_generation=lambda: None,
        _follow_standbys=lambda standbys: None,
    )
    await TaskManager.on_rebalance(manager, cast(Any, {IN}), set(), set())
    await asyncio.sleep(0)
    assert started == []
    assert manager.wanted == {3}, "what it has it keeps until it knows better"
