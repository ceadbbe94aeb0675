"""When a dead process starts again, and what is kept of what it said."""

import errno
import io
from pathlib import Path

import pytest

from app.engine.errors import EXIT_CONFIGURATION
from app.processes import supervisor
from app.processes.supervisor import LogFile, Restarts
from cli import main as cli


def pauses(restarts: Restarts, *deaths: tuple[float, float]) -> list[float | None]:
    """The pauses after deaths given as (lived, now) in seconds."""
    return [restarts.pause_after(lived_s, now_s) for lived_s, now_s in deaths]


def test_the_first_restart_is_at_once_and_the_pauses_grow() -> None:
    assert pauses(Restarts(), (1, 1), (1, 2), (1, 3), (1, 4)) == [0.05, 0.2, 0.8, 3.0]


def test_too_many_deaths_in_a_row_are_given_up() -> None:
    assert pauses(Restarts(deaths_max=3), (1, 1), (1, 2), (1, 3))[-1] is None


def test_a_healthy_life_clears_the_count() -> None:
    assert pauses(Restarts(deaths_max=3), (1, 1), (1, 2), (10, 12), (1, 13)) == [0.05, 0.2, 0.05, 0.2]


def test_deaths_long_ago_do_not_count() -> None:
    assert pauses(Restarts(deaths_max=2), (5, 0), (5, 31)) == [0.05, 0.05]


def test_no_pause_is_longer_than_its_bound() -> None:
    assert pauses(Restarts(pause_s_min=1.0), (1, 1), (1, 2), (1, 3)) == [1.0, 3.0, 3.0]


def test_the_log_of_a_child_is_bounded_and_keeps_the_last_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "child.log", bytes_max=1_000)
    for number in range(200):
        log.write(f"line {number}\n".encode() * 5)
    log.close()

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000
    assert log.last_lines(2) == ["line 199", "line 199"]


def test_a_log_that_could_not_begin_its_next_file_does_so_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(log: LogFile) -> io.FileIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = LogFile(tmp_path / "child.log", bytes_max=10)
    log.write(b"the first\n")
    with monkeypatch.context() as patched:
        patched.setattr(LogFile, "_open", full)
        log.write(b"lost\n")
        log.begin("start 2")
        assert log.last_lines() == []
        log.write(b"lost too\n")
        assert log.last_lines() == ["lost too"]
    log.write(b"the second\n")
    log.close()

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "child.log": "the second\n",
        "child.log.1": "the first\n",
    }
    assert caplog.text.count("is not written") == 1


def test_the_last_lines_are_of_the_last_process_only(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "child.log")
    log.write(b"the first one's\n")
    log.begin("start 2")
    log.write(b"the second one's\n")
    log.close()

    assert log.last_lines() == ["the second one's"]
    assert "the first one's" in log.path.read_text()


def test_a_wrong_configuration_has_one_exit_status() -> None:
    """The engine's workers end with it, the command line, the venue and the feed as well."""
    assert supervisor.EXIT_CONFIGURATION == EXIT_CONFIGURATION == cli.EXIT_USER_ERROR
