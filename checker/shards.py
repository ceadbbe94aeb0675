"""Where a key belongs: Kafka's default partitioner and the key shards, written down a second time.

Kafka's Java client sends a key to `murmur2(key) & 0x7fffffff` modulo the number of partitions. A key's shard
is the same modulo 256, whatever the number of partitions is; a count of partitions that divides 256 keeps
each shard on one partition.
"""

from functools import lru_cache
from typing import Final

KEY_SHARDS: Final = 256

SEED: Final = 0x9747B28C
MULTIPLIER: Final = 0x5BD1E995
WORD: Final = 0xFFFFFFFF
POSITIVE: Final = 0x7FFFFFFF


@lru_cache(maxsize=1 << 16)
def hash_of(key: bytes) -> int:
    """MurmurHash2 of 32 bits with Kafka's seed, without its sign."""
    mixed = (SEED ^ len(key)) & WORD
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * MULTIPLIER & WORD
        word = (word ^ word >> 24) * MULTIPLIER & WORD
        mixed = mixed * MULTIPLIER & WORD ^ word
    if rest := key[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * MULTIPLIER & WORD
    mixed = (mixed ^ mixed >> 13) * MULTIPLIER & WORD
    return (mixed ^ mixed >> 15) & POSITIVE


def shard_of(key: bytes) -> int:
    """The key shard, 0 to 255: the session of the venue that an account's orders go out on."""
    return hash_of(key) % KEY_SHARDS


def is_elsewhere(key: bytes | None, partition: int, partitions: int) -> bool:
    """Whether a key belongs to another of so many partitions. Nothing belongs anywhere without a key."""
    return key is not None and partitions > 0 and hash_of(key) % partitions != partition
