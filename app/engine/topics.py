"""Topics as data: name, key, value types, partitions and retention, declared once by the application."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

EVENT_TYPE = "event-type"
SCHEMA_VERSION = "schema-version"
EVENT_ID = "event-id"
CORRELATION_ID = "correlation-id"
TRACEPARENT = "traceparent"


V = TypeVar("V", default=Any)


class Codec(Protocol[V]):
    """How the values of a topic go to bytes and back.

    `decode` raises ValueError with a text for people, or NewerRelease for what a newer release of ours has
    written; it gets b"" for a header that the record lacks.
    """

    def decode(self, event_type: bytes, schema_version: bytes, data: bytes) -> V: ...

    def encode(self, value: V) -> tuple[bytes, bytes, bytes]:
        """Return (event type, schema version, bytes)."""
        ...


@dataclass(frozen=True)
class TopicSpec(Generic[V]):
    """One Kafka topic.

    `key_of` gives the key that a value must have; a record with another key is refused (None: any key).
    `partitions` None means the application's default count. An `edge` topic is written by the outside world:
    what can't be decoded there becomes a dead letter and holds nobody up, while on a topic of our own it also
    quarantines its key, since the records behind it may depend on it. `id_of` gives the identity of a value
    of an edge topic, from which the ids of the events made of it derive. With `tombstones` a record without a
    value reaches the agent, with None as its value, which nobody compares with its key; from a global table
    it removes its key. Without, it is a record that can't be read. What
    `protects` (kill switches, limits, cancels) never waits behind a quarantine and never causes one: all
    records of the topic, or those of the event types that are named.
    """

    name: str
    codec: Codec[V]
    key_of: Callable[[V], bytes] | None = None
    partitions: int | None = None
    edge: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    id_of: Callable[[V], str] | None = None
    tombstones: bool = False
    protects: bool | frozenset[str] = False

    def passes(self, headers: Iterable[tuple[str, bytes | None]]) -> bool:
        """Whether a record with these headers passes quarantines."""
        if isinstance(self.protects, bool):
            return self.protects
        event_type = next((value for name, value in headers if name == EVENT_TYPE), None)
        return event_type is not None and event_type.decode("utf-8", "replace") in self.protects

    def __hash__(self) -> int:
        return hash(self.name)


COMPACTED: Mapping[str, str] = {"cleanup.policy": "compact"}
KEPT: Mapping[str, str] = {"retention.ms": "-1", "retention.bytes": "-1"}
BROKER_CLOCK: Mapping[str, str] = {"message.timestamp.type": "LogAppendTime"}
