"""A task without Kafka: records are handed to it, and what it commits is only noted.

Everything but the broker is real: records, batches, the unit of work, dead letters, the tables in RocksDB.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from app.engine import Batch, EngineSettings, Record, Table, Task, TopicSpec, UnitOfWork, unit_of_work
from app.engine.core.chunk import Chunk, Item
from app.engine.core.effects import Effects
from app.engine.core.owned import Assignment
from app.engine.core.ownership import AtLeastOnce
from app.engine.kafka.cluster import NO_MEMBER, TP, Cluster, partition_of
from app.engine.kafka.fetcher import Fetcher
from app.engine.state.store import TaskStore
from app.engine.state.table import TaskTable
from tests.engine.service import Options, make_app
from tests.engine.test_outbox import a_producer, sent

Handle = Callable[[UnitOfWork, Record], None]
APP = make_app(Options(bootstrap="127.0.0.1:1", id="alone", directory="nowhere"))
PARTITIONS = 4
NOWHERE = Cluster("127.0.0.1:1", "alone")


class Raw(NamedTuple):
    """A record as a fetch brings it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = 1_000


class Out(NamedTuple):
    """A record as it would go out."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class Alone:
    """One task of the example's tables, with inputs and a handler of its own."""

    def __init__(
        self,
        directory: Path,
        handle: Handle,
        inputs: Sequence[TopicSpec],
        *,
        tables: Iterable[Table] = (),
        outputs: Iterable[TopicSpec] = (),
        partition: int = 1,
        buried: Any = (),
        **settings: Any,
    ) -> None:
        declared: Any = APP.tables
        self.tables = [*declared.values(), *tables]
        self.out: list[Out] = []
        self.taken: list[str] = []
        self.commits = 0
        self._handle = handle
        self._inputs = inputs
        chosen: EngineSettings = replace(APP.settings, **settings)
        names = [*(spec.name for spec in [*inputs, *outputs]), chosen.dead_letters.name]
        counts: Mapping[str, int] = dict.fromkeys(names, PARTITIONS)
        self.store = TaskStore(directory / str(partition))
        self.task = Task(
            Assignment(
                app_id="alone",
                partition=partition,
                cluster=NOWHERE,
                fetcher=Fetcher(NOWHERE, "inputs", chosen.fetch_bytes_max),
                settings=chosen,
                inputs=inputs,
                tables=self.tables,
                partition_counts=counts,
                directory=directory,
                membership=NO_MEMBER,
                ownership=AtLeastOnce(NOWHERE, "alone", 1_000, lambda: NO_MEMBER),
                store=self.store,
            ),
            self._deliver,
            buried,
        )
        self.task.tables = {each.name: TaskTable(each, self.store, partition) for each in self.tables}
        unsafe: Any = self.task
        unsafe.commit = self._commit

    async def _deliver(self, batch: Batch) -> None:
        async with unit_of_work(batch) as work:
            for record in work.records():
                self._handle(work, record)

    async def _commit(self, work: Effects) -> None:
        """Do as Task.commit does, with a list in the place of Kafka."""
        self.commits += 1
        changes = self.task.encode_changes(work)
        for tp, batches in sent(work.outbox, a_producer()).items():
            for _, records in batches:
                self.out += [Out(tp.topic, tp.partition, each[0], each[1], dict(each[2])) for each in records]
        self.task.apply(work, changes, {table.changelog: 1 for table in self.task.tables.values()})
        if work.chunk is not None:
            self.taken += [f"{spec.name}/{raw.offset}" for spec, raw in work.chunk.items]

    async def take(self, *items: Item) -> None:
        """Process records, in one batch; they come in the order of the inputs."""
        ordered = sorted(items, key=lambda item: self._inputs.index(item[0]))
        at: dict[TP, int] = {
            TP(spec.name, self.task.partition): raw.offset for spec, raw in reversed(ordered)
        }
        ends = {TP(spec.name, self.task.partition): raw.offset + 1 for spec, raw in ordered}
        await self.task.processing.process(Chunk(ordered, at, ends))

    def taking(self, *items: Item) -> "asyncio.Task[None]":
        """The same, under way."""
        return asyncio.create_task(self.take(*items))

    def sent(self, topic: TopicSpec) -> list[Out]:
        return [each for each in self.out if each.topic == topic.name]

    @property
    def dead(self) -> list[dict[str, str]]:
        """The dead letters' own headers, without their prefix."""
        return [
            {
                name.removeprefix("dead-letter-"): value.decode()
                for name, value in each.headers.items()
                if name.startswith("dead-letter-")
            }
            for each in self.sent(APP.settings.dead_letters)
        ]

    @property
    def quarantined(self) -> list[str]:
        return [key for key, _ in self.task.tables["quarantine"].items()]


def a_key(partition: int = 1, number: int = 0) -> str:
    """The `number`th key of a partition."""
    found = [
        key for each in range(200) if partition_of((key := f"key-{each}").encode(), PARTITIONS) == partition
    ]
    return found[number]
