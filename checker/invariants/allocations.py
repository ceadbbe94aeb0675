"""I3: every fill is allocated once, and exactly: lots, notional and fee of its allocations are its own.

Who gets how much is judged by the instruction that an allocation names, in fractions. By weight, the lots of
a share are less than one off its part of all that was filled under that instruction, after every fill. By
priority, a share has its lots before the next one has any.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from checker.findings import Findings
from checker.history import ALLOCATION, Slice, Trace, Traces
from checker.records import EXECUTIONS, InstrumentListed, SetAllocation, TradeAllocated, TradeExecuted
from checker.reference import Reference
from models.values import MICROS, AllocationMethod

I3 = "I3"
KIND: Final = "SetAllocation"

Group = list[TradeAllocated]
Groups = dict[tuple[str, str | None], Group]
"""Allocations by order and trade, None for fills that waited for the order's end, in the order of the log."""


class Whole(NamedTuple):
    """What a group has to add up to; `fee` None: not told."""

    lots: int
    tick_lots: int
    fee: tuple[int, str | None] | None


def check_allocations(history: Slice, traces: Traces, reference: Reference) -> Findings:
    """Compare allocations with fills, and with instructions.

    Only in a quiet history is what is missing a violation; the accounts of which allocation has a report as a
    dead letter are left out then.
    """
    found = Findings()
    if not history.allocates:
        return found
    groups = _grouped(history, found)
    by_order: dict[str, list[Group]] = {}
    for (order_id, _), group in groups.items():
        by_order.setdefault(order_id, []).append(group)
    blind = {letter.key for letter in history.letters(ALLOCATION, EXECUTIONS)}
    for key in blind:
        message = "allocation has a dead letter about this account"
        found.skip(I3, message, (key or b"?").decode(errors="replace"))
    instructions = _Instructions(reference)
    for order_id, of_order in by_order.items():
        _compare_order(history, traces.get(order_id), of_order, reference, found)
        _compare_shares(of_order, instructions, found)
    if history.quiet:
        for trace in traces:
            if trace.order is not None and trace.order.account_id.encode() not in blind:
                _find_missing(trace, groups, found)
    return found


def _grouped(history: Slice, found: Findings) -> Groups:
    groups: Groups = {}
    for record in history.allocations:
        if not record.ours:
            continue
        if record.event is None:
            found.violate(I3, "an allocation that nobody can read", f"offset {record.offset}")
            continue
        groups.setdefault((record.event.order_id, record.event.trade_id), []).append(record.event)
    return groups


def _fills(trace: Trace | None) -> dict[str, TradeExecuted]:
    reports = () if trace is None else trace.reports
    return {each.event.trade_id: each.event for each in reports if isinstance(each.event, TradeExecuted)}


def _find_missing(trace: Trace, groups: Groups, found: Findings) -> None:
    if not trace.ended or (trace.order_id, None) in groups:
        return
    for trade_id in _fills(trace):
        if (trace.order_id, trade_id) not in groups:
            found.violate(I3, "a fill of an order that has ended was not allocated", trade_id)


# -- what allocations add up to


def _compare_order(
    history: Slice, trace: Trace | None, of_order: Iterable[Group], reference: Reference, found: Findings
) -> None:
    fills = _fills(trace)
    alone = {group[0].trade_id for group in of_order}
    for group in of_order:
        first = group[0]
        if first.trade_id is None:
            meant = [fill for trade_id, fill in fills.items() if trade_id not in alone]
            if meant and trace is not None and not trace.ended:
                found.violate(I3, "fills that wait were allocated before the order's end", first.order_id)
        else:
            meant = [fills[first.trade_id]] if first.trade_id in fills else []
        if meant:
            _compare_group(group, meant, reference, found, quiet=history.quiet)
        elif history.whole:
            found.violate(I3, "an allocation without its fill", first.allocation_id)


def _compare_group(
    group: Group, fills: Sequence[TradeExecuted], reference: Reference, found: Findings, *, quiet: bool
) -> None:
    first = group[0]
    source = first.order_id if first.trade_id is None else first.trade_id
    names = [each.sub_account for each in group]
    if len(set(names)) < len(names):
        found.violate(I3, "a fill was allocated to a sub-account more than once", source)
        return
    for each in group:
        if each.allocation_id != f"{source}/{each.sub_account}":
            found.violate(I3, "an allocation has not the id of its fill and sub-account", each.allocation_id)
        if each.quantity_lots < 1:
            found.violate(I3, "an allocation of no lots", each.allocation_id)
        if _terms(each) != _terms_of(fills, each):
            found.violate(I3, "an allocation has not the terms of its fill", each.allocation_id)
    lots = sum(each.quantity_lots for each in group)
    whole = _whole(fills)
    if lots > whole.lots:
        found.violate(I3, "more was allocated than was filled", f"{source}: {lots} of {whole.lots}")
    elif lots < whole.lots and quiet:
        found.violate(I3, "less was allocated than was filled", f"{source}: {lots} of {whole.lots}")
    elif lots == whole.lots:
        _compare_money(group, whole, reference, found)


def _whole(fills: Sequence[TradeExecuted]) -> Whole:
    fees = [each.fee_micros for each in fills if each.fee_micros is not None]
    currencies = {each.fee_currency for each in fills}
    is_told = len(fees) == len(fills) and len(currencies) == 1
    return Whole(
        sum(each.quantity_lots for each in fills),
        sum(each.quantity_lots * each.price_ticks for each in fills),
        (sum(fees), currencies.pop()) if is_told else None,
    )


def _terms(allocation: TradeAllocated) -> tuple[object, ...]:
    average = allocation.average
    return (
        allocation.account_id,
        allocation.symbol,
        allocation.side,
        allocation.price_ticks,
        None if average is None else (average.tick_lots, average.lots),
        allocation.trade_date,
        allocation.traded_at_ms,
        allocation.counterparty,
    )


def _terms_of(fills: Sequence[TradeExecuted], allocation: TradeAllocated) -> tuple[object, ...]:
    last, whole = fills[-1], _whole(fills)
    waited = allocation.trade_id is None
    parties = {each.counterparty for each in fills}
    return (
        last.account_id,
        last.symbol,
        last.side,
        None if waited else last.price_ticks,
        (whole.tick_lots, whole.lots) if waited else None,
        last.trade_date,
        last.traded_at_ms,
        last.counterparty if len(parties) == 1 else None,
    )


def _compare_money(group: Group, whole: Whole, reference: Reference, found: Findings) -> None:
    first = group[0]
    fees = [each.fee_micros for each in group]
    if whole.fee is None or not _adds_up(group, fees, whole.fee[0], whole.lots):
        if whole.fee is not None or set(fees) != {None}:
            found.violate(I3, "the fees of allocations are not the fee of their fill", first.allocation_id)
    elif {each.fee_currency for each in group} != {whole.fee[1]}:
        found.violate(I3, "the fee of an allocation is in another currency", first.allocation_id)
    notional = [each.notional_micros for each in group]
    micros = _micros_per_tick_lot(first.symbol, reference)
    if micros is None or set(notional) == {None}:
        found.skip(I3, "what the lots of an allocation are worth is not known", first.symbol)
    elif not _adds_up(group, notional, whole.tick_lots * micros, whole.lots):
        message = "the notional of allocations is not that of their fill"
        found.violate(I3, message, first.allocation_id)


def _adds_up(group: Group, parts: Sequence[int | None], amount: int, lots: int) -> bool:
    """Whether the parts are all of the amount, each less than one off what its lots stand for."""
    told = [part for part in parts if part is not None]
    return (
        len(told) == len(group)
        and sum(told) == amount
        and all(
            abs(part - Fraction(amount * each.quantity_lots, lots)) < 1
            for part, each in zip(told, group, strict=True)
        )
    )


def _micros_per_tick_lot(symbol: str, reference: Reference) -> int | None:
    """None where it is not known, or was not always the same."""
    listed = reference.instruments.last(symbol)
    if not isinstance(listed, InstrumentListed) or reference.was_rescaled(symbol):
        return None
    terms = listed.instrument
    return int(terms.tick * terms.lot * terms.multiplier * MICROS)


# -- who gets how much


class _Instructions:
    """The instructions that were accepted, by account, and by order and version."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._known: dict[str, dict[tuple[str, int], SetAllocation]] = {}

    def of(self, account_id: str) -> Mapping[tuple[str, int], SetAllocation]:
        if account_id not in self._known:
            paired = self._reference.paired((KIND, account_id))
            self._known[account_id] = {
                (given.command.order_id, given.command.version): given.command
                for given, answered in paired
                if isinstance(given.command, SetAllocation) and answered.answer.accepted
            }
        return self._known[account_id]


def _compare_shares(of_order: Iterable[Group], instructions: _Instructions, found: Findings) -> None:
    named: tuple[str | None, int | None] = (None, None)
    had: dict[str, int] = {}
    for group in of_order:
        first = group[0]
        before, named = named, (first.instruction_order, first.instruction_version)
        if named != before:
            had = {}
        if named[0] is None or named[1] is None:
            if [each.sub_account for each in group] != [first.account_id]:
                message = "an account without an instruction did not keep its fill"
                found.violate(I3, message, first.allocation_id)
            continue
        command = instructions.of(first.account_id).get((named[0], named[1]))
        if command is None:
            found.skip(I3, "the instruction that an allocation names is not there", first.allocation_id)
            continue
        told = {(each.method, each.instruction_order, each.instruction_version) for each in group}
        if told != {(command.method, *named)}:
            found.violate(I3, "a fill was not allocated by one instruction alone", first.allocation_id)
        if command.method is AllocationMethod.AVERAGE_PRICE and first.trade_id is not None:
            message = "a fill was allocated that has to wait for the order's end"
            found.violate(I3, message, first.allocation_id)
        for name, lots in _meant(group).items():
            had[name] = had.get(name, 0) + lots
        if not _is_due(had, command):
            found.violate(I3, "an allocation is not what its instruction says", first.allocation_id)


def _meant(group: Group) -> dict[str, int]:
    """For whom the lots were meant, also where the block account has them; "" for those without a share."""
    meant: dict[str, int] = {}
    for each in group:
        diverted = sum(part.quantity_lots for part in each.diverted)
        parts = [(each.sub_account, each.quantity_lots - diverted)]
        parts += [(part.sub_account or "", part.quantity_lots) for part in each.diverted]
        for name, lots in parts:
            meant[name] = meant.get(name, 0) + lots
    return {name: lots for name, lots in meant.items() if lots}


def _is_due(had: Mapping[str, int], command: SetAllocation) -> bool:
    """Whether each share has its lots of all that was filled under the instruction."""
    filled, shares = sum(had.values()), command.shares
    if command.method is AllocationMethod.PRIORITY:
        due, left = {}, filled
        for share in shares:
            due[share.sub_account] = left if share.lots is None else min(left, share.lots)
            left -= due[share.sub_account]
        return dict(had) == {name: lots for name, lots in {**due, "": left}.items() if lots}
    weights = {share.sub_account: share.weight or 0 for share in shares}
    weight = sum(weights.values())
    return had.keys() <= weights.keys() and all(
        abs(had.get(name, 0) - Fraction(filled * each, weight)) < 1 for name, each in weights.items()
    )
