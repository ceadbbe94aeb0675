"""RocksDB under one task: what the changelogs say, and up to which offset, always in one write.

All tables of a task share one database; a key is the table's name, a zero byte and the record's key. The
changelog offset of a table stands under a key of its own and changes in the write that brings the records.
"""

import asyncio
import gc
import logging
import re
import secrets
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rocksdict import AccessType, BlockBasedOptions, Cache, Options, Rdict, WriteBatch

from app.engine.errors import StoreDamaged, StoreFailed, StoreFull
from app.engine.state.disk import Disk

log = logging.getLogger(__name__)

_OFFSET = struct.Struct(">qq")
_OFFSET_PREFIX = b"\x00offset\x00"
BLOCK_CACHE_BYTES = 32 * 1024 * 1024
WRITE_BUFFER_BYTES = 4 * 1024 * 1024
LOCK_WAIT_S = 10.0


async def open_store(path: Path) -> "TaskStore":
    """Open in a thread, since RocksDB may have a log to replay; cancelled, the store does not stay open."""
    opening = asyncio.ensure_future(asyncio.to_thread(TaskStore, path))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: "asyncio.Future[TaskStore]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


_NO_ROOM = re.compile("No space left|Disk quota exceeded")
_LOCKED = re.compile("While lock file|lock hold by")
_DAMAGED = re.compile("^Corruption|^IO error: No such file")
"""What RocksDB says. A full disk or missing rights are no damage: moving the database would not help."""

MEND_PAUSE_S = 0.5
_PROCESS = secrets.token_hex(8)

Changes = Mapping[str, Mapping[bytes, bytes | None]]
_block_cache = Cache(BLOCK_CACHE_BYTES)


class Applied(NamedTuple):
    """How far a table's changelog has been applied, and when (wall clock, ms)."""

    next_offset: int
    at_ms: int


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(64)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_block_cache)
    blocks.set_bloom_filter(10, True)
    options.set_block_based_table_factory(blocks)
    return options


class TaskStore:
    """The tables of one task on disk. Keys and values are bytes."""

    def __init__(self, path: Path) -> None:
        """Open or create. A damaged database is moved aside: its changelog holds the same."""
        self.path = path
        self.written_at = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db: Any = self._open()

    def _open(self) -> Any:
        """Damaged files may keep RocksDB for ever, and the whole process with it: a note outlives that."""
        note = self.path.with_name(f"{self.path.name}.opening")
        try:
            if note.exists() and note.read_text() != _PROCESS:
                move_aside(self.path, RuntimeError("its last opening never ended"))
            note.write_text(_PROCESS)
        except OSError as error:
            raise store_failure(self.path, error) from error
        try:
            return self._open_or_move_aside()
        finally:
            note.unlink(missing_ok=True)

    def _open_or_move_aside(self) -> Any:
        give_up_at = time.monotonic() + LOCK_WAIT_S
        moved = False
        while True:
            try:
                return Rdict(str(self.path), _options(), access_type=AccessType.read_write())
            except Exception as error:  # rocksdict has one exception for everything
                if _LOCKED.search(str(error)) and time.monotonic() < give_up_at:
                    gc.collect()  # an iterator that a failure has left behind keeps a closed database open
                    time.sleep(0.05)
                elif _DAMAGED.search(str(error)) and self.path.exists() and not moved:
                    move_aside(self.path, error)
                    moved = True
                else:
                    raise store_failure(self.path, error) from error

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._read(table.encode() + b"\x00" + key)

    def _read(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise store_failure(self.path, error) from error
        return value

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch)
        except Exception as error:
            raise store_failure(self.path, error) from error

    def apply(self, changes: Changes, offsets: Mapping[str, int]) -> None:
        """Write changed records (None deletes) and the next changelog offset of their tables, atomically."""
        batch = WriteBatch(raw_mode=True)
        for table, records in changes.items():
            prefix = table.encode() + b"\x00"
            for key, value in records.items():
                if value is None:
                    batch.delete(prefix + key)
                else:
                    batch.put(prefix + key, value)
        now_ms = time.time_ns() // 1_000_000
        for table, offset in offsets.items():
            batch.put(_OFFSET_PREFIX + table.encode(), _OFFSET.pack(offset, now_ms))
        self._write(batch)
        self.written_at = time.monotonic()

    def applied(self, table: str) -> Applied | None:
        value = self._read(_OFFSET_PREFIX + table.encode())
        return None if value is None else Applied(*_OFFSET.unpack(value))

    def scan(self, table: str, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in the order of keys, those above `after`."""
        prefix = table.encode() + b"\x00"
        start = prefix if after is None else prefix + after + b"\x00"
        for key, value in self._db.items(from_key=start):
            if not key.startswith(prefix):
                return
            yield key[len(prefix) :], value
            start = key
        self._require_the_end_behind(start)

    def _require_the_end_behind(self, key: bytes) -> None:
        """rocksdict's iteration ends without a word where a block is damaged: look there once more."""
        look = self._db.iter()
        look.seek(key)
        if look.valid():
            look.next()
        try:
            look.status()
        except Exception as error:
            raise store_failure(self.path, error) from error

    def forget(self, table: str) -> None:
        """Drop a table, so that it is restored from the beginning of its changelog."""
        prefix = table.encode()
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(prefix + b"\x00", prefix + b"\x01")
        batch.delete(_OFFSET_PREFIX + prefix)
        self._write(batch)

    def close(self) -> None:
        """Close. What cannot be flushed now is in the log on disk, or comes again from the changelog."""
        if self._db is not None:
            db, self._db = self._db, None
            try:
                db.close()
            except Exception as error:
                log.warning("%s was not closed cleanly: %s", self.path, error)


def store_failure(path: Path, error: Exception) -> StoreFailed:
    """What kind of failure RocksDB's error is."""
    if isinstance(error, StoreFailed):
        return error
    if _NO_ROOM.search(str(error)):
        return StoreFull(f"{path} has no room: {error}")
    if _DAMAGED.search(str(error)):
        return StoreDamaged(f"{path} is damaged: {error}")
    return StoreFailed(f"{path}: {error}")


def move_aside(path: Path, error: Exception) -> None:
    """Put a damaged database, if it is still there, out of the way; of several, the newest is kept."""
    if not path.exists():
        return
    for earlier in path.parent.glob(f"{path.name}.damaged-*"):
        shutil.rmtree(earlier, ignore_errors=True)
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    log.error("%s is damaged (%s): moved to %s, restoring from the changelog", path, error, aside)


async def mend(path: Path, error: StoreFailed, disk: Disk) -> None:
    """Make good what the closed tables at `path` have failed of; raises `error` if nothing helps."""
    if isinstance(error, StoreDamaged):
        move_aside(path, error)
    elif isinstance(error, StoreFull):
        log.error("%s: waiting for room, then restoring its tail: %s", path, error)
    else:
        raise error
    await asyncio.sleep(MEND_PAUSE_S)
    await disk.room()
