"""Models as Kafka records: key, JSON value and headers."""

from typing import NamedTuple

from app.engine.topics import TopicSpec
from models.commands import SetRiskLimits
from models.events import CancelRequested, OrderReceived, ReplaceRequested, TickReceived
from models.registry import contract_of
from models.values import Frozen

Headers = list[tuple[str, bytes]]


class Record(NamedTuple):
    """A record ready to be sent."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def headers_of(model: Frozen, event_id: str, correlation_id: str) -> Headers:
    return [
        ("event-type", type(model).__name__.encode()),
        ("schema-version", str(contract_of(type(model)).version).encode()),
        ("event-id", event_id.encode()),
        ("correlation-id", correlation_id.encode()),
    ]


TICK_NUMBER = "feed-tick"
"""The header that names the market's own number of a tick, which goes on over all feed sessions."""


def tick_record(tick: TickReceived, number: int | None = None) -> Record:
    """A tick; `number` is the market's own, None where it is the tick's sequence."""
    event_id = f"{tick.symbol}/{tick.epoch}/{tick.sequence}"
    own = (TICK_NUMBER, str(tick.sequence if number is None else number).encode())
    return Record(tick.symbol.encode(), to_json(tick), [*headers_of(tick, event_id, tick.symbol), own])


def order_record(order: OrderReceived | CancelRequested | ReplaceRequested, sent_at_ms: int) -> Record:
    """An order or request as sent now: until here its `submitted_at_ms` counted from that moment."""
    sent = order.model_copy(update={"submitted_at_ms": order.submitted_at_ms + sent_at_ms})
    event_id = order.order_id if isinstance(order, OrderReceived) else order.request_id
    return Record(order.account_id.encode(), to_json(sent), headers_of(order, event_id, order.order_id))


def limits_record(limits: SetRiskLimits) -> Record:
    event_id = f"{limits.account_id}:limits:{limits.version}"
    return Record(
        limits.account_id.encode(), to_json(limits), headers_of(limits, event_id, limits.account_id)
    )


def command_record(topic: TopicSpec, command: Frozen) -> Record:
    """An operator's command."""
    assert topic.key_of is not None
    subject = topic.key_of(command)
    event_id = f"{subject.decode()}:{type(command).__name__}:{getattr(command, 'version', None)}"
    return Record(subject, to_json(command), headers_of(command, event_id, event_id))


def to_json(model: Frozen) -> bytes:
    return model.__pydantic_serializer__.to_json(model)
