"""The verdict on a pipeline that is at rest: its log, the venue's ledger and its workers' live tables."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from checker.check import check
from checker.errors import CheckerError
from checker.findings import Violation
from checker.invariants.tables import LiveTable
from checker.live import fetch_resting
from checker.report import Report

SILENT_S_MAX: Final = 60.0
"""How long workers may be silent about their tables: one might be starting again."""

LOOK_AGAIN_S: Final = 0.5


async def judge(
    bootstrap: str, ledger: Path, workers: Mapping[str, Sequence[str]], partitions: int
) -> Report:
    """Check the invariants of a pipeline in which nothing moves any more and every order has ended.

    `workers` are the base URLs of each service's workers, which together have all `partitions` of its
    tables. Workers that do not tell their tables within SILENT_S_MAX break I6: the rest is checked without
    them. Raises CheckerError when the log or the ledger can't be read.
    """
    untold: list[Violation] = []
    try:
        live = await _live_tables(workers, partitions)
    except CheckerError as error:
        live, untold = [], [Violation("I6", "live tables can't be compared", (str(error),))]
    try:
        found = await asyncio.to_thread(check, bootstrap, ledger, live_state=live)
    except CheckerError as error:
        raise CheckerError(f"the check could not be made: {error}") from error
    found.violations += untold
    return found


async def _live_tables(workers: Mapping[str, Sequence[str]], partitions: int) -> list[LiveTable]:
    """What the workers say of their tables, all partitions of them; waits for one that starts again."""
    give_up_at = time.monotonic() + SILENT_S_MAX
    while True:
        try:
            return await asyncio.to_thread(_fetch_live_tables, workers, partitions)
        except CheckerError:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(LOOK_AGAIN_S)


def _fetch_live_tables(workers: Mapping[str, Sequence[str]], partitions: int) -> list[LiveTable]:
    tables: list[LiveTable] = []
    for service, urls in workers.items():
        found = fetch_resting(urls)
        if {table.partition for table in found if not table.standby} != set(range(partitions)):
            raise CheckerError(f"the workers of {service} have not all of its partitions")
        tables += found
    return tables
