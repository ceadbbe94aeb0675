"""What a worker asks of several nodes, of which some come and go."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.metadata import MetadataRequest

from app.engine.kafka import cluster as cluster_module
from app.engine.kafka.admin import ensure_topics
from app.engine.kafka.cluster import Cluster
from app.engine.topics import TopicSpec
from app.topics import TOPICS


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
    describe_topics, create_topics = AIOKafkaAdminClient.describe_topics, AIOKafkaAdminClient.create_topics

    async def describe_later(client: AIOKafkaAdminClient) -> Any:
        if failures:
            raise failures.pop()
        return await describe_topics(client)

    async def create_unheard(client: AIOKafkaAdminClient, topics: Any, *, validate_only: bool = False) -> Any:
        answer = await create_topics(client, topics, validate_only=validate_only)
        if not validate_only and topics[0].name not in created:
            created.append(topics[0].name)
            answer.topic_errors = [(topics[0].name, RequestTimedOutError.errno, "too late")]
        return answer

    created: list[str] = []
    monkeypatch.setattr(AIOKafkaAdminClient, "describe_topics", describe_later)
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


async def configs_of_new_topics(
    monkeypatch: pytest.MonkeyPatch, copies: int, *more: TopicSpec
) -> dict[str, Any]:
    """The configs that the pipeline's topics, and `more`, are created with."""
    configs: dict[str, Any] = {}

    async def nothing(_: AIOKafkaAdminClient) -> list[str]:
        return []

    async def create(_: AIOKafkaAdminClient, topics: Any, *, validate_only: bool = False) -> Any:
        configs.update({each.name: each.topic_configs for each in topics})
        return SimpleNamespace(topic_errors=[])

    for name, method in (("start", nothing), ("close", nothing), ("describe_topics", nothing)):
        monkeypatch.setattr(AIOKafkaAdminClient, name, method)
    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", create)
    await ensure_topics(
        "nobody:1", [*TOPICS, *more], partitions=1, replication_factor=copies, client_id="test"
    )
    return configs


@pytest.mark.parametrize(("copies", "in_sync"), [(1, None), (2, None), (3, "2"), (5, "2")])
async def test_with_three_copies_no_leader_acknowledges_alone(
    monkeypatch: pytest.MonkeyPatch, copies: int, in_sync: str | None
) -> None:
    no_codec: Any = None
    careful = TopicSpec("careful", no_codec, config={"min.insync.replicas": "3"})
    configs = await configs_of_new_topics(monkeypatch, copies, careful)
    assert configs.pop("careful")["min.insync.replicas"] == "3"
    assert {each.get("min.insync.replicas") for each in configs.values()} == {in_sync}
    assert configs["prices"]["cleanup.policy"] == "compact"


async def test_dead_letters_keep_on_a_cluster_that_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = (await configs_of_new_topics(monkeypatch, 1))["dead-letters"]
    assert (config["retention.ms"], config["retention.bytes"]) == ("-1", "-1")


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


class Silent:
    """A client whose requests wait until a test answers them, or fail at once."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []
        self.away = False

    async def send(self, node: int, request: Any, group: object) -> Any:
        if self.away:
            raise NodeNotReadyError()
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


async def test_kafka_is_silent_from_the_first_question_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(cluster_module, "time", SimpleNamespace(monotonic=lambda: now))
    found, client = Cluster("nobody:1", "test"), Silent()
    found._client = client
    assert found.silent_s == 0
    asking = [asyncio.create_task(found.send(1, None)) for _ in range(2)]
    await asyncio.sleep(0)
    now += 7
    assert found.silent_s == 7
    client.answers[0].set_result("answer")
    await asking[0]
    assert found.silent_s == 0
    asking[1].cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    client.away = True
    for _ in range(5):
        with pytest.raises(NodeNotReadyError):
            await found.send(1, None)
        now += 1
    assert found.silent_s == 5
    now += 60
    assert found.silent_s == 0, "nobody asks any more"
