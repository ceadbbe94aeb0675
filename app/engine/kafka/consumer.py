"""Group membership through Faust: who owns which partitions. Reading is the tasks' own business."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import aiokafka
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.consumer import group_coordinator
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.structs import TopicPartition
from faust.transport.base import Transport as BaseTransport
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.drivers.aiokafka import Producer as AiokafkaProducer
from faust.types import TP, ConsumerMessage
from mode import Service

from app.engine.errors import Misconfigured
from app.engine.kafka.cluster import Membership, retry

log = logging.getLogger(__name__)


class _JoinGroup(JoinGroupRequest):  # type: ignore[misc]
    """Joins under several names of one assignor, with the same metadata: its name has commas between them.

    aiokafka would take them for several assignors, and joins once for each.
    """

    def __init__(self, *fields: Any) -> None:
        *others, protocols = fields
        named = [(name, metadata) for names, metadata in protocols for name in names.split(",")]
        super().__init__(*others, named)


group_coordinator.JoinGroupRequest = _JoinGroup

NEVER_MS = 2**31 - 1
ERRORS_POLL_S = 0.2


def _stranger(group: str) -> Misconfigured:
    """Its members commit in a way that this release does not know, or that it must not mix with its own."""
    return Misconfigured(
        f"group {group} has members of another release, or of another program, that work in another way: "
        "stop them, or see the way back in docs/evolution.md"
    )


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes aiokafka's rebalance calls on to Faust's consumer."""

    def __init__(self, consumer: "Consumer") -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._consumer.app.on_rebalance_start()
        await self._consumer.on_partitions_revoked({TP(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._consumer.group_member.pause(*assigned)
        await self._consumer.on_partitions_assigned({TP(*tp) for tp in assigned})
        self._consumer.app.on_rebalance_end()


class Consumer(BaseConsumer):
    """Faust's consumer, on the worker's own event loop, with every partition paused.

    It joins the group with Faust's assignor and heartbeats; the tasks fetch by themselves, so nothing that
    was fetched for one assignment can reach another.
    """

    app: Any
    consumer_stopped_errors = (aiokafka.errors.ConsumerStoppedError,)
    _member: aiokafka.AIOKafkaConsumer | None = None

    @property
    def group_member(self) -> aiokafka.AIOKafkaConsumer:
        assert self._member is not None, "the consumer is not started"
        return self._member

    async def on_start(self) -> None:
        conf = self.app.conf
        settings = self.app.settings
        self._member = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap,
            client_id=conf.broker_client_id,
            group_id=conf.id,
            partition_assignment_strategy=[self.app.assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(settings.session_timeout_s * 1000),
            max_poll_interval_ms=NEVER_MS,
            retry_backoff_ms=50,
        )
        await retry(self._member.start)
        cast(Any, self._member)._coordinator._lookup_assignor = self._chosen

    def _chosen(self, name: str) -> Any:
        """The group works under one of the names of our assignor."""
        self.app.assignor.chosen = name
        return self.app.assignor

    async def on_stop(self) -> None:
        if self._member is not None:
            await self._member.stop()

    async def subscribe(self, topics: Iterable[str]) -> None:
        self.group_member.subscribe(sorted(topics), listener=Listener(self))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Tasks go on until the new assignment is known: whoever takes one over fences it."""
        self.app.tables.on_partitions_revoked(revoked)

    @Service.task
    async def _go_on_after_errors(self) -> None:
        """aiokafka waits with a failed rebalance until somebody who polls has seen why: nobody polls here.

        A broker that is starting answers one with GroupLoadInProgress, for example.
        """
        while not self.should_stop:
            await self.sleep(ERRORS_POLL_S)
            coordinator = cast(Any, self._member)._coordinator
            try:
                coordinator.check_errors()
            except aiokafka.errors.InconsistentGroupProtocolError:
                await self.app.crash(_stranger(self.app.conf.id))
                return
            except aiokafka.errors.KafkaError as error:
                if coordinator._coordination_task.done():
                    await self.app.crash(error)
                    return
                log.warning("the group goes on after %r", error)

    def membership(self) -> Membership:
        """The generation and member id that an offset commit must name; -1 while we are no member."""
        coordinator = cast(Any, self.group_member)._coordinator
        return Membership(coordinator.generation, coordinator.member_id)

    def rejoin(self) -> None:
        """Ask the group for a new assignment, because ours is in doubt."""
        cast(Any, self.group_member)._coordinator.request_rejoin()

    def assignment(self) -> set[TP]:
        return {TP(*tp) for tp in self._member.assignment()} if self._member is not None else set()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """They are paused from their assignment on."""

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """They stay paused here: the tasks read."""

    def _set_active_tps(self, tps: set[TP]) -> set[TP]:
        return set(tps)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Offsets are committed by the tasks, with their output."""
        return False

    async def verify_all_partitions_active(self) -> None:
        """Faust's livelock check watches a path that is not used here."""

    # What the base class asks for and this consumer does not do.

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise NotImplementedError

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        raise NotImplementedError

    async def seek_to_committed(self) -> Mapping[TP, int]:
        raise NotImplementedError

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        raise NotImplementedError

    async def position(self, tp: TP) -> int | None:
        raise NotImplementedError

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        raise NotImplementedError

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        raise NotImplementedError

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        raise NotImplementedError

    def highwater(self, tp: TP) -> int:
        raise NotImplementedError

    def topic_partitions(self, topic: str) -> int | None:
        found = self.group_member.partitions_for_topic(topic)
        return len(found) if found else None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        raise NotImplementedError

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        raise NotImplementedError


class Transport(BaseTransport):
    """Faust's transport with this consumer."""

    Consumer = Consumer
    Producer = AiokafkaProducer
    default_port = 9092
    driver_version = f"aiokafka={aiokafka.__version__}"
