"""Requests of our own making are, byte for byte, what aiokafka's schemas make."""

from io import BytesIO
from typing import Any

from aiokafka.protocol.admin import ApiVersionRequest_v0
from aiokafka.protocol.produce import ProduceRequest_v7
from hypothesis import given
from hypothesis import strategies as st

from app.engine.kafka.protocol import (
    ApiVersions,
    ApiVersionsRequestV3,
    Produce,
    ProduceV7,
    ProduceV12,
    abilities,
)

TOPICS = st.lists(
    st.tuples(
        st.text(max_size=8),
        st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=90)), max_size=3),
    ),
    max_size=3,
)


@given(st.none() | st.text(max_size=8), TOPICS)
def test_a_produce_request(
    transactional_id: str | None, topics: list[tuple[str, list[tuple[int, bytes]]]]
) -> None:
    batches = [(topic, [(number, bytearray(data)) for number, data in each]) for topic, each in topics]
    request = Produce(transactional_id, 30_000, batches).prepare({0: (3, 12)})
    assert isinstance(request, ProduceV7)
    assert request.encode() == ProduceRequest_v7(transactional_id, -1, 30_000, topics).encode()


@given(st.none() | st.text(max_size=8), TOPICS)
def test_a_produce_request_that_adds_its_partitions(
    transactional_id: str | None, topics: list[tuple[str, list[tuple[int, bytes]]]]
) -> None:
    request = Produce(transactional_id, 30_000, topics, adds=True).prepare({0: (3, 12)})
    assert isinstance(request, ProduceV12)
    rows: list[Any] = [(topic, [(number, data, {}) for number, data in each], {}) for topic, each in topics]
    assert request.encode() == ProduceV12.SCHEMA.encode((transactional_id, -1, 30_000, rows, {}))


def test_the_first_flexible_request_of_all_is_answered_with_an_inflexible_header() -> None:
    asked = ApiVersions().prepare({18: (0, 4)})
    assert isinstance(asked, ApiVersionsRequestV3)
    answer = BytesIO(bytes.fromhex("00000007000002001200000004000000000000"))
    assert asked.parse_response_header(answer).correlation_id == 7
    found = asked.RESPONSE_TYPE.decode(answer)
    assert abilities(found) == ({18: 4}, {})
    assert answer.read() == b""


def test_an_old_broker_is_asked_as_it_understands() -> None:
    assert isinstance(ApiVersions().prepare({18: (0, 2)}), ApiVersionRequest_v0)
