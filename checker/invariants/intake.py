"""I5: input = terminal, dead letter, held behind one, or in flight: each record of `orders` in one."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from checker.findings import Findings
from checker.history import COMPLIANCE, EXCHANGE, RISK, Slice, Traces, order_id_of
from checker.records import (
    COMPACTED,
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ORDERS,
    RISK_DECISIONS,
    DeadLetter,
    OrderRiskRejected,
    Origin,
    RequestRefused,
    source_offset,
)
from checker.shards import is_elsewhere

I5, I7 = "I5", "I7"
READERS = {
    RISK_DECISIONS: (COMPLIANCE,),
    COMPLIANCE_DECISIONS: (RISK, EXCHANGE),
    EXECUTIONS: (RISK, COMPLIANCE),
}


class Intake(NamedTuple):
    """The records of `orders` by what became of them, as offsets."""

    terminal: set[int]
    dead: set[int]
    held: set[int]
    in_flight: set[int]


def sort_intake(history: Slice, traces: Traces) -> Intake:
    """Sort the records; one that is in two of the first three sets stays in both."""
    letters = list(history.letters(RISK, ORDERS))
    dead = {letter.origin.offset for letter in letters if letter.behind is None}
    held = {letter.origin.offset for letter in letters if letter.behind is not None}
    terminal = _refused(history, traces)
    for trace in traces:
        if trace.received is None:
            continue
        if trace.ended:
            terminal.add(trace.received.offset)
        elif trace.stuck:
            held.add(trace.received.offset)
    for asking in traces.requests:
        if asking.received is None or not asking.lets:
            continue
        if asking.answered_at_ms is not None:
            terminal.add(asking.received.offset)
        elif asking.stuck:
            held.add(asking.received.offset)
    placed = terminal | dead | held
    return Intake(terminal, dead, held, _offsets(history) - placed)


def _offsets(history: Slice) -> set[int]:
    return {each.offset for each in history.orders} | {each.offset for each in history.asked}


def _refused(history: Slice, traces: Traces) -> set[int]:
    refused = {
        offset
        for each in history.asked_risk
        if isinstance(each.event, RequestRefused)
        and (offset := source_offset(each.event.source, history.partition)) is not None
    }
    for decision in history.risk:
        if isinstance(decision.event, OrderRiskRejected):
            offset = traces.source(decision.event)
            if offset is not None:
                refused.add(offset)
    return refused


def check_intake(history: Slice, traces: Traces, intake: Intake) -> Findings:
    """No record is in two sets, none is decided that nobody can understand, and none is lost."""
    found = Findings()

    def violate(message: str, offsets: Iterable[int]) -> None:
        for offset in sorted(offsets):
            found.violate(I5, message, Origin(ORDERS, history.partition, offset))

    known = _offsets(history)
    understood = known - {record.offset for record in history.orders if record.event is None}
    strays = history.strays.get(ORDERS, {}).keys()
    decided = _decided(history, traces)
    buried = intake.dead | (intake.held & traces.buried)
    violate("a record is both decided and a dead letter (or held behind one)", decided & buried)
    violate("a record is both a dead letter and held behind one", intake.dead & intake.held)
    violate("a record that nobody can understand was decided", (decided & known) - understood - strays)
    violate("a record on another partition than its key's was decided", decided & strays)
    violate("a decision or dead letter is of a record that does not exist", (decided | buried) - known)
    if history.quiet:
        violate("a record has neither been decided nor is it a dead letter", known - decided - buried)
    if history.quiet and history.ended:
        violate("a record is still in flight", intake.in_flight & decided)
    if history.quiet:
        _check_strangers(history, found)
        _check_strays(history, found)
    _check_downstream(history, traces, found)
    return found


def _decided(history: Slice, traces: Traces) -> set[int]:
    """Offsets in `orders` that risk has decided, a repeated id's refusal by its own source."""
    decided = _refused(history, traces) | traces.requests.sources
    buried_ids = _buried_ids(history, traces)
    for trace in traces:
        if trace.approvals:
            if trace.received is not None:
                decided.add(trace.received.offset)
            elif trace.order_id in buried_ids:
                decided.add(buried_ids[trace.order_id])
    return decided


def _buried_ids(history: Slice, traces: Traces) -> Mapping[str, int]:
    return {
        record.event.order_id: record.offset
        for record in history.orders
        if record.offset in traces.buried and record.event is not None
    }


def _check_strangers(history: Slice, found: Findings) -> None:
    """What somebody else has put between the services is a dead letter of each that reads it, in order."""
    for topic, services in READERS.items():
        strays = history.strays.get(topic, {})
        strangers = [
            each
            for each in history.topic(topic)
            if each.event is None and not each.sound and each.offset not in strays
        ]
        for service in services if strangers else ():
            letters = {each.origin.offset: each for each in history.letters(service, topic)}
            quarantined: set[bytes] = set()
            for record in strangers:
                letter = letters.get(record.offset)
                origin = Origin(topic, history.partition, record.offset)
                if letter is None:
                    found.violate(
                        I5, f"{service} has no dead letter of a record that nobody can read", origin
                    )
                elif record.key in quarantined and letter.behind is None:
                    found.violate(
                        I7, f"{service} has not held a record behind one that nobody can read", origin
                    )
                if record.key is not None:
                    quarantined.add(record.key)


def _check_strays(history: Slice, found: Findings) -> None:
    """What stands on another partition than its key's is a dead letter of each service that reads it."""
    for topic, services in READERS.items():
        for service in services if history.strays.get(topic) else ():
            buried = {letter.origin.offset for letter in history.letters(service, topic)}
            for offset in sorted(history.strays[topic].keys() - buried):
                origin = Origin(topic, history.partition, offset)
                found.violate(
                    I5,
                    f"{service} has no dead letter of a record on another partition than its key's",
                    origin,
                )


def _check_downstream(history: Slice, traces: Traces, found: Findings) -> None:
    """A decision that is a dead letter of the next service was not acted on by it."""
    for service, topic in ((COMPLIANCE, RISK_DECISIONS), (EXCHANGE, COMPLIANCE_DECISIONS)):
        offsets = {letter.origin.offset for letter in history.letters(service, topic)}
        for record in history.topic(topic) if offsets else ():
            trace = traces.get(order_id_of(record.event)) if record.offset in offsets else None
            if trace and (trace.compliance if service == COMPLIANCE else trace.executions):
                origin = Origin(topic, history.partition, record.offset)
                found.violate(I5, f"{service} has acted on a record that is its dead letter", origin)
        for asking in traces.requests if offsets else ():
            decisions = asking.lets if service == COMPLIANCE else asking.judged
            acted = asking.judged if service == COMPLIANCE else asking.answers
            if acted and {each.offset for each in decisions} & offsets:
                message = f"{service} has acted on a request that is its dead letter"
                found.violate(I5, message, asking.venue_id)


def check_origins(
    letters: Iterable[DeadLetter],
    originals: Mapping[Origin, bytes],
    may_be_gone: Callable[[str], bool] = COMPACTED.__contains__,
    partitions: Mapping[str, int] = MappingProxyType({}),
) -> Findings:
    """Every dead letter has one origin, of which it is the only one of its service, and its very bytes.

    `originals` has the digests of the records that the letters name, as far as they are in the log;
    `may_be_gone(topic)` says where compaction may have removed one, `partitions` how many a topic has. One
    that blames the partition is right about it.
    """
    found = Findings()
    letters = list(letters)
    ends = {(letter.service, letter.origin): letter for letter in letters if letter.behind is None}
    seen = set()
    for letter in letters:
        if (letter.service, letter.origin) in seen:
            found.violate(I5, f"{letter.service} has made two dead letters of one record", letter.origin)
        seen.add((letter.service, letter.origin))
        _check_original(letter, originals, may_be_gone, found)
        if letter.is_wrong_partition and not _is_stray(letter, partitions):
            found.violate(I5, "a dead letter blames the partition, and its key belongs there", letter.origin)
        if letter.behind is not None:
            _check_held(letter, ends.get((letter.service, letter.behind)), found)
    return found


def _is_stray(letter: DeadLetter, partitions: Mapping[str, int]) -> bool:
    origin = letter.origin
    return is_elsewhere(letter.key, origin.partition, partitions.get(origin.topic, 1))


def _check_original(
    letter: DeadLetter,
    originals: Mapping[Origin, bytes],
    may_be_gone: Callable[[str], bool],
    found: Findings,
) -> None:
    digest = originals.get(letter.origin)
    if digest is None and may_be_gone(letter.origin.topic):
        found.skip(I5, "the origin of a dead letter is in a compacted topic and gone", letter.origin)
    elif digest is None:
        found.violate(I5, "the origin of a dead letter does not exist", letter.origin)
    elif digest != letter.digest:
        found.violate(I5, "a dead letter does not carry the bytes of its origin", letter.origin)


def _check_held(letter: DeadLetter, head: DeadLetter | None, found: Findings) -> None:
    if head is None:
        found.violate(I5, "a record is held behind something that is no dead letter", letter.origin)
        return
    same_topic = head.origin.topic == letter.origin.topic
    if head.key != letter.key or (same_topic and head.origin.offset >= letter.origin.offset):
        found.violate(I5, "a record is held behind a dead letter that is not before it", letter.origin)
