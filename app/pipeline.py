"""The whole pipeline as one service: lock, Kafka, topics, venue, workers; stopped in the opposite order."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from mode import Service

from app.broker import Broker
from app.config import EMBEDDED_BOOTSTRAP, settings
from app.engine.admin import ensure_topics
from app.engine.cluster import Cluster
from app.engine.errors import EngineError
from app.errors import UserError
from app.lock import DirectoryLock
from app.membership import Groups
from app.options import SERVICES, Plan
from app.processes import Venue, Worker, free_port
from app.supervisor import Restarts, Supervisor
from app.topics import ORDERS, TOPICS

T = TypeVar("T")

RECORD_NAME: Final = "processes.json"
TAKE_OVER_S: Final = 1.0
CRASHED_GRACE_S: Final = 2.0
"""When Kafka is gone nobody can finish what is in hand: there is little to wait for."""


class Pipeline(Service):
    """Start it, then `bring_up` what the plan says; stopping it stops everything, in order.

    `tell` gets a line for people at each step. A process that gives up crashes this service: await all work
    through `or_crash`.
    """

    def __init__(self, plan: Plan, tell: Callable[[str], None] = print, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.bootstrap = settings().bootstrap
        self.replication_factor = settings().replication_factor
        self.broker: Broker | None = None
        self.cluster: Cluster | None = None
        self.venue: Venue | None = None
        self.workers: list[Worker] = []
        self.shared: dict[str, str] = {}
        """What every process has to know, as environment variables."""
        self.processes = Supervisor(plan.data_dir / RECORD_NAME)
        self._lock = DirectoryLock(plan.data_dir)
        self.tell = tell

    async def __aenter__(self) -> "Pipeline":
        await self.start()
        return self

    async def on_start(self) -> None:
        await asyncio.to_thread(self._lock.acquire)
        self.add_dependency(self.processes)

    async def on_stop(self) -> None:
        if self.processes.children:
            self.tell("stopping")
        if self.crashed:
            self.processes.hurry(CRASHED_GRACE_S)
        await self.processes.stop()
        if self.cluster is not None:
            await self.cluster.stop()
        if self.broker is not None:
            await self.broker.stop()
        self._lock.release()

    async def or_crash(self, work: Awaitable[T]) -> T:
        """Await `work`; raises what crashed this service, should that happen first."""
        working = asyncio.ensure_future(work)
        crashed = asyncio.ensure_future(self._crashed.wait())
        try:
            await asyncio.wait({working, crashed}, return_when=asyncio.FIRST_COMPLETED)
            if self.crash_reason is not None:
                raise self.crash_reason
            return working.result()
        finally:
            working.cancel()
            crashed.cancel()
            await asyncio.gather(working, crashed, return_exceptions=True)

    async def bring_up(self) -> None:
        """Start everything but the feed; returns when every worker has its partitions."""
        started_at = time.monotonic()
        if self.plan.embedded and settings().kafka_bootstrap is None:
            await self.start_kafka()
        self.cluster = Cluster(self.bootstrap, "supervisor")
        await self._reach_kafka(self.cluster)
        if self.plan.embedded:
            await self.prepare_topics(self.cluster)
            await self._start_venue()
        await self._start_workers(self.cluster)
        self.tell(f"{len(self.workers)} workers ready after {time.monotonic() - started_at:.1f} s")
        firsts = {each.service: each.url for each in reversed(self.workers)}
        self.tell("tables: " + "  ".join(f"{service} {firsts[service]}" for service in SERVICES))

    async def start_kafka(self) -> None:
        """Start what the plan says is ours to start, and note its address."""
        usual = int(EMBEDDED_BOOTSTRAP.rpartition(":")[2])
        port = free_port(usual) if self.plan.port is None else self.plan.port
        self.broker = Broker(self.plan.data_dir / "kafka", port)
        self.add_dependency(self.broker)
        await self.broker.maybe_start()
        await self.broker.ready()
        self.bootstrap = self.broker.bootstrap
        self.tell(f"Kafka listens on {self.bootstrap}, data in {self.plan.data_dir}")

    async def _reach_kafka(self, cluster: Cluster) -> None:
        starting = asyncio.ensure_future(cluster.start())
        try:
            while not (await asyncio.wait([starting], timeout=5.0))[0]:
                self.tell(f"waiting for Kafka on {self.bootstrap}")
            starting.result()
        finally:
            starting.cancel()

    async def prepare_topics(self, cluster: Cluster) -> None:
        wanted = self.plan.partitions
        try:
            await ensure_topics(
                self.bootstrap,
                TOPICS,
                partitions=wanted or settings().partitions,
                replication_factor=self.replication_factor,
                client_id="supervisor",
                inputs=[topic.name for topic in TOPICS if topic.key_of is not None],
                stateful=True,
                adopt=wanted is None,
            )
        except EngineError as error:
            raise UserError(str(error)) from error
        partitions = await cluster.partition_count(ORDERS.name)
        if wanted not in (None, partitions):
            raise UserError(
                f"the topics on {self.bootstrap} have {partitions} partitions already, not {wanted}: leave "
                "--partitions out, or choose another --data-dir"
            )
        self.shared |= {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "PIPELINE_PARTITIONS": str(partitions),
            "PIPELINE_REPLICATION_FACTOR": str(self.replication_factor),
        }

    async def _start_venue(self) -> None:
        self.venue = self.make_venue()
        self.shared |= {"VENUE_URL": self.venue.url, "VENUE_TOKEN": self.venue.token}
        await self.processes.add(self.venue)

    def make_venue(self) -> Venue:
        return Venue(self.plan.data_dir)

    async def _start_workers(self, cluster: Cluster) -> None:
        groups = Groups(cluster)
        counts = {service: self.plan.workers.get(service, 1) for service in SERVICES}
        self.workers = [
            self.worker(groups, service, number, has_peers=count > 1)
            for service, count in counts.items()
            for number in range(1, count + 1)
        ]
        await self.processes.add(*self.workers)
        for worker in self.workers:
            worker.add_future(worker.remove_former_members())
        await asyncio.gather(*(groups.until_stable(*each) for each in counts.items()))

    def worker(self, groups: Groups, service: str, number: int, *, has_peers: bool) -> Worker:
        """Make one. With peers, a dead one's successor leaves them the processor until they took over."""
        restarts = Restarts(pause_s_min=TAKE_OVER_S if has_peers else 0.05)
        return Worker(service, number, self.plan.data_dir, groups, self.shared, restarts=restarts)
