"""Fixtures that every test may use: one real broker for the whole session."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from app.devkafka.server import KafkaServer

TOGETHER = {
    "tests/integration/test_exchange.py": "exchange",
    "tests/integration/test_lookback.py": "lookback",
    "tests/integration/test_refdata.py": "refdata",
    "tests/integration/test_web.py": "web",
    "tests/outside/test_clients.py": "outside",
    "tests/outside/test_operators.py": "outside",
    "tests/outside/test_releases.py": "outside",
    "tests/outside/test_repeats.py": "outside",
    "tests/outside/test_venues.py": "odd venue",
}
"""Tests that share processes which take long to start."""

QUICK = ("tests/architecture/", "tests/unit/")
LONG = (
    "tests/integration/test_storm.py",
    "tests/integration/test_run.py",
    "tests/integration/test_toy_service.py",
    "tests/outside/",
    "tests/integration/",
)
"""What takes longest comes first, so that no core is idle at the end; quick ones come last."""


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """Where tests run (`pytest -n`): those that share processes in one place, quick ones a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return TOGETHER.get(file) or (file if file.startswith(QUICK) else nodeid)


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    config.option.loadscopereorder = False  # by number of tests: the longest are single ones
    return SideBySide(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> int:
    if nodeid.startswith(QUICK):
        return len(LONG) + 1
    return next((turn for turn, beginning in enumerate(LONG) if nodeid.startswith(beginning)), len(LONG))


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
