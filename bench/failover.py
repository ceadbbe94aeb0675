"""One of two workers is killed with SIGKILL under load: how long its partitions wait for the other.

Orders come evenly over the partitions (`--partitions`, default 8), open loop: 400 a second, and with many
partitions 25 a second for each, so that an outage is told to 40 ms. The table has 100,000 keys. An outage
is a dead worker's partition's: from just before the signal until a `read_committed` reader has the first
decision on an order that was sent after it. A gap is the longest time that a partition of the other worker
was without a decision from the kill until a second after the last outage. When all is measured, the killed
worker starts again on the disk it left; when the two share the partitions and have done so for a while, the
other is killed. In the end the ids of the orders sent are compared with those of the decisions.

"supervised" has a parent that sends the dead member's LeaveGroup, as `Worker.after_death` does
(the way of the news through the guard is not in it); the others wait for the session to end, and those
with a long one are killed less often. The engine and stock Faust keep one standby by default, Kafka Streams
none. A transaction that a killed Kafka Streams worker left open ends after 10 s, its default; until then
nobody reads what is behind it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bench import job
from bench.contenders import ENGINE, KAFKA_STREAMS, STOCK, Contender
from bench.gaps import longest_gap, outage
from bench.latency import percentile
from bench.pair import Pair, Parent
from bench.plan import Plan
from bench.processes import BenchError
from bench.report import Row
from bench.run import Bench
from bench.traffic import Traffic

KEYS = 100_000
ORDERS_PER_SECOND_MIN, ORDERS_PER_SECOND_A_PARTITION = 400.0, 25.0
SETTLED_SECONDS = 3.0
SETTLE_SECONDS_MAX = 180.0
FRESH_SECONDS = 1.0
OUTAGE_SECONDS_MAX = 150.0
AFTERMATH_SECONDS = 1.0
QUIET_SECONDS, QUIET_SECONDS_MISSING = 5.0, 90.0
POLL_SECONDS = 0.05
RUNS_MAX = 3
TITLE = f"Failover: SIGKILL of one of two workers under load, {KEYS:,} keys; seconds"


@dataclass(frozen=True)
class Case:
    """How a contender takes part: with a parent that tells of a death or not, and how many kills a round."""

    kills: int
    supervised: bool = False
    partitions: int = 8

    @property
    def orders_per_second(self) -> float:
        return max(ORDERS_PER_SECOND_MIN, ORDERS_PER_SECOND_A_PARTITION * self.partitions)


class Kill(NamedTuple):
    """Seconds: of each partition of the dead worker the outage, of each of the other the longest gap."""

    outages: list[float]
    gaps: list[float]


class Failover(NamedTuple):
    """One round: its kills, and how many orders were without, with several, or with a wrong decision."""

    kills: list[Kill]
    orders: int
    missing: int
    duplicated: int
    wrong: int

    def __repr__(self) -> str:
        outages = ", ".join(f"{max(kill.outages):.2f}" for kill in self.kills)
        gaps = ", ".join(f"{max(kill.gaps):.2f}" for kill in self.kills)
        return (
            f"longest outage of each kill {outages} s, longest gap elsewhere {gaps} s, of {self.orders:,} "
            f"orders {self.missing} missing, {self.duplicated} duplicated, {self.wrong} on a wrong state"
        )


def cases(partitions: Sequence[int]) -> dict[Contender, Case]:
    """All that take part, with each number of partitions."""
    return {
        replace(contender, name=f"{contender.name}, {count} partitions"): replace(case, partitions=count)
        for count in partitions
        for contender, case in _kinds().items()
    }


def _kinds() -> dict[Contender, Case]:
    engine, streams = ENGINE[0], KAFKA_STREAMS[0]
    return {
        replace(engine, name="engine, supervised"): Case(kills=10, supervised=True),
        replace(engine, name="engine, unsupervised"): Case(kills=3),
        replace(
            streams,
            name="kafka streams, session 6 s",
            command=lambda directory: [*streams.command(directory), "--session-timeout-ms=6000"],
        ): Case(kills=2),
        streams: Case(kills=1),
        STOCK: Case(kills=1),
    }


def run(bench: Bench, plan: Plan) -> list[Row]:
    known = cases(plan.load.partitions)

    def measure(contender: Contender) -> Failover:
        return failover(bench, contender, known[contender])

    results = plan.rounds(plan.chosen(list(known)), measure, runs=min(plan.runs, RUNS_MAX))
    return [_row(contender, list(runs.values())) for contender, runs in results.items()]


def failover(bench: Bench, contender: Contender, case: Case) -> Failover:
    """One round: fill the table, start two workers, kill one after the other, compare the ids."""
    app_id, partitions = bench.new_app_id(contender), case.partitions
    input_topic = bench.new_topic("orders-steady", partitions)
    changelog = f"{app_id}-positions-changelog"
    bench.cluster.create_topic(changelog, partitions, {"cleanup.policy": "compact"})
    bench.cluster.fill(changelog, job.changelog_records(KEYS))
    bench.cluster.commit_start(app_id, input_topic, partitions)
    with (
        Parent(bench.cluster.bootstrap, app_id) as parent,
        Pair(bench, contender, app_id, input_topic, partitions) as pair,
        Traffic(bench.cluster, input_topic, pair.output, partitions, case.orders_per_second) as traffic,
    ):
        kills: list[Kill] = []
        for number in range(case.kills):
            victim = number % 2
            if kills:
                pair.start(1 - victim)
            kills.append(_kill(pair, victim, traffic, parent if case.supervised else None))
        traffic.end(QUIET_SECONDS, QUIET_SECONDS_MISSING)
    missing, duplicated = traffic.missing(), traffic.duplicated()
    return Failover(kills, traffic.sent, len(missing), len(duplicated), traffic.wrong)


def _kill(pair: Pair, victim: int, traffic: Traffic, parent: Parent | None) -> Kill:
    owned = _settled(pair, traffic)
    killed_at, client_id = pair.kill(victim)
    if parent is not None:
        parent.remove(client_id)
    outages = _outages(pair, traffic, owned[victim], killed_at)
    until = killed_at + max(outages) + AFTERMATH_SECONDS
    time.sleep(max(0.0, until - time.monotonic()))
    gaps = [longest_gap(traffic.answers[number], killed_at, until) for number in owned[1 - victim]]
    return Kill(outages, gaps)


def _settled(pair: Pair, traffic: Traffic) -> dict[int, set[int]]:
    """Wait until both workers have had their partitions for a while and keep up; whose are which."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    owned, since = pair.owned(), time.monotonic()
    while not owned or time.monotonic() - since < SETTLED_SECONDS:
        _check(pair, traffic)
        if time.monotonic() > deadline:
            raise BenchError(
                f"the workers did not come to share the partitions in {SETTLE_SECONDS_MAX:.0f} s"
            )
        time.sleep(POLL_SECONDS)
        found = pair.owned()
        if found != owned or not _keeps_up(traffic):
            owned, since = found, time.monotonic()
    return owned


def _keeps_up(traffic: Traffic) -> bool:
    since = time.monotonic() - FRESH_SECONDS
    return all(answers and answers[-1].sent_at > since for answers in traffic.answers)


def _outages(pair: Pair, traffic: Traffic, partitions: set[int], killed_at: float) -> list[float]:
    """Wait until each partition has a new decision; how long that was."""
    while True:
        _check(pair, traffic)
        found = {number: outage(traffic.answers[number], killed_at) for number in partitions}
        ended = [seconds for seconds in found.values() if seconds is not None]
        if len(ended) == len(partitions):
            return ended
        if time.monotonic() - killed_at > OUTAGE_SECONDS_MAX:
            silent = sorted(number for number, seconds in found.items() if seconds is None)
            raise BenchError(f"no new decision on partitions {silent} in {OUTAGE_SECONDS_MAX:.0f} s")
        time.sleep(POLL_SECONDS)


def _check(pair: Pair, traffic: Traffic) -> None:
    pair.check()
    traffic.check()


def _row(contender: Contender, runs: Sequence[Failover]) -> Row:
    kills = [kill for run in runs for kill in run.kills]
    outages = _summary([seconds for kill in kills for seconds in kill.outages])
    gaps = _summary([seconds for kill in kills for seconds in kill.gaps])
    counts = {
        name: sum(getattr(run, name) for run in runs) for name in ("orders", "missing", "duplicated", "wrong")
    }
    figures: dict[str, Any] = {
        "runs": len(runs),
        "kills": len(kills),
        "outage_seconds": outages,
        "gap_elsewhere_seconds": gaps,
        **counts,
    }
    shown = {
        "kills": str(len(kills)),
        "outages": str(outages["samples"]),
        **{f"outage {name}": f"{outages[name]:.2f}" for name in ("p50", "p99", "max")},
        **{f"gap elsewhere {name}": f"{gaps[name]:.2f}" for name in ("p50", "p99", "max")},
        "orders": f"{counts['orders']:,}",
        "missing": f"{counts['missing']:,}",
        "duplicated": f"{counts['duplicated']:,}",
        "on a wrong state": f"{counts['wrong']:,}",
    }
    return Row("failover", contender.name, contender.guarantee, figures, shown)


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    found = {f"p{percent}": percentile(seconds, percent) for percent in (50, 99)}
    return {**found, "max": max(seconds), "samples": len(seconds)}
