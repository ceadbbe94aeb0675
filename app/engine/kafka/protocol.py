"""Kafka requests that aiokafka lacks, or has too slow, in the versions the engine needs."""

from collections.abc import Mapping
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)


class InitProducerIdResponseV4(Response):  # type: ignore[misc]
    API_KEY = 22
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class InitProducerIdRequestV4(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 4
    RESPONSE_TYPE = InitProducerIdResponseV4
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
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


class Produce(Request[ProduceV7]):  # type: ignore[misc]
    """Write record batches: `topics` is [(topic, [(partition, bytes)])]; waits for the in-sync replicas."""

    API_KEY = 0

    def __init__(self, transactional_id: str | None, timeout_ms: int, topics: list[Any]) -> None:
        self._fields = (transactional_id, -1, timeout_ms, topics)

    def build(self, request_struct_class: type[ProduceV7]) -> ProduceV7:
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
