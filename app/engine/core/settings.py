"""What the engine has to know of its surroundings."""

from dataclasses import dataclass

from app.engine.shards import require_shardable
from app.engine.topics import TopicSpec


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine has to know of its surroundings.

    `attempts_max` is how often a record may fail for no transient reason before it is a dead letter;
    `inbox_records_max` and `inbox_bytes_max` bound what a task holds beyond the batch it works on: nothing is
    fetched while one of them is reached. `fetch_bytes_max` bounds what one fetch brings of one partition,
    though a single larger record comes whole. `standby_replicas` is how many other workers, as far as there
    are any, keep a copy of each partition's tables warm. `disk_free_bytes_min` is the room that the tables'
    disk has to have: with less, the worker waits. `stuck_s_max` bounds how long the event loop, or the
    service's code with a batch in its hands, may be stuck before the worker is ended; 0 for ever.
    `commit_interval_s` is how long records gather behind a committed batch, unless the next one is full.
    `partitions` has to be a power of two up to 256: ValueError otherwise.
    """

    bootstrap: str
    dead_letters: TopicSpec
    exactly_once: bool = True
    partitions: int = 8
    replication_factor: int = 1
    transaction_timeout_ms: int = 10_000
    session_timeout_s: float = 6.0
    heartbeat_interval_s: float = 0.1
    batch_records_max: int = 4_000
    inbox_records_max: int = 8_000
    inbox_bytes_max: int = 16 * 1024 * 1024
    fetch_bytes_max: int = 2 * 1024 * 1024
    attempts_max: int = 3
    standby_replicas: int = 1
    disk_free_bytes_min: int = 64 * 1024 * 1024
    stuck_s_max: float = 10.0
    commit_interval_s: float = 0.0

    def __post_init__(self) -> None:
        require_shardable(self.partitions)
