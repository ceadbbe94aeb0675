"""A hot standby: the tables of a partition that another worker owns, kept close to their changelogs.

When the partition is ours one day, the task finds the tables on disk and restores only the tail.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from app.engine.cluster import TP, Cluster
from app.engine.errors import ChangelogMismatch
from app.engine.restore import follow
from app.engine.store import open_store
from app.engine.table import Table

log = logging.getLogger(__name__)


class Standby:
    """Follows one partition number until cancelled. `lag` is in changelog offsets, by table."""

    def __init__(
        self, app_id: str, partition: int, cluster: Cluster, tables: Sequence[Table], directory: Path
    ) -> None:
        self.partition = partition
        self.lag: dict[str, int] = {}
        self._lane = (app_id, "standby", partition)
        self._cluster = cluster
        self._changelogs = {table.name: TP(table.changelog, partition) for table in tables}
        self._path = directory / str(partition)

    async def run(self, previous: "asyncio.Task[None] | None") -> None:
        """Follow once `previous`, who may have the tables open, has ended."""
        if previous is not None:
            await asyncio.wait([previous])
        store = await open_store(self._path)
        try:
            await follow(store, self._cluster, self._changelogs, self._lane, self.lag)
        except ChangelogMismatch as error:
            log.error("no standby of partition %s: %s", self.partition, error)
        finally:
            store.close()
