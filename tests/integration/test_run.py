"""The main job from outside: up, Ctrl-C, on from there, to the end, and what it reports."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.topology import SERVICES
from tests.integration.running import Running, mentioning, processes, result
from tests.integration.topics import remove_topics

ORDERS = 1_000
FIRST_ORDER = Path(__file__).parents[2] / "docs" / "first_order.py"
READY_S = 120.0
VENUE_AWAY = re.compile(r"exchange-1 is not ready for .*127\.0\.0\.1:9")


def first_order(said: str) -> "subprocess.CompletedProcess[str]":
    """Send the README's order to the run that said this."""
    kafka = re.search(r"Kafka listens on (\S+),", said)
    pages = re.search(r" risk (http://\S+)", said)
    assert kafka is not None
    assert pages is not None
    command = [sys.executable, str(FIRST_ORDER), kafka[1], pages[1]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.timeout(180)
def test_a_second_run_goes_on_where_ctrl_c_stopped_the_first(tmp_path: Path) -> None:
    data_dir, report = tmp_path / "data", tmp_path / "result.json"
    where = ("--data-dir", str(data_dir), "--port", "0", "--workers", "compliance=2")

    with Running("run", "--speed", "20", *where) as first:
        first.until_said(f"{len(SERVICES) + 1} workers ready", READY_S)
        first.until(lambda: re.search(r"orders [1-9].* approved [1-9]", first.said), "to trade", 60)
        ordered = first_order(first.said)
        assert ordered.returncode == 0, ordered.stderr
        assert "newcomer-1" in ordered.stdout
        assert "executions OrderAcknowledged" in ordered.stdout
        first.process.send_signal(signal.SIGINT)
        assert first.wait(30) == 0
    assert mentioning(data_dir) == []
    assert not (data_dir / "processes.json").exists()

    to_the_end = ("--orders", str(ORDERS), "--exit", "--json", str(report))
    with Running("run", "--speed", "max", *to_the_end, *where) as second:
        status = second.wait(120)
    assert status == 0, second.said
    assert mentioning(data_dir) == []

    found = result(report)
    assert found["violations"] == []
    assert found["orders"] > ORDERS  # the first run's count too: it is one log
    assert found["orders"] == found["terminal"] + found["dead_letters"] + found["held"]
    assert found["in_flight"] == 0
    went_on = re.search(r"went on from ([\d,]+) orders\n", second.said)
    assert went_on is not None, second.said
    assert int(went_on[1].replace(",", "")) == found["orders"] - ORDERS
    assert found["bootstrap"].startswith("127.0.0.1:")
    assert min(found["approved"], found["executed"], found["seconds"], found["orders_per_second"]) > 0
    assert found["rejected"]["kill_switch_on"] > 0
    assert found["latency_ms"].keys() == {"p50", "p99"}


@pytest.mark.storm
@pytest.mark.timeout(300)
def test_whatever_is_killed_is_there_again_and_the_books_are_right(tmp_path: Path) -> None:
    """Kafka, its guard, the venue, the feed, a worker and a worker's guard, one after the other."""
    data_dir, report = tmp_path / "bü ro", tmp_path / "result.json"
    options = ("--orders", "6000", "--speed", "300", "--exit", "--json", str(report))
    with Running("run", *options, "--data-dir", str(data_dir), "--port", "0") as run:
        run.until(lambda: re.search(r"orders [1-9].* approved [1-9]", run.said), "to trade", 90)
        for name, whom in (
            ("kafka", "it"),
            ("kafka", "guard"),
            ("risk-1", "guard"),
            ("venue", "it"),
            ("feed", "it"),
        ):
            kill(run, data_dir, name, whom)
        status = run.wait(150)
    assert status == 0, run.said
    assert "Traceback" not in run.said
    assert run.said.count("Kafka's process on 127.0.0.1:") == 2
    assert "risk-1 has ended" in run.said
    found = result(report)
    assert found["violations"] == []
    assert found["in_flight"] == 0
    assert mentioning(data_dir) == []


def kill(run: Running, data_dir: Path, name: str, whom: str) -> None:
    """Kill a process, or its guard, and wait until there is another one."""
    first = processes(data_dir)[name]
    os.kill(first if whom == "it" else parent_of(first), signal.SIGKILL)
    run.until(lambda: processes(data_dir).get(name, first) != first, f"to start {name} again", 60)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.timeout(120)
def test_the_members_of_a_killed_worker_leave_their_group_long_before_the_session_ends(
    tmp_path: Path, bootstrap: str
) -> None:
    asyncio.run(remove_topics(bootstrap))
    patient = {
        "KAFKA_BOOTSTRAP": bootstrap,
        "PIPELINE_SESSION_TIMEOUT_S": "60",
        "VENUE_URL": "http://127.0.0.1:9",
        "VENUE_TOKEN": "none",
    }
    with Running("up", "--workers", "risk=2", "--data-dir", str(tmp_path), environment=patient) as services:
        log = tmp_path / "logs" / "risk-1.log"
        services.until(lambda: shares(log), "to give both workers of risk a part", READY_S)
        services.until(lambda: VENUE_AWAY.search(services.said), "to say that the venue is away", READY_S)
        seen = len(log.read_text())
        os.kill(processes(tmp_path)["risk-2"], signal.SIGKILL)
        services.until(lambda: "assigned partitions" in log.read_text()[seen:], "to give risk-1 the rest", 20)

        services.process.send_signal(signal.SIGTERM)
        assert services.wait(30) == 143
    assert mentioning(tmp_path) == []


def shares(log: Path) -> bool:
    """Whether a worker has said that it is ready, and has a peer."""
    return (
        log.exists() and re.search(r"ready: partitions .* of risk, standbys of", log.read_text()) is not None
    )


def test_one_directory_is_for_one_run(tmp_path: Path, bootstrap: str) -> None:
    elsewhere = {"KAFKA_BOOTSTRAP": bootstrap}
    with Running("up", "--data-dir", str(tmp_path), environment=elsewhere) as first:
        first.until(lambda: processes(tmp_path), "to start its processes", 20)
        with Running("up", "--data-dir", str(tmp_path), environment=elsewhere) as second:
            assert second.wait(20) == 2
    assert f"error: data directory {tmp_path} is in use by pid {first.process.pid}" in second.said
