"""What the pipeline's processes are started with."""

import socket
from pathlib import Path
from typing import Any, cast

from app.processes import Feed, Venue, Worker, free_port

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


def test_a_port_that_is_taken_is_not_chosen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_the_token_of_the_venue_is_never_on_a_command_line(tmp_path: Path) -> None:
    venue = Venue(tmp_path)

    assert venue.token not in " ".join(venue.command())
    assert venue.environment()["VENUE_TOKEN"] == venue.token


def test_a_feed_without_an_end_is_started_again_after_a_failure(tmp_path: Path) -> None:
    endless = Feed(tmp_path, {}, orders=None, speed="10", seed=None)
    counted = Feed(tmp_path, {}, orders=5, speed="max", seed=7)

    assert (endless.is_done(1), endless.is_done(0), counted.is_done(1)) == (False, True, True)
    assert counted.command()[-6:] == ["--speed", "max", "--orders", "5", "--seed", "7"]
