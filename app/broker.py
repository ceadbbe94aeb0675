"""Real Apache Kafka, one KRaft node on 127.0.0.1, as a mode service around a child process.

    async with Broker(Path("data"), port=0) as broker:
        await broker.ready()
        ...  # broker.bootstrap is its address

The data directory is locked for as long as Kafka's process lives, and that process ends with its
owner's, however that ends (`app/guard.py`). Kafka's own log is `<data_dir>/kafka.log`.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from mode import Service

from app.errors import BrokerDiedError, BrokerError
from app.kafka_node import (
    HOST,
    MEMBER_JVM_FLAGS,
    Member,
    Proxied,
    fence_former_self,
    format_storage,
    guarded,
    new_cluster_id,
    quick_start_flags,
    reserve_port,
    server_command,
    telling_line,
    write_files,
)
from app.lock import DirectoryLock

READY_TIMEOUT_S: Final = 60.0
READY_POLL_S: Final = 0.02
STOP_GRACE_S: Final = 10.0
ORPHAN_GRACE_S: Final = 1.0  # Kafka stops in 0.3 s when idle; after its owner's death it gets no longer
LAST_LINES: Final = 15


def _is_news(record: logging.LogRecord) -> bool:
    """Mode logs a crash with its traceback; a dead Kafka is the owner's to show, in one line."""
    return not (record.exc_info and isinstance(record.exc_info[1], BrokerDiedError))


logging.getLogger(__name__).addFilter(_is_news)


class Broker(Service):
    """One Kafka node whose process lives as long as this service, and no longer than this process.

    `port` 0 takes a free one, once; `bootstrap` is the address from the start on. `proxied` adds a listener
    for clients behind a proxy; a `member` is one of several nodes. Starting raises DirectoryLockedError,
    PortTakenError, ArtifactError or BrokerDiedError; a process that ends by itself later crashes the service
    with BrokerDiedError.
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
        self._port = port
        self._proxied = proxied
        self._member = member
        self._lock = DirectoryLock(self.data_dir)
        self._output_file = self.data_dir / "kafka.out"
        self._is_up = False
        self._is_killed = False
        self._log_offset = 0
        self._reserved: list[socket.socket] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients; with port 0 it is known once the service is started."""
        return f"{HOST}:{self._port}"

    async def __aenter__(self) -> "Broker":
        await self.start()
        return self

    async def on_start(self) -> None:
        await asyncio.to_thread(self._lock.acquire)
        try:
            await asyncio.to_thread(self._prepare)
            await self._launch()
        except BaseException:
            await self.on_stop()
            raise

    async def on_stop(self) -> None:
        await self._end_process()
        self._release_ports()
        self._lock.release()

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return as soon as the broker serves requests; raises BrokerDiedError or BrokerError."""
        assert self._process is not None, "the broker is not started"
        deadline = time.monotonic() + timeout_s
        while not await _serves(self._port):
            if self._process.returncode is not None:
                raise self._died()
            if time.monotonic() > deadline:
                raise BrokerError(f"Kafka did not come up within {timeout_s:.0f} s; see {self.log_file}")
            await asyncio.sleep(READY_POLL_S)
        self._is_up = True
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
            fence_former_self(self.data_dir, *self._java_flags())
        self._log_offset = self.log_file.stat().st_size if self.log_file.exists() else 0

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
                pass_fds=[self._lock.fileno()],
                start_new_session=True,  # Ctrl-C is for the owner, who stops the broker last
            )
        assert self._process.stdout is not None
        self.pid = int(await self._process.stdout.readline() or 0) or None

    @Service.task
    async def _notice_death(self) -> None:
        assert self._process is not None
        await self._process.wait()
        if self.should_stop or self._is_killed:
            return
        if self._is_up:  # before that, ready() says what was wrong
            self.log.error("Kafka's last lines:\n%s", "\n".join(self._said().splitlines()[-LAST_LINES:]))
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

    def _died(self) -> BrokerDiedError:
        assert self._process is not None
        assert self._process.returncode is not None
        code = self._process.returncode % 256  # of the guard: -9 when it was killed, Kafka's otherwise
        by_signal = next((each.name for each in signal.Signals if code in (128 + each, 256 - each)), None)
        why = f"killed by {by_signal}" if by_signal else f"exit status {code}: {telling_line(self._said())}"
        return BrokerDiedError(f"Kafka's process on {self.bootstrap} has ended, {why}; see {self.log_file}")

    def _said(self) -> str:
        """What Kafka wrote since this start: its log, then what Java printed."""
        log = self.log_file.read_bytes() if self.log_file.exists() else b""
        if len(log) >= self._log_offset:  # else it was rotated
            log = log[self._log_offset :]
        return (log + self._output_file.read_bytes()).decode(errors="replace")


async def run_alone(data_dir: Path, port: int) -> None:
    """Run a broker until this task is cancelled; raises what the broker raises."""
    async with Broker(data_dir, port) as broker:
        await broker.ready()
        print(f"Kafka listens on {broker.bootstrap}, data in {broker.data_dir}; Ctrl-C stops it", flush=True)
        await broker.wait_until_stopped()
        if broker.crash_reason is not None:
            raise broker.crash_reason


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
