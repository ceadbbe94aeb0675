"""The embedded broker on real Kafka: it keeps its data, its promises to its owner, and no orphan."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.devkafka.node import format_storage, new_cluster_id, telling_line, write_files
from app.devkafka.server import KafkaServer, KeptKafka
from app.errors import DirectoryLockedError, KafkaDiedError, KafkaFailedError, PortTakenError
from tests.tied import end_with_parent


async def create_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes], *, transactional_id: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=transactional_id,
        transaction_timeout_ms=10_000,
        max_request_size=10_000_000,
    )
    await producer.start()
    try:
        async with producer.transaction():
            for value in values:
                await producer.send(topic, value, partition=0)
    finally:
        await producer.stop()


RECORD_S_MAX = 60
"""A killed Kafka, on a busy machine, first ends the transactions that it was killed in."""


async def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await asyncio.wait_for(anext(consumer), RECORD_S_MAX)).value for _ in range(count)]
    finally:
        await consumer.stop()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    return condition()


def kafka_pid(parent: int) -> int:
    """The pid of the Java process below a process that runs a broker."""
    children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    for child in children:
        if b"kafka.Kafka" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            return int(Path(f"/proc/{child}/task/{child}/children").read_text())
    raise AssertionError(f"no Kafka below {parent}")


class RunningAlone:
    """`python -m app kafka` as a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "kafka", "--data-dir", str(data_dir), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.kafka_pid = kafka_pid(self.process.pid)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; gives the exit status and what it wrote to standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=15)
        return self.process.returncode, errors


async def test_a_record_of_5_megabytes_arrives(bootstrap: str) -> None:
    await create_topic(bootstrap, "large")
    value = os.urandom(5_000_000)
    await produce(bootstrap, "large", [value], transactional_id="large")
    assert await consume(bootstrap, "large", 1) == [value]


@pytest.mark.timeout(180)
async def test_its_data_survive_its_own_kill_9(tmp_path: Path) -> None:
    values = [f"record {number}".encode() for number in range(1_000)]
    async with KafkaServer(tmp_path) as broker:
        await broker.ready()
        await create_topic(broker.bootstrap, "kept")
        await produce(broker.bootstrap, "kept", values, transactional_id="kept")
        assert await consume(broker.bootstrap, "kept", len(values)) == values
        killed = broker.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await broker.wait_until_stopped()
        assert isinstance(broker.crash_reason, KafkaDiedError)
        assert "killed by SIGKILL" in str(broker.crash_reason)
        told = broker.log_file.stat().st_size

    async with KafkaServer(tmp_path) as broker:
        await broker.ready()
        assert await consume(broker.bootstrap, "kept", len(values)) == values
        second_life = broker.log_file.read_bytes()[told:].decode()
        roles = re.findall(r"(Leader|Follower) kept-0 ", second_life)
        assert roles == ["Follower", "Leader"], "it led, lost and led again: coordinators break of that"
        await produce(broker.bootstrap, "kept", [b"one more"], transactional_id="kept")
        assert (await consume(broker.bootstrap, "kept", len(values) + 1))[-1] == b"one more"


async def test_a_data_directory_in_use_is_refused_with_its_holder(broker: KafkaServer) -> None:
    with pytest.raises(DirectoryLockedError, match=rf"is in use by pid {os.getpid()} \("):
        await KafkaServer(broker.data_dir).start()


async def test_a_taken_port_is_refused_in_one_line_and_the_directory_is_free_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for _ in range(2):
            with pytest.raises(PortTakenError, match=rf"port {port} .*--port.*KAFKA_BOOTSTRAP"):
                await KafkaServer(tmp_path, port).start()


async def test_a_broker_that_dies_at_start_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()  # a log directory that nobody formatted
    async with KafkaServer(tmp_path) as broker:
        with pytest.raises(KafkaDiedError, match=r"meta\.properties.*; see .*kafka\.log") as died:
            await broker.ready()
    assert "\n" not in str(died.value)


async def test_a_stopped_broker_leaves_no_process_and_starts_again(tmp_path: Path) -> None:
    for _ in range(2):
        async with KafkaServer(tmp_path) as broker:
            await broker.ready()
            pid = broker.pid
            assert pid is not None
            assert is_running(pid)
        assert not is_running(pid)
        assert broker.pid is None


async def test_kafka_is_gone_within_2_s_of_its_owners_kill_9(tmp_path: Path) -> None:
    owner = RunningAlone(tmp_path)
    assert owner.first_line.startswith("Kafka listens on 127.0.0.1:")
    assert is_running(owner.kafka_pid)
    owner.end(signal.SIGKILL)
    assert await until(lambda: not is_running(owner.kafka_pid), within_s=2)
    async with KafkaServer(tmp_path) as broker:  # and nothing holds the directory any more
        await broker.ready()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_broker_alone_stops_cleanly(tmp_path: Path, number: signal.Signals, status: int) -> None:
    alone = RunningAlone(tmp_path)
    assert alone.end(number) == (status, "")
    assert not is_running(alone.kafka_pid)
    assert (tmp_path / "log" / ".kafka_cleanshutdown").exists()


@pytest.mark.parametrize("whom", ["Kafka", "its guard"])
@pytest.mark.timeout(120)
async def test_a_killed_kafka_is_there_again_on_the_same_port_with_the_same_data(
    tmp_path: Path, whom: str
) -> None:
    told: list[str] = []
    async with KeptKafka(tmp_path, 0, tell=told.append) as broker:
        await broker.ready()
        bootstrap, first = broker.bootstrap, broker.pid
        assert first is not None
        await create_topic(bootstrap, "kept")
        await produce(bootstrap, "kept", [b"one"], transactional_id="kept")

        os.kill(first if whom == "Kafka" else parent_of(first), signal.SIGKILL)

        assert await until(lambda: bool(told), within_s=60)
        assert re.fullmatch(rf"Kafka listens on {bootstrap} again, .* s after its end", told[0])
        assert broker.bootstrap == bootstrap
        assert not is_running(first)
        assert await consume(bootstrap, "kept", 1) == [b"one"]
        await produce(bootstrap, "kept", [b"two"], transactional_id="kept")
        assert not broker.crashed


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def test_a_kafka_that_never_comes_up_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()  # a log directory that nobody formatted
    async with KeptKafka(tmp_path, 0) as broker:
        with pytest.raises(KafkaDiedError, match=r"meta\.properties"):
            await broker.ready()
        assert broker.starts == 1


async def test_a_port_that_a_stranger_takes_at_the_last_moment_is_changed(tmp_path: Path) -> None:
    broker = KeptKafka(tmp_path)
    await broker.start()
    port = int(broker.bootstrap.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        await broker.ready()
        assert broker.bootstrap != f"127.0.0.1:{port}"
    await broker.stop()


async def test_a_port_that_was_asked_for_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"port {port} .*--port.*KAFKA_BOOTSTRAP") as refused:
            await KeptKafka(tmp_path, port).start()
    assert "\n" not in str(refused.value)


async def test_a_transaction_that_could_stay_open_for_long_is_refused(bootstrap: str) -> None:
    """Whoever reads committed records only would wait for it, if its client died."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, transactional_id="patient", transaction_timeout_ms=600_000
    )
    try:
        with pytest.raises(errors.InvalidTransactionTimeout):
            await producer.start()
    finally:
        await producer.stop()


@pytest.mark.parametrize("name", ["büro", "a b'c\"d", "x=1,y;z", "{a}${sys:b}%p#", "\\back!:slash", "目录"])
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "POSIX"}])
def test_a_data_directory_may_have_any_name(
    tmp_path: Path, name: str, locale: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in locale.items():
        monkeypatch.setenv(variable, value)
    format_storage(prepared(tmp_path / name), new_cluster_id())
    assert (tmp_path / name / "log" / "meta.properties").exists()
    assert [each.name for each in tmp_path.iterdir()] == [name]


def prepared(data_dir: Path) -> Path:
    data_dir.mkdir()
    write_files(data_dir, 9092, 9093)
    return data_dir


def test_kafka_serves_from_a_directory_with_a_difficult_name(tmp_path: Path) -> None:
    data_dir = tmp_path / "bü ro, x=1; 'q' {z}"

    async def serve() -> None:
        async with KafkaServer(data_dir) as broker:
            await broker.ready()
            await create_topic(broker.bootstrap, "kept")

    asyncio.run(serve())
    assert (data_dir / "log" / "kept-0").is_dir()
    assert [each.name for each in tmp_path.iterdir()] == [data_dir.name]


def test_variables_that_change_java_do_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "--nonsense")
    format_storage(prepared(tmp_path / "data"), new_cluster_id())


async def test_a_directory_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "server.properties").mkdir()
    with pytest.raises(
        KafkaFailedError, match=r"can't be used: .*; choose another data directory"
    ) as refused:
        await KafkaServer(tmp_path).start()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", "it said nothing"),
        ("INFO fine\nINFO ended", "INFO ended"),
        ("ERROR Exiting\nINFO closing", "ERROR Exiting"),
        (
            "ERROR Exiting\njava.lang.Exception: outer\n\tat x\nCaused by: java.io.IOException: inner\nINFO",
            "Caused by: java.io.IOException: inner",
        ),
    ],
)
def test_the_telling_line_is_the_last_cause_error_or_line(log: str, line: str) -> None:
    assert telling_line(log) == line
