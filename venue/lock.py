"""One venue a data directory: a lock that ends with the process, however it ends."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from venue.errors import StartError


def lock_directory(directory: Path) -> TextIO:
    """Hold the directory until the returned file is closed. Raises StartError when another process does."""
    path = directory / "venue.lock"
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StartError(
            f"{directory} is in use by another venue (process {holder}): stop it or use another --data-dir"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
