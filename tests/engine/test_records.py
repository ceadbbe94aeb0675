"""What a fetch brings becomes records: committed ones, all of them, and nothing twice."""

import struct

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from app.engine.kafka.cluster import committed_records, partition_of, route
from tests.engine.recordsets import batch, emptied, in_transaction, marker, plain, seal

Aborted = list[tuple[int, int]]


def offsets_of(data: bytes, aborted: Aborted | None = None, position: int = 0) -> tuple[list[int], int]:
    records, after = committed_records(data, aborted or [], position)
    return [record.offset for record in records], after


def test_an_empty_fetch_has_nothing_and_stays_where_it_is() -> None:
    assert offsets_of(b"", position=7) == ([], 7)


def test_records_of_committed_transactions_come_in_order_and_their_marker_counts_as_read() -> None:
    data = plain(0, 1) + in_transaction(5, 2, 3) + marker(4, 5, commit=True) + plain(5)
    assert offsets_of(data) == ([0, 1, 2, 3, 5], 6)


def test_a_log_that_ends_in_a_marker_is_read_to_behind_the_marker() -> None:
    assert offsets_of(in_transaction(5, 0, 1) + marker(2, 5, commit=True)) == ([0, 1], 3)
    assert offsets_of(marker(2, 5, commit=True), position=2) == ([], 3)


def test_records_of_an_aborted_transaction_are_left_out_and_count_as_read() -> None:
    data = in_transaction(5, 0, 1) + plain(2) + in_transaction(5, 3) + marker(4, 5, commit=False)
    assert offsets_of(data, [(5, 0)]) == ([2], 5)


def test_a_producer_is_believed_again_after_its_abort_marker() -> None:
    data = (
        in_transaction(5, 0, 1)
        + marker(2, 5, commit=False)
        + in_transaction(5, 3, 4)
        + marker(5, 5, commit=True)
        + in_transaction(5, 6)
        + marker(7, 5, commit=False)
    )
    assert offsets_of(data, [(5, 6), (5, 0)]) == ([3, 4], 8)


def test_transactions_that_overlap_are_told_apart_by_their_producer() -> None:
    data = (
        in_transaction(1, 0)
        + in_transaction(2, 1)
        + in_transaction(1, 2)
        + marker(3, 1, commit=False)
        + in_transaction(2, 4)
        + marker(5, 2, commit=True)
    )
    assert offsets_of(data, [(1, 0)]) == ([1, 4], 6)


def test_a_fetch_from_the_middle_of_an_aborted_transaction_still_leaves_it_out() -> None:
    data = in_transaction(5, 10, 11, 12) + marker(13, 5, commit=False)
    assert offsets_of(data, [(5, 3)], position=11) == ([], 14)


def test_a_fetch_from_the_middle_of_a_batch_begins_in_the_middle() -> None:
    assert offsets_of(plain(10, 11, 12), position=11) == ([11, 12], 13)
    assert offsets_of(plain(10, 11, 12), position=13) == ([], 13)


def test_gaps_that_compaction_has_left_are_passed_over() -> None:
    data = (
        batch(0, [(1, b"a", b"1"), (4, b"b", b"2")], last=6)
        + emptied(7, 9, producer=5)
        + batch(20, [(20, b"c", b"3")])
    )
    assert offsets_of(data) == ([1, 4, 20], 21)
    assert offsets_of(batch(0, [(1, b"a", b"1")], last=6)) == ([1], 7)
    assert offsets_of(emptied(7, 9, producer=5), position=7) == ([], 10)


def test_half_a_batch_at_the_end_waits_for_the_next_fetch() -> None:
    whole, half = plain(0, 1), plain(2, 3)
    for cut in (1, 11, 12, 61, len(half) - 1):
        assert offsets_of(whole + half[:cut]) == ([0, 1], 2)


def test_a_damaged_batch_is_an_error_and_no_data() -> None:
    data = bytearray(plain(0, 1))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordException, match="offset 0"):
        committed_records(bytes(data), [], 0)


def test_a_record_of_5_mb_comes_whole() -> None:
    value = bytes(5 * 1024 * 1024)
    (record,), after = committed_records(batch(3, [(3, b"k", value)]), [], 3)
    assert (record.value, after) == (value, 4)


def test_keys_values_and_headers_may_be_null_empty_or_repeated() -> None:
    headers = [("a", b""), ("a", None), ("b", b"\xff")]
    (record,), _ = committed_records(batch(0, [(0, None, None)], headers=headers), [], 0)
    assert (record.key, record.value, list(record.headers)) == (None, None, headers)


@pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
def test_a_header_whose_name_is_no_text_does_not_keep_its_record_out(compression: int) -> None:
    names = [("name-1", b"1"), ("fine", None)]
    good = batch(4, [(4, b"k", b"v" * 200), (6, None, None)], headers=names, producer=9, last=8)
    data = bytearray(good)
    while (at := data.find(b"name-1")) >= 0:
        data[at] = 0xFF
    if compression:
        import gzip

        data[61:] = gzip.compress(bytes(data[61:]))
        data[22] |= compression
        struct.pack_into(">i", data, 8, len(data) - 12)
    records, after = committed_records(plain(3) + seal(data) + plain(9), [], 3)
    assert after == 10
    assert [(each.offset, each.timestamp, each.key, each.value) for each in records] == [
        (3, 1003, b"k3", b"v3"),
        (4, 1004, b"k", b"v" * 200),
        (6, 1006, None, None),
        (9, 1009, b"k9", b"v9"),
    ]
    assert list(records[1].headers) == [("\\xffame-1", b"1"), ("fine", None)]


@given(st.binary(min_size=1, max_size=40), st.integers(1, 300))
def test_keys_go_where_every_kafka_client_sends_them(key: bytes, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, everywhere, everywhere)
    assert route("t", key, partitions) == ("t", partition_of(key, partitions))


def test_keys_go_where_java_sends_them() -> None:
    """Values of org.apache.kafka.common.utils.Utils.murmur2, from Kafka's own UtilsTest."""
    murmur2 = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, hashed in murmur2.items():
        assert partition_of(key, 1 << 20) == (hashed & 0x7FFFFFFF) % (1 << 20)
