"""What a service counts, and that every service follows the instruments once."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from app.counts import Count
from app.engine import UnitOfWork
from app.risk import app
from app.topics import INSTRUMENTS


class Work:
    """A unit of work that commits when it is told to."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []

    def after_commit(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def commit(self) -> None:
        for callback in self.callbacks:
            callback()


def an_app() -> Any:
    return SimpleNamespace(metrics=CollectorRegistry())


def counted(app: Any) -> dict[str, float]:
    """The samples of all counts, by their labels."""
    return {
        ",".join(sample.labels.values()): sample.value
        for metric in app.metrics.collect()
        for sample in metric.samples
        if sample.name == "testing_total"
    }


def test_what_is_counted_counts_when_the_unit_of_work_commits() -> None:
    app = an_app()
    count = Count(app, "testing_total", "What this test counts.", "reason")
    work, lost = Work(), Work()
    count.add(cast(UnitOfWork, work), reason="a")
    count.add(cast(UnitOfWork, work), 2, reason="b")
    count.add(cast(UnitOfWork, lost), reason="a")
    assert counted(app) == {"a": 0, "b": 0}

    work.commit()
    assert counted(app) == {"a": 1, "b": 2}
    assert (count.so_far(), count.so_far(reason="b"), count.so_far(reason="c")) == (3, 2, 0)


def test_two_apps_in_a_process_count_apart() -> None:
    one, other, work = an_app(), an_app(), Work()
    Count(one, "testing_total", "What this test counts.").add(cast(UnitOfWork, work))
    Count(other, "testing_total", "What this test counts.")
    work.commit()
    assert (counted(one), counted(other)) == ({"": 1}, {"": 0})


@pytest.mark.parametrize("labels", [{}, {"kind": "a"}, {"reason": "a", "kind": "a"}], ids=str)
def test_other_labels_than_the_declared_ones_are_refused_before_the_commit(labels: dict[str, str]) -> None:
    count, work = Count(an_app(), "testing_total", "What this test counts.", "reason"), Work()
    with pytest.raises(ValueError, match="label"):
        count.add(cast(UnitOfWork, work), 1, **labels)
    assert work.callbacks == []


def test_a_compacted_topic_is_followed_once_however_often_it_is_asked_for() -> None:
    assert app.global_table(INSTRUMENTS) is app.global_table(INSTRUMENTS)
    assert [each.topic for each in app.global_tables].count(INSTRUMENTS) == 1
