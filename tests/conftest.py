"""Fixtures that every test may use: one real broker for the whole session."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from app.devkafka.broker import Broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka on a free port. It has a thread and loop of its own, so any test's loop can use it;
    its process is tied to this one, so it ends even when pytest is killed."""
    data_dir = tmp_path_factory.mktemp("kafka")
    started: Future[Broker] = Future()
    over = threading.Event()

    async def serve() -> None:
        try:
            async with Broker(data_dir) as broker:
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
def bootstrap(broker: Broker) -> str:
    """The session's broker as `host:port`."""
    return broker.bootstrap
