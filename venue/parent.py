"""Ends this process when its parent is gone, so that a killed run leaves no venue behind."""

import asyncio
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal this process gets when the thread that started it ends
_POLL_S = 1.0


def signal_at_parent_death() -> None:
    """On Linux ask the kernel for SIGTERM at the parent's death; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


async def wait_until_orphaned(parent_pid: int) -> None:
    """Return when the parent is another process: covers a death before the kernel was asked."""
    while True:
        if os.getppid() != parent_pid:
            return
        await asyncio.sleep(_POLL_S)
