"""Who holds an instrument or has open orders in it: read from the changelogs of risk and exchange."""

from collections import defaultdict
from collections.abc import Mapping, Set
from typing import Any, Final, NamedTuple

from app.codecs import TableCodec
from app.domain.exchange import Intent
from app.domain.risk import AccountRisk
from app.engine.errors import NewerRelease
from app.errors import UserError
from app.operators.desk import Desk

POSITIONS: Final = "risk-positions-changelog"
INTENTS: Final = "exchange-intents-changelog"
NAMES_SHOWN_MAX: Final = 5


class Holders(NamedTuple):
    """Accounts by symbol: those with a position or approved orders, and those with orders for the venue."""

    holding: Mapping[str, Set[str]]
    ordering: Mapping[str, Set[str]]

    @classmethod
    async def of(cls, desk: Desk, scales: Mapping[str, int]) -> "Holders":
        """Look at all accounts. What can't be read raises UserError: it could be a holder.

        `scales` are the ones that symbols are to have: who holds one in that scale already does not count.
        """
        holding: dict[str, set[str]] = defaultdict(set)
        ordering: dict[str, set[str]] = defaultdict(set)
        fitting: dict[str, set[str]] = defaultdict(set)
        positions = TableCodec("risk.positions", AccountRisk)
        intents = TableCodec("exchange.intents", Intent)
        for key, value in (await _values(desk, POSITIONS)).items():
            account: AccountRisk = read_table_value(POSITIONS, key, positions, value)
            for symbol, held in account.holdings.items():
                if symbol in scales and not held.is_flat:
                    (fitting if held.scale == scales[symbol] else holding)[symbol].add(key)
        for key, value in (await _values(desk, INTENTS)).items():
            intent: Intent = read_table_value(INTENTS, key, intents, value)
            order = intent.order
            if order.symbol in scales and order.account_id not in fitting[order.symbol]:
                ordering[order.symbol].add(order.account_id)
        return cls(holding, ordering)

    def told(self, symbol: str) -> str:
        """Who is in the way, by name; empty when nobody is."""
        parts = []
        if names := self.holding.get(symbol):
            parts.append(f"positions or open orders of {_listed(names)}")
        if names := self.ordering.get(symbol):
            parts.append(f"orders at the venue of {_listed(names)}")
        return " and ".join(parts)


async def _values(desk: Desk, topic: str) -> dict[str, bytes]:
    """The table's values; a service that has never run has none."""
    if not desk.has_topic(topic):
        return {}
    records = await desk.last_records(topic)
    return {key.decode("utf-8", "backslashreplace"): record.value for key, record in records.items()}


def read_table_value(topic: str, key: str, codec: TableCodec[Any], value: bytes) -> Any:
    """One value of a changelog; raises UserError when this build can't read it."""
    try:
        return codec.decode(value)
    except (ValueError, NewerRelease) as error:  # msgspec's and pydantic's errors are ValueErrors
        raise UserError(f"{key!r} in {topic} can't be read, so nobody knows what it holds: {error}") from None


def _listed(names: Set[str]) -> str:
    first = sorted(names)[:NAMES_SHOWN_MAX]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
