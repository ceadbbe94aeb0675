"""The pipeline's bench: what an order's way and a process's use are read from, and when a curve ends."""

import argparse
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import pytest

from bench.__main__ import load, make_parser
from bench.broker import THIS_TREE
from bench.pipeline import Case, Measured, figures, pooled, rates, ratios, speed, stands
from bench.plan import Load
from bench.processes import child
from bench.report import Row
from bench.trace import BATCH, BATCH_LENGTH_FROM, CONTROL, HOPS, Commit, Trace, commits, first_ms
from bench.usage import KAFKA, SUPERVISOR, Sample, inside, role, sample, used

TRANSACTIONAL = 0x10
CASE = Case(THIS_TREE, 8, 200)


def batch(first: int, records: int, producer: int, at_ms: int, attributes: int = TRANSACTIONAL) -> bytes:
    body = b"records"
    length = BATCH.size - BATCH_LENGTH_FROM + len(body)
    head = (first, length, 0, 2, 0, attributes, records - 1, at_ms, at_ms, producer, 0, 0, records)
    return BATCH.pack(*head) + body


def marker(offset: int, producer: int, at_ms: int) -> bytes:
    return batch(offset, 1, producer, at_ms, TRANSACTIONAL | CONTROL)


def options(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def measured(
    warm: Sequence[float] = (10.0, 20.0), cpu_ms: Mapping[str, float] | None = None, rate: float = 200.0
) -> Measured:
    return Measured(
        sent_per_second=rate,
        settled_per_second=rate,
        warming=[30.0],
        warm=warm,
        hops={hop: [1.0] for hop in HOPS},
        transactions_per_second={"risk": 5.0},
        cpu_ms=cpu_ms or {KAFKA: 3.0, "risk": 1.0},
        memory_mib={KAFKA: 300.0, "risk": 90.0},
    )


def test_a_batch_is_visible_from_the_marker_of_its_own_producer_on() -> None:
    log = batch(0, 2, 7, 10) + batch(2, 1, 8, 11) + batch(3, 1, 7, 12) + marker(4, 8, 20) + marker(5, 7, 30)
    assert list(commits(log)) == [Commit(2, 2, 20), Commit(0, 1, 30), Commit(3, 3, 30)]


def test_what_no_marker_ends_yet_is_not_visible() -> None:
    log = batch(0, 1, 7, 10) + marker(1, 7, 20) + batch(2, 1, 7, 30)
    assert list(commits(log)) == [Commit(0, 0, 20)]


def test_the_head_of_a_batch_is_that_of_kafka() -> None:
    assert BATCH.size == 61
    assert struct.calcsize(">qi") == BATCH_LENGTH_FROM


def test_an_order_that_is_sent_twice_counts_from_its_first_place() -> None:
    assert first_ms([("a", 5.0), ("b", 1.0), ("a", 3.0), ("a", 9.0)]) == {"a": 3.0, "b": 1.0}


def test_a_hop_has_the_orders_with_both_its_ends() -> None:
    found = Trace(
        came={"whole": 0, "refused": 0},
        approved={"whole": 1, "refused": 2},
        cleared={"whole": 3},
        intended={},
        answered={"whole": 10},
        visible={"whole": 15},
        refused={"refused": 9},
    )
    assert found.hops(["whole", "refused"]) == {
        "risk": [1, 2],
        "compliance": [2],
        "intent": [],
        "venue": [],
        "commit": [5],
    }
    assert found.settled == {"whole": 10, "refused": 9}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m faust -A app.risk --datadir x worker --web-port 1", "risk"),
        ("python -I -S /x/guard.py 1.0 python -m faust -A app.risk worker", SUPERVISOR),
        ("python -m venue --port 1", "venue"),
        ("python -m feed --resume", "feed"),
        ("/x/bin/java -Xms128m kafka.Kafka", KAFKA),
        ("python -m bench.in_tree /x run --exit", SUPERVISOR),
        ("", SUPERVISOR),
    ],
)
def test_a_process_is_known_by_its_command(command: str, expected: str) -> None:
    assert role(command.split()) == expected


def test_a_sample_has_the_time_and_the_memory_of_this_process() -> None:
    found = sample(os.getpid())
    assert found.cpu_seconds[SUPERVISOR] > 0
    assert found.memory_mib[SUPERVISOR] > 10


def test_what_was_used_is_told_of_those_that_lived_all_the_time() -> None:
    samples = [
        Sample(at, {"risk": at / 10, **more}, {}) for at, more in ((0, {}), (10, {}), (20, {"feed": 1.0}))
    ]
    watched = inside(samples, 5, 25)
    assert watched == (samples[1], samples[2])
    assert used(*watched) == {"risk": 1.0}
    assert inside(samples, 15, 25) is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Load(rates=(200,), step=200.0), [200, 400, 600]),
        (Load(rates=(100,), step=1.5, factor=True), [100, 150, 225]),
        (Load(rates=(600, 200, 300), step=50.0), [200, 300, 600]),
    ],
)
def test_rates_rise_by_the_step_or_are_those_named(asked: Load, expected: list[int]) -> None:
    assert list(islice(rates(asked), 3)) == expected


def test_twice_the_rate_takes_about_twice_the_speed() -> None:
    assert speed(20_000, 50.0) / speed(10_000, 50.0) == pytest.approx(2.0, rel=0.2)
    assert speed(10_000, 25.0) == pytest.approx(2 * speed(10_000, 50.0))


def test_a_rate_is_too_much_when_orders_wait_or_the_feed_cannot_send_them() -> None:
    assert stands(CASE, {0: measured(warm=[1_000.0, 1_000.0])})
    assert not stands(CASE, {0: measured(warm=[1_000.0, 2_000.0])})
    assert not stands(CASE, {0: measured(rate=150.0)})


def test_percentiles_are_of_the_orders_of_all_rounds() -> None:
    runs = {0: measured(warm=[1.0] * 50), 1: measured(warm=[101.0] * 50)}
    assert pooled(runs, 50) == pytest.approx(51.0)
    found = figures(CASE, runs)
    assert found["latency_ms_warm"]["p50"] == pytest.approx(51.0)
    assert found["spread"]["p50"] == {"median": 51.0, "min": 1.0, "max": 101.0, "runs": 2}


def test_a_core_does_as_many_orders_as_their_processor_time_allows() -> None:
    found = figures(CASE, {0: measured(cpu_ms={KAFKA: 3.0, "risk": 1.0})})
    assert found["cpu_ms_per_order"] == 4.0
    assert found["orders_per_second_per_core"] == 250.0


def test_trees_are_compared_round_by_round() -> None:
    ours = {0: measured(cpu_ms={KAFKA: 1.0}), 1: measured(cpu_ms={KAFKA: 2.0}), 2: measured()}
    others = {0: measured(cpu_ms={KAFKA: 2.0}), 1: measured(cpu_ms={KAFKA: 4.0})}
    assert ratios(ours, others)["cpu_ms_per_order_of_kafka"] == 0.5
    assert ratios(ours, {})["p50"] is None


def test_figures_fit_into_json_rows() -> None:
    row = Row("pipeline", CASE.name, "exactly_once", figures(CASE, {0: measured()})).as_json()
    assert (row["partitions"], row["rate"], row["tree"]) == (8, 200, str(THIS_TREE))


def test_the_rows_of_another_checkout_are_marked() -> None:
    assert Case(Path("/x/before"), 8, 200).name == CASE.name + ", tree before"


def test_options_of_the_pipeline(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").touch()
    assert load(options()) == Load([8], [200])
    given = options(
        "--partitions=1,64", "--rate=200,400", "--seconds=30", f"--tree={tmp_path}", "--curve=x1.5"
    )
    assert load(given) == Load([1, 64], [200, 400], 30.0, tmp_path, 1.5, True)
    assert load(options("--curve")).step == 200.0


@pytest.mark.parametrize(
    "wrong",
    [
        "--partitions=3",
        "--rate=0",
        "--rate=many",
        "--tree=/",
        f"--tree={THIS_TREE}",
        "--curve=0",
        "--curve=x1",
        "--curve=up",
    ],
)
def test_options_that_cannot_be_are_refused_with_what_is_allowed(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options(wrong)
    assert ("allowed is" in (told := capsys.readouterr().err)) or "no checkout" in told


def test_a_checkout_runs_its_own_app(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "__main__.py").write_text(
        "import os, sys, app\nprint(app.__file__, os.getcwd(), *sys.argv[1:])\n"
    )
    command = [sys.executable, "-m", "bench.in_tree", str(tmp_path), "run", "--exit"]
    with child("app", command, tmp_path / "log") as process:
        process.finish(30)
    told = process.log.read_text().split()
    assert told == [str(tmp_path / "app" / "__init__.py"), str(tmp_path), "run", "--exit"]
