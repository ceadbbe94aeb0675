"""The command line: one line for an error of the user's, clean exits, a quick start."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.errors import UserError
from cli import main as cli
from cli.stopping import run_until_stopped

MAIN = Path(cli.__file__).parents[1] / "app" / "__main__.py"


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


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_work_clean_up(number: signal.Signals, expected: int) -> None:
    cleaned_up = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            cleaned_up.append(True)

    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    assert run_until_stopped(work()) == expected
    assert cleaned_up == [True]


STUBBORN = """if True:
    import asyncio, sys
    from cli.stopping import run_until_stopped

    async def work():
        try:
            print("works", flush=True)
            await asyncio.sleep(60)
        finally:
            print("cleans up", flush=True)
            await asyncio.sleep(60)

    sys.exit(run_until_stopped(work()))
"""


def test_a_second_ctrl_c_ends_at_once_and_without_a_word() -> None:
    process = started("-c", STUBBORN)
    assert process.stdout is not None
    for line in ("works\n", "cleans up\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "")


def started(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit status and what it wrote to standard error."""
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


@pytest.mark.parametrize("pause_s", [0.05, 0.1, 0.2, 0.4])
def test_ctrl_c_prints_no_traceback_however_early_it_comes(pause_s: float, tmp_path: Path) -> None:
    """From the first line of the program on; what the interpreter does before is its own."""
    code = f"compile(open({str(MAIN)!r}).read(), 'main', 'exec')"
    program = f"code = {code}; print(1, flush=True); exec(code, {{'__name__': '__main__'}})"
    process = started("-c", program, "kafka", "--data-dir", str(tmp_path), "--port", "0")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(pause_s)
    process.send_signal(signal.SIGINT)
    status, errors = ended(process)
    assert "Traceback" not in errors
    assert status == 130


def test_a_wrong_setting_stops_the_start_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "kafka"],
        env=os.environ | {"PIPELINE_PARTITIONS": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: PIPELINE_PARTITIONS is 'many': allowed is a power of two from 1 to 256; unset it for 8\n"
    )


@pytest.mark.parametrize("arguments", [["topology"], ["topology", "--json"]])
def test_a_reader_who_has_had_enough_is_no_error(arguments: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody:  # noqa: PTH123 - it has no path
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments], stdout=nobody, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("directory", ["", " ", "two\nlines"])
def test_a_directory_without_a_name_is_not_the_current_one(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["kafka", "--data-dir", directory])
    assert "allowed is a path in UTF-8" in capsys.readouterr().err


def test_an_address_that_no_socket_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("one..two:9092", "one:65536", "one", "[:::]:9092"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["limits", "show", "acc-1", "--bootstrap", address])
        assert "allowed is host:port" in capsys.readouterr().err


def test_a_port_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["kafka", "--port", "65536"])
    assert "'65536' is no port; allowed is 0 to 65535" in capsys.readouterr().err


def test_a_warning_that_finds_no_room_ends_nobody() -> None:
    program = """if True:
        import logging
        from rich.console import Console
        from app.run.job import log_to

        log_to(Console(file=open("/dev/full", "w")))
        logging.getLogger("anybody").warning("a child has ended")
        print("went on")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout == "went on\n", ended.stderr


def test_a_run_goes_on_whose_reader_has_ended() -> None:
    program = """if True:
        import sys
        from app.run.job import RunConsole

        console = RunConsole()
        for number in range(3):
            console.print(number)
        print("went on", file=sys.stderr)
    """
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody:  # noqa: PTH123 - it has no path
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=nobody, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"went on\n")


@pytest.mark.parametrize("slow", ["aiohttp", "aiokafka", "faust", "msgspec", "pydantic", "rich", "rocksdict"])
def test_help_waits_for_no_library_that_is_slow_to_load(slow: str, imported_for_help: set[str]) -> None:
    assert slow not in imported_for_help
    assert "argparse" in imported_for_help


@pytest.fixture(scope="module")
def imported_for_help() -> set[str]:
    """Every module that Python loads for `--help`."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()]
    return {name for line in lines for name in (line, line.partition(".")[0])}
