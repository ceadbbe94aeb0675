"""Our engine, running the job: the same codec as the others, tables and output by a unit of work."""

import importlib.util
import time
from typing import Any

from bench import job
from bench.parts import Parts
from bench.worker import Options, mark, options


def missing() -> str | None:
    """Why it can't take part."""
    return None if importlib.util.find_spec("app.engine") else "there is no app.engine"


class JobCodec:
    """The job's own codec, without headers that tell types apart; a dead letter is its own bytes."""

    def decode(self, event_type: bytes, schema_version: bytes, data: bytes) -> job.Order:
        return job.decode_order(data)

    def encode(self, value: job.Decision | bytes) -> tuple[bytes, bytes, bytes]:
        return b"Decision", b"1", value if isinstance(value, bytes) else job.encode(value)


def make_app(given: Options) -> Any:
    """An app of the engine with the job's agent."""
    from app.engine import App, EngineSettings, TopicSpec, unit_of_work, use_uvloop

    use_uvloop()
    codec: Any = JobCodec()
    orders = TopicSpec(given.input, codec, edge=True)
    decisions = TopicSpec(given.output, codec, lambda decision: decision.order.account_id.encode())
    app = App(
        given.app_id,
        settings=EngineSettings(
            bootstrap=given.bootstrap,
            dead_letters=TopicSpec(f"{given.app_id}-dead-letters", codec),
            exactly_once=given.guarantee == "exactly_once",
            partitions=given.partitions,
        ),
        topics=[orders, decisions],
        modules=[],
        datadir=given.data_dir,
        web_enabled=False,
        broker_client_id=given.client_id,
    )
    positions = app.Table("positions", value_type=job.Position)

    @app.agent(app.inputs(orders))
    async def decide(batches: Any) -> None:
        async for batch in batches:
            async with unit_of_work(batch) as work:
                table = work[positions]
                for record in work.records():
                    order = record.value
                    position, decision = job.decide(order, table.get(order.account_id))
                    table[order.account_id] = position
                    work.emit(decisions, decision)

    return app


class Telling:
    """Tells the harness when all tasks are restored, and at the end where the processor time went since."""

    def __init__(self, app: Any, partitions: int) -> None:
        self._missing = partitions
        self._assigned_at = 0.0
        self._parts = Parts()
        app.on_partitions_assigned.connect(self._assigned)
        app.per_task(self._restored)

    async def _assigned(self, *_: Any, **__: Any) -> None:
        self._assigned_at = self._assigned_at or time.monotonic()

    async def _restored(self, _: Any) -> None:
        self._missing -= 1
        if not self._missing:
            mark("restored", seconds=time.monotonic() - self._assigned_at)
            self._parts.start()

    def parts(self) -> None:
        mark("parts", shares=self._parts.shares())


def run(app: Any, partitions: int) -> None:
    """Run the app as its only worker until SIGTERM."""
    from faust import Worker

    app.worker_init()
    telling = Telling(app, partitions)
    try:
        Worker(app, loglevel="WARN", daemon=True).execute_from_commandline()
    finally:
        telling.parts()


def main() -> None:
    given = options()
    run(make_app(given), given.partitions)


if __name__ == "__main__":
    main()
