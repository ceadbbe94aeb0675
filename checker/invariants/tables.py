"""I6: a live table, a standby too, = the one rebuilt from its changelog at the same offset, byte for byte.

At rest nothing in the changelog lies beyond that offset.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from checker.findings import Findings

I6 = "I6"


@dataclass(frozen=True)
class LiveTable:
    """What a worker says of one partition of a table, its own or a standby; `offset` is the next to apply."""

    table: str
    partition: int
    changelog_topic: str
    offset: int
    count: int
    sha256: str
    standby: bool = False


class Rebuilt(NamedTuple):
    """The changelog up to the offset of a live table: the last value of each key that is not a tombstone.

    `end` is the changelog's last stable offset, `is_behind` whether there are records from the live table's
    offset on (a transaction's marker is none).
    """

    values: Mapping[bytes, bytes]
    end: int
    is_behind: bool = False


def check_tables(tables: Iterable[tuple[LiveTable, Rebuilt]], *, quiet: bool) -> Findings:
    """Compare live tables with rebuilt ones; `quiet` says that nothing has moved since before they were told.

    A live table behind its changelog's last record can be rebuilt only while nothing was compacted away in
    between: a difference there is noted, not held against it. That it is behind is, once all is quiet.
    """
    found = Findings()
    told = list(tables)
    newest = _newest(live for live, _ in told)
    for live, rebuilt in told:
        whose = "standby of " if live.standby else ""
        identity = f"{whose}{live.changelog_topic}/{live.partition} at {live.offset}"
        if live.offset > rebuilt.end:
            found.violate(I6, "a table is ahead of what is committed in its changelog", identity)
        elif quiet and rebuilt.is_behind and (live.standby or live.offset == newest[_place(live)]):
            found.violate(I6, "a table is behind its changelog though nothing moves", identity)
        elif (live.count, live.sha256) == digest(rebuilt.values):
            continue
        elif rebuilt.is_behind:
            found.skip(I6, "a table differs from its changelog, but is behind its end", identity)
        else:
            found.violate(I6, "a table differs from the one rebuilt from its changelog", identity)
    return found


def lagging(tables: Iterable[LiveTable]) -> list[LiveTable]:
    """The standbys that do not have yet what the tables' owners have."""
    told = list(tables)
    newest = _newest(told)
    return [live for live in told if live.standby and live.offset < newest.get(_place(live), 0)]


def _newest(tables: Iterable[LiveTable]) -> dict[tuple[str, int], int]:
    """The offset of the owner of each table; of two, one has not found out yet that the other took over."""
    newest: dict[tuple[str, int], int] = {}
    for live in tables:
        if not live.standby:
            newest[_place(live)] = max(live.offset, newest.get(_place(live), 0))
    return newest


def _place(live: LiveTable) -> tuple[str, int]:
    return live.changelog_topic, live.partition


def digest(values: Mapping[bytes, bytes]) -> tuple[int, str]:
    """Count and SHA-256 (hex) of the records sorted by key, each part behind its length in four bytes."""
    hashed = sha256()
    for key in sorted(values):
        for part in (key, values[key]):
            hashed.update(len(part).to_bytes(4, "big"))
            hashed.update(part)
    return len(values), hashed.hexdigest()
