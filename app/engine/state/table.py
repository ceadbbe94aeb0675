"""Tables: declared through Faust, kept in RocksDB by task, written only by a unit of work."""

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from typing import Any, Generic, Protocol, TypeGuard, cast

import faust
import msgspec
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypeVar

from app.engine.kafka.cluster import TP, partition_of
from app.engine.shards import shard_named
from app.engine.state.store import TaskStore
from app.engine.topics import COMPACTED

V = TypeVar("V", default=Any)

CACHE_KEYS_MAX = 50_000
CHANGELOG_CONFIG = {
    **COMPACTED,
    "delete.retention.ms": str(24 * 3600 * 1000),
    "max.message.bytes": str(8 * 1024 * 1024),
}


class ValueCodec(Protocol[V]):
    """How a table's values go to JSON and back, where a type alone does not say it: versions, for one.

    `decode` raises NewerRelease for what a newer release of ours has written. `frozen` says that values can't
    be edited in place, so that one object can serve everybody who reads the key.
    """

    frozen: bool

    def decode(self, data: bytes, /) -> V: ...

    def encode(self, value: V, /) -> bytes: ...


class Table(faust.Table[str, V], Generic[V]):
    """A table of one service, backed by the changelog topic `<service>-<name>-changelog`.

    `value_type` is a msgspec.Struct, whatever pydantic can read and write as JSON, or a ValueCodec. Keys are
    text; the part before the first `/` decides which partition, and so which worker, a key belongs to: the
    same as the input records' key. In a table `by_shard` the key is the number of one of `Task.shards`.
    """

    def __init__(
        self, app: Any, *, value_type: type[V] | ValueCodec[V], by_shard: bool = False, **options: Any
    ) -> None:
        super().__init__(app, value_type=None, key_type=None, **options)
        self.decode: Callable[[bytes], V]
        self.encode: Callable[[V], bytes]
        if _is_codec(value_type):
            self.decode, self.encode, self.frozen = value_type.decode, value_type.encode, value_type.frozen
        else:
            self.decode, self.encode = json_functions(value_type)
            self.frozen = _is_frozen(value_type)
        self.by_shard = by_shard

    async def on_start(self) -> None:
        """The engine opens stores and creates changelogs by task: nothing to do for the table as a whole."""

    async def on_stop(self) -> None:
        pass

    @property
    def changelog(self) -> str:
        return str(self.changelog_topic.get_topic_name())

    @staticmethod
    def routing_key(key: str) -> bytes:
        """The input key that a table key belongs to; not for a table `by_shard`."""
        return key.partition("/")[0].encode()

    def home(self, key: str, partitions: int) -> int | None:
        """The partition that a key belongs to; None where it is no possible key."""
        if self.by_shard:
            shard = shard_named(key)
            return None if shard is None else shard % partitions
        return partition_of(self.routing_key(key), partitions)


def json_functions(value_type: Any) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    """What reads and what writes a table's values."""
    if isinstance(value_type, type) and issubclass(value_type, msgspec.Struct):
        return msgspec.json.Decoder(value_type).decode, msgspec.json.encode
    adapter: TypeAdapter[Any] = TypeAdapter(value_type)
    return adapter.validator.validate_json, adapter.serializer.to_json


def _is_codec(value_type: type[V] | ValueCodec[V]) -> TypeGuard[ValueCodec[V]]:
    """Whether it is a ValueCodec rather than a type, whose values may well have such methods."""
    names = ("decode", "encode", "frozen")
    return not isinstance(value_type, type) and all(hasattr(value_type, name) for name in names)


def _is_frozen(value_type: Any) -> bool:
    """Whether values cannot be edited in place, so that one object can serve everybody who reads the key."""
    if not isinstance(value_type, type):
        return False
    if issubclass(value_type, msgspec.Struct):
        return value_type.__struct_config__.frozen
    if issubclass(value_type, BaseModel):
        return bool(value_type.model_config.get("frozen"))
    return issubclass(value_type, str | bytes | int | float)


class TaskTable(Generic[V]):
    """A task's partition of a table: the committed state."""

    def __init__(self, table: Table[V], store: TaskStore, partition: int) -> None:
        self.table = table
        self.name = table.name
        self.changelog = TP(table.changelog, partition)
        self._store = store
        self._cache: dict[str, V] = {}

    def get(self, key: str) -> V | None:
        """The committed value, None where there is none: a copy of one's own unless its type is frozen."""
        value = self._cache.get(key)
        if value is None:
            data = self._store.get(self.name, key.encode())
            if data is not None:
                value = self.table.decode(data)
                self._remember(key, value)
        return value

    def raw(self, key: str) -> bytes | None:
        """The committed value as it is stored, which needs nobody who can read it."""
        return self._store.get(self.name, key.encode())

    def has(self, key: str, value: V | None) -> bool:
        """Whether `value`, of a frozen type, is the very object that is committed: assigned, not changed."""
        return value is not None and self._cache.get(key) is value

    def _remember(self, key: str, value: V) -> None:
        if self.table.frozen:
            self._cache[key] = value
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        if len(self._cache) > CACHE_KEYS_MAX:
            for old in list(islice(self._cache, CACHE_KEYS_MAX // 4)):
                del self._cache[old]

    def committed(self, changes: Mapping[str, V | None]) -> None:
        """Take over what a committed unit of work has changed."""
        if not self.table.frozen:
            return
        self._cache.update(cast(Mapping[str, V], changes))
        for key in [key for key, value in changes.items() if value is None]:
            del self._cache[key]
        self._forget_oldest()

    def items(self, after: str | None = None) -> Iterator[tuple[str, V]]:
        """Yield (key, value) in the order of the keys' bytes, those above `after`."""
        for key, data in self.scan(None if after is None else after.encode()):
            yield key.decode(), self.table.decode(data)

    def scan(self, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records as they are stored, in the order of their keys, those above `after`."""
        return self._store.scan(self.name, after)

    @property
    def offset(self) -> int:
        """The changelog offset up to which this state goes."""
        applied = self._store.applied(self.name)
        return 0 if applied is None else applied.next_offset

    def digest(self) -> tuple[int, str]:
        """Count and SHA-256 over the sorted records, each part with its length in four bytes before it."""
        count, hashed = 0, sha256()
        for key, value in self.scan():
            for part in (key, value):
                hashed.update(len(part).to_bytes(4, "big") + part)
            count += 1
        return count, hashed.hexdigest()
