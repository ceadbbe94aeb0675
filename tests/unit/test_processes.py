"""What the pipeline's processes are started with."""

import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, cast

from app.processes.supervisor import EXIT_CONFIGURATION
from app.run.members import Feed, Venue, Worker

NO_GROUPS = cast(Any, None)


def a_worker(data_dir: Path, number: int = 1) -> Worker:
    return Worker("risk", number, data_dir, NO_GROUPS, {"KAFKA_BOOTSTRAP": "there:1"})


def client_id(worker: Worker) -> str:
    worker.command()
    return worker.environment()["BROKER_CLIENT_ID"]


def test_each_worker_has_a_directory_a_port_and_a_client_id_of_its_own(tmp_path: Path) -> None:
    first, second = a_worker(tmp_path, 1), a_worker(tmp_path, 2)
    ids = [client_id(first), client_id(second), client_id(first)]

    assert first.data_dir == tmp_path / "risk-1"
    assert second.data_dir == tmp_path / "risk-2"
    assert first.port != second.port
    assert len(set(ids)) == 3
    assert first.environment()["KAFKA_BOOTSTRAP"] == "there:1"


def test_a_worker_is_a_former_one_from_the_moment_of_its_death(tmp_path: Path) -> None:
    worker = a_worker(tmp_path)
    earlier, current = client_id(worker), client_id(worker)

    worker.pid = 4711
    assert [worker.is_former(each) for each in (earlier, current)] == [True, False]
    worker.pid = None
    assert [worker.is_former(each) for each in (earlier, current)] == [True, True]


def test_no_other_worker_is_taken_for_a_former_one(tmp_path: Path) -> None:
    here = a_worker(tmp_path / "here")
    others = [a_worker(tmp_path / "here", 11), a_worker(tmp_path / "there"), a_worker(tmp_path / "here", 2)]

    assert not any(here.is_former(client_id(other)) for other in others)


def test_a_worker_keeps_its_port_until_a_stranger_takes_it(tmp_path: Path) -> None:
    worker = a_worker(tmp_path)
    worker.command()
    port = worker.port
    worker.command()
    assert worker.port == port

    with socket.create_server(("127.0.0.1", port)):
        assert not worker.is_final(EXIT_CONFIGURATION)
        worker.command()
        assert worker.port != port
    assert worker.is_final(EXIT_CONFIGURATION)


def test_two_pipelines_never_have_the_same_port(tmp_path: Path) -> None:
    workers = [a_worker(tmp_path / name) for name in ("here", "there", "elsewhere")]
    assert len({worker.port for worker in workers}) == 3


def test_the_venue_keeps_the_address_that_its_clients_were_told(tmp_path: Path) -> None:
    venue = Venue(tmp_path)
    url = venue.url
    with socket.create_server(("127.0.0.1", venue.port)):
        venue.command()
        assert venue.url == url
        assert not venue.is_final(EXIT_CONFIGURATION)


def test_braces_in_a_path_are_no_matter_for_faust(tmp_path: Path) -> None:
    worker = a_worker(tmp_path / "a{b}c")
    given = worker.command()[worker.command().index("--datadir") + 1]
    assert given.format(conf=None) == str(worker.data_dir)


def test_the_token_of_the_venue_is_never_on_a_command_line(tmp_path: Path) -> None:
    venue = Venue(tmp_path)

    assert venue.token not in " ".join(venue.command())
    assert venue.environment()["VENUE_TOKEN"] == venue.token


def test_a_feed_without_an_end_is_started_again_after_a_failure(tmp_path: Path) -> None:
    endless = Feed(tmp_path, {}, orders=None, speed="10", seed=None)
    counted = Feed(tmp_path, {}, orders=5, speed="max", seed=7)

    assert (endless.is_done(1), endless.is_done(0), counted.is_done(1)) == (False, True, True)
    assert not counted.is_done(128 + signal.SIGKILL)
    assert counted.command()[-6:] == ["--speed", "max", "--orders", "5", "--seed", "7"]


def test_a_feed_that_was_killed_sends_the_orders_that_are_left(tmp_path: Path) -> None:
    sent = [0]
    feed = Feed(tmp_path, {}, orders=500, speed="max", seed=None, sent=lambda: sent[0])
    assert feed.command()[-2:] == ["--orders", "500"]
    sent[0] = 420
    assert feed.command()[-2:] == ["--orders", "80"]
    sent[0] = 500
    assert subprocess.run(feed.command(), check=False).returncode == 0
