"""What a test sees of a service from outside: what went in, what came out, what is in the tables.

It reads with aiokafka's own consumer and knows nothing of the engine but its topics' names and the store's
format on disk.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from app.engine.state.store import TaskStore
from app.engine.state.table import CHANGELOG_CONFIG
from tests.engine.service import Number, Options, Total, topics
from tests.engine.waiting import PATIENCE_S, until


class Written(NamedTuple):
    """An input as the log has it."""

    topic: str
    partition: int
    offset: int
    number: Number


class Dead(NamedTuple):
    """A dead letter to expect: what became of the record at `source` (topic/partition/offset)."""

    source: str
    error: str = ""
    attempts: int = 0
    behind: str | None = None


class World:
    """One service's topics in a real Kafka, and the inputs that were written."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._ids = itertools.count()
        self.corrections, self.numbers, self.totals, self.dead_letters = topics(options)
        self.changelog = f"{options.id}-sums-changelog"
        self.quarantine_changelog = f"{options.id}-quarantine-changelog"
        self.written: list[Written] = []
        address = options.bootstrap
        self._admin = AIOKafkaAdminClient(bootstrap_servers=address)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=address, max_request_size=9_000_000, enable_idempotence=True
        )
        self._consumer = AIOKafkaConsumer(bootstrap_servers=address, isolation_level="read_committed")

    async def __aenter__(self) -> "World":
        await self._admin.start()
        count, copies = self.options.partitions, self.options.replication_factor
        news = [
            NewTopic(spec.name, spec.partitions or count, copies, topic_configs=dict(spec.config))
            for spec in (self.corrections, self.numbers, self.totals, self.dead_letters)
        ]
        news += [
            NewTopic(name, count, copies, topic_configs=dict(CHANGELOG_CONFIG))
            for name in (self.changelog, self.quarantine_changelog)
        ]
        await self._admin.create_topics(news)
        await self._consumer.start()
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()
        await self._consumer.stop()
        await self._admin.close()

    # -- in

    async def send(
        self,
        *numbers: Number,
        topic: str | None = None,
        by: AIOKafkaProducer | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Write numbers, in order, and remember where they stand."""
        topic = topic or self.numbers.name
        producer = by or self._producer
        sent = [
            await producer.send(
                topic,
                msgspec.json.encode(each),
                each.key.encode(),
                headers=[("correlation-id", each.id.encode()), *headers],
            )
            for each in numbers
        ]
        for number, future in zip(numbers, sent, strict=True):
            at = await future
            self.written.append(Written(topic, at.partition, at.offset, number))

    async def send_nowait(self, *numbers: Number) -> None:
        """Hand numbers to the client; nobody knows what becomes of them."""
        for each in numbers:
            sent = await self._producer.send(self.numbers.name, msgspec.json.encode(each), each.key.encode())
            sent.add_done_callback(lambda future: future.exception())

    async def take_the_log_at_its_word(self) -> None:
        """After a broker's death: what was written is what stands in the log."""
        self.written = [
            Written(
                record.topic, record.partition, record.offset, msgspec.json.decode(record.value, type=Number)
            )
            for spec in (self.corrections, self.numbers)
            for record in await self.read(spec.name)
        ]

    async def send_unseen(self, *numbers: Number, by: AIOKafkaProducer) -> None:
        """Write numbers that nobody shall ever see."""
        before = len(self.written)
        await self.send(*numbers, by=by)
        del self.written[before:]

    def note(self, number: Number, offset: int) -> None:
        """Remember a number that was written in some other way, to partition 0 of the numbers."""
        self.written.append(Written(self.numbers.name, 0, offset, number))

    def expect_ticks(self) -> None:
        """What the tasks' companions are to commit."""
        for partition in range(self.options.partitions):
            key = f"tick-{partition}"
            self.written += [
                Written(key, partition, each, Number(f"{key}-{each}", key, 1))
                for each in range(1, self.options.ticks + 1)
            ]

    async def send_raw(self, value: bytes | None, key: bytes | None, **more: Any) -> Any:
        """Write bytes that are no number."""
        topic = more.pop("topic", self.numbers.name)
        return await self._producer.send_and_wait(topic, value, key, **more)

    def more(self, count: int, *, keys: int = 7) -> list[Number]:
        """The next `count` numbers over `keys` keys, each with an id of its own."""
        return [
            Number(id=f"n{index}", key=f"key-{index % keys}", number=(index * 7919) % 1000)
            for index in itertools.islice(self._ids, count)
        ]

    def source(self, number: Number) -> str:
        """Where a number stands in the log."""
        (at,) = [each for each in self.written if each.number == number]
        return f"{at.topic}/{at.partition}/{at.offset}"

    # -- out

    async def read(self, topic: str, *, committed: bool = True) -> list[ConsumerRecord]:
        """All records of a topic, a partition after the other."""
        return await read_all(self.options.bootstrap, topic, committed=committed)

    async def totals_out(self, *, committed: bool = True) -> list[tuple[ConsumerRecord, Total]]:
        found = await self.read(self.totals.name, committed=committed)
        return [(record, msgspec.json.decode(record.value, type=Total)) for record in found]

    async def dead(self) -> list[ConsumerRecord]:
        return await self.read(self.dead_letters.name)

    async def table(self) -> dict[str, Total]:
        """The table as its changelog has it."""
        table: dict[str, Total] = {}
        for record in await self.read(self.changelog):
            assert record.key is not None
            table[record.key.decode()] = msgspec.json.decode(record.value, type=Total)
        return table

    async def quarantine(self) -> dict[str, dict[str, Any]]:
        """Which keys wait behind which record, and how many records do."""
        log = await self.read(self.quarantine_changelog)
        return {(each.key or b"").decode(): msgspec.json.decode(each.value) for each in log}

    async def progress(self) -> dict[TopicPartition, tuple[int, int]]:
        """The group's committed offset and the end of each input."""
        tps = [
            TopicPartition(spec.name, p)
            for spec in (self.corrections, self.numbers)
            for p in range(self.options.partitions)
        ]
        ends = await self._consumer.end_offsets(tps)
        try:
            offsets = await self._admin.list_consumer_group_offsets(self.options.id)
        except KafkaError:  # its coordinator is not there yet
            offsets = {}
        at = {tp: max(0, offsets[tp].offset) if tp in offsets else 0 for tp in tps}
        for each in self.written:  # the last stable offset may still lag behind a transaction that is over
            tp = TopicPartition(each.topic, each.partition)
            if tp in ends:
                ends[tp] = max(ends[tp], each.offset + 1)
        return {tp: (at[tp], ends[tp]) for tp in tps}

    async def behind(self) -> dict[TopicPartition, tuple[int, int]]:
        """Where the group's committed offset is not the end of the input: (committed, end)."""
        return {tp: (at, end) for tp, (at, end) in (await self.progress()).items() if at < end}

    async def all_processed(self, within_s: float = PATIENCE_S) -> None:
        """Wait until every input is committed as read."""

        async def done() -> bool:
            return not await self.behind()

        try:
            await until(done, within_s)
        except TimeoutError:
            raise AssertionError(f"not processed after {within_s} s: {await self.behind()}") from None

    async def markers_written(self) -> None:
        """Wait until what is committed can be read: a commit is answered before its markers are written."""
        topics = (self.totals.name, self.changelog, self.quarantine_changelog, self.dead_letters.name)
        tps = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in await self._partitions_of(topic)
        ]
        async with AIOKafkaConsumer(bootstrap_servers=self.options.bootstrap) as uncommitted:

            async def written() -> bool:
                return bool(await self._consumer.end_offsets(tps) == await uncommitted.end_offsets(tps))

            await until(written)

    async def _partitions_of(self, topic: str) -> set[int]:
        (described,) = await self._admin.describe_topics([topic])
        return {each["partition"] for each in described["partitions"]}

    async def wrong_dead_letters(self, expected: "Iterable[Dead]") -> list[str]:
        """Where the dead letters are not `expected`, in each key's order, bytes and headers as they came."""
        await self.markers_written()
        found = await self.dead()
        by_source = {source_of(each): each for each in found}
        wrong = [f"{n} dead letters of {s}" for s, n in Counter(map(source_of, found)).items() if n > 1]
        wanted = {each.source: each for each in expected}
        wrong += [f"no dead letter of {source}" for source in wanted if source not in by_source]
        wrong += [f"a dead letter of {source}" for source in by_source if source not in wanted]
        raws = {
            f"{record.topic}/{record.partition}/{record.offset}": record
            for spec in (self.corrections, self.numbers)
            for record in await self.read(spec.name)
        }
        for source, letter in by_source.items():
            if source in wanted:
                wrong += _wrong_letter(letter, raws[source], wanted[source], self.options.id)
        offsets: dict[tuple[str, bytes | None], int] = defaultdict(lambda: -1)
        for letter in found:
            topic, _, offset = source_of(letter).split("/")
            if int(offset) <= offsets[topic, letter.key]:
                wrong.append(f"the dead letter of {source_of(letter)} is out of order")
            offsets[topic, letter.key] = int(offset)
        return wrong

    # -- the verdict

    async def faults(
        self, *, directories: Iterable[Path] = (), dead: Iterable[str] = (), exactly_once: bool = True
    ) -> list[str]:
        """Everything that is wrong, [] when all is well: outputs, table, stores on disk, what was told.

        `dead` are the ids of numbers that shall have no total.
        """
        expected = {each.number.id: each for each in self.written if each.number.id not in set(dead)}
        await self.markers_written()
        outputs = await self.totals_out()
        seen = Counter(total.id for _, total in outputs)
        found = [f"no total for {id}" for id in expected if id not in seen]
        found += [f"a total for {id}, which nobody sent" for id in seen if id not in expected]
        if exactly_once:
            found += [f"{count} totals for {id}" for id, count in seen.items() if count > 1]
            found += _wrong_partitions(outputs, self.options.partitions + 1)
            if not found:
                found += _wrong_sums(outputs, expected)
                found += _wrong_table(outputs, await self.table())
            for directory in directories:
                found += await self.wrong_stores(directory)
        return found

    async def wrong_stores(self, directory: Path) -> list[str]:
        """Where a worker's store on disk is not what the changelog says up to the store's own offset."""
        found: list[str] = []
        paths = stores_below(directory)
        if not paths:
            return [f"there are no tables below {directory}"]
        for name, changelog in (("sums", self.changelog), ("quarantine", self.quarantine_changelog)):
            log = await self.read(changelog)
            for path in paths:
                store = TaskStore(path)
                try:
                    applied = store.applied(name)
                    content = dict(store.scan(name))
                finally:
                    store.close()
                upto = 0 if applied is None else applied.next_offset
                wanted: dict[bytes, bytes] = {}
                for record in log:
                    if record.partition == int(path.name) and record.offset < upto:
                        if record.value is None:
                            wanted.pop(record.key, None)
                        else:
                            wanted[record.key] = record.value
                if content != wanted:
                    found.append(f"{path} {name} at {upto}: {_difference(content, wanted)}")
        return found


def stores_below(directory: Path) -> list[Path]:
    return sorted(each for each in directory.rglob("tables/*") if each.name.isdigit())


def source_of(letter: ConsumerRecord) -> str:
    headers = dict(letter.headers)
    return "/".join(headers[f"dead-letter-{each}"].decode() for each in ("topic", "partition", "offset"))


def _wrong_letter(letter: ConsumerRecord, raw: ConsumerRecord, wanted: Dead, service: str) -> list[str]:
    found = []
    if (letter.key, letter.value) != (raw.key, raw.value):
        found.append(f"the dead letter of {wanted.source} is not what came")
    own = [(name, value.decode()) for name, value in letter.headers if name.startswith("dead-letter-")]
    came = [each for each in letter.headers if not each[0].startswith("dead-letter-")]
    if came != list(raw.headers):
        found.append(f"the dead letter of {wanted.source} has lost headers: {came} of {raw.headers}")
    told = dict(own)
    odd = {"service": service, "timestamp": str(raw.timestamp)}
    if wanted.behind is not None:
        odd["held-behind"] = wanted.behind
    else:
        odd["attempts"] = str(wanted.attempts)
    found += [
        f"the dead letter of {wanted.source} says {name} {told.get(f'dead-letter-{name}')}, not {value}"
        for name, value in odd.items()
        if told.get(f"dead-letter-{name}") != value
    ]
    if wanted.behind is None and wanted.error not in told.get("dead-letter-error", ""):
        found.append(f"the dead letter of {wanted.source} has another error: {told}")
    return found


def _wrong_partitions(outputs: list[tuple[ConsumerRecord, Total]], count: int) -> list[str]:
    everywhere = list(range(count))
    return [
        f"{total} is in partition {record.partition}"
        for record, total in outputs
        if record.partition != DefaultPartitioner()(total.key.encode(), everywhere, everywhere)
    ]


def _wrong_sums(outputs: list[tuple[ConsumerRecord, Total]], expected: Mapping[str, Written]) -> list[str]:
    """Along each key: counts go up by one, sums by the number; each input topic's own order is kept."""
    found: list[str] = []
    state: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    offsets: dict[tuple[str, str], int] = defaultdict(lambda: -1)
    for _, total in outputs:
        source = expected[total.id]
        count, sum_ = state[total.key]
        state[total.key] = (count + 1, sum_ + source.number.number)
        if (total.count, total.sum) != state[total.key]:
            found.append(f"{total} follows count {count} and sum {sum_}")
            state[total.key] = (total.count, total.sum)
        if source.offset <= offsets[source.topic, total.key]:
            found.append(f"{total} is out of order")
        offsets[source.topic, total.key] = source.offset
    return found


def _wrong_table(outputs: list[tuple[ConsumerRecord, Total]], table: dict[str, Total]) -> list[str]:
    last = {total.key: total for _, total in outputs}
    return [] if last == table else [f"the table differs from the totals: {_difference(table, last)}"]


def _difference(found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> str:
    odd = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key!r} is {found.get(key)} instead of {wanted.get(key)}" for key in odd[:5])


async def read_all(bootstrap: str, topic: str, *, committed: bool = True) -> list[ConsumerRecord]:
    """All records of a topic up to its end as it is now."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        isolation_level="read_committed" if committed else "read_uncommitted",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        found: dict[TopicPartition, list[ConsumerRecord]] = {tp: [] for tp in partitions}
        async with asyncio.timeout(PATIENCE_S):
            while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
                for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                    found[tp] += [record for record in records if record.offset < ends[tp]]
        return [record for records in found.values() for record in records]
    finally:
        await consumer.stop()
