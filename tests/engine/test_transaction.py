"""The producer talks with Kafka: what each answer, and each missing one, makes of a transaction."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from app.engine.errors import Fenced
from app.engine.kafka import transaction
from app.engine.kafka.cluster import TP
from app.engine.kafka.protocol import InitProducerId, Produce
from app.engine.kafka.transaction import Outbox, Producer, RecordRefused, TransactionFailed

OUT, LOG, IN = TP("out", 0), TP("log", 3), TP("in", 3)
FENCED = [47, 49, 90]
FAILED = [-1, 45, 48, 53, 59, 120]
LOST = [KafkaConnectionError(), RequestTimedOutError(), ConnectionResetError(), NodeNotReadyError()]


class Kafka:
    """Answers as a test has written, then with success. Notes what was asked."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[Any] = []
        self.produced: list[bytes] = []
        self.at: list[tuple[int, object]] = []
        self.epoch = 4
        self.node = 1
        self.lookups = 0
        self.refreshed = 0

    async def coordinator(self, kind: int, key: str) -> int:
        return self.node

    def forget_coordinator(self, kind: int, key: str) -> None:
        self.lookups += 1
        self.node += 1

    def leader(self, tp: TP) -> int | None:
        return None if self.refreshed < 0 else 7

    async def refresh(self) -> None:
        self.refreshed += 1

    async def send(self, node: int, request: Any, lane: object) -> Any:
        self.asked.append(request)
        self.at.append((node, lane))
        if isinstance(request, Produce):
            self.produced.append(produced(request).encode())
        answer: Any = 0
        if self.script and (self.script[0] is None or isinstance(request, self.script[0][0])):
            answer = self.script.pop(0)[1]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(request, InitProducerId) and not answer:
            self.epoch += 1
        return _answered(request, answer, self.epoch)

    @property
    def names(self) -> list[str]:
        return [type(each).__name__.removesuffix("Request") for each in self.asked]


def produced(request: Produce) -> Any:
    return request.prepare({0: (3, 12)})


def _answered(request: Any, code: int, epoch: int) -> Any:
    match request:
        case InitProducerId():
            return SimpleNamespace(error_code=code, producer_id=77, producer_epoch=epoch)
        case AddOffsetsToTxnRequest() | EndTxnRequest():
            return SimpleNamespace(error_code=code)
        case AddPartitionsToTxnRequest() | TxnOffsetCommitRequest():
            return SimpleNamespace(errors=[("any", [(0, code), (1, code)])])
        case Produce():
            topics = produced(request).topics
            return SimpleNamespace(
                topics=[(topic, [(p, code, 100, -1, 0) for p, _ in ps]) for topic, ps in topics]
            )
        case OffsetCommitRequest():
            return SimpleNamespace(topics=[("in", [(3, code)])])
    raise AssertionError(request)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUSY_PAUSE_S", "RETRY_PAUSE_S"):
        monkeypatch.setattr(transaction, name, 0.0)


def a_producer(kafka: Any) -> Producer:
    producer = Producer(kafka, "sum-3", "sum", 10_000, "lane")
    producer._producer_id, producer._epoch = 77, 4
    return producer


def an_outbox(records: int = 3) -> Outbox:
    outbox = Outbox(transactional=True)
    for number in range(records):
        outbox.append(OUT, b"k", b"%d" % number, [], 0)
    outbox.append(LOG, b"k", b"v", [], 0)
    return outbox


async def transact(producer: Producer) -> dict[TP, int]:
    outbox = an_outbox()
    await producer.add(outbox.partitions, {IN: 9})
    ends = await producer.send(outbox)
    await producer.send_offsets({IN: 9})
    await producer.commit()
    return ends


STEPS: dict[str, tuple[type, Callable[[Producer], Any]]] = {
    "begin": (InitProducerId, lambda producer: producer.begin()),
    "add offsets": (AddOffsetsToTxnRequest, lambda producer: producer.add([OUT], {IN: 9})),
    "add partitions": (AddPartitionsToTxnRequest, lambda producer: producer.add([OUT], {IN: 9})),
    "produce": (Produce, lambda producer: producer.send(an_outbox())),
    "offsets": (TxnOffsetCommitRequest, lambda producer: producer.send_offsets({IN: 9})),
    "commit": (EndTxnRequest, lambda producer: producer.commit()),
}


async def test_a_transaction_is_these_requests_in_this_order() -> None:
    kafka = Kafka()
    ends = await transact(a_producer(kafka))
    assert sorted(kafka.names[:2]) == ["AddOffsetsToTxn", "AddPartitionsToTxn"]
    assert kafka.names[2:] == ["Produce", "TxnOffsetCommit", "EndTxn"]
    assert ends == {OUT: 103, LOG: 101}, "each partition's next offset"


@pytest.mark.parametrize("code", FENCED)
@pytest.mark.parametrize("step", STEPS)
async def test_whoever_is_fenced_stops(step: str, code: int) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, code))
    with pytest.raises(Fenced):
        await act(a_producer(kafka))
    assert sum(isinstance(each, kind) for each in kafka.asked) == 1, "and does not ask twice"


@pytest.mark.parametrize("code", FAILED)
@pytest.mark.parametrize("step", STEPS)
async def test_what_kafka_refuses_fails_the_transaction(step: str, code: int) -> None:
    kind, act = STEPS[step]
    expected = (
        Fenced if step == "commit" else TransactionFailed
    )  # a commit in doubt is asked for, not repeated
    with pytest.raises(expected):
        await act(a_producer(Kafka((kind, code))))


@pytest.mark.parametrize("code", [10, 18, 87])
async def test_a_record_that_kafka_will_never_take_is_told_apart(code: int) -> None:
    with pytest.raises(RecordRefused):
        await a_producer(Kafka((Produce, code))).send(an_outbox())


@pytest.mark.parametrize("code", [14, 15, 16, 51])
@pytest.mark.parametrize("step", [step for step in STEPS if step != "produce"])
async def test_a_coordinator_that_moves_loads_or_is_busy_is_asked_again(step: str, code: int) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, code), (kind, code))
    await act(a_producer(kafka))
    again = [at for at, each in zip(kafka.at, kafka.asked, strict=True) if isinstance(each, kind)]
    assert [node for node, _ in again] == ([1, 1, 1] if code == 51 else [1, 2, 3])
    assert kafka.lookups == (0 if code == 51 else 2)


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56])
async def test_a_partition_without_its_leader_is_written_to_again_with_the_same_bytes(code: int) -> None:
    kafka = Kafka((Produce, code), (Produce, code))
    assert await a_producer(kafka).send(an_outbox()) == {OUT: 103, LOG: 101}
    first, second, third = kafka.produced
    assert first == second == third
    assert kafka.refreshed == 2


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", STEPS)
async def test_a_lost_answer_is_asked_for_until_it_comes(step: str, error: Exception) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, error), (kind, error))
    await act(a_producer(kafka))
    assert sum(isinstance(each, kind) for each in kafka.asked) == 3


@pytest.mark.parametrize("step", [step for step in STEPS if step != "begin"])
async def test_behind_a_lost_answer_the_next_transaction_has_a_new_epoch(step: str) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, KafkaConnectionError()))
    producer = a_producer(kafka)
    await act(producer)
    kafka.asked.clear()
    await transact(producer)
    assert kafka.names[0] == "InitProducerId"
    assert kafka.asked[0]._fields[2:4] == (77, 4), "names what it has, so that it cannot fence a successor"
    assert all(each._producer_epoch == 5 for each in kafka.asked if isinstance(each, EndTxnRequest))
    kafka.asked.clear()
    await transact(producer)
    assert "InitProducerId" not in kafka.names, "once is enough"


async def test_a_batch_that_got_through_the_first_time_is_no_success() -> None:
    """DUPLICATE_SEQUENCE_NUMBER does not tell at which offset: the table's offset would be unknown."""
    with pytest.raises(TransactionFailed, match="got through"):
        await a_producer(Kafka((Produce, 46))).send(an_outbox())


@pytest.mark.parametrize("code", [0, 48])
async def test_an_abort_begins_a_new_epoch_whether_or_not_there_was_a_transaction(code: int) -> None:
    kafka = Kafka((EndTxnRequest, code))
    producer = a_producer(kafka)
    producer._sequences[OUT] = 33
    await producer.abort()
    assert kafka.names == ["EndTxn", "InitProducerId"]
    assert producer._epoch == 5
    assert producer._sequences == {}


@pytest.mark.parametrize("kind", [EndTxnRequest, InitProducerId])
async def test_an_abort_may_find_out_that_the_task_is_lost(kind: type) -> None:
    with pytest.raises(Fenced):
        await a_producer(Kafka((kind, 90))).abort()


async def test_nothing_of_a_transaction_is_under_way_when_its_beginning_has_failed() -> None:
    slow = asyncio.Event()

    class Slow(Kafka):
        async def send(self, node: int, request: Any, lane: object) -> Any:
            if isinstance(request, AddPartitionsToTxnRequest):
                await slow.wait()
            return await super().send(node, request, lane)

    kafka = Slow((AddOffsetsToTxnRequest, 48))
    adding = asyncio.ensure_future(a_producer(kafka).add([OUT], {IN: 9}))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not adding.done()
    slow.set()
    with pytest.raises(TransactionFailed):
        await adding
    assert sorted(kafka.names) == ["AddOffsetsToTxn", "AddPartitionsToTxn"]


async def test_nothing_is_under_way_to_one_leader_when_another_has_refused() -> None:
    slow = asyncio.Event()

    class Slow(Kafka):
        def leader(self, tp: TP) -> int | None:
            return tp.partition

        async def send(self, node: int, request: Any, lane: object) -> Any:
            if node == LOG.partition:
                await slow.wait()
            return await super().send(node, request, lane)

    kafka = Slow((Produce, 48))
    sending = asyncio.ensure_future(a_producer(kafka).send(an_outbox()))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not sending.done()
    slow.set()
    with pytest.raises(TransactionFailed):
        await sending
    assert [node for node, _ in kafka.at] == [OUT.partition, LOG.partition]


async def test_a_partition_refused_for_the_sake_of_another_is_tried_again() -> None:
    class Partly(Kafka):
        async def send(self, node: int, request: Any, lane: object) -> Any:
            answer = await super().send(node, request, lane)
            if len(self.asked) == 1:
                answer.errors = [("any", [(0, 3), (1, 55)])]
            return answer

    kafka = Partly()
    await a_producer(kafka).add([OUT, LOG], {})
    assert kafka.names == ["AddPartitionsToTxn"] * 2


async def test_a_leader_unknown_is_waited_for() -> None:
    kafka = Kafka()
    kafka.refreshed = -3
    assert await a_producer(kafka).send(an_outbox()) == {OUT: 103, LOG: 101}
    assert kafka.refreshed == 0


@pytest.mark.parametrize("code", [22, 25, 27])
async def test_at_least_once_a_member_of_an_older_generation_stops(code: int) -> None:
    producer = Producer(Kafka((OffsetCommitRequest, code)), None, "sum", 10_000, "lane")  # type: ignore[arg-type]
    with pytest.raises(Fenced):
        await producer.commit_offsets({IN: 9}, 3, "me")


async def test_an_epoch_that_grows_makes_a_generation_that_grows() -> None:
    kafka = Kafka()
    producer = a_producer(kafka)
    seen = [producer.generation]
    for _ in range(3):
        await producer.abort()
        seen.append(producer.generation)
    producer._producer_id, producer._epoch = 78, 0
    seen.append(producer.generation)
    assert seen == sorted(set(seen))
