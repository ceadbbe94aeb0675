"""What a worker says of itself to programs."""

from app.engine.task import Restored
from app.engine.web_status import Followed, Owned, Status, metrics

STATUS = Status(
    service='a "b"',
    client_id="risk-1.x",
    ready=False,
    partitions=[
        Owned(0, "ready", 7, 12, 0.0, Restored(3, 0.25), 4, 1, {"orders": 9}),
        Owned(1, "restoring", 0, 0, 1.5, None, waits=["waits for an open transaction"]),
    ],
    standbys=[Followed(2, {"positions": 4, "quarantine": 0})],
    not_ready=["disk full", "being restored: partitions 1"],
    not_ready_times={"disk": 3, "restoring": 1},
)


def test_metrics_are_in_the_text_format_of_prometheus() -> None:
    lines = metrics(STATUS).splitlines()
    assert r'engine_worker_ready{service="a \"b\""} 0' in lines
    assert r'engine_task_ready{service="a \"b\"",partition="0"} 1' in lines
    assert r'engine_task_stalled_seconds{service="a \"b\"",partition="1"} 1.5' in lines
    assert r'engine_standby_lag_offsets{service="a \"b\"",partition="2",table="positions"} 4' in lines
    assert r'engine_task_records{service="a \"b\"",partition="0"} 12' in lines
    assert r'engine_task_transactions{service="a \"b\"",partition="0"} 4' in lines
    assert r'engine_quarantined_keys{service="a \"b\"",partition="0"} 1' in lines
    assert r'engine_input_lag_offsets{service="a \"b\"",partition="0",topic="orders"} 9' in lines
    assert r'engine_restore_seconds{service="a \"b\"",partition="0"} 0.25' in lines
    assert r'engine_not_ready{service="a \"b\""} 2' in lines
    assert r'engine_not_ready_total{service="a \"b\"",reason="disk"} 3' in lines
    assert r'engine_task_waits{service="a \"b\"",partition="1"} 1' in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) == 13
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    assert [name for name, kind in kinds.items() if kind == "counter"] == ["engine_not_ready_total"]
    assert all(line.startswith("# ") or " " in line for line in lines)
