"""Commands that can't be read: what protects fails closed under every name that may have been meant."""

import json
from typing import Any

import pytest

from app.domain.unread import understand
from models.commands import SetRestriction

ERROR = "ValueError: no JSON"


def closed(command: str, key: bytes | None, value: bytes | None) -> list[tuple[str, str]]:
    return [
        ("restricted", each.symbol) if isinstance(each, SetRestriction) else ("halted", each.scope)
        for each in understand(command, key, value, ERROR).closes
    ]


def a_value(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("value", [None, b"", b"[", b"[" * 100_000, b"17", b'{"symbol": 3}', b"\xff"])
def test_an_unreadable_restriction_restricts_its_key(value: bytes | None) -> None:
    assert closed("SetRestriction", b"BTC-USD", value) == [("restricted", "BTC-USD")]


def test_a_restriction_under_another_key_restricts_both_names() -> None:
    value = a_value(symbol="ETH-USD", restricted=False)
    assert closed("SetRestriction", b"BTC-USD", value) == [
        ("restricted", "BTC-USD"),
        ("restricted", "ETH-USD"),
    ]


def test_without_a_key_the_name_in_the_value_counts() -> None:
    assert closed("SetRestriction", None, a_value(symbol="ETH-USD")) == [("restricted", "ETH-USD")]
    assert closed("SetRestriction", None, b"?") == []


@pytest.mark.parametrize(
    ("told", "key", "value"),
    [
        ("SetHalt", b"acc-1", b"?"),
        ("SetHalt", b"acc-1", a_value(scope="acc-1", halted=True, until="noon")),
        ("", b"acc-1", a_value(scope="acc-1", halted=True)),
        ("SetHold", b"acc-1", a_value(halted=True)),
    ],
)
def test_what_may_have_been_a_halt_halts(told: str, key: bytes, value: bytes) -> None:
    assert closed(told, key, value) == [("halted", "acc-1")]


def test_garbage_under_the_key_of_everybody_halts_everybody() -> None:
    assert closed("", b"*", b"?") == [("halted", "*")]


@pytest.mark.parametrize("told", ["SetInstrument", "SetAccount", "SetCounterparty", "", "SetMood"])
def test_any_other_command_that_cannot_be_read_changes_nothing(told: str) -> None:
    assert closed(told, b"BTC-USD", a_value(instrument={"symbol": "BTC-USD"}, tick=1)) == []


def test_the_answer_tells_what_can_be_told() -> None:
    value = a_value(instrument={"symbol": "ETH-USD"}, version=3, who="ann", why="x" * 5_000, colour="red")
    unread = understand("SetInstrument", None, value, ERROR)
    assert (unread.command, unread.subject, unread.version, unread.who) == (
        "SetInstrument",
        "ETH-USD",
        3,
        "ann",
    )
    assert len(unread.why) <= 1_024


def test_keys_and_names_that_are_no_names_close_nothing_and_break_nothing() -> None:
    assert closed("SetRestriction", b"X" * 65, b"?") == []
    assert closed("SetRestriction", b"", b"?") == []
    assert closed("SetHalt", b"\xff", b"?") == [("halted", "\\xff")]
    assert closed("SetHalt", None, b'{"scope": "\\ud800", "version": true}') == []


def test_the_reason_names_the_error() -> None:
    (closing,) = understand("SetRestriction", b"BTC-USD", b"?", ERROR).closes
    assert closing.why == f"a command could not be read: {ERROR}"
    assert closing.who == "refdata"
