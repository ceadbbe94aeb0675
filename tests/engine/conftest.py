"""A world of its own for each test: fresh topics, a fresh group, a fresh directory, one shared Kafka."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from storm import steps
from tests.engine.service import Options
from tests.engine.world import World

numbering = itertools.count(1)
MakeWorld = Callable[..., Any]


@pytest.fixture(scope="session", autouse=True)
def _steps() -> None:
    steps.instrument()


@pytest.fixture
async def make_world(bootstrap: str, tmp_path: Path) -> AsyncIterator[MakeWorld]:
    """Make worlds; keyword arguments are those of Options."""
    async with AsyncExitStack() as stack:

        async def make(**more: Any) -> World:
            options = Options(
                **{"bootstrap": bootstrap, "id": f"sum-{next(numbering)}", "directory": str(tmp_path), **more}
            )
            return await stack.enter_async_context(World(options))

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """A world with one partition."""
    found: World = await make_world()
    return found
