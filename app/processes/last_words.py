"""Why a process ended, in one line: from its exit status, and from the last lines it wrote."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

EXTERNAL: Final = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE}
)
"""Signals that come from outside, the kernel that is short of memory included: no fault of the process."""

TOLD: Final = re.compile(
    r"^(?:\[[^]]*\]\s*)*"  # where a log was told of it
    r"(?:(?:[\w -]+: error|error|venue|fatal): (?P<reason>\S.*)|(?P<stuck>stuck for more than .*))",
    re.IGNORECASE,
)
"""How our own processes say in one line why they end."""

LOGGED: Final = re.compile(r"\[(?:ERROR|CRITICAL)\]\s*(?P<reason>.*)|^Fatal Python error: (?P<fatal>.*)")
TRACEBACK: Final = re.compile(r"^\s*(?:\+ Exception Group )?Traceback \(most recent call last\):")
CHARACTERS_MAX: Final = 300


def signal_of(status: int) -> signal.Signals | None:
    """The signal that ended it. A guard's status is 128 + n for a child killed by signal n, -n for itself."""
    code = status % 256
    return next((each for each in signal.Signals if code in (128 + each, 256 - each)), None)


def describe_exit(status: int) -> str:
    """An exit status in words."""
    found = signal_of(status)
    return f"killed by {found.name}" if found else f"exit status {status}"


def reason_in(lines: Sequence[str]) -> str:
    """The line that says why: what the process told, else its last exception, error or line."""
    written = [line.rstrip() for line in lines if line.strip()]
    found = _last(TOLD, written) or _exception(written) or _last(LOGGED, written)
    reason = found or (written[-1].strip() if written else "it said nothing")
    return reason if len(reason) <= CHARACTERS_MAX else f"{reason[:CHARACTERS_MAX]}…"


def _last(pattern: re.Pattern[str], lines: Sequence[str]) -> str | None:
    for line in reversed(lines):
        if (match := pattern.search(line)) is not None:
            return next(filter(None, match.groups()), line).strip()
    return None


def _exception(lines: Sequence[str]) -> str | None:
    """The line below the last traceback: the exception's type and message."""
    starts = [number for number, line in enumerate(lines) if TRACEBACK.match(line)]
    if not starts:
        return None
    below = (line for line in lines[starts[-1] + 1 :] if not line.startswith((" ", "\t", "|")))
    return next(below, None)


def is_alive(pid: int) -> bool:
    """Whether a process still holds anything: one that nobody has waited for does not, its threads gone."""
    try:
        state = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rpartition(")")[2]
            .split()[0]
        )
        return state not in "ZX" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except (OSError, IndexError):
        return False
