"""Key shards: all keys in a fixed number of parts, so that nothing durable has to name a partition.

A shard is a function of the key alone. As long as partition counts are powers of two, shard s lies on
partition s % partitions, and so does every key in it.
"""

from functools import lru_cache
from typing import Final

from app.engine.errors import EngineError, KeyTooLong, WrongPartition
from app.engine.kafka.cluster import partition_of

KEY_SHARDS: Final = 256
KEY_BYTES_MAX: Final = 64 * 1024
"""Hashing as much takes some 20 ms of the event loop's time."""


def misplaced(topic: str, key: bytes, here: int, partitions: int) -> EngineError | None:
    """What is wrong with a record of this key lying on partition `here`; None when it is right."""
    if len(key) > KEY_BYTES_MAX:
        return KeyTooLong(f"a key of {len(key)} bytes; at most {KEY_BYTES_MAX} are taken")
    right = partition_of(key, partitions)
    return None if right == here else WrongPartition(topic, key, right, here)


@lru_cache(maxsize=65_536)
def shard_of(key: bytes) -> int:
    """The key's shard, 0 to 255, by the hash of Kafka's default partitioner (murmur2)."""
    return partition_of(key, KEY_SHARDS)


def shards_of(partition: int, partitions: int) -> range:
    """The shards whose keys lie on `partition`."""
    return range(partition, KEY_SHARDS, partitions)


def shard_named(text: str) -> int | None:
    """The shard that the key of a table `by_shard` names, None where it names none."""
    known = text.isascii() and text.isdecimal() and len(text) <= 3 and str(int(text)) == text
    return int(text) if known and int(text) < KEY_SHARDS else None


def require_shardable(partitions: int) -> None:
    """Raises ValueError for a partition count that the shards can't be laid on."""
    if not (0 < partitions <= KEY_SHARDS and partitions & (partitions - 1) == 0):
        raise ValueError(
            f"{partitions} partitions: a service with state needs a power of two up to {KEY_SHARDS} "
            "(1, 2, 4, 8, ...), so that keys keep their shards when the count changes"
        )
