"""Processes are killed with SIGKILL again and again while orders flow, and the books stay right."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.running import Running, mentioning, processes, result

ORDERS = 20_000
SPEED = 2_000
"""Times real speed: orders flow for 40 s, on whatever machine, and the kills take 30 s of them."""

KILLS = 20
SEED = 3
VICTIMS = (
    "marketdata-1",
    "risk-1",
    "risk-2",
    "compliance-1",
    "exchange-1",
    "refdata-1",
    "allocation-1",
    "venue",
    "kafka",
)
WEIGHTS = (2, 3, 3, 4, 5, 1, 3, 2, 1)
PAUSE_S = (0.3, 1.5)


class Killer:
    """Picks victims and moments by a seed."""

    def __init__(self, run: Running, data_dir: Path, seed: int) -> None:
        self._run = run
        self._data_dir = data_dir
        self._random = random.Random(seed)
        self.killed: list[str] = []

    def kill(self, count: int) -> None:
        """Kill so many, one after the other; the run must not be over before."""
        while len(self.killed) < count:
            time.sleep(self._random.uniform(*PAUSE_S))
            assert self._run.process.poll() is None, f"over after {self.killed}:\n{self._run.said}"
            name = self._random.choices(VICTIMS, WEIGHTS)[0]
            pid = processes(self._data_dir).get(name)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(name)


@pytest.mark.storm
@pytest.mark.timeout(240)
def test_twenty_kills_at_random_points_leave_no_violation(tmp_path: Path) -> None:
    data_dir, report = tmp_path / "data", tmp_path / "result.json"
    options = ("--orders", str(ORDERS), "--speed", str(SPEED), "--exit", "--json", str(report))
    where = ("--data-dir", str(data_dir), "--port", "0", "--workers", "risk=2")

    with Running("run", *options, *where) as run:
        run.until(lambda: "feed" in processes(data_dir), "to feed", 60)
        killer = Killer(run, data_dir, SEED)
        killer.kill(KILLS)
        status = run.wait(180)

    assert status == 0, f"seed {SEED}, killed {killer.killed}\n{run.said}"
    found = result(report)
    assert found["violations"] == []
    assert (found["orders"], found["in_flight"]) == (ORDERS, 0)
    assert found["orders"] == found["terminal"] + found["dead_letters"] + found["held"]
    assert all(f"{name} has ended" in run.said for name in killer.killed if name != "kafka")
    assert run.said.count("Kafka's process on ") >= ("kafka" in killer.killed)
    assert mentioning(data_dir) == []
