"""Whose a partition is: what makes a worker the only one that can commit for it (rule 1).

Exactly once there are two ways. A worker commits for all its tasks under one transactional id, and a register
says which worker may do so for a partition. While a worker of the release before is in the group, each task
has a transactional id of its own, as that release knows it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol
from uuid import uuid4

from app.engine.core.committer import Committer, Ends, Party, Share
from app.engine.errors import Fenced
from app.engine.kafka.cluster import NO_MEMBER, TP, Cluster, Committed, Membership
from app.engine.kafka.transaction import Producer, is_by_worker
from app.engine.kafka.waits import Waits

log = logging.getLogger(__name__)

OWNERS = "owners:"
CLEANED_UP_S = 11.0
"""Within this time Kafka ends a transaction that has timed out (every 10 s by default, it looks for some)."""


class Ownership(Protocol):
    """How a worker takes partitions over, and commits for those that it has.

    `take` ends what the last owner has under way and fences it. `confirm` follows when offsets are read,
    and before the tables. `check` gives the task up if it has another owner; `release` forgets it.
    `by_worker` is noted with each offset; `waits` tells what holds it up.
    """

    async def take(self, task: Party) -> None: ...
    async def confirm(self, task: Party) -> None: ...
    async def check(self, task: Party) -> None: ...
    async def release(self, task: Party) -> None: ...
    async def commit(self, share: Share) -> Ends: ...
    async def applied(self, share: Share) -> None: ...
    def expect(self, task: Party) -> None: ...
    def expect_no_more(self, task: Party) -> None: ...

    @property
    def opens_at(self) -> float: ...
    @property
    def waits(self) -> Waits: ...
    @property
    def by_worker(self) -> bool: ...


class Register:
    """Which workers may commit for a partition: the newest that has claimed it, then who worked last.

    It is kept as the metadata of the group's committed offset of `topic`, which nobody reads through the
    group. So the group's coordinator takes a claim only from a member of the current generation.
    """

    def __init__(self, cluster: Cluster, group: str, topic: str, producer: Producer) -> None:
        self._cluster = cluster
        self._group = group
        self._topic = topic
        self._producer = producer
        self._id_chars_max = len(id_of_worker(group))

    async def read(self, partitions: Iterable[int]) -> dict[int, list[str]]:
        """By partition, the owners' ids, [] where nobody has claimed it or a stranger has written."""
        found = await self._cluster.group_offsets(self._group, [TP(self._topic, p) for p in partitions])
        return {tp.partition: [] if each is None else self._owners(each.note) for tp, each in found.items()}

    def _owners(self, note: str) -> list[str]:
        """The ids in a note, all or none: to fence a strange one would leave the true owner unfenced."""
        ids = [each for each in note.removeprefix(OWNERS).split(",") if each]
        are_ours = all(each.startswith(f"{self._group}-") and len(each) <= self._id_chars_max for each in ids)
        return ids if note.startswith(OWNERS) and are_ours else []

    async def write(self, partition: int, owners: Iterable[str], membership: Membership) -> None:
        """Replace the owners; raises StaleGeneration when the group has moved on."""
        note = OWNERS + ",".join(owners)
        await self._producer.commit_offsets({TP(self._topic, partition): Committed(0, note)}, membership)


def id_of_worker(group: str) -> str:
    """A transactional id for all tasks of a worker, new with each call."""
    return f"{group}-{uuid4().hex}"


def id_of_release_before(group: str, partition: int) -> str:
    """The transactional id under which the release before commits for a partition."""
    return f"{group}-{partition}"


class _InTransactions:
    """What the two ways to be exactly once have in common: a committer, which takes offsets along."""

    committer: Committer

    async def commit(self, share: Share) -> Ends:
        return await self.committer.commit(share)

    async def applied(self, share: Share) -> None:
        """Offsets are in the transaction."""

    def expect(self, task: Party) -> None:
        self.committer.expect(task)

    def expect_no_more(self, task: Party) -> None:
        self.committer.expect_no_more(task)

    @property
    def opens_at(self) -> float:
        return self.committer.opens_at

    @property
    def waits(self) -> Waits:
        return self.committer.producer.waits


class ByWorker(_InTransactions):
    """One transactional id for all tasks of this worker, new for each process.

    A take-over claims the partition in the register, then fences whoever has the last claim before. So a
    worker that finds its epoch gone begins a new one and reads the register: what it has still the last claim
    on is its own, and nobody has fenced it for that.
    """

    def __init__(
        self, cluster: Cluster, group: str, register_topic: str, timeout_ms: int, interval_s: float = 0.0
    ) -> None:
        self.id = id_of_worker(group)
        self.membership = NO_MEMBER
        self._cluster = cluster
        self._group = group
        self._timeout_ms = timeout_ms
        self._producer = Producer(cluster, self.id, group, timeout_ms, self.id)
        self.register = Register(cluster, group, register_topic, self._producer)
        self.committer = Committer(self._producer, lambda: self.membership, self._epoch_lost, interval_s)
        self._tasks: dict[int, Party] = {}
        self._begun: asyncio.Task[None] | None = None
        self._fences: dict[str, _Shared] = {}

    async def run(self) -> None:
        """Commit for ever."""
        await self._begin()
        await self.committer.run()

    async def _begin(self) -> None:
        if self._begun is None:
            self._begun = asyncio.create_task(self._producer.begin())
        await asyncio.shield(self._begun)

    def assigned(self, membership: Membership) -> None:
        """The group's next generation: it is what commits and claims name from now on."""
        self.membership = membership
        self.committer.assigned()

    async def owners(self, partitions: Iterable[int]) -> dict[int, list[str]]:
        """What the register says."""
        return await self.register.read(partitions)

    async def take(self, task: Party) -> None:
        """Claim the partition, then end what its last owner has under way."""
        await self._begin()
        partition = task.partition
        known = (await self.register.read([partition]))[partition]
        notes = await self._notes(task.inputs)
        if not known and any(is_by_worker(note) for note in notes):
            await self._outwait(partition)
        first, *older = known or [self.id]
        for each in older:  # the first has claimed it from them and may have ended before it fenced them
            await self._end(each)
        await self.register.write(partition, [self.id, first], task.membership)
        self._tasks[partition] = task
        if not all(is_by_worker(note) for note in notes):
            await self._fence(id_of_release_before(self._group, partition))
        await self._end(first)

    async def _outwait(self, partition: int) -> None:
        """Wait until no owner can have a transaction open: nobody knows whom to fence."""
        wait_s = self._timeout_ms / 1e3 + CLEANED_UP_S
        lost = f"{self._group}-{partition}: the register of owners is lost; begins in {wait_s:.0f} s"
        log.error("%s", lost)
        with self.waits.begin() as wait:
            wait.because(lost)
            await asyncio.sleep(wait_s)

    async def _notes(self, inputs: Iterable[TP]) -> list[str]:
        """What is noted with the committed offset of each input, nothing where there is none."""
        found = await self._cluster.group_offsets(self._group, list(inputs))
        return ["" if each is None else each.note for each in found.values()]

    async def _end(self, worker: str) -> None:
        """End what a worker, which may be this one, has under way."""
        if worker == self.id:
            await self.committer.renew()
        else:
            await self._fence(worker)

    async def confirm(self, task: Party) -> None:
        """The last owner has ended: from here on there is only this one.

        It is said under the generation of the claim: under a newer one somebody else may have claimed it.
        Raises Fenced if somebody has.
        """
        owners = (await self.register.read([task.partition]))[task.partition]
        if owners[:1] != [self.id]:
            raise Fenced(f"its owner is {owners}, not {self.id}")
        await self.register.write(task.partition, [self.id], task.membership)

    async def _fence(self, worker: str) -> None:
        """Fence a worker, once for all tasks that ask while a fence before theirs is under way."""
        if worker not in self._fences:
            self._fences[worker] = _Shared(partial(self._producer.fence, worker))
        fence = self._fences[worker]
        try:
            await fence()
        finally:
            if fence.is_idle and self._fences.get(worker) is fence:
                del self._fences[worker]

    async def check(self, task: Party) -> None:
        await self._check([task])

    async def check_all(self) -> None:
        """Give up the tasks that have another owner by now."""
        await self._check(list(self._tasks.values()))

    async def _check(self, tasks: list[Party]) -> None:
        tasks = [task for task in tasks if not task.closed and self._tasks.get(task.partition) is task]
        owners = await self.register.read([task.partition for task in tasks]) if tasks else {}
        for task in tasks:
            if owners[task.partition][:1] != [self.id]:
                task.give_up(Fenced(f"its owner is {owners[task.partition]}, not {self.id}"))

    async def _epoch_lost(self) -> None:
        await self._producer.begin()
        await self.check_all()

    async def release(self, task: Party) -> None:
        if self._tasks.get(task.partition) is task:
            del self._tasks[task.partition]
        self.committer.expect_no_more(task)

    @property
    def by_worker(self) -> bool:
        return True


class ByPartition(_InTransactions):
    """A transactional id for one partition, as in the release before: a take-over fences its last owner.

    Workers that commit for all their tasks fence it too, but it cannot fence them.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        partition: int,
        register: Register,
        timeout_ms: int,
        interval_s: float = 0.0,
    ) -> None:
        name = id_of_release_before(group, partition)
        self._register = register
        self._producer = Producer(cluster, name, group, timeout_ms, name)
        self.committer = Committer(self._producer, lambda: NO_MEMBER, self._epoch_lost, interval_s)
        self._committing: asyncio.Task[None] | None = None

    async def take(self, task: Party) -> None:
        await self._producer.begin()
        self._committing = asyncio.create_task(self.committer.run())

    async def confirm(self, task: Party) -> None:
        """Whoever has the id is the owner, if the group still was in the generation of the task meanwhile.

        The coordinator says so, as it takes the register as it is only from a member of that generation. What
        comes later fences the id. Raises StaleGeneration if the group has moved on: its members may commit
        for all their tasks by now, and one of them may have fenced the id before it was taken here.
        """
        owners = (await self._register.read([task.partition]))[task.partition]
        await self._register.write(task.partition, owners, task.membership)

    async def check(self, task: Party) -> None:
        try:
            await self.committer.renew()
        except Fenced as error:
            task.give_up(error)

    async def _epoch_lost(self) -> None:
        raise Fenced(f"{self._producer.transactional_id} has been taken over")

    async def release(self, task: Party) -> None:
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)

    @property
    def by_worker(self) -> bool:
        return False


class AtLeastOnce:
    """No transactions: what is written counts at once, and offsets are committed behind it."""

    opens_at = 0.0

    def __init__(
        self, cluster: Cluster, group: str, timeout_ms: int, membership: Callable[[], Membership]
    ) -> None:
        self._producer = Producer(cluster, None, group, timeout_ms, group)
        self._membership = membership

    async def take(self, task: Party) -> None:
        """Nothing tells two owners apart."""

    async def confirm(self, task: Party) -> None:
        pass

    async def check(self, task: Party) -> None:
        pass

    async def release(self, task: Party) -> None:
        pass

    async def commit(self, share: Share) -> Ends:
        (ends,) = await self._producer.send([share.outbox])
        return ends

    async def applied(self, share: Share) -> None:
        if share.offsets:
            await self._producer.commit_offsets(share.offsets, self._membership())

    def expect(self, task: Party) -> None:
        pass

    def expect_no_more(self, task: Party) -> None:
        pass

    @property
    def waits(self) -> Waits:
        return self._producer.waits

    @property
    def by_worker(self) -> bool:
        return False


class _Shared:
    """Calls `act` for whoever asks, begun after it asked; who asks while it runs shares the next call."""

    def __init__(self, act: Callable[[], Awaitable[None]]) -> None:
        self._act = act
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        if self._next is None:
            self._next = asyncio.create_task(self._run_behind(self._running))
        await asyncio.shield(self._next)

    @property
    def is_idle(self) -> bool:
        """Whether nobody's call is under way, or waits for one."""
        return self._next is None and (self._running is None or self._running.done())

    async def _run_behind(self, running: "asyncio.Task[None] | None") -> None:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        await self._act()
