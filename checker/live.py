"""Asks workers for the state of their tables: `GET /state` of each."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable

from checker.errors import CheckerError
from checker.invariants.tables import LiveTable

TIMEOUT_S = 60.0


def fetch_live(urls: Iterable[str]) -> list[LiveTable]:
    """The tables of the workers at these base URLs; raises CheckerError when one does not answer."""
    return [table for url in urls for table in _tables_of(f"{url.rstrip('/')}/state")]


def _tables_of(url: str) -> list[LiveTable]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return parse_state(answer.read())
    except (urllib.error.URLError, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise CheckerError(f"{url} does not tell the state of its tables: {error}") from error


def parse_state(body: bytes) -> list[LiveTable]:
    """Read `{"tables": [{table, partition, changelog_topic, offset, count, sha256}]}` (and more)."""
    fields = LiveTable.__dataclass_fields__
    return [LiveTable(**{name: table[name] for name in fields}) for table in json.loads(body)["tables"]]
