"""What becomes of the venue's reports in a unit of work: executions, repeats, and dead letters for the rest.

A report that can't be read, fits no order or contradicts one is one dead letter. Its order is in dispute from
then on; its session goes on behind it. A report that answers a request ends that too, whatever becomes of it.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice

from app.domain.errors import InvariantBroken, ReportGap
from app.domain.exchange import (
    NEW_SESSION,
    Intent,
    Request,
    Session,
    apply_late_answer,
    apply_venue_report,
    disputed,
    is_misnumbered,
    note_unnumbered,
    read_on,
    request_answered,
    require_answer,
)
from app.engine import Table, Task, UnitOfWork, shard_of
from app.topics import EXECUTIONS
from app.venue_session.reports import Reported, Unreadable
from app.venue_session.status import Tally
from models.events import AnyVenueReport

log = logging.getLogger(__name__)

STRAYS_MAX = 100
"""So many reports of nobody become dead letters in a task's life; the others are only counted."""


class Booking:
    """Books the reports of one task's sessions. `disputed` has its orders in dispute, by account/order."""

    def __init__(
        self,
        task: Task,
        intents: Table[Intent],
        sessions: Table[Session],
        requests: Table[Request],
        tally: Tally,
    ) -> None:
        self._shards = task.shards
        self._intents = intents
        self._sessions = sessions
        self._requests = requests
        self._tally = tally
        self._strays: set[str] = set()
        self.disputed = {key for key, intent in task.table(intents).items() if intent.disputed}

    def book(self, work: UnitOfWork, reports: Sequence[Reported]) -> dict[int, ReportGap]:
        """Take reports in. Returns the sessions whose numbers jump: theirs are passed by from there on."""
        gaps: dict[int, ReportGap] = {}
        strays: dict[str, Reported] = {}
        for index, reported in enumerate(reports):
            number = reported.session
            if number is None or number not in self._shards:
                strays.setdefault(reported.digest, reported)
                self._count(work, "of no session of ours")
            elif number not in gaps:
                try:
                    self._take(work, number, reported, islice(reports, index + 1, None))
                except ReportGap as gap:
                    gaps[number] = gap
        for reported in strays.values():
            self._bury_stray(work, reported)
        return gaps

    def _take(self, work: UnitOfWork, number: int, reported: Reported, later: Iterable[Reported]) -> None:
        session: Session = work[self._sessions].get(str(number), NEW_SESSION)
        sequence, report = reported.sequence, reported.report
        if sequence is None or _misnumbered(session, reported, later):
            error = reported.error or Unreadable("its venue_sequence is missing or odd")
            self._refuse(work, reported, note_unnumbered(session, reported.digest), error)
        elif report is None:
            error = reported.error or Unreadable("it cannot be read")
            self._refuse(work, reported, read_on(session, sequence, reported.follows), error)
        else:
            self._apply(work, number, session, reported, report)

    def _apply(
        self, work: UnitOfWork, number: int, session: Session, reported: Reported, report: AnyVenueReport
    ) -> None:
        key = f"{report.account_id}/{report.order_id}"
        before, request = work[self._intents].get(key), self._asked(work, report)
        intent = None
        try:
            if before is None and request is not None:
                read, is_new = apply_late_answer(session, request, report, reported.follows)
            else:
                read, intent, is_new = apply_venue_report(session, before, report, reported.follows, request)
            if is_new and request is not None:
                require_answer(request, report)
            if is_new and (own := shard_of(report.account_id.encode())) != number:
                raise InvariantBroken(f"account {report.account_id} has session {own}, not {number}")
        except InvariantBroken as error:
            self._refuse(work, reported, read_on(session, report.venue_sequence, reported.follows), error)
            return
        if not is_new:
            self._count(work, "repeated")
            return
        if intent is not None:
            work[self._intents][key] = intent
        elif before is not None:
            del work[self._intents][key]
        if request is not None:
            del work[self._requests][request.key]
        work[self._sessions][str(number)] = read
        report_id = f"venue/{number}/{report.venue_sequence}"
        work.emit(EXECUTIONS, report, event_id=report_id, correlation_id=report.order_id)
        self._count(work, "booked")
        if reported.unknown:
            where = type(report).__name__
            work.after_commit(partial(self._tally.note_unknown, where, reported.unknown))

    def _refuse(self, work: UnitOfWork, reported: Reported, read: Session | None, error: Exception) -> None:
        """Make a dead letter of a report, put its order in dispute, and go on behind it; once."""
        if read is None:
            self._count(work, "repeated")
            return
        work[self._sessions][str(reported.session)] = read
        request = None if reported.report is None else self._asked(work, reported.report)
        if request is not None and request.order_id == reported.order_id:
            del work[self._requests][request.key]
        work.bury(reported.source, _key_of(reported), reported.raw, error)
        self._count(work, "buried")
        key = f"{reported.account_id}/{reported.order_id}"
        intent = work[self._intents].get(key)
        if intent is not None and not intent.disputed:
            work[self._intents][key] = disputed(intent)
            work.after_commit(partial(self._dispute, key))

    def _asked(self, work: UnitOfWork, report: AnyVenueReport) -> Request | None:
        """The request that a report answers."""
        request_id = request_answered(report)
        return None if request_id is None else work[self._requests].get(f"{report.account_id}/{request_id}")

    def _bury_stray(self, work: UnitOfWork, reported: Reported) -> None:
        """A report of no session of ours; whoever has that session gets it by its number."""
        if reported.digest not in self._strays and len(self._strays) < STRAYS_MAX:
            error = reported.error or Unreadable("it is of a session that was not asked for")
            work.bury(reported.source, _key_of(reported), reported.raw, error)
            work.after_commit(partial(self._strays.add, reported.digest))

    def _dispute(self, key: str) -> None:
        self.disputed.add(key)
        log.error("order %s is in dispute with the venue: see its dead letter", key)

    def _count(self, work: UnitOfWork, outcome: str) -> None:
        work.after_commit(partial(self._tally.reports.update, (outcome,)))


def _misnumbered(session: Session, reported: Reported, later: Iterable[Reported]) -> bool:
    """Whether the numbers that follow in the session show that this one is wrong."""
    sequence = reported.sequence
    if sequence is None or sequence <= session.venue_sequence_last + 1 or reported.follows is not None:
        return False
    numbers = {each.sequence for each in later if each.session == reported.session and each.sequence}
    return is_misnumbered(session, sequence, numbers)


def _key_of(reported: Reported) -> bytes | None:
    return None if reported.account_id is None else reported.account_id.encode()
