"""Every topic of the pipeline: its name, key, value types, partitions and retention. Nowhere else."""

from collections.abc import Callable
from typing import Any

from app.codecs import JsonCodec, RawCodec
from app.engine.topics import BROKER_CLOCK, COMPACTED, KEPT, TopicSpec
from models.commands import (
    SetAccount,
    SetAccountSequence,
    SetAllocation,
    SetCounterparty,
    SetHalt,
    SetInstrument,
    SetRestriction,
    SetRiskLimits,
)
from models.events import (
    AccountRegistered,
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CancelRequested,
    CommandAnswered,
    ComplianceDecision,
    CounterpartyRegistered,
    Execution,
    HaltInForce,
    InstrumentListed,
    MarketDataAlert,
    OrderAcknowledged,
    OrderCancelled,
    OrderComplianceApproved,
    OrderComplianceRejected,
    Ordered,
    OrderExpired,
    OrderNotUnderstood,
    OrderReceived,
    OrderReplaced,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    PriceUpdated,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    ReplaceWithheld,
    RestrictionInForce,
    RiskDecision,
    RiskLimitBreached,
    TickReceived,
    TradeAllocated,
    TradeExecuted,
    VenueRejected,
)

RECORD_BYTES_MAX = 8 * 1024 * 1024
DEAD_LETTER_HEADER_BYTES_MAX = 64 * 1024
LARGE = {"max.message.bytes": str(RECORD_BYTES_MAX)}
IN_FORCE = {**BROKER_CLOCK, **COMPACTED}
"""Of global tables: between partitions the clock tells which record is newer, and writers have several.

None of them has tombstones. Their writers never remove a key: an instrument is delisted, an account is
suspended, a halt or a restriction is lifted by a record that says so. A record without a value is somebody
else's; taken at its word it would lift a halt without a trace.
"""

CANCELS = frozenset({CancelRequested.__name__, CancelAccepted.__name__})
"""They pass a quarantine: who cancels wants less, whatever else waits."""


def _account(value: Any) -> bytes:
    return str(value.account_id).encode()


def _account_decided(decision: Any) -> bytes:
    about = getattr(decision, "order", None) or decision.request
    return str(about.account_id).encode()


def _account_of_ordered(received: Any) -> bytes:
    """The id of an order and of a replace is its account and sequence: no id can ever stand for two."""
    match received:
        case CancelRequested():
            return _account(received)
        case ReplaceRequested(request_id=id_, sequence=sequence):
            name = "request_id"
        case _:
            received = _understood(received)
            name, id_, sequence = "order_id", received.order_id, received.sequence
    if sequence < 1:
        raise ValueError(f"sequences count from 1, this one is {sequence}")
    if id_ != f"{received.account_id}-{sequence}":
        raise ValueError(f"{name} {id_[:64]!r} is not account_id-sequence")
    return _account(received)


def _symbol(value: Any) -> bytes:
    return str(value.symbol).encode()


def _instrument(value: Any) -> bytes:
    return str(value.instrument.symbol).encode()


def _counterparty(value: Any) -> bytes:
    return str(value.counterparty_id).encode()


def _scope(value: Any) -> bytes:
    return str(value.scope).encode()


def _subject(value: Any) -> bytes:
    return str(value.subject).encode()


_SUBJECTS: dict[type, Callable[[Any], bytes]] = {
    SetInstrument: _instrument,
    SetAccount: _account,
    SetCounterparty: _counterparty,
    SetHalt: _scope,
}


def _commanded(command: Any) -> bytes:
    return _SUBJECTS[type(command)](command)


def _ordered_id(received: Any) -> str:
    match received:
        case CancelRequested(order_id=order_id, request_id=request_id):
            return f"{order_id}/cancel/{request_id}"
        case ReplaceRequested(request_id=request_id):
            return str(request_id)
        case _:
            return str(_understood(received).order_id)


def _understood(received: OrderReceived | OrderNotUnderstood) -> OrderReceived:
    """The part of an order that this build knows."""
    return received.order if isinstance(received, OrderNotUnderstood) else received


def _tick_id(tick: Any) -> str:
    return f"{tick.symbol}/{tick.epoch}/{tick.sequence}"


MARKET_DATA = TopicSpec(
    "market-data",
    JsonCodec(TickReceived),
    _symbol,
    edge=True,
    id_of=_tick_id,
    config={**BROKER_CLOCK, **LARGE},
)
MARKET_ALERTS = TopicSpec("market-alerts", JsonCodec(MarketDataAlert), _symbol)
PRICES = TopicSpec("prices", JsonCodec(PriceUpdated), _symbol, config=IN_FORCE)
ORDERS = TopicSpec(
    "orders",
    JsonCodec[Ordered](OrderReceived, CancelRequested, ReplaceRequested),
    _account_of_ordered,
    edge=True,
    id_of=_ordered_id,
    protects=CANCELS,
    config={**BROKER_CLOCK, **LARGE},
)
RISK_LIMITS = TopicSpec(
    "risk-limits",
    JsonCodec(SetRiskLimits),
    _account,
    edge=True,
    tombstones=True,
    protects=True,
    config={**COMPACTED, **LARGE},
)
ACCOUNT_COMMANDS = TopicSpec(
    "account-commands", JsonCodec(SetAccountSequence), _account, edge=True, protects=True, config=KEPT
)
RESTRICTIONS = TopicSpec(
    "restrictions", JsonCodec(SetRestriction), _symbol, edge=True, protects=True, config=COMPACTED
)
OPERATOR_COMMANDS = TopicSpec(
    "operator-commands",
    JsonCodec[SetInstrument | SetAccount | SetCounterparty | SetHalt](
        SetInstrument, SetAccount, SetCounterparty, SetHalt
    ),
    _commanded,
    edge=True,
    protects=True,
    config=KEPT,
)
COMMAND_ANSWERS = TopicSpec("command-answers", JsonCodec(CommandAnswered), _subject, config=BROKER_CLOCK)
INSTRUMENTS = TopicSpec("instruments", JsonCodec(InstrumentListed), _instrument, config=IN_FORCE)
ACCOUNTS = TopicSpec("accounts", JsonCodec(AccountRegistered), _account, config=IN_FORCE)
COUNTERPARTIES = TopicSpec(
    "counterparties", JsonCodec(CounterpartyRegistered), _counterparty, config=IN_FORCE
)
RESTRICTED_LIST = TopicSpec("restricted-list", JsonCodec(RestrictionInForce), _symbol, config=IN_FORCE)
HALTS = TopicSpec("halts", JsonCodec(HaltInForce), _scope, config=IN_FORCE)
RISK_DECISIONS = TopicSpec(
    "risk-decisions",
    JsonCodec[RiskDecision](
        OrderRiskApproved,
        OrderRiskRejected,
        CancelAccepted,
        CancelRefused,
        ReplaceRiskApproved,
        ReplaceRiskRejected,
    ),
    _account_decided,
    protects=CANCELS,
    config=BROKER_CLOCK,
)
RISK_ALERTS = TopicSpec("risk-alerts", JsonCodec(RiskLimitBreached), _account)
COMPLIANCE_DECISIONS = TopicSpec(
    "compliance-decisions",
    JsonCodec[ComplianceDecision](
        OrderComplianceApproved,
        OrderComplianceRejected,
        CancelAccepted,
        ReplaceComplianceApproved,
        ReplaceComplianceRejected,
    ),
    _account_decided,
    protects=CANCELS,
    config=BROKER_CLOCK,
)
EXECUTIONS = TopicSpec(
    "executions",
    JsonCodec[Execution](
        OrderAcknowledged,
        TradeExecuted,
        OrderCancelled,
        OrderExpired,
        VenueRejected,
        OrderReplaced,
        CancelRejected,
        ReplaceRejected,
        OrderWithheld,
        ReplaceWithheld,
    ),
    _account,
    config=BROKER_CLOCK,
)
ALLOCATION_INSTRUCTIONS = TopicSpec(
    "allocation-instructions", JsonCodec(SetAllocation), _account, edge=True, config=KEPT
)
ALLOCATIONS = TopicSpec("allocations", JsonCodec(TradeAllocated), _account, config=BROKER_CLOCK)


DEAD_LETTERS = TopicSpec(
    "dead-letters",
    RawCodec(),
    config={**KEPT, "max.message.bytes": str(RECORD_BYTES_MAX + DEAD_LETTER_HEADER_BYTES_MAX)},
)

TOPICS: tuple[TopicSpec, ...] = (
    MARKET_DATA,
    PRICES,
    MARKET_ALERTS,
    ORDERS,
    RISK_LIMITS,
    ACCOUNT_COMMANDS,
    RESTRICTIONS,
    OPERATOR_COMMANDS,
    COMMAND_ANSWERS,
    INSTRUMENTS,
    ACCOUNTS,
    COUNTERPARTIES,
    RESTRICTED_LIST,
    HALTS,
    RISK_DECISIONS,
    RISK_ALERTS,
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    ALLOCATION_INSTRUCTIONS,
    ALLOCATIONS,
    DEAD_LETTERS,
)

_BY_NAME = {each.name: each for each in TOPICS}


def named(*names: str) -> tuple[TopicSpec, ...]:
    """The topics of these names; raises LookupError for a name that no topic has."""
    return tuple(_BY_NAME[name] for name in names)


def account_of(key: bytes | None) -> str:
    """The account under whose key a record stands, also one that cannot be read."""
    return (key or b"").decode("utf-8", "backslashreplace")
