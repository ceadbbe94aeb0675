"""Starts on machines and with settings that are not as they should be: they work, or a line says why not."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from app.config import settings
from app.run.members import INSTRUMENTS
from tests.integration.running import Running, mentioning, processes_with
from tests.tied import end_with_parent

NOBODY = """if True:
    import pwd, sys

    def unknown(_):
        raise KeyError("uid not found")

    pwd.getpwuid = pwd.getpwnam = unknown
    from cli.main import main
    sys.exit(main(sys.argv[1:]))
"""
"""`python -m app` for a user whom the system does not know: no HOME, no entry in the list of users."""


def as_nobody(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    known = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-c", NOBODY, *arguments],
        env=known | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )


@pytest.mark.parametrize("home", [{}, {"HOME": "nonsense"}])
def test_who_has_no_home_needs_none_with_a_cache_of_their_own(tmp_path: Path, home: dict[str, str]) -> None:
    where = {"PIPELINE_CACHE_DIR": str(settings().cache_dir)}
    process = as_nobody("kafka", "--data-dir", str(tmp_path / "d"), "--port", "0", **where, **home)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert line.startswith("Kafka listens on 127.0.0.1:"), errors
    assert errors == ""


def test_who_has_no_home_and_says_no_cache_gets_one_line(tmp_path: Path) -> None:
    process = as_nobody("kafka", "--data-dir", str(tmp_path), "--port", "0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch(
        r"error: there is no home directory .*: set PIPELINE_CACHE_DIR to a directory\n", errors
    )


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        yield int(stranger.getsockname()[1])


def test_a_worker_whose_port_is_taken_says_so_in_its_last_line(tmp_path: Path, taken: int) -> None:
    worker = [sys.executable, "-m", "faust", "--datadir", str(tmp_path), "-A", "app.risk", "worker"]
    done = subprocess.run(
        [*worker, "--web-port", str(taken)],
        env=os.environ | {"KAFKA_BOOTSTRAP": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: port {taken} on 127.0.0.1 can't be used: Address already in use; choose another one with "
        "--web-port, or 0 for a free one"
    )


def test_a_venue_whose_port_is_taken_says_so_in_one_line(tmp_path: Path, taken: int) -> None:
    venue = [sys.executable, "-m", "venue", "--instruments", str(INSTRUMENTS)]
    done = subprocess.run(
        [*venue, "--port", str(taken), "--data-dir", str(tmp_path)],
        env=os.environ | {"VENUE_TOKEN": "secret"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"venue: .*{taken}.*address already in use.*\n", done.stderr, re.IGNORECASE)


def refused(*arguments: str, **environment: str) -> str:
    """The one line with which a start is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_machine_without_the_address_to_listen_on_is_refused(tmp_path: Path) -> None:
    line = refused("run", "--data-dir", str(tmp_path), PIPELINE_WEB_HOST="192.0.2.1")
    assert re.search(r"nothing can listen on 192\.0\.2\.1: .*; use an address of this machine", line)


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a network of its own")
def test_a_machine_whose_loopback_is_down_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "app", "run", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: nobody can reach what listens on 127\.0\.0\.1: .*\n", done.stderr)


def test_a_port_of_kafka_that_is_taken_is_refused(tmp_path: Path, taken: int) -> None:
    line = refused("run", "--data-dir", str(tmp_path), "--port", str(taken))
    assert re.search(rf"port {taken} on 127\.0\.0\.1 .*; choose another one with --port", line)


@pytest.mark.parametrize("command", ["run", "kafka"])
def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    line = refused(command, "--data-dir", str(tmp_path / "file"))
    assert re.search(rf"{tmp_path}/file can't be used: .*; choose another", line)


def test_a_path_without_room_for_names_below_it_is_refused(tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3_900:
        deep /= "d" * 100
    assert "choose a shorter one" in refused("run", "--data-dir", str(deep))


def test_too_few_open_files_are_raised_or_refused(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with Running("kafka", "--data-dir", str(tmp_path), "--port", "0") as broker:
            broker.until_said("Kafka listens on")
            (kafka,) = (
                pid
                for pid, command in processes_with(tmp_path).items()
                if command.split()[0].endswith("/java")
            )
            limits = Path(f"/proc/{kafka}/limits").read_text()
            assert re.search(rf"Max open files +{hard} ", limits)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(600)
@pytest.mark.storm
def test_two_pipelines_that_start_in_the_same_moment_have_nothing_in_common(tmp_path: Path) -> None:
    """No port is given: both want the usual ones, and neither gets the other's."""
    with ExitStack() as stack:
        pipelines = [
            stack.enter_context(Running("run", "--speed", "5", "--data-dir", str(tmp_path / name)))
            for name in ("one", "two")
        ]
        urls = []
        for pipeline in pipelines:
            pipeline.until_said("tables: ", 240)
            urls.append(re.findall(r"http://127\.0\.0\.1:\d+", pipeline.said))
        bootstraps = [re.findall(r"Kafka listens on (\S+),", pipeline.said) for pipeline in pipelines]
        assert bootstraps[0] != bootstraps[1]
        assert not set(urls[0]) & set(urls[1])
        for pipeline, own in zip(pipelines, urls, strict=True):
            until_linked(pipeline, own)
            assert "Traceback" not in pipeline.said
    assert mentioning(tmp_path) == []


def until_linked(pipeline: Running, own: list[str]) -> None:
    pipeline.until(lambda: linked(own[0]) == set(own), "to link its own services, and no others", 60)


def linked(url: str) -> set[str]:
    """The services that a page links."""
    with urlopen(url, timeout=10) as response:
        nav = re.search(r'<nav class="services">.*?</nav>', response.read().decode(), re.DOTALL)
    assert nav is not None
    return {url, *re.findall(r'href="(http://[^/"]+)/"', nav[0])}
