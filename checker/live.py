"""Asks workers for the state of their tables: `GET /state` of each."""

import json
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Any

from checker.errors import CheckerError
from checker.invariants.tables import LiveTable, lagging

TIMEOUT_S = 60.0
STANDBYS_S_MAX = 10.0
LOOK_AGAIN_S = 0.2


def fetch_live(urls: Iterable[str]) -> list[LiveTable]:
    """The tables of the workers at these base URLs; raises CheckerError when one does not answer."""
    return [table for url in urls for table in _tables_of(f"{url.rstrip('/')}/state")]


def fetch_resting(urls: Sequence[str]) -> list[LiveTable]:
    """The same where nothing moves any more: waits a while for standbys that are still catching up."""
    give_up_at = time.monotonic() + STANDBYS_S_MAX
    while lagging(tables := fetch_live(urls)) and time.monotonic() < give_up_at:
        time.sleep(LOOK_AGAIN_S)
    return tables


def _tables_of(url: str) -> list[LiveTable]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return parse_state(answer.read())
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise CheckerError(f"{url} does not tell the state of its tables: {error}") from error


def parse_state(body: bytes) -> list[LiveTable]:
    """Read `{"tables": [{table, partition, changelog_topic, offset, count, sha256}], "standbys": [...]}`."""
    state = json.loads(body)
    standbys = [_table_of(fields, standby=True) for fields in state.get("standbys", ())]
    return [_table_of(fields, standby=False) for fields in state["tables"]] + standbys


def _table_of(fields: Mapping[str, Any], *, standby: bool) -> LiveTable:
    names = LiveTable.__dataclass_fields__.keys() - {"standby"}
    return LiveTable(**{name: fields[name] for name in names}, standby=standby)
