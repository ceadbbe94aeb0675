"""Key shards agree with Kafka's default partitioner under every partition count that is allowed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import KEY_SHARDS, shard_of
from app.engine.kafka.cluster import partition_of
from app.engine.shards import require_shardable, shard_named, shards_of
from tests.engine.alone import APP

POWERS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


@given(st.binary(max_size=40), st.sampled_from(POWERS))
def test_a_key_lies_on_the_partition_of_its_shard(key: bytes, partitions: int) -> None:
    shard = shard_of(key)
    assert 0 <= shard < KEY_SHARDS
    assert shard % partitions == partition_of(key, partitions)
    assert shard in shards_of(partition_of(key, partitions), partitions)


@pytest.mark.parametrize("partitions", POWERS)
def test_each_shard_is_on_one_partition(partitions: int) -> None:
    found = [shard for partition in range(partitions) for shard in shards_of(partition, partitions)]
    assert sorted(found) == list(range(KEY_SHARDS))


@given(st.text(max_size=4))
def test_a_shard_has_one_name(text: str) -> None:
    shard = shard_named(text)
    assert shard is None or (str(shard) == text and 0 <= shard < KEY_SHARDS)


def test_every_shard_has_a_name() -> None:
    assert [shard_named(str(shard)) for shard in range(KEY_SHARDS)] == list(range(KEY_SHARDS))


@pytest.mark.parametrize("partitions", POWERS)
def test_powers_of_two_are_partition_counts(partitions: int) -> None:
    assert replace(APP.settings, partitions=partitions).partitions == partitions


@pytest.mark.parametrize("partitions", [-8, -1, 0, 3, 5, 6, 12, 255, 257, 512])
def test_other_partition_counts_are_refused_in_one_line(partitions: int) -> None:
    with pytest.raises(ValueError, match=f"^{partitions} partitions: .* power of two up to 256") as refused:
        replace(APP.settings, partitions=partitions)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="power of two"):
        require_shardable(partitions)
