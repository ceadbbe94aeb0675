"""What can be told of the operators' commands without Kafka: options, limits in units, lines of answers."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.kafka.cluster import TP, Fetched
from app.errors import UserError
from app.operators.answers import line_of, status_of
from app.operators.desk import VERSION_MAX, Desk, Unreadable, _decoded, next_version, record_of
from app.operators.limit_values import NAMES, changed, read_values, shown
from app.topics import COMMAND_ANSWERS, HALTS, OPERATOR_COMMANDS
from cli import main as cli
from feed.history import _value
from models.commands import SetHalt, SetRiskLimits
from models.events import CommandAnswered
from tests.builders import limits

Headers = tuple[tuple[str, bytes | None], ...]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("order_age_ms_max=45s", 45_000),
        ("order_age_ms_max=2min", 120_000),
        ("order_age_ms_max=250 ms", 250),
        ("price_collar_bps=2.5%", 250),
        ("price_collar_bps=7bps", 7),
        ("order_notional_micros_max=700USD", 700_000_000),
        ("gross_exposure_micros_max=1_000.5 USD", 1_000_500_000),
        ("open_orders_max=1_000", "1_000"),
    ],
)
def test_a_unit_behind_a_number_is_the_one_meant(text: str, value: object) -> None:
    assert read_values([text], "USD") == {text.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("order_age_ms_max=45h", "'h' is no unit of it; known: ms, s, min"),
        ("order_notional_micros_max=700EUR", "'EUR' is no unit of it; known: USD"),
        ("position_lots_max=5BTC", "known: none, a plain number is meant"),
        ("price_collar_bps=0.001%", "no whole number"),
        ("open_order_max=3", "did you mean open_orders_max"),
        ("who=ann", "'who' is no limit"),
    ],
)
def test_a_unit_or_name_that_is_none_is_refused_with_those_that_are(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_values([text], "USD")


def test_without_a_registered_account_no_currency_is_known() -> None:
    with pytest.raises(UserError, match="the account is not registered"):
        read_values(["order_notional_micros_max=700USD"], None)


@pytest.mark.parametrize("text", ["order_quantity_lots_max=-5", "open_orders_max=-1", "price_age_ms_max=-1"])
def test_a_negative_limit_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a limit is 0 or more"):
        changed(limits(version=7), "acc-1", read_values([text], "USD"))


def test_what_is_not_named_stays() -> None:
    after = changed(limits(version=7), "acc-1", {"open_orders_max": "3", "kill_switch": "on"})
    assert after == limits(version=0, open_orders_max=3, kill_switch=True)


def test_a_new_account_needs_all_limits_and_those_missing_are_named() -> None:
    with pytest.raises(UserError, match="missing: order_quantity_lots_max, order_notional_micros_max"):
        changed(None, "acc-1", {"open_orders_max": "3"})


def test_limits_are_shown_with_what_they_mean() -> None:
    told = {name: shown(name, limits(), "USD") for name in NAMES}
    assert told["price_age_ms_max"] == "5000 (5 s)"
    assert told["price_collar_bps"] == "500 (5 %)"
    assert told["order_notional_micros_max"] == "1000000000 (1,000.00 USD)"
    assert told["open_orders_max"] == "20"
    assert shown("kill_switch", limits(kill_switch=True), "USD") == "on"


def test_every_field_of_the_limits_is_a_limit_or_says_whose_they_are() -> None:
    assert set(SetRiskLimits.model_fields) - set(NAMES) == {"account_id", "version", "who", "why"}


def test_a_command_is_written_with_the_headers_its_topic_wants() -> None:
    halt = SetHalt(scope="*", halted=True, version=3, who="ann", why="a test")
    value, headers = record_of(OPERATOR_COMMANDS, halt, "an-id")
    assert SetHalt.model_validate_json(value) == halt
    assert dict(headers) == {
        "event-type": b"SetHalt",
        "schema-version": b"1",
        "event-id": b"an-id",
        "correlation-id": b"an-id",
    }


class Answers:
    """In the place of Kafka: what stands on `command-answers`."""

    def __init__(self, *headers: Headers) -> None:
        answer = CommandAnswered(command="SetHalt", subject="*", version=3, accepted=True)
        kind, version, value = COMMAND_ANSWERS.codec.encode(answer)
        known = (("event-type", kind), ("schema-version", version))
        self._records: list[Any] = [SimpleNamespace(headers=(*known, *each), value=value) for each in headers]

    async def fetch_from_one(self, positions: dict[TP, int], **_: Any) -> list[Fetched]:
        (tp,) = positions
        return [Fetched(tp, 0, len(self._records), len(self._records), self._records)]


async def test_an_answer_to_a_command_without_an_id_is_nobodys_and_breaks_nothing() -> None:
    """A client may write a header without a value, which its answer has again."""
    desk: Any = Desk("nowhere:1")
    desk._cluster = Answers((("correlation-id", None),), (), (("correlation-id", b"ours"),))
    found: dict[str, CommandAnswered] = {}
    await desk._await_answers({"ours"}, {TP("command-answers", 0): 0}, found)
    assert list(found) == ["ours"]


def test_headers_without_a_value_make_a_record_unreadable_and_no_more() -> None:
    record = SimpleNamespace(headers=(("event-type", None), ("schema-version", None)), value=b"{}")
    assert isinstance(_decoded(HALTS, record), Unreadable)
    assert _value(HALTS, record) is None


def test_an_answer_is_a_line_and_a_refusal_is_status_1() -> None:
    accepted = CommandAnswered(command="SetHalt", subject="*", version=3, accepted=True)
    refused = CommandAnswered(command="SetHalt", subject="*", version=None, accepted=False, reason="too late")
    assert line_of(accepted, "halted") == "accepted: SetHalt * version 3: halted"
    assert line_of(refused, "halted") == "refused: SetHalt *: too late"
    assert (status_of([accepted]), status_of([accepted, refused])) == (0, 1)


def test_versions_grow_until_there_is_none_above() -> None:
    assert (next_version(None), next_version(7)) == (1, 8)
    with pytest.raises(UserError, match="nothing can follow it"):
        next_version(VERSION_MAX)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["halt"], "the following arguments are required: --why"),
        (["halt", "--why", " "], "allowed is a text of 1 to 1,024 characters"),
        (["halt", "--why", "\udcff"], "allowed is a text of 1 to 1,024 characters"),
        (["halt", "--why", "x", "--wait", "0"], "'0': allowed is a number of seconds above 0"),
        (["halt", "--why", "x", "--bootstrap", "nowhere"], "'nowhere': allowed is host:port"),
        (["halt", "--why", "x", "--bootstrap", "a:1,b:99999"], "'a:1,b:99999': allowed is host:port"),
        (["sequence", "acc-1", "9" * 20, "--why", "x"], "allowed is a whole number from 0 to"),
        (["refdata", "show", "moods"], "invalid choice: 'moods'"),
        (["limits", "set", "acc-1", "--why", "x"], "required: NAME=VALUE"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert said in capsys.readouterr().err


def test_a_name_that_is_no_text_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sequence", "\udcff", "3", "--why", "x"]) == 2
    assert "is no name: a name is a text of 1 to 256 characters" in capsys.readouterr().err
    assert logging.getLogger("aiokafka").level > logging.CRITICAL
