"""A Faust app whose agent works in exactly-once micro-batches."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import faust
from faust.app.base import BootStrategy as FaustBootStrategy
from mode.loop import use as use_loop
from mode.utils.imports import cwd_in_path
from prometheus_client import Metric
from yarl import URL

from app.engine.core.agent import TaskAgent
from app.engine.core.dead_letter import QUARANTINE
from app.engine.core.health import reasons
from app.engine.core.manager import TaskManager
from app.engine.core.settings import EngineSettings
from app.engine.core.task import Task
from app.engine.core.work import Buried
from app.engine.kafka.assignor import Assignor
from app.engine.kafka.consumer import Transport
from app.engine.state.global_table import GlobalTable
from app.engine.state.lock import DirectoryLock
from app.engine.state.table import Table, ValueCodec
from app.engine.topics import TopicSpec
from app.engine.web.metrics import BatchMetrics, Measured, registry
from app.engine.worker import Worker, take_datadir

log = logging.getLogger(__name__)

V = TypeVar("V")

PREDECESSOR_WAIT_S = 3.0
"""How long a worker that is ending may keep the data directory from its successor."""

GC_THRESHOLDS = (100_000, 20, 100)
"""A batch makes thousands of objects and no cycles: Python's defaults spend a tenth of the time looking."""


class BootStrategy(FaustBootStrategy):
    """Tasks have producers of their own: Faust's is not started."""

    enable_kafka_producer = False


class App(faust.App):
    """One service: its consumer group and transactional ids are named `id`.

    `topics` are those that it writes, created if they are missing, like the inputs, which are named where the
    agent is declared, and those of global tables. `others` are its neighbours': compared and created together
    with its own, so that nothing is made where anything is wrong. `modules` are imported when a worker
    starts; one that cannot be imported stops it, loudly: Faust's autodiscovery would only warn.
    """

    BootStrategy = BootStrategy

    def __init__(
        self,
        id: str,
        *,
        settings: EngineSettings,
        topics: Sequence[TopicSpec],
        others: Sequence[TopicSpec] = (),
        modules: Sequence[str],
        datadir: Path,
        **options: Any,
    ) -> None:
        self.settings = settings
        self.modules = list(modules)
        self.topic_specs = list(topics)
        self.other_specs = list(others)
        self.input_specs: list[TopicSpec] = []
        self.global_tables: list[GlobalTable] = []
        self.task_companions: list[Callable[[Task], Awaitable[None]]] = []
        self.buried_handlers: list[Buried] = []
        self.health_checks: list[Callable[[], Iterable[str]]] = []
        self.noticed: list[Callable[[], Iterable[str]]] = []
        self.metrics = registry()
        self.batch_metrics = BatchMetrics(self.metrics)
        self.announce: Callable[[str], None] = log.info
        self._lock: DirectoryLock | None = None
        brokers = [f"kafka://{address}" for address in settings.bootstrap.split(",")]
        super().__init__(
            id,
            broker=";".join(brokers),
            datadir=datadir,
            store="rocksdb://",
            Worker=Worker,
            Agent=TaskAgent,
            Table=Table,
            TableManager=TaskManager,
            PartitionAssignor=Assignor,
            topic_disable_leader=True,
            topic_allow_declare=False,
            stream_wait_empty=False,
            table_standby_replicas=settings.standby_replicas,
            web_tables_enabled=False,
            **options,
        )
        self.transport = Transport([URL(each) for each in brokers], self)
        self.Table(QUARANTINE, value_type=dict[str, Any], help="keys that wait behind a dead letter")

    def Table(  # type: ignore[override]
        self, name: str, *, value_type: type[V] | ValueCodec[V], **options: Any
    ) -> Table[V]:
        """Declare a table of this service. See engine.Table."""
        return cast(Table[V], super().Table(name, value_type=value_type, **options))

    def inputs(self, *topics: TopicSpec) -> Any:
        """The channel of the service's one agent. Within a batch, records come in the order of `topics`."""
        if self.input_specs:
            raise ValueError(f"service {self.conf.id} has its inputs already: one agent a service")
        self.input_specs = list(topics)
        return self.topic(*(topic.name for topic in topics), key_type=bytes, value_type=bytes)

    def global_table(self, topic: TopicSpec[V]) -> GlobalTable[V]:
        """Follow a small compacted topic whole, in memory; once, however often it is asked for.

        Tasks start when it is read.
        """
        for table in self.global_tables:
            if table.topic is topic:
                return table
        self.global_tables.append(new := GlobalTable(topic))
        return new

    def per_task(self, fun: Callable[[Task], Awaitable[None]]) -> Callable[[Task], Awaitable[None]]:
        """Run `fun(task)` beside each task, from its restore to its end: for talking to the outside."""
        self.task_companions.append(fun)
        return fun

    def buried(self, fun: Buried) -> Buried:
        """Call `fun(work, spec, raw, error)` for each record that becomes a dead letter by its own fault.

        It happens in the unit of work that buries the record, so that what `fun` emits commits with it. Of a
        record that is only held behind another one it hears nothing. `raw` is the record as the log has it.
        """
        self.buried_handlers.append(fun)
        return fun

    def health(self, fun: Callable[[], Iterable[str]]) -> Callable[[], Iterable[str]]:
        """Have `fun()` tell why the service cannot work now, a line a reason; it is asked often."""
        self.health_checks.append(fun)
        return fun

    def notices(self, fun: Callable[[], Iterable[str]]) -> Callable[[], Iterable[str]]:
        """Have `fun()` tell what a person has to look at though the service works: lines of `/status`."""
        self.noticed.append(fun)
        return fun

    def measures(self, fun: Callable[[], Iterable[Metric]]) -> Callable[[], Iterable[Metric]]:
        """Have `fun()` give metrics of the service's own, for `/metrics`; `metrics` is their registry."""
        self.metrics.register(Measured(fun))
        return fun

    def not_ready(self) -> list[str]:
        """Every reason why this worker cannot work now, one line each; [] when it is ready."""
        return [reason.text for reason in reasons(self)]

    @property
    def service_agent(self) -> TaskAgent:
        (agent,) = self.agents.values()
        assert isinstance(agent, TaskAgent)
        return agent

    def worker_init(self) -> None:
        with cwd_in_path():  # as Faust itself does to find the app
            for module in self.modules:
                import_module(module)
        super().worker_init()

    async def on_first_start(self) -> None:
        take_datadir(self)
        if not (self.client_only or self.producer_only):  # those have no tables
            self._lock = DirectoryLock(Path(self.conf.datadir).absolute(), PREDECESSOR_WAIT_S)  # noqa: ASYNC240
            await asyncio.to_thread(self._lock.acquire)
            cast(TaskManager, self.tables).watch_health()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await super().on_first_start()

    async def on_stop(self) -> None:
        await cast(TaskManager, self.tables).stop_tasks()
        await super().on_stop()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        if self._lock is not None:
            self._lock.release()


def use_uvloop() -> None:
    """Use uvloop for every event loop made from now on; call before anything asks for a loop."""
    use_loop("uvloop")
