"""Topics that somebody else made, directories and ports in use, an environment that lacks something."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.integration.running import Running, mentioning, processes
from tests.tied import end_with_parent

START_S = 120.0
KILLED = ("kafka", "venue", "feed", "risk-1")


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[str]:
    """The address of a Kafka without a topic."""
    with Running("kafka", "--data-dir", str(tmp_path / "kafka"), "--port", "0") as running:
        running.until_said("listens on", START_S)
        found = re.search(r"listens on (\S+?),?\s", running.said)
        assert found
        yield found.group(1)


def make_topic(bootstrap: str, name: str, partitions: int, **config: str) -> None:
    """What an administrator with another tool has made before we came."""
    topic = NewTopic(
        name, num_partitions=partitions, config={k.replace("_", "."): v for k, v in config.items()}
    )
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([topic])[name].result(30)


def topic_names(bootstrap: str) -> set[str]:
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=30).topics
    return {name for name in topics if not name.startswith("__")}


def end_of(*arguments: str, within_s: float = START_S, **environment: str) -> tuple[int, str]:
    """Run `python -m app …` to its end: exit status and what it said."""
    with Running(*arguments, environment=environment) as running:
        return running.wait(within_s), running.said


class TestTopicsThatExist:
    def test_a_changelog_that_forgets_is_refused_before_anything_is_made(
        self, kafka: str, tmp_path: Path
    ) -> None:
        make_topic(kafka, "risk-positions-changelog", 8, cleanup_policy="delete")
        status, said = end_of("up", "--data-dir", str(tmp_path / "d"), KAFKA_BOOTSTRAP=kafka)
        assert status == 2, said
        assert "risk-positions-changelog" in said
        assert "cleanup.policy" in said
        assert "Traceback" not in said

    def test_orders_with_three_partitions_are_refused_before_anything_is_made(
        self, kafka: str, tmp_path: Path
    ) -> None:
        make_topic(kafka, "orders", 3, message_timestamp_type="LogAppendTime")
        status, said = end_of("up", "--data-dir", str(tmp_path / "d"), KAFKA_BOOTSTRAP=kafka)
        assert status == 2, said
        assert "orders" in said
        assert "3" in said
        assert topic_names(kafka) == {"orders"}

    def test_a_clock_that_is_the_clients_is_refused(self, kafka: str, tmp_path: Path) -> None:
        make_topic(kafka, "orders", 8, message_timestamp_type="CreateTime")
        status, said = end_of("up", "--data-dir", str(tmp_path / "d"), KAFKA_BOOTSTRAP=kafka)
        assert (status, "message.timestamp.type" in said) == (2, True), said


class TestDirectories:
    def test_no_home_and_a_cache_directory_works(self, tmp_path: Path) -> None:
        without = {name: text for name, text in os.environ.items() if name != "HOME"}
        told = subprocess.run(
            [sys.executable, "-m", "app", "check", "--bootstrap", "127.0.0.1:1"],
            env=without | {"PIPELINE_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in told.stderr
        assert told.returncode == 2

    @pytest.mark.parametrize("name", ["büro", "with space", "名前"])
    def test_a_directory_may_be_named_as_people_name_it(self, tmp_path: Path, name: str) -> None:
        directory = tmp_path / name
        with Running(
            "kafka", "--data-dir", str(directory), "--port", "0", environment={"LC_ALL": "C"}
        ) as running:
            running.until_said("listens on", START_S)
        assert [each.name for each in tmp_path.iterdir()] == [name]

    def test_two_workers_on_one_directory_are_told_who_holds_it(self, kafka: str, tmp_path: Path) -> None:
        directory = tmp_path / "risk"
        environment = {"KAFKA_BOOTSTRAP": kafka, "VENUE_TOKEN": "x"}
        with ExitStack() as stack:
            first = stack.enter_context(closing(_Worker(directory, environment)))
            first.until("ready: partitions")
            second = stack.enter_context(closing(_Worker(directory, environment)))
            assert second.process.wait(60) == 2
            assert str(first.process.pid) in second.said()
            assert "Traceback" not in second.said()
            assert first.process.poll() is None
        assert not list(tmp_path.rglob("*.damaged-*"))


class _Worker:
    """`faust -A app.risk worker`, as the README says, on a directory and any port."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._log = directory.parent / f"worker-{time.time_ns()}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "faust", "--datadir", str(directory), "-A", "app.risk"),
                    *("worker", "-l", "info", "--web-port", str(_free_port())),
                ],
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
            )

    def said(self) -> str:
        return self._log.read_text()

    def until(self, text: str) -> None:
        deadline = time.monotonic() + START_S
        while text not in self.said():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.storm
def test_any_process_may_be_killed_kafka_among_them(tmp_path: Path) -> None:
    arguments = ("run", "--data-dir", str(tmp_path), "--port", "0", "--speed", "5")
    with Running(*arguments) as running:
        running.until(lambda: set(KILLED) <= set(processes(tmp_path)), "to have every process", START_S)
        running.until_said("workers ready", START_S)
        before = processes(tmp_path)
        for name in KILLED:
            os.kill(before[name], signal.SIGKILL)

        def is_whole() -> bool:
            now = processes(tmp_path)
            return all(now.get(name, before[name]) != before[name] for name in KILLED)

        running.until(is_whole, "to be whole again", START_S)
        time.sleep(5)
        assert running.process.poll() is None, running.said
    assert not mentioning(tmp_path)
