"""Becoming the owner of a partition: fence, then the committed offsets, then the tables (rule 1).

The order is what makes it safe. Once the last owner is fenced and what it had under way has ended, nobody
else can move the offsets; what is committed up to them is in the changelogs, and can be read.
"""

import asyncio
import logging
import time
from itertools import pairwise
from typing import NamedTuple, NoReturn

import msgspec

from app.engine.core.committer import Share
from app.engine.core.dead_letter import QUARANTINE
from app.engine.core.owned import OwnedPartition
from app.engine.errors import OffsetsLost
from app.engine.kafka.cluster import EARLIEST, TP
from app.engine.kafka.transaction import Outbox, TransactionFailed, read_note, write_note
from app.engine.state.restore import restore
from app.engine.state.store import open_store
from app.engine.state.table import TaskTable

log = logging.getLogger(__name__)

START_PAUSE_S = 5.0


class Restored(msgspec.Struct, frozen=True):
    """What a restore has applied, and how long it took, opening the tables included."""

    records: int
    seconds: float


class Start(NamedTuple):
    """Where a task begins.

    `is_first`: no offset was ever committed. `note` names all inputs that offsets were ever committed of,
    `is_noted` says that the committed ones name them already.
    """

    positions: dict[TP, int]
    is_first: bool
    note: str
    is_noted: bool


async def take_over(task: OwnedPartition) -> Restored:
    """Make the task the owner, with its tables as they were committed, ready for the first fetch."""
    marks = [time.monotonic()]
    await task.ownership.take(task)
    marks.append(time.monotonic())
    start = await find_start(task)
    task.positions, task.note = start.positions, start.note
    await task.ownership.confirm(task)
    marks.append(time.monotonic())
    restored = await restore_tables(task)
    marks.append(time.monotonic())
    if start.is_first:
        await _require_empty_tables(task)
    if not start.is_noted:
        await commit_start(task)
    fenced_s, asked_s, restored_s = (later - earlier for earlier, later in pairwise(marks))
    log.info(
        "%s is ours after %.3f s: %.3f to fence, %.3f for offsets, %.3f to restore %s records",
        *(task, time.monotonic() - marks[0], fenced_s, asked_s, restored_s, restored),
    )
    return Restored(restored, round(restored_s, 3))


async def restore_tables(task: OwnedPartition) -> int:
    """Open the tables and bring them to the end of their changelogs; returns the number of records."""
    task.store = task.store or await open_store(task.path)
    changelogs = {table.name: TP(table.changelog, task.partition) for table in task.declared}
    restored = await restore(task.store, task.cluster, changelogs, task.lane)
    task.tables = {table.name: TaskTable(table, task.store, task.partition) for table in task.declared}
    task.dead_letters.held_keys = sum(1 for _ in task.tables[QUARANTINE].scan())
    return restored


async def find_start(task: OwnedPartition) -> Start:
    """Where each input goes on. One that no commit has named is new, and begins where its topic does."""
    with task.ownership.waits.begin() as wait:
        committed = await task.cluster.group_offsets(
            task.app_id, list(task.inputs), stable=task.transactional, wait=wait
        )
    known = {name for each in committed.values() if each is not None for name in read_note(each.note)}
    fresh = [tp for tp, each in committed.items() if each is None]
    is_first = len(fresh) == len(committed)
    lost = [] if is_first else [tp.topic for tp in fresh if tp.topic in known]
    if lost:
        await _refuse(
            task,
            f"no committed offsets of {', '.join(lost)}, which it has read before, but of its other "
            "inputs: they have expired or were deleted. Set them to where the tables stand.",
        )
    begins = await task.cluster.offsets(fresh, EARLIEST) if fresh else {}
    if begins and not is_first:
        where = ", ".join(f"{tp.topic} (offset {offset})" for tp, offset in begins.items())
        log.warning("%s has inputs that are new to it and reads them from where they begin: %s", task, where)
    positions = {tp: begins[tp] if each is None else each.offset for tp, each in committed.items()}
    if strange := [tp for tp, each in committed.items() if each is not None and not read_note(each.note)]:
        where = ", ".join(f"{tp.topic} (offset {positions[tp]})" for tp in strange)
        log.warning(
            "%s goes on from offsets without the note of a worker, as somebody may have set them: %s",
            task,
            where,
        )
    note = write_note(known | {tp.topic for tp in task.inputs}, by_worker=task.ownership.by_worker)
    is_noted = all(each is not None and each.note == note for each in committed.values())
    return Start(positions, is_first, note, is_noted)


async def _require_empty_tables(task: OwnedPartition) -> None:
    """Tables that hold something belong to offsets: without them every record would count twice."""
    filled = [table.name for table in task.tables.values() if next(table.scan(), None) is not None]
    if filled:
        await _refuse(
            task,
            f"no committed offsets, but its tables {', '.join(filled)} hold records: the "
            "group's offsets have expired or were deleted. Set them to where the tables stand, or "
            f"delete the changelogs and {task.path} to count everything anew.",
        )


async def _refuse(task: OwnedPartition, why: str) -> NoReturn:
    """Raise OffsetsLost. Who slept since it asked for offsets, and has a successor, is only fenced."""
    await task.ownership.check(task)
    if task.fenced is not None:
        raise task.fenced
    raise OffsetsLost(f"{task} has {why}")


async def commit_start(task: OwnedPartition) -> None:
    """Commit where we begin, before any table holds anything: from now on offsets can only be lost."""
    while True:
        share = Share(task, Outbox(task.transactional), task.noted(task.positions))
        try:
            await task.ownership.commit(share)
            await task.ownership.applied(share)
            return
        except TransactionFailed as error:
            log.warning("%s cannot commit where it begins, and tries again: %s", task, error)
            await asyncio.sleep(START_PAUSE_S)
