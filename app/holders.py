"""Who holds an instrument or has open orders in it: read from the changelogs of risk and exchange."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from typing import Final, NamedTuple, TypeVar

import msgspec

from app.domain.exchange import Intent
from app.domain.risk import AccountRisk
from app.errors import UserError
from app.operators import Desk

T = TypeVar("T")

POSITIONS: Final = "risk-positions-changelog"
INTENTS: Final = "exchange-intents-changelog"
NAMES_SHOWN_MAX: Final = 5


class Holders(NamedTuple):
    """Accounts by symbol: those with a position or approved orders, and those with orders for the venue."""

    holding: Mapping[str, Set[str]]
    ordering: Mapping[str, Set[str]]

    @classmethod
    async def of(cls, desk: Desk, symbols: Set[str]) -> "Holders":
        """Look at all accounts. What can't be read raises UserError: it could be a holder."""
        holding: dict[str, set[str]] = defaultdict(set)
        ordering: dict[str, set[str]] = defaultdict(set)
        decoder = msgspec.json.Decoder(AccountRisk)
        for key, value in (await _values(desk, POSITIONS)).items():
            account = _read(POSITIONS, key, decoder.decode, value)
            for symbol, held in account.holdings.items():
                if symbol in symbols and (held.position_lots or held.open_buy_lots or held.open_sell_lots):
                    holding[symbol].add(key)
        for key, value in (await _values(desk, INTENTS)).items():
            order = _read(INTENTS, key, Intent.model_validate_json, value).order
            if order.symbol in symbols:
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


def _read(topic: str, key: str, decode: Callable[[bytes], T], value: bytes) -> T:
    try:
        return decode(value)
    except ValueError as error:  # msgspec's and pydantic's errors are among them
        raise UserError(
            f"{key!r} in {topic} can't be read, so nobody knows who holds what: {error}"
        ) from None


def _listed(names: Set[str]) -> str:
    first = sorted(names)[:NAMES_SHOWN_MAX]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
