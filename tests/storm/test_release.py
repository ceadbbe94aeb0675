"""The next release, which the storm makes at run time, is this tree with a few more fields."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import UserError
from storm.release import EDITS, PACKAGES, ROOT, Edit, edited, environment, make_release

FIELDS = """
import json
from app.domain.risk import NEW_ACCOUNT
from app.codecs import TableCodec
from app.domain.risk import AccountRisk
from models.events import OrderRiskApproved, TradeExecuted
print(json.dumps({
    "approval": list(OrderRiskApproved.model_fields),
    "trade": list(TradeExecuted.model_fields),
    "account": json.loads(TableCodec("risk.positions", AccountRisk).encode(NEW_ACCOUNT)),
}))
"""


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.told)
def test_every_anchor_stands_once_in_this_tree(edit: Edit) -> None:
    text = (ROOT / edit.path).read_text(encoding="utf-8")

    assert edit.text in edited(text, edit)


@pytest.mark.parametrize("text", ["", "class A:\nclass A:\n"])
def test_an_anchor_that_has_moved_is_said_aloud(text: str) -> None:
    edit = Edit("models/a.py", "class A:\n", "class A:\n    b = 1\n", "a field")

    with pytest.raises(UserError, match=r"models/a\.py has 'class A:' \d times, not once.*a field"):
        edited(text, edit)


def test_nothing_is_made_when_an_anchor_has_moved(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        make_release(tmp_path / "next", edits=[Edit("models/events.py", "class Gone:\n", "", "nothing")])

    assert not (tmp_path / "next").exists()


def test_the_next_release_writes_more_and_changes_nothing_else(tmp_path: Path) -> None:
    made = make_release(make_release(tmp_path / "next"))

    told = _fields(made)

    assert "release" in told["approval"]
    assert "release" in told["trade"]
    assert told["account"]["release"] == "next"
    assert "release" not in _fields(None)["approval"]
    changed = {
        str(path.relative_to(made))
        for path in made.rglob("*.py")
        if path.read_bytes() != (ROOT / path.relative_to(made)).read_bytes()
    }
    assert changed == {edit.path for edit in EDITS}
    assert {path.name for path in made.iterdir()} == set(PACKAGES)


def _fields(release: Path | None) -> Any:
    """What a process of that release writes."""
    ended = subprocess.run(
        [sys.executable, "-c", FIELDS],
        env={**os.environ, **environment(release)},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ended.stdout)
