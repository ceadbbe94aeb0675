"""One contender on one input: start it, watch the output's end from outside, check what it wrote."""

import itertools
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench import job
from bench.contenders import Audit, Contender
from bench.kafka import Cluster, Reader
from bench.processes import BenchError, Child, child

SAMPLE_SECONDS = 0.05
START_SECONDS_MAX = 90.0
STALL_SECONDS_MAX = 45.0
RUN_SECONDS_MAX = 300.0
QUIET_SECONDS = 1.0
READ_SECONDS_MAX = 120.0
WINDOW = (0.1, 0.9)


class Sample(NamedTuple):
    """Where the output ended at a time, and what the worker had used of the processor by then."""

    at: float
    cpu_seconds: float
    ends: list[int]


class Speed(NamedTuple):
    """What one run measured.

    `parts` is where the processor time went, if the contender tells: its shares of all that followed the
    restore, in µs/event of what was measured.
    """

    events_per_second: float
    cpu_us_per_event: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Worker:
    """A running contender and its topics."""

    process: Child
    app_id: str
    input: str
    output: str
    partitions: int


class Bench:
    """The broker, the scratch directory and the inputs filled so far."""

    def __init__(self, cluster: Cluster, directory: Path):
        self.cluster = cluster
        self.directory = directory
        self._numbers = itertools.count(1)
        self.filled: set[str] = set()

    def input(self, records: int, partitions: int, accounts: int = job.ACCOUNTS, warm: bool = False) -> str:
        """The topic with these orders; filled once, read by all."""
        topic = f"orders-{records}-{accounts}-{partitions}{'-warm' if warm else ''}"
        if topic not in self.filled:
            self.cluster.create_topic(topic, partitions)
            self.cluster.fill(topic, job.records(records, accounts, warm))
            self.filled.add(topic)
        return topic

    def new_topic(self, name: str, partitions: int) -> str:
        """An empty topic of its own name."""
        topic = f"{name}-{next(self._numbers):04d}"
        self.cluster.create_topic(topic, partitions)
        return topic

    def command(self, contender: Contender, **arguments: object) -> list[str]:
        """The command line of a worker; the arguments are those of `worker.Options`."""
        given = {"bootstrap": self.cluster.bootstrap, "guarantee": contender.guarantee, **arguments}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        return _command(contender, self.directory) + flags

    @contextmanager
    def worker(
        self,
        contender: Contender,
        input_topic: str,
        partitions: int,
        app_id: str | None = None,
        goal: str = "throughput",
    ) -> Iterator[Worker]:
        """A worker of the contender on a new output topic; all that is its own goes away with it."""
        app_id = app_id or self.new_app_id(contender)
        output = contender.output or f"{app_id}-decisions"
        directory = self.directory / app_id
        directory.mkdir()
        self.cluster.create_topic(output, partitions)
        command = self.command(
            contender,
            input=input_topic,
            output=output,
            app_id=app_id,
            client_id=app_id,
            data_dir=directory / "state",
            partitions=partitions,
            goal=goal,
        )
        try:
            with child(str(contender), command, directory / "log") as process:
                yield Worker(process, app_id, input_topic, output, partitions)
        finally:
            self.cluster.delete_topics(lambda topic: app_id in topic or topic in contender.owns)
            shutil.rmtree(directory, ignore_errors=True)

    def new_app_id(self, contender: Contender) -> str:
        return f"bench-{re.sub('[^a-z0-9]+', '-', contender.name)}-{next(self._numbers):04d}"


@cache
def _command(contender: Contender, directory: Path) -> list[str]:
    return contender.command(directory)


def speed(
    bench: Bench, contender: Contender, input_topic: str, records: int, partitions: int, skip: int = 0
) -> Speed:
    """Run the contender over the whole input and measure between 10% and 90% of the output.

    The first `skip` records (on top of `records`) are not measured. Raises `BenchError` when it fails,
    stalls, or writes anything but one right decision for each order.
    """
    audit = contender.audit()
    with (
        bench.worker(contender, input_topic, partitions) as worker,
        Reader(bench.cluster, worker.output, partitions, audit.add) as reader,
    ):
        samples = watch(bench.cluster, worker, reader, audit, records + skip)
        worker.process.stop()
        told = worker.process.marks("parts")
    problem = audit.problem(records + skip)
    if problem:
        raise BenchError(f"{contender} wrote {problem}")
    measured = measure(samples, reader, records, skip)
    shares = told[-1]["shares"] if told and not skip else {}
    return measured._replace(
        parts={part: share * measured.cpu_us_per_event for part, share in shares.items()}
    )


def watch(cluster: Cluster, worker: Worker, reader: Reader, audit: Audit, expected: int) -> list[Sample]:
    """Sample the output's end until it holds all that is expected; the records are read only then."""
    samples: list[Sample] = []
    moved_at, quiet, total = time.monotonic(), False, 0
    while True:
        worker.process.check()
        now = time.monotonic()
        ends = cluster.ends(worker.output, worker.partitions)
        samples.append(Sample(now, worker.process.cpu_seconds(), ends))
        if sum(ends) != total:
            moved_at, quiet, total = now, False, sum(ends)
        elif now - moved_at > (STALL_SECONDS_MAX if total else START_SECONDS_MAX):
            raise worker.process.error(f"wrote {total} of {expected} records, then nothing more")
        elif now - samples[0].at > RUN_SECONDS_MAX:
            raise worker.process.error(f"wrote {total} of {expected} records in {RUN_SECONDS_MAX:.0f} s")
        elif not quiet and total >= expected and now - moved_at > QUIET_SECONDS:
            quiet = True
            reader.read_to(ends, READ_SECONDS_MAX)
            if audit.count >= expected:
                return samples
        time.sleep(SAMPLE_SECONDS)


def measure(samples: list[Sample], reader: Reader, records: int, skip: int = 0) -> Speed:
    """Rate and cost inside the window, from samples of the output's end and the offsets read later."""
    counted = [(sample, reader.count_below(sample.ends)) for sample in samples]
    first, last = (skip + part * records for part in WINDOW)
    (began_at, cpu_before), (ended_at, cpu_after) = _reached(counted, first), _reached(counted, last)
    events = last - first
    return Speed(events / (ended_at - began_at), 1e6 * (cpu_after - cpu_before) / events, {})


def _reached(counted: list[tuple[Sample, int]], count: float) -> tuple[float, float]:
    """When the output had so many records, and the processor time by then, interpolated between samples."""
    for (before, count_before), (after, count_after) in itertools.pairwise(counted):
        if count_after >= count:
            part = (
                (count - count_before) / (count_after - count_before) if count_after > count_before else 0.0
            )
            return (
                before.at + part * (after.at - before.at),
                before.cpu_seconds + part * (after.cpu_seconds - before.cpu_seconds),
            )
    raise ValueError(f"the output never had {count} records")
