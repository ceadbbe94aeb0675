"""`python -m app storm`: orders flow, everything is killed, frozen or cut off, and the books are checked."""

import asyncio
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from rich.console import Console

from app.config import settings
from app.errors import ProcessError, StuckError, UserError
from app.run.ending import close_market
from app.run.job import log_to, teller
from app.run.plan import Plan
from app.run.quiet import Lookout, until_quiet
from app.topics import RISK_LIMITS
from app.topology import SERVICES
from checker.findings import Violation
from checker.verdict import judge
from feed.limits import initial_limits
from feed.roster import Roster
from feed.wire import limits_record
from storm.faults import Done, Injector
from storm.field import Field, until
from storm.mutants.mutant import Mutant
from storm.mutants.registry import MUTANTS
from storm.observer import Observer
from storm.options import Kind, StormOptions
from storm.plan import Fault, counts, schedule
from storm.report import StormResult
from storm.steps import STARTING, WORKING, Step

EXIT_VIOLATIONS: Final = 1
ROUND_FAULTS: Final = 100
MUTANT_ROUND_FAULTS: Final = 4
MUTANT_ROUNDS_MAX: Final = 6
MUTANT_ORDERS_S: Final = 4.0
FIRST_ORDER_S_MAX: Final = 60.0
LINES_MAX: Final = 60
"""A storm of more faults is told in sums."""

NETWORK: Final = (Kind.CUT, Kind.SLOW, Kind.RESET)
EXCHANGE_STEPS: Final = (Step.BEFORE_VENUE_CALL, Step.AFTER_VENUE_CALL, Step.BEFORE_BOOKING)
ENGINE_STEPS: Final = (
    *WORKING,
    *STARTING,
    Step.IN_REVOCATION,
    Step.BEFORE_REBALANCE,
    Step.AFTER_REBALANCE,
    Step.IN_STANDBY,
    Step.BEFORE_PROMOTION,
    Step.BEFORE_TAIL,
    Step.IN_TAIL,
    Step.PROMOTED,
)


async def storm(options: StormOptions) -> int:
    """Run what was asked for; returns the exit status. UserErrors and CheckerErrors pass through."""
    console = Console()
    if options.list_mutants:
        for each in MUTANTS.values():
            console.print(f"{each.name:<44} {each.invariant:<7} {each.told}", highlight=False, soft_wrap=True)
        return 0
    if settings().kafka_bootstrap is not None:
        raise UserError("the storm kills its Kafka and brings its own: unset KAFKA_BOOTSTRAP")
    log_to(console)
    if options.mutant is not None:
        return await _hunt(options, console)
    wanted = counts(options.seed, options.kills, options.others, options.faults)
    steps, venue_steps = list(map(str, ENGINE_STEPS)), list(map(str, EXCHANGE_STEPS))
    faults = schedule(
        options.seed,
        wanted,
        steps,
        options.workers,
        exchange_steps=venue_steps,
        all_alone=options.alone,
    )
    rounds = [faults[at : at + ROUND_FAULTS] for at in range(0, len(faults), ROUND_FAULTS)] or [[]]
    report, kept = await _blow(options, console, rounds, None)
    console.print(report.to_text(), highlight=False, markup=False, soft_wrap=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    if report.violations:
        again = shlex.join(["python", "-m", "app", *sys.argv[1:]])
        told = f"seed {options.seed}: {again} repeats the schedule; logs and data are in {kept}"
        console.print(told, markup=False, soft_wrap=True)
    return EXIT_VIOLATIONS if report.violations else 0


async def _blow(
    options: StormOptions, console: Console, rounds: Sequence[Sequence[Fault]], mutant: Mutant | None
) -> tuple[StormResult, Path]:
    """Run one storm from an empty directory, or the one that was named, to its report."""
    data_dir = options.data_dir or Path(tempfile.mkdtemp(prefix="storm-"))
    workers = (mutant.workers if mutant is not None else None) or options.workers
    plan = Plan(data_dir=data_dir.absolute(), workers=dict.fromkeys(SERVICES, workers))
    proxied = any(fault.kind in NETWORK for faults in rounds for fault in faults)
    report = StormResult(options.seed)
    field = Field(plan, teller(console), brokers=options.brokers, mutant=mutant, proxied=proxied)
    async with field:
        one = _Storm(options, field, console, report, mutant)
        try:
            await field.or_crash(field.bring_up())
            await field.or_crash(one.run(rounds))
        except (StuckError, ProcessError) as error:  # loud, as it should be when something is broken
            report.violations.append(Violation("engine", str(error), tuple(field.own_deaths)))
            if isinstance(error, StuckError):
                report.violations += (await judge(*field.remains())).violations
    if options.data_dir is None and not report.violations:
        shutil.rmtree(data_dir, ignore_errors=True)
    return report, data_dir


class _Storm:
    """A pipeline that is up, and what is done to it."""

    def __init__(
        self,
        options: StormOptions,
        field: Field,
        console: Console,
        report: StormResult,
        mutant: Mutant | None,
    ) -> None:
        self._options = options
        self._field = field
        self._console = console
        self._report = report
        self._mutant = mutant

    async def run(self, rounds: Sequence[Sequence[Fault]]) -> None:
        """All rounds, or until something is wrong."""
        field, cluster, venue = self._field, self._field.cluster, self._field.venue
        assert cluster is not None
        assert venue is not None
        observer = Observer(cluster, from_beginning=True)
        lookout = Lookout(cluster, observer, venue.ledger)
        injector = Injector(field, observer, self._options.seed)
        started_at = time.monotonic()
        async with AsyncExitStack() as stack:
            field.add_dependency(observer)
            await observer.maybe_start()
            stack.push_async_callback(observer.stop)
            if self._options.keys:
                await self._add_accounts(self._options.keys)
            for number, faults in enumerate(rounds, start=1):
                await self._round(injector, observer, faults)
                await self._settle(lookout)
                self._report.orders = observer.records["orders"]
                self._report.seconds = time.monotonic() - started_at
                await self._judge(number, len(rounds))
                if self._report.violations:
                    return

    async def _round(self, injector: Injector, observer: Observer, faults: Sequence[Fault]) -> None:
        await self._field.start_feed(self._options.speed, self._options.seed)
        orders = observer.records["orders"]
        if not await until(lambda: observer.records["orders"] > orders, FIRST_ORDER_S_MAX):
            raise StuckError(
                f"the feed sends no orders; see {self._field.plan.data_dir / 'logs' / 'feed.log'}"
            )
        told_at = time.monotonic()
        for fault in faults:
            done = await injector.do(fault)
            self._report.done.append(done)
            if len(faults) <= LINES_MAX or time.monotonic() - told_at > 10:
                told_at = time.monotonic()
                self._tell(done, observer)
            if self._field.own_deaths and self._mutant is None:
                break
        if self._mutant is not None:
            await asyncio.sleep(MUTANT_ORDERS_S)
        await injector.over()
        await self._field.stop_feed()

    def _tell(self, done: Done, observer: Observer) -> None:
        took = "" if done.outage_ms is None else f", {done.outage_ms:,.0f} ms"
        self._console.print(
            f"{len(self._report.done):>5} {done.at_s:>8.1f} s  {done.fault}{took}  "
            f"({observer.records['orders']:,} orders)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    async def _settle(self, lookout: Lookout) -> None:
        """Let everything come to rest, with every order ended."""
        assert self._field.venue is not None
        await until_quiet(lookout.look)
        await close_market(self._field.venue)
        await until_quiet(lookout.look)

    async def _judge(self, number: int, rounds: int) -> None:
        found = await judge(*self._field.remains())
        self._report.checks += 1
        self._report.violations += found.violations
        self._report.violations += [
            Violation("engine", "a worker was not meant to end", (each,)) for each in self._field.own_deaths
        ]
        late = [str(each.fault) for each in self._report.done if each.too_long]
        if late:
            self._report.violations.append(Violation("engine", "no output came back", tuple(late)))
        self._report.violations += [
            Violation("engine", str(each.fault), tuple(each.wrong))
            for each in self._report.done
            if each.wrong
        ]
        self._console.print(
            f"round {number} of {rounds}: {found.counts.orders:,} orders checked in {found.seconds:.1f} s, "
            f"{len(found.violations)} violations",
            highlight=False,
            soft_wrap=True,
        )

    async def _add_accounts(self, count: int) -> None:
        """Give so many accounts limits, so that risk's tables have that many keys."""
        async with AIOKafkaProducer(bootstrap_servers=self._field.bootstrap, linger_ms=20) as producer:
            roster = Roster(tuple(f"idle-{number}" for number in range(count)), ())
            for limits in initial_limits(roster):
                record = limits_record(limits)
                await producer.send(RISK_LIMITS.name, record.value, record.key, headers=record.headers)
            await producer.flush()


async def _hunt(options: StormOptions, console: Console) -> int:
    """Run one mutant, or all, until it is caught; the exit status is 0 when each one was."""
    if options.mutant != "all" and options.mutant not in MUTANTS:
        raise UserError(f"there is no mutant {options.mutant!r}: --list-mutants names them")
    chosen = list(MUTANTS.values()) if options.mutant == "all" else [MUTANTS[str(options.mutant)]]
    found = [await _chase(options, console, mutant) for mutant in chosen]
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    escaped = [each["mutant"] for each in found if not each["caught_by"]]
    if escaped:
        console.print(f"not caught: {', '.join(escaped)}")
    return EXIT_VIOLATIONS if escaped else 0


async def _chase(options: StormOptions, console: Console, mutant: Mutant) -> dict[str, Any]:
    """Run one mutant until it is caught, or for so many rounds; tells by what, and after how much."""
    report, data_dir = await _blow(options, console, rounds_for(mutant, options), mutant)
    if options.data_dir is None:
        shutil.rmtree(data_dir, ignore_errors=True)
    by = sorted({each.invariant for each in report.violations})
    first = report.violations[0].message if report.violations else "nothing was found wrong"
    caught = f"caught by {', '.join(by)}" if by else "NOT CAUGHT"
    console.print(
        f"{mutant.name}: {caught} after {len(report.done)} faults and {report.orders:,} orders: {first}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return {
        "mutant": mutant.name,
        "told": mutant.told,
        "caught_by": by,
        "faults": len(report.done),
        "orders": report.orders,
        "message": first,
    }


def rounds_for(mutant: Mutant, options: StormOptions) -> list[list[Fault]]:
    """A few faults of the kinds that show it, on the services that have it, again and again."""
    workers = mutant.workers or options.workers
    rounds = []
    for number in range(MUTANT_ROUNDS_MAX):
        faults = []
        for index in range(MUTANT_ROUND_FAULTS):
            name = mutant.faults[index % len(mutant.faults)]
            if name == "none":
                continue
            kind, _, step = name.partition(":")
            seed = (options.seed * 1_000 + number) * 10 + index
            (fault,) = schedule(
                seed,
                {Kind(kind): 1},
                [step or str(Step.BEFORE_COMMIT)],
                workers,
                services=mutant.services,
            )
            faults.append(replace(fault, index=number * MUTANT_ROUND_FAULTS + index))
        rounds.append(faults)
    return rounds
