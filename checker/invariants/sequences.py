"""I1: an account's orders are numbered upwards; what repeats, leaps, or is nobody's moves nothing.

A replace takes one of the account's numbers, a cancel none.

An operator may set an account's sequence. When risk took that command in is known by its answer, to within a
moment of its decisions around it: until one of them settles it, both readings are kept.

The release before knew no leaps, and counted the orders of accounts that it did not know.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from checker.findings import Findings
from checker.history import Slice, of_kinds
from checker.records import (
    Logged,
    Order,
    OrderRiskApproved,
    OrderRiskRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    RiskDecision,
)
from checker.reference import Reference
from checker.shards import is_elsewhere

I1 = "I1"
SEQUENCE_LEAP_MAX: Final = 10_000_000
ANSWER_MS_MAX: Final = 1_000
"""How far apart, by the broker's clock, an answer and a decision of one transaction may be appended."""

SET_BELOW = "an account's sequence was set below an order that was approved"
UNKNOWN_ACCOUNT, DUPLICATE, LEAP = "unknown_account", "duplicate_order_id", "sequence_leap"

Set = tuple[int, int]
"""When an account's last sequence was set, and to what."""


Decision = RiskDecision | ReplaceRiskApproved | ReplaceRiskRejected


class _State(NamedTuple):
    """An account's last sequence, and how many of the operators' commands about it were taken in."""

    last: int
    taken: int


NEW: Final = _State(0, 0)


def check_sequences(history: Slice, reference: Reference) -> Findings:
    """Follow each account's last sequence through risk's decisions, in log order."""
    found = Findings()
    _follow(history, reference, found)
    _check_sets(history, reference, found)
    return found


def last_sequences(history: Slice, reference: Reference) -> dict[str, frozenset[int]]:
    """What each account's last sequence may be once all is decided; an account without any is not in it."""
    accounts = _follow(history, reference, Findings())
    for account_id in reference.sequences:
        if not is_elsewhere(account_id.encode(), history.partition, history.partitions):
            accounts.setdefault(account_id, {NEW})
    return {
        account_id: frozenset(_finally(state, reference.sequences.get(account_id, ())) for state in states)
        for account_id, states in accounts.items()
    }


def _follow(history: Slice, reference: Reference, found: Findings) -> dict[str, set[_State]]:
    accounts: dict[str, set[_State]] = {}
    for record in _numbered(history):
        decision = record.event
        if decision is None or (_reason(decision) == UNKNOWN_ACCOUNT and not _is_of_before(decision)):
            continue
        account_id = _about(decision).account_id
        sets = reference.sequences.get(account_id, ())
        states = _before(accounts.get(account_id, {NEW}), sets, record.timestamp_ms)
        told = {state: _fault(state.last, decision) for state in states}
        possible = [state for state in states if told[state] is None]
        is_first_of_a_rest = account_id not in accounts and not history.whole
        if not possible and not is_first_of_a_rest:
            message = next(message for message in told.values() if message is not None)
            found.violate(I1, message, _name(_about(decision)))
        accounts[account_id] = {_after(state, decision) for state in possible or states}
    return accounts


def _numbered(history: Slice) -> Iterator[Logged[Decision]]:
    """Risk's decisions of orders and of replaces, in log order."""
    kinds = (OrderRiskApproved, OrderRiskRejected, ReplaceRiskApproved, ReplaceRiskRejected)
    return of_kinds(kinds, history.risk, history.asked_risk)


def _about(decision: Decision) -> Order | ReplaceRequested:
    return decision.order if isinstance(decision, RiskDecision) else decision.request


def _name(about: Order | ReplaceRequested) -> str:
    return about.order_id if isinstance(about, Order) else about.request_id


def _finally(state: _State, sets: Sequence[Set]) -> int:
    """The last sequence once every command is taken in."""
    return sets[-1][1] if state.taken < len(sets) else state.last


def _before(states: set[_State], sets: Sequence[Set], at_ms: int) -> set[_State]:
    """What an account may have stood at before a decision of that time."""
    if not sets:
        return states
    surely = sum(set_at <= at_ms - ANSWER_MS_MAX for set_at, _ in sets)
    maybe = sum(set_at <= at_ms + ANSWER_MS_MAX for set_at, _ in sets)
    found = {state for state in states if state.taken >= surely}
    for state in states:
        found |= {_State(sets[n - 1][1], n) for n in range(max(state.taken + 1, surely), maybe + 1)}
    return found


def _after(state: _State, decision: Decision) -> _State:
    moves = _reason(decision) not in (DUPLICATE, LEAP)
    return state._replace(last=_about(decision).sequence) if moves else state


def _reason(decision: Decision) -> str:
    return decision.reason if isinstance(decision, OrderRiskRejected | ReplaceRiskRejected) else ""


def _is_of_before(decision: Decision) -> bool:
    """Whether the release before this one's rules has made it."""
    if isinstance(decision, OrderRiskApproved):
        return not decision.decided_at_ms
    return isinstance(decision, OrderRiskRejected) and decision.detail is None


def _fault(last: int, decision: Decision) -> str | None:
    """What is wrong with a decision when that was the account's last sequence."""
    sequence, reason = _about(decision).sequence, _reason(decision)
    if sequence <= last:
        return (
            None if reason == DUPLICATE else "a sequence that is not above the account's last was not refused"
        )
    if reason == DUPLICATE:
        return "an order was refused as a repeat, but its sequence is new"
    if (sequence > last + SEQUENCE_LEAP_MAX) != (reason == LEAP) and not _is_of_before(decision):
        return (
            "a sequence was refused as a leap that is none"
            if reason == LEAP
            else "a leap of a sequence was not refused"
        )
    return None


def _check_sets(history: Slice, reference: Reference, found: Findings) -> None:
    """No command sets an account back below an order approved before it: the id would be two orders."""
    if not reference.sequences:
        return
    for record in _numbered(history):
        if not isinstance(record.event, OrderRiskApproved | ReplaceRiskApproved):
            continue
        about = _about(record.event)
        for set_at, last in reference.sequences.get(about.account_id, ()):
            if record.timestamp_ms < set_at - ANSWER_MS_MAX and last < about.sequence:
                found.violate(I1, SET_BELOW, _name(about))
