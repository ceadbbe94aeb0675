"""What can go wrong inside the engine, and what the engine does about it.

EngineError
├── Poison            raised by a handler: this record can never succeed; dead-letter it at once
├── Transient         raised by a handler: try again later, without limit, nothing is lost
├── NewerRelease      raised by a codec: a newer release wrote this; the partition waits for a newer build
├── WrongPartition    a record lies on another partition than its key's: a dead letter that holds no key
├── KeyTooLong        a record's key is too long to be hashed: a dead letter that holds no key
├── AnswerFailed      the service's answer to a dead letter failed: it goes there without one
├── Fenced            another worker owns the task now: drop everything, write nothing, stop
│   ├── StaleGeneration   the group has moved on; nobody has fenced the producer
│   └── InDoubt           nobody here can know whether the last transaction is committed
├── Misconfigured     nothing is touched until a person has set it right: exit status EXIT_CONFIGURATION
│   ├── TopicMismatch     topics exist that are not what they have to be
│   └── DirectoryInUse    another process works in the data directory
└── CannotGoOn        the books would be wrong: the worker stops, and a person looks
    ├── PositionGap       a batch does not begin where the task's last one ended
    ├── ChangelogMismatch the local table and its changelog cannot belong together
    ├── OffsetsLost       the group has no offsets of an input, though it has begun: all would count twice
    └── StoreFailed       the local tables cannot be read or written
        ├── StoreFull         for want of room: they are opened and restored again when there is some
        └── StoreDamaged      their files are damaged: they are moved aside and restored
"""

from typing import Final

ERROR_CHARS_MAX: Final = 2_000
"""As much of an error's text goes into a dead letter's header, or is kept of a key that is unreadable."""


class EngineError(Exception):
    """Base of the engine's errors."""


class Poison(EngineError):
    """A handler found that its record can never be processed: it becomes a dead letter at once.

    Later records of its key have to wait behind it, unless `holds_key` is False: they do not depend on it.
    """

    def __init__(self, *args: object, holds_key: bool = True) -> None:
        super().__init__(*args)
        self.holds_key = holds_key


class Transient(EngineError):
    """A handler cannot process its record now: its batch comes again, after growing pauses, without limit."""


class NewerRelease(EngineError):
    """A record or a table's value was written by a newer release than this build.

    Never the record's fault: nothing is lost or buried, and whoever needs it waits for a newer build. `what`
    is the type or the table, `version` the one found, `known` the newest that this build can read or 0.
    """

    def __init__(self, what: str, version: int | str, known: int) -> None:
        super().__init__(what, version, known)
        self.what = what
        self.version = version
        self.known = known

    def __str__(self) -> str:
        knows = f"knows up to {self.known}" if self.known else f"does not know {self.what}"
        return (
            f"{self.what} in version {self.version} was written by a newer release; "
            f"this build {knows}: upgrade this one"
        )


class WrongPartition(EngineError):
    """A record does not lie on the partition that Kafka's default partitioner gives its key."""

    def __init__(self, topic: str, key: bytes, right: int, here: int) -> None:
        super().__init__(
            f"the key {key[:64]!r} belongs on partition {right} of {topic}, not on {here}: its sender does "
            "not use Kafka's default partitioner (murmur2). Send it again; librdkafka and kcat need "
            "partitioner=murmur2_random"
        )


class KeyTooLong(EngineError):
    """A record's key is so long that to find its partition would keep the worker from everything else."""


class AnswerFailed(EngineError):
    """What the service does about a dead letter (`App.buried`) failed."""


class Fenced(EngineError):
    """Another producer with this task's transactional id has been initialised: the task lives elsewhere."""


class StaleGeneration(Fenced):
    """The group has moved on: offsets of this generation are refused. Nobody has fenced the producer."""


class InDoubt(Fenced):
    """A commit that was tried more than once, or was refused: it may have taken effect, or not.

    Kafka can tell: once the producer's id is fenced, its transactions are over, and the group's offsets say
    what is committed.
    """


class CannotGoOn(EngineError):
    """Going on would make the books wrong; nothing is lost by stopping."""


class PositionGap(CannotGoOn):
    """Records were skipped or repeated between two batches of a task."""


class ChangelogMismatch(CannotGoOn):
    """The changelog is shorter than what the local table has applied, or its oldest records are gone."""


class OffsetsLost(CannotGoOn):
    """The group's committed offsets, or those of one input, are gone while its tables are not."""


class StoreFailed(CannotGoOn):
    """The local tables cannot be trusted any more. A restart restores them, once their disk is well."""


class StoreFull(StoreFailed):
    """The disk has no room for the local tables."""


class StoreDamaged(StoreFailed):
    """The files of the local tables are not what RocksDB has written."""


EXIT_CONFIGURATION = 2
"""The exit status of a worker that found itself Misconfigured: another start would find the same."""


class Misconfigured(EngineError):
    """What a person has to set right before the worker can start: one line, and nothing was changed."""


class TopicMismatch(Misconfigured):
    """Topics that exist are not what they have to be."""


class DirectoryInUse(Misconfigured):
    """Another process works in this data directory."""
