"""Runs one command and ends it when its own parent ends: `guard.py GRACE_S COMMAND …`.

Standard input is the tie: at its end (the parent has died, however) the command gets SIGTERM, and
SIGKILL GRACE_S seconds later; a line `N` before that asks for the same with N seconds of grace. Should
the guard itself be killed, the kernel kills the command (Linux, PR_SET_PDEATHSIG: safe here, as this
process forks from its only thread, which lives as long as the process). Prints the command's pid; all
the command's output goes to standard error. Inherited descriptors are handed on. Standard library only,
nothing of this project: it is started with `python -I -S` and has to be small and quick.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading

PARENT_POLL_MS = 500
PR_SET_PDEATHSIG = 1


def main() -> int:
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = start(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    print(child.pid, flush=True)
    threading.Thread(target=end_with_parent, args=(child, parent, grace_s), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    guard = os.getpid()

    def die_with_the_guard() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)

    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=2, close_fds=False, preexec_fn=die_with_the_guard
    )


def end_with_parent(child: "subprocess.Popen[bytes]", parent: int, grace_s: float) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    while not (tied := poll.poll(PARENT_POLL_MS)):
        if os.getppid() != parent:  # a fork of the parent may keep our standard input open
            break
    if tied:
        grace_s = float(os.read(0, 64) or grace_s)
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
