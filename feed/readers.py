"""How far the pipeline has come with what the feed sent: its groups' committed offsets against our ends."""

import asyncio
import logging
import time
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from feed.outlet import NextOffsets, patiently

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class Readers:
    """Counts records sent and not yet processed, by consumer group and topic."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin: Any = None
        self._ends: dict[str, NextOffsets] = {}
        self._committed: dict[tuple[str, str], NextOffsets] = {}

    async def start(self) -> None:
        self._admin = await patiently(self._started_admin, "connecting to Kafka")

    async def stop(self) -> None:
        if self._admin is not None:
            await self._admin.close()

    def sent(self, topic: str, ends: NextOffsets) -> None:
        known = self._ends.setdefault(topic, {})
        for partition, end in ends.items():
            known[partition] = max(end, known.get(partition, 0))

    def behind(self, group: str, topic: str) -> int:
        """How many of the records that we sent the group has not committed, as of the last look."""
        committed = self._committed.get((group, topic), {})
        ends = self._ends.get(topic, {})
        return sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())

    async def look(self, group: str) -> None:
        """Ask the broker for the group's offsets; without an answer what was known stays."""
        try:
            offsets = await self._admin.list_consumer_group_offsets(group)
        except KafkaError as error:
            log.debug("the offsets of group %s: %r", group, error)
            return
        for at, offset in offsets.items():
            self._committed.setdefault((group, at.topic), {})[at.partition] = offset.offset

    async def room(self, group: str, topic: str, outstanding_max: int) -> None:
        """Wait until at most `outstanding_max` records of ours wait for the group."""
        while self.behind(group, topic) > outstanding_max:
            await self.look(group)
            if self.behind(group, topic) > outstanding_max:
                await asyncio.sleep(POLL_SECONDS)

    async def caught_up(self, group: str, topic: str, within_s: float) -> bool:
        """Wait until the group has everything we sent; False when it takes longer than that."""
        give_up_at = time.monotonic() + within_s
        while self.behind(group, topic) > 0:
            if time.monotonic() > give_up_at:
                return False
            await self.look(group)
            if self.behind(group, topic) > 0:
                await asyncio.sleep(POLL_SECONDS / 4)
        return True

    async def _started_admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        try:
            await admin.start()
        except BaseException:
            await admin.close()
            raise
        return admin
