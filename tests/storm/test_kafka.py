"""A storm's Kafka on real processes: nodes die and come back, clients are cut off, and nothing is lost."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.errors import KafkaDiedError
from storm.kafka import KafkaNodes
from tests.engine.running import committed_more, load
from tests.engine.service import Options
from tests.engine.waiting import until
from tests.engine.workers import WorkerProcess
from tests.engine.world import World


def options(kafka: KafkaNodes, directory: Path, **more: object) -> Options:
    """A service on this Kafka; its tests go there directly, its workers as `behind_proxy` says."""
    return Options(
        bootstrap=kafka.bootstrap,
        id="sum",
        directory=str(directory),
        replication_factor=kafka.replication_factor,
        **more,  # type: ignore[arg-type]
    )


@contextmanager
def worker(world: World, kafka: KafkaNodes, name: str) -> Iterator[WorkerProcess]:
    """A worker that reaches Kafka through its proxy, under a client id that begins with its name."""
    behind_proxy = msgspec.structs.replace(
        world.options, bootstrap=kafka.proxied_bootstrap, client_id=f"{name}.0123456789ab.01234567"
    )
    process = WorkerProcess(behind_proxy, name)
    try:
        yield process
    except BaseException:
        print(f"--- {process.log}, exit code {process.exit_code}\n{process.said()[-6000:]}")
        raise
    finally:
        process.kill()


async def durability(kafka: KafkaNodes, topic: str) -> tuple[set[int], str]:
    """How many copies the topic's partitions have, and how many have to be in sync for a record to count."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    config = {name: value for name, value, *_ in answer.resources[0][4]}
    return {len(each["replicas"]) for each in found["partitions"]}, config["min.insync.replicas"]


@pytest.mark.storm
@pytest.mark.timeout(600)  # each of three nodes starts twice
async def test_any_of_three_nodes_may_die_under_load_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with KafkaNodes(tmp_path / "kafka", 3) as kafka:
        await kafka.ready()
        chosen = options(kafka, tmp_path, partitions=8, session_timeout_s=3.0)
        async with World(chosen) as world:
            with worker(world, kafka, "sum-1") as first, worker(world, kafka, "sum-2") as second:
                async with load(world):
                    await committed_more(world, 100)
                    for topic in (world.changelog, "__consumer_offsets", "__transaction_state"):
                        assert await durability(kafka, topic) == ({3}, "2"), topic
                    for node in (1, 2, 3):
                        await kafka.kill(node)
                        await committed_more(world, 200)
                        await kafka.revive(node)
                        await kafka.in_sync()
                    await committed_more(world, 200)
                await world.all_processed()
                assert (first.exit_code, second.exit_code) == (None, None)
                first.signal(signal.SIGTERM)
                second.signal(signal.SIGTERM)
                assert await first.ended() == await second.ended() == 0
            stores = [tmp_path / "sum-1", tmp_path / "sum-2"]
            assert await world.faults(directories=stores) == []
        assert not kafka.crashed


async def test_a_single_node_comes_back_to_its_proxied_clients(tmp_path: Path) -> None:
    async with KafkaNodes(tmp_path / "kafka", 1) as kafka:
        await kafka.ready()
        async with World(options(kafka, tmp_path, partitions=2)) as world:
            with worker(world, kafka, "sum-1") as process:
                async with load(world):
                    await committed_more(world, 100)
                addresses = kafka.bootstrap, kafka.proxied_bootstrap
                await kafka.kill(1)
                assert kafka.alive == []
                await kafka.revive(1)
                assert (kafka.bootstrap, kafka.proxied_bootstrap) == addresses
                async with load(world):
                    await committed_more(world, 100)
                await world.all_processed()
                assert process.exit_code is None
            assert await world.faults() == []
        assert not kafka.crashed


async def test_a_worker_cut_off_is_replaced_and_fenced_and_the_others_never_notice(tmp_path: Path) -> None:
    async with KafkaNodes(tmp_path / "kafka", 1) as kafka:
        await kafka.ready()
        async with World(options(kafka, tmp_path, partitions=2, session_timeout_s=1.0)) as world:
            with worker(world, kafka, "sum-1") as first, worker(world, kafka, "sum-2") as second:
                await until(lambda: "is ours" in first.said() and "is ours" in second.said())
                async with load(world):
                    await committed_more(world, 100)
                    taken_over = second.said().count("is ours")
                    kafka.proxy.cut("sum-1.")
                    await until(lambda: second.said().count("is ours") > taken_over)
                    await committed_more(world, 200)
                    kafka.proxy.heal("sum-1.")
                    await until(lambda: "is fenced" in first.said())
                    await committed_more(world, 100)
                await world.all_processed()
                assert (first.exit_code, second.exit_code) == (None, None)
            assert await world.faults() == []


async def test_connections_reset_again_and_again_cost_nothing(tmp_path: Path) -> None:
    async with KafkaNodes(tmp_path / "kafka", 1) as kafka:
        await kafka.ready()
        async with World(options(kafka, tmp_path, partitions=2)) as world:
            with worker(world, kafka, "sum-1") as process:
                async with load(world):
                    await committed_more(world, 100)
                    for pause in range(200):
                        kafka.proxy.reset("sum-1.")
                        await asyncio.sleep(pause % 7 / 100)
                    await committed_more(world, 200)
                await world.all_processed()
                assert process.exit_code is None
            assert await world.faults() == []


async def test_a_node_that_dies_by_itself_is_loud(tmp_path: Path) -> None:
    async with KafkaNodes(tmp_path / "kafka", 1) as kafka:
        await kafka.ready()
        (pid,) = [broker.pid for broker in kafka._brokers.values()]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: kafka.crashed)
        assert isinstance(kafka.crash_reason, KafkaDiedError)
