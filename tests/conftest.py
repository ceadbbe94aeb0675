"""Fixtures that every test may use: one real broker for the whole session."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from app.devkafka.server import KafkaServer

HERE = Path(__file__).parent
TOGETHER = {
    HERE / "integration/test_exchange.py": "exchange",
    HERE / "integration/test_refdata.py": "refdata",
    HERE / "integration/test_web.py": "web",
    HERE / "outside/test_clients.py": "outside",
    HERE / "outside/test_operators.py": "outside",
    HERE / "outside/test_releases.py": "outside",
    HERE / "outside/test_repeats.py": "outside",
    HERE / "outside/test_venues.py": "odd venue",
}
"""Tests that share processes which take long to start: side by side (`pytest -n`) they stay together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those that stay together begin first, so that no process is left with them in the end."""
    for item in items:
        if item.path in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(TOGETHER[item.path]))
    items.sort(key=lambda item: item.path not in TOGETHER)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A real Kafka on a free port. It has a thread and loop of its own, so any test's loop can use it;
    its process is tied to this one, so it ends even when pytest is killed."""
    data_dir = tmp_path_factory.mktemp("kafka")
    started: Future[KafkaServer] = Future()
    over = threading.Event()

    async def serve() -> None:
        try:
            async with KafkaServer(data_dir) as broker:
                await broker.ready()
                started.set_result(broker)
                await asyncio.to_thread(over.wait)
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="broker", daemon=True)
    thread.start()
    try:
        yield started.result()
    finally:
        over.set()
        thread.join()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def bootstrap(broker: KafkaServer) -> str:
    """The session's broker as `host:port`."""
    return broker.bootstrap
