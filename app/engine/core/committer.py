"""Commits what the tasks of a worker have ready: one transaction after the other, each with all of it.

While a transaction is under way the next one fills. So the number of transactions follows time, not the
number of partitions.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.engine.errors import Fenced, InDoubt, StaleGeneration
from app.engine.kafka.cluster import TP, Committed, Membership
from app.engine.kafka.transaction import LeaderAway, Outbox, Producer, RecordRefused, all_done
from app.engine.retries import Pauses
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

Ends = dict[TP, int]
"""By partition, the offset behind what was written there."""

GATHER_S_MAX = 0.02
"""How long a transaction waits for tasks that have records in hand."""

PATIENCE_S = 2.0
"""How long a partition without a leader may hold up the work of others."""

PATIENCE_AGAIN_S = 0.2
AWAY = Pauses(0.25, 2.0)
"""While a partition has no leader, what is for it is tried again after such pauses, by itself.

Each try may hold up the others for PATIENCE_AGAIN_S.
"""


class Party(Protocol):
    """Whoever commits: a task. `membership` is the one under which the group gave it the partition.

    `has_more` says that it has records to go on with.
    """

    partition: int
    membership: Membership
    closed: bool

    @property
    def inputs(self) -> Mapping[TP, TopicSpec]: ...
    @property
    def has_more(self) -> bool: ...

    def give_up(self, error: Exception) -> None: ...


@dataclass(eq=False)
class Share:
    """What one unit of work has in a transaction: records, and the input offsets behind what it took in.

    `alone`: a transaction with it has failed, so the next one has nothing else.
    """

    task: Party
    outbox: Outbox
    offsets: Mapping[TP, Committed]
    alone: bool = False
    done: "asyncio.Future[Ends]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def is_behind(self, error: Exception) -> bool:
        """Whether this share may be why a transaction has failed."""
        if isinstance(error, RecordRefused):
            return error.tp in self.outbox.partitions
        if isinstance(error, LeaderAway):
            return not error.tps.isdisjoint(self.outbox.partitions)
        return True


class Committer:
    """Commits shares under one transactional id.

    `membership` gives the generation and member id under which offsets are committed. `epoch_lost` is called
    when somebody else has taken the id over, or the group has moved on: it gives up tasks that have another
    owner, and begins a new epoch, or raises Fenced when nothing can be committed any more. `interval_s` is
    how far the beginnings of two transactions are apart, at least.
    """

    def __init__(
        self,
        producer: Producer,
        membership: Callable[[], Membership],
        epoch_lost: Callable[[], Awaitable[None]],
        interval_s: float = 0.0,
    ) -> None:
        self.producer = producer
        self.count = 0
        """How many transactions have been committed."""
        self.opens_at = 0.0
        """When the next transaction may begin (monotonic)."""
        self._membership = membership
        self._epoch_lost = epoch_lost
        self._interval_s = interval_s
        self._waiting: deque[Share] = deque()
        self._held: list[Share] = []
        self._held_until = 0.0
        self._away_tries = 0
        self._joining: set[Party] = set()
        self._changed = asyncio.Event()
        self._new_membership = asyncio.Event()
        self._turn = asyncio.Lock()
        self._ended: BaseException | None = None

    # -- for tasks

    async def commit(self, share: Share) -> Ends:
        """Commit a share with whatever else is ready; returns where its records end.

        Raises Fenced when the task has another owner or the outcome is in doubt; RecordRefused and
        TransactionFailed when nothing of it is committed and it may be tried again.
        """
        self._joining.discard(share.task)
        if share.task.closed:
            raise Fenced("the task has another owner")
        if self._ended is not None:
            raise Fenced(f"nothing is committed any more: {self._ended!r}")
        self._waiting.append(share)
        self._changed.set()
        return await share.done

    def expect(self, task: Party) -> None:
        """A task begins to process a batch: the next transaction waits for it a little.

        It does so too for tasks that have just committed and have more; without that they would always miss
        the next transaction, which begins at once, and take turns with the others.
        """
        self._joining.add(task)

    def expect_no_more(self, task: Party) -> None:
        """It has nothing more to do for now."""
        self._joining.discard(task)
        self._changed.set()

    def assigned(self) -> None:
        """The group has given this worker a new generation."""
        self._new_membership.set()

    async def renew(self) -> None:
        """Wait until all transactions so far are over, markers included; see whether the id is still ours."""
        async with self._turn:
            try:
                await self.producer.renew()
            except Fenced:
                await self._epoch_lost()

    # -- the loop

    async def run(self) -> None:
        """Commit for ever. However it ends, each share gets an answer."""
        shares: list[Share] = []
        try:
            while True:
                shares = await self._next()
                async with self._turn:
                    await self._commit(shares)
        except BaseException as error:
            self._ended = error
            _fail([*shares, *self._waiting, *self._held], Fenced(f"nothing is committed any more: {error!r}"))
            raise

    async def _next(self) -> list[Share]:
        """The shares of the next transaction, when it is time for it."""
        while True:
            self._changed.clear()
            if self._held and time.monotonic() >= self._held_until:
                shares, self._held = self._held, []
                return shares
            if self._waiting:
                await self._gather()
                return self._take()
            timeout = self._held_until - time.monotonic() if self._held else None
            await _wait(self._changed, timeout)

    async def _gather(self) -> None:
        """Wait until a transaction may begin, and a little for tasks that have a batch in hand."""
        pause_s = self.opens_at - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        until = time.monotonic() + GATHER_S_MAX
        while self._joining and (left_s := until - time.monotonic()) > 0:
            self._changed.clear()
            await _wait(self._changed, left_s)
        self._joining.clear()  # who is late need not be waited for again

    def _take(self) -> list[Share]:
        if self._waiting[0].alone:
            return [self._waiting.popleft()]
        shares = [share for share in self._waiting if not share.alone]
        self._waiting = deque(share for share in self._waiting if share.alone)
        return shares

    async def _commit(self, shares: Sequence[Share]) -> None:
        """One transaction; each share gets its answer, or waits for the next one.

        What has been given up while it waited is left out: under a new epoch nothing else would keep it out.
        """
        _fail((share for share in shares if share.task.closed), Fenced("the task has another owner"))
        shares = [share for share in shares if not share.task.closed]
        if not shares:
            return
        self.opens_at = time.monotonic() + self._interval_s
        membership = self._membership()
        try:
            ends = await self._transact(shares, membership)
        except asyncio.CancelledError:
            _fail(shares, Fenced("the worker ends in the middle of a commit"))
            raise
        except InDoubt as error:
            await self._begin_anew(shares)
            _fail(shares, error)
        except StaleGeneration as error:
            log.info("the offsets wait for the group's next generation: %s", error)
            await self._drop(shares)
            await self._wait_for_other_than(membership)
            await self._begin_anew(shares)  # others may own some of it by now, and have fenced nobody
            self._again(shares)
        except Fenced as error:
            log.info("nothing of a transaction is committed: %s", error)
            await self._begin_anew(shares)
            self._again(shares)
        except Exception as error:  # of whatever kind, the transaction is over and its tasks have to know
            await self._drop(shares)
            self._sort_out(shares, error)
        else:
            self.count += 1
            self._joining.update(
                share.task for share in shares if share.task.has_more and not share.task.closed
            )
            if shares[0].alone:
                self._away_tries = 0
            for share, its_ends in zip(shares, ends, strict=True):
                if not share.done.done():
                    share.done.set_result(its_ends)

    async def _transact(self, shares: Sequence[Share], membership: Membership) -> list[Ends]:
        """Records and input offsets of all shares in one transaction."""
        producer, outboxes = self.producer, [share.outbox for share in shares]
        partitions = list(dict.fromkeys(tp for outbox in outboxes for tp in outbox.partitions))
        offsets = {tp: at for share in shares for tp, at in share.offsets.items()}
        if not partitions and not offsets:
            return [{} for _ in shares]
        await producer.add(partitions, offsets)
        patience_s = PATIENCE_AGAIN_S if shares[0].alone else PATIENCE_S
        ends, _ = await all_done(
            producer.send(outboxes, patience_s), producer.send_offsets(offsets, membership)
        )
        await producer.commit()
        answer: list[Ends] = ends
        return answer

    async def _drop(self, shares: Sequence[Share]) -> None:
        """End a transaction of which nothing is to be seen."""
        try:
            await self.producer.abort()
        except Fenced:
            await self._begin_anew(shares)

    async def _begin_anew(self, shares: Sequence[Share]) -> None:
        try:
            await self._epoch_lost()
        except Fenced as error:
            _fail(shares, error)
            raise

    def _again(self, shares: Iterable[Share]) -> None:
        """Let shares go into the next transaction, unless their tasks have been given up meanwhile."""
        for share in reversed(list(shares)):
            if share.task.closed:
                share.fail(Fenced("the task has another owner"))
            else:
                self._waiting.appendleft(share)

    async def _wait_for_other_than(self, membership: Membership) -> None:
        while self._membership() == membership:
            self._new_membership.clear()
            await self._new_membership.wait()

    def _sort_out(self, shares: Sequence[Share], error: Exception) -> None:
        """Tell a failure to whom it belongs; the others go on. In doubt each goes alone."""
        suspects = [share for share in shares if share.is_behind(error)] or list(shares)
        self._again(share for share in shares if share not in suspects)
        if isinstance(error, LeaderAway):
            log.warning("what is for %s waits until there is a leader", _named(error.tps))
            for share in suspects:
                share.alone = True
            self._held += suspects
            self._away_tries += 1
            self._held_until = time.monotonic() + AWAY.after(self._away_tries)
        elif len(suspects) == 1:
            suspects[0].fail(error)
        else:
            log.warning("a transaction of %s tasks has failed, each goes alone: %r", len(suspects), error)
            for share in suspects:
                share.alone = True
            self._again(suspects)


def _fail(shares: Iterable[Share], error: BaseException) -> None:
    for share in shares:
        share.fail(error)


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait for the event, for so long at most."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _named(tps: Iterable[TP]) -> str:
    return ", ".join(f"{tp.topic}-{tp.partition}" for tp in sorted(tps))
