"""What each kind of fault does to the pipeline, and how long its services were gone for it."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import aiohttp
from aiokafka import AIOKafkaProducer

from app.config import settings
from app.devkafka.node import SESSION_MS
from app.topics import EXECUTIONS, ORDERS, RISK_DECISIONS
from app.topology import SERVICES
from storm.field import Field, StormVenue, StormWorker, until
from storm.observer import OUTPUT, Observer
from storm.options import Kind
from storm.plan import Fault
from storm.poison import echoes, poison
from storm.steps import Step
from storm.worker import send

OUTAGE_S_MAX: Final = 90.0
BIRTH_S_MAX: Final = 30.0
STEP_S_MAX: Final = 4.0
OWNED_TRIES: Final = 3
WAITING_MS_MAX: Final = 250
CAUGHT_UP_S_MAX: Final = 20.0
AFTERMATH_S: Final = 2.0
END_S_MAX: Final = 20.0
MIXED_S: Final = 1.0
"""How long orders pass while two releases are at work."""

ROLLING: Final = tuple(SERVICES)
NEWS: Final = (RISK_DECISIONS.name, EXECUTIONS.name)
"""Topics on which the next release says more."""

HEARSAY_S: Final = 0.5
"""How much later than it happened all that happened has been read."""

FENCED_S: Final = SESSION_MS / 1000 + 0.5
"""When the other nodes have a dead one's partitions: back before that it coordinates what it loses again."""
TAKE_OVER_STEPS: Final = frozenset(
    {
        *list(Step)[: list(Step).index(Step.BEFORE_ADD)],
        *list(Step)[list(Step).index(Step.IN_REVOCATION) : list(Step).index(Step.BEFORE_VENUE_CALL)],
    }
    - {Step.IN_STANDBY}
)
"""Steps that a worker gets to when another one is gone."""


@dataclass
class Done:
    """What came of a fault. `outage_ms`: None where it does not apply or nothing came back in time.

    `alone` is false when something else was under way. `reached` is false when the fault's step was not come
    to in time and the fault came without it, None for faults without a step. `gaps_elsewhere_ms` holds the
    longest gap of each partition that the victim did not have, of those that began in the two seconds after a
    fault that was alone; as "usual" it holds those of all partitions in the two seconds before.
    """

    fault: Fault
    at_s: float
    alone: bool
    outage_ms: float | None = None
    too_long: bool = False
    reached: bool | None = None
    broker_start_ms: float | None = None
    gaps_elsewhere_ms: dict[str, list[int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What must not come of it."""


class Injector:
    """Does one fault after the other; outages are measured beside the next ones unless a fault is alone."""

    def __init__(self, pipeline: Field, observer: Observer, seed: int) -> None:
        self._field = pipeline
        self._observer = observer
        self._dice = random.Random(f"{seed} details")
        self._began_at = time.time()
        self._watching: set[asyncio.Task[None]] = set()
        self._does: Mapping[Kind, Callable[[Fault, Done], Awaitable[None]]] = {
            Kind.KILL: self._kill,
            Kind.KILL_AT: self._kill_at,
            Kind.KILL_UNSEEN: self._kill_unseen,
            Kind.FREEZE: self._freeze,
            Kind.FREEZE_AT: self._freeze_at,
            Kind.DAMAGE: self._damage,
            Kind.BROKER: self._kill_broker,
            Kind.CUT: self._cut,
            Kind.SLOW: self._slow,
            Kind.RESET: self._reset,
            Kind.POISON: self._poison,
            Kind.VENUE_HANG: self._spoil_venue,
            Kind.VENUE_DROP_ACK: self._spoil_venue,
            Kind.VENUE_TWICE: self._spoil_venue,
            Kind.VENUE_KILL: self._kill_venue,
            Kind.ROLLING: self._roll,
        }

    async def do(self, fault: Fault) -> Done:
        """Do it; returns when it is done, and for a fault that is alone, when all have got over it."""
        await asyncio.sleep(fault.pause_s)
        alone = fault.alone and await self._all_well()
        if alone:
            await asyncio.sleep(AFTERMATH_S)  # what is usual is measured then
        done = Done(fault, round(time.time() - self._began_at, 3), alone)
        await self._does[fault.kind](fault, done)
        if alone:
            await self.over()
        return done

    async def _all_well(self) -> bool:
        """Wait until the services are, and nothing that came during earlier outages still waits."""
        return await self._field.until_well() and await until(
            lambda: self._observer.waiting_ms() < WAITING_MS_MAX, CAUGHT_UP_S_MAX
        )

    async def over(self) -> None:
        """Wait until every outage that is being measured has ended."""
        while self._watching:
            await asyncio.gather(*self._watching)

    # -- measuring

    async def _victim(self, fault: Fault) -> StormWorker:
        """The worker that is meant, once it runs."""
        (worker,) = self._field.workers_of(fault.service, fault.worker)
        await until(lambda: worker.pid is not None, BIRTH_S_MAX)
        return worker

    async def _busy_partitions(self, worker: StormWorker) -> list[int]:
        for _ in range(OWNED_TRIES):
            owned = await self._field.owned(worker)
            if owned is not None:
                return self._observer.live(worker.service, owned)
        return []

    def _measure(self, done: Done, where: Mapping[str, list[int]], since_ms: float) -> None:
        """Measure in the background how long those partitions, by service, are without output."""
        watching = asyncio.create_task(self._watch(done, where, since_ms))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def _watch(self, done: Done, where: Mapping[str, list[int]], since_ms: float) -> None:
        found = await asyncio.gather(
            *(self._observer.outage_ms(*each, since_ms, OUTAGE_S_MAX) for each in where.items())
        )
        if None in found:
            done.too_long = True
        elif any(where.values()):
            done.outage_ms = round(max(each for each in found if each is not None), 1)
        if done.alone and len(where) == 1:
            until_ms = since_ms + AFTERMATH_S * 1000
            await asyncio.sleep(max(0.0, until_ms / 1000 - time.time()) + HEARSAY_S)
            done.gaps_elsewhere_ms = self._gaps_elsewhere(where, since_ms, until_ms)

    def _gaps_elsewhere(
        self, where: Mapping[str, list[int]], since_ms: float, until_ms: float
    ) -> dict[str, list[int]]:
        ((service, partitions),) = where.items()
        longest = self._observer.longest_gaps_ms(since_ms, until_ms).items()
        same = [ms for (name, number), ms in longest if name == service and number not in partitions]
        others = [ms for (name, _), ms in longest if name != service]
        usual = self._observer.longest_gaps_ms(since_ms - AFTERMATH_S * 1000, since_ms)
        return {"same_service": same, "other_services": others, "usual": list(usual.values())}

    # -- workers

    async def _kill(self, fault: Fault, done: Done) -> None:
        await self._shoot_and_measure(await self._victim(fault), done)

    async def _shoot_and_measure(self, worker: StormWorker, done: Done) -> None:
        """Kill a worker, measure what its partitions miss, and return when it is dead."""
        busy = await self._busy_partitions(worker)
        self._shoot(worker)
        self._measure(done, {worker.service: busy}, time.time() * 1000)
        await worker.until_dead(time.time() * 1000 - 50, STEP_S_MAX)

    def _shoot(self, worker: StormWorker) -> None:
        worker.deaths.meant |= worker.signal(signal.SIGKILL)

    async def _kill_at(self, fault: Fault, done: Done) -> None:
        """Arm the step; steps of a take-over are got to by killing the other workers of the service."""
        assert fault.step is not None
        worker = await self._victim(fault)
        busy = await self._busy_partitions(worker)
        since_ms = time.time() * 1000
        worker.deaths.meant = True
        worker.arm(fault.step, fault.number, "kill")
        if Step(fault.step) in TAKE_OVER_STEPS:
            done.alone = False
            self._shoot_peers(worker)
        done.reached = await worker.until_dead(since_ms, STEP_S_MAX)
        if not done.reached:
            worker.disarm()
            self._shoot(worker)
            await worker.until_dead(since_ms, STEP_S_MAX)
        self._measure(done, {worker.service: busy}, worker.died_at_ms)

    def _shoot_peers(self, worker: StormWorker) -> None:
        for peer in self._field.workers_of(worker.service):
            if peer is not worker or len(self._field.workers_of(worker.service)) == 1:
                self._shoot(peer)

    async def _kill_unseen(self, fault: Fault, done: Done) -> None:
        worker = await self._victim(fault)
        worker.unseen = True
        worker.deaths.pause_s = settings().session_timeout_s + 1
        await self._shoot_and_measure(worker, done)

    async def _freeze(self, fault: Fault, done: Done) -> None:
        worker = await self._victim(fault)
        busy = await self._busy_partitions(worker)
        worker.signal(signal.SIGSTOP)
        self._measure(done, {worker.service: busy}, time.time() * 1000)
        await self._thaw(worker, fault)

    async def _freeze_at(self, fault: Fault, done: Done) -> None:
        assert fault.step is not None
        worker = await self._victim(fault)
        busy = await self._busy_partitions(worker)
        worker.arm(fault.step, fault.number, "freeze")
        if Step(fault.step) in TAKE_OVER_STEPS:
            done.alone = False
            self._shoot_peers(worker)
        done.reached = await until(lambda: _is_stopped(worker.pid), STEP_S_MAX)
        worker.disarm()
        worker.signal(signal.SIGSTOP)
        self._measure(done, {worker.service: busy}, time.time() * 1000)
        await self._thaw(worker, fault)

    async def _thaw(self, worker: StormWorker, fault: Fault) -> None:
        """Let it go on, well after the group has given its partitions away."""
        await asyncio.sleep(settings().session_timeout_s + 0.5 + 2.5 * fault.length)
        worker.signal(signal.SIGCONT)

    async def _damage(self, fault: Fault, done: Done) -> None:
        worker = await self._victim(fault)
        await self._shoot_and_measure(worker, done)
        for path in sorted(worker.data_dir.glob("v1/tables/*")):
            if path.name.isdigit() and self._dice.random() < 0.5:
                worker.damaged = True
                damage(path, self._dice)

    # -- Kafka and the network

    async def _kill_broker(self, fault: Fault, done: Done) -> None:
        kafka = self._field.kafka
        where = {
            service: self._observer.live(service, range(int(self._field.shared["PIPELINE_PARTITIONS"])))
            for service in OUTPUT
        }
        node = self._dice.choice(kafka.alive)
        since_ms = time.time() * 1000
        await kafka.kill(node)
        await asyncio.sleep(3 * fault.length + (FENCED_S if kafka.count > 1 else 0))
        self._measure(done, where, since_ms)
        await kafka.revive(node)
        if kafka.count == 1:  # of several, the others serve meanwhile
            done.broker_start_ms = round((time.time() * 1000) - since_ms, 1)
        else:
            await kafka.in_sync()

    def _prefixes(self, fault: Fault) -> list[str]:
        return [each.client_prefix for each in self._field.workers_of(fault.service, fault.worker)]

    async def _cut(self, fault: Fault, done: Done) -> None:
        busy = {}
        if fault.worker:
            busy[fault.service] = await self._busy_partitions(await self._victim(fault))
        proxy = self._field.kafka.proxy
        for prefix in self._prefixes(fault):
            proxy.cut(prefix)
        self._measure(done, busy, time.time() * 1000)
        await asyncio.sleep(0.5 + (settings().session_timeout_s + 2) * fault.length)
        for prefix in self._prefixes(fault):
            proxy.heal(prefix)

    async def _slow(self, fault: Fault, done: Done) -> None:
        proxy = self._field.kafka.proxy
        for prefix in self._prefixes(fault):
            proxy.slow(prefix, delay_ms=5 + 60 * fault.length, bytes_per_s=2_000_000)
        await asyncio.sleep(1 + 2 * fault.length)
        for prefix in self._prefixes(fault):
            proxy.heal(prefix)

    async def _reset(self, fault: Fault, done: Done) -> None:
        for prefix in self._prefixes(fault):
            self._field.kafka.proxy.reset(prefix)

    # -- what comes from outside

    async def _poison(self, fault: Fault, done: Done) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self._field.bootstrap) as producer:
            partitions = len(await producer.partitions_for(ORDERS.name))
            dose = poison(f"poison-{self._began_at:.0f}-{fault.index}", self._began_at, fault.index)
            for each in chain(dose, await echoes(self._field.bootstrap, partitions)):
                await producer.send_and_wait(
                    each.topic, each.value, each.key, partition=each.place(partitions), headers=each.headers
                )

    async def _spoil_venue(self, fault: Fault, done: Done) -> None:
        count = 1 + int(10 * fault.length)
        what: dict[str, int] = {
            Kind.VENUE_HANG: {"hang_ms": 200 + int(8_000 * fault.length), "requests": count},
            Kind.VENUE_DROP_ACK: {"drop_acks": count},
            Kind.VENUE_TWICE: {"duplicate_reports": 5 * count},
        }[fault.kind]
        venue = self._field.venue
        assert venue is not None
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {venue.token}"}) as session:
            while True:
                try:
                    async with session.post(f"{venue.url}/faults", json=what) as answer:
                        answer.raise_for_status()
                        return
                except (aiohttp.ClientConnectionError, OSError):
                    await asyncio.sleep(0.1)  # it is being restarted

    async def _kill_venue(self, fault: Fault, done: Done) -> None:
        venue = self._field.venue
        assert venue is not None
        await until(lambda: venue.pid is not None, BIRTH_S_MAX)
        if venue.pid is not None:
            self._field.venue_deaths.meant = True
            os.kill(venue.pid, signal.SIGKILL)
        await asyncio.sleep(0.3)

    # -- releases

    async def _roll(self, fault: Fault, done: Done) -> None:
        """Move everything to the next release under flow, then back; writers before those that read them."""
        release = await asyncio.to_thread(self._field.next_release)
        written, lost = Counter(self._observer.of_next), len(self._observer.lost)
        for target in (release, None):
            await self._move_venue(target)
            for worker in (each for service in ROLLING for each in self._field.workers_of(service)):
                await self._move(worker, target, done)
        await asyncio.sleep(HEARSAY_S)
        new = self._observer.of_next - written
        done.wrong += [f"nothing of the next release came on {name}" for name in NEWS if not new[name]]
        done.wrong += [f"a dead letter of {each}" for each in list(self._observer.lost)[lost:]]

    async def _move(self, worker: StormWorker, release: Path | None, done: Done) -> None:
        """End a worker as an operator does, let it start on that release, and some orders pass."""
        await until(lambda: worker.pid is not None, BIRTH_S_MAX)
        worker.release = release
        since_ms = time.time() * 1000 - 50
        worker.deaths.meant |= worker.signal(signal.SIGTERM)
        if not await worker.until_dead(since_ms, END_S_MAX):
            done.wrong.append(f"{worker.name} did not end")
        if not await self._field.until_well(OUTAGE_S_MAX):
            done.wrong.append(f"{worker.name} did not come to work on the other release")
        await asyncio.sleep(MIXED_S)

    async def _move_venue(self, release: Path | None) -> None:
        venue = self._field.venue
        assert isinstance(venue, StormVenue)
        await until(lambda: venue.pid is not None, BIRTH_S_MAX)
        venue.release = release
        if venue.pid is not None:
            self._field.venue_deaths.meant = send(venue.pid, signal.SIGTERM)
        await asyncio.sleep(MIXED_S)


def damage(path: Path, dice: random.Random) -> None:
    """Spoil a RocksDB directory as a dying disk would: one of its files is cut or overwritten.

    A MANIFEST is not cut: RocksDB takes that for the end of it and forgets files without a word, which the
    engine cannot see (docs/reliability.md).
    """
    files = [each for each in path.iterdir() if each.suffix in (".sst", ".log") or "MANIFEST" in each.name]
    if not files:
        return
    victim = dice.choice(sorted(files))
    size = victim.stat().st_size
    with victim.open("r+b") as file:
        if dice.random() < 0.5 and "MANIFEST" not in victim.name:
            file.truncate(size // 2)
        else:
            file.seek(size // 3)
            file.write(dice.randbytes(max(16, size // 4)))


def _is_stopped(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False
