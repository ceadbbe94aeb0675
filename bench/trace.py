"""When each order was where, by what the log and Kafka's own files say after a run; in ms of epoch.

The topics of orders and decisions have the broker's clock; a changelog record has its worker's, on the same
machine. A record of a transaction is visible to others from its commit marker on. librdkafka shows no
markers, so they are read from the broker's log files.
"""

import json
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.kafka import Cluster

HOPS = ("risk", "compliance", "intent", "venue", "commit")
"""What each ends with: two decisions, the intent's changelog record, the first execution, its marker."""

BATCH = struct.Struct(">qiibIhiqqqhii")
"""The head of a record batch, from its first offset to its number of records (KIP-98)."""

BATCH_LENGTH_FROM = 12
CONTROL = 0x20
TRANSACTION_STATUS = struct.Struct(">hqhib")
"""The start of a value of `__transaction_state`, up to the status."""

COMPLETE_COMMIT = 4


class Trace(NamedTuple):
    """Times by order. `refused` are those that risk or compliance refused, at their refusal."""

    came: Mapping[str, float]
    approved: Mapping[str, float]
    cleared: Mapping[str, float]
    intended: Mapping[str, float]
    answered: Mapping[str, float]
    visible: Mapping[str, float]
    refused: Mapping[str, float]

    @property
    def settled(self) -> dict[str, float]:
        """When each order was refused, or had the venue's first answer."""
        return {**self.refused, **self.answered}

    def hops(self, orders: Iterable[str]) -> dict[str, list[float]]:
        """How long each hop took, of those orders that have both its ends."""
        ways = (self.came, self.approved, self.cleared, self.intended, self.answered, self.visible)
        found: dict[str, list[float]] = {hop: [] for hop in HOPS}
        for order in orders:
            for hop, begin, end in zip(HOPS, ways[:-1], ways[1:], strict=True):
                if order in begin and order in end:
                    found[hop].append(end[order] - begin[order])
        return found


def trace(cluster: Cluster, broker_dir: Path) -> Trace:
    """Read the whole log of a pipeline whose orders have all ended."""
    risk, compliance = (_decided(cluster, f"{service}-decisions") for service in ("risk", "compliance"))
    answered, visible = _answers(cluster, broker_dir)
    return Trace(
        came=first_ms(_orders(cluster)),
        approved=risk[0],
        cleared=compliance[0],
        intended=first_ms(
            (message.key().decode().partition("/")[2], message.timestamp()[1])
            for message in cluster.messages("exchange-intents-changelog")
        ),
        answered=answered,
        visible=visible,
        refused=compliance[1] | risk[1],
    )


def first_ms(seen: Iterable[tuple[str, float]]) -> dict[str, float]:
    """When each order was first seen."""
    first: dict[str, float] = {}
    for order, at in seen:
        first[order] = min(at, first.get(order, at))
    return first


def transactions(cluster: Cluster, began_ms: float, ended_ms: float) -> dict[str, int]:
    """How many transactions Kafka completed in this span, by service; their ids begin with its name."""
    counts: Counter[str] = Counter()
    for message in cluster.messages("__transaction_state"):
        key, value, at = message.key(), message.value(), message.timestamp()[1]
        if value is None or not began_ms <= at <= ended_ms:
            continue
        if TRANSACTION_STATUS.unpack_from(value)[-1] == COMPLETE_COMMIT:
            (length,) = struct.unpack_from(">h", key, 2)
            counts[key[4 : 4 + length].decode().partition("-")[0]] += 1
    return dict(counts)


class Commit(NamedTuple):
    """The records of a partition from `first` to `last`, and when they became visible."""

    first: int
    last: int
    at_ms: float


def commits(log: bytes) -> Iterator[Commit]:
    """The batches of a partition's log that are committed in it."""
    open_batches: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    position = 0
    while position + BATCH.size <= len(log):
        first, length, _, _, _, attributes, last_delta, _, max_ms, producer, *_ = BATCH.unpack_from(
            log, position
        )
        position += BATCH_LENGTH_FROM + length
        if attributes & CONTROL:
            yield from (Commit(*batch, max_ms) for batch in open_batches.pop(producer, ()))
        else:
            open_batches[producer].append((first, first + last_delta))


def _answers(cluster: Cluster, broker_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """When each order had its first execution, and when that became visible."""
    marked = {
        (int(partition.name.rpartition("-")[2]), offset): commit.at_ms
        for partition in broker_dir.rglob("executions-*/")
        for commit in commits(b"".join(each.read_bytes() for each in sorted(partition.glob("*.log"))))
        for offset in range(commit.first, commit.last + 1)
    }
    answered: dict[str, float] = {}
    visible: dict[str, float] = {}
    for message in cluster.messages("executions"):
        order, at = _correlated(message), message.timestamp()[1]
        if at < answered.get(order, float("inf")):
            answered[order] = at
            visible[order] = marked[message.partition(), message.offset()]
    return answered, visible


def _decided(cluster: Cluster, topic: str) -> tuple[dict[str, float], dict[str, float]]:
    """When each order was approved, and when refused."""
    seen: dict[bool, list[tuple[str, float]]] = {True: [], False: []}
    for message in cluster.messages(topic):
        seen[_header(message, "event-type").endswith("Approved")].append(
            (_correlated(message), message.timestamp()[1])
        )
    return first_ms(seen[True]), first_ms(seen[False])


def _orders(cluster: Cluster) -> Iterator[tuple[str, float]]:
    for message in cluster.messages("orders"):
        with suppress(ValueError, TypeError, KeyError, RecursionError):  # one of the accounts sends garbage
            order = json.loads(message.value())["order_id"]
            if isinstance(order, str):
                yield order, message.timestamp()[1]


def _correlated(message: Any) -> str:
    return _header(message, "correlation-id")


def _header(message: Any, name: str) -> str:
    value: bytes = dict(message.headers() or ())[name]
    return value.decode()
