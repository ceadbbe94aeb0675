"""What the topics already hold when the feed starts: the last ticks, who is known, and what was answered."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from app.engine.errors import NewerRelease
from app.engine.kafka.cluster import LATEST, TP, Cluster
from app.engine.topics import TopicSpec
from app.errors import UserError
from app.log_reader import bounds, decoded, header, read_up_to
from feed.wire import TICK_NUMBER
from models.events import CommandAnswered, TickReceived

TOPIC_S_MAX = 10.0
LAST_RECORDS = 1_000


class Told(NamedTuple):
    """A tick in the topic, and the number that its feed says it has in the market."""

    tick: TickReceived
    number: int


async def last_ticks(bootstrap: str, topic: str, symbol: str, is_own: Callable[[Told], bool]) -> list[Told]:
    """The readable ticks of the symbol near the end of the topic; of all of it if none there `is_own`."""
    for last in (LAST_RECORDS, None):
        records = await _read(bootstrap, topic, last)
        ticks = [told for record in records if record.key == symbol.encode() and (told := _told(record))]
        if any(is_own(each) for each in ticks):
            break
    return ticks


async def ends(bootstrap: str, topic: str) -> dict[TP, int]:
    """Where each partition ends now."""
    async with _cluster(bootstrap) as cluster:
        return await cluster.offsets(await _partitions(cluster, bootstrap, topic), LATEST)


async def answers(bootstrap: str, topic: TopicSpec, since: Mapping[TP, int]) -> list[CommandAnswered]:
    """What the services have answered since then; what can't be read is none of ours."""
    async with _cluster(bootstrap) as cluster:
        until = await cluster.offsets(await _partitions(cluster, bootstrap, topic.name), LATEST)
        found = [each async for some in read_up_to(cluster, since, until) for each in some]
    return [answer for record in found if (answer := _value(topic, record)) is not None]


async def keys(bootstrap: str, *topics: str) -> dict[str, set[bytes]]:
    """Every key of each topic that is not deleted."""
    async with _cluster(bootstrap) as cluster:
        return {topic: await _keys(cluster, await _partitions(cluster, bootstrap, topic)) for topic in topics}


async def _keys(cluster: Cluster, tps: list[TP]) -> set[bytes]:
    starts, until = await bounds(cluster, tps, None)
    has_value: dict[bytes, bool] = {}
    async for some in read_up_to(cluster, starts, until):
        has_value.update((each.key, each.value is not None) for each in some if each.key is not None)
    return {key for key, known in has_value.items() if known}


def _told(record: Any) -> Told | None:
    """A tick by those of its fields that this release knows; None for what is none, as anybody may write."""
    try:
        fields = json.loads(record.value or b"")
        tick = TickReceived.model_validate(
            {name: fields[name] for name in TickReceived.model_fields if name in fields}
        )
    except (ValueError, TypeError, RecursionError):
        return None
    number = header(record, TICK_NUMBER)
    return Told(tick, int(number) if number.isdigit() and len(number) < 19 else tick.epoch + tick.sequence)


def _value(topic: TopicSpec, record: Any) -> Any:
    """The value of a record; None for what can't be read, as anybody may write to the topic."""
    try:
        return decoded(topic, record)
    except (ValueError, RecursionError, NewerRelease):
        return None


async def _read(bootstrap: str, topic: str, last: int | None) -> list[Any]:
    """The committed records of each partition up to its present end: of the `last` offsets, or all."""
    async with _cluster(bootstrap) as cluster:
        starts, until = await bounds(cluster, await _partitions(cluster, bootstrap, topic), last)
        return [each async for some in read_up_to(cluster, starts, until) for each in some]


@asynccontextmanager
async def _cluster(bootstrap: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(bootstrap, "feed")
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()


async def _partitions(cluster: Cluster, bootstrap: str, topic: str) -> list[TP]:
    try:
        count = await asyncio.wait_for(cluster.partition_count(topic), TOPIC_S_MAX)
    except TimeoutError:
        raise UserError(
            f"Kafka at {bootstrap} has no topic {topic!r}: 'python -m app run' makes it"
        ) from None
    return [TP(topic, number) for number in range(count)]
