"""Why a process ended: the one line of all that it wrote."""

import os
import signal
import subprocess
import sys
import time

import pytest

from app.processes.last_words import CHARACTERS_MAX, describe_exit, is_alive, reason_in, signal_of

TRACEBACK = """\
[2026-11-30 03:00:01,000] [1] [INFO] starting
[2026-11-30 03:00:02,000] [1] [ERROR] [^Worker]: Error: RuntimeError('no')
Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'inner'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
    work()
    ^^^^^^
app.errors.OffsetsLost: the offsets of risk are gone
[2026-11-30 03:00:03,000] [1] [INFO] [^Worker]: Stopping...
[2026-11-30 03:00:03,000] [1] [INFO] [^Worker]: Closing event loop
"""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "it said nothing"),
        ("\n \n", "it said nothing"),
        ("hello\nworld\n", "world"),
        ("error: PORT is 'x'\nbye", "PORT is 'x'"),
        ("error: first\nerror: second\n", "second"),
        ("venue: VENUE_TOKEN is not set", "VENUE_TOKEN is not set"),
        ("Error: no such option", "no such option"),
        ("usage: python -m venue [-h]\npython -m venue: error: no port is given", "no port is given"),
        (
            "[2026-11-30 03:53:22,132] [7024] [WARNING] error: it is printed by a worker ",
            "it is printed by a worker",
        ),
        (TRACEBACK, "app.errors.OffsetsLost: the offsets of risk are gone"),
        (f"{TRACEBACK}error: the offsets are gone", "the offsets are gone"),
        ("[2026] [1] [ERROR] it broke\n[2026] [1] [INFO] closing", "it broke"),
        (
            "stuck for more than 10 s: the event loop. Ending.\nStack:",
            "stuck for more than 10 s: the event loop. Ending.",
        ),
        ("Fatal Python error: Segmentation fault\n\nCurrent thread", "Segmentation fault"),
    ],
)
def test_the_line_that_says_why(said: str, reason: str) -> None:
    assert reason_in(said.splitlines()) == reason


def test_a_long_line_is_cut() -> None:
    assert len(reason_in(["error: " + "x" * 10_000])) == CHARACTERS_MAX + 1


def test_an_exit_status_is_told_in_words() -> None:
    assert [describe_exit(3), describe_exit(137), describe_exit(-9)] == [
        "exit status 3",
        "killed by SIGKILL",
        "killed by SIGKILL",
    ]
    assert [signal_of(0), signal_of(2), signal_of(143)] == [None, None, signal.SIGTERM]


def test_a_process_that_nobody_has_waited_for_holds_nothing_any_more() -> None:
    with subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        give_up_at = time.monotonic() + 5
        while is_alive(process.pid) and time.monotonic() < give_up_at:
            time.sleep(0.01)
        assert not is_alive(process.pid)
    assert not is_alive(process.pid)
