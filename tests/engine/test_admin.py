"""Topics that exist are compared with what they have to be, and nothing is changed unless all of them fit."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.engine import BROKER_CLOCK, COMPACTED, KEPT, TopicSpec
from app.engine.errors import Misconfigured, TopicMismatch
from app.engine.kafka.admin import Found, Setting, Wanted, compare, describe_mismatch, ensure_topics
from app.engine.state.table import CHANGELOG_CONFIG
from app.topics import TOPICS
from tests.engine.waiting import until

DEFAULTS = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "CreateTime",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "max.message.bytes": "1048588",
    "delete.retention.ms": "86400000",
    "min.insync.replicas": "1",
}
NO_CODEC: Any = None


def key_of(value: Any) -> bytes:
    return bytes(value)


def spec(name: str = "orders", config: Mapping[str, str] = {}, *, keyed: bool = True) -> TopicSpec:
    return TopicSpec(name, NO_CODEC, key_of if keyed else None, config=config)


def there(partitions: int = 8, copies: int = 1, **explicit: str) -> Found:
    """A topic as it is found; configs that are not explicit are the broker's defaults."""
    said = {name.replace("_", "."): value for name, value in explicit.items()}
    defaults = {name: Setting(value, explicit=False) for name, value in DEFAULTS.items()}
    return Found(partitions, copies, defaults | {k: Setting(v, explicit=True) for k, v in said.items()})


def wrong(topic: TopicSpec, found: Found, *, copies: int = 1, **more: Any) -> list[str]:
    plan = compare(Wanted([topic], 8, copies, **more), {topic.name: found})
    return [f"{name}: {what}" for name, what in plan.wrong]


def set_on(topic: TopicSpec, found: Found, *, copies: int = 1) -> Mapping[str, str]:
    plan = compare(Wanted([topic], 8, copies), {topic.name: found})
    assert plan.wrong == []
    return plan.configs.get(topic.name, {})


# -- what is refused


@pytest.mark.parametrize(
    ("topic", "found", "what"),
    [
        (spec(), there(3), "orders: 3 partitions, not 8"),
        (spec(), there(1), "orders: 1 partition, not 8"),
        (spec(), there(cleanup_policy="compact"), "orders: cleanup.policy=compact, not delete"),
        (spec(), there(cleanup_policy="compact,delete"), "orders: cleanup.policy=compact,delete, not delete"),
        (
            spec(config=COMPACTED),
            there(cleanup_policy="delete"),
            "orders: cleanup.policy=delete, not compact",
        ),
        (spec(config=COMPACTED), there(), "orders: cleanup.policy=delete, not compact"),
        (
            spec(config=BROKER_CLOCK),
            there(message_timestamp_type="CreateTime"),
            "orders: message.timestamp.type=CreateTime, not LogAppendTime",
        ),
        (spec(config=KEPT), there(retention_ms="1000"), "orders: retention.ms=1000, not -1"),
        (spec(config=KEPT), there(retention_bytes="1000"), "orders: retention.bytes=1000, not -1"),
    ],
)
def test_what_would_lose_records_or_was_decided_otherwise_is_refused(
    topic: TopicSpec, found: Found, what: str
) -> None:
    assert wrong(topic, found) == [what]


def test_fewer_copies_than_asked_for_are_refused() -> None:
    assert wrong(spec(), there(copies=1, min_insync_replicas="2"), copies=3) == ["orders: 1 copy, not 3"]
    assert wrong(spec(), there(copies=3, min_insync_replicas="1"), copies=3) == [
        "orders: min.insync.replicas=1, not 2"
    ]
    assert wrong(spec(), there(copies=3, min_insync_replicas="3"), copies=3) == []


def test_a_changelog_is_compared_like_every_topic() -> None:
    changelog = TopicSpec("risk-positions-changelog", NO_CODEC, config=CHANGELOG_CONFIG)
    found = there(4, cleanup_policy="delete")
    assert wrong(changelog, found, changelogs=[changelog.name]) == [
        "risk-positions-changelog: 4 partitions, not 8",
        "risk-positions-changelog: cleanup.policy=delete, not compact",
    ]


def test_the_count_of_a_topic_without_keys_is_nobodys_concern() -> None:
    assert wrong(spec("dead-letters", keyed=False), there(1)) == []
    assert wrong(spec("dead-letters", keyed=False), there(1), inputs=["dead-letters"]) == [
        "dead-letters: 1 partition, not 8"
    ]


def test_a_service_with_tables_needs_a_power_of_two() -> None:
    topics = [spec("orders"), spec("executions")]
    wanted = Wanted(topics, 12, 1, ["orders", "executions"], [], stateful=True)
    assert compare(wanted, {"orders": there(12)}).wrong == [
        ("orders", "12 partitions, not a power of two up to 256"),
        ("the setting", "12 partitions, not a power of two"),
    ]
    assert compare(wanted._replace(stateful=False), {"orders": there(12)}).wrong == []
    assert compare(wanted._replace(partitions=16), {"orders": there(16)}).wrong == []


def test_inputs_that_say_their_own_counts_have_to_agree() -> None:
    topics = [TopicSpec("a", NO_CODEC, key_of, 4), TopicSpec("b", NO_CODEC, key_of, 8)]
    ((who, what),) = compare(Wanted(topics, 8, 1, ["a", "b"]), {}).wrong
    assert (who, what) == ("inputs and changelogs", "not of one partition count, a has 4, b has 8")


def test_all_differences_are_in_one_line_and_alike_ones_together() -> None:
    line = describe_mismatch(
        [*((f"t{n}", "1 copy, not 3") for n in range(8)), ("orders", "3 partitions, not 8")]
    )
    assert "t0, t1, t2, t3, t4, t5 and 2 more: 1 copy, not 3; orders: 3 partitions, not 8" in line
    assert "\n" not in line
    assert "nothing was changed" in line


def test_a_count_that_no_tool_can_mend_is_told_as_such() -> None:
    topics = [spec("orders"), spec("executions")]
    wanted = Wanted(topics, 8, 1, ["orders", "executions"], [], stateful=True)
    wrong = compare(wanted, {"orders": there(6), "executions": there(6)}).wrong
    assert wrong == [
        (name, "6 partitions, not a power of two up to 256") for name in ("orders", "executions")
    ]
    assert "begin with new topics" in describe_mismatch(wrong)
    assert "alter them with Kafka's tools" not in describe_mismatch(wrong)


# -- what is accepted, or mended


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        (spec(), there(message_timestamp_type="LogAppendTime")),
        (spec(), there(retention_ms="1000")),
        (spec(config=KEPT), there(retention_ms="-1")),
        (spec(config={"retention.ms": "1000"}), there(retention_ms="-1")),
        (spec(config={"max.message.bytes": "2000"}), there(max_message_bytes="4000")),
    ],
)
def test_what_does_as_well_is_accepted(topic: TopicSpec, found: Found) -> None:
    assert wrong(topic, found) == []
    assert not set_on(topic, found)


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        (spec(config=BROKER_CLOCK), there()),
        (spec(config={"retention.ms": "-1"}), there()),
        (spec(config={"max.message.bytes": "8000000"}), there()),
        (spec(config={"max.message.bytes": "8000000"}), there(max_message_bytes="1000")),
    ],
)
def test_what_nobody_has_decided_otherwise_and_hurts_nothing_is_set(topic: TopicSpec, found: Found) -> None:
    assert set_on(topic, found) == topic.config


def test_topics_of_the_last_release_with_three_copies_get_their_second_copy_in_sync() -> None:
    assert set_on(spec(), there(copies=3), copies=3) == {"min.insync.replicas": "2"}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda each: each.name)
def test_what_we_make_is_what_we_demand(topic: TopicSpec) -> None:
    """With every config explicit, as Kafka shows what was asked for at the creation."""
    for copies in (1, 3):
        (new,) = compare(Wanted([topic], 8, copies), {}).new
        made = {name.replace(".", "_"): value for name, value in new.topic_configs.items()}
        found = there(new.num_partitions, new.replication_factor, **made)
        plan = compare(Wanted([topic], 8, copies), {topic.name: found})
        assert plan == ([], {}, [])


# -- on a real Kafka


class Topics:
    """Topics of a test of its own on the shared broker."""

    def __init__(self, bootstrap: str, admin: AIOKafkaAdminClient) -> None:
        self._bootstrap = bootstrap
        self._admin = admin
        self._mark = uuid4().hex[:8]

    def name(self, name: str) -> str:
        return f"{name}-{self._mark}"

    async def make(self, name: str, partitions: int, **config: str) -> None:
        explicit = {key.replace("_", "."): value for key, value in config.items()}
        await self._admin.create_topics([NewTopic(self.name(name), partitions, 1, topic_configs=explicit)])
        await until(partial(self._exists, name))

    async def _exists(self, name: str) -> bool:
        return name in await self._found()

    async def are(self, **partitions: int) -> None:
        """Wait until these topics are there, of this test's, and no others; a new one takes a moment."""
        wanted = {name.replace("_", "-"): count for name, count in partitions.items()}

        async def there() -> bool:
            return set(await self._found()) >= set(wanted)

        await until(there)
        assert await self._found() == wanted

    async def ensure(self, *topics: TopicSpec, partitions: int = 8, copies: int = 1, **more: Any) -> None:
        named = [
            TopicSpec(self.name(each.name), NO_CODEC, each.key_of, each.partitions, config=each.config)
            for each in topics
        ]
        names = {key: [self.name(each) for each in more.pop(key, ())] for key in ("inputs", "changelogs")}
        await ensure_topics(
            self._bootstrap,
            named,
            partitions=partitions,
            replication_factor=copies,
            client_id="test",
            inputs=names["inputs"],
            changelogs=names["changelogs"],
            **more,
        )

    async def _found(self) -> dict[str, int]:
        return {
            each["topic"].removesuffix(f"-{self._mark}"): len(each["partitions"])
            for each in await self._admin.describe_topics()
            if each["topic"].endswith(self._mark)
        }

    async def config(self, name: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, self.name(name))
        (answer,) = await self._admin.describe_configs([resource])
        return {key: value for key, value, *_ in answer.resources[0][4]}


@pytest.fixture
async def topics(bootstrap: str) -> AsyncIterator[Topics]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    yield Topics(bootstrap, admin)
    await admin.close()


async def test_one_wrong_topic_keeps_all_others_from_being_made_until_the_setting_is_mended(
    topics: Topics,
) -> None:
    await topics.make("orders", 4)
    wanted = (
        spec("orders"),
        spec("executions"),
        TopicSpec("sums-changelog", NO_CODEC, config=CHANGELOG_CONFIG),
    )
    roles: dict[str, Any] = {"inputs": ["orders", "executions"], "changelogs": ["sums-changelog"]}
    with pytest.raises(TopicMismatch, match=r"orders-\w+: 4 partitions, not 8\. ") as refused:
        await topics.ensure(*wanted, **roles)
    assert "\n" not in str(refused.value)
    await topics.are(orders=4)
    await topics.ensure(*wanted, partitions=4, **roles)
    await topics.are(orders=4, executions=4, sums_changelog=4)


async def test_a_comparison_alone_changes_nothing(topics: Topics) -> None:
    await topics.make("orders", 4)
    with pytest.raises(TopicMismatch, match="4 partitions, not 8"):
        await topics.ensure(spec("orders"), spec("executions"), change=False)
    await topics.ensure(spec("orders"), spec("executions"), partitions=4, change=False)
    await topics.are(orders=4)


async def test_a_changelog_that_deletes_is_refused(topics: Topics) -> None:
    await topics.make("sums-changelog", 8, cleanup_policy="delete")
    changelog = TopicSpec("sums-changelog", NO_CODEC, config=CHANGELOG_CONFIG)
    with pytest.raises(TopicMismatch, match=r"sums-changelog-\w+: cleanup.policy=delete, not compact"):
        await topics.ensure(changelog, spec("orders"), changelogs=["sums-changelog"], inputs=["orders"])
    await topics.are(sums_changelog=8)


async def test_a_service_that_has_run_keeps_the_count_that_it_has(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    """What the last release made with another setting, and a new topic beside it."""
    changelog = TopicSpec("sums-changelog", NO_CODEC, config=CHANGELOG_CONFIG)
    roles: dict[str, Any] = {"inputs": ["orders"], "changelogs": ["sums-changelog"]}
    await topics.ensure(spec("orders"), changelog, partitions=4, **roles)
    await topics.are(orders=4, sums_changelog=4)
    await topics.ensure(spec("orders"), changelog, spec("halts"), partitions=8, **roles)
    await topics.are(orders=4, sums_changelog=4, halts=4)
    assert "have 4 partitions: that counts, not 8" in caplog.text


async def test_who_says_so_takes_the_count_that_is_there(topics: Topics) -> None:
    await topics.make("orders", 4)
    await topics.ensure(spec("orders"), spec("executions"), partitions=8, adopt=True)
    await topics.are(orders=4, executions=4)


async def test_a_count_that_tables_cannot_have_is_nobodys_count(topics: Topics) -> None:
    await topics.make("orders", 3)
    with pytest.raises(TopicMismatch, match=r"orders-\w+: 3 partitions, not 8\. "):
        await topics.ensure(spec("orders"), spec("executions"), stateful=True, adopt=True)
    await topics.are(orders=3)


async def test_topics_that_disagree_are_nobodys_count(topics: Topics) -> None:
    await topics.make("orders", 4)
    await topics.make("executions", 2)
    with pytest.raises(TopicMismatch, match=r"4 partitions, not 8; .*2 partitions, not 8"):
        await topics.ensure(spec("orders"), spec("executions"), partitions=8, adopt=True)


async def test_what_was_made_without_a_config_gets_it_and_keeps_its_others(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    await topics.make("orders", 8, retention_ms="123456789")
    orders = spec("orders", {**BROKER_CLOCK, "max.message.bytes": "8000000"})
    await topics.ensure(orders)

    async def is_set() -> bool:
        return (await topics.config("orders"))["message.timestamp.type"] == "LogAppendTime"

    await until(is_set)
    await topics.ensure(orders)
    config = await topics.config("orders")
    assert int(config["max.message.bytes"]) >= 8_000_000
    assert config["retention.ms"] == "123456789"
    (said,) = [each for each in caplog.messages if "was made without it" in each]
    assert said.endswith("now has message.timestamp.type=LogAppendTime")


async def test_what_kafka_will_not_make_is_one_line_and_nothing_is_made(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.kafka.admin.NODES_WAIT_S", 0.1)
    with pytest.raises(Misconfigured, match="Kafka will not make them, and nothing was changed") as refused:
        await topics.ensure(spec("orders"), spec("executions"), copies=3)
    assert "\n" not in str(refused.value)
    with pytest.raises(Misconfigured, match=r"Kafka will not make it, .* retention\.ms"):
        await topics.ensure(spec("orders"), spec("executions", {"retention.ms": "soon"}))
    await topics.are()
