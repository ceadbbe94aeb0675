"""Workers of the example service: bare tasks in this process, and whole workers in processes of their own.

A bare worker runs the engine's tasks without Faust's group, so that a test decides who owns what and when;
whoever starts a task last takes it over. A worker process is the real thing, with real signals.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from multiprocessing import connection
from pathlib import Path
from typing import Any, Self

import msgspec

from app.engine import App, Batch, Task
from app.engine.core.owned import Assignment
from app.engine.core.ownership import AtLeastOnce, ByWorker
from app.engine.kafka.assignor import BY_PARTITION, Assignor
from app.engine.kafka.cluster import NO_MEMBER, Cluster, Membership
from app.engine.kafka.fetcher import Fetcher
from app.engine.state.restore import FETCH_BYTES
from app.engine.state.standby import Standby
from storm import steps
from storm.mutants.engine import BROKEN_RULES
from storm.mutants.patching import Permanent
from storm.steps import Plan
from tests.engine.service import Options, make_app
from tests.engine.waiting import PATIENCE_S, until

log = logging.getLogger(__name__)


RELEASE_BEFORE = "release_before"
"""Not a mutant: a worker that joins its group as the release before did, and commits as it did."""


def _know_no_worker_s_transactions() -> None:
    offers = property(lambda assignor: [BY_PARTITION], lambda assignor, names: None)
    Assignor.offers = offers  # type: ignore[assignment]


class BareWorker:
    """Owns partitions because it is told to, not because a group agrees."""

    def __init__(self, options: Options, name: str, plan: Plan | None = None) -> None:
        self.plan: Plan = {} if plan is None else plan
        self.options = msgspec.structs.replace(options, directory=f"{options.directory}/{name}")
        Path(self.options.directory).mkdir(parents=True, exist_ok=True)
        self.app: App = make_app(self.options)
        self.tasks: dict[int, Task] = {}
        self.runs: dict[int, asyncio.Task[None]] = {}
        self.batch_sizes: list[int] = []
        self._actors: dict[int, asyncio.Task[None]] = {}
        self._cluster = Cluster(options.bootstrap, name)
        self._inputs = Fetcher(self._cluster, "inputs", options.fetch_bytes_max)
        self._changelogs = Fetcher(self._cluster, "standbys", FETCH_BYTES)
        self._context = copy_context()
        self._context.run(steps.follow, self.plan)
        self.ownership = self._way_to_commit()
        self.membership = NO_MEMBER
        self._committing: asyncio.Task[None] | None = None

    def joins(self, membership: Membership) -> None:
        """Commit as this member of the group from here on."""
        assert isinstance(self.ownership, ByWorker)
        self.membership = membership
        self.ownership.assigned(membership)

    def _way_to_commit(self) -> ByWorker | AtLeastOnce:
        settings, group = self.app.settings, self.options.id
        if not settings.exactly_once:
            return AtLeastOnce(self._cluster, group, settings.transaction_timeout_ms, lambda: NO_MEMBER)
        register = f"{group}-quarantine-changelog"
        return ByWorker(self._cluster, group, register, settings.transaction_timeout_ms)

    async def __aenter__(self) -> Self:
        await self._cluster.start()
        if isinstance(self.ownership, ByWorker):
            self._committing = self._spawn(self.ownership.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()

    async def own(self, *partitions: int) -> Self:
        """Start tasks; their take-over goes on in the background."""
        manager: Any = self.app.tables
        counts = {
            spec.name: await self._cluster.partition_count(spec.name)
            for spec in [*self.app.topic_specs, self.app.settings.dead_letters, *manager._changelog_specs()]
        }
        for partition in partitions or range(self.options.partitions):
            batches: asyncio.Queue[Batch] = asyncio.Queue(maxsize=1)
            task = self.tasks[partition] = Task(
                Assignment(
                    app_id=self.options.id,
                    partition=partition,
                    cluster=self._cluster,
                    fetcher=self._inputs,
                    settings=self.app.settings,
                    inputs=self.app.input_specs,
                    tables=manager.declared,
                    partition_counts=counts,
                    directory=Path(self.options.directory) / "tables",
                    membership=self.membership,
                    ownership=self.ownership,
                ),
                batches.put,
                self.app.buried_handlers,
            )
            self._actors[partition] = self._spawn(self._act(batches))
            self.runs[partition] = self._spawn(task.run())
        return self

    def _spawn(self, work: Any) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(work, context=self._context)

    async def _act(self, batches: "asyncio.Queue[Batch]") -> None:
        """Run the service's agent as Faust does: again when it fails outside its unit of work."""
        in_hand: list[Batch] = []

        async def stream() -> AsyncIterator[Batch]:
            while True:
                in_hand[:] = [await batches.get()]
                self.batch_sizes.append(len(in_hand[0]))
                yield in_hand[0]

        while True:
            try:
                await self.app.service_agent.fun(stream())  # type: ignore[arg-type,misc]
            except Exception as error:
                log.warning("the agent failed outside its unit of work", exc_info=error)
                in_hand[0].finish(error)

    async def ready(self) -> None:
        """Wait until every task is restored; raises what ended one."""
        for partition, task in self.tasks.items():
            waiting = asyncio.ensure_future(task.ready.wait())
            await asyncio.wait({waiting, self.runs[partition]}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not task.ready.is_set():
                self.runs[partition].result()
                raise AssertionError(f"{task} has ended: {task.fenced}")

    @property
    def killed(self) -> bool:
        """Whether an actor has met `steps.Killed`."""
        return any(
            each.done() and not each.cancelled() and isinstance(each.exception(), steps.Killed)
            for each in self._actors.values()
        )

    async def committed(self, records: int, within_s: float = PATIENCE_S) -> None:
        """Wait until this worker has committed `records` inputs."""
        await until(lambda: sum(task.counts.records for task in self.tasks.values()) >= records, within_s)

    async def over_or_committed(self, records: int, within_s: float = PATIENCE_S) -> None:
        """Wait until this worker has no more tasks, or has committed `records` inputs after all."""
        committing = asyncio.ensure_future(self.committed(records, within_s))
        running = asyncio.ensure_future(asyncio.wait(self.runs.values()))
        await asyncio.wait({committing, running}, return_when=asyncio.FIRST_COMPLETED)
        committing.cancel()
        running.cancel()

    async def ended(self, within_s: float = PATIENCE_S) -> None:
        """Wait until no task runs; raises what ended one."""
        await until(lambda: all(each.done() for each in self.runs.values()), within_s)
        for each in self.runs.values():
            each.result()

    async def failing(self, waiting: Awaitable[None]) -> list[str]:
        """Wait, unless a task fails first; returns what has gone wrong."""
        awaited = asyncio.ensure_future(waiting)
        await asyncio.wait({awaited, *self.runs.values()}, return_when=asyncio.FIRST_COMPLETED)
        failures = [str(run.exception()) for run in self.runs.values() if run.done() and run.exception()]
        if failures:
            awaited.cancel()
            return failures
        await awaited
        return []

    async def revive_if_fenced(self) -> None:
        """What a worker does whose group gives it the partition again."""
        for partition, run in list(self.runs.items()):
            if run.done():
                run.result()
                self._actors[partition].cancel()
                await self.own(partition)

    @asynccontextmanager
    async def standby(self, partition: int) -> AsyncIterator[Standby]:
        """Follow a partition that somebody else owns."""
        tables: Any = self.app.tables
        directory = Path(self.options.directory) / "tables"
        standby = Standby(
            self.options.id, partition, self._cluster, self._changelogs, tables.declared, directory
        )
        following = self._spawn(standby.run(None))
        try:
            yield standby
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def stop(self) -> None:
        """End as a worker does that is told to."""
        for task in self.tasks.values():
            task.stop()
        await asyncio.gather(*self.runs.values())
        await self.vanish()

    async def vanish(self) -> None:
        """End as by `kill -9`: nothing more is sent, nothing is cleaned up in Kafka."""
        doomed = [*self._actors.values(), *self.runs.values(), *filter(None, [self._committing])]
        for each in doomed:
            each.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        self._actors.clear()
        self._inputs.close()
        self._changelogs.close()
        await self._cluster.stop()


class WorkerProcess:
    """`faust worker` of the example service, forked from a process that has imported all it needs."""

    def __init__(
        self, options: Options, name: str, *, kill_at: Sequence[Any] = (), mutant: str | None = None
    ) -> None:
        self.options = msgspec.structs.replace(options, directory=f"{options.directory}/{name}")
        Path(self.options.directory).mkdir(parents=True, exist_ok=True)
        self.log = Path(self.options.directory) / f"log-{os.urandom(3).hex()}"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.engine.workers"])
        self._process = context.Process(target=_run, args=(self.options, str(self.log), kill_at, mutant))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when it was killed."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.join()

    async def ended(self, within_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit code."""
        await until(lambda: self._process.exitcode is not None, within_s)
        assert self._process.exitcode is not None
        return self._process.exitcode

    async def frozen(self, within_s: float = PATIENCE_S) -> None:
        """Wait until the process is stopped by a signal."""
        await until(lambda: state_of(self.pid) == "T", within_s)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def state_of(pid: int) -> str:
    """What the kernel says of a process; T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _run(options: Options, log: str, plan: Sequence[tuple[str, int, str]], mutant: str | None) -> None:
    """A forked process becomes a worker; it ends with the process that asked for it."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    run_worker(options, plan, mutant)


def run_worker(
    options: Options, plan: Sequence[tuple[str, int, str]] = (), mutant: str | None = None
) -> None:
    """Become a worker: `plan` says at which step, for the how manieth time, to be killed or frozen."""
    from app.engine import use_uvloop
    from app.engine.worker import Worker

    use_uvloop()
    steps.instrument()
    if mutant == RELEASE_BEFORE:
        _know_no_worker_s_transactions()
    elif mutant is not None:
        BROKEN_RULES[mutant].patch(Permanent())
    actions = {"kill": steps.kill, "freeze": steps.freeze}
    steps.follow({steps.Step(step): steps.at_time(time, actions[action]) for step, time, action in plan})
    app = make_app(options)
    Worker(app, loglevel="INFO").execute_from_commandline()
