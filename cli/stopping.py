"""What Ctrl-C and SIGTERM do to a command, and a reader who wants no more of its output."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Final

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def run_until_stopped(
    work: Coroutine[object, object, int | None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    *,
    ctrl_c: int = EXIT_INTERRUPTED,
) -> int:
    """Run a coroutine to its end. Ctrl-C and SIGTERM cancel it, so that it cleans up; a second ends it all.

    `ctrl_c` is the exit status after Ctrl-C. Ending so loses nothing: every process of ours ends with this
    one, and goes on where it was.
    """
    stopping: list[int] = []
    statuses = {signal.SIGINT: ctrl_c, signal.SIGTERM: 128 + signal.SIGTERM}

    async def cancellable() -> int:
        task = asyncio.ensure_future(work)

        def stop(status: int) -> None:
            if stopping:
                os._exit(status)
            stopping.append(status)
            task.cancel()

        for number in statuses:
            asyncio.get_running_loop().add_signal_handler(number, stop, statuses[number])
        try:
            return await task or 0
        except asyncio.CancelledError:
            if stopping:
                return stopping[0]
            raise

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(cancellable())


def until_head_has_enough(run: Callable[[], int]) -> int:
    """Run a command that prints; 0 when whoever reads its output, `head` perhaps, has had enough."""
    try:
        status = run()
        print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status
