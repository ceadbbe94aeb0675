"""Faust's agent with one actor per task: each partition number has its own stream of batches."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, cast

import faust
from faust.types import TP

from app.engine.core.work import Batch
from app.engine.errors import Fenced

log = logging.getLogger(__name__)

ACTOR_S_MAX = 5.0


class TaskAgent(faust.Agent):
    """The agent of a service. Faust starts and stops its actors; tasks feed them batches."""

    def __init__(self, fun: Any, **options: Any) -> None:
        super().__init__(fun, **options)
        self._in_hand: dict[Any, Batch] = {}

    async def on_start(self) -> None:
        """Subscribe to the inputs; actors start with their tasks."""
        self.supervisor = self._new_supervisor()
        await self.supervisor.start()
        self.app.topics.add(cast(Any, self.channel))

    async def start_actor(self) -> Any:
        """Start an actor with a stream of its own."""
        actor = await self._start_one(channel=self.app.channel(maxsize=1))
        self.supervisor.add(actor)
        await actor.maybe_start()
        return actor

    async def stop_actor(self, actor: Any) -> None:
        """End the actor between two batches: its stream stops."""
        self.supervisor.discard(actor)
        actor.cancel()
        await asyncio.wait([actor.actor_task], timeout=ACTOR_S_MAX)
        await actor.stop()
        self._in_hand.pop(actor.stream.channel, None)

    async def deliver(self, actor: Any, batch: Batch) -> None:
        """Hand a batch to the actor; `batch.done` tells what came of it."""
        self._in_hand[actor.stream.channel] = batch
        await actor.stream.channel.put(batch)

    async def _execute_actor(self, coro: Awaitable[None], aref: Any) -> None:
        await super()._execute_actor(self._again_and_again(coro, aref), aref)

    async def _again_and_again(self, coro: Awaitable[None], aref: Any) -> None:
        """An agent that fails outside its unit of work fails the batch in hand and starts again at once.

        Faust's supervisor would take up to 5 s, and would end the worker when two actors fail together.
        """
        channel = aref.stream.channel
        while True:
            try:
                await coro
                return
            except Exception as error:
                if isinstance(error, Fenced):
                    log.info("%s: %s", self.name, error)
                else:
                    log.exception("%s failed outside its unit of work", self.name)
                batch = self._in_hand.get(channel)
                if batch is not None:
                    batch.finish(error)
                coro = cast(Awaitable[None], self.fun(self.stream(channel=channel)))

    async def on_partitions_assigned(self, assigned: set[TP]) -> None:
        """Tasks follow the assignment, not the agent."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        pass
