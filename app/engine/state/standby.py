"""A hot standby: the tables of a partition that another worker owns, kept close to their changelogs.

When the partition is ours one day, the task finds the tables on disk and restores only the tail.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.engine.errors import ChangelogMismatch, StoreFailed
from app.engine.kafka.cluster import TP, Cluster
from app.engine.kafka.fetcher import Fetcher
from app.engine.kafka.watermarks import Watermarks
from app.engine.state.disk import Disk
from app.engine.state.restore import follow, restore
from app.engine.state.store import TaskStore, mend, open_store
from app.engine.state.table import Table, TaskTable

log = logging.getLogger(__name__)

CAUGHT_UP_RECORDS = 500
"""What a task may still have to restore while nobody works at its partition: a few milliseconds' worth."""


class Standby:
    """Follows one partition number until cancelled. `lag` is in changelog offsets, by table.

    `tables` is what it has so far, empty when it does not follow.

    `leave` gets the open tables at the end.
    """

    def __init__(
        self,
        app_id: str,
        partition: int,
        cluster: Cluster,
        fetcher: Fetcher,
        tables: Sequence[Table],
        directory: Path,
        leave: Callable[[TaskStore], None] = TaskStore.close,
        disk: Disk | None = None,
    ) -> None:
        self.partition = partition
        self.lag: dict[str, int] = {}
        self.watermarks = Watermarks(cluster, f"standby of {app_id}-{partition}", ("standby", partition))
        self._cluster = cluster
        self._fetcher = fetcher
        self._changelogs = {table.name: TP(table.changelog, partition) for table in tables}
        self.tables: dict[str, TaskTable] = {}
        self._declared = tables
        self._path = directory / str(partition)
        self._leave = leave
        self._disk = disk or Disk(directory, 0)
        self._following: asyncio.Task[None] | None = None
        self._failure: StoreFailed | None = None

    def give_up(self, error: StoreFailed) -> None:
        """Close the tables, which somebody who read them found damaged; mend them and follow again."""
        if self._following is not None:
            self._failure = error
            self._following.cancel()

    async def run(self, previous: "asyncio.Task[None] | None") -> None:
        """Follow once `previous`, who may have the tables open, has ended."""
        if previous is not None:
            await asyncio.wait([previous])
        while True:
            try:
                return await self._follow()
            except StoreFailed as error:
                self.lag.clear()
                await mend(self._path, error, self._disk)

    async def _follow(self) -> None:
        store = await open_store(self._path)
        self.tables = {table.name: TaskTable(table, store, self.partition) for table in self._declared}
        leave = self._leave
        following = follow(
            store,
            self._cluster,
            self._fetcher,
            self._changelogs,
            self.lag,
            self._disk,
            self.watermarks.hear,
        )
        self._following = asyncio.create_task(following)
        try:
            await self._until_given_up(self._following)
        except ChangelogMismatch as error:
            self.lag.clear()
            log.error("no standby of partition %s: %s", self.partition, error)
            leave = TaskStore.close
        except StoreFailed:
            leave = TaskStore.close
            raise
        finally:
            self.tables = {}
            self._following = None
            self.watermarks.close()
            leave(store)

    async def _until_given_up(self, following: "asyncio.Task[None]") -> None:
        try:
            await following
        except asyncio.CancelledError:
            failure, self._failure = self._failure, None
            own = asyncio.current_task()
            if failure is None or (own is not None and own.cancelling()):
                raise
            raise failure from None


async def catch_up(
    store: TaskStore, cluster: Cluster, changelogs: Mapping[str, TP], lane: object, disk: Disk
) -> None:
    """Bring a partition's tables close to the end while its owner, if there still is one, works on.

    What is left for the task to restore, once the owner is fenced, is a tail. Closes the store on failure.
    """
    try:
        while await restore(store, cluster, changelogs, lane, disk) > CAUGHT_UP_RECORDS:
            pass
    except BaseException:
        store.close()
        raise
