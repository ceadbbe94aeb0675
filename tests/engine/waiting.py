"""Wait for what must come, with generous patience: nothing here measures time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PATIENCE_S = 40.0


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = PATIENCE_S) -> None:
    """Wait until `condition` holds; raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while True:
        holds = condition()
        if await holds if inspect.isawaitable(holds) else holds:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s")
        await asyncio.sleep(0.01)
