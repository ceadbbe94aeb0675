"""Models as Kafka records: key, JSON value and headers."""

from typing import NamedTuple

from models.commands import SetRestriction, SetRiskLimits
from models.events import OrderReceived, TickReceived
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


def tick_record(tick: TickReceived) -> Record:
    event_id = f"{tick.symbol}:{tick.sequence}"
    return Record(tick.symbol.encode(), _json(tick), headers_of(tick, event_id, tick.symbol))


def order_record(order: OrderReceived, sent_at_ms: int) -> Record:
    """The order as sent now: its `submitted_at_ms` counted from the moment of sending until here."""
    sent = order.model_copy(update={"submitted_at_ms": order.submitted_at_ms + sent_at_ms})
    return Record(order.account_id.encode(), _json(sent), headers_of(order, order.order_id, order.order_id))


def limits_record(limits: SetRiskLimits) -> Record:
    event_id = f"{limits.account_id}:limits:{limits.version}"
    return Record(limits.account_id.encode(), _json(limits), headers_of(limits, event_id, limits.account_id))


def restriction_record(restriction: SetRestriction) -> Record:
    event_id = f"{restriction.symbol}:restriction:{int(restriction.restricted)}"
    key = restriction.symbol.encode()
    return Record(key, _json(restriction), headers_of(restriction, event_id, restriction.symbol))


def _json(model: Frozen) -> bytes:
    return model.__pydantic_serializer__.to_json(model)
