"""What one Kafka node is started with: its files, its flags, its first formatting, its start-up cache.

Java runs in the data directory and is given names below it, never its path: a comma, an umlaut or a brace in
that path means nothing to Kafka's properties files. Nothing here keeps a process: `broker.py` does.
"""

import asyncio
import base64
import contextlib
import hashlib
import logging
import platform
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

from aiokafka.errors import KafkaError

from app.config import child_environment, settings
from app.devkafka import training as kafka_training
from app.devkafka.artifacts import KAFKA_VERSION, java_executable, kafka_classpath, make_once
from app.errors import KafkaDiedError, KafkaFailedError, PortTakenError
from app.processes.guarded import start_guarded

HOST: Final = "127.0.0.1"
TRANSACTION_MS_MAX: Final = 15_000
"""How long a client that died may keep a partition waiting for its open transaction."""

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024
TRAINING_S_MAX: Final = 60.0
EXERCISE_S: Final = 10.0

JVM_FLAGS: Final = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",  # two cores, a small live set: nothing to gain from concurrent collection
    "-XX:TieredStopAtLevel=1",  # its second compiler took as much processor as all requests, for minutes
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)

JAVA_VARIABLES: Final = ("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")

MEMBER_JVM_FLAGS: Final = ("-Xms64m", "-Xmx256m")
"""Several nodes share what one has to itself."""

SESSION_MS: Final = 2500
"""How long a node that is dead counts as alive, and keeps its partitions; each start waits for it to end."""

# what differs from Kafka's defaults, and why
SERVER_PROPERTIES: Final[dict[str, object]] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    # topics are declared in one place, never made by a typo
    "auto.create.topics.enable": "false",
    # one node
    "default.replication.factor": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 8,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # a killed worker's partitions move at once
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 500,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    # while the last transaction's markers are being written the broker asks again, every 20 ms by default
    "add.partitions.to.txn.retry.backoff.ms": 1,
    # 9 s by default
    "broker.session.timeout.ms": SESSION_MS,
    "broker.heartbeat.interval.ms": 250,
    # bad input of some MB has to arrive, so that it can be refused
    "message.max.bytes": RECORD_BYTES_MAX,
    "replica.fetch.max.bytes": RECORD_BYTES_MAX,
    # the log is the books, and a run may be continued months later
    "log.retention.ms": -1,
    "offsets.retention.minutes": 525_600,
    # compaction begins behind the open segment, and a start after a kill reads that one again
    "log.segment.bytes": 16 * 1024 * 1024,
    "offsets.topic.segment.bytes": 4 * 1024 * 1024,
    "transaction.state.log.segment.bytes": 4 * 1024 * 1024,
    # a small heap on two cores
    "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "num.recovery.threads.per.data.dir": 2,
    "background.threads": 2,
}

CONTROLLER_ONLY: Final[dict[str, object]] = {
    "process.roles": "controller",
    "broker.session.timeout.ms": 200,
    "broker.heartbeat.interval.ms": 50,
}
"""What makes a controller of a node that soon finds its dead broker."""

CONTROLS: Final = "Activated periodic tasks"
"""What it logs when it has replayed its own log."""

REGISTERED: Final = re.compile(r"Regist\w+Record\(brokerId=1, .*?brokerEpoch=(\d+), .*?fenced=([\w-]+)")
FENCED: Final = {"false": False, "-1": False, "true": True, "1": True}
FENCE_S_MAX: Final = 20.0
METADATA_TAIL_BYTES: Final = 4 * 1024 * 1024
FENCE_POLL_S: Final = 0.02

LOG_PROPERTIES: Final = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:kafka.log.file}
appender.file.filePattern = ${sys:kafka.log.file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{ISO8601} %-5p %m (%c{1})%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""

_log = logging.getLogger(__name__)


class Proxied(NamedTuple):
    """A listener for clients that come through a proxy, and are to stay behind it.

    The node listens on `port` and tells whoever comes there that its address is `address`, the proxy's.
    """

    port: int
    address: str


@dataclass(frozen=True, kw_only=True)
class Member:
    """A node's place in a cluster of several, all of them on this machine, all brokers and controllers."""

    node_id: int
    controller_ports: Mapping[int, int]
    """Of every node, by its id."""
    cluster_id: str

    def properties(self) -> dict[str, object]:
        """Each record on three nodes and acknowledged by two, as far as there are so many."""
        nodes = len(self.controller_ports)
        copies, in_sync = min(3, nodes), min(2, nodes - 1)
        voters = (f"{node_id}@{HOST}:{port}" for node_id, port in self.controller_ports.items())
        return {
            "node.id": self.node_id,
            "controller.quorum.voters": ",".join(voters),
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "unclean.leader.election.enable": "false",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
        }


def reserve_port(port: int) -> socket.socket:
    """A bound socket that keeps the port (0: a free one) ours until Kafka listens on it.

    Both sides set SO_REUSEADDR, so Kafka can bind what is bound here and not listened on.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((HOST, port))
    except OSError as error:
        reserved.close()
        raise PortTakenError(
            f"port {port} on {HOST} can't be used ({error.strerror}); choose another one with --port, or set "
            "KAFKA_BOOTSTRAP if it is a Kafka that you mean to use"
        ) from None
    return reserved


def write_files(
    data_dir: Path,
    port: int,
    controller_port: int,
    *,
    proxied: Proxied | None = None,
    member: Member | None = None,
) -> None:
    """Write the node's configuration; the ports may differ from those of the last start."""
    properties = SERVER_PROPERTIES | {
        "transaction.max.timeout.ms": max(TRANSACTION_MS_MAX, settings().transaction_timeout_ms),
        "listeners": f"CLIENT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"CLIENT://{HOST}:{port}",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
    }
    if proxied is not None:
        properties |= {
            "listeners": f"{properties['listeners']},PROXIED://{HOST}:{proxied.port}",
            "advertised.listeners": f"{properties['advertised.listeners']},PROXIED://{proxied.address}",
        }
    if member is not None:
        properties |= member.properties()
    _write_properties(data_dir / "server.properties", properties | {"log.dirs": "log"})
    _write_properties(data_dir / "format.properties", properties | {"log.dirs": "log.new"})
    controller_only = properties | CONTROLLER_ONLY | {"log.dirs": "log"}
    del controller_only["advertised.listeners"], controller_only["inter.broker.listener.name"]
    controller_only["listeners"] = f"CONTROLLER://{HOST}:{controller_port}"
    _write_properties(data_dir / "fence.properties", controller_only)
    (data_dir / "log4j2.properties").write_text(LOG_PROPERTIES, encoding="utf-8")


def new_cluster_id() -> str:
    """A name for a cluster that no other has."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def format_storage(data_dir: Path, cluster_id: str, *flags: str) -> None:
    """Format the node's log directory unless it is; a crash half-way leaves it unformatted."""
    log, unfinished = data_dir / "log", data_dir / "log.new"
    if log.is_dir():
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *java_command(data_dir, *flags),
        *("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"),
        *("--config", "format.properties"),
    ]
    output = data_dir / "format.out"
    with output.open("wb") as file, start_java(command, data_dir, output=file) as formatting:
        code = formatting.wait()
    if code != 0:
        raise KafkaDiedError(f"{data_dir} can't be formatted: {telling_line(_text_of(output))}; see {output}")
    if not (unfinished / "meta.properties").exists():
        raise KafkaFailedError(
            f"Java has formatted another directory than {data_dir}: it can't read that name under the locale "
            "C.UTF-8; choose a data directory whose path is plain ASCII"
        )
    unfinished.rename(log)


def fence_former_self(data_dir: Path, *flags: str) -> None:
    """Let the controller of a node that was killed see that its broker is dead, before the broker comes back.

    A broker that starts while its former self counts as alive leads its partitions for a moment, loses them
    when that session ends, and gets them again. Coordinators are not up to it: transactions end without their
    markers (KAFKA-20734, from 4.1.0) and groups show no offsets, or old ones, while they are loaded twice
    (seen with 4.0.2).
    """
    log = data_dir / "log"
    if not (log / "__cluster_metadata-0").is_dir() or (log / ".kafka_cleanshutdown").exists():
        return
    said, output = data_dir / "fence.log", data_dir / "fence.out"
    said.unlink(missing_ok=True)
    command = [
        *java_command(data_dir, *flags, log_name=said.name),
        *("kafka.Kafka", "fence.properties"),
    ]
    with (
        output.open("wb") as file,
        start_java(command, data_dir, grace_s=FENCE_S_MAX, output=file) as controller,
    ):
        give_up_at = time.monotonic() + FENCE_S_MAX
        epoch: int | None = None
        while epoch is None or not _has_fenced(log, epoch):
            if controller.poll() is not None:
                why = telling_line(_text_of(output))
                raise KafkaDiedError(f"the controller in {data_dir} does not start: {why}; see {said}")
            if time.monotonic() > give_up_at:
                raise KafkaDiedError(f"{data_dir}: after {FENCE_S_MAX:.0f} s its dead broker still counts")
            replayed, controls, _ = _text_of(said).partition(CONTROLS)
            if controls and (epoch := _epoch_alive(replayed)) is None:
                return
            time.sleep(FENCE_POLL_S)


def _epoch_alive(replayed: str) -> int | None:
    """The epoch under which the broker counts as alive; None when it does not."""
    epoch, fenced = 0, True
    for found in REGISTERED.finditer(replayed):
        epoch, fenced = int(found[1]), FENCED.get(found[2], fenced)
    return None if fenced else epoch


def _has_fenced(log: Path, epoch: int) -> bool:
    """Whether the metadata log has the BrokerRegistrationChangeRecord (type 17) that fences this epoch.

    The controller tells of it before it has written it.
    """
    segment = max((log / "__cluster_metadata-0").glob("*.log"))
    with segment.open("rb") as file:
        file.seek(max(0, segment.stat().st_size - METADATA_TAIL_BYTES))
        tail = file.read()
    record = re.escape(struct.pack(">iq", 1, epoch))
    return re.search(rb"\x01\x11." + record + rb".\x00\x01\x01", tail, re.DOTALL) is not None


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def server_command(data_dir: Path, *flags: str) -> list[str]:
    """What starts the formatted node, in its data directory."""
    return [*java_command(data_dir, *flags), "kafka.Kafka", "server.properties"]


def java_command(data_dir: Path, *flags: str, log_name: str = "kafka.log") -> list[str]:
    """Java with Kafka's class path and our flags, up to where the main class follows.

    It has to run in `data_dir`; the property that names the directory is for people who look at processes.
    `flags` come last, so that each of them, a class path too, replaces one of ours.
    """
    return [
        *(str(java_executable()), *JVM_FLAGS),
        *("-Dlog4j2.configurationFile=log4j2.properties", f"-Dkafka.log.file={log_name}"),
        *(f"-Dpipeline.data.dir={data_dir}", "-XX:ErrorFile=java-crash-%p.log", "-cp", kafka_classpath()),
        *flags,
    ]


def java_environment() -> dict[str, str]:
    """Ours, but for what would change Java: file names follow the locale, and some variables add flags."""
    inherited = child_environment(LC_ALL="C.UTF-8")
    return {name: value for name, value in inherited.items() if name not in JAVA_VARIABLES}


def start_java(
    command: list[str], data_dir: Path, *, grace_s: float = 0, output: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start what `java_command` begins, guarded and in its data directory."""
    return start_guarded(command, grace_s=grace_s, output=output, cwd=data_dir, env=java_environment())


def quick_start_flags() -> tuple[str, ...]:
    """Flags that more than halve Kafka's start-up, from a cache that one training run makes once.

    Java's ahead-of-time cache (JEP 483, 514, 515): Kafka's classes, loaded and linked, and which methods are
    used most. Without it Kafka still works, so a failed training is remembered as an empty cache and logged,
    not raised.
    """
    name = f"kafka-{KAFKA_VERSION}-quick-start-{_fingerprint()}"
    made = make_once(settings().cache_dir / name, "preparing Kafka's quick start", _train)
    cache = made / "kafka.aot"
    return (f"-XX:AOTCache={cache}", "-Xlog:aot*=off,cds*=off") if cache.exists() else ()


def _fingerprint() -> str:
    """Java checks the cache against itself, its flags and the class path; so a change makes a new one."""
    trained = Path(kafka_training.__file__).read_text(encoding="utf-8")
    parts = [platform.machine(), str(java_executable()), kafka_classpath(), *JVM_FLAGS, trained]
    release = java_executable().parent.parent / "release"
    return hashlib.sha256("\n".join([*parts, release.read_text()]).encode()).hexdigest()[:12]


def _train(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kafka-training-") as temporary:
        data_dir = Path(temporary)
        with reserve_port(0) as client, reserve_port(0) as controller:
            port = client.getsockname()[1]
            write_files(data_dir, port, controller.getsockname()[1])
            format_storage(data_dir, new_cluster_id())
            command = server_command(data_dir, f"-XX:AOTCacheOutput={directory / 'kafka.aot'}")
            with (data_dir / "out").open("wb") as out, start_java(command, data_dir, output=out) as kafka:
                _exercise_and_stop(kafka, port)
        if not (directory / "kafka.aot").exists():
            _log.warning("no quick start for Kafka: %s", telling_line(_text_of(data_dir / "out")))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger say nothing meanwhile."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _exercise_and_stop(kafka: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + TRAINING_S_MAX
    while kafka.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            break
        time.sleep(0.1)
    time.sleep(1)  # the node registers with itself, and loads the classes for that
    try:
        with _quiet("aiokafka"):  # on a busy machine it says at length what it tries again
            asyncio.run(kafka_training.exercise(f"{HOST}:{port}", EXERCISE_S))
    except* (KafkaError, OSError) as errors:
        _log.warning("Kafka's training was cut short: %s", errors.exceptions)
    assert kafka.stdin is not None
    with contextlib.suppress(OSError):
        kafka.stdin.write(f"{TRAINING_S_MAX}\n".encode())
        kafka.stdin.flush()
    kafka.wait()


def telling_line(log: str) -> str:
    """The line of Kafka's output that says why it ended: the last cause, error or line there is."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"^(Caused by: )?[\w.$]+(Exception|Error): \S", r"\b(ERROR|FATAL)\b|^Error"):
        if found := [line for line in lines if re.search(pattern, line)]:
            return found[-1]
    return lines[-1] if lines else "it said nothing"


def _write_properties(path: Path, properties: dict[str, object]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()), encoding="latin-1")
