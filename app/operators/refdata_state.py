"""What refdata itself holds to be in force, where a topic can't tell it: read from its tables' changelogs."""

from typing import Any, Final, NamedTuple

from app.codecs import TableCodec
from app.engine.topics import TopicSpec
from app.operators.desk import Desk, Unreadable
from app.operators.holders import read_table_value
from app.topics import ACCOUNTS, COUNTERPARTIES, HALTS, INSTRUMENTS, RESTRICTED_LIST
from models.events import (
    AccountRegistered,
    CounterpartyRegistered,
    HaltInForce,
    InstrumentListed,
    RestrictionInForce,
)

_TABLES: Final[dict[str, tuple[str, type]]] = {
    INSTRUMENTS.name: ("instruments", InstrumentListed),
    ACCOUNTS.name: ("accounts", AccountRegistered),
    COUNTERPARTIES.name: ("counterparties", CounterpartyRegistered),
    RESTRICTED_LIST.name: ("restrictions", RestrictionInForce),
    HALTS.name: ("halts", HaltInForce),
}


class Standing(NamedTuple):
    """What commands about a key are judged by (None: nothing), and why its topic can't tell it, if it can't.

    The services go by the topic. Where that can't be read, any command that is accepted mends it: what is in
    force is then told again.
    """

    value: Any
    unreadable: str = ""


async def standing(desk: Desk, spec: TopicSpec, key: str) -> Standing:
    """What is in force of one key."""
    return await confirmed(desk, spec, key, await desk.last_of(spec, key))


async def confirmed(desk: Desk, spec: TopicSpec, key: str, told: Any) -> Standing:
    """The same, when what the topic tells is known."""
    if not isinstance(told, Unreadable):
        return Standing(told)
    table, value_type = _TABLES[spec.name]
    topic = f"refdata-{table}-changelog"
    record = await desk.last_record(topic, key) if desk.has_topic(topic) else None
    if record is None:
        return Standing(None, told.reason)
    codec: TableCodec[Any] = TableCodec(f"refdata.{table}", value_type)
    return Standing(read_table_value(topic, key, codec, record.value), told.reason)
