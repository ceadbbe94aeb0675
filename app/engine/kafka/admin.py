"""Topics: what exists is compared with what it has to be, before anything is changed.

Kafka and people make topics too, with counts and configs of their own: a changelog that deletes, an input
with three partitions. A service on such topics loses state or never starts, so it refuses all in one line.
What a later release of the app asks for in addition, and is safe on a topic in use, is set here instead.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidReplicationFactorError, TopicAlreadyExistsError

from app.engine.errors import Misconfigured, TopicMismatch
from app.engine.kafka.cluster import RETRIABLE, retry
from app.engine.kafka.protocol import IncrementalAlterConfigs
from app.engine.topics import TopicSpec

log = logging.getLogger(__name__)

COPIES_IN_SYNC = 2
"""How many copies have to have a record before it counts, where there are more; Kafka is content with one."""

NODES_WAIT_S = 10.0
"""How long nodes may take to come up until there are enough for the copies."""

NODES_POLL_S = 0.5
PARTITIONS_MAX = 256
NAMED_MAX = 6
ODD = f"not a power of two up to {PARTITIONS_MAX}"

POLICY = "cleanup.policy"
UNLIMITED = ("retention.ms", "retention.bytes")
"""Where -1 is more than any number."""

AT_LEAST = (*UNLIMITED, "max.message.bytes", "min.insync.replicas", "delete.retention.ms")
"""Configs of which more is as good."""

HARMLESS = ("max.message.bytes", "delete.retention.ms")
"""Of these, more is set even where somebody has asked for less: nothing that is there changes by it."""

EXPLICIT = 1
"""DescribeConfigs' source of what was set for the topic itself; all else is a default."""


class Setting(NamedTuple):
    """A topic's config as it is in force; `explicit` when it was set for this topic."""

    value: str
    explicit: bool


class Found(NamedTuple):
    """A topic that exists; `copies` are those of the partition that has fewest."""

    partitions: int
    copies: int
    config: Mapping[str, Setting]


class Wanted(NamedTuple):
    """What the topics of an app have to be.

    `partitions` is the count for topics that do not say; `inputs` and `changelogs` must all have one count.
    """

    topics: Sequence[TopicSpec]
    partitions: int
    replication_factor: int
    inputs: Collection[str] = ()
    changelogs: Collection[str] = ()
    stateful: bool = False

    def config(self, topic: TopicSpec) -> dict[str, str]:
        """What is said of every topic, then what the app says of this one."""
        durable = self.replication_factor > COPIES_IN_SYNC
        in_sync = {"min.insync.replicas": str(COPIES_IN_SYNC)} if durable else {}
        return {POLICY: "delete", **in_sync, **topic.config}

    def is_counted(self, topic: TopicSpec) -> bool:
        """Whether records are found by their keys, so that the number of partitions matters to somebody."""
        said = topic.partitions is not None or topic.key_of is not None
        return said or topic.name in self.inputs or topic.name in self.changelogs


class Plan(NamedTuple):
    """What to do: refuse what is wrong (name, difference), or else set configs and make what is missing."""

    wrong: Sequence[tuple[str, str]]
    configs: Mapping[str, Mapping[str, str]]
    new: Sequence[NewTopic]


async def ensure_topics(
    bootstrap: str,
    topics: Iterable[TopicSpec],
    *,
    partitions: int,
    replication_factor: int,
    client_id: str,
    inputs: Collection[str] = (),
    changelogs: Collection[str] = (),
    stateful: bool = False,
    adopt: bool = False,
    change: bool = True,
) -> None:
    """Compare, then, if `change`, create what is missing, however long Kafka is away.

    `partitions` is for topics that do not say. A service's `inputs` and `changelogs` must have one count,
    a power of two if it is `stateful`. `adopt` takes the count from the topics that exist, if they agree.
    Raises TopicMismatch, or Misconfigured for what Kafka will not make, before anything is changed.
    """
    wanted = Wanted(tuple(topics), partitions, replication_factor, inputs, changelogs, stateful)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id=client_id)
    await retry(admin.start)
    try:
        found = await retry(partial(_describe, admin, wanted))
        plan = compare(_adopting(wanted, found, always=adopt), found)
        if plan.wrong:
            raise TopicMismatch(describe_mismatch(plan.wrong))
        if plan.new:
            await _require_makeable(admin, plan.new)
        if not change:
            return
        if plan.configs:
            await retry(partial(_configure, admin, plan.configs))
        for topic in plan.new:
            await retry(partial(_create, admin, topic))
    finally:
        await admin.close()


# -- comparing


def _adopting(wanted: Wanted, found: Mapping[str, Found], *, always: bool) -> Wanted:
    """Take the count of what exists instead of the setting's, if a whole set of topics is there, or ours are.

    The count of a service that has run cannot change: there the setting is what is wrong, and harmless.
    """
    counted = [each for each in wanted.topics if each.partitions is None and wanted.is_counted(each)]
    counts = {found[each.name].partitions for each in counted if each.name in found}
    if len(counts) != 1 or counts == {wanted.partitions}:
        return wanted
    has_run = any(name in found for name in wanted.changelogs)
    if not (always or has_run or all(each.name in found for each in counted)):
        return wanted
    (count,) = counts
    if wanted.stateful and not _is_power_of_two(count):
        return wanted
    log.warning("the topics that exist have %s partitions: that counts, not %s", count, wanted.partitions)
    return wanted._replace(partitions=count)


def compare(wanted: Wanted, found: Mapping[str, Found]) -> Plan:
    """What is wrong with `found`, what can be mended, what is to be made."""
    wrong: list[tuple[str, str]] = _wrong_counts(wanted, found)
    configs: dict[str, dict[str, str]] = defaultdict(dict)
    new = []
    for topic in wanted.topics:
        there = found.get(topic.name)
        if there is None:
            new.append(_new(wanted, topic))
            continue
        if there.copies < wanted.replication_factor:
            wrong.append((topic.name, f"{_copies(there.copies)}, not {wanted.replication_factor}"))
        for name, value in wanted.config(topic).items():
            setting = there.config.get(name, Setting("", explicit=False))
            if suffices(name, setting.value, value):
                continue
            if name == POLICY or (setting.explicit and name not in HARMLESS):
                wrong.append((topic.name, f"{name}={setting.value}, not {value}"))
            else:
                configs[topic.name][name] = value
    return Plan(wrong, configs, new)


def _wrong_counts(wanted: Wanted, found: Mapping[str, Found]) -> list[tuple[str, str]]:
    wrong = []
    counts: dict[str, int] = {}
    for topic in wanted.topics:
        count = topic.partitions or wanted.partitions
        there = found.get(topic.name)
        counts[topic.name] = count if there is None else there.partitions
        if there is not None and there.partitions != count and wanted.is_counted(topic):
            wrong.append((topic.name, f"{_partitions(there.partitions)}, not {count}"))
    together = {name: counts[name] for name in (*wanted.inputs, *wanted.changelogs)}
    if not wrong and len(set(together.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in together.items())
        wrong.append(("inputs and changelogs", f"not of one partition count, {shown}"))
    if wanted.stateful:
        odd = {name: count for name, count in together.items() if not _is_power_of_two(count)}
        wrong = [each for each in wrong if each[0] not in odd]
        wrong += [(name, f"{_partitions(count)}, {ODD}") for name, count in odd.items() if name in found]
        if any(name not in found for name in odd):
            wrong.append(("the setting", f"{_partitions(wanted.partitions)}, not a power of two"))
    return wrong


def _is_power_of_two(count: int) -> bool:
    return 0 < count <= PARTITIONS_MAX and not count & (count - 1)


def suffices(name: str, value: str, wanted: str) -> bool:
    """Whether a config's value does what the wanted one would."""
    if name in AT_LEAST:
        return _amount(name, value) >= _amount(name, wanted)
    return set(value.split(",")) == set(wanted.split(","))


def _amount(name: str, value: str) -> float:
    if not value.lstrip("-").isdecimal():
        return -1.0
    return float("inf") if name in UNLIMITED and int(value) < 0 else float(value)


def describe_mismatch(wrong: Iterable[tuple[str, str]]) -> str:
    """The differences in one line, topics with the same one together, and what to do."""
    by_what: dict[str, list[str]] = defaultdict(list)
    for name, what in wrong:
        by_what[what].append(name)
    differences = "; ".join(f"{_named(names)}: {what}" for what, names in by_what.items())
    if any(what.endswith(ODD) for what in by_what):
        return (
            f"topics are not what they have to be, and nothing was changed. {differences}. No tool can alter "
            "this where there are orders: their keys would part from their tables. Let the release that made "
            "them end its orders, then begin with new topics"
        )
    return (
        f"topics are not what they have to be, and nothing was changed. {differences}. Set the app to what "
        "they are, alter them with Kafka's tools, or delete those that are empty, which are then made right"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _partitions(count: int) -> str:
    return "1 partition" if count == 1 else f"{count} partitions"


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"


def _new(wanted: Wanted, topic: TopicSpec) -> NewTopic:
    return NewTopic(
        name=topic.name,
        num_partitions=topic.partitions or wanted.partitions,
        replication_factor=wanted.replication_factor,
        topic_configs=wanted.config(topic),
    )


# -- asking Kafka


async def _describe(admin: AIOKafkaAdminClient, wanted: Wanted) -> dict[str, Found]:
    """Those of the topics that exist."""
    names = {topic.name for topic in wanted.topics}
    there = {each["topic"]: each for each in await admin.describe_topics() if each["topic"] in names}
    for each in there.values():
        _raise(each["error_code"], f"topic {each['topic']} can't be described")
    configs = await _configs(admin, list(there)) if there else {}
    return {
        name: Found(
            len(each["partitions"]),
            min((len(partition["replicas"]) for partition in each["partitions"]), default=0),
            configs[name],
        )
        for name, each in there.items()
    }


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, Setting]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            _raise(code, f"the configuration of topic {name} can't be read: {message}")
            found[name] = {
                entry[0]: Setting(entry[1] or "", explicit=entry[3] == EXPLICIT) for entry in entries
            }
    return found


def _raise(code: int, what: str) -> None:
    """Raise what RETRIABLE names as it is, anything else as Misconfigured."""
    if code:
        error = errors.for_code(code)
        raise error() if error in RETRIABLE else Misconfigured(f"{what} ({error.__name__})")


async def _require_makeable(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    """Have Kafka check all that is to be made, so that not half of it is. Nodes may still be coming up."""
    give_up_at = time.monotonic() + NODES_WAIT_S
    while True:
        refused = await retry(partial(_try_out, admin, topics))
        if not refused:
            return
        await asyncio.sleep(NODES_POLL_S)
        lacking_nodes = all(code == InvalidReplicationFactorError.errno for code, _ in refused.values())
        if not lacking_nodes or time.monotonic() > give_up_at:
            (name, (code, message)), *_ = refused.items()
            raise Misconfigured(
                f"{_named(list(refused))}: Kafka will not make {'it' if len(refused) == 1 else 'them'}, "
                f"and nothing was changed; of {name} it says: {message or errors.for_code(code).__name__}"
            )


async def _try_out(
    admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]
) -> dict[str, tuple[int, str | None]]:
    response = await admin.create_topics(list(topics), validate_only=True)
    refused = {}
    for name, code, *rest in response.topic_errors:
        if (error := errors.for_code(code)) in RETRIABLE:
            raise error()
        if code not in (0, TopicAlreadyExistsError.errno):
            refused[name] = (code, rest[0] if rest else None)
    return refused


async def _configure(admin: AIOKafkaAdminClient, configs: Mapping[str, Mapping[str, str]]) -> None:
    send: Callable[[Any], Any] = admin._send_request
    response = await send(IncrementalAlterConfigs(configs))
    for code, message, _, name in response.responses:
        asked = ", ".join(f"{key}={value}" for key, value in configs[name].items())
        _raise(code, f"topic {name} has to have {asked}, and Kafka refuses to set it: {message}")
        log.warning("topic %s was made without it and now has %s", name, asked)


async def _create(admin: AIOKafkaAdminClient, topic: NewTopic) -> None:
    response = await admin.create_topics([topic])
    for name, code, *rest in response.topic_errors:
        if (error := errors.for_code(code)) in RETRIABLE:
            raise error()
        if code not in (0, TopicAlreadyExistsError.errno):
            raise Misconfigured(f"topic {name} cannot be created: {rest[0] if rest else error.__name__}")
    log.info("created topic %s, %s partitions", topic.name, topic.num_partitions)
