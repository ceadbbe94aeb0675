"""Two workers of one contender: killed, started again on the disk they left, and who has which partitions."""

import asyncio
import shutil
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from app.engine.kafka.cluster import Cluster
from app.membership import Groups
from bench.contenders import Contender
from bench.processes import Child
from bench.run import Bench

PARENT_SECONDS_MAX = 30.0


class Pair:
    """Workers 0 and 1 on their topics; all that is theirs goes away with them."""

    def __init__(
        self, bench: Bench, contender: Contender, app_id: str, input_topic: str, partitions: int
    ) -> None:
        self.app_id = app_id
        self.input = input_topic
        self.output = f"{app_id}-decisions"
        self._bench = bench
        self._contender = contender
        self._partitions = partitions
        self._directory = bench.directory / app_id
        self._running: dict[int, Child] = {}
        self._starts = 0
        self._client_ids: dict[int, str] = {}

    def __enter__(self) -> "Pair":
        self._directory.mkdir()
        self._bench.cluster.create_topic(self.output, self._partitions)
        try:
            for number in (0, 1):
                self.start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.stop()
        self._bench.cluster.delete_topics(lambda topic: self.app_id in topic or topic == self.input)
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self, number: int) -> None:
        """Start a worker, under a client id that no other start has."""
        self._starts += 1
        client_id = self._client_ids[number] = f"{self.app_id}-{number}-{self._starts}"
        command = self._bench.command(
            self._contender,
            input=self.input,
            output=self.output,
            app_id=self.app_id,
            client_id=client_id,
            data_dir=self._directory / f"state-{number}",
            partitions=self._partitions,
        )
        name = f"{self._contender}, worker {number}"
        self._running[number] = Child(name, command, self._directory / f"log-{self._starts}")

    def kill(self, number: int) -> tuple[float, str]:
        """SIGKILL a worker: the moment, and the client id that is dead now."""
        process = self._running.pop(number)
        at = process.kill()
        process.stop()
        return at, self._client_ids.pop(number)

    def check(self) -> None:
        """Raise `BenchError` if a worker has ended by itself."""
        for process in self._running.values():
            process.check()

    def owned(self) -> dict[int, set[int]]:
        """The partitions of each running worker; empty unless they, and nobody else, share all."""
        owners = self._bench.cluster.owners(self.app_id, self.input)
        found = {
            number: partitions
            for number, client_id in self._client_ids.items()
            for member, partitions in owners.items()
            if member.startswith(client_id) and partitions
        }
        is_whole = len(owners) == len(found) == len(self._running)
        return found if is_whole and sum(map(len, found.values())) == self._partitions else {}


class Parent:
    """Tells the group of a death at once, with what the pipeline's supervisor does it: `app.membership`."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self._group = group
        self._cluster = Cluster(bootstrap, "bench-parent")
        self._groups = Groups(self._cluster)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="parent", daemon=True)

    def __enter__(self) -> "Parent":
        self._thread.start()
        self._call(self._cluster.start()).result(PARENT_SECONDS_MAX)
        self._call(self._groups.describe(self._group)).result(PARENT_SECONDS_MAX)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._cluster.stop()).result(PARENT_SECONDS_MAX)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def remove(self, client_id: str) -> None:
        """Begin to put a dead worker out of its group."""
        self._call(self._groups.remove(self._group, client_id.__eq__))

    def _call(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)
