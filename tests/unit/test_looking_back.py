"""Limits by time, an account as it was, and what `state` and `whatif` are asked and print."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.domain.books import Logged, in_order
from app.domain.limit_history import Answered, Commanded, Garbled, Gone, limit_history
from app.domain.timeline import AsOf, Timeline
from app.errors import UserError
from app.operators.moments import when
from app.operators.state import show as show_state
from app.operators.state import state_at
from app.operators.whatif import NOT_SIMULATED, judge, read_changes
from app.operators.whatif import show as show_whatif
from app.topics import DEAD_LETTERS, EXECUTIONS
from checker.lenient import LogRecord
from cli import main as cli
from models.events import CommandAnswered
from tests.builders import PRICE_TICKS, a_fill, acknowledged, an_approval, an_order, limits
from tests.lookback import Floor, read


@pytest.fixture
def floor(monkeypatch: pytest.MonkeyPatch) -> Floor:
    found = Floor(monkeypatch)
    found.limit("a")
    return found


def an_answer(at_ms: int, id_: str, version: int | None, *, accepted: bool = True) -> Answered:
    answer = CommandAnswered(
        command="SetRiskLimits", subject="acc-1", version=version, accepted=accepted, who="ann", why="a test"
    )
    return Answered(at_ms, id_, answer)


def history(*what: Commanded | Answered, answers_cut: bool = False) -> Timeline[Any]:
    return limit_history(
        "acc-1",
        [each for each in what if isinstance(each, Commanded)],
        [each for each in what if isinstance(each, Answered)],
        answers_cut=answers_cut,
    )


# limits by time


def test_limits_count_from_their_answer_on() -> None:
    first, second = limits(version=1), limits(version=2)
    found = history(
        Commanded(10, "i", first), an_answer(15, "i", 1), Commanded(20, "j", second), an_answer(25, "j", 2)
    )
    assert [found.at(ms) for ms in (14, 15, 24, 25)] == [None, first, first, second]


def test_a_refused_or_unanswered_command_changes_nothing() -> None:
    first = limits(version=5)
    found = history(
        Commanded(10, "i", first),
        an_answer(15, "i", 5),
        Commanded(20, "j", limits(version=4)),
        an_answer(25, "j", 4, accepted=False),
        Commanded(30, "k", limits(version=6)),
    )
    assert found.at(100) == first


def test_a_kill_switch_takes_under_an_old_version_and_a_removal_removes() -> None:
    found = history(
        Commanded(10, "i", limits(version=5)),
        an_answer(15, "i", 5),
        Commanded(20, "j", limits(version=5, kill_switch=True, open_orders_max=0)),
        an_answer(25, "j", 5),
        Commanded(30, "k", None),
        an_answer(35, "k", None),
    )
    assert found.at(25) == limits(version=5, kill_switch=True)
    assert found.at(35) is None


def test_a_garbled_command_may_kill() -> None:
    garbled = Garbled(b'{"kill_switch": true', "no JSON")
    found = history(Commanded(10, "i", limits(version=5)), an_answer(15, "i", 5), Commanded(20, "j", garbled))
    assert found.at(20) == limits(version=5, kill_switch=True)


def test_limits_that_are_compacted_away_are_gone_until_newer_ones_come() -> None:
    newer = limits(version=3)
    found = history(
        an_answer(15, "i", 1),
        an_answer(17, "j", None),
        an_answer(25, "k", 2),
        Commanded(30, "l", newer),
        an_answer(35, "l", 3),
    )
    assert found.at(15) == Gone(1, "ann", "a test")
    assert found.at(17) is None
    assert found.at(25) == Gone(2, "ann", "a test")
    assert found.at(35) == newer


def test_where_answers_are_lost_commands_count_from_their_own_time() -> None:
    first = limits(version=1)
    assert history(Commanded(10, "i", first)).at(100) is None
    assert history(Commanded(10, "i", first), answers_cut=True).at(10) == first


# values by time, and the order of the log


def test_a_timeline_tells_what_was_when() -> None:
    line = Timeline([(20, "b"), (10, "a")])
    assert [line.at(ms) for ms in (9, 10, 19, 20)] == [None, "a", "a", "b"]
    assert list(line.changes(10, 20)) == [20]
    then = AsOf({"x": line, "y": Timeline([(30, "c")])}, 15, {"z": "d"})
    assert dict(then) == {"x": "a", "z": "d"}
    assert len(then) == 2
    with pytest.raises(KeyError):
        then["y"]


def test_reports_come_before_a_decision_of_their_millisecond_but_after_their_own() -> None:
    first = Logged(5, an_approval(an_order(order_id="o-1")))
    second = Logged(5, an_approval(an_order(order_id="o-2", sequence=2)))
    reports = [
        Logged(5, acknowledged(venue_sequence=1)),
        Logged(5, acknowledged(order_id="o-2", venue_sequence=2)),
        Logged(6, a_fill(10, 0, venue_sequence=3)),
    ]
    assert list(in_order([first, second], reports)) == [first, reports[0], second, *reports[1:]]


# an account as it was


def test_an_account_is_told_as_it_was_at_a_time(floor: Floor, capsys: pytest.CaptureFixture[str]) -> None:
    order_id = floor.order("a", 10)
    floor.fill(order_id, 4)
    floor.replace(order_id, 12, PRICE_TICKS + 5)
    at_ms = floor.pipeline.now_ms
    floor.pipeline.wait(500)
    floor.pipeline.tick(PRICE_TICKS + 100)
    floor.fill(order_id, 6)
    found = read(floor.pipeline, "a")
    then, now = state_at(found, "a", at_ms), state_at(found, "a", floor.pipeline.now_ms)

    (position,) = then.positions
    assert (position["position_lots"], position["average_price_ticks"]) == (4, PRICE_TICKS)
    assert (position["price_ticks"], position["unrealised_micros"]) == (PRICE_TICKS, 0)
    (order,) = then.open_orders
    assert (order["open_lots"], order["quantity_lots"], order["pending"]) == (6, 10, "pending replace")
    assert order["replace"] == {
        "request_id": "a-2",
        "quantity_lots": 12,
        "price_ticks": PRICE_TICKS + 5,
    }
    assert then.limits is not None
    assert (then.limits["position_lots_max"], then.last_sequence) == (60, 2)
    assert then.gross_exposure_micros == 12 * (PRICE_TICKS + 5)
    assert (now.open_orders, now.positions[0]["unrealised_micros"]) == ([], 10 * 100)

    show_state(then, dict(AsOf(found.market.instruments, at_ms)), found.histories["a"].limits.at(at_ms))
    told = " ".join(capsys.readouterr().out.split())
    assert "position_lots_max 60" in told
    assert "a-1" in told


def test_before_everything_there_is_nothing(floor: Floor, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(floor.pipeline, "a")
    before = state_at(found, "a", 0)
    assert (before.positions, before.open_orders, before.limits, before.last_sequence) == ([], [], None, None)
    show_state(before, {}, None)
    assert "every order is refused" in capsys.readouterr().out


def test_limits_that_are_gone_are_said_to_be(floor: Floor) -> None:
    at_ms = floor.pipeline.now_ms
    floor.limit("a", position_lots_max=70)
    del floor.pipeline.records["risk-limits"][0]
    found = read(floor.pipeline, "a")

    assert state_at(found, "a", at_ms).limits is None
    assert "limits of version 1 were in force" in state_at(found, "a", at_ms).notes[0]
    assert state_at(found, "a", floor.pipeline.now_ms).notes == []


def test_dead_letters_of_risk_are_not_booked_and_are_told(floor: Floor) -> None:
    order_id = floor.order("a", 10)
    floor.fill(order_id, 4)
    place = {"service": "risk", "topic": EXECUTIONS.name, "partition": "0", "offset": "1"}
    headers = tuple((f"dead-letter-{name}", text.encode()) for name, text in place.items())
    buried = LogRecord(DEAD_LETTERS.name, 0, 0, floor.pipeline.now_ms, b"a", b"", headers, True)
    floor.pipeline.records[DEAD_LETTERS.name].append(buried)
    then = state_at(read(floor.pipeline, "a"), "a", floor.pipeline.now_ms)

    assert then.positions[0]["position_lots"] == 0
    assert then.notes == ["1 records of the account are dead letters of risk: they are not in these books"]


def test_a_log_that_contradicts_itself_or_cannot_be_read_is_an_error(floor: Floor) -> None:
    order_id = floor.order("a", 10)
    floor.fill(order_id, 4)
    records = floor.pipeline.records[EXECUTIONS.name]
    sound = records[-1]
    claimed = (sound.value or b"").replace(b'"quantity_lots":4', b'"quantity_lots":5')
    records[-1] = msgspec.structs.replace(sound, value=claimed)
    with pytest.raises(UserError, match="executions/0/1: the log contradicts itself"):
        state_at(read(floor.pipeline, "a"), "a", floor.pipeline.now_ms)
    with pytest.raises(UserError, match="account a: the log contradicts itself"):
        judge(read(floor.pipeline), {"*": {"position_lots_max": 1}})
    records[-1] = msgspec.structs.replace(sound, value=b"{")
    with pytest.raises(UserError, match="executions/0/1 cannot be read"):
        read(floor.pipeline, "a")


def test_a_price_that_cannot_be_read_is_left_out(floor: Floor) -> None:
    floor.pipeline.tick(PRICE_TICKS + 100)
    records = floor.pipeline.records["prices"]
    records[-1] = msgspec.structs.replace(records[-1], value=None)
    line = read(floor.pipeline, "a").market.prices["BTC-USD"]
    assert [each.price_ticks for each in line.values] == [PRICE_TICKS]


def test_an_account_that_nobody_knows_is_an_error(floor: Floor) -> None:
    floor.limit("maker-1")
    with pytest.raises(UserError, match="no account 'maker-2' is known; did you mean maker-1"):
        read(floor.pipeline, "maker-2")


# what is asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "wanted is"),
        ('{"a": 5}', "wanted is"),
        ('{"a": {"open_order_max": 5}}', "did you mean open_orders_max"),
        ('{"a": {"version": 5}}', "'version' is no limit"),
        ('{"a": {"open_orders_max": "many"}}', "'many' is refused"),
        ('{"a": {"open_orders_max": -1}}', "a limit is 0 or more"),
    ],
)
def test_a_file_that_changes_no_limits_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "limits.json"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_changes(file)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_changes(tmp_path / "limits.json")


def test_limits_are_changed_by_account(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    file.write_text(json.dumps({"*": {"open_orders_max": 5}, "a": {"kill_switch": True}}))
    assert read_changes(file) == {"*": {"open_orders_max": 5}, "a": {"kill_switch": True}}


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [("1700000000000", 1_700_000_000_000), ("2023-11-14T22:13:20Z", 1_700_000_000_000)],
)
def test_a_time_is_iso_or_milliseconds(text: str, at_ms: int) -> None:
    assert when(text) == at_ms


@pytest.mark.parametrize("text", ["yesterday", "2023-11-14T22:13:20", "-5", "9" * 20])
def test_any_other_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no date and time|does not say its time zone"):
        when(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["state"], "required: --account"),
        (["state", "--account", "a", "--at", "noon"], "'noon' is no date and time"),
        (["whatif"], "required: --limits"),
        (["whatif", "--limits", "f", "--from", "2023-11-14T22:13"], "does not say its time zone"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert said in capsys.readouterr().err


def test_a_stretch_that_ends_before_it_begins_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["whatif", "--limits", "f", "--from", "2000", "--until", "1000"]) == 2
    assert "--from is not before --until" in capsys.readouterr().err


def test_what_differs_is_told_with_what_is_not_simulated(
    floor: Floor, capsys: pytest.CaptureFixture[str]
) -> None:
    floor.order("a", 10)
    found = read(floor.pipeline)
    show_whatif(judge(found, {}))
    assert "no difference" in capsys.readouterr().out
    show_whatif(judge(found, {"a": {"order_quantity_lots_max": 5}}))
    told = capsys.readouterr().out
    assert "otherwise refused: 1 orders, 0 replaces, 0 cancels" in told
    assert "order_too_large" in told
    assert NOT_SIMULATED in told
