"""The bench of idle workers: what little they use is measured finely enough."""

import sys
import time
from pathlib import Path

import pytest

from bench.contenders import ENGINE
from bench.idle import _row
from bench.processes import child

WORKS_THEN_SLEEPS = """
import time
while time.process_time() < 0.3:
    pass
print("idle", flush=True)
time.sleep(60)
"""


def test_time_on_a_processor_is_what_a_process_has_worked_to_the_millisecond(tmp_path: Path) -> None:
    with child("worker", [sys.executable, "-c", WORKS_THEN_SLEEPS], tmp_path / "log") as process:
        process.wait_until(lambda: "idle" in process.log.read_text(), 20.0, "become idle")
        time.sleep(0.1)
        used = process.seconds_on_cpu()
        assert used >= 0.3
        assert used == pytest.approx(process.cpu_seconds(), abs=0.05)
        time.sleep(0.2)
        assert process.seconds_on_cpu() - used < 0.001


def test_a_row_has_the_median_of_its_runs() -> None:
    row = _row(ENGINE[0], 8, [9.0, 3.0, 4.0])
    assert row.figures["partitions"] == 8
    assert row.figures["cpu_ms_per_second"] == 4.0
    assert row.shown == {"CPU ms/s": "4.0", "min–max": "3.0–9.0"}
