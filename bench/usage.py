"""What the processes of a pipeline use, by what each of them is: from Linux's `/proc`, by itself no load."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.processes import cpu_seconds, descendants, memory_mib

KAFKA = "kafka"
SUPERVISOR = "supervisor"
"""`run` itself, which also counts and shows, and what guards the others."""


class Sample(NamedTuple):
    """Processor time so far, in seconds, and memory in MiB, by process; `at_ms` is the wall clock's."""

    at_ms: float
    cpu_seconds: Mapping[str, float]
    memory_mib: Mapping[str, float]


def sample(*roots: int) -> Sample:
    """Look at these processes and at all that they have started."""
    seconds: defaultdict[str, float] = defaultdict(float)
    mib: defaultdict[str, float] = defaultdict(float)
    for pid in (each for root in roots for each in (root, *descendants(root))):
        name = role(_command(pid))
        seconds[name] += cpu_seconds(pid)
        mib[name] += memory_mib(pid)
    return Sample(1e3 * time.time(), seconds, mib)


def role(command: Sequence[str]) -> str:
    """What a process is by its command line."""
    if any(Path(part).name == "guard.py" for part in command):
        return SUPERVISOR
    for option, value in pairwise(command):
        if option == "-A":
            return value.rpartition(".")[2]
        if option == "-m" and value in ("venue", "feed"):
            return value
    return KAFKA if any(Path(part).name == "java" for part in command) else SUPERVISOR


def inside(samples: Sequence[Sample], began_ms: float, ended_ms: float) -> tuple[Sample, Sample] | None:
    """The first and the last sample of a span of time; None where it has less than two."""
    found = [each for each in samples if began_ms <= each.at_ms <= ended_ms]
    return (found[0], found[-1]) if len(found) > 1 else None


def used(first: Sample, last: Sample) -> dict[str, float]:
    """Processor seconds between two samples, of the processes that lived at both."""
    return {
        name: seconds - first.cpu_seconds[name]
        for name, seconds in last.cpu_seconds.items()
        if name in first.cpu_seconds
    }


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended meanwhile
        return []
