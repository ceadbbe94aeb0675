"""The command line: one line for an error of the user's, clean exits, a quick start."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from app import cli
from app.errors import UserError


def with_command(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    command = cli.Command("do", "do it", lambda parser: None, run)  # type: ignore[arg-type]
    monkeypatch.setattr(cli, "COMMANDS", (command,))


def test_a_user_error_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise UserError("the sky is red; wait")

    with_command(monkeypatch, fail)
    assert cli.main(["do"]) == 2
    assert capsys.readouterr() == ("", "error: the sky is red; wait\n")


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    with_command(monkeypatch, interrupted)
    assert cli.main(["do"]) == 130


def test_sigterm_lets_the_work_clean_up_and_is_status_143() -> None:
    cleaned_up = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            cleaned_up.append(True)

    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert cli.run_until_stopped(work()) == 143
    assert cleaned_up == [True]


def test_a_wrong_setting_stops_the_start_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "broker"],
        env=os.environ | {"PIPELINE_PARTITIONS": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: PIPELINE_PARTITIONS is 'many': allowed is a whole number from 1 to 256; unset it for 8\n"
    )


def test_a_port_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["broker", "--port", "65536"])
    assert "'65536' is no port; allowed is 0 to 65535" in capsys.readouterr().err


def test_a_warning_that_finds_no_room_ends_nobody() -> None:
    program = """if True:
        import logging
        from rich.console import Console
        from app.run import log_to

        log_to(Console(file=open("/dev/full", "w")))
        logging.getLogger("anybody").warning("a child has ended")
        print("went on")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout == "went on\n", ended.stderr


def test_help_is_quick() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "app", "--help"], check=True, capture_output=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.3
