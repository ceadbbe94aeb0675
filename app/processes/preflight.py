"""What a start needs of its machine: measured needs, what there is, a line for each thing that is missing.

`needs` and `refusals` are pure; `look` asks the machine; `prepare` raises what may be raised and refuses, in
one line, before anything is started. The numbers are those of `python -m app run` with 8 and with 64
partitions, from /proc/<pid>/fd, maps and status. Kafka had 565 and 3,272 open files, 987 and 5,244 memory
maps and 279 and 373 MB; a worker 87 and 535 files (the exchange 107 and 630), 85 and 105 MB; the data
directory began with 13 and 56 MB in 2,300 and 17,600 files.
"""

import logging
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from app.errors import ArtifactError, UserError
from app.processes.ports import require_host

log = logging.getLogger(__name__)

MB: Final = 1_000_000
HEADROOM: Final = 1.5
"""Logs and tables grow: each segment and each table file is one more open file."""

KAFKA_FILES: Final = 180
KAFKA_FILES_PER_PARTITION: Final = 49
"""Of all topics together, tables' changelogs included."""

KAFKA_MAPS: Final = 380
KAFKA_MAPS_PER_PARTITION: Final = 76
WORKER_FILES: Final = 30
WORKER_FILES_PER_PARTITION: Final = 10

KAFKA_BYTES: Final = 265 * MB
KAFKA_BYTES_PER_PARTITION: Final = 1.7 * MB
WORKER_BYTES: Final = 82 * MB
WORKER_BYTES_PER_PARTITION: Final = 0.4 * MB
OTHER_BYTES: Final = 250 * MB
"""The venue, the feed and who watches over all of them."""

DISK_BYTES: Final = 50 * MB
DISK_BYTES_PER_PARTITION: Final = MB
DISK_FILES_PER_PARTITION: Final = 300

PATH_BYTES_BELOW: Final = 200
"""The longest name that Kafka or RocksDB makes below a data directory."""


class Needs(NamedTuple):
    """What is to be started: numbers for the process that needs most of it, sums for memory and disk."""

    what: str
    files: int
    maps: int
    memory_bytes: int
    disk_bytes: int
    disk_files: int


class Machine(NamedTuple):
    """What there is; None for what this system does not tell. `faults` are lines on what can't be used."""

    files_max: int | None
    """Open files of one process: the hard limit, to which we may raise ours."""
    maps_max: int | None
    memory_bytes: int | None
    disk_bytes: int
    disk_files: int | None
    path_bytes_max: int
    faults: Sequence[str] = ()


def needs(partitions: int, workers: int, *, kafka: bool, reserve_bytes: int = 0) -> Needs:
    """What a pipeline of that size needs; `workers` of all services, `reserve_bytes` of disk kept free."""
    kafkas = int(kafka)
    parts = [
        f"{partitions} partitions",
        *(["Kafka"] if kafka else []),
        *([f"{workers} workers"] if workers else []),
    ]
    worker_bytes = WORKER_BYTES + WORKER_BYTES_PER_PARTITION * partitions
    kafka_files = KAFKA_FILES + KAFKA_FILES_PER_PARTITION * partitions
    kafka_bytes = KAFKA_BYTES + KAFKA_BYTES_PER_PARTITION * partitions
    return Needs(
        what=" with ".join((parts[0], " and ".join(parts[1:]))),
        files=int(
            HEADROOM * max(kafkas * kafka_files, WORKER_FILES + WORKER_FILES_PER_PARTITION * partitions)
        ),
        maps=int(HEADROOM * kafkas * (KAFKA_MAPS + KAFKA_MAPS_PER_PARTITION * partitions)),
        memory_bytes=int(kafkas * kafka_bytes + workers * worker_bytes + (OTHER_BYTES if workers else 0)),
        disk_bytes=DISK_BYTES + DISK_BYTES_PER_PARTITION * partitions + reserve_bytes,
        disk_files=DISK_FILES_PER_PARTITION * partitions,
    )


def refusals(wanted: Needs, there: Machine, data_dir: str) -> list[str]:
    """A line for each thing that is missing: what it is needed for, what there is, what to do."""
    return [*_limits(wanted, there), *_room(wanted, there, data_dir), *there.faults]


def _limits(wanted: Needs, there: Machine) -> Iterator[str]:
    if there.files_max is not None and wanted.files > there.files_max:
        yield (
            f"{wanted.what} need up to {wanted.files:,} open files in a process, and {there.files_max:,} are "
            "allowed: raise the hard limit (ulimit -Hn), or take fewer partitions"
        )
    if there.maps_max is not None and wanted.maps > there.maps_max:
        yield (
            f"{wanted.what} need up to {wanted.maps:,} memory maps in a process, and {there.maps_max:,} are "
            "allowed: raise vm.max_map_count, or take fewer partitions"
        )


def _room(wanted: Needs, there: Machine, data_dir: str) -> Iterator[str]:
    if there.memory_bytes is not None and wanted.memory_bytes > there.memory_bytes:
        yield (
            f"{wanted.what} need {wanted.memory_bytes // MB:,} MB of memory, and "
            f"{there.memory_bytes // MB:,} MB are free: end something, or take fewer workers"
        )
    if wanted.disk_bytes > there.disk_bytes:
        yield (
            f"{wanted.what} need {wanted.disk_bytes // MB:,} MB on the disk of {data_dir}, and "
            f"{there.disk_bytes // MB:,} MB are free: free some space or choose another data directory"
        )
    if there.disk_files is not None and wanted.disk_files > there.disk_files:
        yield (
            f"{wanted.what} need {wanted.disk_files:,} files on the disk of {data_dir}, and "
            f"{there.disk_files:,} are possible (df -i): remove some or choose another data directory"
        )
    if len(os.fsencode(data_dir)) + PATH_BYTES_BELOW > there.path_bytes_max:
        yield (
            f"the path of data directory {data_dir[:60]}… has {len(os.fsencode(data_dir)):,} bytes, and "
            f"{there.path_bytes_max - PATH_BYTES_BELOW:,} are possible: choose a shorter one"
        )


def prepare(
    wanted: Needs, data_dir: Path, hosts: Sequence[str], java: Callable[[], Path] | None = None
) -> None:
    """Raise our limit of open files as far as it goes, and refuse what can't be; raises UserError.

    Our children inherit the limit. `hosts` are the addresses on which something is to listen; `java` finds
    the Java runtime where one is needed, or raises ArtifactError.
    """
    raise_open_files()
    found = refusals(wanted, look(data_dir, hosts, java), str(data_dir))
    if found:
        raise UserError("; ".join(found))


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: many systems start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS: "unlimited" is more than it gives
        log.debug("the limit of open files stays at %s: %s", soft, error)


def look(data_dir: Path, hosts: Sequence[str], java: Callable[[], Path] | None = None) -> Machine:
    """Ask the machine; `data_dir` has to be there."""
    disk = os.statvfs(data_dir)
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        files_max=None if files_max == resource.RLIM_INFINITY else files_max,
        maps_max=_number_in(Path("/proc/sys/vm/max_map_count")),
        memory_bytes=free_memory(),
        disk_bytes=shutil.disk_usage(data_dir).free,
        disk_files=disk.f_favail if disk.f_files else None,  # some file systems have no fixed number
        path_bytes_max=os.pathconf(data_dir, "PC_PATH_MAX"),
        faults=[*_host_faults(hosts), *(_java_faults(java) if java is not None else ())],
    )


def _host_faults(hosts: Sequence[str]) -> Iterator[str]:
    for host in dict.fromkeys(hosts):
        try:
            require_host(host)
        except UserError as error:
            yield str(error)


def _java_faults(find: Callable[[], Path]) -> Iterator[str]:
    try:
        java = find()
    except ArtifactError as error:
        yield str(error)
        return
    try:
        subprocess.run([java, "-version"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        yield f"the Java runtime {java} can't be run: {error}; make .venv again with `make clean run`"


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be had, swap included: the least of what the machine and the cgroups leave."""
    found = [_machine_memory(proc / "meminfo"), *_cgroup_memory(proc / "self" / "cgroup", cgroups)]
    return min((each for each in found if each is not None), default=None)


def _machine_memory(meminfo: Path) -> int | None:
    try:
        lines = (line.split() for line in meminfo.read_text(encoding="ascii").splitlines())
        kilobytes = {line[0]: int(line[1]) for line in lines}
        return (kilobytes["MemAvailable:"] + kilobytes["SwapFree:"]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _cgroup_memory(own: Path, cgroups: Path) -> Iterator[int | None]:
    """What our cgroup and those above it leave, version 2: their caches can be had too."""
    try:
        path = own.read_text(encoding="utf-8").partition("0::/")[2].splitlines()[0].strip("/")
    except (OSError, IndexError):
        path = ""
    below = cgroups / path
    for group in (below, *below.parents):
        if not group.is_relative_to(cgroups):
            return
        limit, used = _number_in(group / "memory.max"), _number_in(group / "memory.current")
        if limit is not None and used is not None:
            yield limit - used + (_cached_in(group / "memory.stat") or 0)


def _cached_in(stat: Path) -> int | None:
    try:
        lines = (line.split() for line in stat.read_text(encoding="ascii").splitlines())
        return next((int(line[1]) for line in lines if line[0] == "inactive_file"), None)
    except (OSError, ValueError, IndexError):
        return None


def _number_in(path: Path) -> int | None:
    """None where there is no such file, or no number in it: `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
