"""The pipeline's topics on a broker that many tests share."""

import asyncio
import re

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from app.engine.kafka.cluster import TP, Cluster
from app.engine.kafka.protocol import Produce
from app.engine.topics import TopicSpec
from app.topics import TOPICS
from app.topology import SERVICES
from models.values import Frozen
from tests.engine.recordsets import batch, seal

OURS = re.compile("|".join(f"{topic.name}$" for topic in TOPICS) + f"|({'|'.join(SERVICES)})-.*-changelog$")


async def remove_topics(bootstrap: str) -> None:
    """Other tests may have left them with other partition counts, and offsets that no log has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        while left := [name for name in await admin.list_topics() if OURS.match(name)]:
            await admin.delete_topics(left)
            await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def put(bootstrap: str, spec: TopicSpec, *values: Frozen) -> None:
    """Write values to their topic, as the services and their clients do."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value in values:
            name, version, data = spec.codec.encode(value)
            headers = [("event-type", name), ("schema-version", version)]
            assert spec.key_of is not None
            await producer.send_and_wait(spec.name, data, spec.key_of(value), headers=headers)


async def write_odd_header(bootstrap: str, topic: str, key: bytes, value: bytes) -> None:
    """Write a record to partition 0 with a header whose name is no text, as no client of ours would."""
    data = bytearray(batch(0, [(0, key, value)], headers=[("name", b"1")]))
    data[data.find(b"name")] = 0xFF
    cluster = Cluster(bootstrap, "test")
    await cluster.start()
    try:
        await cluster.partition_count(topic)
        request = Produce(None, 10_000, [(topic, [(0, seal(data))])])
        code = -1
        while code:  # a new topic takes a moment
            await cluster.refresh()
            leader = cluster.leader(TP(topic, 0))
            if leader is not None:
                ((_, ((_, code, *_),)),) = (await cluster.send(leader, request)).topics
    finally:
        await cluster.stop()
