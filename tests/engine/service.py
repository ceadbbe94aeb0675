"""The example service of these tests: adds numbers up by key, with everything the engine offers.

`faust -A tests.engine.worker worker` runs it alone; `make_app` makes one per test, under names of its own.
"""

import asyncio
import ctypes
import re
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from app.engine import App, EngineSettings, NewerRelease, Poison, Task, TopicSpec, Transient, unit_of_work


class Number(msgspec.Struct, frozen=True):
    """Add `number` to the sum of `key`; `then` names what goes wrong on the way."""

    id: str
    key: str
    number: int
    then: str = ""


class Total(msgspec.Struct, frozen=True):
    """The sum of a key after number `id`. It is also the table's value."""

    id: str
    key: str
    count: int
    sum: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One service: its names, and where it finds Kafka and keeps its tables."""

    bootstrap: str
    id: str
    directory: str
    client_id: str = "sum"
    partitions: int = 1
    replication_factor: int = 1
    exactly_once: bool = True
    batch_records_max: int = 50
    inbox_records_max: int = 200
    fetch_bytes_max: int = 1024 * 1024
    attempts_max: int = 2
    session_timeout_s: float = 1.0
    transaction_timeout_ms: int = 10_000
    standby_replicas: int = 1
    disk_free_bytes_min: int = 0
    stuck_s_max: float = 0.0
    stumbles: int = 0
    """How many batches make the agent fail before its unit of work, and then how many behind it."""
    release: int = 1
    """The newest version of events and table values that this build knows; tables are written in it."""
    ticks: int = 0
    """How many units of work of its own a companion commits beside each task."""

    @property
    def outside(self) -> Path:
        """What the service has told the world, one id a line: written after the commit only."""
        return Path(self.directory) / "outside"

    def outside_of(self, worker: str) -> Path:
        """The same, of the worker named."""
        return Path(self.directory) / worker / "outside"


class JsonCodec:
    """JSON of one struct. A record that names a version above `release` is not for this build."""

    def __init__(self, kind: type[msgspec.Struct], release: int = 1) -> None:
        self._kind = kind
        self._release = release

    def decode(self, event_type: bytes, schema_version: bytes, data: bytes) -> Any:
        if schema_version and schema_version.isdigit() and int(schema_version) > self._release:
            raise NewerRelease(self._kind.__name__, int(schema_version), self._release)
        return msgspec.json.decode(data, type=self._kind)

    def encode(self, value: Any) -> tuple[bytes, bytes, bytes]:
        return self._kind.__name__.encode(), b"1", msgspec.json.encode(value)


class TotalCodec:
    """A table's totals; what a later release has written begins with its version."""

    frozen = True

    def __init__(self, release: int) -> None:
        self._release = release

    def decode(self, data: bytes) -> Total:
        found = re.match(rb'\{"\$v":(\d+)', data)
        if found and int(found[1]) > self._release:
            raise NewerRelease("table sums", int(found[1]), self._release)
        return msgspec.json.decode(data, type=Total)

    def encode(self, value: Total) -> bytes:
        data = msgspec.json.encode(value)
        return data if self._release == 1 else b'{"$v":%d,' % self._release + data[1:]


def key_of(value: Any) -> bytes:
    return str(value.key).encode()


def topics(options: Options) -> tuple[TopicSpec, TopicSpec, TopicSpec, TopicSpec]:
    """The inputs (corrections come first, and from the edge), the output, the dead letters."""
    name, codec, large = (
        options.id,
        JsonCodec(Number, options.release),
        {"max.message.bytes": str(8 * 1024 * 1024)},
    )
    return (
        TopicSpec(f"corrections-{name}", codec, key_of, options.partitions, edge=True, config=large),
        TopicSpec(f"numbers-{name}", codec, key_of, options.partitions, config=large),
        TopicSpec(f"totals-{name}", JsonCodec(Total), key_of, options.partitions + 1, config=large),
        TopicSpec(f"dead-letters-{name}", codec, partitions=1, config=large),
    )


def make_app(options: Options) -> App:
    """The service."""
    corrections, numbers, totals, dead_letters = topics(options)
    app = App(
        options.id,
        settings=EngineSettings(
            bootstrap=options.bootstrap,
            dead_letters=dead_letters,
            exactly_once=options.exactly_once,
            partitions=options.partitions,
            transaction_timeout_ms=options.transaction_timeout_ms,
            session_timeout_s=options.session_timeout_s,
            heartbeat_interval_s=options.session_timeout_s / 10,
            batch_records_max=options.batch_records_max,
            inbox_records_max=options.inbox_records_max,
            fetch_bytes_max=options.fetch_bytes_max,
            attempts_max=options.attempts_max,
            standby_replicas=options.standby_replicas,
            disk_free_bytes_min=options.disk_free_bytes_min,
            stuck_s_max=options.stuck_s_max,
        ),
        topics=[corrections, numbers, totals],
        modules=[],
        datadir=Path(options.directory),
        broker_client_id=options.client_id,
        web_enabled=False,
    )
    sums = app.Table("sums", value_type=TotalCodec(options.release))

    @app.agent(app.inputs(corrections, numbers))
    async def add_up(batches: Any) -> None:
        async for batch in batches:
            stumble(1, options)
            async with unit_of_work(batch) as work:
                for record in work.records():
                    number = record.value
                    if number.then == "ignore":
                        continue
                    if number.then == "wait":
                        await asyncio.Event().wait()
                    misbehave(number.then)
                    before = work[sums].get(number.key)
                    count, total = (before.count, before.sum) if before is not None else (0, 0)
                    after = Total(number.id, number.key, count + 1, total + number.number)
                    work[sums][number.key] = after
                    work.emit(totals, after)
                    work.after_commit(partial(tell, options.outside, number.id))
            stumble(2, options)

    @app.per_task
    async def tick(task: Task) -> None:
        key, done = f"tick-{task.partition}", 0
        while done < options.ticks:
            with suppress(Transient):
                async with unit_of_work(task) as work:
                    before = work[sums].get(key, Total("", key, 0, 0))
                    done = before.count + 1
                    after = Total(f"{key}-{done}", key, done, before.sum + 1)
                    if done <= options.ticks:
                        work[sums][key] = after
                        work.emit(totals, after, event_id=after.id)
            await asyncio.sleep(0.01)

    return app


def stumble(time: int, options: Options) -> None:
    """Fail outside the unit of work: `stumbles` times in front of it (time 1), as often behind it (2)."""
    past = tries.get(f"stumble {time}", 0)
    tries[f"stumble {time}"] = past + 1
    if past < options.stumbles:
        raise ArithmeticError(f"the agent stumbles outside its unit of work, {time}")


def tell(outside: Path, what: str) -> None:
    with outside.open("a") as file:
        file.write(f"{what}\n")


tries: dict[str, int] = {}


def misbehave(then: str) -> None:
    """Do what a number asks for: `poison`, `absurd`, `fail`, `fail/3/token` (3 times), `transient/3/any`."""
    kind, _, rest = then.partition("/")
    if not kind:
        return
    times, _, token = rest.partition("/")
    tries[then] = tries.get(then, 0) + 1
    if times and tries[then] > int(times):
        return
    match kind:
        case "hang":
            time.sleep(3600)
        case "grip":
            ctypes.PyDLL(None).sleep(3600)  # a call into C that does not let the interpreter go
        case "poison":
            raise Poison("this number can never be added")
        case "absurd":
            raise Poison("nothing depends on this number", holds_key=False)
        case "transient":
            raise Transient(f"not now, {token}")
        case "fail":
            raise ArithmeticError(f"this number fails {token}")
