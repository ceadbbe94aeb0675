"""Kafka requests that aiokafka lacks, or has too slow, in the versions the engine needs."""

from collections.abc import Mapping, Sized
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.protocol.admin import ApiVersionRequest_v0
from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
    UnsignedVarInt32,
)

TEXT = CompactString("utf-8")
TAGS = ("tags", TaggedFields)


def flexible(*fields: tuple[str, Any]) -> Schema:
    """What a message of a flexible version is made of: these fields, and tags behind them."""
    return Schema(*fields, TAGS)


def rows(*fields: tuple[str, Any]) -> CompactArray:
    """Several of these fields, each with tags behind it."""
    return CompactArray(*fields, TAGS)


def by_topic(partitions: Any) -> tuple[str, CompactArray]:
    """The field `topics`: the name of each, and its partitions."""
    return "topics", rows(("topic", TEXT), ("partitions", partitions))


def answer(key: int, version: int, *fields: tuple[str, Any]) -> type[Response]:
    """The class of an answer of a flexible version."""

    class Answer(Response):  # type: ignore[misc]
        API_KEY = key
        API_VERSION = version
        SCHEMA = flexible(*fields)

    return Answer


class ApiVersionsRequestV3(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 18, 3
    SCHEMA = flexible(("client_software_name", TEXT), ("client_software_version", TEXT))
    RESPONSE_TYPE = answer(
        *(API_KEY, API_VERSION),
        ("error_code", Int16),
        ("api_versions", rows(("api_key", Int16), ("min_version", Int16), ("max_version", Int16))),
        ("throttle_time_ms", Int32),
    )

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> ResponseHeader_v0:
        """Its header is that of the inflexible versions, so that every client can read a refusal."""
        return ResponseHeader_v0.decode(read_buffer)


class ApiVersions(Request[ApiVersionRequest_v0 | ApiVersionsRequestV3]):  # type: ignore[misc]
    """Asks a broker for what it can do; only version 3 tells of features."""

    API_KEY = 18

    def build(
        self, request_struct_class: type[ApiVersionRequest_v0 | ApiVersionsRequestV3]
    ) -> ApiVersionRequest_v0 | ApiVersionsRequestV3:
        if request_struct_class is ApiVersionRequest_v0:
            return request_struct_class()
        return request_struct_class("trading-pipeline", "1", {})


class Abilities(NamedTuple):
    """What a broker can do: the newest version of each request by its key, and the cluster's features."""

    newest: dict[int, int]
    features: dict[str, int]


FINALIZED_FEATURES = 2
_FEATURES = rows(("name", TEXT), ("max_level", Int16), ("min_level", Int16))


def abilities(response: Any) -> Abilities:
    """Read an answer to ApiVersions. The features are those that are finalised: all brokers have them."""
    tags: dict[int, bytes] = getattr(response, "tags", {})
    rows: Any = _FEATURES.decode(BytesIO(tags[FINALIZED_FEATURES])) if FINALIZED_FEATURES in tags else []
    return Abilities(
        {key: newest for key, _, newest, *_ in response.api_versions},
        {name: level for name, level, _, _ in rows},
    )


class InitProducerIdRequestV4(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 22, 4
    SCHEMA = flexible(
        ("transactional_id", TEXT),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
    )
    RESPONSE_TYPE = answer(
        *(API_KEY, API_VERSION),
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
    )


class InitProducerId(Request[InitProducerIdRequestV4]):  # type: ignore[misc]
    """KIP-360: names the current producer id and epoch, so that a stale producer cannot fence its successor.

    With producer id and epoch -1 it is a fresh start, which fences whoever was there.
    """

    API_KEY = 22

    def __init__(self, transactional_id: str, timeout_ms: int, producer_id: int, producer_epoch: int) -> None:
        self._fields: tuple[Any, ...] = (transactional_id, timeout_ms, producer_id, producer_epoch, {})

    def build(self, request_struct_class: type[InitProducerIdRequestV4]) -> InitProducerIdRequestV4:
        return request_struct_class(*self._fields)


class TxnOffsetCommitRequestV3(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 28, 3
    SCHEMA = flexible(
        ("transactional_id", TEXT),
        ("group", TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation", Int32),
        ("member", TEXT),
        ("group_instance", TEXT),
        by_topic(rows(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", TEXT))),
    )
    RESPONSE_TYPE = answer(
        *(API_KEY, API_VERSION),
        ("throttle_time_ms", Int32),
        by_topic(rows(("partition", Int32), ("error_code", Int16))),
    )


class TxnOffsetCommitRequestV5(TxnOffsetCommitRequestV3):
    """Also adds the group to the transaction (KIP-890); the answer is as before."""

    API_VERSION = 5


class TxnOffsetCommit(Request[TxnOffsetCommitRequestV3]):  # type: ignore[misc]
    """KIP-447: puts a group's offsets into a transaction; a member of an older generation is refused.

    `topics` is [(topic, [(partition, offset, metadata)])]. Generation -1 and no member stand for nobody of
    the group, whom it lets pass. `adds`: it adds the group to the transaction too (transaction version 2).
    """

    API_KEY = 28

    def __init__(
        self,
        transactional_id: str,
        group: str,
        producer_id: int,
        producer_epoch: int,
        generation: int,
        member: str,
        topics: list[Any],
        *,
        adds: bool = False,
    ) -> None:
        self.adds = adds
        rows: list[Any] = [
            (topic, [(partition, offset, -1, note, {}) for partition, offset, note in partitions], {})
            for topic, partitions in topics
        ]
        self._fields: tuple[Any, ...] = (
            *(transactional_id, group, producer_id, producer_epoch),
            *(generation, member, None, rows, {}),
        )

    def build(self, request_struct_class: type[TxnOffsetCommitRequestV3]) -> TxnOffsetCommitRequestV3:
        return (TxnOffsetCommitRequestV5 if self.adds else request_struct_class)(*self._fields)


class EndTxnRequestV5(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 26, 5
    SCHEMA = flexible(
        ("transactional_id", TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("transaction_result", Boolean),
    )
    RESPONSE_TYPE = answer(
        *(API_KEY, API_VERSION),
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
    )


class EndTxn(Request[EndTxnRequestV5]):  # type: ignore[misc]
    """KIP-890: ends a transaction; the answer names the producer id and epoch of the next one."""

    API_KEY = 26

    def __init__(self, transactional_id: str, producer_id: int, producer_epoch: int, result: bool) -> None:
        self._fields: tuple[Any, ...] = (transactional_id, producer_id, producer_epoch, result, {})

    def build(self, request_struct_class: type[EndTxnRequestV5]) -> EndTxnRequestV5:
        return request_struct_class(*self._fields)


class OffsetFetchRequestV7(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 9, 7
    SCHEMA = flexible(("group", TEXT), by_topic(CompactArray(Int32)), ("require_stable", Boolean))
    RESPONSE_TYPE = answer(
        *(API_KEY, API_VERSION),
        ("throttle_time_ms", Int32),
        by_topic(
            rows(
                ("partition", Int32),
                ("offset", Int64),
                ("leader_epoch", Int32),
                ("metadata", TEXT),
                ("error_code", Int16),
            )
        ),
        ("error_code", Int16),
    )


class OffsetFetch(Request[OffsetFetchRequestV7]):  # type: ignore[misc]
    """KIP-447: asks for a group's offsets; `stable` refuses those that an open transaction may change.

    `topics` is [(topic, [partition])].
    """

    API_KEY = 9

    def __init__(self, group: str, topics: list[tuple[str, list[int]]], stable: bool) -> None:
        self._fields: tuple[Any, ...] = (
            group,
            [(topic, numbers, {}) for topic, numbers in topics],
            stable,
            {},
        )

    def build(self, request_struct_class: type[OffsetFetchRequestV7]) -> OffsetFetchRequestV7:
        return request_struct_class(*self._fields)


class ProduceV7(ProduceRequest_v7):  # type: ignore[misc]
    """Copies the record batches once here, not at each of a schema's six levels."""

    def encode(self) -> bytes:
        parts = [
            String("utf-8").encode(self.transactional_id),
            Int16.encode(self.required_acks),
            Int32.encode(self.timeout),
            Int32.encode(len(self.topics)),
        ]
        for topic, partitions in self.topics:
            parts += (String("utf-8").encode(topic), Int32.encode(len(partitions)))
            for partition, records in partitions:
                parts += (Int32.encode(partition), Int32.encode(len(records)), records)
        return b"".join(parts)


class ProduceV12(ProduceV7):
    """Also adds the partitions to the transaction (KIP-890). SCHEMA is what `encode` writes."""

    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 0, 12
    SCHEMA = flexible(
        ("transactional_id", TEXT),
        ("required_acks", Int16),
        ("timeout", Int32),
        by_topic(rows(("partition", Int32), ("records", CompactBytes))),
    )
    RESPONSE_TYPE = answer(
        *(API_KEY, API_VERSION),
        by_topic(
            rows(
                ("partition", Int32),
                ("error_code", Int16),
                ("offset", Int64),
                ("timestamp", Int64),
                ("log_start_offset", Int64),
                ("record_errors", rows(("batch_index", Int32), ("message", TEXT))),
                ("error_message", TEXT),
            )
        ),
        ("throttle_time_ms", Int32),
    )

    def encode(self) -> bytes:
        parts = [
            TEXT.encode(self.transactional_id),
            Int16.encode(self.required_acks),
            Int32.encode(self.timeout),
            _compact_length(self.topics),
        ]
        for topic, partitions in self.topics:
            parts += (TEXT.encode(topic), _compact_length(partitions))
            for partition, records in partitions:
                parts += (Int32.encode(partition), _compact_length(records), records, NO_TAGS)
            parts.append(NO_TAGS)
        parts.append(NO_TAGS)
        return b"".join(parts)


NO_TAGS = b"\0"


def _compact_length(value: Sized) -> bytes:
    length: bytes = UnsignedVarInt32.encode(len(value) + 1)
    return length


class Produce(Request[ProduceV7]):  # type: ignore[misc]
    """Write record batches: `topics` is [(topic, [(partition, bytes)])]; waits for the in-sync replicas.

    `adds`: it adds the partitions to the transaction too (transaction version 2).
    """

    API_KEY = 0

    def __init__(
        self, transactional_id: str | None, timeout_ms: int, topics: list[Any], *, adds: bool = False
    ) -> None:
        self.adds = adds
        self._fields = (transactional_id, -1, timeout_ms, topics)

    def build(self, request_struct_class: type[ProduceV7]) -> ProduceV7:
        if self.adds:
            return ProduceV12(*self._fields, {})
        return request_struct_class(*self._fields)


class IncrementalAlterConfigsResponseV0(Response):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "responses",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class IncrementalAlterConfigsRequestV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = IncrementalAlterConfigsResponseV0
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8"))),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class IncrementalAlterConfigs(Request[IncrementalAlterConfigsRequestV0]):  # type: ignore[misc]
    """KIP-339: set some configs of topics, `{topic: {name: value}}`, and leave the others as they are."""

    API_KEY = 44
    TOPIC, SET = 2, 0

    def __init__(self, topics: Mapping[str, Mapping[str, str]]) -> None:
        self._resources = [
            (self.TOPIC, topic, [(name, self.SET, value) for name, value in configs.items()])
            for topic, configs in topics.items()
        ]

    def build(
        self, request_struct_class: type[IncrementalAlterConfigsRequestV0]
    ) -> IncrementalAlterConfigsRequestV0:
        return request_struct_class(self._resources, False)
