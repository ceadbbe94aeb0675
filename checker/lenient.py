"""Record sets whose headers may have any names, and records that tell whether they came in a transaction.

Kafka lets a producer name headers by any bytes; aiokafka refuses those that are not UTF-8, and with them all
of the log behind them. It also keeps to itself what the batch of a record says of its producer.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy as PythonBatch
from aiokafka.record.memory_records import MemoryRecords

LENGTH_AT, HEAD_BYTES = 8, 12
"""Where a batch tells how long it is, not counting the bytes up to there."""


class LenientRecords:
    """aiokafka's MemoryRecords, with batches that can be read whatever their headers are called."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.in_transaction = False
        """Whether the batch that was taken last was written in a transaction."""
        self._batches: Any = MemoryRecords(data)

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def next_batch(self) -> "_Batch":
        start, length_at = self._at, self._at + LENGTH_AT
        body_at = start + HEAD_BYTES
        self._at = body_at + int.from_bytes(self._data[length_at:body_at], "big")
        batch = self._batches.next_batch()
        self.in_transaction = bool(batch.is_transactional)
        return _Batch(batch, self._data[start : self._at])


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """A record of the log, and whether its producer wrote it in a transaction; `timestamp` is in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    in_transaction: bool


class MarkedRecords(PartitionRecords):  # type: ignore[misc]
    """aiokafka's PartitionRecords over LenientRecords, whose records are LogRecords."""

    def _consumer_record(self, tp: Any, record: Any) -> LogRecord:
        return LogRecord(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(record.headers),
            self._records.in_transaction,
        )


class _Batch:
    """A batch as aiokafka reads it, except that it gives its records even where a name is no text."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return _read_again(self._data)


def _read_again(data: memoryview) -> Iterator[Any]:
    batch: Any = PythonBatch(data)
    batch._maybe_uncompress()
    batch._buffer = _AnyText(batch._buffer)
    return iter(batch)


class _AnyText(bytearray):
    """Bytes that are text whatever they are: what is not UTF-8 is written with backslashes."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _AnyText(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, "backslashreplace")
