"""The rules, broken one by one: what the engine would be if somebody got it wrong.

A mutant replaces something of the engine from outside, which knows nothing of it: a public method, or a
function of a module, so that a change inside one breaks no mutant. It names the scenario of
`tests/engine/scenarios.py` that catches it, and what that scenario then says.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock
from uuid import uuid4

from app.engine.core import dead_letter as dead_letter_module
from app.engine.core import processing as processing_module
from app.engine.core import take_over as take_over_module
from app.engine.core import work as work_module
from app.engine.core.committer import Share
from app.engine.core.dead_letter import QUARANTINE, DeadLetters
from app.engine.core.effects import Effects
from app.engine.core.inbox import Inbox
from app.engine.core.owned import OwnedPartition
from app.engine.core.ownership import ByWorker
from app.engine.core.processing import Processing
from app.engine.core.take_over import Start
from app.engine.core.task import Task
from app.engine.core.work import UnitOfWork
from app.engine.errors import Fenced
from app.engine.kafka import cluster as cluster_module
from app.engine.kafka import transaction as transaction_module
from app.engine.kafka import watermarks as watermarks_module
from app.engine.kafka.cluster import LATEST, READ_UNCOMMITTED, Cluster
from app.engine.kafka.fetcher import Fetcher
from app.engine.kafka.transaction import Outbox, Producer
from app.engine.kafka.watermarks import Watermarks
from app.engine.state import restore as restore_module
from app.engine.state import standby as standby_module
from app.engine.state.store import TaskStore
from storm.mutants.patching import Patch


@dataclass(frozen=True)
class BrokenRule:
    """A breakage of one rule. `shows` is part of what the scenario finds wrong."""

    name: str
    rule: int
    scenario: str
    shows: str
    patch: Callable[[Patch], None]


BROKEN_RULES: dict[str, BrokenRule] = {}


def mutant(rule: int, scenario: str, shows: str) -> Callable[[Callable[[Patch], None]], None]:
    def remember(function: Callable[[Patch], None]) -> None:
        name = function.__name__
        BROKEN_RULES[name] = BrokenRule(name, rule, scenario, shows, function)

    return remember


# -- rule 1: fence, then offsets, then tables, then the first fetch


def take_later(patch: Patch) -> Callable[[OwnedPartition], Awaitable[None]]:
    """Leave the take-over to the function returned; until then nobody waits for what is under way."""
    take, confirm, group_offsets = ByWorker.take, ByWorker.confirm, Cluster.group_offsets

    async def nothing(way: ByWorker, task: OwnedPartition) -> None:
        pass

    async def any_offsets(cluster: Cluster, group: str, tps: Any, **asked: Any) -> Any:
        return await group_offsets(cluster, group, tps)

    async def take_now(task: OwnedPartition) -> None:
        assert isinstance(task.ownership, ByWorker)
        await take(task.ownership, task)
        await confirm(task.ownership, task)

    patch.setattr(ByWorker, "take", nothing)
    patch.setattr(ByWorker, "confirm", nothing)
    patch.setattr(Cluster, "group_offsets", any_offsets)
    return take_now


@mutant(1, "take_over", shows="2 totals for")
def offsets_before_fencing(patch: Patch) -> None:
    take_now, find_start = take_later(patch), take_over_module.find_start

    async def find_first(task: OwnedPartition) -> Start:
        found = await find_start(task)
        await take_now(task)
        return found

    patch.setattr(take_over_module, "find_start", find_first)


@mutant(1, "take_over", shows="follows count")
def restore_before_fencing(patch: Patch) -> None:
    take_now, find_start = take_later(patch), take_over_module.find_start
    restore_tables = take_over_module.restore_tables

    async def find_later(task: OwnedPartition) -> Start:
        return Start({}, is_first=False, note="", is_noted=True)

    async def restore_first(task: OwnedPartition) -> int:
        count = await restore_tables(task)
        await take_now(task)
        start = await find_start(task)
        task.positions, task.note = start.positions, start.note
        if not start.is_noted:
            await take_over_module.commit_start(task)
        return count

    patch.setattr(take_over_module, "find_start", find_later)
    patch.setattr(take_over_module, "restore_tables", restore_first)


@mutant(1, "take_over", shows="2 totals for")
def transaction_of_the_last_owner_not_ended(patch: Patch) -> None:
    async def fence_nobody(producer: Producer, transactional_id: str) -> None:
        pass

    patch.setattr(Producer, "fence", fence_nobody)


@mutant(1, "take_over", shows="follows count")
def processing_before_restore(patch: Patch) -> None:
    async def restore_never(*_: Any) -> int:
        return 0

    patch.setattr(take_over_module, "restore", restore_never)
    patch.setattr(standby_module, "restore", restore_never)


@mutant(1, "new_input", shows="no total for")
def new_inputs_begin_at_their_ends(patch: Patch) -> None:
    patch.setattr(take_over_module, "EARLIEST", LATEST)


@mutant(1, "lost_offsets", shows="2 totals for")
def lost_offsets_count_as_new(patch: Patch) -> None:
    patch.setattr(take_over_module, "read_note", lambda note: set())


# -- rule 2: read_committed everywhere


@mutant(2, "open_transaction", shows="nobody says that it waits")
def open_transactions_are_waited_for_in_silence(patch: Patch) -> None:
    patch.setattr(watermarks_module.Stall, "is_long", False)


@mutant(2, "open_transaction", shows="it waits without lag")
def lag_counts_to_what_is_stable(patch: Patch) -> None:
    hear = Watermarks.hear

    def hear_what_is_stable(marks: Watermarks, tp: Any, position: int, high: int, stable: int) -> None:
        hear(marks, tp, position, high, stable)
        marks.heard[tp] = marks.heard[tp]._replace(high=stable)

    patch.setattr(Watermarks, "hear", hear_what_is_stable)


def _fetcher_reads_uncommitted(patch: Patch, name: str) -> None:
    read = Fetcher.read

    def read_all(fetcher: Fetcher, reader: Any, positions: Any) -> Any:
        if fetcher.name == name:
            fetcher.isolation = READ_UNCOMMITTED
        return read(fetcher, reader, positions)

    patch.setattr(Fetcher, "read", read_all)


@mutant(2, "read_committed", shows="which nobody sent")
def inputs_read_uncommitted(patch: Patch) -> None:
    _fetcher_reads_uncommitted(patch, "inputs")


@mutant(2, "restore_after_abort", shows="follows count")
def restore_reads_uncommitted(patch: Patch) -> None:
    fetch = Cluster.fetch

    async def fetch_all(cluster: Cluster, node: int, positions: Any, *, lane: object, **more: Any) -> Any:
        if isinstance(lane, str):
            more["isolation"] = READ_UNCOMMITTED
        return await fetch(cluster, node, positions, lane=lane, **more)

    patch.setattr(Cluster, "fetch", fetch_all)


@mutant(2, "standby", shows="tables/0 sums")
def standby_reads_uncommitted(patch: Patch) -> None:
    _fetcher_reads_uncommitted(patch, "standbys")


# -- rule 3: the store never holds what Kafka has not committed; data and offset are one write


@mutant(3, "killed_before_commit", shows="tables/0 sums")
def store_before_commit(patch: Patch) -> None:
    encode, send, commit = OwnedPartition.encode_changes, Producer.send, Producer.commit
    early: list[tuple[OwnedPartition, Effects, Any]] = []
    ends: dict[int, Any] = {}

    def encode_and_remember(task: OwnedPartition, effects: Effects) -> Any:
        changes = encode(task, effects)
        early.append((task, effects, changes))
        return changes

    async def send_and_remember(producer: Producer, outboxes: Any, *more: Any) -> Any:
        found = await send(producer, outboxes, *more)
        ends.update(zip(map(id, outboxes), found, strict=True))
        return found

    async def commit_after_apply(producer: Producer) -> None:
        for task, effects, changes in early:
            if id(effects.outbox) in ends:
                task.apply(effects, changes, ends[id(effects.outbox)])
        early.clear()
        await commit(producer)

    patch.setattr(OwnedPartition, "encode_changes", encode_and_remember)
    patch.setattr(Producer, "send", send_and_remember)
    patch.setattr(Producer, "commit", commit_after_apply)


@mutant(3, "killed_in_store_write", shows="tables/0 sums")
def offset_after_data(patch: Patch) -> None:
    apply = TaskStore.apply

    def twice(store: TaskStore, changes: Any, offsets: Any) -> None:
        apply(store, changes, {})
        apply(store, {}, offsets)

    patch.setattr(TaskStore, "apply", twice)


@mutant(3, "killed_in_store_write", shows="tables/0 sums")
def offset_before_data(patch: Patch) -> None:
    apply = TaskStore.apply

    def twice(store: TaskStore, changes: Any, offsets: Any) -> None:
        apply(store, {}, offsets)
        apply(store, changes, {})

    patch.setattr(TaskStore, "apply", twice)


# -- rule 4: restore ends at the last stable offset, markers count as read


@mutant(4, "restore_ends", shows="not restored")
def restore_waits_for_a_record_behind_the_marker(patch: Patch) -> None:
    records = cluster_module.committed_records

    def without_markers(data: bytes, aborted: Any, position: int) -> Any:
        found, _ = records(data, aborted, position)
        return found, found[-1].offset + 1 if found else position

    patch.setattr(cluster_module, "committed_records", without_markers)


@mutant(4, "restore_ends", shows="not restored")
def restore_waits_for_the_high_watermark(patch: Patch) -> None:
    bounds, offsets = restore_module.bounds, Cluster.offsets

    async def uncommitted_offsets(cluster: Cluster, tps: Any, which: int, isolation: int = 0) -> Any:
        return await offsets(cluster, tps, which, 0)

    async def uncommitted_bounds(*args: Any) -> Any:
        with mock.patch.object(Cluster, "offsets", uncommitted_offsets):
            return await bounds(*args)

    patch.setattr(restore_module, "bounds", uncommitted_bounds)


# -- rule 5: fenced means stop; any other failure: abort, drop, again


@mutant(5, "zombie", shows="2 totals for")
def fenced_goes_on(patch: Patch) -> None:
    async def check_nothing(way: ByWorker) -> None:
        pass

    patch.setattr(ByWorker, "check_all", check_nothing)


@mutant(5, "zombie", shows="tables/0 sums")
def fenced_writes_its_store(patch: Patch) -> None:
    commit, send = ByWorker.commit, Producer.send
    ends: dict[int, dict[Any, int]] = {}

    async def send_and_remember(producer: Producer, outboxes: Any, *more: Any) -> Any:
        found = await send(producer, outboxes, *more)
        ends.update(zip(map(id, outboxes), found, strict=True))
        return found

    async def never_mind(way: ByWorker, share: Share) -> Any:
        try:
            return await commit(way, share)
        except Fenced:
            assert isinstance(share.task, OwnedPartition)
            known = {table.changelog: table.offset for table in share.task.tables.values()}
            return known | ends.get(id(share.outbox), {})

    patch.setattr(Producer, "send", send_and_remember)
    patch.setattr(ByWorker, "commit", never_mind)


@mutant(5, "refused_transaction", shows="2 totals for")
def failure_without_abort(patch: Patch) -> None:
    async def abort(producer: Producer) -> None:
        pass

    patch.setattr(Producer, "abort", abort)


@mutant(5, "neighbours", shows="2 totals for")
def failure_of_one_commits_what_the_others_have(patch: Patch) -> None:
    async def commit_instead(producer: Producer) -> None:
        await producer.commit()

    patch.setattr(Producer, "abort", commit_instead)


@mutant(5, "stale_generation", shows="in a generation that is over")
def generation_not_sent(patch: Patch) -> None:
    send_offsets = Producer.send_offsets

    async def send_as_nobody(producer: Producer, offsets: Any, *_: Any) -> None:
        await send_offsets(producer, offsets)

    patch.setattr(Producer, "send_offsets", send_as_nobody)


@mutant(5, "refused_transaction", shows="follows count")
def failure_keeps_the_overlay(patch: Patch) -> None:
    encode = OwnedPartition.encode_changes

    def encode_and_keep(task: OwnedPartition, effects: Effects) -> Any:
        for name, view in effects.views.items():
            task.tables[name].committed(view.changes)
        return encode(task, effects)

    patch.setattr(OwnedPartition, "encode_changes", encode_and_keep)


@mutant(5, "refused_transaction", shows="no total for")
def failure_goes_on_behind_it(patch: Patch) -> None:
    attempt = Processing.attempt

    async def attempt_once(processing: Processing, part: Any, trial: Any) -> Any:
        if await attempt(processing, part, trial) is not None:
            processing.task.positions.update(part.end)

    patch.setattr(Processing, "attempt", attempt_once)


@mutant(5, "late_request", shows="2 totals for")
def late_requests_count_for_the_next_transaction(patch: Patch) -> None:
    """Only in transaction version 1: in version 2 each transaction has an epoch of its own."""
    add = Producer.add
    patch.setattr(transaction_module, "TRANSACTION_VERSION_MAX", 1)

    async def add_at_once(producer: Producer, *args: Any) -> None:
        producer.has_unanswered = False
        await add(producer, *args)

    patch.setattr(Producer, "add", add_at_once)


# -- rule 6: exceptions never acknowledge; dead letters in the same transaction; only their keys wait


@mutant(6, "killed_before_commit", shows="no total for")
def offsets_in_front_of_the_transaction(patch: Patch) -> None:
    commit = ByWorker.commit

    async def commit_offsets_first(way: ByWorker, share: Share) -> Any:
        await way.committer.producer.commit_offsets(share.offsets, way.membership)
        return await commit(way, Share(share.task, share.outbox, {}))

    patch.setattr(ByWorker, "commit", commit_offsets_first)


@mutant(6, "killed_after_commit", shows="2 totals for")
def offsets_behind_the_transaction(patch: Patch) -> None:
    commit = ByWorker.commit

    async def commit_offsets_later(way: ByWorker, share: Share) -> Any:
        ends = await commit(way, Share(share.task, share.outbox, {}))
        await way.committer.producer.commit_offsets(share.offsets, way.membership)
        return ends

    patch.setattr(ByWorker, "commit", commit_offsets_later)


@mutant(6, "dead_letters", shows="no dead letter of")
def exception_acknowledges(patch: Patch) -> None:
    attempt = Processing.attempt

    async def attempt_once(processing: Processing, part: Any, trial: Any) -> Any:
        error = await attempt(processing, part, trial)
        if error is None or len(part.items) > 1:
            return error
        task = processing.task
        await task.ownership.commit(Share(task, Outbox(True), task.noted(part.end)))
        task.positions.update(part.end)
        return None

    patch.setattr(Processing, "attempt", attempt_once)


@mutant(6, "dead_letters", shows="2 dead letters of")
def dead_letter_outside_the_transaction(patch: Patch) -> None:
    append, commit = DeadLetters.append, ByWorker.commit
    asides: dict[Any, Outbox] = {}

    def append_aside(self: DeadLetters, work: UnitOfWork, *args: Any) -> None:
        outbox, work.outbox = work.outbox, asides.setdefault(work.task, Outbox(False))
        append(self, work, *args)
        work.outbox = outbox

    async def send_aside(way: ByWorker, share: Share) -> Any:
        if aside := asides.pop(share.task, None):
            task = share.task
            assert isinstance(task, OwnedPartition)
            await Producer(task.cluster, None, task.app_id, 10_000, task.lane).send([aside])
        return await commit(way, share)

    patch.setattr(DeadLetters, "append", append_aside)
    patch.setattr(ByWorker, "commit", send_aside)


@mutant(6, "dead_letters", shows="is not what came")
def dead_letter_is_rewritten(patch: Patch) -> None:
    append = DeadLetters.append

    def append_as_text(self: DeadLetters, effects: Effects, spec: Any, raw: Any, why: Any) -> None:
        value = raw.value and raw.value.decode("utf-8", "replace").encode()
        append(self, effects, spec, _Changed(raw, value=value), why)

    patch.setattr(DeadLetters, "append", append_as_text)


@mutant(6, "dead_letters", shows="has lost headers")
def dead_letter_has_one_header_a_name(patch: Patch) -> None:
    append = DeadLetters.append

    def append_unique(self: DeadLetters, effects: Effects, spec: Any, raw: Any, why: Any) -> None:
        append(self, effects, spec, _Changed(raw, headers=tuple(dict(raw.headers).items())), why)

    patch.setattr(DeadLetters, "append", append_unique)


class _Changed:
    """A record with some of it replaced."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def __init__(self, raw: Any, **changes: Any) -> None:
        for name in ("key", "value", "headers", "timestamp", "offset"):
            setattr(self, name, changes.get(name, getattr(raw, name)))


@mutant(6, "dead_letters", shows="no dead letter of")
def no_quarantine(patch: Patch) -> None:
    patch.setattr(DeadLetters, "holds", lambda *_: False)


@mutant(6, "dead_letters", shows="no dead letter of")
def quarantine_in_memory_only(patch: Patch) -> None:
    encode = OwnedPartition.encode_changes

    def encode_without(task: OwnedPartition, effects: Effects) -> Any:
        view = effects.views.pop(QUARANTINE, None)
        if view is not None:
            task.tables[QUARANTINE].committed(view.changes)
            task.dead_letters.held_keys += len(view.changes)
        return encode(task, effects)

    patch.setattr(OwnedPartition, "encode_changes", encode_without)


@mutant(6, "dead_letters", shows="no total for")
def quarantine_holds_every_key(patch: Patch) -> None:
    patch.setattr(dead_letter_module, "quarantine_key", lambda key: "")


@mutant(6, "dead_letters", shows="a dead letter of")
def transient_counts_as_failure(patch: Patch) -> None:
    patch.setattr(processing_module, "is_transient", lambda error: not isinstance(error, Exception))


@mutant(6, "dead_letters", shows="says attempts")
def poison_is_tried_again(patch: Patch) -> None:
    patch.setattr(processing_module, "is_poison", lambda error: False)


@mutant(6, "strays", shows="no dead letter of")
def partition_not_checked(patch: Patch) -> None:
    patch.setattr(OwnedPartition, "stray", lambda task, key, topic: None)


@mutant(6, "strays", shows="is quarantined")
def strays_hold_their_key(patch: Patch) -> None:
    bury = UnitOfWork.make_dead_letter

    def bury_and_hold(work: UnitOfWork, raw: Any, error: Any, attempts: int = 1, **_: Any) -> None:
        bury(work, raw, error, attempts, quarantine=True)

    patch.setattr(UnitOfWork, "make_dead_letter", bury_and_hold)


@mutant(6, "newer_release", shows="a dead letter of")
def newer_version_is_garbage(patch: Patch) -> None:
    class Nothing(Exception):
        pass

    patch.setattr(work_module, "NewerRelease", Nothing)


@mutant(6, "newer_release", shows="a dead letter of")
def newer_version_is_poison(patch: Patch) -> None:
    patch.setattr(processing_module, "is_newer", lambda error: False)


# -- rule 7: the outside is told after the commit


@mutant(7, "told_the_world", shows="was told before it was committed")
def told_before_the_commit(patch: Patch) -> None:
    patch.setattr(UnitOfWork, "after_commit", lambda work, callback: callback())


# -- rule 8: ids derive from inputs


@mutant(8, "same_ids_again", shows="has the event ids")
def random_ids(patch: Patch) -> None:
    _name_output(patch, lambda work: str(uuid4()))


@mutant(8, "same_ids_again", shows="has the event ids")
def ids_from_the_place_in_the_batch(patch: Patch) -> None:
    def place(work: UnitOfWork) -> str:
        assert work.batch is not None
        return f"{min(work.batch.chunk.begin.values())}:{work.batch.index}"

    _name_output(patch, place)


def _name_output(patch: Patch, name: Callable[[UnitOfWork], str]) -> None:
    emit = UnitOfWork.emit

    def emit_named(work: UnitOfWork, topic: Any, value: Any, *, event_id: Any = None, **more: Any) -> None:
        emit(work, topic, value, event_id=event_id or name(work), **more)

    patch.setattr(UnitOfWork, "emit", emit_named)


# -- rule 9: bounded everything


@mutant(9, "flood", shows="records are held")
def unbounded_inbox(patch: Patch) -> None:
    patch.setattr(Inbox, "is_full", lambda inbox: False)


@mutant(9, "flood", shows="a batch has")
def unbounded_batch(patch: Patch) -> None:
    take = Inbox.take
    patch.setattr(Inbox, "take", lambda inbox, records_max: take(inbox, 1_000_000))


# -- rule 10: a fetch belongs to one assignment; a batch begins where the last one ended


def _no_begin_check(patch: Patch) -> None:
    patch.setattr(OwnedPartition, "require_continuity", lambda task, chunk: None)


def _inbox_of_the_task_before(patch: Patch) -> None:
    queues: dict[Any, Any] = {}
    take_over = take_over_module.take_over

    async def take_over_with_inbox(task: Task) -> Any:
        restored = await take_over(task)
        inbox = task.inbox
        inbox.queues = queues.setdefault(task.path, inbox.queues)
        if any(inbox.queues.values()):
            inbox.arrived.set()
        return restored

    patch.setattr(take_over_module, "take_over", take_over_with_inbox)


@mutant(10, "back_and_forth", shows="goes on at")
def fetch_of_an_old_assignment(patch: Patch) -> None:
    _inbox_of_the_task_before(patch)


@mutant(10, "back_and_forth", shows="2 totals for")
def fetch_of_an_old_assignment_unnoticed(patch: Patch) -> None:
    _inbox_of_the_task_before(patch)
    _no_begin_check(patch)


@mutant(10, "skipped_records", shows="no total for")
def no_check_where_a_batch_begins(patch: Patch) -> None:
    _no_begin_check(patch)
