"""Argparse types that several commands share: each refuses in a line that says what is allowed."""

import argparse
from collections.abc import Callable
from pathlib import Path

from app.allowed import PATH_ALLOWED, is_nameable


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number within these bounds."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from {low} to {high:,}")
        return int(text)

    return read


def directory(text: str) -> Path:
    """A path that every process of the pipeline can name."""
    if not text.strip() or not is_nameable(text):
        raise argparse.ArgumentTypeError(f"{text!a}: allowed is {PATH_ALLOWED}")
    return Path(text)


def port_number(text: str) -> int:
    """0 to 65535."""
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; allowed is 0 to 65535")
    return port
