"""The monitor counts what the services wrote and passes over what a stranger put among it."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from app.engine.cluster import TP, Cluster
from app.engine.dead_letter import PREFIX
from app.engine.topics import EVENT_ID, EVENT_TYPE
from app.monitor import Monitor
from app.topics import DEAD_LETTERS, EXECUTIONS, RISK_DECISIONS
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
def test_a_strangers_execution_hides_no_report(monitor: Monitor, garbage: bytes | None) -> None:
    report = Raw(0, b"{}", [(EVENT_ID, b"venue/11/41")])
    odd = Raw(1, garbage, [(EVENT_ID, garbage)])
    monitor.take(TP(EXECUTIONS.name, 3), [report, odd])
    assert monitor.venue_sequences == {11: 41}
    monitor.take(TP(EXECUTIONS.name, 3), [odd])
    assert monitor.venue_sequences == {11: 41}


def test_a_report_that_is_a_dead_letter_is_read_as_well(monitor: Monitor) -> None:
    letter = Raw(0, b"?", [(f"{PREFIX}source", b"venue/11/42")])
    monitor.take(TP(DEAD_LETTERS.name, 3), [letter, Raw(1, b"?", [(f"{PREFIX}source", b"venue/11/?")])])
    assert monitor.venue_sequences == {11: 42}


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
