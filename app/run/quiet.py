"""Where the pipeline stands: what each service has still to read, what is still to come from the venue.

Quiet means that nothing moves and nothing will: every group has committed the end of its inputs, every
approved order has reached the venue, every report of the venue is booked, and a second look found the same.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.engine.kafka.cluster import LATEST, TP, Cluster
from app.errors import StuckError
from app.run.monitor import CANCELLED_UNSENT, PASSED_ON, Monitor
from app.topics import (
    COMPLIANCE_DECISIONS,
)
from app.topology import SERVICES

log = logging.getLogger(__name__)

STILL_S_MAX: Final = 60.0
LOOK_EVERY_S: Final = 0.2
_AT_THE_VENUE: Final = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM requests)"


@dataclass(frozen=True)
class Standing:
    """One look. `ends` are the last stable offsets of all inputs, `behind` what is missing to them by
    service, zeros left out. `unsent` counts orders, cancels and replaces that the venue is to get and does
    not have, `unread` its reports that are not booked.
    """

    ends: Mapping[TP, int]
    behind: Mapping[str, Mapping[TP, int]]
    unsent: int = 0
    unread: int = 0
    uncounted: bool = False

    def lag(self, service: str) -> int:
        """Records that the service has still to take in."""
        return sum(self.behind.get(service, {}).values())

    @property
    def is_quiet(self) -> bool:
        return not (self.behind or self.unsent or self.unread or self.uncounted)

    def describe(self) -> str:
        """What is left, and where."""
        parts = [
            f"{service} is {sum(tps.values()):,} records behind ({_listed(tps)})"
            for service, tps in self.behind.items()
        ]
        if self.unsent:
            parts.append(f"{self.unsent:,} approved orders or requests have not reached the venue")
        if self.unread:
            parts.append(f"{self.unread:,} reports of the venue are not booked")
        if self.uncounted:
            parts.append("the log or the venue's ledger is not read to its end")
        return "; ".join(parts) or "nothing is left to do"


def _listed(tps: Mapping[TP, int]) -> str:
    shown = [f"{tp.topic}/{tp.partition}: {behind:,}" for tp, behind in list(tps.items())[:4]]
    return ", ".join(shown + ["..."] * (len(tps) > 4))


class Lookout:
    """Looks at offsets, at the monitor's counts and, given a ledger, at the venue's.

    With a ledger the monitor must have counted from the beginning of the log.
    """

    def __init__(self, cluster: Cluster, monitor: Monitor, ledger: Path | None) -> None:
        self._cluster = cluster
        self._monitor = monitor
        self._ledger = ledger
        self._inputs: dict[str, list[TP]] = {}

    async def look(self) -> Standing:
        """Waits for the broker as long as it takes."""
        if not self._inputs:
            self._inputs = {service: await self._partitions(service) for service in SERVICES}
        ends = await self._cluster.offsets({tp for tps in self._inputs.values() for tp in tps}, LATEST)
        behind = {service: await self._behind(service, ends) for service in SERVICES}
        venue = self._at_the_venue()
        return Standing(
            ends,
            {service: tps for service, tps in behind.items() if tps},
            *(venue or (0, 0)),
            uncounted=venue is None or not self._monitor.has_read(ends),
        )

    async def _partitions(self, service: str) -> list[TP]:
        return [
            TP(topic, number)
            for topic in SERVICES[service].inputs
            for number in range(await self._cluster.partition_count(topic))
        ]

    async def _behind(self, service: str, ends: Mapping[TP, int]) -> dict[TP, int]:
        tps = self._inputs[service]
        committed = await self._cluster.committed(service, tps)
        behind = {tp: ends[tp] - (committed.get(tp) or 0) for tp in tps}
        return {tp: count for tp, count in behind.items() if count > 0}

    def _at_the_venue(self) -> tuple[int, int] | None:
        """Orders that are not there yet and reports that are not booked yet; None while it can't be told."""
        if self._ledger is None:
            return 0, 0
        try:
            with closing(sqlite3.connect(f"{self._ledger.as_uri()}?mode=ro", uri=True)) as ledger:
                (known,) = ledger.execute(_AT_THE_VENUE).fetchone()
                sequences = dict(ledger.execute("SELECT session, last_sequence FROM sessions"))
        except sqlite3.OperationalError as error:  # the venue has not made it yet, or is being restarted
            log.debug("the venue's ledger can't be read now: %s", error)
            return None
        monitor = self._monitor
        lost = monitor.dead_letters["exchange", COMPLIANCE_DECISIONS.name]
        lost += monitor.events["OrderWithheld"] + monitor.events["ReplaceWithheld"]
        due = monitor.approved + monitor.events[PASSED_ON] - monitor.events[CANCELLED_UNSENT]
        unread = sum(
            max(0, last - monitor.venue_sequences.get(session, 0)) for session, last in sequences.items()
        )
        return max(0, due - lost - known), unread


class Patience:
    """Raises StuckError when what it is shown has not changed for long while there is work left."""

    def __init__(self, still_s_max: float = STILL_S_MAX) -> None:
        self._still_s_max = still_s_max
        self._last: object = None
        self._moved_at = time.monotonic()

    def watch(self, standing: Standing) -> None:
        """Note a look; a quiet one starts the time anew."""
        if standing.is_quiet or standing != self._last:
            self._last, self._moved_at = standing, time.monotonic()
        elif time.monotonic() - self._moved_at > self._still_s_max:
            raise StuckError(f"nothing has moved for {self._still_s_max:.0f} s: {standing.describe()}")


async def until_quiet(
    look: Callable[[], Awaitable[Standing]], *, still_s_max: float = STILL_S_MAX
) -> Standing:
    """Return when two looks in a row are quiet and the same; raises StuckError when nothing moves."""
    patience = Patience(still_s_max)
    previous: Standing | None = None
    while True:
        try:
            standing = await asyncio.wait_for(look(), still_s_max)
        except TimeoutError:
            raise StuckError(f"Kafka has not answered for {still_s_max:.0f} s") from None
        if standing.is_quiet and standing == previous:
            return standing
        patience.watch(standing)
        previous = standing
        await asyncio.sleep(LOOK_EVERY_S)
