"""What the ten rules are for: each scenario lets the worst happen at the worst time and says what went wrong.

A scenario returns its findings, [] when the rule holds. `vain_s` is how long it waits for what only a broken
engine never does.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from app.engine.core.inbox import Inbox
from app.engine.errors import OffsetsLost, PositionGap
from app.engine.kafka.cluster import Cluster, Fetched, Membership, partition_of, route
from app.engine.kafka.protocol import TxnOffsetCommit
from app.engine.kafka.transaction import Producer, RecordRefused, TransactionFailed
from app.engine.kafka.watermarks import STALL_S
from storm.steps import Gate, Killed, Plan, Step, at_time, raise_
from tests.engine.network import BadNetwork
from tests.engine.service import Number
from tests.engine.waiting import until
from tests.engine.workers import BareWorker
from tests.engine.world import Dead, World

LATE_REQUESTS = 25
Scenario = Callable[[World, float], Awaitable[list[str]]]
SCENARIOS: dict[str, Scenario] = {}
PARTITIONS = {"strays": 2, "neighbours": 2}
"""How many partitions a scenario's world has, where it is not one."""


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def tables_of(world: World, *workers: str) -> list[Path]:
    return [Path(world.options.directory) / worker for worker in workers]


async def reached(gate: Gate) -> None:
    await until(gate.reached.is_set)


def stranger(world: World) -> AIOKafkaProducer:
    """Somebody with transactions of their own, for the time of an `async with` block."""
    return AIOKafkaProducer(
        bootstrap_servers=world.options.bootstrap,
        transactional_id=f"stranger-{world.options.id}",
        transaction_timeout_ms=15_000,
    )


async def caught(world: World, worker: BareWorker, step: Step = Step.BEFORE_COMMIT, count: int = 20) -> Gate:
    """Let a worker commit some numbers, and stop it at this step with as many more in hand."""
    gate = Gate()
    await world.send(*world.more(count))
    await worker.own()
    await worker.committed(count)
    worker.plan[step] = gate
    await world.send(*world.more(count))
    await reached(gate)
    return gate


@scenario
async def take_over(world: World, vain_s: float) -> list[str]:
    """Rule 1: the old owner's transaction is open; it tries to commit between two steps of a take-over."""
    between = Gate()
    async with (
        BareWorker(world.options, "old") as old,
        BareWorker(
            world.options,
            "new",
            {Step.FENCED_OTHERS: between, Step.READ_OFFSETS: between, Step.RESTORED: between},
        ) as new,
    ):
        commit = await caught(world, old, count=30)
        await new.own()
        await reached(between)
        commit.open()
        await old.over_or_committed(60)
        between.open()
        await world.send(*world.more(30))
        await world.all_processed()
        await new.vanish()
    return await world.faults(directories=tables_of(world, "new"))


@scenario
async def new_input(world: World, vain_s: float) -> list[str]:
    """Rule 1: an input that a release adds to a service that has run is read from its beginning."""
    await world.send(*world.more(10), topic=world.corrections.name)
    async with BareWorker(world.options, "only") as worker:
        worker.app.input_specs = [world.numbers]
        await worker.own()
        await worker.ready()
        await world.send(*world.more(20))
        await worker.committed(20)
        await worker.stop()
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        with suppress(TimeoutError):
            await worker.committed(10, vain_s)
        await worker.stop()
    return await world.faults(directories=tables_of(world, "only"))


@scenario
async def lost_offsets(world: World, vain_s: float) -> list[str]:
    """Rule 1: a task does not begin anew with an input whose offsets are gone."""
    group_offsets = Cluster.group_offsets

    async def without_corrections(cluster: Cluster, group: str, tps: Any, **more: Any) -> Any:
        found = await group_offsets(cluster, group, tps, **more)
        return {tp: None if tp.topic == world.corrections.name else each for tp, each in found.items()}

    await world.send(*world.more(10), topic=world.corrections.name)
    await world.send(*world.more(20))
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.all_processed()
        await worker.stop()
    async with BareWorker(world.options, "only") as worker:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Cluster, "group_offsets", without_corrections)
            await worker.own()
            with suppress(OffsetsLost, TimeoutError):
                await worker.over_or_committed(10)
                await worker.ended(vain_s)
    return await world.faults()


@scenario
async def open_transaction(world: World, vain_s: float) -> list[str]:
    """Rule 2: nobody reads past somebody's open transaction, and who has to wait for it says so."""
    async with stranger(world) as upstream, BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        task = worker.tasks[0]
        await upstream.begin_transaction()
        await world.send_unseen(*world.more(1), by=upstream)
        try:
            await until(lambda: bool(task.watermarks.waiting), STALL_S + vain_s)
        except TimeoutError:
            return ["nobody says that it waits"]
        if task.lag[world.numbers.name] == 0:
            return ["it waits without lag"]
        await upstream.abort_transaction()
        await until(lambda: not task.watermarks.waiting and not any(task.lag.values()))
        await worker.stop()
    return await world.faults()


@scenario
async def read_committed(world: World, vain_s: float) -> list[str]:
    """Rule 2: what a producer has aborted, or not yet committed, is no input."""
    async with stranger(world) as upstream, BareWorker(world.options, "only") as worker:
        await worker.own()
        await upstream.begin_transaction()
        await world.send(*world.more(20), by=upstream)
        await upstream.commit_transaction()
        await upstream.begin_transaction()
        await world.send_unseen(*world.more(20), by=upstream)
        await upstream.abort_transaction()
        await world.send(*world.more(20))
        await upstream.begin_transaction()
        await world.send_unseen(*world.more(20), by=upstream)
        await world.all_processed()
        findings = await world.faults()
        await upstream.abort_transaction()
        await world.send(*world.more(20))
        await world.all_processed()
        await worker.stop()
        return findings + await world.faults(directories=tables_of(world, "only"))


@scenario
async def restore_after_abort(world: World, vain_s: float) -> list[str]:
    """Rule 2: table records of a transaction that its owner did not live to commit are not restored."""
    async with BareWorker(world.options, "old") as old:
        await caught(world, old)
    async with BareWorker(world.options, "new") as new:
        await new.own()
        await world.all_processed()
        await new.stop()
        return await world.faults(directories=tables_of(world, "new", "old"))


@scenario
async def standby(world: World, vain_s: float) -> list[str]:
    """Rule 2: a standby follows what is committed, and only that; then it takes over."""
    commit, name = Gate(), "standby"
    async with (
        BareWorker(world.options, "owner") as owner,
        BareWorker(world.options, name) as second,
    ):
        await world.send(*world.more(20))
        await owner.own()
        await owner.committed(20)
        owner.plan[Step.BEFORE_COMMIT] = commit
        async with second.standby(0) as following:
            await world.send(*world.more(20))
            await reached(commit)
            await until(lambda: following.lag == {"sums": 0, "quarantine": 0})
            await asyncio.sleep(0.3)  # time for a standby that reads too much
        findings = await world.wrong_stores(*tables_of(world, name))
        async with second.standby(0) as following:
            commit.open()
            await world.all_processed()
            table = {key: total.count for key, total in (await world.table()).items()}
            await until(lambda: following.lag == {"sums": 0, "quarantine": 0})
        findings += [] if len(table) == 7 else [f"the table is {table}"]
        await second.own()
        await second.ready()
        await world.send(*world.more(20))
        await world.all_processed()
        await second.stop()
    return findings + await world.faults(directories=tables_of(world, name))


@scenario
async def killed_before_commit(world: World, vain_s: float) -> list[str]:
    """Rule 3: a worker dies with everything sent and nothing committed; its store must not know of it."""
    async with BareWorker(world.options, "only") as worker:
        await caught(world, worker)
    findings = await world.wrong_stores(*tables_of(world, "only"))
    return findings + await _goes_on(world)


@scenario
async def killed_after_commit(world: World, vain_s: float) -> list[str]:
    """Rule 3: a worker dies between its commit and its store's write; the store catches up with Kafka."""
    async with BareWorker(world.options, "only") as worker:
        await caught(world, worker, Step.AFTER_COMMIT)
    findings = await world.wrong_stores(*tables_of(world, "only"))
    await world.send(*world.more(20))
    return findings + await _goes_on(world)


@scenario
async def killed_in_store_write(world: World, vain_s: float) -> list[str]:
    """Rule 3: a worker dies right behind a write to its store."""
    plan = {Step.AFTER_APPLY: at_time(3, raise_(Killed()))}
    await world.send(*world.more(20))
    async with BareWorker(world.options, "only", plan) as worker:
        await worker.own()
        while not worker.killed:
            await world.send(*world.more(5))
            await asyncio.sleep(0.02)
    findings = await world.wrong_stores(*tables_of(world, "only"))
    return findings + await _goes_on(world)


async def _goes_on(world: World) -> list[str]:
    """The same worker comes back."""
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.all_processed()
        await worker.stop()
    return await world.faults(directories=tables_of(world, "only"))


@scenario
async def restore_ends(world: World, vain_s: float) -> list[str]:
    """Rule 4: a changelog ends in a transaction marker, with somebody's open transaction behind it."""
    await world.send(*world.more(20))
    async with BareWorker(world.options, "old") as old:
        await old.own()
        await world.all_processed()
        await old.stop()
    async with stranger(world) as other:
        await other.begin_transaction()
        await other.send_and_wait(world.changelog, b"no total", b"key-0", partition=0)
        async with BareWorker(world.options, "new") as new:
            await new.own()
            try:
                async with asyncio.timeout(vain_s):
                    await new.ready()
            except TimeoutError:
                return [f"not restored after {vain_s} s"]
            await other.abort_transaction()
            await world.send(*world.more(20))
            await world.all_processed()
            await new.stop()
        return await world.faults(directories=tables_of(world, "new"))


@scenario
async def zombie(world: World, vain_s: float) -> list[str]:
    """Rule 5: an owner sleeps over the take-over of its task, wakes up and goes on with its commit."""
    async with (
        BareWorker(world.options, "zombie") as sleeper,
        BareWorker(world.options, "owner") as owner,
    ):
        commit = await caught(world, sleeper)
        await owner.own()
        await world.all_processed()
        commit.open()
        await sleeper.over_or_committed(40)
        await sleeper.vanish()
        await world.send(*world.more(20))
        await owner.revive_if_fenced()
        await world.all_processed()
        await owner.vanish()
    return await world.faults(directories=tables_of(world, "zombie", "owner"))


@scenario
async def refused_transaction(world: World, vain_s: float) -> list[str]:
    """Rule 5: Kafka refuses a transaction at its end, twice, and each time all of it comes again."""
    plan: Plan = {}
    refusals = 0

    def refuse() -> None:
        nonlocal refusals
        refusals += 1
        raise TransactionFailed("refused by the test")

    async with BareWorker(world.options, "only", plan) as worker:
        await worker.own()
        for wave in range(2):
            await world.send(*world.more(20))
            await world.all_processed()
            plan[Step.BEFORE_COMMIT] = at_time(1, refuse)
            while refusals == wave:
                await world.send(*world.more(5))
                await asyncio.sleep(0.02)
        await world.send(*world.more(20))
        await world.all_processed()
        await worker.stop()
    return await world.faults(directories=tables_of(world, "only"))


@scenario
async def neighbours(world: World, vain_s: float) -> list[str]:
    """Rule 5: Kafka refuses a record of one task; the others of its transaction are committed in the next."""
    send, refusals = Producer.send, 0
    (refused,) = {route(world.totals.name, b"key-0", world.options.partitions + 1)}

    async def refusing(producer: Producer, outboxes: Any, *more: Any) -> Any:
        nonlocal refusals
        found = await send(producer, outboxes, *more)
        if refusals < 3 and any(refused in outbox.partitions for outbox in outboxes):
            refusals += 1
            raise RecordRefused(refused, {10})
        return found

    together = Gate()
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        worker.plan[Step.BEFORE_PRODUCE] = together
        await world.send(*world.more(5))
        await reached(together)
        await world.send(*world.more(100))
        await asyncio.sleep(0.2)  # both tasks have a share for the next transaction
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Producer, "send", refusing)
            together.open()
            await world.all_processed()
        await worker.stop()
    findings = [] if refusals else ["nothing was refused"]
    return findings + await world.faults(directories=tables_of(world, "only"))


@scenario
async def stale_generation(world: World, vain_s: float) -> list[str]:
    """Rule 5: the group has moved on, nobody has fenced the worker: it commits nothing before it knows."""
    async with member(world) as first, BareWorker(world.options, "only") as worker:
        worker.joins(first())
        await worker.own()
        await world.send(*world.more(20))
        await worker.committed(20)
        before = first()
        async with member(world):
            await until(lambda: first() != before)
            await world.send(*world.more(20))
            with suppress(TimeoutError):
                await worker.committed(40, 1.0)
            findings = [
                f"{at} are committed in a generation that is over"
                for at, _ in (await world.progress()).values()
                if at > 20
            ]
            worker.joins(first())
            await world.all_processed()
            await worker.stop()
    return findings + await world.faults(directories=tables_of(world, "only"))


@asynccontextmanager
async def member(world: World) -> AsyncIterator[Callable[[], Membership]]:
    """Join the service's group as somebody; gives the membership."""
    consumer: Any = AIOKafkaConsumer(
        world.numbers.name,
        bootstrap_servers=world.options.bootstrap,
        group_id=world.options.id,
        enable_auto_commit=False,
        heartbeat_interval_ms=100,
    )
    await consumer.start()
    try:
        coordinator = consumer._coordinator
        await until(lambda: coordinator.generation > 0)
        yield lambda: Membership(coordinator.generation, coordinator.member_id)
    finally:
        await consumer.stop()


@scenario
async def dead_letters(world: World, vain_s: float) -> list[str]:
    """Rule 6: what fails, what is garbage, what is held behind it; a worker dies with all this in hand."""
    commit = Gate(after=2)
    fails, poison = Number("fails", "key-0", 1, "fail"), Number("poison", "key-1", 1, "poison")
    waits = Number("waits", "key-2", 5, f"transient/4/{world.options.id}")
    recovers = Number("recovers", "key-3", 5, f"fail/2/{world.options.id}")
    calm = world.more(14)
    await world.send(*calm, fails, poison, waits, recovers)
    behind = world.more(14)
    await world.send(*behind)
    held = [each for each in behind if each.key in ("key-0", "key-1")]
    headers = [("a", b"1"), ("a", b"\xff"), ("b", b"")]
    garbage = await world.send_raw(b"\xff no number", b"key-4", headers=headers)
    edge = await world.send_raw(
        b"{}", b"key-5", headers=[("event-type", b"Number")], topic=world.corrections.name
    )
    keyless = await world.send_raw(b"[", None)
    stranger = await world.send_raw(b'{"id": "x", "key": "key-6", "number": 1}', b"other")
    async with BareWorker(world.options, "only", {Step.BEFORE_COMMIT: commit}) as worker:
        await worker.own()
        await reached(commit)
    later = world.more(14)
    held_later = [each for each in later if each.key in ("key-0", "key-1", "key-4")]
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await world.all_processed()
    async with BareWorker(world.options, "other") as worker:
        await worker.own()
        await world.send(*later)
        await world.all_processed()
        await worker.stop()
    stands = f"{world.numbers.name}/0/{garbage.offset}"
    first = {"key-0": world.source(fails), "key-1": world.source(poison), "key-4": stands}
    letters = [
        Dead(world.source(fails), "ArithmeticError: this number fails", attempts=2),
        Dead(world.source(poison), "this number can never be added", attempts=1),
        Dead(stands, "", attempts=1),
        Dead(f"{world.corrections.name}/0/{edge.offset}", "missing", attempts=1),
        Dead(f"{world.numbers.name}/0/{keyless.offset}", "", attempts=1),
        Dead(f"{world.numbers.name}/0/{stranger.offset}", "the key 'other'", attempts=1),
        *(Dead(world.source(each), behind=first[each.key]) for each in [*held, *held_later]),
    ]
    dead = [each.id for each in [fails, poison, *held, *held_later]]
    findings = await world.wrong_dead_letters(letters) + await world.faults(
        directories=tables_of(world, "only", "other"), dead=dead
    )
    waiting = Counter(each.key for each in [*held, *held_later])
    first["other"] = f"{world.numbers.name}/0/{stranger.offset}"
    quarantine = {key: {"behind": source, "held": waiting[key]} for key, source in first.items()}
    if (found := await world.quarantine()) != quarantine:
        findings.append(f"the quarantine is {found}, not {quarantine}")
    return findings


@scenario
async def strays(world: World, vain_s: float) -> list[str]:
    """Rule 6: some clients have another partitioner. Their records count nowhere, and hold up no key."""
    numbers, corrections = world.numbers.name, world.corrections.name
    letters, keys = [], [f"key-{each}" for each in range(7)]
    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        for key in keys:
            await world.send(*world.more(10))
            right = partition_of(key.encode(), 2)
            for topic in (numbers, corrections):
                for value in (msgspec.json.encode(Number(f"stray-{key}", key, 1)), b"no number", None):
                    at = await world.send_raw(value, key.encode(), topic=topic, partition=1 - right)
                    error = f"WrongPartition: the key {key.encode()!r} belongs on partition {right}"
                    letters.append(Dead(f"{topic}/{1 - right}/{at.offset}", error, attempts=1))
        await world.all_processed()
        await worker.stop()
    await world.send(*world.more(20))
    findings = await _goes_on(world) + await world.wrong_dead_letters(letters)
    quarantine = await world.quarantine()
    return findings + [f"{key} is quarantined" for key in quarantine]


@scenario
async def newer_release(world: World, vain_s: float) -> list[str]:
    """Rule 6: a newer release has written an event, then a table's value: an old build waits."""
    newer = msgspec.structs.replace(world.options, release=2)
    await world.send(*world.more(20))
    from_newer = Number("from-newer", "key-3", 3)
    await world.send(from_newer, headers=[("schema-version", b"2")])
    await world.send(*world.more(20))
    findings = []
    async with BareWorker(world.options, "old") as old, BareWorker(newer, "new") as new:
        await old.own()
        findings += await _waits(old, "Number in version 2 was written by a newer release", vain_s)
        findings += [f"{at} are read" for at, _ in (await world.progress()).values() if at not in (0, 20)]
        await new.own()
        await world.all_processed()
        await new.stop()
        await old.tasks[0].check()  # as the manager asks for it when a partition has moved
        await old.ended(vain_s)
    async with BareWorker(world.options, "old") as old:
        await old.own()
        await world.send(*world.more(20))
        findings += await _waits(old, "table sums in version 2 was written by a newer release", vain_s)
        await asyncio.wait_for(old.stop(), vain_s)
    async with BareWorker(newer, "new") as new:
        await new.own()
        await world.all_processed()
        await new.stop()
    findings += await world.wrong_dead_letters([])
    return findings + await world.faults(directories=tables_of(world, "new"))


async def _waits(worker: BareWorker, what: str, vain_s: float) -> list[str]:
    """Wait until a worker's task waits for a newer build, as it should."""
    (task,) = worker.tasks.values()
    try:
        await until(lambda: what in (task.waits_for or ""), vain_s)
    except TimeoutError:
        return [f"it waits for {task.waits_for}, not because {what}"]
    return [] if task.ready.is_set() else ["it waits, and has not begun"]


@scenario
async def told_the_world(world: World, vain_s: float) -> list[str]:
    """Rule 7: the outside hears of nothing that a worker dies before it commits, and of all that it did."""
    outside = world.options.outside_of("only")
    async with BareWorker(world.options, "only") as worker:
        await caught(world, worker)
    real = {total.id for _, total in await world.totals_out()}
    told = outside.read_text().split()
    findings = [f"{each} was told before it was committed" for each in told if each not in real]
    findings += [f"{each} was never told" for each in real if each not in told]
    findings += await _goes_on(world)
    twice = [each for each, count in Counter(outside.read_text().split()).items() if count > 1]
    return findings + [f"{each} was told twice" for each in twice]


@scenario
async def same_ids_again(world: World, vain_s: float) -> list[str]:
    """Rule 8: what comes again after a failure, in batches of another size, has the ids it had before."""
    produced = Gate()
    async with BareWorker(world.options, "old") as old:
        await old.own()
        await old.ready()
        old.plan[Step.AFTER_PRODUCE] = produced
        await world.send(*world.more(40))
        await reached(produced)
    smaller = msgspec.structs.replace(world.options, batch_records_max=7)
    async with BareWorker(smaller, "new") as new:
        await new.own()
        await world.all_processed()
        await new.stop()
    ids: dict[str, set[bytes]] = defaultdict(set)
    for record, total in await world.totals_out(committed=False):
        ids[total.id].add(dict(record.headers)["event-id"])
    findings = [f"{id} has the event ids {each}" for id, each in ids.items() if len(each) > 1]
    if sum(map(len, ids.values())) != len({each for some in ids.values() for each in some}):
        findings.append("one event id stands for several events")
    return findings + await world.faults(directories=tables_of(world, "new"))


@scenario
async def flood(world: World, vain_s: float) -> list[str]:
    """Rule 9: far more comes in than a task can take; what it holds stays bounded."""
    options = msgspec.structs.replace(world.options, fetch_bytes_max=4096)
    commit = Gate()
    fetched = 0
    take_in = Inbox.take_in

    def counting(inbox: Inbox, found: Fetched) -> None:
        nonlocal fetched
        fetched += len(found.records)
        take_in(inbox, found)

    await world.send(*world.more(1500))
    async with BareWorker(options, "only") as worker:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Inbox, "take_in", counting)
            await worker.own()
            await worker.ready()
            worker.plan[Step.BEFORE_COMMIT] = commit
            await reached(commit)
            before = -1
            while before != fetched:
                before = fetched
                await asyncio.sleep(0.5)
            bound = options.batch_records_max + options.inbox_records_max + 150
            findings = [f"{fetched} records are held, not {bound}"] if fetched > bound else []
            commit.open()
            await world.all_processed()
        if (largest := max(worker.batch_sizes)) > options.batch_records_max:
            findings.append(f"a batch has {largest} records")
        await worker.stop()
    return findings + await world.faults(directories=tables_of(world, "only"))


@scenario
async def back_and_forth(world: World, vain_s: float) -> list[str]:
    """Rule 10: a task leaves a worker that has read far ahead, and comes back to it."""
    commit = Gate()
    async with (
        BareWorker(world.options, "first") as first,
        BareWorker(world.options, "second") as second,
    ):
        await first.own()
        await first.ready()
        first.plan[Step.BEFORE_COMMIT] = commit
        await world.send(*world.more(150))
        await reached(commit)
        first.tasks[0].stop()
        commit.open()
        await first.ended()
        await second.own()
        await world.all_processed()
        await second.stop()
        await world.send(*world.more(20))
        await first.own()
        findings = await first.failing(world.all_processed())
        await first.vanish()
    return findings + await world.faults(directories=tables_of(world, "first", "second"))


@scenario
async def skipped_records(world: World, vain_s: float) -> list[str]:
    """Rule 10: a fetch skips records. The task stops, and nothing is lost when it starts again."""
    take_in = Inbox.take_in
    shall_skip = False

    def skipping(inbox: Inbox, found: Fetched) -> None:
        nonlocal shall_skip
        if shall_skip and found.records:
            shall_skip = False
            begin = found.records[0].offset + 1
            found = found._replace(position=begin, records=found.records[1:])
        take_in(inbox, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inbox, "take_in", skipping)
        async with BareWorker(world.options, "only") as worker:
            await worker.own()
            await world.send(*world.more(20))
            await world.all_processed()
            shall_skip = True
            await world.send(*world.more(20))
            try:
                await worker.ended(vain_s)
            except PositionGap:
                findings = []
            except TimeoutError:
                findings = ["the task goes on behind a gap"]
            else:
                findings = ["the task stops without a word"]
    return findings + await _goes_on(world)


@scenario
async def late_request(world: World, vain_s: float) -> list[str]:
    """Rule 5: the offsets of a transaction get no answer, and arrive again in the middle of the next one."""
    send = Cluster.send
    late: list[tuple[Cluster, int, Any]] = []

    async def lose_one(cluster: Cluster, node: int, request: Any, lane: object = "default") -> Any:
        if isinstance(request, TxnOffsetCommit) and not late:
            late.append((cluster, node, request))
            raise KafkaConnectionError("lost by the test")
        return await send(cluster, node, request, lane)

    async def deliver() -> None:
        await send(*late[0], "late")

    async with BareWorker(world.options, "only") as worker:
        await worker.own()
        await worker.ready()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Cluster, "send", lose_one)
            worker.plan[Step.BEFORE_COMMIT] = at_time(2, deliver)
            for count in (20, 40):
                await world.send(*world.more(20))
                await worker.committed(count)
    return await _goes_on(world)


@scenario
async def bad_network(world: World, vain_s: float) -> list[str]:
    """Rule 5: requests and answers get lost, and some requests arrive when they are not meant any more."""
    network = BadNetwork(seed=8, share=0.2)
    with pytest.MonkeyPatch.context() as patch:
        async with BareWorker(world.options, "only") as worker:
            await worker.own()
            await worker.ready()
            network.spread_over(patch)
            while network.late < LATE_REQUESTS:
                await world.send(*world.more(3))
                await worker.revive_if_fenced()
                await asyncio.sleep(0.01)
            patch.undo()
            await network.settle()

            async def processed() -> bool:
                await worker.revive_if_fenced()
                return not await world.behind()

            await until(processed)
            await worker.stop()
    return await world.faults(directories=tables_of(world, "only"))
