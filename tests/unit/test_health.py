"""Why a worker cannot work: every reason, what is said of those that last, and when it says that it works."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.core import health
from app.engine.core.health import Health, Reason, ranges, ready_line, reasons


def a_task(
    *, ready: bool = True, fenced: object = None, waits_for: str | None = None, waiting: Any = ()
) -> Any:
    task = SimpleNamespace(
        ready=asyncio.Event(),
        fenced=fenced,
        waits_for=waits_for,
        watermarks=SimpleNamespace(waiting=list(waiting)),
    )
    if ready:
        task.ready.set()
    return task


def a_table(*, ready: bool = True, waits_for: str | None = None, waiting: Any = ()) -> Any:
    topic = SimpleNamespace(name="prices")
    table = SimpleNamespace(topic=topic, ready=asyncio.Event(), waits_for=waits_for, waiting=list(waiting))
    if ready:
        table.ready.set()
    return table


def an_app(**more: Any) -> Any:
    """A worker that works, but for what a test changes of its manager, or of it."""
    app = SimpleNamespace(
        conf=SimpleNamespace(id="risk", web_enabled=True, canonical_url="http://127.0.0.1:6102/"),
        settings=SimpleNamespace(bootstrap="kafka:9092"),
        global_tables=more.pop("global_tables", [a_table()]),
        health_checks=more.pop("health_checks", []),
        said=[],
    )
    app.announce = app.said.append
    app.tables = SimpleNamespace(
        **{
            "app": app,
            "has_topics": True,
            "assignments": 1,
            "kafka_silent_s": 0.3,
            "waits": [],
            "wanted": {0, 1, 2, 5},
            "tasks": {number: a_task() for number in (0, 1, 2, 5)},
            "standbys": {},
            "disk": SimpleNamespace(is_full=False, path="/data"),
            **more,
        }
    )
    return app


def test_a_worker_that_works_has_no_reason() -> None:
    assert reasons(an_app()) == []
    assert reasons(an_app(wanted=set(), tasks={})) == [], "others may have all partitions"


@pytest.mark.parametrize(
    ("more", "kind", "text"),
    [
        ({"has_topics": False}, "kafka", "Kafka on kafka:9092 has not been reached yet"),
        ({"assignments": 0}, "assignment", "the group has not assigned any partitions yet"),
        ({"kafka_silent_s": 7.0}, "kafka", "Kafka on kafka:9092 does not answer"),
        ({"waits": ["Kafka answers, but"]}, "commit", "Kafka answers, but"),
        ({"global_tables": [a_table(ready=False)]}, "global-table", "global table prices is being read"),
        ({"global_tables": [a_table(waits_for="prices: upgrade")]}, "waits", "prices: upgrade"),
        (
            {"global_tables": [a_table(waiting=["waits for an open transaction"])]},
            "open-transaction",
            "global table prices waits for an open transaction",
        ),
        ({"tasks": {5: a_task(), 2: a_task(ready=False)}}, "restoring", "being restored: partitions 0-2"),
        (
            {"wanted": {1}, "tasks": {1: a_task(fenced="by another")}},
            "fenced",
            "taken over by another worker: partitions 1",
        ),
        ({"wanted": {1}, "tasks": {1: a_task(waits_for="upgrade")}}, "waits", "partition 1: upgrade"),
        (
            {"wanted": {1}, "tasks": {1: a_task(waiting=["waits for an open transaction"])}},
            "open-transaction",
            "waits for an open transaction",
        ),
        (
            {"disk": SimpleNamespace(is_full=True, path="/data")},
            "disk",
            "disk full: too little room for tables at /data",
        ),
        (
            {"health_checks": [lambda: ["the venue refuses VENUE_TOKEN"]]},
            "service",
            "the venue refuses VENUE_TOKEN",
        ),
    ],
)
def test_each_reason_is_told(more: dict[str, Any], kind: str, text: str) -> None:
    assert reasons(an_app(**more)) == [Reason(kind, text)]


def test_all_reasons_are_told_at_once() -> None:
    full = SimpleNamespace(is_full=True, path="/data")
    app = an_app(disk=full, kafka_silent_s=9.0, health_checks=[lambda: ["a", "b"]])
    assert [reason.kind for reason in reasons(app)] == ["kafka", "disk", "service", "service"]


def test_a_check_that_fails_is_a_reason() -> None:
    def venue() -> list[str]:
        raise KeyError("session")

    assert reasons(an_app(health_checks=[venue])) == [
        Reason("service", "venue can't tell: KeyError('session')")
    ]


# -- what is said


class Watched:
    """A worker whose reasons a test sets, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = an_app(standbys={3: None, 4: None})
        self.health = Health(self.app)
        self.now = 1000.0
        monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: self.now))

    def look(self, *texts: str, kind: str = "service", after_s: float = 0.1) -> None:
        self.now += after_s
        self.health._look([Reason(kind, text) for text in texts])


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


READY = "ready: partitions 0-2, 5 of risk, standbys of 3-4, web http://127.0.0.1:6102"


def test_it_says_once_that_it_works_after_each_assignment(watched: Watched) -> None:
    watched.look("restoring")
    assert watched.app.said == []
    for _ in range(3):
        watched.look()
    assert watched.app.said == [READY]
    watched.app.tables.assignments += 1
    watched.look()
    assert watched.app.said == [READY, READY]


def test_what_is_soon_over_is_only_counted(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        watched.look("restoring", kind="restoring")
        watched.look()
    assert watched.app.said == [READY]
    assert caplog.messages == []
    assert watched.health.times == {"restoring": 3}


def test_what_lasts_is_said_once_and_so_is_its_end(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    watched.look()
    for _ in range(100):
        watched.look("no token")
    assert caplog.messages == ["risk is not ready: no token"]
    for _ in range(100):
        watched.look("no token", "no venue")
    assert caplog.messages == ["risk is not ready: no token", "risk is not ready: no venue"]
    watched.look("no venue")
    assert watched.app.said == [READY]
    watched.look()
    watched.look()
    assert watched.app.said == [READY, READY]
    assert watched.health.times == {"service": 1}


def test_what_has_lines_of_its_own_is_not_said_twice(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        watched.look("disk full", kind="disk")
    watched.look()
    assert caplog.messages == []
    assert watched.app.said == [READY]
    assert watched.health.times == {"disk": 1}


def test_a_worker_without_partitions_or_web_says_so() -> None:
    app = an_app(wanted=set(), standbys={0: None})
    app.conf.web_enabled = False
    assert ready_line(app) == "ready: no partitions of risk, standbys of 0"


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1], "0-1"), ([5, 3, 0, 1, 2, 7], "0-3, 5, 7")]
)
def test_partition_numbers_for_people(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
