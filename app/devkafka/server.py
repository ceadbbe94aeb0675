"""Real Apache Kafka, one KRaft node on 127.0.0.1, as a mode service around a child process.

    async with KafkaServer(Path("data"), port=0) as broker:
        await broker.ready()
        ...  # broker.bootstrap is its address

The data directory is locked for as long as Kafka's process lives, and that process ends with its
owner's, however that ends (`app/processes/guard.py`). Kafka's own log is `<data_dir>/kafka.log`.
A `KafkaServer` lives as long as its process; a `KeptKafka` starts another one on the same port and data
whenever that has ended.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from mode import Service

from app.config import EMBEDDED_BOOTSTRAP, settings
from app.devkafka.artifacts import java_executable
from app.devkafka.node import (
    HOST,
    MEMBER_JVM_FLAGS,
    Member,
    Proxied,
    fence_former_self,
    format_storage,
    java_environment,
    new_cluster_id,
    quick_start_flags,
    reserve_port,
    server_command,
    telling_line,
    write_files,
)
from app.errors import KafkaDiedError, KafkaFailedError, PortTakenError, UserError
from app.processes.guarded import guarded
from app.processes.last_words import describe_exit, signal_of
from app.processes.lock import DirectoryLock
from app.processes.ports import Port, reserve, reserve_exactly
from app.processes.preflight import needs, prepare
from app.processes.supervisor import Restarts, until_gone

log = logging.getLogger(__name__)

USUAL_PORT: Final = int(EMBEDDED_BOOTSTRAP.rpartition(":")[2])
READY_TIMEOUT_S: Final = 60.0
READY_POLL_S: Final = 0.02
STOP_GRACE_S: Final = 10.0
ORPHAN_GRACE_S: Final = 1.0  # Kafka stops in 0.3 s when idle; after its owner's death it gets no longer
PORTS_MAX: Final = 3
"""How many ports a Kafka that may have any is tried on, when strangers take one after the other."""

OTHER_PORT: Final = (
    "choose another one with --port, or set KAFKA_BOOTSTRAP if it is a Kafka that you mean to use"
)

NO_PORT: Final = "Address already in use"


def _is_news(record: logging.LogRecord) -> bool:
    """Mode logs a crash with its traceback; a dead Kafka is the owner's to show, in one line."""
    return not (record.exc_info and isinstance(record.exc_info[1], KafkaFailedError))


log.addFilter(_is_news)


class KafkaServer(Service):
    """One Kafka node whose process lives as long as this service, and no longer than this process.

    `port` 0 takes a free one, once; `bootstrap` is the address from the start on. `proxied` adds a listener
    for clients behind a proxy; a `member` is one of several nodes. Starting raises DirectoryLockedError,
    PortTakenError, ArtifactError or KafkaDiedError; a process that ends by itself later crashes the service
    with KafkaDiedError.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        proxied: Proxied | None = None,
        member: Member | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "kafka.log"
        self.pid: int | None = None
        """Kafka's own process, while it runs."""
        self.last_pid: int | None = None
        """The same, after its end too."""
        self._port = port
        self._proxied = proxied
        self._member = member
        self._lock = DirectoryLock(self.data_dir)
        self._output_file = self.data_dir / "kafka.out"
        self._is_killed = False
        self._log_offset = 0
        self._reserved: list[socket.socket] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients; with port 0 it is known once the service is started."""
        return f"{HOST}:{self._port}"

    async def __aenter__(self) -> "KafkaServer":
        await self.start()
        return self

    async def on_start(self) -> None:
        await asyncio.to_thread(self._lock.acquire)
        try:
            await asyncio.to_thread(self._prepare)
            await self._launch()
        except OSError as error:
            await self.on_stop()
            raise KafkaFailedError(
                f"{self.data_dir} can't be used: {error}; choose another data directory"
            ) from error
        except BaseException:
            await self.on_stop()
            raise

    async def on_stop(self) -> None:
        await self._end_process()
        self._release_ports()
        self._lock.release()

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return as soon as the broker serves requests; raises KafkaDiedError or KafkaFailedError."""
        assert self._process is not None, "the broker is not started"
        deadline = time.monotonic() + timeout_s
        while not await _serves(self._port):
            if self._process.returncode is not None:
                raise self._died()
            if time.monotonic() > deadline:
                raise KafkaFailedError(f"Kafka did not come up within {timeout_s:.0f} s; see {self.log_file}")
            await asyncio.sleep(READY_POLL_S)
        self._release_ports()

    async def kill(self) -> None:
        """End Kafka by SIGKILL, on purpose: the service stops, and counts it as no failure."""
        assert self._process is not None
        assert self.pid is not None, "the broker is not running"
        if self._process.returncode is not None:
            raise self._died()
        self._is_killed = True
        os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()
        await self.stop()

    def _prepare(self) -> None:
        member, proxied = self._member, self._proxied
        controller_port = 0 if member is None else member.controller_ports[member.node_id]
        self._reserved = [reserve_port(self._port), reserve_port(controller_port)]
        self._port, controller_port = (each.getsockname()[1] for each in self._reserved)
        if proxied is not None:
            self._reserved.append(reserve_port(proxied.port))
        write_files(self.data_dir, self._port, controller_port, proxied=proxied, member=member)
        cluster_id = new_cluster_id() if member is None else member.cluster_id
        format_storage(self.data_dir, cluster_id, *self._java_flags())
        if member is None:
            self._fence_former_self()
        self._log_offset = self.log_file.stat().st_size if self.log_file.exists() else 0

    def _fence_former_self(self) -> None:
        fence_former_self(self.data_dir, *self._java_flags())

    def _java_flags(self) -> tuple[str, ...]:
        return quick_start_flags() + (() if self._member is None else MEMBER_JVM_FLAGS)

    async def _launch(self) -> None:
        command = server_command(self.data_dir, *self._java_flags())
        with self._output_file.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *guarded(command, ORPHAN_GRACE_S),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=self.data_dir,
                env=java_environment(),
                pass_fds=[self._lock.fileno()],
                start_new_session=True,  # Ctrl-C is for the owner, who stops the broker last
            )
        assert self._process.stdout is not None
        self.pid = self.last_pid = int(await self._process.stdout.readline() or 0) or None

    @Service.task
    async def _notice_death(self) -> None:
        assert self._process is not None
        await self._process.wait()
        if not self.should_stop and not self._is_killed:
            raise self._died()

    async def _end_process(self) -> None:
        process, self.pid = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(f"{STOP_GRACE_S}\n".encode())
            await process.stdin.drain()
        try:
            await asyncio.wait_for(process.wait(), STOP_GRACE_S + 2)
        except TimeoutError:
            process.kill()  # the kernel takes Kafka with it
            await process.wait()

    def _release_ports(self) -> None:
        for each in self._reserved:
            each.close()
        self._reserved = []

    def _died(self) -> KafkaFailedError:
        assert self._process is not None
        assert self._process.returncode is not None
        status, said = self._process.returncode, self._said()
        if signal_of(status) is None and NO_PORT in said:
            return PortTakenError(
                f"port {self._port} on {HOST} was taken from Kafka by something else; {OTHER_PORT}"
            )
        why = describe_exit(status)
        if signal_of(status) is None:
            why = f"{why}: {telling_line(said)}"
        return KafkaDiedError(f"Kafka's process on {self.bootstrap} has ended, {why}; see {self.log_file}")

    def _said(self) -> str:
        """What Kafka wrote since this start: its log, then what Java printed."""
        log = self.log_file.read_bytes() if self.log_file.exists() else b""
        if len(log) >= self._log_offset:  # else it was rotated
            log = log[self._log_offset :]
        return (log + self._output_file.read_bytes()).decode(errors="replace")


class KeptKafka(Service):
    """Kafka that is there again whenever it has ended: killed, out of memory, its disk full for a while.

    `ready` returns when it has come up for the first time, and raises what kept it from that. `port` None
    takes the usual one or any free one, 0 a free one; the port stays the same from then on. `tell` gets a
    line when it is back.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        tell: Callable[[str], None] = print,
        restarts: Restarts | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir.absolute()
        self.starts = 0
        self._wanted = port
        self._tell = tell
        self._restarts = restarts or Restarts()
        self._changing = asyncio.Lock()
        self._came_up = asyncio.Event()
        self._port: Port | None = None
        self._broker: KafkaServer | None = None
        self._started_at = 0.0
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever `pid` has changed."""

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients, from the first start on."""
        assert self._port is not None, "the broker is not started"
        return f"{HOST}:{self._port.number}"

    @property
    def pid(self) -> int | None:
        """Kafka's own process, while it runs."""
        return None if self._broker is None else self._broker.pid

    async def __aenter__(self) -> "KeptKafka":
        await self.start()
        return self

    async def on_start(self) -> None:
        self._reserve()
        await self._start()

    async def on_stop(self) -> None:
        async with self._changing:  # a start that is under way is stopped right after it
            if self._broker is not None:
                await self._broker.stop()
        if self._port is not None:
            self._port.release()

    def _reserve(self) -> None:
        """The port stays ours while Kafka is away: none of its clients may be given it."""
        try:
            wanted = self._wanted
            self._port = reserve(HOST, USUAL_PORT) if wanted is None else reserve_exactly(HOST, wanted)
        except PortTakenError as error:
            raise PortTakenError(f"{error}; {OTHER_PORT}") from None

    async def ready(self) -> None:
        """Return when Kafka serves requests for the first time; raises KafkaDiedError or KafkaFailedError."""
        for _ in range(PORTS_MAX):
            try:
                await self._current.ready()
            except PortTakenError:
                if self._wanted:
                    raise
                await self._current.stop()
                self._reserve_another()
                await self._start()
            else:
                self._came_up.set()
                return
        raise KafkaFailedError(f"Kafka found no port that nobody else takes; {OTHER_PORT}")

    @property
    def _current(self) -> KafkaServer:
        assert self._broker is not None, "the broker is not started"
        return self._broker

    def _reserve_another(self) -> None:
        assert self._port is not None
        taken, self._port = self._port, reserve(HOST)
        taken.release()

    async def _start(self) -> None:
        async with self._changing:
            if not self.should_stop:
                assert self._port is not None
                self.starts += 1
                self._started_at = time.monotonic()
                self._broker = KafkaServer(self.data_dir, self._port.number)
                await self._broker.start()
        self.on_change()

    @Service.task
    async def _keep(self) -> None:
        """Start it again, for ever: whatever ends a Kafka that has worked may pass."""
        await self._came_up.wait()
        while True:
            await self._current.wait_until_stopped()
            ended_at, why = time.monotonic(), self._current.crash_reason
            while why is not None and not self.should_stop:
                why = await self._start_again(why)
            if self.should_stop:
                return
            took_s = time.monotonic() - ended_at
            self._tell(f"Kafka listens on {self.bootstrap} again, {took_s:.1f} s after its end")

    async def _start_again(self, why: BaseException) -> BaseException | None:
        """Start it after a pause; gives what has kept it from coming up, None when it is there."""
        now_s = time.monotonic()
        pause_s = self._restarts.pause_after(now_s - self._started_at, now_s) or self._restarts.pause_s_max
        log.warning("%s: starting it again in %.2f s", why, pause_s)
        killed = self._current.last_pid
        await self._current.stop()
        self.on_change()
        if killed is not None:
            await until_gone(killed)
        await self.sleep(pause_s)
        try:
            await self._start()
            await self._current.ready()
        except UserError as error:
            return error
        return None


async def run_alone(data_dir: Path, port: int) -> None:
    """Run a broker until this task is cancelled; raises what keeps it from coming up."""
    await asyncio.to_thread(_require_machine, data_dir)
    async with KeptKafka(data_dir, port, tell=_say) as broker:
        await broker.ready()
        _say(f"Kafka listens on {broker.bootstrap}, data in {broker.data_dir}; Ctrl-C stops it")
        await broker.wait_until_stopped()
        if broker.crash_reason is not None:
            raise broker.crash_reason


def _require_machine(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KafkaFailedError(f"{data_dir} can't be used: {error}; choose another data directory") from error
    prepare(needs(settings().partitions, 0, kafka=True), data_dir.absolute(), [HOST], java_executable)


def _say(line: str) -> None:
    print(line, flush=True)


async def _serves(port: int) -> bool:
    """Whether the broker answers a metadata request and names itself in the answer."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    client = AIOKafkaClient(bootstrap_servers=f"{HOST}:{port}", request_timeout_ms=5_000)
    try:
        await client.bootstrap()
        named = [each for each in client.cluster.brokers() if not client.cluster.is_bootstrap(each.nodeId)]
        return any(each.port == port for each in named)
    except KafkaError:
        return False
    finally:
        await client.close()
