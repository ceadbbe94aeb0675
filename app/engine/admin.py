"""Create the topics that are missing. Those that exist are taken as they are, whatever their config."""

import logging
from collections.abc import Iterable
from functools import partial

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError

from app.engine.cluster import RETRIABLE, retry
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)


COPIES_IN_SYNC = 2
"""How many copies have to have a record before it counts, where there are more; Kafka is content with one."""


async def ensure_topics(
    bootstrap: str, topics: Iterable[TopicSpec], *, partitions: int, replication_factor: int, client_id: str
) -> None:
    """Create what is missing, however long Kafka is away; `partitions` is for topics that do not say."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id=client_id)
    await retry(admin.start)
    try:
        existing = set(await retry(admin.list_topics))
        missing = [
            NewTopic(
                name=topic.name,
                num_partitions=topic.partitions or partitions,
                replication_factor=replication_factor,
                topic_configs=_config(topic, replication_factor),
            )
            for topic in topics
            if topic.name not in existing
        ]
        for topic in missing:
            await retry(partial(_create, admin, topic))
    finally:
        await admin.close()


def _config(topic: TopicSpec, replication_factor: int) -> dict[str, str]:
    durable = {"min.insync.replicas": str(COPIES_IN_SYNC)} if replication_factor > COPIES_IN_SYNC else {}
    return {**durable, **topic.config}


async def _create(admin: AIOKafkaAdminClient, topic: NewTopic) -> None:
    response = await admin.create_topics([topic])
    for name, code, *rest in response.topic_errors:
        if (error := errors.for_code(code)) in RETRIABLE:
            raise error()
        if code not in (0, TopicAlreadyExistsError.errno):
            raise RuntimeError(f"topic {name} cannot be created: {rest[0] if rest else code}")
    log.info("created topic %s, %s partitions", topic.name, topic.num_partitions)
