"""The check from end to end: read the log and the ledger, partition by partition, and judge.

So that a history that still moves can be checked, effects are read before their causes: first the ledger's
orders, then the ends of dead letters, books and executions, then compliance, risk, orders, commands,
reference data and prices; the ledger's reports come last.
"""

import asyncio
import json
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from app.topology import SERVICES, answerer_of, readers_of
from checker.errors import CheckerError
from checker.findings import Findings
from checker.history import ALLOCATION, Commanded, Shared, Slice, Traces, trace
from checker.invariants import (
    Strays,
    check_allocations,
    check_commands,
    check_conditions,
    check_conduct,
    check_exposure,
    check_intake,
    check_key_order,
    check_last_look,
    check_lives,
    check_origins,
    check_positions,
    check_profits,
    check_requests,
    check_sessions,
    check_standing,
    check_tables,
    check_venue,
)
from checker.invariants.intake import sort_intake
from checker.invariants.tables import LiveTable, Rebuilt
from checker.invariants.ticks import Ticks, check_ticks
from checker.ledger import LedgerFile
from checker.live import fetch_live, fetch_resting
from checker.log import TP, Log
from checker.reading import (
    Take,
    changelog_into,
    letters_into,
    market_takes,
    originals_into,
    reference_takes,
    slice_takes,
)
from checker.records import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    ALLOCATION_INSTRUCTIONS,
    ALLOCATIONS,
    COMMAND_ANSWERS,
    COMPACTED,
    COMPLIANCE_DECISIONS,
    CONTROLS_CHANGELOG,
    DEAD_LETTERS,
    EXECUTIONS,
    HALTS,
    INSTRUMENTS,
    INTENTS_CHANGELOG,
    MARKET_DATA,
    OPEN_ORDERS_CHANGELOG,
    OPERATOR_COMMANDS,
    ORDERS,
    POSITIONS_CHANGELOG,
    PRICES,
    RECENT_ORDERS_CHANGELOG,
    REQUESTS_CHANGELOG,
    RESERVATIONS_CHANGELOG,
    RESTRICTED_LIST,
    RESTRICTIONS,
    RISK_DECISIONS,
    RISK_LIMITS,
    RISK_LIMITS_CHANGELOG,
    SENT_CHANGELOG,
    SESSIONS_CHANGELOG,
    DeadLetter,
    Origin,
    Raw,
    VenueLetter,
)
from checker.report import CheckResult, Counts, latencies_ms, percentiles
from checker.shards import KEY_SHARDS

EXIT_USER_ERROR = 2
LEDGER_NAME = Path("venue") / "ledger.sqlite"

WAY = (ORDERS, RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS)
BOOKS = (
    POSITIONS_CHANGELOG,
    RESERVATIONS_CHANGELOG,
    RISK_LIMITS_CHANGELOG,
    RECENT_ORDERS_CHANGELOG,
    OPEN_ORDERS_CHANGELOG,
    INTENTS_CHANGELOG,
    SESSIONS_CHANGELOG,
    CONTROLS_CHANGELOG,
    SENT_CHANGELOG,
    REQUESTS_CHANGELOG,
)
INPUTS = {name: read for name, each in SERVICES.items() if (read := set(WAY) & set(each.inputs))}
"""What each consumer group reads of an order's way."""

REFERENCE = (
    COMMAND_ANSWERS,
    HALTS,
    RESTRICTED_LIST,
    ACCOUNTS,
    INSTRUMENTS,
    RISK_LIMITS,
    ACCOUNT_COMMANDS,
    RESTRICTIONS,
    OPERATOR_COMMANDS,
    ALLOCATION_INSTRUCTIONS,
)
"""What is beside an order's way, effects before causes."""

MARKET = (PRICES, MARKET_DATA)


def check(
    bootstrap: str,
    ledger: Path | None,
    *,
    quiet: bool | None = True,
    partitions: Sequence[int] | None = None,
    live_state: Sequence[LiveTable] = (),
) -> CheckResult:
    """Check I1 to I7 on the log at `bootstrap` and the venue's ledger; without a ledger I2 is left out.

    `quiet` says that nothing moves any more and every order has ended: then what is missing is a violation
    too. False says that orders are on their way; None finds out how far the services are, and lets orders
    rest at the venue. `partitions` limits the check to these. `live_state` must have been fetched before.
    It blocks: in a running loop call it in a thread. Raises CheckerError when it can't read what it needs.
    """
    return asyncio.run(_check(bootstrap, ledger, quiet, partitions, live_state))


async def _check(
    bootstrap: str,
    ledger: Path | None,
    quiet: bool | None,
    partitions: Sequence[int] | None,
    live_state: Sequence[LiveTable],
) -> CheckResult:
    started_at = time.monotonic()
    with ExitStack() as stack:
        book = stack.enter_context(LedgerFile(ledger)) if ledger is not None else None
        async with Log(bootstrap) as log:
            run = _Run(log, book, quiet)
            await run.start()
            numbers = run.numbers if partitions is None else sorted(set(partitions) & set(run.numbers))
            for number in numbers:
                await run.check_partition(number)
            await run.check_rest(live_state, whole=numbers == run.numbers)
    report = run.report()
    report.seconds = time.monotonic() - started_at
    return report


class _Run:
    """One check under way: what it has read that all partitions need, and what it has found."""

    def __init__(self, log: Log, ledger: LedgerFile | None, quiet: bool | None) -> None:
        self._log = log
        self._ledger = ledger
        self._quiet = quiet
        self._committed: dict[str, dict[TP, int]] = {}
        self._tps: dict[str, list[TP]] = {}
        self._risk_cuts: dict[TP, int] = {}
        self._shared = Shared()
        self._ticks = Ticks(self._shared.reference)
        self._strays = Strays()
        self._letters: list[DeadLetter] = []
        self._venue_letters: list[VenueLetter] = []
        self._originals: dict[Origin, bytes] = {}
        self._wanted: dict[TP, set[int]] = {}
        self._read: set[TP] = set()
        self._clipped: set[int] = set()
        self._found = Findings()
        self._counts = Counts()
        self._latencies_ms: list[int] = []

    @property
    def numbers(self) -> list[int]:
        return [tp.partition for tp in self._tps[ORDERS]]

    async def start(self) -> None:
        """Fix where each topic ends, effects before causes; read all that partitions have in common."""
        for topic in (*WAY, ALLOCATIONS, *BOOKS, *REFERENCE, *MARKET, DEAD_LETTERS):
            self._tps[topic] = self._log.partitions(topic)
        if not self._tps[ORDERS]:
            raise CheckerError(f"there is no topic {ORDERS!r}: has the pipeline ever run on this cluster?")
        if KEY_SHARDS % len(self.numbers):
            raise CheckerError(
                f"{ORDERS!r} has {len(self.numbers)} partitions, so that key shards have none of their own: "
                f"our services take a power of two up to {KEY_SHARDS} only"
            )
        if self._quiet is None:
            groups = INPUTS.keys() if self._tps[ALLOCATIONS] else INPUTS.keys() - {ALLOCATION}
            self._committed = {group: await self._log.committed(group) for group in groups}
        self._risk_cuts = await self._log.cut(self._tps[RISK_DECISIONS])
        for topic in (DEAD_LETTERS, *BOOKS, ALLOCATIONS, *reversed(WAY), *REFERENCE, *MARKET):
            await self._log.cut(self._tps[topic])
        await self._note_beginnings()
        await self._read_shared()

    async def _read_shared(self) -> None:
        take_letter = letters_into(self._letters, self._venue_letters, self._found)
        await self._log.read(dict.fromkeys(self._tps[DEAD_LETTERS], take_letter))
        for letter in self._letters:
            origin = letter.origin
            self._wanted.setdefault(TP(origin.topic, origin.partition), set()).add(origin.offset)
        self._ticks.buried = {letter.origin for letter in self._letters}
        counts = {topic: len(tps) for topic, tps in self._tps.items()}
        takes = reference_takes(self._shared, counts)
        await self._take({tp: takes[topic] for topic in REFERENCE for tp in self._tps[topic]})
        self._shared.reference.settle()
        takes = market_takes(self._shared, self._ticks, counts)
        await self._take({tp: takes[topic] for topic in MARKET for tp in self._tps[topic]})

    async def _note_beginnings(self) -> None:
        """Note what retention has taken; asked for all at once."""
        beginnings = await self._log.beginnings(tp for tps in self._tps.values() for tp in tps)
        self._shared.market_is_whole = not any(beginnings[tp] for tp in self._tps[MARKET_DATA])
        answers = self._tps[COMMAND_ANSWERS]
        self._shared.reference.answers_are_whole = not any(beginnings[tp] for tp in answers)
        if not self._tps[ALLOCATIONS]:
            self._found.skip("I3", "no service has ever allocated fills here", ALLOCATIONS)
        for tp in (tp for topic in WAY for tp in self._tps[topic] if beginnings[tp]):
            self._clipped.add(tp.partition)
            self._found.skip("I1", "the log's first records are gone", f"{tp.topic}/{tp.partition}")

    async def _take(self, takes: dict[TP, Take | None]) -> None:
        """Read partitions, with an eye on the origins of dead letters."""
        noting = {
            tp: originals_into(self._originals, self._wanted[tp], take) if tp in self._wanted else take
            for tp, take in takes.items()
        }
        await self._log.read({tp: take for tp, take in noting.items() if take is not None})
        self._read |= takes.keys()

    async def check_partition(self, number: int) -> None:
        """Read one partition of everything and judge it; nothing of it is kept but the findings."""
        history = await self._read_slice(number)
        traces = trace(history)
        intake = sort_intake(history, traces)
        shared, reference = self._shared, self._shared.reference
        self._found.add(
            (
                check_lives(history, traces, reference),
                check_requests(history, traces),
                check_positions(history, traces, reference),
                check_profits(history, traces, reference),
                check_allocations(history, traces, reference),
                check_standing(history, traces, self._commanded(number)),
                check_exposure(history, shared.limits, reference),
                check_intake(history, traces, intake),
                check_key_order(history, traces),
                check_conditions(history, traces, shared),
                check_last_look(history, traces, shared),
                check_conduct(history, traces),
                self._check_venue(history, traces),
            )
        )
        self._strays.add(history, traces)
        self._counts.add(history, traces, intake)
        self._latencies_ms += latencies_ms(traces)

    def _check_venue(self, history: Slice, traces: Traces) -> Findings:
        if self._ledger is None:
            return Findings()
        return check_venue(history, traces, self._ledger.part(history.partition, history.partitions))

    async def _read_slice(self, number: int) -> Slice:
        count = len(self.numbers)
        history = Slice(number, count, ended=bool(self._quiet), whole=number not in self._clipped)
        history.allocates = bool(self._tps[ALLOCATIONS])
        history.looks_last = bool(self._tps[CONTROLS_CHANGELOG] and self._tps[SENT_CHANGELOG])
        history.dead_letters = [each for each in self._letters if each.origin.partition == number]
        history.venue_letters = [each for each in self._venue_letters if each.shard % count == number]
        takes = slice_takes(history)
        await self._take(
            {
                tp: takes[topic]
                for topic in (*WAY, ALLOCATIONS, *BOOKS)
                for tp in self._tps[topic]
                if tp.partition == number
            }
        )
        history.quiet = self._is_taken_in(history) if self._quiet is None else self._quiet
        history.risk_cut = None if history.quiet else self._risk_cuts.get(TP(RISK_DECISIONS, number))
        return history

    def _is_taken_in(self, history: Slice) -> bool:
        """Whether every group had read all that was read here, before it was."""
        for group, committed in self._committed.items():
            for topic in INPUTS[group]:
                position = committed.get(TP(topic, history.partition), 0)
                if history.last_offset(topic) >= position:
                    return False
        number = history.partition
        last_limits = self._commanded(number).last_offset
        return all(
            last_limits < self._committed[group].get(TP(RISK_LIMITS, number), 0) for group in self._limited()
        )

    def _limited(self) -> tuple[str, ...]:
        """The groups that go by limits."""
        readers = readers_of(RISK_LIMITS)
        return readers if self._tps[CONTROLS_CHANGELOG] else (answerer_of(RISK_LIMITS),)

    def _commanded(self, number: int) -> Commanded:
        return self._shared.commanded.get(number, Commanded())

    async def check_rest(self, live_state: Sequence[LiveTable], *, whole: bool) -> None:
        """What no single partition shows: dead letters' origins, commands, the market, live tables."""
        if whole:
            await self._check_origins()
            self._found.add([self._strays.check()])
            self._found.add([check_commands(self._shared, self._letters, quiet=bool(self._quiet))])
            if self._quiet:
                prices = self._shared.last_prices if self._shared.market_is_whole else None
                self._found.add([check_ticks(self._ticks, self._letters, prices, self._shared.market)])
            self._check_sessions()
        if not live_state:
            self._found.skip("I6", "no live table was given to compare with", "workers")
        self._counts.live_tables = len(live_state)
        rebuilt = [(live, await self._rebuild(live)) for live in live_state]
        self._found.add([check_tables(rebuilt, quiet=bool(self._quiet))])
        self._counts.dead_letters_elsewhere = sum(
            letter.behind is None and letter.origin.topic != ORDERS for letter in self._letters
        ) + len(self._venue_letters)

    async def _check_origins(self) -> None:
        known: set[TP] = set()
        for topic in {tp.topic for tp in self._wanted}:
            known |= set(self._log.partitions(topic))
        await self._take({tp: None for tp in self._wanted if tp in known - self._read})
        counts = {topic: len(self._log.partitions(topic)) for topic in {tp.topic for tp in self._wanted}}
        found = check_origins(self._letters, self._originals, COMPACTED.__contains__, counts)
        self._found.add([found])

    def _check_sessions(self) -> None:
        if self._ledger is None:
            self._found.skip("I2", "there is no ledger to compare with", "venue")
            return
        self._found.add([check_sessions(sorted(self._ledger.sessions()))])

    async def _rebuild(self, live: LiveTable) -> Rebuilt:
        tp = TP(live.changelog_topic, live.partition)
        if tp not in self._log.partitions(live.changelog_topic):
            return Rebuilt({}, 0)
        end = (await self._log.cut([tp]))[tp]
        values: dict[bytes, bytes] = {}
        later: list[int] = []
        await self._log.read({tp: _parted(live.offset, changelog_into(values), later)})
        return Rebuilt(values, end, is_behind=bool(later))

    def report(self) -> CheckResult:
        latency_ms = percentiles(self._latencies_ms)
        return CheckResult(self._counts, self._found.violations, self._found.unverifiable, latency_ms)


def _parted(offset: int, take: Take, later: list[int]) -> Take:
    """Hand on the records before `offset`; note the offsets of the others."""

    def parting(records: Sequence[Raw]) -> None:
        take([record for record in records if record.offset < offset])
        later.extend(record.offset for record in records if record.offset >= offset)

    return parting


def run_check(options: Namespace) -> int:
    """Check and print; `bootstrap` and `data_dir` must be set. Gives the exit status."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what matters of it is an error below
    ledger = options.ledger or options.data_dir / LEDGER_NAME
    try:
        live_state = (fetch_resting if options.ended else fetch_live)(options.worker)
        report = check(
            options.bootstrap, ledger, quiet=True if options.ended else None, live_state=live_state
        )
    except CheckerError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print(f"the log of {options.bootstrap} and the ledger {ledger}", report.to_text(), sep="\n")
    return report.exit_status
