"""What a worker asks of several nodes, of which some come and go."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.metadata import MetadataRequest

from app.engine.admin import ensure_topics
from app.engine.cluster import Cluster
from app.engine.topics import TopicSpec


class Nodes:
    """A client of three nodes: node 2 is said to coordinate, until it is asked for the address."""

    def __init__(self) -> None:
        self.alive = {1, 3}
        self.told = [2, 2, 3]
        self.cluster = SimpleNamespace(broker_metadata=lambda node: node if node in self.alive else None)

    async def coordinator_lookup(self, kind: int, key: str) -> int:
        return self.told.pop(0)

    async def force_metadata_update(self) -> bool:
        return True


async def test_a_coordinator_that_has_died_since_it_was_named_is_asked_for_anew() -> None:
    nodes = Nodes()
    found = Cluster("nobody:1", "test")
    found._client = nodes
    assert await asyncio.wait_for(found.coordinator(1, "sum-0"), 10) == 3
    assert nodes.told == []
    assert await found.coordinator(1, "sum-0") == 3


async def test_topics_are_created_though_nodes_come_and_go_meanwhile(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Any] = [NodeNotReadyError(), KafkaConnectionError()]
    list_topics, create_topics = AIOKafkaAdminClient.list_topics, AIOKafkaAdminClient.create_topics

    async def list_later(client: AIOKafkaAdminClient) -> Any:
        if failures:
            raise failures.pop()
        return await list_topics(client)

    async def create_unheard(client: AIOKafkaAdminClient, topics: Any) -> Any:
        answer = await create_topics(client, topics)
        if topics[0].name not in created:
            created.append(topics[0].name)
            answer.topic_errors = [(topics[0].name, RequestTimedOutError.errno, "too late")]
        return answer

    created: list[str] = []
    monkeypatch.setattr(AIOKafkaAdminClient, "list_topics", list_later)
    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", create_unheard)
    no_codec: Any = None
    wanted = [TopicSpec(f"comes-and-goes-{each}", no_codec) for each in range(2)]
    await ensure_topics(bootstrap, wanted, partitions=3, replication_factor=1, client_id="test")
    assert created == [each.name for each in wanted]
    assert not failures
    reader = Cluster(bootstrap, "test")
    await reader.start()
    try:
        assert [await reader.partition_count(each.name) for each in wanted] == [3, 3]
    finally:
        await reader.stop()


async def test_a_connection_that_uvloop_has_just_closed_is_a_lost_one(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(data: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    host, _, port = bootstrap.partition(":")
    connection: Any = await create_conn(host, int(port))
    monkeypatch.setattr(connection._writer, "write", write)
    with pytest.raises(KafkaConnectionError, match="has just closed"):
        await connection.send(MetadataRequest([]))
    assert not connection.connected()
