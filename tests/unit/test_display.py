"""What people see of a running pipeline."""

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from app.engine.kafka.cluster import TP, Cluster
from app.run import display
from app.run.display import Display
from app.run.monitor import Monitor
from app.run.quiet import Standing
from app.run.readiness import Ledger


class Looks:
    """A lookout that finds this."""

    def __init__(self, standing: Standing, pause_s: float = 0.0) -> None:
        self.standing = standing
        self.pause_s = pause_s

    async def look(self) -> Standing:
        await asyncio.sleep(self.pause_s)
        return self.standing


STANDING = Standing({TP("market-data", 0): 70}, {"risk": {TP("orders", 0): 12}, "marketdata": {}})


def a_display(monitor: Monitor, looks: Looks, *, starts: int = 1) -> tuple[Display, io.StringIO]:
    """Of a pipeline whose data directory has a name that looks like markup."""
    said = io.StringIO()
    children = [SimpleNamespace(name="risk-1", starts=starts)]
    pipeline: Any = SimpleNamespace(
        readiness=SimpleNamespace(ledger=Ledger()),
        kafka_server=SimpleNamespace(starts=starts),
        processes=SimpleNamespace(children=children),
        workers=[SimpleNamespace(url="http://127.0.0.1:6102")],
        plan=SimpleNamespace(data_dir=Path("/data [bold]")),
    )
    anything: Any = looks
    return Display(Console(file=said, width=200), pipeline, monitor, anything), said


@pytest.fixture
def monitor() -> Monitor:
    found = Monitor(Cluster("localhost:1", "test"), from_beginning=True)
    found.records.update({"orders": 100})
    found.events.update({"OrderRiskApproved": 70, "OrderRiskRejected": 18, "OrderComplianceApproved": 66})
    found.rejected.update({"kill_switch_on": 18})
    found.dead_letters.update({("risk", "orders"): 2, ("marketdata", "market-data"): 1})
    found.filled = 40
    return found


async def test_a_line_has_numbers_that_add_up(monitor: Monitor) -> None:
    shown, _ = a_display(monitor, Looks(STANDING))
    assert shown.line(await shown._look()) == (
        "orders 100 (0/s): approved 66, rejected 18, dead letters 2, waiting 14; of the approved filled 40, "
        "ended otherwise 0, open 26; lag marketdata=0 risk=12 compliance=0 exchange=0 refdata=0 "
        "allocation=0"
    )


async def test_the_table_shows_what_is_not_ready_and_what_was_started_again(monitor: Monitor) -> None:
    shown, said = a_display(monitor, Looks(STANDING), starts=3)
    shown._pipeline.readiness.ledger.note("risk-1", ["the disk is full"], 0.0)
    shown._console.print(shown._table(await shown._look()))
    table = said.getvalue()
    assert "the disk is full" in table
    assert "risk-1 2, kafka 2" in table
    assert "/data [bold]/logs" in table
    assert "kill_switch_on 18" in table


async def test_what_was_there_before_is_told_once(monitor: Monitor) -> None:
    shown, _ = a_display(monitor, Looks(STANDING))
    assert shown._went_on() == []
    monitor._marked, monitor.new_orders = {}, 10
    assert shown._went_on() == ["went on from 90 orders"]
    assert shown._went_on() == []


async def test_a_kafka_that_does_not_answer_is_told(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "SILENT_S", 0.05)
    shown, said = a_display(monitor, Looks(STANDING, pause_s=0.2))
    await shown._patient_look()
    assert "Kafka has not answered for 0 s\n" in said.getvalue()


async def test_a_display_that_fails_is_told_and_ends_nothing(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(display, "LINE_EVERY_S", 0.0)
    nowhere: Any = None
    shown, _ = a_display(monitor, nowhere)
    async with shown.shown():
        await asyncio.sleep(0.05)
    assert "the display has failed, everything else goes on: AttributeError" in caplog.text
