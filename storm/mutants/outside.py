"""Duties towards a clumsy outside, broken one by one: its clients, operators, feeds and tools err."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from msgspec.structs import replace

from app.domain import allocation, compliance, exchange, limits, marketdata, risk
from app.domain.errors import InvariantBroken
from app.domain.reference import Reference
from app.domain.risk import AccountRisk, Holding
from app.engine.topics import TopicSpec
from app.venue_session import session as venue_session
from models.commands import SetRiskLimits
from models.events import CommandAnswered, OrderReceived, TradeExecuted
from models.reasons import RiskReason
from models.values import AllocationMethod, Side
from storm.mutants.mutant import Mutant
from storm.mutants.patching import Patch
from storm.mutants.pipeline import SERVICES, loosen, planter

OUTSIDE: dict[str, Mutant] = {}
mutant = planter(OUTSIDE)

# -- what is approved


@mutant("I7", "risk", faults=("poison",))
def order_age_not_checked(patch: Patch) -> None:
    """An order is good however long ago it was submitted."""
    loosen(patch, order_age_ms_max=10**15)


@mutant("I4", "risk")
def reduction_through_zero(patch: Patch) -> None:
    """An order against the position only reduces, however large it is."""
    refuse = risk.exposure_refusal

    def lenient(order: OrderReceived, known: Any, account: AccountRisk, holding: Holding, *more: Any) -> Any:
        against = holding.position_lots < 0 if order.side is Side.BUY else holding.position_lots > 0
        return None if against else refuse(order, known, account, holding, *more)

    patch.setattr(risk, "exposure_refusal", lenient)


@mutant("I4", "risk")
def exposure_at_the_reference(patch: Patch) -> None:
    """Open orders and the one at hand count at the market's price, whatever they offer."""
    refuse = risk.exposure_refusal

    def at_the_market(order: OrderReceived, *known: Any) -> Any:
        price = known[4]
        return refuse(order.model_copy(update={"price_ticks": price.price_ticks}), *known)

    patch.setattr(risk, "worst_ticks", lambda mark_ticks, holding: mark_ticks)
    patch.setattr(risk, "exposure_refusal", at_the_market)


@mutant("I4", "risk")
def other_symbols_at_old_marks(patch: Patch) -> None:
    """The account's other symbols count at the price of their last order."""
    value = risk.worst_exposure_micros

    def at_old_marks(symbol: str, holding: Holding, reference: Reference) -> Any:
        return value(symbol, holding, reference._replace(prices=reference.prices._replace(values={})))

    patch.setattr(risk, "worst_exposure_micros", at_old_marks)


@mutant("I4", "risk", faults=("poison",))
def wrong_currency_passes(patch: Patch) -> None:
    """An account may trade in any currency."""
    refuse = risk.instrument_refusal

    def lenient(*known: Any) -> Any:
        refusal = refuse(*known)
        is_currency = refusal is not None and refusal.reason is RiskReason.CURRENCY_MISMATCH
        return None if is_currency else refusal

    patch.setattr(risk, "instrument_refusal", lenient)


@mutant("I7", "risk", faults=("poison",))
def halt_ignored(patch: Patch) -> None:
    """Orders are approved while trading is halted."""
    patch.setattr(risk, "halted_by", lambda halts, account_id: None)


@mutant("I7", "compliance", faults=("poison",))
def restriction_ignored(patch: Patch) -> None:
    """Orders in restricted instruments are let through."""
    decide = compliance.decide_compliance
    patch.setattr(
        compliance,
        "decide_compliance",
        lambda approval, remembered, *_, **__: decide(approval, remembered, None),
    )


# -- what is kept


@mutant("I3", "risk", faults=("poison",))
def unknown_account_leaves_state(patch: Patch) -> None:
    """A refused order is the last of its account, even where nobody knows the account."""
    patch.setattr(risk, "TRACELESS", risk.TRACELESS - {RiskReason.UNKNOWN_ACCOUNT})


@mutant("I3", "risk", faults=("poison",))
def repeated_report_booked_by_risk(patch: Patch) -> None:
    """A fill that comes twice moves the position twice."""
    apply = risk.apply_report

    def apply_again(account: AccountRisk, reservation: Any, event: Any) -> Any:
        try:
            return apply(account, reservation, event)
        except InvariantBroken:
            if not isinstance(event, TradeExecuted):
                return account, reservation
        holding = account.holding(event.symbol)
        lots = event.quantity_lots if event.side is Side.BUY else -event.quantity_lots
        moved = replace(holding, position_lots=holding.position_lots + lots)
        return replace(account, holdings={**account.holdings, event.symbol: moved}), reservation

    patch.setattr(risk, "is_repeat", lambda account, reservation, event: False)
    patch.setattr(risk, "apply_report", apply_again)


# -- what protects


@mutant("I3", "risk", faults=("poison",))
def kill_switch_waits_for_a_version(patch: Patch) -> None:
    """A kill switch takes only with limits of a newer version."""
    decide = limits.decide_limits

    def by_version(command: SetRiskLimits, in_force: SetRiskLimits | None) -> CommandAnswered:
        return decide(command.model_copy(update={"kill_switch": False}), in_force)

    patch.setattr(limits, "decide_limits", by_version)


@mutant("I7", *SERVICES, faults=("poison",))
def kill_switch_waits_behind_a_quarantine(patch: Patch) -> None:
    """What protects is held behind a dead letter of its account like everything else."""
    patch.setattr(TopicSpec, "passes", lambda spec, headers: False)


@mutant("I7", "exchange", faults=("poison",))
def last_look_forgotten(patch: Patch) -> None:
    """An approved order leaves whatever has happened since."""
    patch.setattr(venue_session, "last_look", lambda order, **known: None)


@mutant("I7", "exchange", faults=("poison",))
def last_look_without_age(patch: Patch) -> None:
    """An approved order leaves for the venue however old it is."""
    look = exchange.last_look

    def look_past_age(order: OrderReceived, *, now_ms: int, **known: Any) -> Any:
        return look(order.model_copy(update={"submitted_at_ms": now_ms}), now_ms=now_ms, **known)

    patch.setattr(venue_session, "last_look", look_past_age)


@mutant("I7", "exchange", faults=("kill-unseen", "poison"))
def last_look_without_reference(patch: Patch) -> None:
    """An approved order leaves whatever its account and its instrument have become since."""
    patch.setattr(exchange, "is_suspended", lambda accounts, account_id: False)
    patch.setattr(exchange, "is_tradable", lambda instruments, symbol, now_ms: True)
    patch.setattr(exchange, "is_restricted", lambda restricted, symbol: False)


@mutant("I2", "exchange", faults=("poison",))
def repeated_approval_sends_again(patch: Patch) -> None:
    """An approval that comes again is taken for a new one."""
    patch.setattr(exchange, "is_repeat", lambda order, sent: False)


# -- the market


@mutant("I7", "marketdata", faults=("poison",))
def far_off_print_believed(patch: Patch) -> None:
    """One print is enough for any price."""
    patch.setattr(marketdata, "is_near", lambda price_ticks, other_ticks: True)


@mutant("I7", "marketdata", faults=("poison",))
def jump_believed(patch: Patch) -> None:
    """One tick is enough for any number."""
    patch.setattr(marketdata, "SEQUENCE_JUMP_MAX", 1 << 62)


# -- block orders


@mutant("I3", "allocation", faults=("poison",))
def fill_allocated_twice(patch: Patch) -> None:
    """A fill that comes twice is allocated twice."""
    patch.setattr(allocation, "is_repeat", lambda account, report: False)


@mutant("I3", "allocation")
def allocation_dropped(patch: Patch) -> None:
    """The last allocation of a fill is forgotten."""
    fill, end = allocation.fill, allocation.end

    def fill_short(*known: Any) -> Any:
        order, allocations = fill(*known)
        return order, allocations[:-1]

    patch.setattr(allocation, "fill", fill_short)
    patch.setattr(allocation, "end", lambda *known: end(*known)[:-1])


@mutant("I3", "allocation")
def allocation_rounded(patch: Patch) -> None:
    """Each one's part of the notional and the fee is rounded by itself."""

    def rounded(amount: int, lots: Sequence[int]) -> tuple[int, ...]:
        return tuple(round(Fraction(amount * each, sum(lots))) for each in lots)

    patch.setattr(allocation, "share_out", rounded)


@mutant("I3", "allocation")
def remainder_to_the_first(patch: Patch) -> None:
    """What is left over of a fill goes to the first share, fill after fill."""

    def to_the_first(amount: int, weights: Sequence[int], given: Sequence[int]) -> tuple[int, ...]:
        parts = [amount * each // sum(weights) for each in weights]
        return (parts[0] + amount - sum(parts), *parts[1:])

    patch.setattr(allocation, "split", to_the_first)


@mutant("I3", "allocation")
def average_price_before_the_end(patch: Patch) -> None:
    """Fills that have to wait for the order's end are divided at once."""
    waits = AllocationMethod.AVERAGE_PRICE
    rules = {**allocation.RULES, waits: allocation.RULES[waits]._replace(waits=False)}
    patch.setattr(allocation, "RULES", rules)
