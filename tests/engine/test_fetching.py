"""How a task reads: from the right leader, each stretch once, fairly, and no more than it can hold."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import LeaderNotAvailableError, OffsetOutOfRangeError

from app.engine import Task
from app.engine.core import inbox as inbox_module
from app.engine.errors import PositionGap
from app.engine.kafka.cluster import TP, Fetched
from tests.engine.test_batches import CORRECTIONS, NUMBERS, a_task
from tests.engine.waiting import until

FIRST, SECOND = TP(CORRECTIONS.name, 0), TP(NUMBERS.name, 0)


class Leaders:
    """A cluster of which a test says who leads what, and what each fetch brings and when."""

    def __init__(self) -> None:
        self.leads: dict[TP, int | None] = {FIRST: 1, SECOND: 1}
        self.asked: list[tuple[int, dict[TP, int]]] = []
        self.answers: list[asyncio.Future[list[Fetched]]] = []
        self.refreshed = 0

    def leader(self, tp: TP) -> int | None:
        return self.leads[tp]

    async def refresh(self) -> None:
        self.refreshed += 1

    async def fetch(self, node: int, positions: dict[TP, int], **_: Any) -> list[Fetched]:
        self.asked.append((node, dict(positions)))
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def asked_times(self, count: int) -> None:
        await until(lambda: len(self.asked) >= count)


def some(tp: TP, begin: int, count: int, size_bytes: int = 100) -> Fetched:
    records: list[Any] = [SimpleNamespace(offset=begin + each) for each in range(count)]
    return Fetched(tp, begin, begin + count, begin + count, records, size_bytes)


@pytest.fixture
def leaders() -> Leaders:
    return Leaders()


@pytest.fixture
async def task(leaders: Leaders) -> Any:
    task = a_task(cluster=leaders)
    task.positions = {FIRST: 10, SECOND: 20}
    fetching = asyncio.create_task(task.inbox.keep_filling(task.positions))
    yield task
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)


async def test_a_task_reads_on_from_where_each_fetch_ended(task: Task, leaders: Leaders) -> None:
    await leaders.asked_times(1)
    leaders.answers[0].set_result([some(SECOND, 20, 3)])
    await leaders.asked_times(2)
    assert leaders.asked == [(1, {FIRST: 10, SECOND: 20}), (1, {FIRST: 10, SECOND: 23})]


async def test_who_had_much_lets_the_others_go_first(task: Task, leaders: Leaders) -> None:
    """Kafka gives a record that is larger than asked for only to the first partition with any data."""
    await leaders.asked_times(1)
    leaders.answers[0].set_result([some(FIRST, 10, 3)])
    await leaders.asked_times(2)
    assert list(leaders.asked[1][1]) == [SECOND, FIRST]
    leaders.answers[1].set_result([some(SECOND, 20, 1)])
    await leaders.asked_times(3)
    assert list(leaders.asked[2][1]) == [FIRST, SECOND]


async def test_what_is_being_fetched_is_not_asked_for_at_another_leader(task: Task, leaders: Leaders) -> None:
    await leaders.asked_times(1)
    leaders.leads[FIRST] = leaders.leads[SECOND] = 2
    leaders.answers[0].set_result([some(FIRST, 10, 2), some(SECOND, 20, 2)])
    await leaders.asked_times(2)
    leaders.leads[FIRST] = 3
    leaders.answers[1].set_result([])
    await leaders.asked_times(4)
    assert sorted(leaders.asked[2:]) == [(2, {SECOND: 22}), (3, {FIRST: 12})]
    leaders.leads[SECOND] = 3
    at_node_3 = [node for node, _ in leaders.asked].index(3)
    leaders.answers[at_node_3].set_result([])  # node 2 still has SECOND in hand
    await leaders.asked_times(5)
    assert leaders.asked[4] == (3, {FIRST: 12})
    assert [each.position for queue in task.inbox.queues.values() for each in queue] == [10, 20]


async def test_a_partition_without_leader_is_waited_for_however_long(
    leaders: Leaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "RETRY_PAUSE_S", 0.0)
    leaders.leads = {FIRST: None, SECOND: None}
    task = a_task(cluster=leaders)
    task.positions = {FIRST: 10, SECOND: 20}
    fetching = asyncio.create_task(task.inbox.keep_filling(task.positions))
    await until(lambda: leaders.refreshed > 3000)
    assert not fetching.done()
    leaders.leads[SECOND] = 1
    await leaders.asked_times(1)
    assert leaders.asked == [(1, {SECOND: 20})]
    fetching.cancel()


@pytest.mark.parametrize(
    ("fill", "bound"),
    [
        (lambda begin: some(FIRST, begin, 50), "inbox_records_max"),
        (lambda begin: some(FIRST, begin, 1, size_bytes=5 * 1024 * 1024), "inbox_bytes_max"),
    ],
    ids=["records", "bytes"],
)
async def test_a_full_inbox_stops_the_reading_until_there_is_room(
    task: Task, leaders: Leaders, fill: Callable[[int], Fetched], bound: str
) -> None:
    begin = 10
    while not task.inbox.is_full():
        await leaders.asked_times(len(leaders.answers) or 1)
        fetched = fill(begin)
        begin = fetched.next_position
        count = len(leaders.asked)
        leaders.answers[-1].set_result([fetched])
        await until(lambda: len(leaders.asked) > count or task.inbox.is_full())  # noqa: B023
    await asyncio.sleep(0.05)
    asked = len(leaders.asked)
    queue = task.inbox.queues[FIRST]
    held = sum(each.size_bytes if "bytes" in bound else len(each.records) for each in queue)
    assert getattr(task.settings, bound) <= held < 1.5 * getattr(task.settings, bound)
    while any(task.inbox.queues.values()):
        task.inbox.take(task.settings.batch_records_max)
    await leaders.asked_times(asked + 1)


@pytest.mark.parametrize("error", [LeaderNotAvailableError(), ConnectionError()])
async def test_a_broker_that_is_away_is_asked_again(task: Task, leaders: Leaders, error: Exception) -> None:
    await leaders.asked_times(1)
    leaders.answers[0].set_exception(error)
    await leaders.asked_times(2)
    assert leaders.asked[0] == leaders.asked[1]


async def test_a_position_that_is_not_in_the_log_any_more_stops_the_task(leaders: Leaders) -> None:
    task = a_task(cluster=leaders)
    task.positions = {FIRST: 10, SECOND: 20}
    fetching = asyncio.create_task(task.inbox.keep_filling(task.positions))
    await leaders.asked_times(1)
    leaders.answers[0].set_exception(OffsetOutOfRangeError())
    with pytest.raises(PositionGap, match="not in its log any more"):
        await fetching
