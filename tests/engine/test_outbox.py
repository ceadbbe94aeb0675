"""The outbox: records become batches that a broker takes, with sequences that never skip or repeat."""

from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.kafka import transaction
from app.engine.kafka.cluster import TP, Cluster
from app.engine.kafka.transaction import Outbox, Producer, rounds

A, B = TP("a", 0), TP("b", 3)
Sent = tuple[bytes | None, bytes | None, list[tuple[str, bytes]], int]


def a_producer(transactional: bool = True) -> Producer:
    producer = Producer(Cluster("127.0.0.1:1", "unit"), "unit-0" if transactional else None, "unit", 1000, "")
    producer._producer_id, producer._epoch = 77, 5
    return producer


def unpacked(data: bytes | bytearray) -> tuple[Any, list[Sent]]:
    """A batch's header, and the records in it."""
    batches = MemoryRecords(bytes(data))
    batch: Any = batches.next_batch()
    assert batch.validate_crc()
    records = [(each.key, each.value, list(each.headers), each.timestamp) for each in batch]
    assert not batches.has_next()
    return batch, records


def sent(outbox: Outbox, producer: Producer) -> dict[TP, list[tuple[Any, list[Sent]]]]:
    """All that would go out, by partition; checks the counts on the way."""
    return sent_together([outbox], producer)


def sent_together(outboxes: list[Outbox], producer: Producer) -> dict[TP, list[tuple[Any, list[Sent]]]]:
    found: dict[TP, list[tuple[Any, list[Sent]]]] = {}
    for due in rounds(outboxes):
        for tp, (_, builder, count) in due.items():
            header, records = unpacked(producer.stamp(tp, builder, count))
            assert len(records) == count
            found.setdefault(tp, []).append((header, records))
    return found


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B]), st.none() | st.binary(max_size=5), st.none() | st.binary(max_size=900)
        ),
        max_size=60,
    )
)
def test_everything_goes_out_once_in_order_with_consecutive_sequences(rows: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "BATCH_BYTES_MAX", 2_000)
        outbox, producer = Outbox(transactional=True), a_producer()
        for number, (tp, key, value) in enumerate(rows):
            outbox.append(tp, key, value, [("n", b"%d" % number)], 1000 + number)
        assert set(outbox.partitions) == {tp for tp, _, _ in rows}
        found = sent(outbox, producer)
    for tp in (A, B):
        wanted = [
            (key, value, [("n", b"%d" % number)], 1000 + number)
            for number, (at, key, value) in enumerate(rows)
            if at == tp
        ]
        assert [each for _, records in found.get(tp, []) for each in records] == wanted
        sequence = 0
        for header, records in found.get(tp, []):
            assert (header.producer_id, header.producer_epoch, header.base_sequence) == (77, 5, sequence)
            assert header.is_transactional
            sequence += len(records)


def test_a_partition_that_overflows_goes_out_in_several_rounds_and_the_others_in_the_first() -> None:
    outbox = Outbox(transactional=True)
    for number in range(4):
        outbox.append(A, b"k", bytes(500_000), [], number)
    outbox.append(B, b"k", b"v", [], 0)
    found = [{tp: count for tp, (_, _, count) in due.items()} for due in rounds([outbox])]
    assert [sorted(counts.items()) for counts in found] == [
        [(A, 1), (B, 1)],
        [(A, 1)],
        [(A, 1)],
        [(A, 1)],
    ]


def test_a_record_of_5_mb_goes_out_in_a_batch_of_its_own() -> None:
    outbox = Outbox(transactional=True)
    large = bytes(5 * 1024 * 1024)
    for value in (b"before", large, b"behind"):
        outbox.append(A, b"k", value, [], 0)
    found = sent(outbox, a_producer())[A]
    assert [[value for _, value, _, _ in records] for _, records in found] == [
        [b"before"],
        [large],
        [b"behind"],
    ]


def test_sequences_go_on_across_units_of_work_and_wrap_as_kafkas_do() -> None:
    producer = a_producer()
    producer._sequences[A] = 2**31 - 2
    bases = []
    for _ in range(3):
        outbox = Outbox(transactional=True)
        for _ in range(3):
            outbox.append(A, b"k", b"v", [], 0)
        bases += [header.base_sequence for header, _ in sent(outbox, producer)[A]]
    assert bases == [2**31 - 2, 1, 4]


def test_at_least_once_a_batch_belongs_to_no_producer() -> None:
    outbox = Outbox(transactional=False)
    outbox.append(A, b"k", b"v", [], 0)
    ((header, _),) = sent(outbox, a_producer(transactional=False))[A]
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (-1, -1, -1)
    assert not header.is_transactional


def test_an_empty_outbox_has_nothing_to_send() -> None:
    outbox = Outbox(transactional=True)
    assert outbox.partitions == []
    assert list(rounds([outbox, outbox])) == []


def an_outbox(*values: bytes, tp: TP = A) -> Outbox:
    outbox = Outbox(transactional=True)
    for value in values:
        outbox.append(tp, b"k", value, [], 1000)
    return outbox


def test_outboxes_share_a_request_only_where_they_share_no_partition() -> None:
    first, second, third = an_outbox(b"1", b"2"), an_outbox(b"3", tp=B), an_outbox(b"4", b"5", b"6")
    first.append(B, b"k", b"7", [], 1000)
    found = [
        {tp: (number, count) for tp, (number, _, count) in due.items()}
        for due in rounds([first, second, third])
    ]
    assert found == [{A: (0, 2), B: (0, 1)}, {A: (2, 3), B: (1, 1)}]


def test_a_partition_has_the_batches_of_its_outboxes_in_the_order_given() -> None:
    large = bytes(600_000)
    outboxes = [an_outbox(large, large), an_outbox(b"3"), an_outbox(large, large, b"6")]
    found = sent_together(outboxes, a_producer())[A]
    assert [[value for _, value, _, _ in records] for _, records in found] == [
        *([large], [large], [b"3"], [large], [large, b"6"])
    ]
    assert [header.base_sequence for header, _ in found] == [0, 1, 2, 3, 4]


@given(
    st.lists(st.lists(st.binary(max_size=900), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(0, 2**31 - 1),
)
def test_what_was_stamped_can_be_stamped_again_for_another_epoch(
    values: list[list[bytes]], sequence: int
) -> None:
    """After an abort the same outboxes are sent again: nothing of the first time may be left in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "BATCH_BYTES_MAX", 2_000)
        outboxes = [an_outbox(*each) for each in values]
        fresh = [an_outbox(*each) for each in values]
    earlier = a_producer()
    earlier._sequences[A] = sequence
    first = sent_together(outboxes, earlier)
    producers = [a_producer() for _ in range(2)]
    for producer in producers:
        producer._epoch += 1
    again, anew = (
        [
            {tp: bytes(producer.stamp(tp, builder, count)) for tp, (_, builder, count) in due.items()}
            for due in rounds(each)
        ]
        for producer, each in zip(producers, (outboxes, fresh), strict=True)
    )
    assert again == anew
    assert [records for _, records in first[A]] == [unpacked(due[A])[1] for due in again]
