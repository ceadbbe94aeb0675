"""From a chunk of records to commits: as a whole, or in parts around the record that fails (rule 6)."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

from app.engine.core.chunk import Chunk
from app.engine.core.newer import NewerReleaseWaits
from app.engine.core.owned import OwnedPartition
from app.engine.core.work import Batch, Buried, UnitOfWork
from app.engine.errors import AnswerFailed, NewerRelease, Poison, Transient
from app.engine.kafka.transaction import RecordRefused
from app.engine.retries import Pauses

log = logging.getLogger(__name__)

BACKOFF = Pauses(first_s=0.05, most_s=5.0)
AGENT = "agent"


@dataclass
class Trial:
    """What the tries of a part of a chunk have shown so far.

    `poison` is why its one record has to be a dead letter, `brief` that it is too large for the topic whole,
    `unanswered` that the service's answer to it fails.
    """

    attempts: int = 0
    waits: int = 0
    poison: BaseException | None = None
    brief: bool = False
    unanswered: bool = False


class Processing:
    """Delivers a task's chunks to its agent until all of their records are committed, in order."""

    def __init__(
        self,
        task: OwnedPartition,
        deliver: Callable[[Batch[Any]], Awaitable[None]],
        answers: Sequence[Buried],
        newer: NewerReleaseWaits,
    ) -> None:
        self.task = task
        self._deliver = deliver
        self._answers = answers
        self._newer = newer

    async def process(self, chunk: Chunk) -> None:
        """Commit every record of the chunk: as a whole, or in parts around the one that fails."""
        task = self.task
        parts = deque([chunk])
        trial = Trial()
        while parts and not task.stopping:
            part = parts.popleft()
            failure = await self.attempt(part, trial)
            if failure is None:
                trial = Trial()
                self._newer.over(AGENT)
                continue
            if task.closed:
                return
            error, index = failure
            if is_newer(error) and index == 0:
                parts.appendleft(part)
                await self._hold(part, error)
            elif is_transient(error):
                parts.appendleft(part)
                trial.waits += 1
                await self.back_off(trial.waits, error)
            elif len(part.items) > 1:
                parts.extendleft(reversed(part.split(index, task.partition)))
            else:
                parts.appendleft(part)
                await self._try_otherwise(trial, error)

    async def attempt(self, part: Chunk, trial: Trial) -> tuple[BaseException, int] | None:
        """Deliver a part; returns None when it is committed, else the error and the index of its record.

        What has proved to be poison is buried here: the agent, which may be what fails, has no part in it.
        """
        task = self.task
        batch: Batch[Any] = Batch(
            task,
            part,
            trial.poison,
            trial.attempts,
            brief=trial.brief,
            answers=() if trial.unanswered else self._answers,
        )
        task.agent_turn.begin()
        if not task.lock.locked():  # else it waits for a companion, which may be in the next transaction
            task.ownership.expect(task)
        try:
            if trial.poison is None:
                await self._deliver(batch)
            else:
                async with UnitOfWork(task, batch) as work:
                    for _ in work.records():
                        raise AssertionError("a batch that is poison has no records")
            error = await batch.done
        finally:
            task.agent_turn.end()
        return None if error is None else (error, batch.index)

    async def _try_otherwise(self, trial: Trial, error: BaseException) -> None:
        """Decide how a record that has failed alone is tried next."""
        if isinstance(error, RecordRefused) and not trial.brief:
            trial.brief = True  # if it is a dead letter that is too large, a shorter one will do
            return
        if isinstance(error, AnswerFailed) and not trial.unanswered:
            trial.unanswered = True
            log.error(
                "%s: a dead letter goes without its answer: %s", self.task, error, exc_info=error.__cause__
            )
            return
        trial.attempts += 1
        hopeless = trial.attempts >= self.task.settings.attempts_max or is_poison(error)
        if hopeless and trial.poison is None:
            trial.poison, trial.brief = error, False
            if not is_poison(error):
                log.error("%s gives a record up", self.task, exc_info=error)
        else:
            await self.back_off(trial.attempts, error)

    async def _hold(self, part: Chunk, error: NewerRelease) -> None:
        """Wait a little for the newer build that can read the first record of the part."""
        at = ""
        if part.items:
            spec, raw = part.items[0]
            at = f" at {spec.name}/{self.task.partition}/{raw.offset}"
        self.task.ownership.expect_no_more(self.task)
        self._newer.note(AGENT, error, at)
        if part.items and self.task.deferred:
            await self.commit_deferred()
        await self._newer.pause()

    async def back_off(self, attempt: int, error: BaseException) -> None:
        """Wait exponentially longer with each attempt, with jitter, unless told to stop."""
        self.task.ownership.expect_no_more(self.task)
        pause_s = BACKOFF.after(attempt)
        log.warning("%s tries again in %.2f s (%s): %r", self.task, pause_s, attempt, error)
        await self.task.pause(pause_s)

    async def commit_deferred(self) -> None:
        """Commit the offsets that were left to the next transaction."""
        with suppress(Transient):  # the next transaction takes them along
            async with UnitOfWork(self.task, None):
                pass


def is_newer(error: BaseException) -> TypeGuard[NewerRelease]:
    """Whether a newer build is needed: the task waits in front of the record."""
    return isinstance(error, NewerRelease)


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed a little later, as often as it takes."""
    return isinstance(error, Transient) or not isinstance(error, Exception)


def is_poison(error: BaseException) -> bool:
    """Whether the record is to be a dead letter at once, without another try."""
    return isinstance(error, Poison)
