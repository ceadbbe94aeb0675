"""The command that shows KAFKA-20734: what it runs, counts and prints."""

from pathlib import Path

import pytest

from app.errors import UserError
from scripts import kafka_20734
from scripts.kafka_20734 import HEAD, Row, doubled, last_error, line, make_parser, releases, without_markers


def test_each_output_of_an_id_beside_the_first_is_a_doubled_one() -> None:
    assert doubled([]) == 0
    assert doubled(["a", "b", "c"]) == 0
    assert doubled(["a", "b", "a", "a", "b"]) == 3


def test_a_transaction_without_its_markers_is_one_line_of_kafkas_log() -> None:
    log = (
        "INFO Couldn't find leader endpoint for partitions Set(out-1) while trying to send transaction "
        "markers for sum-1, these partitions are likely deleted already and hence can be skipped (kafka)\n"
        "INFO [TransactionCoordinator id=1] Node disconnected\n"
    )
    assert without_markers("") == 0
    assert without_markers(log + log) == 2


def test_what_ended_the_worker_is_its_last_error() -> None:
    assert last_error("starting\nready\n") == ""
    assert last_error("error: one\nmore\nerror: OffsetsLost\nbye\n") == "error: OffsetsLost"


def test_the_table_has_a_line_for_each_release() -> None:
    head, row = line(HEAD), line(Row("4.3.0", 6, 9_350, 37, 12, "error: it stands still"))
    assert row.split()[:5] == ["4.3.0", "6", "9350", "37", "12"]
    assert row.endswith("error: it stands still")
    for name, value in (("outputs", "9350"), ("doubled outputs", "37"), ("markers", "12")):
        assert head.index(name) + len(name) == row.index(value) + len(value), "each is below its name"


def test_without_directories_it_takes_the_two_releases_that_are_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_20734, "kafka_classpath", lambda version: f"jars of {version}")
    assert releases([]) == {"4.0.2": "jars of 4.0.2", "4.3.0": "jars of 4.3.0"}


def test_other_releases_are_directories_of_jars(tmp_path: Path) -> None:
    (tmp_path / "b.jar").touch()
    (tmp_path / "a.jar").touch()
    (tmp_path / "NOTICE").touch()
    options = make_parser().parse_args(["--jars", str(tmp_path)])
    assert releases(options.jars) == {str(tmp_path): f"{tmp_path}/a.jar:{tmp_path}/b.jar"}
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no jars"):
        releases([empty])
