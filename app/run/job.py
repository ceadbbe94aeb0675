"""`python -m app run` and `up`: the pipeline from its first process to its last, for people and for CI."""

import asyncio
import json
import logging
import os
import sys
from contextlib import AsyncExitStack
from typing import Any, Final

from rich.console import Console

from app.errors import ProcessError, UserError
from app.run.display import Display
from app.run.ending import Judge, close_market
from app.run.members import Feed, Venue
from app.run.monitor import Monitor
from app.run.pipeline import Pipeline
from app.run.plan import Plan, RunOptions
from app.run.quiet import Lookout, Patience, until_quiet

log = logging.getLogger(__name__)

EXIT_VIOLATIONS: Final = 1
WATCH_EVERY_S: Final = 0.5
READY_S_MAX: Final = 120.0
"""Where nobody looks on, workers that are not ready by then end the run."""

COUNTS_NAME: Final = "counts.json"


class RunConsole(Console):
    """Where a run is told of; whoever reads it, a log's collector perhaps, may end before the run does."""

    def on_broken_pipe(self) -> None:
        """Go on without a word. Rich's own way ends the process, with the status of broken invariants."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def run(options: RunOptions, judge: Judge) -> int:
    """Run everything; returns the exit status. UserErrors pass through, and what `judge` raises."""
    console = RunConsole()
    log_to(console)
    async with Pipeline(options.plan, tell=teller(console)) as pipeline:
        pipeline.ready_s_max = READY_S_MAX if options.exit else None
        await pipeline.or_crash(pipeline.bring_up())
        return await pipeline.or_crash(_Run(options, pipeline, console, judge).run())


async def up(plan: Plan) -> int:
    """Run the services alone until stopped."""
    console = RunConsole()
    log_to(console)
    async with Pipeline(plan, tell=teller(console)) as pipeline:
        await pipeline.or_crash(pipeline.bring_up())
        await pipeline.or_crash(pipeline.wait_until_stopped())
    return 0


class _Run:
    """A pipeline that is up: feed it, show it, and with `--exit` see it to its end and judge it."""

    def __init__(self, options: RunOptions, pipeline: Pipeline, console: Console, judge: Judge) -> None:
        assert pipeline.cluster is not None
        assert pipeline.venue is not None
        self._options = options
        self._pipeline = pipeline
        self._console = console
        self._judge = judge
        self._venue: Venue = pipeline.venue
        kept = None if options.exit else options.plan.data_dir / COUNTS_NAME
        self._monitor = Monitor(pipeline.cluster, from_beginning=True, kept=kept)
        ledger = self._venue.ledger if options.exit else None
        self._lookout = Lookout(pipeline.cluster, self._monitor, ledger)
        self._settled_at_ms = 0

    async def run(self) -> int:
        async with AsyncExitStack() as stack:
            self._pipeline.add_dependency(self._monitor)  # whose crash is then everybody's
            await self._monitor.maybe_start()
            stack.push_async_callback(self._monitor.stop)
            await self._monitor.mark()
            feed = await self._start_feed()
            display = Display(self._console, self._pipeline, self._monitor, self._lookout)
            await stack.enter_async_context(display.shown())
            if not self._options.exit:
                return await self._go_on_for_ever(feed)
            await self._finish(feed)
        return await self._tell_verdict()

    async def _start_feed(self) -> Feed:
        options, pipeline = self._options, self._pipeline
        feed = Feed(
            options.plan.data_dir,
            pipeline.shared,
            orders=options.orders,
            speed=options.speed,
            seed=options.seed,
            requests=options.requests,
            sent=lambda: self._monitor.new_orders,
        )
        await pipeline.processes.add(feed)
        return feed

    async def _go_on_for_ever(self, feed: Feed) -> int:
        self._console.print("Ctrl-C stops everything; the next run goes on from there")
        await feed.done.wait()
        self._require_success(feed)
        self._console.print("the feed is at its end; Ctrl-C stops the rest")
        await self._pipeline.wait_until_stopped()
        return 0

    async def _finish(self, feed: Feed) -> None:
        """Wait for the last order, for everything to settle, and for what rests in the book to expire."""
        patience = Patience()
        while not feed.done.is_set():
            patience.watch(await self._lookout.look())
            await asyncio.wait([asyncio.ensure_future(feed.done.wait())], timeout=WATCH_EVERY_S)
        self._require_success(feed)
        await until_quiet(self._lookout.look)
        self._settled_at_ms = self._monitor.last_outcome_at_ms
        await close_market(self._venue)
        await until_quiet(self._lookout.look)

    def _require_success(self, feed: Feed) -> None:
        if feed.exit_status:
            raise ProcessError(f"the feed has failed: {feed.reason}; see {feed.output.path}")

    async def _tell_verdict(self) -> int:
        """Check the invariants, tell what came of the run, and write the result."""
        self._console.print("checking the invariants", highlight=False)
        report = await self._judge(*self._pipeline.remains())
        self._console.print(report.to_text(), highlight=False, soft_wrap=True)
        result = {"bootstrap": self._pipeline.bootstrap, **report.to_json(), **self._speed()}
        if self._options.json is not None:
            self._options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return EXIT_VIOLATIONS if report.violations else 0

    def _speed(self) -> dict[str, float]:
        """From the first new order to the last outcome before the close, by the broker's clock."""
        first_ms = self._monitor.first_order_at_ms or self._settled_at_ms
        seconds = max(0.001, (self._settled_at_ms - first_ms) / 1000)
        return {
            "seconds": round(seconds, 3),
            "orders_per_second": round(self._monitor.new_orders / seconds, 1),
        }


def log_to(console: Console) -> None:
    """Warnings go where the display is. Mode logs every crash; a UserError is shown once, at the end."""

    class Handler(logging.Handler):
        def filter(self, record: logging.LogRecord) -> bool:
            return not (record.exc_info and isinstance(record.exc_info[1], UserError))

        def emit(self, record: logging.LogRecord) -> None:
            line = self.format(record)
            try:
                console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
            except OSError:  # standard output is a file on a full disk: who warns of it does not end
                self.handleError(record)

    logging.basicConfig(level=logging.WARNING, handlers=[Handler()], format="%(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def teller(console: Console) -> Any:
    return lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
