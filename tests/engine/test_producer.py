"""The producer on a real Kafka: what its requests make of transactions, offsets and of other producers."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.transaction import EndTxnRequest

from app.engine.errors import Fenced, InDoubt, Misconfigured, StaleGeneration
from app.engine.kafka import cluster as cluster_module
from app.engine.kafka import transaction, waits
from app.engine.kafka.admin import ensure_topics
from app.engine.kafka.cluster import TP, Cluster, Committed, Membership
from app.engine.kafka.protocol import EndTxn, Produce, TxnOffsetCommit
from app.engine.kafka.transaction import Outbox, Producer
from app.engine.kafka.waits import Wait
from app.engine.topics import TopicSpec

TOPIC = "of-the-producer"
PARTITIONS = 3
IN = TP(TOPIC, 0)
numbering = itertools.count(1)


@pytest.fixture(params=[1, 2], autouse=True)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The transaction version of every producer."""
    version: int = request.param
    monkeypatch.setattr(transaction, "TRANSACTION_VERSION_MAX", version)
    return version


@pytest.fixture
async def cluster(bootstrap: str) -> AsyncIterator[Cluster]:
    no_codec: Any = None
    spec = TopicSpec(TOPIC, no_codec)
    await ensure_topics(bootstrap, [spec], partitions=PARTITIONS, replication_factor=1, client_id="test")
    cluster = Cluster(bootstrap, "test")
    await cluster.start()
    await cluster.partition_count(TOPIC)
    yield cluster
    await cluster.stop()


@pytest.fixture
def group() -> str:
    return f"of-the-producer-{next(numbering)}"


def a_producer(cluster: Cluster, group: str, name: str = "one") -> Producer:
    return Producer(cluster, f"{group}-{name}", group, 10_000, f"{group}-{name}")


def an_outbox(*values: bytes, partition: int = 1) -> Outbox:
    outbox = Outbox(transactional=True)
    for value in values:
        outbox.append(TP(TOPIC, partition), b"key", value, [], 0)
    return outbox


async def open_transaction(producer: Producer, offset: int, *outboxes: Outbox) -> list[dict[TP, int]]:
    """Everything but the commit."""
    await producer.add({tp for each in outboxes for tp in each.partitions}, [IN])
    ends = await producer.send(outboxes)
    await producer.send_offsets({IN: Committed(offset, f"note {offset}")})
    return ends


async def values_from(cluster: Cluster, starts: dict[TP, int]) -> dict[TP, list[bytes | None]]:
    """What readers of committed records find from `starts` up to the last stable offset."""
    found: dict[TP, list[bytes | None]] = {tp: [] for tp in starts}
    ends = await cluster.offsets(starts, cluster_module.LATEST)
    for tp, start in starts.items():
        at = start
        while at < ends[tp]:
            for each in await cluster.fetch_from_one(
                {tp: at}, wait_ms=10, partition_bytes_max=1_000_000, lane="reader"
            ):
                found[tp] += [record.value for record in each.records]
                at = each.next_position
    return found


async def test_this_kafka_has_version_2(cluster: Cluster, group: str, version: int) -> None:
    producer = a_producer(cluster, group)
    await producer.begin()
    assert producer.version2 == (version == 2)


async def test_outboxes_of_several_tasks_are_one_transaction(cluster: Cluster, group: str) -> None:
    producer = a_producer(cluster, group)
    await producer.begin()
    outboxes = [an_outbox(b"1", b"2"), an_outbox(b"3"), an_outbox(b"4", partition=2)]
    starts = await cluster.offsets([TP(TOPIC, 1), TP(TOPIC, 2)], cluster_module.LATEST)
    first = await open_transaction(producer, 7, *outboxes)
    assert first == [
        {TP(TOPIC, 1): starts[TP(TOPIC, 1)] + 2},
        {TP(TOPIC, 1): starts[TP(TOPIC, 1)] + 3},
        {TP(TOPIC, 2): starts[TP(TOPIC, 2)] + 1},
    ]
    await producer.abort()
    again = await open_transaction(producer, 8, *outboxes)
    assert [max(ends.values()) for ends in again] > [max(ends.values()) for ends in first]
    await producer.commit()
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: Committed(8, "note 8")}
    assert await values_from(cluster, starts) == {TP(TOPIC, 1): [b"1", b"2", b"3"], TP(TOPIC, 2): [b"4"]}


async def test_a_producer_goes_on_from_commit_to_commit_and_abort(
    cluster: Cluster, group: str, version: int
) -> None:
    """An abort with nothing to abort included, and one right behind another."""
    producer = a_producer(cluster, group)
    await producer.begin()
    starts = await cluster.offsets([TP(TOPIC, 1)], cluster_module.LATEST)
    epochs = [(producer._producer_id, producer._epoch)]
    wanted: list[bytes] = []
    for number in range(24):
        value = b"%d" % number
        if number % 4 < 3:
            await open_transaction(producer, number, an_outbox(value))
        if number % 4 < 2:
            await producer.commit()
            wanted.append(value)
        else:
            await producer.abort()
        epochs.append((producer._producer_id, producer._epoch))
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == (25 if version == 2 else 13), "version 2 has an epoch a transaction"
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: Committed(21, "note 21")}
    assert await values_from(cluster, starts) == {TP(TOPIC, 1): wanted}


class Lossy:
    """Loses one request of a kind: before it has arrived, so that it may arrive later, or its answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: tuple[type, ...], *, arrives: bool) -> None:
        self._send = send = Cluster.send
        self._lost: list[tuple[Cluster, int, Any]] = []

        async def lossy(cluster: Cluster, node: int, request: Any, lane: object = "default") -> Any:
            if self._lost or not isinstance(request, kind):
                return await send(cluster, node, request, lane)
            self._lost.append((cluster, node, request))
            if arrives:
                await send(cluster, node, request, lane)
            raise KafkaConnectionError("lost by the test")

        monkeypatch.setattr(Cluster, "send", lossy)

    async def deliver(self) -> None:
        """Let what was lost arrive now."""
        await self._send(*self._lost[0], "late")


KINDS = {"records": (Produce,), "offsets": (TxnOffsetCommit,), "end": (EndTxnRequest, EndTxn)}


@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_that_comes_late_counts_for_no_other_transaction(
    cluster: Cluster, group: str, kind: str, is_real: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = a_producer(cluster, group)
    await producer.begin()
    starts = await cluster.offsets([TP(TOPIC, 1)], cluster_module.LATEST)
    lossy = Lossy(monkeypatch, KINDS[kind], arrives=False)
    await open_transaction(producer, 7, an_outbox(b"1"))
    await producer.commit()
    await open_transaction(producer, 8, an_outbox(b"2"))
    await lossy.deliver()
    await (producer.commit() if is_real else producer.abort())
    await open_transaction(producer, 9, an_outbox(b"3"))
    await lossy.deliver()
    await producer.abort()
    last = 8 if is_real else 7
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: Committed(last, f"note {last}")}
    assert await values_from(cluster, starts) == {TP(TOPIC, 1): [b"1", b"2"][: last - 6]}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_answer_makes_nothing_twice(
    cluster: Cluster, group: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = a_producer(cluster, group)
    await producer.begin()
    starts = await cluster.offsets([TP(TOPIC, 1)], cluster_module.LATEST)
    Lossy(monkeypatch, KINDS[kind], arrives=True)
    for number in (7, 8):
        await open_transaction(producer, number, an_outbox(b"%d" % number))
        await producer.commit()
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: Committed(8, "note 8")}
    assert await values_from(cluster, starts) == {TP(TOPIC, 1): [b"7", b"8"]}


async def test_a_transaction_that_took_too_long_is_not_committed(
    cluster: Cluster, group: str, version: int
) -> None:
    producer = Producer(cluster, f"{group}-slow", group, 1_000, f"{group}-slow")
    await producer.begin()
    starts = await cluster.offsets([TP(TOPIC, 1)], cluster_module.LATEST)
    await open_transaction(producer, 7, an_outbox(b"1"))
    assert await asyncio.wait_for(cluster.group_offsets(group, [IN], stable=True), 20) == {IN: None}
    with pytest.raises(InDoubt if version == 2 else Fenced):
        await producer.commit()
    await producer.begin()
    await open_transaction(producer, 8, an_outbox(b"2"))
    await producer.commit()
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: Committed(8, "note 8")}
    assert await values_from(cluster, starts) == {TP(TOPIC, 1): [b"2"]}


async def test_a_stable_offset_waits_for_the_transaction_that_may_change_it_and_says_so(
    cluster: Cluster, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "LASTS_S", 0.1)
    wait = Wait()
    producer = a_producer(cluster, group)
    await producer.begin()
    await open_transaction(producer, 7, an_outbox(b"1"))
    assert await cluster.group_offsets(group, [IN]) == {IN: None}
    asking = asyncio.create_task(cluster.group_offsets(group, [IN], stable=True, wait=wait))
    await asyncio.sleep(0.5)
    assert not asking.done()
    told = f"an open transaction may change {group}'s offset of {TOPIC}-0 (since "
    assert (wait.lasting or "").startswith(told)
    await producer.commit()
    assert await asyncio.wait_for(asking, 10) == {IN: Committed(7, "note 7")}


async def test_a_fence_ends_what_another_has_open(cluster: Cluster, group: str) -> None:
    starts = await cluster.offsets([TP(TOPIC, 1)], cluster_module.LATEST)
    old, new = a_producer(cluster, group, "old"), a_producer(cluster, group, "new")
    await old.begin()
    await new.begin()
    await open_transaction(old, 7, an_outbox(b"1"))
    assert old.transactional_id is not None
    await asyncio.gather(*(new.fence(old.transactional_id) for _ in range(3)))
    assert await asyncio.wait_for(cluster.group_offsets(group, [IN], stable=True), 5) == {IN: None}
    with pytest.raises(Fenced) as fenced:
        await old.commit()
    assert type(fenced.value) is Fenced
    await open_transaction(new, 9, an_outbox(b"2"))
    await new.commit()
    await new.fence("nobody-has-ever-had-this")
    await old.begin()
    await open_transaction(old, 10, an_outbox(b"3"))
    await old.commit()
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: Committed(10, "note 10")}
    assert await values_from(cluster, starts) == {TP(TOPIC, 1): [b"2", b"3"]}


async def test_nobody_commits_as_a_member_that_the_group_does_not_know(cluster: Cluster, group: str) -> None:
    producer, stranger = a_producer(cluster, group), Membership(3, "stranger")
    await producer.begin()
    await producer.add([], [IN])
    for commit in (producer.send_offsets, producer.commit_offsets):
        with pytest.raises(StaleGeneration):
            await commit({IN: Committed(7, "")}, stranger)
    await producer.abort()
    assert await cluster.group_offsets(group, [IN], stable=True) == {IN: None}


async def test_this_kafka_is_new_enough(cluster: Cluster) -> None:
    await cluster.require_versions()


async def test_a_kafka_that_is_too_old_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"Produce": (0, 3), "TxnOffsetCommit": (28, 99), "Telepathy": (9_999, 1)}
    monkeypatch.setattr(cluster_module, "NEEDED", needed)
    with pytest.raises(Misconfigured) as refused:
        await cluster.require_versions()
    text = str(refused.value)
    assert "broker 1 knows TxnOffsetCommit up to version 5, 99 is needed" in text
    assert "broker 1 knows Telepathy up to version none, 1 is needed" in text
    assert "Produce" not in text
    assert text.endswith("Upgrade its brokers to 2.7 or newer")
    assert "\n" not in text
