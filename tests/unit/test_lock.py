"""A data directory has one live owner, and the refusal says who that is; so has the venue's."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.errors import DirectoryLockedError, UserError
from app.processes.lock import DirectoryLock
from venue.errors import StartError
from venue.lock import lock_directory


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


@contextmanager
def holding(code: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A process of its own that runs `code` and has said `held`."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder


def test_a_holder_that_was_killed_does_not_keep_the_directory(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from app.processes.lock import DirectoryLock\n"
        f"DirectoryLock(Path({str(tmp_path)!r})).acquire(); print('held', flush=True); input()"
    )
    with holding(code) as holder:
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


def lock_of_release_before(directory: Path) -> int:
    """Take the lock as that release does: a file."""
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    return file


def test_the_release_before_is_shut_out_for_good_and_its_live_holder_is_not(tmp_path: Path) -> None:
    held = lock_of_release_before(tmp_path)
    with pytest.raises(DirectoryLockedError):
        DirectoryLock(tmp_path).acquire()
    os.close(held)
    with DirectoryLock(tmp_path) as lock:
        lock.shut_out_release_before()
        lock.shut_out_release_before()
        with pytest.raises(IsADirectoryError):
            lock_of_release_before(tmp_path)
        with pytest.raises(DirectoryLockedError, match=f"pid {os.getpid()} "):
            DirectoryLock(tmp_path).acquire()
    with pytest.raises(IsADirectoryError):
        lock_of_release_before(tmp_path)
    with DirectoryLock(tmp_path), pytest.raises(DirectoryLockedError):
        DirectoryLock(tmp_path).acquire()


def test_one_that_waited_for_the_file_gets_the_lock_that_counts(tmp_path: Path) -> None:
    holder, waiting = DirectoryLock(tmp_path), DirectoryLock(tmp_path, patience_s=30)
    holder.acquire()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(waiting.acquire)
        time.sleep(0.1)
        holder.shut_out_release_before()
        holder.release()
        taken.result()
    with pytest.raises(DirectoryLockedError):
        DirectoryLock(tmp_path).acquire()
    waiting.release()


def test_what_a_stop_in_between_has_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "lock.new").mkdir()
    (tmp_path / "lock.new" / "README").write_text("half")
    with DirectoryLock(tmp_path) as lock:
        lock.shut_out_release_before()
    assert (tmp_path / "lock" / "README").read_text().startswith("This is a directory so that")
    assert not (tmp_path / "lock.new").exists()


def test_a_venue_and_one_of_the_release_before_keep_each_other_out(tmp_path: Path) -> None:
    path = tmp_path / "venue.lock"
    with path.open("a+") as before:
        with lock_directory(tmp_path):
            assert path.read_text() == str(os.getpid())
            with pytest.raises(BlockingIOError):
                fcntl.flock(before, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(before, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StartError, match=rf"in use by another venue \(process {os.getpid()}\)"):
            lock_directory(tmp_path).__enter__()


def test_a_venue_that_was_killed_does_not_keep_its_directory(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from venue.lock import lock_directory\n"
        f"with lock_directory(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    with holding(code) as holder:
        with pytest.raises(StartError, match=rf"\(process {holder.pid}\)"):
            lock_directory(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with lock_directory(tmp_path):
            pass
