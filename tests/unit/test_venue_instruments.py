"""The file that lists the venue's instruments: what is taken from it, and the one line that refuses it."""

import json
from pathlib import Path
from typing import Any

import pytest

from venue.errors import StartError
from venue.instruments import read_listing

DEMO = Path(__file__).parents[2] / "feed" / "demo.json"


def a_row(symbol: str = "XYZ-USD", **changed: Any) -> dict[str, Any]:
    return {"symbol": symbol, "base": "XYZ", "currency": "USD", "tick": "0.01", "lot": "1"} | changed


def test_the_demos_file_lists_its_instruments() -> None:
    assert read_listing(DEMO).keys() == {"BTC-USD", "ETH-USD"}
    assert read_listing(DEMO)["ETH-USD"].micros_per_tick_lot == 10


def test_what_is_delisted_is_not_listed_and_other_members_are_not_for_the_venue(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    rows = [a_row(), a_row("OLD-USD", status="delisted"), a_row("NEW-USD", status="halted")]
    file.write_text(json.dumps({"accounts": [1, 2], "instruments": rows}))
    assert read_listing(file).keys() == {"XYZ-USD", "NEW-USD"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "no file of instruments"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `instruments`"),
        ('{"instruments": [1]}', "$.instruments[0]"),
        (
            json.dumps({"instruments": [a_row(), a_row(tick="0")]}),
            "instruments[1].tick: Input should be greater",
        ),
        (json.dumps({"instruments": [a_row(colour="red")]}), "instruments[0].colour: Extra inputs"),
        (json.dumps({"instruments": [a_row(), a_row()]}), "has 'XYZ-USD' more than once"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, text: str | None, told: str
) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(StartError) as refused:
        read_listing(file)
    assert told in str(refused.value)
    assert str(file) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
