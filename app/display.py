"""Shows a running pipeline: a live table on a terminal, a line every few seconds elsewhere."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from app.monitor import Monitor
from app.options import SERVICES
from app.pipeline import Pipeline
from app.quiet import Lookout, Standing
from app.topics import COMPLIANCE_DECISIONS, EXECUTIONS, MARKET_DATA, ORDERS, RISK_DECISIONS

LIVE_EVERY_S: Final = 0.5
LINE_EVERY_S: Final = 3.0
RATE_OVER_S: Final = 3.0

STAGES: Final = {
    "ticks": (MARKET_DATA.name, "marketdata"),
    "orders": (ORDERS.name, "risk"),
    "risk decisions": (RISK_DECISIONS.name, "compliance"),
    "compliance decisions": (COMPLIANCE_DECISIONS.name, "exchange"),
    "executions": (EXECUTIONS.name, ""),
}
"""What flows, the topic it is counted in, and the service that reads it next."""


class Picture(NamedTuple):
    """What is shown: counts by stage, their rates a second, and where each service stands."""

    counts: Mapping[str, int]
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

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the pipeline for the time of a `with` block."""
        showing = asyncio.create_task(self._show_live() if self._console.is_terminal else self._show_lines())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _show_live(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                live.update(self._table(await self._look()), refresh=True)
                await asyncio.sleep(LIVE_EVERY_S)

    async def _show_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            self._console.print(self.line(await self._look()), soft_wrap=True, highlight=False)

    async def _look(self) -> Picture:
        standing = await self._lookout.look()
        counts = {stage: self._monitor.records[topic] for stage, (topic, _) in STAGES.items()}
        counts["ticks"] = sum(end for tp, end in standing.ends.items() if tp.topic == MARKET_DATA.name)
        now = time.monotonic()
        self._history.append((now, counts))
        while len(self._history) > 2 and now - self._history[1][0] > RATE_OVER_S:
            self._history.popleft()
        then, before = self._history[0]
        rates = {stage: (count - before[stage]) / max(now - then, 0.001) for stage, count in counts.items()}
        return Picture(counts, rates, standing)

    def line(self, picture: Picture) -> str:
        """One line of plain text."""
        monitor = self._monitor
        lags = " ".join(f"{service}={picture.standing.lag(service):,}" for service in SERVICES)
        return (
            f"orders {picture.counts['orders']:,} ({picture.rates['orders']:,.0f}/s)  "
            f"approved {monitor.approved:,}  rejected {monitor.rejected.total():,}  "
            f"fills {monitor.executed:,}  dead letters {monitor.dead_letters.total():,}  lag {lags}"
        )

    def _table(self, picture: Picture) -> Group:
        monitor = self._monitor
        flow = Table("stage", "count", "per second", "next", "lag", box=None, pad_edge=False)
        for column in (1, 2, 4):
            flow.columns[column].justify = "right"
        for stage, (_, service) in STAGES.items():
            lag = f"{picture.standing.lag(service):,}" if service else ""
            flow.add_row(stage, f"{picture.counts[stage]:,}", f"{picture.rates[stage]:,.0f}", service, lag)
        facts = Table.grid(padding=(0, 2))
        rejected = ", ".join(
            f"{escape(reason)} {count:,}" for reason, count in monitor.rejected.most_common()
        )
        facts.add_row("fills", f"{monitor.executed:,}")
        facts.add_row("rejected", f"{monitor.rejected.total():,}  {rejected}")
        facts.add_row("dead letters", f"{monitor.dead_letters.total():,}")
        facts.add_row("tables", "  ".join(worker.url for worker in self._pipeline.workers))
        restarted = [child for child in self._pipeline.processes.children if child.starts > 1]
        if restarted:
            facts.add_row("restarts", ", ".join(f"{each.name} {each.starts - 1}" for each in restarted))
        facts.add_row("logs", str(self._pipeline.plan.data_dir / "logs"))
        return Group(flow, "", facts)
