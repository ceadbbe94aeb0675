"""Record sets made by hand, as a broker returns them: markers, aborted batches, what compaction leaves."""

import struct
from collections.abc import Iterable

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

_ATTRIBUTES_AT, _LAST_DELTA_AT, _CRC_AT, _COUNT_AT = 21, 23, 17, 57
CONTROL, TRANSACTIONAL = 0x20, 0x10
Header = tuple[str, bytes | None]


def batch(
    base: int,
    records: Iterable[tuple[int, bytes | None, bytes | None]],
    *,
    producer: int | None = None,
    last: int | None = None,
    compression: int = 0,
    headers: list[Header] | None = None,
) -> bytes:
    """A batch with `records` of (offset, key, value); `last` is its last offset before compaction."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=producer is not None,
        producer_id=-1 if producer is None else producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=16 * 1024 * 1024,
    )
    for offset, key, value in records:
        builder.append(offset - base, 1000 + offset, key, value, headers or [])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    if last is not None:
        struct.pack_into(">i", data, _LAST_DELTA_AT, last - base)
    return seal(data)


def seal(data: bytearray) -> bytes:
    """Make the checksum right again."""
    struct.pack_into(">I", data, _CRC_AT, calc_crc32c(bytes(data[_ATTRIBUTES_AT:])))
    return bytes(data)


def plain(*offsets: int) -> bytes:
    """A batch of records outside any transaction; keys and values tell the offset."""
    return batch(offsets[0], [(each, b"k%d" % each, b"v%d" % each) for each in offsets])


def in_transaction(producer: int, *offsets: int) -> bytes:
    return batch(offsets[0], [(each, b"k%d" % each, b"v%d" % each) for each in offsets], producer=producer)


def emptied(base: int, last: int, producer: int) -> bytes:
    """What compaction leaves of a batch whose records are all gone, while its producer lives."""
    data = bytearray(batch(base, [(base, b"", b"")], producer=producer, last=last))
    del data[61:]
    struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">i", data, _COUNT_AT, 0)
    return seal(data)


def marker(offset: int, producer: int, *, commit: bool) -> bytes:
    """The control batch that ends a transaction."""
    key, value = struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0)
    data = bytearray(batch(offset, [(offset, key, value)], producer=producer))
    data[_ATTRIBUTES_AT + 1] |= CONTROL
    return seal(data)
