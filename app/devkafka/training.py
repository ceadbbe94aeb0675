"""What Kafka's training run is made to do, so that its start-up cache knows which methods will be used most.

Small transactions, as the services make them, and somebody who reads them as a member of a group. Java notes
how often each method was called, and compiles those at once when it starts from the cache (JEP 515).
"""

import asyncio
import time
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

TOPIC: Final = "training"
PARTITIONS: Final = 8
RECORD: Final = b"x" * 300
READ_MS: Final = 200
TRANSACTION_MS: Final = 10_000


async def exercise(bootstrap: str, seconds: float) -> None:
    """Keep a Kafka that is up busy; raises KafkaError or OSError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    finally:
        await admin.close()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        group.create_task(_read(bootstrap, until))
        for number in range(PARTITIONS):
            group.create_task(_transact(bootstrap, number, until))


async def _transact(bootstrap: str, number: int, until: float) -> None:
    headers = [("event-type", b"Training"), ("event-id", b"1")]
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=f"{TOPIC}-{number}",
        transaction_timeout_ms=TRANSACTION_MS,
        client_id=f"{TOPIC}-{number}",
    ) as producer:
        count = 0
        while time.monotonic() < until:
            async with producer.transaction():
                for partition in (number, (number + 1) % PARTITIONS):
                    await producer.send(TOPIC, RECORD, b"key", partition=partition, headers=headers)
                await producer.send_offsets_to_transaction({TopicPartition(TOPIC, number): count}, TOPIC)
            count += 1


async def _read(bootstrap: str, until: float) -> None:
    async with AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=bootstrap,
        group_id=f"{TOPIC}-reader",
        isolation_level="read_committed",
        enable_auto_commit=False,
    ) as consumer:
        while time.monotonic() < until:
            await consumer.getmany(timeout_ms=READ_MS)
