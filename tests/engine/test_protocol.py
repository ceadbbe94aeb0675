"""Requests of our own making are, byte for byte, what aiokafka's schemas make."""

from aiokafka.protocol.produce import ProduceRequest_v7
from hypothesis import given
from hypothesis import strategies as st

from app.engine.kafka.protocol import Produce, ProduceV7

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
