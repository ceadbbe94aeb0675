"""What runs beside a task, from its restore to its end: a service's talk with the outside."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.engine.core.newer import NewerReleaseWaits
from app.engine.core.owned import OwnedPartition
from app.engine.errors import NewerRelease

T = TypeVar("T", bound=OwnedPartition)


async def accompany(task: T, fun: Callable[[T], Awaitable[None]], newer: NewerReleaseWaits) -> None:
    """Run a companion; one that meets what a newer release has written waits, and begins again."""
    who = f"companion {getattr(fun, '__qualname__', fun)}"
    goes_on = True
    while goes_on:
        try:
            await _run(task, fun, newer, who)
            newer.over(who)
            return
        except NewerRelease as error:
            found = error
        except BaseExceptionGroup as group:
            newer_ones, others = group.split(NewerRelease)
            if newer_ones is None or others is not None:
                raise
            found = _first_of(newer_ones)
        newer.note(who, found)
        goes_on = await newer.pause()


async def _run(task: T, fun: Callable[[T], Awaitable[None]], newer: NewerReleaseWaits, who: str) -> None:
    """Run it; when it has lived longer than a pause it does not wait any more."""
    over = newer.over_soon(who)
    try:
        await fun(task)
    finally:
        over.cancel()


def _first_of(group: BaseExceptionGroup[NewerRelease]) -> NewerRelease:
    """One of those that a group of tasks has raised."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, NewerRelease)
    return found
