"""The release after this one: a copy of these packages with a few more optional fields, made at run time.

Workers and the venue are started from it by `environment`; `EDITS` say what it has that this one has not.
Each anchor has to stand in its file exactly once, so that a change that moves it is noticed at once.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from app.errors import UserError

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("agents", "app", "checker", "cli", "feed", "models", "storm", "tables", "venue")
RELEASE: Final = "next"
"""What the new fields hold."""


class Edit(NamedTuple):
    """Put `text` in the place of `anchor`, which stands once in the file `path`; it adds what is `told`."""

    path: str
    anchor: str
    text: str
    told: str


_FIELD: Final = f'    release: str = "{RELEASE}"\n'


def _with_field(path: str, header: str, told: str, *, changed_header: str | None = None) -> Edit:
    """One more optional field of a class, which everything that makes one fills in."""
    return Edit(path, f"{header}\n", f"{changed_header or header}\n{_FIELD}", told)


EDITS: Final = (
    _with_field("models/events.py", "class OrderRiskApproved(Frozen):", "a field of an event"),
    _with_field("models/events.py", "class VenueReport(Frozen):", "a field of all executions"),
    _with_field(
        "app/domain/risk.py",
        "class AccountRisk(State, frozen=True, omit_defaults=True):",
        "a field of a table value",
        changed_header="class AccountRisk(State, frozen=True, kw_only=True, omit_defaults=False):",
    ),
    Edit(
        "venue/reports.py",
        '        "type": type_name,\n',
        f'        "type": type_name,\n        "release": "{RELEASE}",\n        "settles_on": "T+1",\n',
        "two fields of the venue's reports, one of which the next exchange knows",
    ),
)


def edited(text: str, edit: Edit) -> str:
    """The text of a file with one edit; raises UserError when its anchor does not stand there once."""
    found = text.count(edit.anchor)
    if found != 1:
        raise UserError(
            f"{edit.path} has {edit.anchor.strip()!r} {found} times, not once: storm/release.py adds "
            f"{edit.told} there; give it a new anchor"
        )
    return text.replace(edit.anchor, edit.text)


def make_release(directory: Path, *, root: Path = ROOT, edits: Sequence[Edit] = EDITS) -> Path:
    """Make the next release in a directory, in the place of one that was there; returns the directory."""
    texts: dict[str, str] = {}
    for edit in edits:
        before = texts.get(edit.path) or (root / edit.path).read_text(encoding="utf-8")
        texts[edit.path] = edited(before, edit)
    shutil.rmtree(directory, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(root / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in texts.items():
        (directory / path).write_text(text, encoding="utf-8")
    return directory


def environment(release: Path | None) -> dict[str, str]:
    """What makes a Python process take its modules from a release; {} for the one that runs this."""
    return {} if release is None else {"PYTHONPATH": str(release.absolute()), "PYTHONSAFEPATH": "1"}
