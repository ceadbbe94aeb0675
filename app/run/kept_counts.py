"""What the monitor has counted, in a file: the next run goes on from there and reads no log twice."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from app.engine.kafka.cluster import TP

log = logging.getLogger(__name__)


class Counts(msgspec.Struct, frozen=True):
    """Counts, and the positions up to which they count: {"topic/partition": offset}.

    Dead letters are by "service topic".
    """

    positions: dict[str, int]
    records: dict[str, int]
    events: dict[str, int]
    rejected: dict[str, int]
    dead_letters: dict[str, int]
    filled: int
    venue_sequences: dict[int, int]

    @classmethod
    def of(
        cls, positions: Mapping[TP, int], dead_letters: Mapping[tuple[str, str], int], **counts: Any
    ) -> "Counts":
        """What the monitor has, as it is written."""
        return cls(
            positions={f"{tp.topic}/{tp.partition}": offset for tp, offset in positions.items()},
            dead_letters={f"{service} {topic}": count for (service, topic), count in dead_letters.items()},
            **counts,
        )

    def by_partition(self) -> dict[TP, int]:
        split = {name: name.rpartition("/") for name in self.positions}
        return {TP(split[name][0], int(split[name][2])): offset for name, offset in self.positions.items()}

    def by_origin(self) -> dict[tuple[str, str], int]:
        split = {name: name.partition(" ") for name in self.dead_letters}
        return {(split[name][0], split[name][2]): count for name, count in self.dead_letters.items()}

    def fit(self, starts: Mapping[TP, int], ends: Mapping[TP, int]) -> bool:
        """Whether they can be of this log: the same partitions, read no further than they go."""
        positions = self.by_partition()
        return positions.keys() == starts.keys() and all(
            starts[tp] <= offset <= ends[tp] for tp, offset in positions.items()
        )


def read_counts(path: Path) -> Counts | None:
    """None when there are none, or none that can be read: then the log is counted again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Counts)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, ValueError) as error:
        log.warning("%s can't be read, so the log is counted again: %s", path, error)
        return None


def write_counts(path: Path, counts: Counts) -> None:
    """Raises OSError."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(msgspec.json.encode(counts))
    unfinished.replace(path)
