"""The whole pipeline as one service: lock, Kafka, topics, venue, workers; stopped in the opposite order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from mode import Service

from app.allowed import PARTITIONS_ALLOWED, partition_count
from app.config import settings
from app.devkafka.artifacts import java_executable
from app.devkafka.node import HOST
from app.devkafka.server import KeptKafka
from app.engine.errors import EngineError
from app.engine.kafka.admin import ensure_topics
from app.engine.kafka.cluster import LATEST, TP, Cluster
from app.errors import UserError
from app.membership import Groups
from app.processes.lock import DirectoryLock
from app.processes.preflight import needs, prepare
from app.processes.supervisor import Restarts, Supervisor
from app.run.members import Venue, Worker
from app.run.plan import Plan
from app.run.readiness import Readiness
from app.topics import ORDERS, TOPICS
from app.topology import REFDATA, SERVICES

T = TypeVar("T")


RECORD_NAME: Final = "processes.json"
TAKE_OVER_S: Final = 1.0
COMMANDS_POLL_S: Final = 0.2
CRASHED_GRACE_S: Final = 2.0
"""What cannot go on has little to finish, and it can't be told that the rest is able to."""


class Remains(NamedTuple):
    """What can be judged of a pipeline: its log, the venue's ledger, and the workers' pages by service."""

    bootstrap: str
    ledger: Path
    workers: Mapping[str, Sequence[str]]
    partitions: int


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
        self.kafka_server: KeptKafka | None = None
        self.cluster: Cluster | None = None
        self.venue: Venue | None = None
        self.workers: list[Worker] = []
        self.readiness = Readiness(self.workers, tell)
        self.ready_s_max: float | None = None
        """How long the workers may take to be ready; None: as long as it takes, they say why."""
        self.shared: dict[str, str] = {}
        """What every process has to know, as environment variables."""
        self.processes = Supervisor(plan.data_dir / RECORD_NAME)
        self.processes.others = self._other_processes
        self._lock = DirectoryLock(plan.data_dir)
        self.tell = tell

    async def __aenter__(self) -> "Pipeline":
        await self.start()
        return self

    async def on_start(self) -> None:
        await asyncio.to_thread(self._lock.acquire)
        try:
            await asyncio.to_thread(self._require_machine)
        except BaseException:
            self._lock.release()
            raise
        self.add_dependency(self.processes)

    def _require_machine(self) -> None:
        """Raises UserError for what this machine lacks, before anything is started."""
        plan, chosen = self.plan, settings()
        workers = sum(plan.workers.get(service, 1) for service in SERVICES)
        kafka = plan.embedded and chosen.kafka_bootstrap is None
        partitions = plan.partitions or chosen.partitions
        wanted = needs(partitions, workers, kafka=kafka, reserve_bytes=chosen.disk_free_bytes_min)
        hosts = [HOST, chosen.web_host] if plan.embedded else [chosen.web_host]
        prepare(wanted, plan.data_dir, hosts, java_executable if kafka else None)

    def _other_processes(self) -> dict[str, int]:
        pid = None if self.kafka_server is None else self.kafka_server.pid
        return {} if pid is None else {"kafka": pid}

    async def on_stop(self) -> None:
        if self.processes.children:
            self.tell("stopping")
        if self.crashed:
            self.processes.hurry(CRASHED_GRACE_S)
        await self.readiness.stop()
        await self.processes.stop()
        if self.cluster is not None:
            await self.cluster.stop()
        if self.kafka_server is not None:
            await self.kafka_server.stop()
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
        """Start everything but the feed; returns when every worker is ready."""
        started_at = time.monotonic()
        if self.plan.embedded and settings().kafka_bootstrap is None:
            await self.start_kafka()
        self.cluster = Cluster(self.bootstrap, "supervisor")
        await self._reach_kafka(self.cluster)
        if self.plan.embedded:
            await self._ensure_topics(change=False)
            await self._start_venue()  # which may change a ledger of the release before, or refuse it
            await self.prepare_topics(self.cluster)
        self._lock.shut_out_release_before()
        await self._start_workers(self.cluster)
        self.tell(f"{len(self.workers)} workers ready after {time.monotonic() - started_at:.1f} s")
        firsts = {each.service: each.url for each in reversed(self.workers)}
        self.tell("tables: " + "  ".join(f"{service} {firsts[service]}" for service in SERVICES))

    async def start_kafka(self) -> None:
        """Start what the plan says is ours to start, and note its address."""
        self.kafka_server = KeptKafka(self.plan.data_dir / "kafka", self.plan.port, tell=self.tell)
        self.kafka_server.on_change = self.processes.write_record
        self.add_dependency(self.kafka_server)
        await self.kafka_server.maybe_start()
        await self.kafka_server.ready()
        self.bootstrap = self.kafka_server.bootstrap
        self.tell(f"Kafka listens on {self.bootstrap}, data in {self.plan.data_dir}")

    async def _reach_kafka(self, cluster: Cluster) -> None:
        starting = asyncio.ensure_future(cluster.start())
        try:
            while not (await asyncio.wait([starting], timeout=5.0))[0]:
                self.tell(f"waiting for Kafka on {self.bootstrap}")
            starting.result()
        finally:
            starting.cancel()

    async def _ensure_topics(self, *, change: bool) -> None:
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
                change=change,
            )
        except EngineError as error:
            raise UserError(str(error)) from error

    async def prepare_topics(self, cluster: Cluster) -> None:
        wanted = self.plan.partitions
        await self._ensure_topics(change=True)
        partitions = await cluster.partition_count(ORDERS.name)
        if wanted not in (None, partitions):
            raise UserError(
                f"the topics on {self.bootstrap} have {partitions} partitions already, not {wanted}: leave "
                "--partitions out, or choose another --data-dir"
            )
        try:
            partition_count(str(partitions))
        except ValueError:
            raise UserError(
                f"the topics on {self.bootstrap} have {partitions} partitions; allowed is "
                f"{PARTITIONS_ALLOWED}: choose another --data-dir, or another Kafka"
            ) from None
        self.shared |= {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "PIPELINE_PARTITIONS": str(partitions),
            "PIPELINE_REPLICATION_FACTOR": str(self.replication_factor),
        }

    async def _start_venue(self) -> None:
        self.venue = self.make_venue()
        self.shared |= {"VENUE_URL": self.venue.url, "VENUE_TOKEN": self.venue.token}
        await self.processes.add(self.venue)
        await self.venue.until_up()

    def remains(self) -> Remains:
        """What there is to judge, once everything is up."""
        assert self.venue is not None
        workers = {
            service: [worker.url for worker in self.workers if worker.service == service]
            for service in SERVICES
        }
        return Remains(self.bootstrap, self.venue.ledger, workers, int(self.shared["PIPELINE_PARTITIONS"]))

    def make_venue(self) -> Venue:
        return Venue(self.plan.data_dir)

    async def _start_workers(self, cluster: Cluster) -> None:
        groups = Groups(cluster)
        counts = {service: self.plan.workers.get(service, 1) for service in SERVICES}
        made = [
            self.worker(groups, service, number, has_peers=count > 1)
            for service, count in counts.items()
            for number in range(1, count + 1)
        ]
        self.add_dependency(self.readiness)
        await self.readiness.maybe_start()
        if await has_unread_commands(cluster):
            self.tell("there are commands that refdata has not read: it begins, the others wait for it")
            await self._add([worker for worker in made if worker.service == REFDATA.name])
            while await has_unread_commands(cluster):  # noqa: ASYNC110 - another process reads
                await asyncio.sleep(COMMANDS_POLL_S)
        await self._add([worker for worker in made if worker not in self.workers])
        await asyncio.gather(*(groups.until_stable(*each) for each in counts.items()))
        await self.readiness.until_ready(self.ready_s_max)

    async def _add(self, workers: Sequence[Worker]) -> None:
        self.workers += workers
        await self.processes.add(*workers)
        for worker in workers:
            worker.add_future(worker.remove_former_members())

    def worker(self, groups: Groups, service: str, number: int, *, has_peers: bool) -> Worker:
        """Make one. With peers, a dead one's successor leaves them the processor until they took over."""
        restarts = Restarts(pause_s_min=TAKE_OVER_S if has_peers else 0.05)
        return Worker(service, number, self.plan.data_dir, groups, self.shared, restarts=restarts)


async def has_unread_commands(cluster: Cluster) -> bool:
    """Whether the others would judge without what operators have commanded: refdata has not read it.

    So it is behind the release before, which knew no refdata, and after a command that was given meanwhile.
    """
    topics = [topic for topic in REFDATA.inputs if await cluster.exists(topic)]
    counts = {topic: await cluster.partition_count(topic) for topic in topics}
    tps = [TP(topic, number) for topic, count in counts.items() for number in range(count)]
    ends = await cluster.offsets(tps, LATEST)
    read = await cluster.committed(REFDATA.name, tps)
    return any(end > (read[tp] or 0) for tp, end in ends.items())
