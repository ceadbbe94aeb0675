"""The monitor counts what the services wrote and passes over what a stranger put among it."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.engine.core.dead_letter import PREFIX
from app.engine.kafka.cluster import LATEST, TP, Cluster, Fetched
from app.engine.topics import EVENT_TYPE
from app.run.kept_counts import Counts, read_counts, write_counts
from app.run.monitor import CURSORS, FOLLOWED, Monitor
from app.topics import COMPLIANCE_DECISIONS, DEAD_LETTERS, EXECUTIONS, RISK_DECISIONS
from storm.observer import Observer


class Raw(NamedTuple):
    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    key: bytes = b"acct-1"
    timestamp: int = 1_700_000_000_000


def event(offset: int, name: str, value: bytes | None) -> Raw:
    return Raw(offset, value, [(EVENT_TYPE, name.encode())])


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(Cluster("localhost:1", "test"), from_beginning=True)


GARBAGE = [
    *(b"\xff\xfe", b"{", b"[]", b'{"venue_sequence": "many", "reason": 7}', b"", None),
    b'{"reason":"\xff","venue_sequence":"\xff"}',
    b'{"other":' + b"[" * 200_000,
    b'{"venue_sequence":' + b"9" * 5_000,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_strangers_execution_hides_no_fill(monitor: Monitor, garbage: bytes | None) -> None:
    fills = [event(number, "TradeExecuted", b'{"leaves_lots": %d}' % number) for number in (0, 1)]
    monitor.take(TP(EXECUTIONS.name, 3), [fills[0], event(2, "TradeExecuted", garbage), fills[1]])
    assert (monitor.events["TradeExecuted"], monitor.filled) == (3, 1)


def test_an_approval_that_somebody_writes_again_is_one_order(monitor: Monitor) -> None:
    approvals = [
        event(at, "OrderComplianceApproved", b'{"order":{"account_id":"%b","sequence":%d}}' % told)
        for at, told in enumerate([(b"a", 1), (b"b", 1), (b"a", 3), (b"a", 1), (b"a", 3), (b"b", 2)])
    ]
    monitor.take(TP(COMPLIANCE_DECISIONS.name, 0), approvals)
    assert monitor.approved == 4


@pytest.mark.parametrize("garbage", GARBAGE)
def test_the_last_cursor_of_a_session_counts(monitor: Monitor, garbage: bytes | None) -> None:
    cursors = [Raw(at, b'{"venue_sequence_last": %d, "epoch": 1}' % at, key=b"3") for at in (41, 42)]
    monitor.take(TP(CURSORS, 3), [*cursors, Raw(43, garbage, key=b"x")])
    assert monitor.venue_sequences == {3: 42}


def test_headers_may_be_null(monitor: Monitor) -> None:
    monitor.take(TP(EXECUTIONS.name, 0), [Raw(0, b"{}", [(EVENT_TYPE, None)])])
    monitor.take(TP(DEAD_LETTERS.name, 0), [Raw(0, b"{}", [(f"{PREFIX}service", None)])])
    assert monitor.dead_letters == {("", ""): 1}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_strangers_refusal_has_no_reason(monitor: Monitor, garbage: bytes | None) -> None:
    refusal = event(0, "OrderRiskRejected", b'{"reason": "kill_switch"}')
    monitor.take(TP(RISK_DECISIONS.name, 0), [event(1, "OrderRiskRejected", garbage), refusal])
    assert monitor.rejected == {"kill_switch": 1}
    assert monitor.records[RISK_DECISIONS.name] == 2


def test_the_storms_stopwatch_looks_all_the_time() -> None:
    assert Observer.pause_s == 0.0 < Monitor.pause_s


LOG_STARTS = {TP("orders", 0): 0, TP("risk-decisions", 0): 0}


def some_counts(**positions: int) -> Counts:
    return Counts.of(
        {TP(topic.replace("_", "-"), 0): at for topic, at in positions.items()},
        {("risk", "orders"): 2},
        records={"orders": 9},
        events={"OrderRiskApproved": 7},
        rejected={},
        filled=5,
        venue_sequences={3: 42},
    )


def test_counts_are_read_as_they_were_written(tmp_path: Path) -> None:
    counts = some_counts(orders=12, risk_decisions=8)
    write_counts(tmp_path / "counts.json", counts)
    found = read_counts(tmp_path / "counts.json")
    assert found == counts
    assert found.by_origin() == {("risk", "orders"): 2}
    assert found.by_partition() == {TP("orders", 0): 12, TP("risk-decisions", 0): 8}


@pytest.mark.parametrize("written", [b"", b"{", b"[]", b'{"positions": {}}', b"\xff"])
def test_counts_that_can_not_be_read_are_none(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "counts.json").write_bytes(written)
    assert read_counts(tmp_path / "counts.json") is None
    assert read_counts(tmp_path / "no-such-file") is None


@pytest.mark.parametrize(
    ("counts", "end", "fit"),
    [
        (some_counts(orders=12, risk_decisions=8), 12, True),
        (some_counts(orders=12, risk_decisions=8), 11, False),  # another, shorter log
        (some_counts(orders=12), 100, False),  # other topics or partitions
    ],
)
def test_counts_of_another_log_do_not_fit(counts: Counts, end: int, fit: bool) -> None:
    assert counts.fit(LOG_STARTS, dict.fromkeys(LOG_STARTS, end)) is fit


class Log:
    """A log of one partition a topic, as a cluster that answers at once."""

    def __init__(self) -> None:
        self.records: dict[str, list[Raw]] = {topic: [] for topic in FOLLOWED}
        self.fetched_from: dict[str, int] = {}

    def orders(self, count: int) -> None:
        """Put so many more orders, each of them refused."""
        for _ in range(count):
            orders, decisions = self.records["orders"], self.records["risk-decisions"]
            orders.append(Raw(len(orders), b"{}"))
            decisions.append(event(len(decisions), "OrderRiskRejected", b'{"reason": "kill_switch"}'))

    async def partition_count(self, topic: str) -> int:
        return 1

    async def offsets(self, tps: Iterable[TP], which: int) -> dict[TP, int]:
        return {tp: len(self.records[tp.topic]) if which == LATEST else 0 for tp in tps}

    def leader(self, tp: TP) -> int:
        return 1

    async def fetch(self, node: int, positions: Mapping[TP, int], **_: object) -> list[Fetched]:
        await asyncio.sleep(0)
        self.fetched_from = {tp.topic: at for tp, at in positions.items()} | self.fetched_from
        ends = await self.offsets(positions, LATEST)
        return [
            Fetched(tp, at, ends[tp], ends[tp], self.records[tp.topic][at:], 100)
            for tp, at in positions.items()
            if at < ends[tp]
        ]


async def counted(log: Log, kept: Path) -> Monitor:
    """A monitor that has run until it had read everything, and was stopped."""
    cluster: Any = log
    monitor = Monitor(cluster, from_beginning=True, kept=kept)
    await monitor.start()
    await monitor.mark()
    ends = await log.offsets(monitor.positions, LATEST)
    while not monitor.has_read(ends):  # noqa: ASYNC110 - the monitor's own task
        await asyncio.sleep(0.01)
    await monitor.stop()
    return monitor


async def test_the_next_run_goes_on_counting_where_this_one_stopped(tmp_path: Path) -> None:
    log, kept = Log(), tmp_path / "counts.json"
    log.orders(100)
    first = await counted(log, kept)
    assert (first.records["orders"], first.orders_before) == (100, 100)
    log.orders(20)
    log.fetched_from.clear()

    second = await counted(log, kept)

    assert log.fetched_from["orders"] == 100
    assert (second.records["orders"], second.rejected) == (120, {"kill_switch": 120})


async def test_another_log_is_counted_from_its_beginning(tmp_path: Path) -> None:
    log, kept = Log(), tmp_path / "counts.json"
    log.orders(100)
    await counted(log, kept)
    other = Log()
    other.orders(30)

    assert (await counted(other, kept)).records["orders"] == 30


async def test_a_full_disk_does_not_end_the_counting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, kept = Log(), tmp_path / "counts.json"
    kept.with_name("counts.json.new").symlink_to("/dev/full")
    log.orders(10)

    assert (await counted(log, kept)).records["orders"] == 10
    assert f"{kept} is not written, everything else goes on" in caplog.text
