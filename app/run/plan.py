"""What a run is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run, and where.

    `workers` by service. `embedded`: with a Kafka of our own, unless KAFKA_BOOTSTRAP names another, and with
    the venue; otherwise both are somebody else's. `port` is Kafka's; None takes 9092 or a free one.
    """

    data_dir: Path
    workers: Mapping[str, int]
    embedded: bool = True
    partitions: int | None = None
    port: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `run` was asked for. `exit`: end when all is quiet; `json` is where the result goes then."""

    plan: Plan
    orders: int | None
    speed: str
    seed: int | None
    exit: bool
    json: Path | None
    requests: int | None = None
