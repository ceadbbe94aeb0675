"""Files of reference data: every error with its line and field, all of a file or nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import UserError
from app.operators.refdata_files import BadFile, read_file
from app.operators.refdata_kinds import KINDS, in_words, to_ms
from feed.demo import DEMO, instruments, set_counterparties
from models.commands import SetAccount, SetInstrument

Write = Callable[[str, str | bytes], Path]
HEADING = "symbol,base,currency,tick,lot"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def faults(path: Path) -> list[tuple[int, str, str]]:
    with pytest.raises(BadFile) as bad:
        read_file(path)
    assert str(bad.value).count("\n") == len(bad.value.faults)
    return [tuple(each) for each in sorted(bad.value.faults)]  # type: ignore[misc]


def only_fault(path: Path) -> tuple[int, str, str]:
    (fault,) = faults(path)
    return fault


# -- what can be read --------------------------------------------------------------------------------------


def test_the_demo_has_two_instruments_and_counterparties() -> None:
    assert set(instruments()) == {"BTC-USD", "ETH-USD"}
    assert str(instruments()["BTC-USD"].lot) == "0.0001"
    assert len(set_counterparties()) == 2
    assert [each.line for each in read_file(DEMO)][:2] == [3, 12]


def test_csv_with_blanks_a_byte_order_mark_and_empty_cells_is_read(write: Write) -> None:
    text = f"\ufeff{HEADING},status,valid_from\r\n\r\nA-B, A ,USD,0.01,1,,2026-01-01T00:00:00+01:00\r\n"
    (entry,) = read_file(write("x.csv", text))
    assert isinstance(entry.command, SetInstrument)
    assert entry.line == 3
    assert entry.command.instrument.base == "A"
    assert entry.command.instrument.valid_from_ms == 1_767_222_000_000


def test_a_file_without_an_ending_is_taken_for_what_it_looks_like(write: Write) -> None:
    account = '{"accounts": [{"account_id": "a", "owner": "o", "firm": "f", "base_currency": "USD"}]}'
    (entry,) = read_file(write("x", account))
    assert isinstance(entry.command, SetAccount)
    assert len(read_file(write("y", f"{HEADING}\nA-B,A,USD,0.01,1\n"))) == 1


def test_numbers_in_json_are_exact(write: Write) -> None:
    text = '{"instruments": [{"symbol":"A","base":"A","currency":"USD","tick":0.1,"lot":1e-1}]}'
    (entry,) = read_file(write("x.json", text))
    assert isinstance(entry.command, SetInstrument)
    assert str(entry.command.instrument.tick) == "0.1"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_shown_can_be_loaded_again(kind: object, write: Write) -> None:
    for entry in read_file(DEMO):
        rows = [{**entry.kind.fields_of(entry.command), "version": 3}]
        (again,) = read_file(write("x.json", json.dumps({entry.kind.name: rows})))
        assert again.command == entry.command
        assert again.based_on == 3


# -- what can't --------------------------------------------------------------------------------------------


def test_every_error_of_a_csv_has_its_line_and_column(write: Write) -> None:
    lines = [
        f"{HEADING},status,valid_until",
        "A-B,A,usd,x,1,foo,2026-01-01T00:00:00",
        'B-B,"A\nB",USD,0,1,,',
        "C-B,A,USD,0.01,0.00001,,",
        "A-B,A,USD,0.01,1,,",
        ",A,USD,0.01,1,,",
        "D,A,USD",
        "A-B,A,USD,0.01,1,,",
    ]
    assert [(line, field) for line, field, _ in faults(write("x.csv", "\n".join(lines)))] == [
        (2, "currency"),
        (2, "status"),
        (2, "tick"),
        (2, "valid_until"),
        (3, "tick"),
        (5, ""),
        (7, "symbol"),
        (8, ""),
        (9, "symbol"),
    ]


def test_an_error_says_what_it_found_and_what_to_do(write: Write) -> None:
    path = write("x.csv", f'{HEADING}\nA-B,A,USD,"0,01",1\n')
    with pytest.raises(BadFile) as bad:
        read_file(path)
    assert str(bad.value).splitlines()[0] == f"1 error in {path}, nothing was sent:"
    line = str(bad.value).splitlines()[1]
    assert line.startswith(f"  {path}:2: tick: '0,01' is refused")
    assert line.endswith("the smallest step of the price, above 0, such as 0.01")


@pytest.mark.parametrize(
    ("heading", "field", "text"),
    [
        (f"{HEADING},tikc", "tikc", "did you mean tick?"),
        ("symbol,base,currency,tick", "lot", "is missing"),
        (f"{HEADING},lot", "lot", "is there twice"),
        (f"{HEADING},account_id", "", "exactly one of these columns"),
        ("name,owner", "", "exactly one of these columns"),
        (HEADING.replace(",", ";"), "", "separate columns by commas"),
    ],
)
def test_a_wrong_heading_is_an_error_of_line_1(write: Write, heading: str, field: str, text: str) -> None:
    line, found, said = only_fault(write("x.csv", f"{heading}\nA-B,A,USD,0.01,1\n"))
    assert (line, found) == (1, field)
    assert text in said


def test_every_error_of_a_json_has_its_line_and_field(write: Write) -> None:
    text = """{
  "instruments": [
    {"symbol": "A", "base": "A",
     "tick": 1.5, "lot": -1, "currency": "USD",
     "multiplier": true,
     "lots": 3,
     "currency": "EUR"}
  ],
  "accounts": [{"account_id": "a"}],
  "counterparties": {},
  "moods": []
}"""
    assert [(line, field) for line, field, _ in faults(write("x.json", text))] == [
        (4, "lot"),
        (5, "multiplier"),
        (6, "lots"),
        (7, "currency"),
        (9, "base_currency"),
        (9, "firm"),
        (9, "owner"),
        (10, "counterparties"),
        (11, "moods"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{\n}", 1),
        ("[]", 1),
        ('{"accounts":\n [,]}', 2),
        ("[" * 100_000, 1),
        ('{"accounts": NaN}', 1),
        ("", 1),
    ],
)
def test_json_that_is_none_is_one_error(write: Write, text: str, line: int) -> None:
    assert only_fault(write("x.json", text))[0] == line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (HEADING.encode(), 1),
        (f"{HEADING}\nA,\xff".encode("latin-1"), 2),
        (f'{HEADING}\n"A'.encode(), 2),
    ],
)
def test_a_csv_that_is_none_is_one_error(write: Write, content: bytes, line: int) -> None:
    assert only_fault(write("x.csv", content))[0] == line


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be read: No such file"):
        read_file(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"can't be read: Is a directory"):
        read_file(tmp_path)


def test_a_version_tells_what_a_file_was_made_from(write: Write) -> None:
    (entry,) = read_file(write("x.csv", f"{HEADING},version\nA,A,USD,0.01,1,7\n"))
    assert entry.based_on == 7
    assert only_fault(write("x.csv", f"{HEADING},version\nA,A,USD,0.01,1,one\n"))[1] == "version"


def test_many_errors_are_cut_off_and_counted(write: Write) -> None:
    with pytest.raises(BadFile, match="and 50 more"):
        read_file(write("x.csv", HEADING + "\nA,A,USD,-1,1" * 100 + "\n"))


@pytest.mark.parametrize("text", ["2026-01-31T08:00:00Z", "2026-01-31T08:00:00.123Z", "1969-12-31T23:00:00Z"])
def test_moments_are_written_as_they_were_read(text: str) -> None:
    assert in_words(to_ms(text)) == text


@pytest.mark.parametrize("text", ["tomorrow", "2026-01-31T08:00:00", "2026-01-31T08:00:00.0001Z", ""])
def test_moments_without_a_zone_or_too_fine_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"zone|no date|finer"):
        to_ms(text)
