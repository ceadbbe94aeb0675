"""`python -m app trace ORDER`: the life of one order, as the log tells it.

Every record about the order, in the order of the broker's clock: what came in, what each service decided and
on which inputs, what the venue reported, and what became a dead letter. A record is about the order if it
names it, whatever else it says; this way it is found also when this build cannot read it.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from app.engine.kafka.cluster import TP
from app.engine.topics import EVENT_TYPE
from app.errors import UserError
from app.log_reader import header
from app.operators.desk import Desk
from app.operators.moments import told
from app.topics import ALLOCATIONS, COMPLIANCE_DECISIONS, DEAD_LETTERS, EXECUTIONS, ORDERS, RISK_DECISIONS

WAY: Final = tuple(
    each.name
    for each in (ORDERS, RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS, ALLOCATIONS, DEAD_LETTERS)
)
"""The topics that a record about an order stands on, in the order in which it gets there."""

SAID_ELSEWHERE: Final = frozenset({"order_id", "account_id", "order", "request"})
LETTER: Final = "dead-letter-"


class Step(NamedTuple):
    """One record about the order. `since_ms` is the time from the one before, None for the first."""

    at_ms: int
    since_ms: int | None
    topic: str
    partition: int
    offset: int
    event: str
    said: Mapping[str, Any]


async def trace(options: argparse.Namespace) -> int:
    """Print it; 1 when the log has nothing about the order."""
    order_id = options.order
    account_id, _, number = order_id.rpartition("-")
    if not account_id or not number.isdecimal():
        raise UserError(f"{order_id!r} is no order id: it is the account's name, a hyphen and a number")
    async with Desk.open(options.bootstrap, options.wait) as desk:
        found = [
            (tp, record)
            for topic in WAY
            if desk.has_topic(topic)
            async for tp, record in desk.records_of(topic, account_id)
            if is_about(order_id, record)
        ]
    steps = list(in_order(found))
    if options.json:
        print(json.dumps([each._asdict() for each in steps], indent=2))
    elif steps:
        show(order_id, steps)
    else:
        print(f"the log has nothing about {order_id}: was it sent to account {account_id!r}'s key?")
    return 0 if steps else 1


def is_about(order_id: str, record: Any) -> bool:
    """Whether the record names the order, or the request of that id."""
    data = record.value or b""
    return order_id.encode() in data and order_id in _ids(_read(data))


def in_order(found: Iterable[tuple[TP, Any]]) -> Iterator[Step]:
    """The records as steps, by the broker's clock; of one millisecond, as they follow from each other."""
    before_ms: int | None = None
    for tp, record in sorted(
        found, key=lambda each: (each[1].timestamp, WAY.index(each[0].topic), each[1].offset)
    ):
        since_ms = None if before_ms is None else record.timestamp - before_ms
        before_ms = record.timestamp
        yield Step(record.timestamp, since_ms, *tp, record.offset, *_said(tp.topic, record))


def _said(topic: str, record: Any) -> tuple[str, dict[str, Any]]:
    """The event's name, and what it says besides whose it is."""
    event = header(record, EVENT_TYPE).decode(errors="replace") or "?"
    if topic == DEAD_LETTERS.name:
        names = ("service", "topic", "partition", "offset", "error", "held-behind")
        letter = {name: header(record, f"{LETTER}{name}").decode(errors="replace") for name in names}
        return f"dead letter ({event})", {name: text for name, text in letter.items() if text}
    fields = _read(record.value)
    request = fields.get("request")
    said = {**request, **fields} if isinstance(request, dict) else fields
    return event, {name: value for name, value in said.items() if name not in SAID_ELSEWHERE}


def _read(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _ids(fields: Mapping[str, Any]) -> set[str]:
    """The orders and the requests that a record names."""
    inner = [fields.get("order"), fields.get("request")]
    wholes = [fields, *(each for each in inner if isinstance(each, dict))]
    named = (each.get(name) for each in wholes for name in ("order_id", "request_id"))
    return {each for each in named if isinstance(each, str)}


def show(order_id: str, steps: Iterable[Step]) -> None:
    """A table for people."""
    table = Table("time", "+ms", "event", "says", "stands in", box=None, pad_edge=False, title=order_id)
    table.columns[1].justify = "right"
    for each in steps:
        said = "  ".join(f"{name} {value}" for name, value in each.said.items() if value not in (None, ""))
        place = f"{each.topic}/{each.partition}/{each.offset}"
        since = "" if each.since_ms is None else f"{each.since_ms:,}"
        table.add_row(told(each.at_ms), since, each.event, said, place)
    Console(soft_wrap=False).print(table, markup=False)
