"""What can go wrong inside the engine, and what the engine does about it.

EngineError
├── Poison            raised by a handler: this record can never succeed; dead-letter it at once
├── Transient         raised by a handler: try again later, without limit, nothing is lost
├── NewerRelease      raised by a codec: a newer release wrote this; the partition waits for such a build
├── Fenced            another worker owns the task now: drop everything, write nothing, stop
└── CannotGoOn        the books would be wrong: the worker stops, and a person looks
    ├── PositionGap       a batch does not begin where the task's last one ended
    ├── ChangelogMismatch the local table and its changelog cannot belong together
    ├── OffsetsLost       the group has no offsets of an input, though it has begun: all would count twice
    └── StoreFailed       the local tables cannot be read or written
        ├── StoreFull         for want of room: they are opened and restored again when there is some
        └── StoreDamaged      their files are damaged: they are moved aside and restored
"""


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

    Never the record's fault: nothing is lost or buried, whoever needs it waits for a newer build. `what` is
    the type or the table, `version` the one found, `known` the newest that this build can read, 0 for none.
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


class Fenced(EngineError):
    """Another producer with this task's transactional id has been initialised: the task lives elsewhere."""


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
