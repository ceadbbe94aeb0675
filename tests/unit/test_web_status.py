"""What a worker says of itself to programs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_families

from app.engine import GlobalTable, TopicSpec
from app.engine.core.chunk import Chunk
from app.engine.core.take_over import Restored
from app.engine.core.work import Batch
from app.engine.web import metrics as web_metrics
from app.engine.web.metrics import BatchMetrics, Measured, WorkerMetrics, counter, exposed, gauge, registry
from app.engine.web.status import UNREADABLE_SHOWN_MAX, Followed, Owned, ReadWhole, Status, status

STATUS = Status(
    service='a "b"',
    client_id="risk-1.x",
    ready=False,
    partitions=[
        Owned(
            *(0, "ready", 12, 0.0, Restored(3, 0.25), 4, 1, {"orders": 9}),
            dead_letters={"orders": {"WrongPartition": 2, "held": 5}},
        ),
        Owned(1, "restoring", 0, 1.5, None, waits=["waits for an open transaction"]),
    ],
    standbys=[Followed(2, {"positions": 4, "quarantine": 0})],
    not_ready=["disk full", "being restored: partitions 1"],
    not_ready_times={"disk": 3, "restoring": 1},
    global_tables=[ReadWhole("halts", 9, 1, {"*": "halts/0/7: ValueError: no"}, {"ValueError": 3})],
)


ESCAPED = r'service="a \"b\""'


def an_app(**changed: Any) -> Any:
    manager = SimpleNamespace(
        wanted=(), tasks={}, standbys={}, health=SimpleNamespace(times={}), transactions=0
    )
    given: dict[str, Any] = {
        "conf": SimpleNamespace(id='a "b"', broker_client_id="risk-1"),
        "tables": manager,
        "global_tables": [],
        "not_ready": list,
        "noticed": [],
        "metrics": CollectorRegistry(),
    }
    return SimpleNamespace(**given | changed)


def lines_of(app: Any, accepted: str = "") -> list[str]:
    return exposed(WorkerMetrics(app), accepted)[0].decode().splitlines()


def kinds(lines: list[str]) -> dict[str, str]:
    """The type of each family, by its name."""
    return {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}


def test_metrics_are_in_the_text_format_of_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_metrics, "status", lambda app: STATUS)
    lines = lines_of(an_app())
    assert f"engine_worker_ready{{{ESCAPED}}} 0.0" in lines
    assert f'engine_task_ready{{partition="0",{ESCAPED}}} 1.0' in lines
    assert f'engine_task_stalled_seconds{{partition="1",{ESCAPED}}} 1.5' in lines
    assert f'engine_standby_lag_offsets{{partition="2",{ESCAPED},table="positions"}} 4.0' in lines
    assert f'engine_task_records_total{{partition="0",{ESCAPED}}} 12.0' in lines
    assert f'engine_task_commits_total{{partition="0",{ESCAPED}}} 4.0' in lines
    assert f'engine_quarantined_keys{{partition="0",{ESCAPED}}} 1.0' in lines
    assert f'engine_input_lag_offsets{{partition="0",{ESCAPED},topic="orders"}} 9.0' in lines
    assert f'engine_restore_seconds{{partition="0",{ESCAPED}}} 0.25' in lines
    assert f"engine_not_ready_reasons{{{ESCAPED}}} 2.0" in lines
    assert f'engine_not_ready_total{{reason="disk",{ESCAPED}}} 3.0' in lines
    assert f'engine_task_waits{{partition="1",{ESCAPED}}} 1.0' in lines
    dead = f'engine_dead_letters_total{{error="%s",partition="0",{ESCAPED},topic="orders"}}'
    assert dead % "WrongPartition" + " 2.0" in lines
    assert dead % "held" + " 5.0" in lines
    assert f'engine_global_table_unreadable_keys{{{ESCAPED},topic="halts"}} 1.0' in lines
    assert f'engine_global_table_refused_total{{error="ValueError",{ESCAPED},topic="halts"}} 3.0' in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) == 17
    assert [name for name, kind in kinds(lines).items() if kind == "counter"] == [
        "engine_not_ready_total",
        "engine_global_table_refused_total",
        "engine_transactions_total",
        "engine_task_records_total",
        "engine_task_commits_total",
        "engine_dead_letters_total",
    ]


@pytest.mark.parametrize(
    ("accepted", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html,*/*;q=0.8", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        *(
            (
                f"application/openmetrics-text; version={version}, */*",
                "text/plain; version=0.0.4; charset=utf-8",
            )
            for version in ("1.x", "x", '"1.0.0"', "1..0", "")
        ),
    ],
)
def test_the_format_is_the_one_that_is_accepted_and_another_program_can_read_it(
    monkeypatch: pytest.MonkeyPatch, accepted: str, content_type: str
) -> None:
    monkeypatch.setattr(web_metrics, "status", lambda app: STATUS)
    app = an_app()
    app.metrics.register(Measured(lambda: [counter("odd_total", "Odd.", ("kind",), [(("a\nb",), 2)])]))
    text, told = exposed(WorkerMetrics(app), accepted)
    parse = openmetrics.text_string_to_metric_families if "openmetrics" in told else plain_families
    families = {family.name: family for family in parse(text.decode())}
    assert told == content_type
    assert families["engine_task_records"].type == families["odd"].type == "counter"
    (sample,) = families["odd"].samples
    assert (sample.name, sample.labels, sample.value) == (
        "odd_total",
        {"service": 'a "b"', "kind": "a\nb"},
        2,
    )


def test_a_counter_and_a_gauge_of_a_service_are_told_apart_and_have_its_name() -> None:
    app = an_app()
    Counter("orders_total", "Orders.", ["reason"], registry=app.metrics).labels(reason="old").inc(3)
    app.metrics.register(Measured(lambda: [gauge("waiting", "Waiting.", (), [((), 4)])]))
    lines = lines_of(app)
    assert f'orders_total{{reason="old",{ESCAPED}}} 3.0' in lines
    assert f"waiting{{{ESCAPED}}} 4.0" in lines
    assert (kinds(lines)["orders_total"], kinds(lines)["waiting"]) == ("counter", "gauge")
    assert not any("_created" in line for line in lines)


async def test_a_batch_is_measured_when_it_is_committed_and_only_then() -> None:
    app = an_app()
    batches = BatchMetrics(app.metrics)
    committed, failed, cancelled = (a_batch(number) for number in (3, 50, 700))
    for batch in (committed, failed, cancelled):
        assert batches.watch(batch) is batch
    failed.finish(ValueError("no"))
    cancelled.done.cancel()
    await asyncio.sleep(0.02)
    committed.finish(None)
    await asyncio.sleep(0)

    lines = lines_of(app)
    assert f"engine_batch_records_count{{{ESCAPED}}} 1.0" in lines
    assert f"engine_batch_records_sum{{{ESCAPED}}} 3.0" in lines
    assert f'engine_batch_records_bucket{{le="2.0",{ESCAPED}}} 0.0' in lines
    assert f'engine_batch_records_bucket{{le="5.0",{ESCAPED}}} 1.0' in lines
    assert f'engine_batch_seconds_bucket{{le="0.01",{ESCAPED}}} 0.0' in lines
    assert f'engine_batch_seconds_bucket{{le="+Inf",{ESCAPED}}} 1.0' in lines
    assert kinds(lines)["engine_batch_seconds"] == "histogram"


def a_batch(records: int) -> Batch:
    task: Any = None
    item: Any = (None, None)
    return Batch(task, Chunk([item] * records, {}, {}))


def test_each_app_has_a_registry_of_its_own_with_what_the_process_uses() -> None:
    one, other = registry(), registry()
    Counter("orders_total", "Orders.", registry=one)
    assert "orders" in {family.name for family in one.collect()}
    assert "orders" not in {family.name for family in other.collect()}
    assert "process_cpu_seconds" in {family.name for family in other.collect()}


def test_a_status_shows_some_of_many_unreadable_keys_and_counts_them_all() -> None:
    codec: Any = None
    table = GlobalTable(TopicSpec("halts", codec))
    table.unreadable.update((f"key-{each}", "halts/0/7: ValueError: no") for each in range(1_000))
    table.refused["ValueError"] = 1_001
    app = an_app(global_tables=[table])
    (found,) = status(app).global_tables
    assert (found.topic, found.keys, found.unreadable_keys) == ("halts", 0, 1_000)
    assert len(found.unreadable) == UNREADABLE_SHOWN_MAX
    assert found.refused == {"ValueError": 1_001}
