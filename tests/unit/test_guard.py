"""A guarded command ends with its parent, however that ends, and with its guard."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from app.processes.guarded import GUARD

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def guard(*command: str, grace_s: float = 0.2) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), str(grace_s), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def pid_of_command(guard: "subprocess.Popen[bytes]") -> int:
    assert guard.stdout is not None
    return int(guard.stdout.readline())


def is_gone(pid: int, within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_the_commands_exit_status_is_the_guards() -> None:
    with guard("sh", "-c", "exit 7") as guarded:
        assert guarded.wait(5) == 7


def test_the_command_ends_when_the_tie_is_cut() -> None:
    with guard("sleep", "60") as guarded:
        pid = pid_of_command(guarded)
        assert guarded.stdin is not None
        guarded.stdin.close()
        assert guarded.wait(5) == 128 + signal.SIGTERM
        assert is_gone(pid)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    with guard(sys.executable, "-c", STUBBORN) as guarded:
        assert guarded.stderr is not None
        assert guarded.stderr.readline() == b"up\n"
        assert guarded.stdin is not None
        guarded.stdin.close()
        assert guarded.wait(5) == 128 + signal.SIGKILL


def test_the_command_dies_with_a_killed_guard() -> None:
    with guard("sleep", "60") as guarded:
        pid = pid_of_command(guarded)
        guarded.kill()
        assert is_gone(pid)


def test_the_command_ends_though_a_fork_of_the_dead_parent_holds_the_tie() -> None:
    code = (
        "import os, subprocess, sys, time;"
        f"g = subprocess.Popen([sys.executable, '-I', '-S', {str(GUARD)!r}, '0.2', 'sleep', '60'],"
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE);"
        "print(int(g.stdout.readline()), flush=True);"
        "os.fork() or (os.close(1), os.close(2), time.sleep(5)); os._exit(0)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert is_gone(int(parent.stdout))


def test_ctrl_c_does_not_reach_the_command() -> None:
    with guard("sleep", "60") as guarded:
        pid = pid_of_command(guarded)
        guarded.send_signal(signal.SIGINT)
        assert not is_gone(pid, within_s=0.2)
        os.kill(pid, signal.SIGTERM)
