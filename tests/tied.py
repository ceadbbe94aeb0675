"""Processes that end with the test run, also when that is killed and cleans up nothing."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """As `preexec_fn`: the kernel sends SIGTERM to the process when the thread that started it is gone."""
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
