"""A dead member is put out of its group at once, and nobody else with it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

from app.engine.kafka.cluster import Cluster
from app.membership import STABLE, Groups, keep_addresses, url_in

SESSION_S = 60


@pytest.fixture
async def cluster(bootstrap: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(bootstrap, "test")
    await cluster.start()
    yield cluster
    await cluster.stop()


async def member(bootstrap: str, group: str, client_id: str) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        group,
        bootstrap_servers=bootstrap,
        group_id=group,
        client_id=client_id,
        session_timeout_ms=SESSION_S * 1000,
        heartbeat_interval_ms=100,
    )
    await consumer.start()
    return consumer


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, num_partitions=4, replication_factor=1)])
    await admin.close()


async def test_the_partitions_of_a_removed_member_move_long_before_its_session_ends(
    bootstrap: str, cluster: Cluster
) -> None:
    group = "removed-member"
    await make_topic(bootstrap, group)
    dead = await member(bootstrap, group, "worker-1.here.aaaa")
    living = await member(bootstrap, group, "worker-2.here.bbbb")
    groups = Groups(cluster)
    await asyncio.wait_for(groups.until_stable(group, 2), 20)
    dead._coordinator._closing.set_result(None)  # it sends no more heartbeats, as if it were dead
    started = time.monotonic()

    await groups.remove(group, lambda client_id: client_id.startswith("worker-1.here."))
    while len(living.assignment()) < 4 and time.monotonic() - started < 20:  # noqa: ASYNC110 - its own loop
        await asyncio.sleep(0.01)

    assert len(living.assignment()) == 4
    assert time.monotonic() - started < SESSION_S / 2
    found = await groups.describe(group)
    assert (found.state, list(found.members.values())) == (STABLE, ["worker-2.here.bbbb"])
    await living.stop()
    await dead._client.close()


def metadata(user_data: bytes) -> bytes:
    return bytes(ConsumerProtocolMemberMetadata(0, ["orders"], user_data).encode())


@pytest.mark.parametrize(
    ("told", "url"),
    [
        (metadata(b'{"url": "http://127.0.0.1:6102/", "assignment": {}}'), "http://127.0.0.1:6102"),
        (metadata(b'{"url": 7}'), None),
        (metadata(b"{}"), None),
        (metadata(b"\xff\x00"), None),
        (metadata(b""), None),
        (b"", None),
        (b"\x00\x01\x00", None),
    ],
)
def test_the_address_of_a_member_is_what_it_has_told_its_group(told: bytes, url: str | None) -> None:
    assert url_in(told) == url


async def test_a_service_without_workers_has_no_address(cluster: Cluster) -> None:
    addresses = {"never-heard-of": "http://somewhere:1"}
    keeping = asyncio.create_task(keep_addresses(Groups(cluster), addresses))
    while addresses["never-heard-of"]:  # noqa: ASYNC110 - another task
        await asyncio.sleep(0.01)
    keeping.cancel()
    assert addresses == {"never-heard-of": ""}


async def test_a_group_that_nobody_knows_has_no_members(cluster: Cluster) -> None:
    groups = Groups(cluster)

    await groups.remove("never-heard-of", lambda client_id: True)

    assert (await groups.describe("never-heard-of")).members == {}
