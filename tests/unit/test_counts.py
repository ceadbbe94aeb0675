"""What a service counts, and that every service follows the instruments once."""

from typing import Any, cast

from app.counts import Count, count_measures
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


def counted(name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (dict(labels), number)
        for each in count_measures()
        if each.name == name
        for labels, number in each.samples
    ]


def test_what_is_counted_counts_when_the_unit_of_work_commits() -> None:
    count, work, lost = Count("testing_total", "What this test counts."), Work(), Work()
    count.add(cast(UnitOfWork, work), reason="a")
    count.add(cast(UnitOfWork, work), 2, reason="b")
    count.add(cast(UnitOfWork, lost), reason="a")
    assert counted("testing_total") == []

    work.commit()
    assert counted("testing_total") == [({"reason": "a"}, 1), ({"reason": "b"}, 2)]
    assert (count.so_far(), count.so_far(reason="b"), count.so_far(reason="c")) == (3, 2, 0)


def test_a_compacted_topic_is_followed_once_however_often_it_is_asked_for() -> None:
    assert app.global_table(INSTRUMENTS) is app.global_table(INSTRUMENTS)
    assert [each.topic for each in app.global_tables].count(INSTRUMENTS) == 1
