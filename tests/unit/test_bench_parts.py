"""Where the bench says that a worker's time goes: to functions that there are, and by the innermost."""

import importlib
import time
from collections.abc import Callable

import pytest

from bench.parts import PARTS, REST, Parts

MODULES = ("agent", "task", "transaction", "work")
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
