"""One task per partition number: take it over, then take records in, decide and commit, for ever."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from app.engine.core import take_over
from app.engine.core.companion import accompany
from app.engine.core.inbox import Inbox
from app.engine.core.newer import NewerReleaseWaits
from app.engine.core.owned import DEFER_S_MAX, Assignment, OwnedPartition
from app.engine.core.processing import Processing
from app.engine.core.work import Batch, Buried
from app.engine.errors import Fenced

log = logging.getLogger(__name__)

FINISH_S_MAX = 5.0


class Task(OwnedPartition):
    """The serial processor of one partition number of a service.

    `deliver` hands a batch to the agent, `answers` are what the service does about a dead letter. `ready` is
    set from the end of the restore to the end of the task.
    """

    def __init__(
        self,
        given: Assignment,
        deliver: Callable[[Batch[Any]], Awaitable[None]],
        answers: Sequence[Buried] = (),
    ) -> None:
        super().__init__(given)
        self.ready = asyncio.Event()
        self.restored: take_over.Restored | None = None
        self.newer = NewerReleaseWaits(self)
        self.inbox = Inbox(self.inputs, given.fetcher, self.settings, self.watermarks, self.lane)
        self.processing = Processing(self, deliver, answers, self.newer)
        self._in_hand = True

    @property
    def waits_for(self) -> str | None:
        """Why the task waits for a newer build, in one line; None when it does not."""
        return self.newer.first

    @property
    def has_more(self) -> bool:
        """Whether there are records to go on with."""
        return self.inbox.arrived.is_set()

    @property
    def stalled_s(self) -> float:
        """How long the restore or the batch in hand has made no progress; 0 when there is neither."""
        if not self._in_hand:
            return 0.0
        written_at = 0.0 if self.store is None else self.store.written_at
        return time.monotonic() - max(self.progress_at, written_at)

    async def run(self) -> None:
        """Own the partition until stopped or fenced; raises CannotGoOn and whatever else nobody expects."""
        filling: asyncio.Task[None] | None = None
        in_work: AbstractAsyncContextManager[Any] = self.lock
        try:
            self.restored = await take_over.take_over(self)
            self._in_hand = False
            self.ready.set()
            filling = asyncio.create_task(self.inbox.keep_filling(self.positions))
            await self._process_until_stopped(filling)
        except Fenced as error:
            self.give_up(error)
        except asyncio.CancelledError:
            in_work = nullcontext()  # a commit that waits for a broker may wait for ever
            raise
        finally:
            self.closed = True
            self.ready.clear()
            self.watermarks.close()
            try:
                if filling is not None:
                    filling.cancel()
                    await asyncio.gather(filling, return_exceptions=True)
                async with in_work:
                    pass
            finally:  # also for who is cancelled while it ends: open tables would lock out their next owner
                self._close_store()
                await self.ownership.release(self)
        if self.broken is not None:
            raise self.broken

    async def _process_until_stopped(self, filling: "asyncio.Task[None]") -> None:
        stop_asked = asyncio.create_task(self.stop_asked.wait())
        try:
            while not self.stop_asked.is_set():
                if not self.inbox.arrived.is_set() and not await self._something_arrives(stop_asked, filling):
                    await self.processing.commit_deferred()
                    continue
                if filling.done():
                    filling.result()
                await self.let_gather()
                if self.stop_asked.is_set():
                    break
                chunk = self.inbox.take(self.settings.batch_records_max)
                if chunk.end:
                    self._in_hand, self.progress_at = True, time.monotonic()
                    await self.processing.process(chunk)
                self._in_hand = False
                if not self.has_more:
                    self.ownership.expect_no_more(self)
            if self.deferred and not self.closed:
                await self.processing.commit_deferred()
        finally:
            stop_asked.cancel()

    async def _something_arrives(self, *others: "asyncio.Task[Any]") -> bool:
        """Wait for records, or for one of `others`; False when offsets have been deferred long enough."""
        arriving = asyncio.create_task(self.inbox.arrived.wait())
        done, _ = await asyncio.wait(
            {arriving, *others},
            timeout=DEFER_S_MAX if self.deferred else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        arriving.cancel()
        return bool(done)

    async def let_gather(self) -> None:
        """Wait until the next transaction may begin, unless there is a full batch already."""
        wait_s = self.ownership.opens_at - time.monotonic()
        if wait_s > 0 and self.inbox.records_held < self.settings.batch_records_max:
            await self.pause(wait_s)

    async def accompany(self, fun: Callable[["Task"], Awaitable[None]]) -> None:
        """Run a companion; one that meets what a newer release has written waits, and begins again."""
        await accompany(self, fun, self.newer)

    async def check(self) -> None:
        """Find out whether the task has another owner; give it up if so."""
        if not self.closed and self.ready.is_set():
            await self.ownership.check(self)

    def _close_store(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None
