"""Starts and stops tasks as the group's assignment says, in the place of Faust's table recovery."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from faust.tables import TableManager
from faust.types import TP

from app.engine.core.dead_letter import QUARANTINE
from app.engine.core.health import Health, reasons
from app.engine.core.owned import Assignment
from app.engine.core.ownership import AtLeastOnce, ByPartition, ByWorker, Ownership
from app.engine.core.task import FINISH_S_MAX, Task
from app.engine.core.watchdog import Turn, Watchdog
from app.engine.errors import Fenced, InDoubt, Misconfigured, StaleGeneration, StoreFailed, TopicMismatch
from app.engine.kafka.admin import ensure_topics
from app.engine.kafka.assignor import BY_PARTITION, BY_WORKER
from app.engine.kafka.cluster import NO_MEMBER, Cluster, Membership
from app.engine.kafka.cluster import TP as Partition
from app.engine.kafka.fetcher import Fetcher
from app.engine.kafka.transaction import NOTE_BYTES_MAX, is_by_worker, write_note
from app.engine.state.disk import Disk
from app.engine.state.restore import FETCH_BYTES
from app.engine.state.standby import Standby, catch_up
from app.engine.state.store import TaskStore, mend, open_store
from app.engine.state.table import CHANGELOG_CONFIG, Table
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

STANDBY_PAUSE_S = 10.0

CHECK_PAUSE_S = 0.1
"""How often a task that is to leave asks whether it has another owner: an idle one would not find out."""


class TaskManager(TableManager):
    """Faust's registry of tables, and the owner of this worker's tasks, one per assigned partition number."""

    app: Any

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        self.tasks: dict[int, Task] = {}
        self.standbys: dict[int, Standby] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self.following: dict[int, asyncio.Task[None]] = {}
        self._left: dict[int, TaskStore] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self.wanted: set[int] = set()
        self._membership = NO_MEMBER
        self._questions: list[asyncio.Task[None]] = []
        self._assigned = asyncio.Condition()
        self.assignments = 0
        self._cluster = Cluster(app.settings.bootstrap, app.conf.broker_client_id)
        self._by_worker: ByWorker | None = None
        self._is_by_worker = False
        self._input_fetcher = Fetcher(self._cluster, "inputs", app.settings.fetch_bytes_max)
        self._standby_fetcher = Fetcher(self._cluster, "standbys", FETCH_BYTES)
        self.watchdog = Watchdog(app.settings.stuck_s_max, self._turns)
        self._partition_counts: dict[str, int] = {}
        self._background: list[asyncio.Task[None]] = []
        self.has_topics = False
        self.health = Health(app)

    @cached_property
    def disk(self) -> Disk:
        """Where the tables are; known when the worker has been told its directory."""
        return Disk(self._directory, self.app.settings.disk_free_bytes_min)

    @property
    def _directory(self) -> Path:
        return Path(self.app.conf.tabledir)

    @property
    def declared(self) -> list[Table[Any]]:
        return list(self.values())

    @property
    def transactions(self) -> int:
        """How many transactions this worker has committed, as far as it commits for all tasks together."""
        return 0 if self._by_worker is None else self._by_worker.committer.count

    def watch_health(self) -> None:
        """Say from here on why this worker cannot work, and when it can."""
        self._background.append(asyncio.create_task(self.health.watch()))

    async def on_start(self) -> None:
        """Connect, make sure that the topics are there, and let the consumer subscribe."""
        app = self.app
        self.watchdog.start(asyncio.get_running_loop())
        app.flow_control.resume()
        read = {*app.input_specs, *(each.topic for each in app.global_tables)}
        topics = {*app.topic_specs, *read, app.settings.dead_letters, *self._changelog_specs()}
        note = write_note((spec.name for spec in app.input_specs), by_worker=True)
        if len(note.encode()) > NOTE_BYTES_MAX:
            raise Misconfigured(f"the names of all inputs together are too long for Kafka: {note}")
        await ensure_topics(
            app.settings.bootstrap,
            {*topics, *app.other_specs},
            partitions=app.settings.partitions,
            replication_factor=app.settings.replication_factor,
            client_id=app.conf.broker_client_id,
            inputs=[spec.name for spec in app.input_specs],
            changelogs=[table.changelog for table in self.declared],
            stateful=any(table.name != QUARANTINE for table in self.declared),
        )
        await self._cluster.start()
        for topic in topics:
            self._partition_counts[topic.name] = await self._cluster.partition_count(topic.name)
        self._require_copartitioning()
        self.has_topics = True
        if app.settings.exactly_once:
            await self._prepare_to_commit()
        for table in self.declared:
            app.topics.add(table.changelog_topic)
        for global_table in app.global_tables:
            self._background.append(asyncio.create_task(self._follow(global_table)))
        self._tables_finalized.set()
        self._tables_registered.set()

    def _turns(self) -> dict[str, Turn]:
        """What the watchdog times; called in its thread."""
        found = {}
        for task in list(self.tasks.values()):
            found[f"the agent with a batch of {task}"] = task.agent_turn
            found[f"a companion's unit of work of {task}"] = task.companion_turn
        return found

    def _changelog_specs(self) -> Iterable[TopicSpec]:
        no_codec: Any = None  # nobody decodes a changelog through its topic
        return [TopicSpec(table.changelog, no_codec, config=CHANGELOG_CONFIG) for table in self.declared]

    def _require_copartitioning(self) -> None:
        names = [spec.name for spec in self.app.input_specs] + [table.changelog for table in self.declared]
        counts = {name: self._partition_counts[name] for name in names}
        if len(set(counts.values())) > 1:
            raise TopicMismatch(
                f"service {self.app.conf.id}: inputs and changelogs must have one partition count: {counts}"
            )

    async def _prepare_to_commit(self) -> None:
        """Find out whether the release before may be in the group, which knows no transactions of a worker.

        It has committed offsets that lack the mark of this one.
        """
        await self._cluster.require_versions()
        settings, group = self.app.settings, self.app.conf.id
        self._by_worker = ByWorker(
            self._cluster,
            group,
            next(table.changelog for table in self.declared if table.name == QUARANTINE),
            settings.transaction_timeout_ms,
            settings.commit_interval_s,
        )
        partitions = range(self._partition_counts[self.app.input_specs[0].name])
        inputs = [Partition(spec.name, p) for spec in self.app.input_specs for p in partitions]
        committed = await self._cluster.group_offsets(group, inputs)
        offers = [BY_WORKER]
        if any(each is not None and not is_by_worker(each.note) for each in committed.values()):
            offers.append(BY_PARTITION)
        self.app.assignor.offers = offers
        self._background.append(asyncio.create_task(self._or_crash(self._by_worker.run())))

    async def _follow(self, global_table: Any) -> None:
        await self._or_crash(global_table.run(self._cluster, self._input_fetcher))

    async def _or_crash(self, work: Awaitable[None]) -> None:
        """What has to go on for as long as the worker does."""
        try:
            await work
        except Exception as error:
            await self.app.crash(error)

    # -- assignment

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Exactly once, tasks go on until fenced or told to stop; at least once has no fence: they stop."""
        if not self.app.settings.exactly_once:
            for task in self.tasks.values():
                task.stop()

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Let tasks go that left, start tasks that came; those that stay are not touched.

        If the group has put this worker out again meanwhile, the assignment is nobody's, and another one
        follows: a task would claim its partition as no member, which an empty group takes.
        """
        if self.app.consumer.membership().generation < 0:
            log.info("%s: the assignment is over already", self.app.conf.id)
            return
        inputs = {spec.name for spec in self.app.input_specs}
        self.wanted = {tp.partition for tp in assigned if tp.topic in inputs}
        standbys = {tp.partition for tp in self.app.assignor.assigned_standbys()} - self.wanted
        log.info(
            "%s: assigned partitions %s, standbys of %s",
            *(self.app.conf.id, sorted(self.wanted), sorted(standbys)),
        )
        self._join_generation()
        for partition, task in self.tasks.items():
            if partition not in self.wanted:
                self._let_go(task)
        for partition in sorted(self.wanted):
            previous, task_now = self._running.get(partition), self.tasks.get(partition)
            ends = task_now is not None and task_now.stopping and task_now.fenced is None
            if previous is None or previous.done() or ends:
                self._running[partition] = asyncio.create_task(self.own(partition, previous))
        self._follow_standbys(standbys)
        self.assignments += 1
        async with self._assigned:
            self._assigned.notify_all()

    def _join_generation(self) -> None:
        """Commit under the new generation from here on, in the way that all members of the group know."""
        membership = Membership(*self.app.consumer.membership())
        was_put_out = self._membership.member not in ("", membership.member)
        self._membership = membership
        if self._by_worker is not None:
            self._by_worker.assigned(membership)
        if self._is_by_worker != self.app.assignor.is_by_worker:
            self._is_by_worker = self.app.assignor.is_by_worker
            for task in self.tasks.values():  # it begins again, in the new way
                task.stop()
        if self.app.assignor.has_outgrown_release_before():
            self.app.consumer.rejoin()
        if was_put_out:  # others may have taken our tasks over: let each find out
            self._questions = [asyncio.create_task(task.check()) for task in self.tasks.values()]

    def _way_to_commit(self, partition: int) -> Ownership:
        """How the group's members own partitions now."""
        settings, group = self.app.settings, self.app.conf.id
        timeout_ms = settings.transaction_timeout_ms
        if self._by_worker is None:
            return AtLeastOnce(self._cluster, group, timeout_ms, self.app.consumer.membership)
        if self._is_by_worker:
            return self._by_worker
        register = self._by_worker.register
        return ByPartition(self._cluster, group, partition, register, timeout_ms, settings.commit_interval_s)

    def _let_go(self, task: Task) -> None:
        """A task whose partition has moved works on until its new owner, tables ready, fences it."""
        if not self.app.settings.exactly_once or not task.ready.is_set():
            task.stop()
        elif task.partition not in self._leaving or self._leaving[task.partition].done():
            self._leaving[task.partition] = asyncio.create_task(self._until_taken_over(task))

    async def _until_taken_over(self, task: Task) -> None:
        while not task.closed and task.partition not in self.wanted:
            await asyncio.sleep(CHECK_PAUSE_S)
            await task.check()

    def _follow_standbys(self, partitions: set[int]) -> None:
        """Follow the partitions that this worker shall be the standby of, and no others."""
        for partition in set(self.standbys) - partitions:
            del self.standbys[partition]
            self.following[partition].cancel()
        for partition in partitions - set(self.standbys):
            standby = self.standbys[partition] = Standby(
                self.app.conf.id,
                partition,
                self._cluster,
                self._standby_fetcher,
                self.declared,
                self._directory,
                self._leave,
                self.disk,
            )
            previous = self._running.get(partition)
            self.following[partition] = asyncio.create_task(self._keep_following(standby, previous))

    async def _keep_following(self, standby: Standby, previous: "asyncio.Task[None] | None") -> None:
        while True:
            try:
                await standby.run(previous)
            except Exception:
                log.exception("the standby of partition %s failed", standby.partition)
            log.error("no standby of partition %s for %s s", standby.partition, STANDBY_PAUSE_S)
            await asyncio.sleep(STANDBY_PAUSE_S)

    async def own(self, partition: int, previous: "asyncio.Task[None] | None") -> None:
        """Run the task of a partition for as long as the group says that it is ours."""
        following = self.following.get(partition)
        before = [each for each in (previous, following) if each is not None and not each.done()]
        if before:
            await asyncio.wait(before)
        try:
            await asyncio.gather(*(each.ready.wait() for each in self.app.global_tables))
            while partition in self.wanted and not self.should_stop:
                try:
                    store = await self._warm_store(partition)
                    if partition not in self.wanted:
                        store.close()
                        return
                    task = await self._run_once(partition, store)
                except StoreFailed as error:
                    await mend(self._directory / str(partition), error, self.disk)
                    continue
                if task.fenced is None or partition not in self.wanted:
                    return
                if not isinstance(task.fenced, InDoubt):
                    await self._wait_for_new_assignment(task)
        except Exception as error:
            log.exception("partition %s of %s cannot go on", partition, self.app.conf.id)
            await self.app.crash(error)
        finally:
            if partition in self._left:
                self._left.pop(partition).close()

    async def _wait_for_new_assignment(self, task: Task) -> None:
        """A fenced task starts again only under a newer assignment: else it would fence its true owner."""
        if self._membership == task.membership and not isinstance(task.fenced, StaleGeneration):
            self.app.consumer.rejoin()
        async with self._assigned:
            await self._assigned.wait_for(
                lambda: self._membership != task.membership or task.partition not in self.wanted
            )

    def _leave(self, store: TaskStore) -> None:
        """What becomes of a standby's tables: the task that takes its place gets them as they are, open."""
        partition = int(store.path.name)
        if partition in self.wanted:
            self._left[partition] = store
        else:
            store.close()

    async def _warm_store(self, partition: int) -> TaskStore:
        """The tables of a partition, close to the end of their changelogs."""
        store = self._left.pop(partition, None) or await open_store(self._directory / str(partition))
        changelogs = {table.name: Partition(table.changelog, partition) for table in self.declared}
        lane = (self.app.conf.id, "catch up", partition)
        await catch_up(store, self._cluster, changelogs, lane, self.disk)
        return store

    async def _run_once(self, partition: int, store: TaskStore) -> Task:
        agent = self.app.service_agent
        actor = await agent.start_actor()
        task = Task(
            Assignment(
                app_id=self.app.conf.id,
                partition=partition,
                cluster=self._cluster,
                fetcher=self._input_fetcher,
                settings=self.app.settings,
                inputs=self.app.input_specs,
                tables=self.declared,
                partition_counts=self._partition_counts,
                directory=self._directory,
                membership=self._membership,
                ownership=self._way_to_commit(partition),
                store=store,
                disk=self.disk,
            ),
            lambda batch: agent.deliver(actor, self.app.batch_metrics.watch(batch)),
            self.app.buried_handlers,
        )
        self.tasks[partition] = task
        companions = [asyncio.create_task(self._accompany(task, fun)) for fun in self.app.task_companions]
        try:
            await task.run()
        finally:
            for companion in companions:
                companion.cancel()
            await asyncio.gather(*companions, return_exceptions=True)
            await agent.stop_actor(actor)
            if self.tasks.get(partition) is task:
                del self.tasks[partition]
        return task

    async def _accompany(self, task: Task, fun: Any) -> None:
        await task.ready.wait()
        try:
            await task.accompany(fun)
        except StoreFailed as error:
            task.give_up(error)
        except Exception as error:
            await self._judge(task, error)

    async def _judge(self, task: Task, error: Exception) -> None:
        """End the worker, unless the task has another owner: then its tables are old, no wonder."""
        await task.check()
        if not task.closed:
            await self.app.crash(error)
        elif not isinstance(error, Fenced):
            log.info("%s was no longer ours when a companion failed: %r", task, error)

    # -- end

    async def stop_tasks(self) -> None:
        """Let tasks finish the batch in hand, within a bound; what is left open their successors abort."""
        self.watchdog.stop()
        self.wanted = set()
        for task in self.tasks.values():
            task.stop()
        self.assignments += 1  # whoever waits for an assignment has none to wait for
        async with self._assigned:
            self._assigned.notify_all()
        running = [each for each in self._running.values() if not each.done()]
        if running:
            _, late = await asyncio.wait(running, timeout=FINISH_S_MAX)
            for each in late:
                each.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        aside = [*self._background, *self.following.values(), *self._leaving.values(), *self._questions]
        for each in aside:
            each.cancel()
        await asyncio.gather(*aside, return_exceptions=True)

    async def on_stop(self) -> None:
        await self.stop_tasks()
        self._input_fetcher.close()
        self._standby_fetcher.close()
        await self._cluster.stop()

    async def wait_until_tables_registered(self) -> None:
        """Whoever waits here subscribes next: not before the topics are right, nor while the worker ends."""
        await self._tables_registered.wait()

    async def wait_until_recovery_completed(self) -> bool:
        """Tasks restore one by one; `ready()` tells when all have."""
        return False

    def ready(self) -> bool:
        """Whether this worker can work; `App.not_ready` has the reasons why it cannot."""
        return not reasons(self.app)

    @property
    def kafka_silent_s(self) -> float:
        """How long Kafka has been asked without any answer."""
        return self._cluster.silent_s

    @property
    def waits(self) -> list[str]:
        """One line for each reason why nothing has been committed for long, though Kafka answers."""
        owners = {task.ownership for task in self.tasks.values()}
        return sorted({line for each in owners for line in each.waits.lasting})
