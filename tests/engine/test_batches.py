"""Batches: what a task takes in at once, how it is parted around a failure, how long it waits in between."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import Task
from app.engine.core.chunk import Chunk
from app.engine.core.owned import Assignment
from app.engine.core.processing import BACKOFF
from app.engine.kafka.cluster import NO_MEMBER, TP, Cluster, Fetched
from app.engine.kafka.fetcher import Fetcher
from tests.engine.service import Options, make_app, topics

OPTIONS = Options(bootstrap="127.0.0.1:1", id="unit", directory="nowhere", batch_records_max=10)
CORRECTIONS, NUMBERS, _, _ = topics(OPTIONS)
SPECS = (CORRECTIONS, NUMBERS)
APP = make_app(OPTIONS)


def record(offset: int) -> Any:
    return SimpleNamespace(offset=offset)


class Opens:
    """Of an ownership, only when the next transaction may begin."""

    def __init__(self, in_s: float = 0.0) -> None:
        self.opens_at = time.monotonic() + in_s

    def expect_no_more(self, task: Task) -> None:
        pass


def a_task(**more: Any) -> Task:
    """A task that nobody runs."""
    tables: Any = APP.tables
    cluster = more.pop("cluster", None) or Cluster("127.0.0.1:1", "unit")
    given: dict[str, Any] = {
        "app_id": "unit",
        "partition": 0,
        "cluster": cluster,
        "fetcher": Fetcher(cluster, "inputs", APP.settings.fetch_bytes_max),
        "settings": APP.settings,
        "inputs": SPECS,
        "tables": list(tables.values()),
        "partition_counts": {},
        "directory": Path("nowhere"),
        "membership": NO_MEMBER,
        "ownership": Opens(),
    }
    nobody: Any = None
    return Task(Assignment(**{**given, **more}), nobody)


@st.composite
def stretches(draw: st.DrawFn) -> tuple[int, list[int], int]:
    """Where a stretch of a log begins, the offsets of the records in it, and where it ends."""
    begin = draw(st.integers(0, 1000))
    offsets = sorted(draw(st.sets(st.integers(begin, begin + 60), max_size=25)))
    end = draw(st.integers(offsets[-1] + 1 if offsets else begin, begin + 64))
    return begin, offsets, end


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """A chunk of one or two topics, with gaps and markers anywhere."""
    begin, end, items = {}, {}, []
    for spec in SPECS[: draw(st.integers(1, 2))]:
        tp = TP(spec.name, 0)
        begin[tp], offsets, end[tp] = draw(stretches())
        items += [(spec, record(each)) for each in offsets]
    return Chunk(items, begin, end)


@given(chunks().filter(lambda chunk: len(chunk.items) > 1), st.data())
def test_the_parts_of_a_chunk_are_the_chunk(chunk: Chunk, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(chunk.items) - 1))
    parts = chunk.split(index, 0)
    assert [each for part in parts for each in part.items] == chunk.items
    assert any(part.items == [chunk.items[index]] for part in parts)
    assert all(part.items for part in parts)
    at = dict(chunk.begin)
    for part in parts:
        assert set(part.begin) == set(part.end)
        for tp, begin in part.begin.items():
            assert begin == at[tp]
            at[tp] = part.end[tp]
        for spec, raw in part.items:
            tp = TP(spec.name, 0)
            assert part.begin[tp] <= raw.offset < part.end[tp]
    assert at == chunk.end


@given(st.lists(st.tuples(st.sampled_from(SPECS), st.lists(st.integers(0, 3), max_size=15)), max_size=8))
def test_what_a_task_takes_is_what_was_fetched_in_order_and_in_bounds(
    fetches: list[tuple[Any, list[int]]],
) -> None:
    task = a_task()
    at = dict.fromkeys((TP(spec.name, 0) for spec in SPECS), 100)
    begins, expected = dict(at), {tp: list[int]() for tp in at}
    for spec, gaps in fetches:
        tp, records = TP(spec.name, 0), []
        position = at[tp]
        for gap in gaps:
            records.append(record(at[tp] + gap))
            at[tp] += gap + 1
        at[tp] += 1  # a marker
        expected[tp] += [each.offset for each in records]
        task.inbox.queues[tp].append(Fetched(tp, position, at[tp], at[tp], records))
    taken: dict[TP, list[int]] = {tp: [] for tp in at}
    while any(task.inbox.queues.values()):
        chunk = task.inbox.take(task.settings.batch_records_max)
        assert chunk.end
        assert len(chunk.items) <= APP.settings.batch_records_max
        order = [SPECS.index(spec) for spec, _ in chunk.items]
        assert order == sorted(order), "corrections come first"
        for tp, begin in chunk.begin.items():
            assert begin == begins[tp]
            begins[tp] = chunk.end[tp]
        for spec, raw in chunk.items:
            taken[TP(spec.name, 0)].append(raw.offset)
    assert taken == expected
    assert begins == at


def test_a_task_takes_the_urgent_topic_first() -> None:
    task = a_task()
    for spec in reversed(SPECS):
        tp = TP(spec.name, 0)
        task.inbox.queues[tp].append(Fetched(tp, 0, 8, 8, [record(each) for each in range(8)]))
    first, second = (task.inbox.take(APP.settings.batch_records_max) for _ in range(2))
    assert [spec for spec, _ in first.items] == [CORRECTIONS] * 8 + [NUMBERS] * 2
    assert [spec for spec, _ in second.items] == [NUMBERS] * 6
    assert second.begin == {TP(NUMBERS.name, 0): 2}


@pytest.mark.parametrize("attempt", [1, 2, 3, 7, 8, 20, 1000])
async def test_pauses_grow_and_are_bounded(attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []

    async def wait_for(coroutine: Any, timeout: float) -> None:
        coroutine.close()
        paused.append(timeout)

    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    task = a_task()
    for _ in range(20):
        await task.processing.back_off(attempt, ValueError())
    longest = min(BACKOFF.most_s, BACKOFF.first_s * 2.0 ** min(attempt - 1, 60))
    assert all(longest / 2 <= each <= longest for each in paused)
    assert len(set(paused)) > 1, "no jitter: all tasks try again at once"


async def test_a_pause_ends_when_the_task_is_told_to_stop() -> None:
    task = a_task()
    pausing = asyncio.create_task(task.processing.back_off(1000, ValueError()))
    await asyncio.sleep(0)
    task.stop()
    await asyncio.wait_for(pausing, 2)


async def gathering(task: Task) -> "asyncio.Task[None]":
    waiting = asyncio.create_task(task.let_gather())
    await asyncio.sleep(0.02)
    return waiting


async def test_records_gather_until_the_next_transaction_may_begin_or_the_task_is_stopped() -> None:
    waiting = await gathering(a_task(ownership=Opens(0.1)))
    assert not waiting.done()
    await asyncio.wait_for(waiting, 5)
    task = a_task(ownership=Opens(60.0))
    waiting = await gathering(task)
    assert not waiting.done()
    task.stop()
    await asyncio.wait_for(waiting, 5)


async def test_a_full_batch_need_not_gather() -> None:
    task = a_task(ownership=Opens(60.0))
    tp = TP(NUMBERS.name, 0)
    task.inbox.queues[tp].append(Fetched(tp, 0, 10, 10, [record(offset) for offset in range(10)]))
    assert (await gathering(task)).done()
