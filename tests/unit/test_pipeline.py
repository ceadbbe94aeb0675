"""What the pipeline asks Kafka before it starts the workers."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from app.engine.kafka.cluster import TP, Cluster
from app.run.pipeline import has_unread_commands


class Log:
    """A topic of commands as Kafka tells of it: where each partition ends, how far refdata has read."""

    def __init__(self, topic: str, ends: Sequence[int], read: Mapping[int, int]) -> None:
        self._topic = topic
        self._ends = ends
        self._read = read

    async def exists(self, topic: str) -> bool:
        return topic == self._topic and bool(self._ends)

    async def partition_count(self, topic: str) -> int:
        assert self._ends, "it would wait for the topic"
        return len(self._ends)

    async def offsets(self, tps: Sequence[TP], which: int) -> dict[TP, int]:
        return {tp: self._ends[tp.partition] for tp in tps}

    async def committed(self, group: str, tps: Sequence[TP]) -> dict[TP, int | None]:
        assert group == "refdata"
        return {tp: self._read.get(tp.partition) for tp in tps}


@pytest.mark.parametrize("topic", ["restrictions", "operator-commands"])
@pytest.mark.parametrize(
    ("ends", "read", "unread"),
    [
        ((), {}, False),
        ((0, 0), {}, False),
        ((0, 3), {}, True),
        ((1, 3), {0: 1, 1: 2}, True),
        ((1, 3), {0: 1, 1: 3}, False),
    ],
    ids=["no topic", "nothing restricted", "refdata is new", "refdata is behind", "all is read"],
)
async def test_commands_are_unread_where_refdata_is_behind(
    topic: str, ends: Sequence[int], read: Mapping[int, int], unread: bool
) -> None:
    log: Any = Log(topic, ends, read)
    assert await has_unread_commands(cast(Cluster, log)) is unread
