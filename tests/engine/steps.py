"""The steps a task goes through, each a place where a test can stop it, kill it or let something else happen.

The engine knows nothing of this: `instrument()` wraps its methods. What happens at a step is looked up in the
context of the worker that reaches it, so two workers in one process can be told apart.
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
from typing import Any

from app.engine import restore as restore_module
from app.engine import task as task_module
from app.engine.store import TaskStore
from app.engine.task import Task
from app.engine.transaction import Producer


class Step(StrEnum):
    """Where a task stands, in the order it gets there."""

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


Action = Callable[[], Any]
Plan = dict[Step, Action]
_plan: ContextVar[Plan | None] = ContextVar("plan", default=None)


def follow(plan: Plan) -> None:
    """From here on, this context's workers do as `plan` says. A plan may be changed later."""
    _plan.set(plan)


async def reach(step: Step) -> None:
    result = reach_at_once(step)
    if isinstance(result, Awaitable):
        await result


def reach_at_once(step: Step) -> Any:
    action = (_plan.get() or {}).get(step)
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
    """Wrap the engine's methods, once a process. Without a plan they do what they did."""
    if hasattr(Task, "_stepped"):
        return
    Task._stepped = True  # type: ignore[attr-defined]
    _around(Producer, "begin", Step.BEFORE_FENCING, Step.FENCED_OTHERS)
    _around(Task, "_committed_positions", None, Step.READ_OFFSETS)
    _around(task_module, "restore", Step.BEFORE_RESTORE, Step.RESTORED)
    _around(Producer, "add", Step.BEFORE_ADD, None)
    _around(Producer, "send", Step.BEFORE_PRODUCE, Step.AFTER_PRODUCE)
    _around(Producer, "send_offsets", None, Step.AFTER_OFFSETS)
    _around(Producer, "commit", Step.BEFORE_COMMIT, Step.AFTER_COMMIT)
    apply = TaskStore.apply

    def stepped_apply(*args: Any, **kwargs: Any) -> None:
        apply(*args, **kwargs)
        if _plan.get():
            reach_at_once(Step.IN_RESTORE if _in_restore() else Step.AFTER_APPLY)

    TaskStore.apply = stepped_apply  # type: ignore[method-assign]


def _in_restore() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not restore_module.restore.__code__:
        frame = frame.f_back
    return frame is not None
