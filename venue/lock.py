"""One venue a data directory: a lock that ends with the process, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from venue.errors import StartError


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold the directory; its lock file names the process. Raises StartError when another process has it."""
    path = directory / "venue.lock"
    lock = FileLock(path, blocking=False, fallback_to_soft=False)  # a soft lock would outlive its holder
    try:
        held = lock.acquire()
    except Timeout:
        holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        raise StartError(
            f"{directory} is in use by another venue (process {holder}): stop it or use another --data-dir"
        ) from None
    with held:
        path.write_text(str(os.getpid()), encoding="ascii")
        yield
