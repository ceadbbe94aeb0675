"""Commands under `guard.py`: they end with the process that starts them, however that ends."""

import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Final

GUARD: Final = Path(__file__).with_name("guard.py")


def guarded(command: list[str], grace_s: float) -> list[str]:
    """The command line that runs `command` under the guard."""
    return [sys.executable, "-I", "-S", str(GUARD), str(grace_s), *command]


def start_guarded(
    command: list[str], *, grace_s: float, output: IO[bytes], **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a guarded command; leaving the context of the result ends it."""
    return subprocess.Popen(
        guarded(command, grace_s),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=output,
        start_new_session=True,
        **options,
    )
