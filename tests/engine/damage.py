"""Real damage to a RocksDB on disk."""

import os
from collections.abc import Callable
from pathlib import Path

GARBAGE = bytes(range(7, 256, 5)) * 4


def _garble(path: Path) -> None:
    """Overwrite the first half of a file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write((GARBAGE * (size // len(GARBAGE) + 1))[: size // 2])


def garbled_tables(path: Path) -> None:
    for each in path.glob("*.sst"):
        _garble(each)


def missing_tables(path: Path) -> None:
    for each in path.glob("*.sst"):
        each.unlink()


def garbled_log(path: Path) -> None:
    for each in path.glob("*.log"):
        _garble(each)


def cut_log(path: Path) -> None:
    for each in path.glob("*.log"):
        os.truncate(each, each.stat().st_size * 2 // 3)


def cut_current(path: Path) -> None:
    os.truncate(path / "CURRENT", 3)


def missing_current(path: Path) -> None:
    (path / "CURRENT").unlink()


def cut_manifest(path: Path) -> None:
    os.truncate(max(path.glob("MANIFEST-*")), 30)


def garbled_manifest(path: Path) -> None:
    _garble(max(path.glob("MANIFEST-*")))


DAMAGES: list[Callable[[Path], None]] = [
    garbled_tables,
    missing_tables,
    garbled_log,
    cut_log,
    cut_current,
    missing_current,
    cut_manifest,
    garbled_manifest,
]
