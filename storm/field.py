"""The pipeline in the storm: workers that may be armed and may die, a Kafka that may be killed or cut off."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from app.membership import Groups
from app.processes.last_words import describe_exit
from app.processes.supervisor import Restarts
from app.run.members import Feed, Venue, Worker
from app.run.pipeline import TAKE_OVER_S, Pipeline
from app.run.plan import Plan
from app.topology import SERVICES
from storm.kafka import KafkaNodes
from storm.mutants.mutant import Mutant
from storm.release import environment, make_release
from storm.steps import Step
from storm.worker import ActionName, arm, disarm, send

log = logging.getLogger(__name__)

POLL_S: Final = 0.005
ASK_S_MAX: Final = 0.5
WELL_S_MAX: Final = 20.0
WELL_POLL_S: Final = 0.1
STANDBY_LAG_MAX: Final = 200
VENUE_AWAY_S: Final = 0.2
READY_S_MAX: Final = 180.0
"""Workers that are not ready by then have a planted bug, or one of ours."""

TELLING: Final = ("rror", "storm:", "stuck", "Timeout (")
ACCOUNTS: Final = 96
"""Enough that every partition has some."""

REQUESTS_PERCENT: Final = 20
"""Of the accounts' turns: they rather cancel or replace an earlier order."""


async def until(condition: Callable[[], object], within_s: float) -> bool:
    """Wait until it holds; False when it does not within the time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


class Deaths(Restarts):
    """Restarts without limit after deaths that were meant; other deaths are counted as ever."""

    def __init__(self, take_over_s: float) -> None:
        super().__init__(pause_s_min=take_over_s)
        self.meant = False
        """Whether the death to come, or the last one, is; until the next life."""
        self.pause_s = take_over_s
        self._usual_s = take_over_s

    def pause_after(self, lived_s: float, now_s: float) -> float | None:
        if not self.meant:
            return super().pause_after(lived_s, now_s)
        pause_s, self.pause_s = self.pause_s, self._usual_s
        return pause_s

    def begin_life(self) -> None:
        """Another process starts: nobody means it to end."""
        self.meant = False


class StormWorker(Worker):
    """A worker on an instrumented engine, maybe with a planted bug. `died_at_ms` (Unix) is its last death."""

    program = "storm.worker"

    def __init__(self, *args: Any, mutant: Mutant | None, note: Callable[[str], None], **kwargs: Any) -> None:
        self.deaths = Deaths(TAKE_OVER_S)
        super().__init__(*args, usual_port=0, restarts=self.deaths, **kwargs)
        self.died_at_ms = 0.0
        self.unseen = False
        self.damaged = False
        """Whether its files were: RocksDB may hang on them, and the watchdog end it, once."""
        self.release: Path | None = None
        """Where the packages of its next start are; None: where ours are."""
        self._mutant = mutant if mutant is not None and self.service in mutant.services else None
        self._note = note

    def gives_up(self, status: int) -> bool:
        """A death that was not meant, again and again, is a finding: the storm ends."""
        return True

    @property
    def armed_at(self) -> Path:
        return self.data_dir / "armed.json"

    @property
    def client_prefix(self) -> str:
        """What the client ids of all its lives begin with."""
        return f"{self.name}."

    def command(self) -> list[str]:
        self.deaths.begin_life()
        return super().command()

    def environment(self) -> dict[str, str]:
        planted = {"STORM_MUTANT": self._mutant.name} if self._mutant is not None else {}
        armed = {"STORM_ARM": str(self.armed_at)}
        return super().environment() | armed | planted | environment(self.release)

    async def after_death(self) -> None:
        self.died_at_ms = time.time() * 1000
        if not self.deaths.meant and not (self.damaged and "Timeout (" in self._last_words()):
            self._note(f"{self.name} ended by itself: {self._last_words()}")
        self.damaged = self.damaged and self.deaths.meant
        if self.unseen:
            self.unseen = False
            return
        await super().after_death()

    def _last_words(self) -> str:
        status = self._process.returncode if self._process is not None else None
        lines = [line for line in self.output.last_lines(40) if any(each in line for each in TELLING)]
        return f"{describe_exit(status or 0)}: {lines[-1].strip() if lines else 'it said nothing'}"

    def signal(self, number: signal.Signals) -> bool:
        """Send it; False when there is nobody to get it."""
        return self.pid is not None and send(self.pid, number)

    def arm(self, step: str, number: int, action: ActionName) -> None:
        arm(self.pid, self.armed_at, Step(step), number, action)

    def disarm(self) -> None:
        disarm(self.pid, self.armed_at)

    async def until_dead(self, since_ms: float, within_s: float) -> bool:
        """Wait for a death after `since_ms` (Unix)."""
        return await until(lambda: self.died_at_ms >= since_ms, within_s)

    async def status(self, session: aiohttp.ClientSession) -> dict[str, Any] | None:
        """What the worker says of itself; None when it does not answer."""
        try:
            async with session.get(f"{self.url}/status") as answer:
                found: dict[str, Any] = await answer.json()
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("%s does not tell its status: %r", self.name, error)
            return None


class StormVenue(Venue):
    """A venue of this release or, from its next start, of the one at `release`."""

    def __init__(self, data_dir: Path, deaths: Deaths) -> None:
        super().__init__(data_dir, restarts=deaths)
        self.release: Path | None = None
        self._deaths = deaths

    def command(self) -> list[str]:
        self._deaths.begin_life()
        return super().command()

    def environment(self) -> dict[str, str]:
        return super().environment() | environment(self.release)


class EndlessFeed(Feed):
    """Orders until it is stopped."""

    def is_done(self, status: int) -> bool:
        return status == 0


class Field(Pipeline):
    """The pipeline with a Kafka, workers and a network that can be spoilt. `own_deaths` nobody has meant."""

    def __init__(
        self, plan: Plan, tell: Callable[[str], None], *, brokers: int, mutant: Mutant | None, proxied: bool
    ) -> None:
        super().__init__(plan, tell)
        self.ready_s_max = READY_S_MAX
        self.kafka = KafkaNodes(plan.data_dir / "kafka", brokers)
        self.own_deaths: list[str] = []
        self.venue_deaths = Deaths(VENUE_AWAY_S)
        self.feed: EndlessFeed | None = None
        self._mutant = mutant
        self._proxied = proxied
        self._release: Path | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start_kafka(self) -> None:
        self.add_dependency(self.kafka)
        await self.kafka.maybe_start()
        await self.kafka.ready()
        self.bootstrap = self.kafka.bootstrap
        self.replication_factor = self.kafka.replication_factor
        self.tell(f"{self.kafka.count} Kafka node(s) on {self.bootstrap}, data in {self.plan.data_dir}")

    async def bring_up(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S_MAX))
        await super().bring_up()

    async def prepare_topics(self, cluster: Any) -> None:
        await super().prepare_topics(cluster)
        if self._proxied:
            self.shared["KAFKA_BOOTSTRAP"] = self.kafka.proxied_bootstrap

    async def on_stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        await super().on_stop()
        await self.kafka.stop()

    def make_venue(self) -> Venue:
        return StormVenue(self.plan.data_dir, self.venue_deaths)

    def next_release(self) -> Path:
        """Where the packages of the next release are; they are made when they are first asked for."""
        if self._release is None:
            self._release = make_release(self.plan.data_dir / "release")
        return self._release

    def worker(self, groups: Groups, service: str, number: int, *, has_peers: bool) -> Worker:
        return StormWorker(
            service,
            number,
            self.plan.data_dir,
            groups,
            self.shared,
            mutant=self._mutant,
            note=self.own_deaths.append,
        )

    # -- orders

    async def start_feed(self, speed: float, seed: int) -> None:
        """Let orders flow, from where the last feed stopped."""
        shared = self.shared | {"KAFKA_BOOTSTRAP": self.bootstrap}
        self.feed = EndlessFeed(
            self.plan.data_dir,
            shared,
            orders=None,
            speed=str(speed),
            seed=seed,
            accounts=ACCOUNTS,
            requests=REQUESTS_PERCENT,
        )
        await self.processes.add(self.feed)

    async def stop_feed(self) -> None:
        if self.feed is not None:
            await self.feed.stop()
            self.feed = None

    # -- looking

    def workers_of(self, service: str, number: int = 0) -> list[StormWorker]:
        """One worker, or all of a service."""
        found = [each for each in self.workers if each.service == service and isinstance(each, StormWorker)]
        return found if number == 0 else found[number - 1 : number]

    async def owned(self, worker: StormWorker) -> list[int] | None:
        """The partitions that a worker owns and works at now; None when it does not answer."""
        found = await self._status(worker)
        if found is None:
            return None
        return [each["partition"] for each in found["partitions"] if each["state"] == "ready"]

    async def _status(self, worker: StormWorker) -> dict[str, Any] | None:
        assert self._session is not None
        return await worker.status(self._session)

    async def until_well(self, within_s: float = WELL_S_MAX) -> bool:
        """Wait until every partition of every service is worked at by one worker, and copied by another."""
        deadline = time.monotonic() + within_s
        while ailments := [each for service in SERVICES for each in await self._ailments(service)]:
            if time.monotonic() > deadline:
                self.tell(f"not well after {within_s:.0f} s: {'; '.join(ailments)}")
                return False
            await asyncio.sleep(WELL_POLL_S)
        return True

    async def _ailments(self, service: str) -> list[str]:
        """What is not as it is when nothing is broken."""
        workers = self.workers_of(service)
        found = {each.name: await self._status(each) for each in workers}
        told = {name: status for name, status in found.items() if status is not None}
        if len(told) < len(found):
            return [f"{name} does not answer" for name in found.keys() - told.keys()]
        owned = [each for status in told.values() for each in status["partitions"]]
        copied = [each for status in told.values() for each in status["standbys"]]
        wanted = list(range(int(self.shared["PIPELINE_PARTITIONS"])))
        ailments = [
            f"{service}-{each['partition']} is {each['state']}" for each in owned if each["state"] != "ready"
        ]
        ailments += [f"{name} has no partition" for name, status in told.items() if not status["partitions"]]
        if sorted(each["partition"] for each in owned) != wanted:
            ailments.append(f"{service}: owned are {sorted(each['partition'] for each in owned)}")
        if len(workers) > 1 and sorted(each["partition"] for each in copied) != wanted:
            ailments.append(f"{service}: copied are {sorted(each['partition'] for each in copied)}")
        return ailments + [
            f"the standby of {service}-{each['partition']} is behind: {each['lag']}"
            for each in copied
            if not each["lag"] or max(each["lag"].values()) > STANDBY_LAG_MAX
        ]
