"""How a run ends: the market is closed, and the log, the ledger and the live tables tell what was wrong."""

import asyncio
import logging
import time
from typing import Final

import aiohttp

from app.errors import ProcessError, UserError
from app.run.members import Venue
from app.run.pipeline import Pipeline
from app.run.quiet import STILL_S_MAX
from app.topology import SERVICES
from checker.check import check
from checker.errors import CheckerError
from checker.findings import Violation
from checker.invariants.tables import LiveTable
from checker.live import fetch_resting
from checker.report import Report

log = logging.getLogger(__name__)

CLOSE_POLL_S: Final = 0.2
LOOK_AGAIN_S: Final = 0.5


async def close_market(venue: Venue) -> None:
    """Expire every resting order; asks until the venue has done it."""
    give_up_at = time.monotonic() + STILL_S_MAX
    headers = {"Authorization": f"Bearer {venue.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while time.monotonic() < give_up_at:
            try:
                async with session.post(f"{venue.url}/close") as answer:
                    if answer.status == 200:
                        return
                    log.debug("the venue answers %s to /close", answer.status)
            except (aiohttp.ClientError, OSError) as error:
                log.debug("the venue is away: %r", error)
            await asyncio.sleep(CLOSE_POLL_S)
    raise ProcessError(f"the venue did not close its market; see {venue.output.path}")


async def judge(pipeline: Pipeline) -> Report:
    """Check the invariants of a pipeline in which nothing moves any more and every order has ended.

    Workers that do not tell their tables, for as long as one might take to start again, break I6: the rest is
    checked without them.
    """
    assert pipeline.venue is not None
    untold: list[Violation] = []
    try:
        live = await _live_tables(pipeline)
    except CheckerError as error:
        live, untold = [], [Violation("I6", "live tables can't be compared", (str(error),))]
    try:
        found = await asyncio.to_thread(check, pipeline.bootstrap, pipeline.venue.ledger, live_state=live)
    except CheckerError as error:
        raise UserError(f"the check could not be made: {error}") from error
    found.violations += untold
    return found


async def _live_tables(pipeline: Pipeline) -> list[LiveTable]:
    """What the workers say of their tables, all partitions of them; waits for one that starts again."""
    give_up_at = time.monotonic() + STILL_S_MAX
    while True:
        try:
            return await asyncio.to_thread(_fetch_live_tables, pipeline)
        except CheckerError:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(LOOK_AGAIN_S)


def _fetch_live_tables(pipeline: Pipeline) -> list[LiveTable]:
    tables: list[LiveTable] = []
    wanted = set(range(int(pipeline.shared["PIPELINE_PARTITIONS"])))
    for service in SERVICES:
        urls = [worker.url for worker in pipeline.workers if worker.service == service]
        found = fetch_resting(urls)
        if {table.partition for table in found if not table.standby} != wanted:
            raise CheckerError(f"the workers of {service} have not all of its partitions")
        tables += found
    return tables
