"""A network that loses requests, loses answers, and delivers late what everybody has given up on."""

import asyncio
import random
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from app.engine.kafka.cluster import Cluster

LATE_S_MAX = 0.15


class BadNetwork:
    """Every request of the engine may fare badly, with probability `share`, as `seed` has it.

    A request is lost; or it arrives and its answer is lost; or the client sees it lost and it arrives later,
    when the client has gone on. `late` counts the latter.
    """

    def __init__(self, seed: int, share: float) -> None:
        self.late = 0
        self._random = random.Random(seed)
        self._share = share
        self._under_way: set[asyncio.Task[Any]] = set()

    def spread_over(self, patch: pytest.MonkeyPatch) -> None:
        """Put it between the engine and Kafka."""
        send = Cluster.send

        async def send_badly(cluster: Cluster, node: int, request: Any, lane: object = "default") -> Any:
            if self._random.random() >= self._share:
                return await send(cluster, node, request, lane)
            fate = self._random.choice(["lost", "answer lost", "late"])
            if fate == "answer lost":
                await send(cluster, node, request, lane)
            elif fate == "late":
                self.late += 1
                later = self._deliver(send(cluster, node, request, "late"))
                delivery = asyncio.get_running_loop().create_task(later)
                self._under_way.add(delivery)
                delivery.add_done_callback(self._under_way.discard)
            raise KafkaConnectionError(f"the test's network: {type(request).__name__} {fate}")

        patch.setattr(Cluster, "send", send_badly)

    async def _deliver(self, sending: Any) -> None:
        await asyncio.sleep(self._random.uniform(0, LATE_S_MAX))
        await asyncio.gather(sending, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
