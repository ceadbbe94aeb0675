"""What a worker says of itself to programs."""

from types import SimpleNamespace
from typing import Any

from app.engine import GlobalTable, TopicSpec
from app.engine.core.take_over import Restored
from app.engine.web.status import UNREADABLE_SHOWN_MAX, Followed, Owned, ReadWhole, Status, metrics, status

STATUS = Status(
    service='a "b"',
    client_id="risk-1.x",
    ready=False,
    partitions=[
        Owned(
            *(0, "ready", 7, 12, 0.0, Restored(3, 0.25), 4, 1, {"orders": 9}),
            dead_letters={"orders": {"WrongPartition": 2, "held": 5}},
        ),
        Owned(1, "restoring", 0, 0, 1.5, None, waits=["waits for an open transaction"]),
    ],
    standbys=[Followed(2, {"positions": 4, "quarantine": 0})],
    not_ready=["disk full", "being restored: partitions 1"],
    not_ready_times={"disk": 3, "restoring": 1},
    global_tables=[ReadWhole("halts", 9, 1, {"*": "halts/0/7: ValueError: no"}, {"ValueError": 3})],
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
    task = r'service="a \"b\"",partition="0"'
    assert f'engine_dead_letters_total{{{task},topic="orders",error="WrongPartition"}} 2' in lines
    assert f'engine_dead_letters_total{{{task},topic="orders",error="held"}} 5' in lines
    assert r'engine_global_table_unreadable_keys{service="a \"b\"",topic="halts"} 1' in lines
    assert r'engine_global_table_refused_total{service="a \"b\"",topic="halts",error="ValueError"} 3' in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families)) == 16
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    assert [name for name, kind in kinds.items() if kind == "counter"] == [
        "engine_not_ready_total",
        "engine_global_table_refused_total",
        "engine_dead_letters_total",
    ]
    assert all(line.startswith("# ") or " " in line for line in lines)


def test_a_status_shows_some_of_many_unreadable_keys_and_counts_them_all() -> None:
    codec: Any = None
    table = GlobalTable(TopicSpec("halts", codec))
    table.unreadable.update((f"key-{each}", "halts/0/7: ValueError: no") for each in range(1_000))
    table.refused["ValueError"] = 1_001
    manager = SimpleNamespace(wanted=(), tasks={}, standbys={}, health=SimpleNamespace(times={}))
    app = SimpleNamespace(
        conf=SimpleNamespace(id="risk", broker_client_id="risk-1"),
        tables=manager,
        global_tables=[table],
        not_ready=list,
        noticed=[],
    )
    (found,) = status(app).global_tables
    assert (found.topic, found.keys, found.unreadable_keys) == ("halts", 0, 1_000)
    assert len(found.unreadable) == UNREADABLE_SHOWN_MAX
    assert found.refused == {"ValueError": 1_001}
