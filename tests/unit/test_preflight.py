"""What a start needs of its machine is known before it starts: a line for each thing that is missing."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app.devkafka.artifacts import java_executable
from app.errors import UserError
from app.processes.preflight import MB, Machine, Needs, free_memory, look, needs, prepare, refusals

PLENTY = Machine(
    files_max=1_000_000,
    maps_max=1_000_000,
    memory_bytes=64_000 * MB,
    disk_bytes=64_000 * MB,
    disk_files=10_000_000,
    path_bytes_max=4_096,
)


def wanted(partitions: int = 8) -> Needs:
    return needs(partitions, 4, kafka=True, reserve_bytes=64 * MB)


def test_a_machine_with_plenty_of_everything_lacks_nothing() -> None:
    assert refusals(wanted(256), PLENTY, "/data") == []


def test_what_the_machine_does_not_tell_is_not_missed() -> None:
    silent = PLENTY._replace(files_max=None, maps_max=None, memory_bytes=None, disk_files=None)
    assert refusals(wanted(256), silent, "/data") == []


@pytest.mark.parametrize(
    ("there", "partitions", "refusal"),
    [
        (
            PLENTY._replace(files_max=1_024),
            64,
            "64 partitions with Kafka and 4 workers need up to 4,974 open files in a process, and 1,024 are "
            "allowed: raise the hard limit (ulimit -Hn), or take fewer partitions",
        ),
        (
            PLENTY._replace(maps_max=4_096),
            64,
            "64 partitions with Kafka and 4 workers need up to 7,866 memory maps in a process, and 4,096 are "
            "allowed: raise vm.max_map_count, or take fewer partitions",
        ),
        (
            PLENTY._replace(memory_bytes=500 * MB),
            8,
            "8 partitions with Kafka and 4 workers need 869 MB of memory, and 500 MB are free: end "
            "something, or take fewer workers",
        ),
        (
            PLENTY._replace(disk_bytes=100 * MB),
            8,
            "8 partitions with Kafka and 4 workers need 122 MB on the disk of /data, and 100 MB are free: "
            "free some space or choose another data directory",
        ),
        (
            PLENTY._replace(disk_files=1_000),
            8,
            "8 partitions with Kafka and 4 workers need 2,400 files on the disk of /data, and 1,000 "
            "are possible (df -i): remove some or choose another data directory",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_it_is_for_and_what_to_do(
    there: Machine, partitions: int, refusal: str
) -> None:
    assert refusals(wanted(partitions), there, "/data") == [refusal]


def test_8_partitions_do_with_the_1024_files_that_many_systems_allow() -> None:
    assert wanted(8).files <= 1_024


def test_the_services_alone_need_less() -> None:
    alone = needs(8, 4, kafka=False)
    assert alone.maps == 0
    assert alone.memory_bytes < wanted().memory_bytes
    assert alone.what == "8 partitions with 4 workers"
    assert needs(8, 0, kafka=True).what == "8 partitions with Kafka"


def test_a_path_that_leaves_no_room_for_names_below_it_is_too_long() -> None:
    (refusal,) = refusals(wanted(), PLENTY, "/" + "d" * 4_000)
    assert "has 4,001 bytes, and 3,896 are possible: choose a shorter one" in refusal


def test_each_thing_that_is_missing_is_said() -> None:
    poor = PLENTY._replace(files_max=10, memory_bytes=0, faults=["nothing can listen on ::1"])
    assert len(refusals(wanted(), poor, "/data")) == 3


def test_this_machine_is_asked(tmp_path: Path) -> None:
    found = look(tmp_path, ["127.0.0.1"], java_executable)
    assert found.faults == []
    assert found.disk_bytes > 0
    assert found.path_bytes_max >= 1_024


def test_an_address_that_nothing_can_listen_on_is_a_fault(tmp_path: Path) -> None:
    faults = look(tmp_path, ["127.0.0.1", "192.0.2.1", "192.0.2.1"]).faults
    assert [fault.partition(":")[0] for fault in faults] == ["nothing can listen on 192.0.2.1"]


def test_a_java_that_does_not_run_is_a_fault(tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_bytes(b"\x7fELF of another machine")
    java.chmod(0o755)
    (fault,) = look(tmp_path, [], lambda: java).faults
    assert fault.startswith(f"the Java runtime {java} can't be run: ")
    assert fault.endswith("; make .venv again with `make clean run`")


def test_what_is_missing_stops_the_start_in_one_line(tmp_path: Path) -> None:
    much = wanted()._replace(memory_bytes=10**18, disk_bytes=10**18)
    with pytest.raises(UserError, match=r"MB of memory, .*; .* MB on the disk of") as refused:
        prepare(much, tmp_path, [])
    assert "\n" not in str(refused.value)


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    program = """if True:
        import resource, sys
        from app.processes.preflight import raise_open_files
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
        raise_open_files()
        print(*resource.getrlimit(resource.RLIMIT_NOFILE))
    """
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["512", "512"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) != (512, 512)


MEMINFO = "MemTotal: 8000 kB\nMemAvailable: 4000 kB\nSwapFree: 1000 kB\n"


def a_system(root: Path, *, own: str, **groups: str) -> tuple[Path, Path]:
    """/proc and /sys/fs/cgroup of a machine with 5,000 kB to have; groups are "limit used cached"."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(MEMINFO)
    (root / "proc" / "self" / "cgroup").write_text(own)
    for path, told in groups.items():
        group = root / "cgroup" / path.replace("_", "/").strip("/")
        group.mkdir(parents=True, exist_ok=True)
        limit, used, cached = told.split()
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("own", "groups", "free"),
    [
        ("", {}, 5_000 * 1_024),
        ("0::/\n", {"_": "3000000 1000000 200000"}, 2_200_000),  # in a container
        ("0::/a/b\n", {"a_b": "max 1000000 0", "a": "2000000 1500000 0"}, 500_000),
        ("0::/a\n", {"a": "max 1000000 0"}, 5_000 * 1_024),
    ],
)
def test_the_tightest_limit_of_memory_counts(
    tmp_path: Path, own: str, groups: dict[str, str], free: int
) -> None:
    assert free_memory(*a_system(tmp_path, own=own, **groups)) == free


def test_a_system_without_proc_tells_no_memory(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "no", tmp_path / "such") is None
