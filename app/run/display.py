"""Shows a running pipeline: a live table on a terminal, a line every few seconds elsewhere.

All counts are those of the whole log, earlier runs included.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from app.run.flow import Flow, flow
from app.run.monitor import Monitor
from app.run.pipeline import Pipeline
from app.run.quiet import Lookout, Standing
from app.topics import MARKET_DATA, ORDERS
from app.topology import SERVICES

log = logging.getLogger(__name__)

LIVE_EVERY_S: Final = 0.5
LINE_EVERY_S: Final = 3.0
RATE_OVER_S: Final = 3.0
SILENT_S: Final = 5.0

TICKS: Final = "ticks"


class Picture(NamedTuple):
    """What is shown: the way of the orders, ticks, what came a second by service, how far each service is."""

    flow: Flow
    ticks: int
    rates: Mapping[str, float]
    standing: Standing


class Display:
    """`console` decides on the form: a terminal gets the table."""

    def __init__(self, console: Console, pipeline: Pipeline, monitor: Monitor, lookout: Lookout) -> None:
        self._console = console
        self._pipeline = pipeline
        self._monitor = monitor
        self._lookout = lookout
        self._history: deque[tuple[float, dict[str, int]]] = deque(maxlen=64)
        self._told_before = False

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the pipeline for the time of a `with` block."""
        showing = asyncio.create_task(self._show_live() if self._console.is_terminal else self._show_lines())
        showing.add_done_callback(_tell_its_end)
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _show_live(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                live.update(self._table(await self._patient_look()), refresh=True)
                await asyncio.sleep(LIVE_EVERY_S)

    async def _show_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            picture = await self._patient_look()
            for line in (*self._went_on(), self.line(picture)):
                self._tell(line)

    async def _patient_look(self) -> Picture:
        """A look takes as long as Kafka does not answer: that is told."""
        began = time.monotonic()
        looking = asyncio.ensure_future(self._look())
        try:
            while not (await asyncio.wait({looking}, timeout=SILENT_S))[0]:
                self._tell(f"Kafka has not answered for {time.monotonic() - began:.0f} s")
            return looking.result()
        finally:
            looking.cancel()

    def _tell(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    async def _look(self) -> Picture:
        monitor, standing = self._monitor, await self._lookout.look()
        found = flow(monitor.records[ORDERS.name], monitor.events, monitor.dead_letters, monitor.filled)
        ticks = sum(end for tp, end in standing.ends.items() if tp.topic == MARKET_DATA.name)
        counts = {TICKS: ticks} | {step.service: step.came for step in found}
        now = time.monotonic()
        self._history.append((now, counts))
        while len(self._history) > 2 and now - self._history[1][0] > RATE_OVER_S:
            self._history.popleft()
        then, before = self._history[0]
        rates = {each: (count - before[each]) / max(now - then, 0.001) for each, count in counts.items()}
        return Picture(found, ticks, rates, standing)

    def line(self, picture: Picture) -> str:
        """One line of plain text."""
        found, lag = picture.flow, picture.standing.lag
        lags = " ".join(f"{service}={lag(service):,}" for service in SERVICES)
        return (
            f"orders {found.orders:,} ({picture.rates['risk']:,.0f}/s): approved {found.approved:,}, "
            f"rejected {found.refused:,}, dead letters {found.dead:,}, waiting {found.waiting:,}; "
            f"of the approved {_ends(found)}; lag {lags}"
        )

    def _went_on(self) -> list[str]:
        """Once, when it is known: how many orders were there before."""
        before = self._monitor.orders_before
        if self._told_before or before is None:
            return []
        self._told_before = True
        return [f"went on from {before:,} orders"] if before else []

    def _table(self, picture: Picture) -> Group:
        header = ("service", "came", "passed on", "refused", "dead letters", "waiting", "per second", "lag")
        table = Table(*header, box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for step in picture.flow:
            numbers = (step.came, step.passed, step.refused, step.dead, step.waiting)
            rate, lag = picture.rates[step.service], picture.standing.lag(step.service)
            table.add_row(step.service, *(f"{each:,}" for each in numbers), f"{rate:,.0f}", f"{lag:,}")
        facts = Table.grid(padding=(0, 2))
        for name, text in self._facts(picture):
            facts.add_row(name, escape(text))
        return Group(table, "", facts)

    def _facts(self, picture: Picture) -> Iterator[tuple[str, str]]:
        monitor, pipeline, lag = self._monitor, self._pipeline, picture.standing.lag("marketdata")
        ticks = f"{picture.ticks:,}, {picture.rates[TICKS]:,.0f} per second; lag of marketdata {lag:,}"
        yield "ticks", ticks
        yield "at the venue", _ends(picture.flow)
        yield "refused", ", ".join(f"{reason} {count:,}" for reason, count in monitor.rejected.most_common())
        yield "dead letters", f"{monitor.dead_letters.total():,} of every kind"
        if before := monitor.orders_before:
            yield "went on from", f"{before:,} orders"
        for name, each in pipeline.readiness.ledger.unready.items():
            yield "not ready", f"{name} for {time.monotonic() - each.since_s:.0f} s: {each.told()}"
        if restarted := _restarted(pipeline):
            yield "restarts", ", ".join(f"{name} {count}" for name, count in restarted.items())
        yield "tables", "  ".join(worker.url for worker in pipeline.workers)
        yield "logs", str(pipeline.plan.data_dir / "logs")


def _tell_its_end(showing: "asyncio.Task[None]") -> None:
    """Orders flow though nobody sees them: a display that fails ends nothing, but is not silent."""
    if not showing.cancelled() and (error := showing.exception()) is not None:
        log.warning("the display has failed, everything else goes on: %r", error)


def _ends(found: Flow) -> str:
    at_venue = found.exchange
    dead = f", dead letters {at_venue.dead:,}" if at_venue.dead else ""
    return (
        f"filled {at_venue.passed:,}, ended otherwise {at_venue.refused:,}{dead}, open {at_venue.waiting:,}"
    )


def _restarted(pipeline: Pipeline) -> dict[str, int]:
    """What had to be started again, and how often."""
    starts = {child.name: child.starts for child in pipeline.processes.children}
    if pipeline.kafka_server is not None:
        starts["kafka"] = pipeline.kafka_server.starts
    return {name: count - 1 for name, count in starts.items() if count > 1}
