"""The steps a worker goes through, each a place where it can be stopped or killed, or something can happen.

The engine and the services know nothing of this: `instrument()` wraps their methods. What happens at a step
is looked up in the context of the worker that reaches it, so two workers in one process can be told apart; a
context that follows no plan of its own follows `PROCESS_PLAN`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from enum import StrEnum
from functools import wraps
from types import FrameType
from typing import Any, Final

from app.engine.core import take_over as take_over_module
from app.engine.core.manager import TaskManager
from app.engine.core.ownership import ByPartition, ByWorker
from app.engine.kafka.consumer import Consumer
from app.engine.kafka.transaction import Producer
from app.engine.state import restore as restore_module
from app.engine.state.store import TaskStore
from app.venue_session.session import VenueSession


class Step(StrEnum):
    """Where a worker stands. Between AFTER_COMMIT and AFTER_APPLY Kafka has what RocksDB has not."""

    BEFORE_FENCING = "before fencing"
    FENCED_OTHERS = "has fenced others"
    READ_OFFSETS = "has read the offsets"
    BEFORE_RESTORE = "before the restore"
    IN_RESTORE = "in the middle of the restore"
    RESTORED = "restored"

    BEFORE_ADD = "before the transaction"
    BEFORE_PRODUCE = "before it produces"
    AFTER_PRODUCE = "after it produced"
    AFTER_OFFSETS = "after the offsets"
    BEFORE_COMMIT = "before the commit"
    AFTER_COMMIT = "after the commit"
    AFTER_APPLY = "after the store's write"

    IN_REVOCATION = "while partitions are revoked"
    BEFORE_REBALANCE = "before the new assignment"
    AFTER_REBALANCE = "after the new assignment"

    IN_STANDBY = "in the middle of the standby"
    BEFORE_PROMOTION = "while its standby closes"
    BEFORE_TAIL = "before the standby's tail"
    IN_TAIL = "in the middle of the standby's tail"
    PROMOTED = "has restored the standby's tail"

    BEFORE_VENUE_CALL = "before the call to the venue"
    AFTER_VENUE_CALL = "after the venue's answer"
    BEFORE_BOOKING = "before reports are booked"


STARTING: Final = tuple(list(Step)[: list(Step).index(Step.BEFORE_ADD)])
"""The steps of every task that begins, in the order it gets there."""

WORKING: Final = tuple(list(Step)[len(STARTING) : list(Step).index(Step.IN_REVOCATION)])
"""The steps of every transaction, in the order it gets there."""

Action = Callable[[], Any]
Plan = dict[Step, Action]
PROCESS_PLAN: Final[Plan] = {}
_plan: ContextVar[Plan] = ContextVar("plan", default=PROCESS_PLAN)
_promotes: ContextVar[bool] = ContextVar("promotes", default=False)
"""Whether the task that runs here takes over what this worker was the standby of."""


def follow(plan: Plan) -> None:
    """From here on, this context's workers do as `plan` says. A plan may be changed later."""
    _plan.set(plan)


async def reach(step: Step) -> None:
    result = reach_at_once(step)
    if isinstance(result, Awaitable):
        await result


def reach_at_once(step: Step) -> Any:
    action = _plan.get().get(step)
    return None if action is None else action()


class Killed(BaseException):
    """Whoever meets this is as good as dead."""


class Gate:
    """Stops whoever reaches it until it is opened; `reached` tells that somebody is there.

    `after` is how many may pass first.
    """

    def __init__(self, after: int = 0) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._after = after

    async def __call__(self) -> None:
        if self._after > 0:
            self._after -= 1
            return
        self.reached.set()
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


def at_time(number: int, action: Action) -> Action:
    """Do `action` the `number`th time only (1 is the first)."""
    count = 0

    def maybe() -> Any:
        nonlocal count
        count += 1
        return action() if count == number else None

    return maybe


def raise_(error: BaseException) -> Action:
    def act() -> None:
        raise error

    return act


def kill() -> None:
    """The end of this process, as by the kernel."""
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    """Stop this process until somebody lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _around(owner: Any, name: str, before: Step | None, after: Step | None) -> None:
    inner = getattr(owner, name)

    @wraps(inner)
    async def stepped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            await reach(before)
        result = await inner(*args, **kwargs)
        if after is not None:
            await reach(after)
        return result

    setattr(owner, name, stepped)


def instrument() -> None:
    """Wrap the methods, once a process. Without a plan they do what they did."""
    if hasattr(Producer.commit, "__wrapped__"):
        return
    for way in (ByWorker, ByPartition):
        _around(way, "take", Step.BEFORE_FENCING, Step.FENCED_OTHERS)
    _around(take_over_module, "find_start", None, Step.READ_OFFSETS)
    _around(take_over_module, "restore", Step.BEFORE_RESTORE, Step.RESTORED)
    _around(Producer, "add", Step.BEFORE_ADD, None)
    _around(Producer, "send", Step.BEFORE_PRODUCE, Step.AFTER_PRODUCE)
    _around(Producer, "send_offsets", None, Step.AFTER_OFFSETS)
    _around(Producer, "commit", Step.BEFORE_COMMIT, Step.AFTER_COMMIT)
    _around(Consumer, "on_partitions_revoked", Step.IN_REVOCATION, None)
    _around(TaskManager, "on_rebalance", Step.BEFORE_REBALANCE, Step.AFTER_REBALANCE)
    _around(VenueSession, "book", Step.BEFORE_BOOKING, None)
    _step_writes()
    _step_promotions()
    _step_venue_calls()


def _step_writes() -> None:
    apply = TaskStore.apply

    def stepped(*args: Any, **kwargs: Any) -> None:
        apply(*args, **kwargs)
        if _plan.get():
            reach_at_once(_writing())

    TaskStore.apply = stepped  # type: ignore[method-assign]


def _writing() -> Step:
    """Who has just written to a store: a restore, a standby, or a transaction."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is restore_module.restore.__code__:
            return Step.IN_TAIL if _promotes.get() else Step.IN_RESTORE
        if frame.f_code is restore_module.follow.__code__:
            return Step.IN_STANDBY
        frame = frame.f_back
    return Step.AFTER_APPLY


def _step_promotions() -> None:
    own, restore = TaskManager.own, vars(take_over_module)["restore"]

    async def stepped_own(
        manager: TaskManager, partition: int, previous: "asyncio.Task[None] | None"
    ) -> None:
        following = manager.following.get(partition)
        if following is not None and not following.done():
            _promotes.set(True)
            await reach(Step.BEFORE_PROMOTION)
        await own(manager, partition, previous)

    async def stepped_restore(*args: Any) -> int:
        if not _promotes.get():
            count: int = await restore(*args)
            return count
        await reach(Step.BEFORE_TAIL)
        count = await restore(*args)
        _promotes.set(False)
        await reach(Step.PROMOTED)
        return count

    TaskManager.own = stepped_own  # type: ignore[method-assign, assignment]
    vars(take_over_module)["restore"] = stepped_restore


def _step_venue_calls() -> None:
    call = VenueSession.call

    async def stepped(session: VenueSession, path: str, body: dict[str, Any]) -> Any:
        if path != "/orders":
            return await call(session, path, body)
        await reach(Step.BEFORE_VENUE_CALL)
        answer = await call(session, path, body)
        await reach(Step.AFTER_VENUE_CALL)
        return answer

    VenueSession.call = stepped  # type: ignore[method-assign, assignment]
