"""The Kafka of a storm: one node or several behind a proxy, each of which can be killed and brought back.

async with KafkaNodes(Path("kafka"), 3) as kafka:
    await kafka.ready()
    ...  # kafka.bootstrap for who goes direct, kafka.proxied_bootstrap for who shall suffer
    await kafka.kill(2)
    await kafka.revive(2)
    await kafka.in_sync()
"""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from mode import Service

from app.devkafka.node import HOST, Member, Proxied, new_cluster_id, reserve_port
from app.devkafka.server import READY_TIMEOUT_S, KafkaServer
from app.errors import KafkaFailedError
from storm.proxy import Proxy

SYNC_POLL_S: Final = 0.1


class _Ports(NamedTuple):
    """Where one node listens."""

    client: int
    proxied: int
    controller: int


class KafkaNodes(Service):
    """`count` Kafka nodes, numbered from 1, each with its own directory below `data_dir`; and their proxy.

    Three and more keep every record three times and acknowledge it when two nodes have it. A node that dies
    otherwise than by `kill` crashes this service with KafkaDiedError.
    """

    def __init__(self, data_dir: Path, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir.absolute()
        self.count = count
        self.proxy = Proxy([])
        self._reserved: list[socket.socket] = []
        self._ports: dict[int, _Ports] = {}
        self._brokers: dict[int, KafkaServer] = {}

    async def __aenter__(self) -> "KafkaNodes":
        await self.start()
        return self

    @property
    def replication_factor(self) -> int:
        """What topics have to be created with."""
        return min(3, self.count)

    @property
    def bootstrap(self) -> str:
        """All nodes, dead ones included, reached directly; known once the service is started."""
        return ",".join(f"{HOST}:{each.client}" for each in self._ports.values())

    @property
    def proxied_bootstrap(self) -> str:
        """All nodes, reached through the proxy."""
        return ",".join(self.proxy.addresses)

    @property
    def alive(self) -> list[int]:
        """The nodes that run."""
        return sorted(self._brokers)

    async def on_start(self) -> None:
        try:
            self._reserve_ports()
            self.proxy = Proxy([f"{HOST}:{each.proxied}" for each in self._ports.values()])
            self.add_dependency(self.proxy)
            await self.proxy.maybe_start()
            await asyncio.to_thread(self.data_dir.mkdir, parents=True, exist_ok=True)
            await asyncio.gather(*(self._start(node) for node in self._ports))
        except BaseException:
            await self.on_stop()
            raise

    async def on_stop(self) -> None:
        """All at once: the last of several would wait in vain for somebody to take its partitions over."""
        await asyncio.gather(*(broker.stop() for broker in self._brokers.values()))
        await self.proxy.stop()
        for each in self._reserved:
            each.close()
        self._reserved = []

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return as soon as every running node serves requests; raises KafkaDiedError or KafkaFailedError."""
        await asyncio.gather(*(broker.ready(timeout_s) for broker in self._brokers.values()))

    async def kill(self, node: int) -> None:
        """End a node by SIGKILL; its ports stay its own."""
        broker = self._brokers.pop(node)
        await broker.kill()
        await self.remove_dependency(broker)

    async def revive(self, node: int, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Bring a killed node back, on its ports and data; returns when it serves requests."""
        assert node not in self._brokers, f"node {node} runs"
        await self._start(node)
        await self._brokers[node].ready(timeout_s)

    async def in_sync(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every partition has a leader and all its replicas in sync; raises KafkaFailedError."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        deadline = time.monotonic() + timeout_s
        try:
            while lagging := await _lagging(admin):
                if time.monotonic() > deadline:
                    raise KafkaFailedError(f"after {timeout_s:.0f} s still out of sync: {', '.join(lagging)}")
                await asyncio.sleep(SYNC_POLL_S)
        finally:
            await admin.close()

    def _reserve_ports(self) -> None:
        """Keep every port bound for good: while its node is away, none of its clients may be given it."""
        for node in range(1, self.count + 1):
            mine = [reserve_port(0) for _ in _Ports._fields]
            self._reserved += mine
            self._ports[node] = _Ports(*(each.getsockname()[1] for each in mine))

    async def _start(self, node: int) -> None:
        ports = self._ports[node]
        proxied = Proxied(ports.proxied, self.proxy.addresses[node - 1])
        broker = KafkaServer(
            self.data_dir / f"node-{node}", ports.client, proxied=proxied, member=self._member(node)
        )
        self._brokers[node] = broker
        self.add_dependency(broker)
        await broker.maybe_start()

    def _member(self, node: int) -> Member | None:
        if self.count == 1:
            return None
        controllers = {each: ports.controller for each, ports in self._ports.items()}
        return Member(node_id=node, controller_ports=controllers, cluster_id=self._cluster_id())

    def _cluster_id(self) -> str:
        """The cluster's name, made up at its first start."""
        path = self.data_dir / "cluster-id"
        if not path.exists():
            path.write_text(new_cluster_id(), encoding="utf-8")
        return path.read_text(encoding="utf-8")


async def _lagging(admin: AIOKafkaAdminClient) -> list[str]:
    """The partitions without a leader or short of a replica; or what keeps from asking."""
    try:
        await admin.start()
        topics = await admin.describe_topics()
    except KafkaError as error:
        return [repr(error)]
    return [
        f"{topic['topic']}-{partition['partition']}"
        for topic in topics
        for partition in topic["partitions"]
        if partition["leader"] < 0 or sorted(partition["isr"]) != sorted(partition["replicas"])
    ]
