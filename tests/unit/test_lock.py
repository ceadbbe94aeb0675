"""A data directory has one live owner, and the refusal says who that is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import DirectoryLockedError, UserError
from app.processes.lock import DirectoryLock


def test_a_second_owner_is_refused_with_the_holders_pid_command_and_start(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path), pytest.raises(DirectoryLockedError) as refused:
        DirectoryLock(tmp_path).acquire()
    message = str(refused.value)
    assert f"pid {os.getpid()} (" in message
    assert "pytest" in message
    assert "started 2" in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_a_released_directory_can_be_taken_again(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path):
        pass
    with DirectoryLock(tmp_path):
        pass


def test_a_holder_that_was_killed_does_not_keep_the_directory(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from app.processes.lock import DirectoryLock\n"
        f"DirectoryLock(Path({str(tmp_path)!r})).acquire(); print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(DirectoryLockedError, match=f"pid {holder.pid} "):
            DirectoryLock(tmp_path).acquire()
        holder.kill()
        holder.wait()
        with DirectoryLock(tmp_path):
            pass


def test_a_child_that_outlives_the_holder_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import subprocess; from pathlib import Path; from app.processes.lock import DirectoryLock\n"
        f"lock = DirectoryLock(Path({str(tmp_path)!r})); lock.acquire()\n"
        "subprocess.Popen(['sleep', '0.5'], pass_fds=[lock.fileno()])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with DirectoryLock(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data directory .*/file/below can't be used: .*; choose another"):
        DirectoryLock(tmp_path / "file" / "below").acquire()
