"""The producer talks with Kafka: what each answer, and each missing one, makes of a transaction."""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetCommitRequest_v2
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
)

from app.engine.errors import Fenced, InDoubt, StaleGeneration
from app.engine.kafka import transaction, waits
from app.engine.kafka.cluster import NO_MEMBER, TP, Cluster, Committed, Membership
from app.engine.kafka.protocol import (
    Abilities,
    ApiVersions,
    EndTxn,
    InitProducerId,
    Produce,
    TxnOffsetCommit,
    abilities,
)
from app.engine.kafka.transaction import LeaderAway, Outbox, Producer, RecordRefused, TransactionFailed

OUT, LOG, IN = TP("out", 0), TP("log", 3), TP("in", 3)
FENCED = [47, 49, 90]
STALE = [22, 25, 27]
END = (EndTxnRequest, EndTxn)
OFFSETS = {IN: Committed(9, "inputs:in")}
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
        if isinstance(request, InitProducerId | EndTxn) and not answer:
            self.epoch += 1
        return _answered(request, answer, self.epoch)

    @property
    def names(self) -> list[str]:
        """The requests; what version 2 has instead of another has its name."""
        return [type(each).__name__.removesuffix("Request") for each in self.asked]


def features(level: int) -> bytes:
    """The finalised features, as they are in an answer's tag; transaction.version at `level`."""
    rows = (("metadata.version", 25), ("transaction.version", level))
    return bytes([len(rows) + 1]) + b"".join(
        bytes([len(name) + 1]) + name.encode() + newest.to_bytes(2, "big") + b"\0\0\0"
        for name, newest in rows
    )


NEW: list[Any] = [(0, 3, 12, {}), (26, 0, 5, {}), (28, 0, 5, {})]


def produced(request: Produce) -> Any:
    return request.prepare({0: (3, 12)})


def _answered(request: Any, code: int, epoch: int) -> Any:
    match request:
        case ApiVersions():
            return SimpleNamespace(error_code=code, api_versions=NEW, tags={2: features(2)})
        case InitProducerId() | EndTxn():
            return SimpleNamespace(error_code=code, producer_id=77, producer_epoch=epoch)
        case AddOffsetsToTxnRequest() | EndTxnRequest():
            return SimpleNamespace(error_code=code)
        case AddPartitionsToTxnRequest():
            return SimpleNamespace(errors=[("any", [(0, code), (1, code)])])
        case TxnOffsetCommit():
            return SimpleNamespace(topics=[("any", [(0, code, {}), (1, code, {})], {})])
        case Produce():
            topics = produced(request).topics
            rows: list[Any] = [(topic, [(p, code, 100, -1, 0) for p, _ in ps]) for topic, ps in topics]
            if request.adds:
                rows = [(topic, [(*p, [], None, {}) for p in ps], {}) for topic, ps in rows]
            return SimpleNamespace(topics=rows)
        case OffsetCommitRequest():
            return SimpleNamespace(topics=[("in", [(3, code)])])
    raise AssertionError(request)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUSY_PAUSE_S", "RETRY_PAUSE_S"):
        monkeypatch.setattr(transaction, name, 0.0)


def a_producer(kafka: Any, version: int = 1) -> Producer:
    producer = Producer(kafka, "sum-3", "sum", 10_000, "lane")
    producer.version2 = version == 2
    producer._producer_id, producer._epoch = 77, 4
    return producer


def an_outbox(records: int = 3) -> Outbox:
    outbox = Outbox(transactional=True)
    for number in range(records):
        outbox.append(OUT, b"k", b"%d" % number, [], 0)
    outbox.append(LOG, b"k", b"v", [], 0)
    return outbox


def epoch_of(request: Any) -> int:
    """Of which epoch a request of version 2 is: of records that of their first batch."""
    if isinstance(request, Produce):
        batch = produced(request).topics[0][1][0][1]
        return int.from_bytes(batch[51:53], "big")
    epoch: int = request._fields[3 if isinstance(request, TxnOffsetCommit) else 2]
    return epoch


async def transact(producer: Producer) -> dict[TP, int]:
    outbox = an_outbox()
    await producer.add(outbox.partitions, OFFSETS)
    (ends,) = await producer.send([outbox])
    await producer.send_offsets(OFFSETS)
    await producer.commit()
    return ends


Act = Callable[[Producer], Any]
STEPS: dict[str, tuple[type | tuple[type, ...], Act]] = {
    "begin": (InitProducerId, lambda producer: producer.begin()),
    "produce": (Produce, lambda producer: producer.send([an_outbox()])),
    "offsets": (TxnOffsetCommit, lambda producer: producer.send_offsets(OFFSETS)),
    "commit": (END, lambda producer: producer.commit()),
    "add offsets": (AddOffsetsToTxnRequest, lambda producer: producer.add([OUT], [IN])),
    "add partitions": (AddPartitionsToTxnRequest, lambda producer: producer.add([OUT], [IN])),
}
EITHER = [(2, step) for step in list(STEPS)[:4]]
"""The steps of transaction version 2, and then those of version 1."""
EITHER += [(1, step) for step in STEPS]


async def test_a_transaction_is_these_requests_in_this_order() -> None:
    kafka = Kafka()
    ends = await transact(a_producer(kafka))
    assert sorted(kafka.names[:2]) == ["AddOffsetsToTxn", "AddPartitionsToTxn"]
    assert kafka.names[2:] == ["Produce", "TxnOffsetCommit", "EndTxn"]
    assert ends == {OUT: 103, LOG: 101}, "each partition's next offset"


async def test_under_version_2_each_transaction_has_its_epoch_and_no_request_of_its_own_to_begin_it() -> None:
    kafka = Kafka()
    producer = a_producer(kafka, 2)
    for epoch in (4, 5, 6):
        kafka.asked.clear()
        kafka.produced.clear()
        assert await transact(producer) == {OUT: 103, LOG: 101}
        assert kafka.names == ["Produce", "TxnOffsetCommit", "EndTxn"]
        assert [epoch_of(each) for each in kafka.asked] == [epoch] * 3
        assert kafka.asked[0].adds
        assert kafka.asked[1].adds
        (batch,) = (data for topic, ((_, data),) in produced(kafka.asked[0]).topics if topic == "log")
        assert int.from_bytes(batch[53:57], "big") == 0, "its sequences begin at 0"
    assert (producer._producer_id, producer._epoch) == (77, 7)


@pytest.mark.parametrize(
    ("level", "newest", "most", "version2"),
    [
        (2, NEW, 2, True),
        (3, NEW, 2, True),
        (2, [*NEW, (9_999, 0, 0, {})], 2, True),
        (1, NEW, 2, False),
        (0, NEW, 2, False),
        (2, NEW, 1, False),
        *((2, [row for row in NEW if row[0] != key], 2, False) for key in (0, 26, 28)),
        *(
            (2, [(key, 0, most - (key == old), {}) for key, _, most, _ in NEW], 2, False)
            for old in (0, 26, 28)
        ),
    ],
)
async def test_version_2_is_used_where_the_cluster_and_its_requests_have_it(
    monkeypatch: pytest.MonkeyPatch, level: int, newest: Any, most: int, version2: bool
) -> None:
    class Told(Kafka):
        async def send(self, node: int, request: Any, lane: object) -> Any:
            if isinstance(request, ApiVersions):
                return SimpleNamespace(error_code=0, api_versions=newest, tags={2: features(level)})
            return await super().send(node, request, lane)

    monkeypatch.setattr(transaction, "TRANSACTION_VERSION_MAX", most)
    producer = a_producer(Told())
    await producer.begin()
    assert producer.version2 == version2


@pytest.mark.parametrize("answer", [{}, {"tags": {}}, {"tags": {0: b"\1", 1: bytes(8)}}])
async def test_a_kafka_that_tells_of_no_features_has_version_1(answer: Any) -> None:
    told = abilities(SimpleNamespace(api_versions=[(0, 3, 12), (26, 0, 5), (28, 0, 5)], **answer))
    assert told == Abilities({0: 12, 26: 5, 28: 5}, {})
    assert not transaction.has_version_2(told)


@pytest.mark.parametrize("code", FENCED)
@pytest.mark.parametrize(("version", "step"), EITHER)
async def test_whoever_is_fenced_stops(version: int, step: str, code: int) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, code))
    if step == "begin":  # it names no epoch, so it means that others fence the same id just now
        await act(a_producer(kafka, version))
        assert kafka.names[-2:] == ["InitProducerId"] * 2
        return
    with pytest.raises(Fenced) as fenced:
        await act(a_producer(kafka, version))
    assert type(fenced.value) is Fenced, "nothing is in doubt"
    assert sum(isinstance(each, kind) for each in kafka.asked) == 1, "and does not ask twice"


@pytest.mark.parametrize("code", FAILED)
@pytest.mark.parametrize(("version", "step"), EITHER)
async def test_what_kafka_refuses_fails_the_transaction(version: int, step: str, code: int) -> None:
    kind, act = STEPS[step]
    expected = InDoubt if step == "commit" else TransactionFailed
    with pytest.raises(expected):
        await act(a_producer(Kafka((kind, code)), version))


@pytest.mark.parametrize("code", [10, 18, 87])
async def test_a_record_that_kafka_will_never_take_is_told_apart(code: int) -> None:
    with pytest.raises(RecordRefused) as refused:
        await a_producer(Kafka((Produce, code))).send([an_outbox()])
    assert refused.value.tp == OUT


@pytest.mark.parametrize("what", [InitProducerId, Produce])
async def test_what_kafka_refuses_for_long_is_told_until_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, what: type
) -> None:
    """As it does for ever where transaction.version has been taken back under way (Kafka 4.0.2)."""
    now = 100.0
    monkeypatch.setattr(waits, "time", SimpleNamespace(monotonic=lambda: now, strftime=lambda _: "noon"))
    refusals = [(what, 51)] * 3
    kafka = Kafka(*refusals)
    producer = Producer(cast(Cluster, kafka), "sum-a", "sum", 10_000, "lane")
    told: list[list[str]] = []

    async def pause(_: float) -> None:
        nonlocal now
        told.append(producer.waits.lasting)
        now += 3.0

    monkeypatch.setattr(asyncio, "sleep", pause)
    outbox = Outbox(transactional=True)
    outbox.append(OUT, b"k", b"v", [], 0)
    await (producer.begin() if what is InitProducerId else producer.send([outbox]))
    line = "Kafka answers, but takes no request for sum-a: ConcurrentTransactions (51) (since noon)"
    assert told == [[], [], [line]]
    assert producer.waits.lasting == []


@pytest.mark.parametrize("code", [14, 15, 16, 51])
@pytest.mark.parametrize(("version", "step"), [each for each in EITHER if each[1] != "produce"])
async def test_a_coordinator_that_moves_loads_or_is_busy_is_asked_again(
    version: int, step: str, code: int
) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, code), (kind, code))
    await act(a_producer(kafka, version))
    again = [at for at, each in zip(kafka.at, kafka.asked, strict=True) if isinstance(each, kind)]
    assert [node for node, _ in again] == ([1, 1, 1] if code == 51 else [1, 2, 3])
    assert kafka.lookups == (0 if code == 51 else 2)


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56])
async def test_a_partition_without_its_leader_is_written_to_again_with_the_same_bytes(code: int) -> None:
    kafka = Kafka((Produce, code), (Produce, code))
    assert await a_producer(kafka).send([an_outbox()]) == [{OUT: 103, LOG: 101}]
    first, second, third = kafka.produced
    assert first == second == third
    assert kafka.refreshed == 2


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("version", "step"), EITHER)
async def test_a_lost_answer_is_asked_for_until_it_comes(version: int, step: str, error: Exception) -> None:
    kind, act = STEPS[step]
    kafka = Kafka((kind, error), (kind, error))
    await act(a_producer(kafka, version))
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


@pytest.mark.parametrize("step", ["produce", "offsets", "commit"])
async def test_under_version_2_a_lost_answer_costs_no_epoch_but_that_of_its_transaction(step: str) -> None:
    kafka = Kafka((STEPS[step][0], KafkaConnectionError()))
    producer = a_producer(kafka, 2)
    await transact(producer)
    late = next(each for each in kafka.asked if isinstance(each, STEPS[step][0]))
    kafka.asked.clear()
    await transact(producer)
    assert kafka.names == ["Produce", "TxnOffsetCommit", "EndTxn"]
    assert {epoch_of(each) for each in kafka.asked} == {epoch_of(late) + 1}
    assert not producer.has_unanswered


async def test_under_version_2_an_abort_brings_the_next_epoch() -> None:
    kafka = Kafka((EndTxn, KafkaConnectionError()), (EndTxn, 51))
    producer = a_producer(kafka, 2)
    producer._sequences[OUT] = 33
    producer.has_unanswered = True
    await producer.abort()
    assert kafka.names == ["EndTxn"] * 3
    assert producer._epoch == 5
    assert producer._sequences == {}
    assert not producer.has_unanswered


async def test_under_version_2_an_abort_that_is_refused_asks_for_an_epoch() -> None:
    kafka = Kafka((EndTxn, 48))
    producer = a_producer(kafka, 2)
    await producer.abort()
    assert kafka.names == ["EndTxn", "InitProducerId"]
    assert producer._epoch == 5


async def test_markers_that_are_still_being_written_are_waited_for_without_a_word_to_the_leader() -> None:
    kafka = Kafka((Produce, 51), (Produce, 51), (TxnOffsetCommit, 51))
    producer = a_producer(kafka, 2)
    assert await producer.send([an_outbox()], patience_s=0.0) == [{OUT: 103, LOG: 101}]
    await producer.send_offsets(OFFSETS)
    assert kafka.names == ["Produce"] * 3 + ["TxnOffsetCommit"] * 2
    assert kafka.refreshed == 0
    first, second, third = kafka.produced
    assert first == second == third
    assert not producer.has_unanswered


async def test_a_leader_that_does_not_answer_is_waited_for_only_as_long_as_the_caller_has_patience() -> None:
    answer = asyncio.Event()

    class Frozen(Kafka):
        async def send(self, node: int, request: Any, lane: object) -> Any:
            await answer.wait()
            raise RequestTimedOutError

    producer = a_producer(Frozen())
    with pytest.raises(LeaderAway) as away:
        await asyncio.wait_for(producer.send([an_outbox()], patience_s=0.02), 5)
    assert away.value.tps == {OUT, LOG}
    assert producer.has_unanswered
    assert producer._late
    answer.set()
    await asyncio.sleep(0.01)
    assert not producer._late, "what nobody waits for any more is forgotten once it has ended"


async def test_a_batch_that_got_through_the_first_time_is_no_success() -> None:
    """DUPLICATE_SEQUENCE_NUMBER does not tell at which offset: the table's offset would be unknown."""
    with pytest.raises(TransactionFailed, match="got through"):
        await a_producer(Kafka((Produce, 46))).send([an_outbox()])


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
    sending = asyncio.ensure_future(a_producer(kafka).send([an_outbox()]))
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
    assert await a_producer(kafka).send([an_outbox()]) == [{OUT: 103, LOG: 101}]
    assert kafka.refreshed == 0


@pytest.mark.parametrize("code", STALE)
async def test_at_least_once_a_member_of_an_older_generation_stops(code: int) -> None:
    kafka = Kafka((OffsetCommitRequest, code))
    request = OffsetCommitRequest_v2("sum", 3, "me", -1, [("in", [(3, 9, "inputs:in")])])
    producer = Producer(kafka, None, "sum", 10_000, "lane")  # type: ignore[arg-type]
    with pytest.raises(StaleGeneration):
        await producer.commit_offsets(OFFSETS, Membership(3, "me"))
    assert kafka.asked[0].prepare({8: (2, 2)}).encode() == request.encode()


@pytest.mark.parametrize("code", STALE)
async def test_in_a_transaction_too_a_member_of_an_older_generation_stops(code: int) -> None:
    kafka = Kafka((TxnOffsetCommit, code))
    producer = a_producer(kafka)
    with pytest.raises(StaleGeneration):
        await producer.send_offsets(OFFSETS, Membership(3, "me"))
    rows: list[Any] = [("in", [(3, 9, -1, "inputs:in", {})], {})]
    assert kafka.asked[0]._fields == ("sum-3", "sum", 77, 4, 3, "me", None, rows, {})
    await producer.abort()
    await transact(producer)
    assert kafka.names[-2:] == ["TxnOffsetCommit", "EndTxn"], "the producer itself goes on"


async def test_offsets_without_a_member_are_nobodys() -> None:
    kafka = Kafka()
    await a_producer(kafka).send_offsets(OFFSETS)
    assert kafka.asked[0]._fields[4:6] == NO_MEMBER


async def test_a_fence_counts_more_than_the_group_and_that_more_than_a_refusal() -> None:
    async def fails(error: Exception) -> None:
        raise error

    stale, fenced, refused = StaleGeneration(), Fenced(), TransactionFailed()
    for first, *errors in ([stale, refused, stale], [fenced, refused, stale, fenced]):
        with pytest.raises(type(first)) as failure:
            await transaction.all_done(*map(fails, errors))
        assert failure.value is first


@pytest.mark.parametrize("code", [*FENCED, 48])
@pytest.mark.parametrize("earlier", [*LOST, 14, 15, 16], ids=str)
@pytest.mark.parametrize("version", [1, 2])
async def test_a_refusal_behind_a_try_of_unknown_end_leaves_the_commit_in_doubt(
    earlier: Any, code: int, version: int
) -> None:
    kafka = Kafka((END, earlier), (END, code))
    with pytest.raises(InDoubt):
        await a_producer(kafka, version).commit()


@pytest.mark.parametrize("codes", [[0], [51, 51, 0], [47, 0], [90, 51, 0], [15, 0]])
async def test_another_id_is_fenced_and_nothing_of_our_own_changes(codes: list[int]) -> None:
    kafka = Kafka(*((InitProducerId, code) for code in codes))
    producer = a_producer(kafka)
    await producer.fence("sum-other")
    assert [each._fields for each in kafka.asked] == [("sum-other", 10_000, -1, -1, {})] * len(codes)
    assert (producer._producer_id, producer._epoch) == (77, 4)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_fence_whose_answer_is_lost_costs_us_no_epoch(error: Exception) -> None:
    producer = a_producer(Kafka((InitProducerId, error)))
    await producer.fence("sum-other")
    assert not producer.has_unanswered


async def test_a_fence_that_kafka_refuses_fails() -> None:
    with pytest.raises(TransactionFailed):
        await a_producer(Kafka((InitProducerId, 53))).fence("sum-other")


async def test_each_outbox_has_its_own_next_offsets_and_a_request_one_batch_a_partition() -> None:
    class Log(Kafka):
        """Appends what it is sent: a partition's records have consecutive offsets."""

        ends: ClassVar[Counter[TP]] = Counter()

        async def send(self, node: int, request: Any, lane: object) -> Any:
            answer = await super().send(node, request, lane)
            rows = []
            for topic, partitions in produced(request).topics:
                assert len({number for number, _ in partitions}) == len(partitions)
                for number, data in partitions:
                    tp = TP(topic, number)
                    rows.append((topic, [(number, 0, self.ends[tp], -1, 0)]))
                    self.ends[tp] += int.from_bytes(data[57:61], "big")
            answer.topics = rows
            return answer

    kafka = Log()
    alone = Outbox(transactional=True)
    alone.append(TP("out", 1), b"k", b"v", [], 0)
    outboxes = [an_outbox(3), alone, an_outbox(2), Outbox(transactional=True)]
    ends = await a_producer(kafka).send(outboxes)
    assert ends == [{OUT: 3, LOG: 1}, {TP("out", 1): 1}, {OUT: 5, LOG: 2}, {}]
    assert kafka.names == ["Produce"] * 2


@pytest.mark.parametrize("answer", [*LOST, 3, 5, 6, 19], ids=str)
async def test_a_leader_is_waited_for_only_as_long_as_the_caller_has_patience(answer: Any) -> None:
    class HalfAway(Kafka):
        def leader(self, tp: TP) -> int | None:
            return tp.partition

        async def send(self, node: int, request: Any, lane: object) -> Any:
            if node != LOG.partition:
                return await super().send(node, request, lane)
            self.asked.append(request)
            if isinstance(answer, Exception):
                raise answer
            return _answered(request, answer, 0)

    kafka = HalfAway()
    producer = a_producer(kafka)
    with pytest.raises(LeaderAway, match="log-3") as away:
        await producer.send([an_outbox()], patience_s=0.02)
    assert away.value.tps == {LOG}
    assert isinstance(away.value, TransactionFailed)
    assert len(kafka.asked) > 2, "it was tried again"
    assert len(kafka.produced) == 1, "what was written is not written twice"
    assert producer.has_unanswered == isinstance(answer, Exception)


async def test_a_leader_that_nobody_knows_is_away() -> None:
    kafka = Kafka()
    kafka.refreshed = -(10**9)
    with pytest.raises(LeaderAway) as away:
        await a_producer(kafka).send([an_outbox()], patience_s=0.0)
    assert away.value.tps == {OUT, LOG}
