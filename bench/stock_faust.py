"""Stock Faust 0.15.3, at the best settings it supports.

uvloop, the Cython paths (on when built), raw bytes with the job's own codec (Faust's own serializers and
models are slower), rocksdict with a 64 MiB block cache instead of 2 GiB, no replication, no web server. Of
the settings tried, a linger of 50 ms gains most (CPU per event from 490 to 330 µs); a smaller poll evens out
the flow; a larger stream buffer, rarer commits and a larger producer buffer (no setting) gain nothing more.
"""

from typing import Any

from bench import job
from bench.worker import Options, mark, options

COMMON_SETTINGS: dict[str, Any] = {
    "store": "rocksdb://",
    "key_serializer": "raw",
    "value_serializer": "raw",
    "topic_replication_factor": 1,
    "topic_disable_leader": True,
    "agent_supervisor": "mode.CrashingSupervisor",
    "web_enabled": False,
    "stream_wait_empty": False,
}
TUNED_SETTINGS: dict[str, Any] = {
    "stream_buffer_maxsize": 16_384,
    "producer_linger": 0.05,
    "producer_max_batch_size": 262_144,
    "broker_max_poll_records": 500,
    "broker_commit_every": 100_000,
}
LATENCY_SETTINGS = TUNED_SETTINGS | {"producer_linger": 0.0}
ROCKSDB_OPTIONS = {"block_cache_size": 64 * 1024 * 1024, "max_open_files": 512}


def make_app(given: Options, tuned: bool = True) -> Any:
    """The Faust app of the options; tables and agents are the caller's."""
    import faust

    tuning = LATENCY_SETTINGS if given.goal == "latency" else TUNED_SETTINGS
    settings = COMMON_SETTINGS | (tuning if tuned else {})
    app = faust.App(
        given.app_id,
        broker=f"aiokafka://{given.bootstrap}",
        broker_client_id=given.client_id,
        datadir=str(given.data_dir),
        topic_partitions=given.partitions,
        **settings,
    )

    @app.on_rebalance_complete.connect
    async def tell_recovery(*_: Any, **__: Any) -> None:
        recovery: Any = app.tables.recovery  # type: ignore[attr-defined]
        if (
            recovery._recovery_started_at and recovery._recovery_ended_at
        ):  # it may have had nothing to restore
            mark("restored", seconds=recovery._recovery_ended_at - recovery._recovery_started_at)

    return app


def table(app: Any, name: str, partitions: int) -> Any:
    """A RocksDB table with a changelog, bytes to bytes."""
    return app.Table(
        name, key_type=bytes, value_type=bytes, partitions=partitions, options=dict(ROCKSDB_OPTIONS)
    )


def run(app: Any) -> None:
    """Run the app as its only worker until SIGTERM."""
    import faust
    import uvloop

    loop = uvloop.new_event_loop()
    faust.Worker(app, loop=loop, loglevel="WARN", daemon=True).execute_from_commandline()


def main(tuned: bool = True) -> None:
    given = options()
    app = make_app(given, tuned)
    orders = app.topic(given.input, value_serializer="raw", key_serializer="raw")
    decisions = app.topic(given.output, value_serializer="raw", key_serializer="raw")
    positions = table(app, "positions", given.partitions)

    async def decide(stream: Any) -> None:
        async for key, value in stream.items():
            positions[key], decision = job.decide_bytes(value, positions.get(key))
            await decisions.send(key=key, value=decision)

    app.agent(orders)(decide)

    run(app)


if __name__ == "__main__":
    main()
