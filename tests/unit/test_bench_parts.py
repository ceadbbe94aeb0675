"""Where the bench says that a worker's time goes: to functions that there are, and by the innermost."""

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from app.engine.kafka.cluster import TP, Cluster
from app.engine.kafka.transaction import Outbox, Producer
from bench.parts import PARTS, REST, Parts, part_of

MODULES = (
    *("core.agent", "core.effects", "core.inbox", "core.owned", "core.work"),
    *("kafka.fetcher", "kafka.transaction"),
)
BUSY_S = 0.3


def busy(seconds: float = BUSY_S) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class TaskAgent:
    def _again_and_again(self, act: Callable[[], None]) -> None:
        act()


class UnitOfWork:
    def emit(self) -> None:
        busy()


def spent(act: Callable[[], None]) -> dict[str, float]:
    parts = Parts()
    parts.start()
    act()
    return parts.shares()


@pytest.mark.parametrize("function", sorted(set().union(*PARTS.values())))
def test_every_function_of_a_part_is_one_of_the_engine(function: str) -> None:
    owner, name = function.split(".")
    classes = [getattr(importlib.import_module(f"app.engine.{module}"), owner, None) for module in MODULES]
    assert any(name in vars(each) for each in classes if each is not None)


def test_time_is_counted_for_the_innermost_function_that_has_a_part() -> None:
    assert spent(lambda: TaskAgent()._again_and_again(busy))["decide"] > 0.8
    assert spent(lambda: TaskAgent()._again_and_again(UnitOfWork().emit))["encode"] > 0.8
    assert spent(busy)[REST] > 0.8


def test_waiting_is_in_no_part() -> None:
    parts = Parts()
    parts.start()
    busy(0.05)
    time.sleep(0.3)
    UnitOfWork().emit()
    shares = parts.shares()
    assert shares["encode"] > 0.6
    assert sum(shares.values()) == pytest.approx(1.0)


async def test_a_request_is_part_of_the_step_that_sends_it() -> None:
    found: list[str] = []

    class Asked(Exception):
        pass

    class Watching:
        async def coordinator(self, *_: object) -> int:
            return 1

        def leader(self, _: TP) -> int:
            return 1

        async def send(self, *_: object) -> Any:
            found.append(part_of(sys._getframe()))
            raise Asked

    producer = Producer(cast(Cluster, Watching()), "sum-3", "sum", 10_000, "lane")
    outbox = Outbox(transactional=True)
    outbox.append(TP("out", 0), b"k", b"v", [], 0)
    for step in (producer.send([outbox]), producer.add([TP("out", 0)], [TP("in", 0)]), producer.commit()):
        with pytest.raises(Asked):
            await step
    assert found == ["produce", "commit", "commit", "commit"]
