"""Every contract there is: events, commands, the venue's reports and table values, each with its version.

Topics, tables, the feed, the venue's session and the checker read and write by what stands here. A change
that an old reader can't read adds an upcaster, and with it a version; docs/evolution.md has the recipes, and
`make schemas` refuses the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from models import commands, events
from models.contract import UNKNOWN, Contract, NewerVersion, Origin, Upcast, ValueCodec
from models.values import Frozen

__all__ = [
    "CONTRACTS",
    "REPORTS",
    "TABLES",
    "NewerVersion",
    "contract_of",
    "table_values",
    "unknown_fields",
]


def _named(*contracts: Contract) -> Mapping[str, Contract]:
    return {each.name: each for each in contracts}


def _edge(model: type[Frozen], **options: Any) -> Contract:
    return Contract(model.__name__, model, Origin.EDGE, **options)


def _inside(model: type[Frozen], *upcasts: Upcast) -> Contract:
    return Contract(model.__name__, model, Origin.INSIDE, upcasts=upcasts)


def _report(model: type[Frozen], *upcasts: Upcast) -> Contract:
    return Contract(f"venue.{model.__name__}", model, Origin.VENUE, upcasts=upcasts)


CONTRACTS: Final = _named(
    # from clients and operators
    _edge(events.TickReceived),
    _edge(events.OrderReceived, misread=events.OrderNotUnderstood),
    _edge(events.CancelRequested),
    _edge(events.ReplaceRequested),
    _edge(commands.SetRiskLimits),
    _edge(commands.SetAccountSequence),
    _edge(commands.SetRestriction),
    _edge(commands.SetInstrument),
    _edge(commands.SetAccount),
    _edge(commands.SetCounterparty),
    _edge(commands.SetHalt),
    _edge(commands.SetAllocation),
    # between our services
    _inside(events.PriceUpdated),
    _inside(events.MarketDataAlert),
    _inside(events.OrderRiskApproved),
    _inside(events.OrderRiskRejected),
    _inside(events.CancelAccepted),
    _inside(events.CancelRefused),
    _inside(events.ReplaceRiskApproved),
    _inside(events.ReplaceRiskRejected),
    _inside(events.RiskLimitBreached),
    _inside(events.OrderComplianceApproved),
    _inside(events.OrderComplianceRejected),
    _inside(events.ReplaceComplianceApproved),
    _inside(events.ReplaceComplianceRejected),
    _inside(events.OrderAcknowledged),
    _inside(events.TradeExecuted),
    _inside(events.OrderCancelled),
    _inside(events.OrderExpired),
    _inside(events.VenueRejected),
    _inside(events.OrderReplaced),
    _inside(events.CancelRejected),
    _inside(events.ReplaceRejected),
    _inside(events.OrderWithheld),
    _inside(events.ReplaceWithheld),
    _inside(events.TradeAllocated),
    _inside(events.CommandAnswered),
    _inside(events.InstrumentListed),
    _inside(events.AccountRegistered),
    _inside(events.CounterpartyRegistered),
    _inside(events.RestrictionInForce),
    _inside(events.HaltInForce),
)
"""What stands on topics, by `event-type`."""

REPORTS: Final = _named(
    _report(events.OrderAcknowledged),
    _report(events.TradeExecuted),
    _report(events.OrderCancelled),
    _report(events.OrderExpired),
    _report(events.VenueRejected),
    _report(events.OrderReplaced),
    _report(events.CancelRejected),
    _report(events.ReplaceRejected),
)
"""What the venue sends, by `venue.<type>`. It names no version: its additions are ignored."""


def _by_partition(value: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was keyed by partition number, version 2 by key shard."""
    return {**value, "by_partition": True}


def _with_orders_of_its_own(value: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the recent and the open orders in it; in version 2 they are rows of tables of their own.

    What is here still is moved there when the account is next met. A build that knows version 1 alone waits
    in front of version 2: it would miss what was moved.
    """
    return value


def _with_requests(value: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knows what is asked of orders.

    A build that knows version 1 alone waits in front of it: it would write the value back without.
    """
    return value


TABLES: Final[Mapping[str, Sequence[Upcast]]] = {
    "marketdata.last_prices": (),
    "risk.positions": (_with_requests,),
    "risk.reservations": (_with_requests,),
    "risk.risk_limits": (),
    "compliance.recent_orders": (_with_orders_of_its_own,),
    "compliance.open_orders": (_with_requests,),
    "compliance.recent_kinds": (),
    "exchange.intents": (),
    "exchange.sessions": (_by_partition,),
    "exchange.controls": (),
    "exchange.sent": (_with_requests,),
    "exchange.requests": (),
    "refdata.instruments": (),
    "refdata.accounts": (),
    "refdata.counterparties": (),
    "refdata.restrictions": (),
    "refdata.halts": (),
    "allocation.instructions": (),
    "allocation.block_orders": (),
    "allocation.block_accounts": (),
    "allocation.given": (),
}
"""The upcasters of each table's values, by `<service>.<table>`; with none it is version 1.

The types are the domain's: `app.codecs.TableCodec` brings both together.
"""

_BY_MODEL: Final = {each.model: each for each in CONTRACTS.values()}


def contract_of(model: type) -> Contract:
    """The contract of a type that stands on topics; raises LookupError when it has none."""
    try:
        return _BY_MODEL[model]
    except KeyError:
        raise LookupError(f"{model.__name__} has no contract: add it to models/registry.py") from None


def table_values(name: str, value_type: Any) -> ValueCodec:
    """How the values of the table `<service>.<table>` go to bytes and back; LookupError: it is not here."""
    try:
        upcasts = TABLES[name]
    except KeyError:
        raise LookupError(f"the table {name} has no contract: add it to models/registry.py") from None
    return ValueCodec(Contract(name, value_type, upcasts=upcasts))


def unknown_fields() -> Mapping[tuple[str, str], int]:
    """How often this process has ignored unknown fields, by (type, field)."""
    return UNKNOWN.all()
