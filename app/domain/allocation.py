"""Who gets what of a block order's fills: instructions, and how lots, notional and fees are divided.

Amounts are whole: lots and micros. A division adds up exactly, and gives nobody less than nothing or a whole
unit more or less than the exact share. For lots this holds after every fill of an order, for what is filled
under one instruction so far. To give the next unit to whoever is furthest behind would break it: with many
shares, several can be a whole unit behind at once. So the next unit goes to whoever has to have one first,
as in Tijdeman's chairman assignment.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from app.domain.fills import number_of
from app.domain.refdata import DEALT_IN_BEFORE, unusable_name
from app.domain.reference import Known
from models.commands import AllocationShare, SetAllocation
from models.events import (
    AccountRegistered,
    AveragePrice,
    CommandAnswered,
    Diverted,
    Execution,
    InstrumentListed,
    TradeAllocated,
    TradeExecuted,
    VenueReport,
)
from models.reasons import DivertedReason
from models.values import EVERY_ORDER, AllocationMethod, PartyStatus, State

SHARES_MAX: Final = 100
GIVEN_KEPT_MAX: Final = 1_000
"""So many of an account's last fills are kept with what they gave to whom."""

Shares = Sequence[AllocationShare]
Lots = tuple[int, ...]
Accounts = Known[AccountRegistered]


class Filled(State, frozen=True, omit_defaults=True):
    """What is to be divided: a fill, or all fills of an order that wait for its end.

    `tick_lots` is the sum of price times lots. `trade_id` and `price_ticks` are None for fills that wait.
    """

    lots: int
    tick_lots: int
    trade_id: str | None = None
    price_ticks: int | None = None
    fee_micros: int | None = None
    fee_currency: str | None = None
    trade_date: str | None = None
    traded_at_ms: int | None = None
    counterparty: str | None = None


class BlockOrder(State, frozen=True, omit_defaults=True):
    """How far an order with fills is allocated.

    `given` are the lots of each share of the instruction `instruction_order` and `instruction_version`, both
    None without one, since that was first met. `allocated_lots` are those of all instructions.
    `micros_per_tick_lot` is the instrument's at the first fill; None: nobody knew it. `waiting` are fills
    that wait for the order's end.
    """

    leaves_lots: int
    micros_per_tick_lot: int | None
    given: Lots
    instruction_order: str | None = None
    instruction_version: int | None = None
    allocated_lots: int = 0
    waiting: Filled | None = None


class BlockAccount(State, frozen=True):
    """How far an account's reports are read, and how many of its fills have been allocated."""

    venue_sequence_last: int = 0
    fills_given: int = 0


class Part(State, frozen=True, omit_defaults=True):
    """What one sub-account got."""

    sub_account: str
    lots: int
    notional_micros: int | None = None
    fee_micros: int | None = None


class Given(State, frozen=True):
    """What a fill gave to whom; `trade_id` None: all fills of the order that had waited for its end."""

    order_id: str
    trade_id: str | None
    parts: tuple[Part, ...]


NEW_BLOCK_ACCOUNT: Final = BlockAccount()


# -- how amounts are divided


def split(amount: int, weights: Sequence[int], given: Sequence[int]) -> Lots:
    """What each gets of the next `amount` units, after the `given` ones, which were divided in the same way.

    Everybody is due the whole part of the exact share of all units. Of the units left over each goes to who
    is due a whole one more after the fewest further units; ties go in the order of the weights.
    """
    total, weight = sum(given) + amount, sum(weights)
    whole = [total * each // weight for each in weights]
    after = [max(had, due) for had, due in zip(given, whole, strict=True)]
    next_due = sorted(
        (-(-(whole[at] + 1) * weight // each), at)
        for at, each in enumerate(weights)
        if after[at] == whole[at] and total * each % weight
    )
    for _, at in next_due[: total - sum(after)]:
        after[at] += 1
    return tuple(now - had for now, had in zip(after, given, strict=True))


def share_out(amount: int, lots: Sequence[int]) -> Lots:
    """Divide an amount, negative or not, in proportion to lots."""
    parts = split(abs(amount), lots, [0] * len(lots))
    return parts if amount >= 0 else tuple(-each for each in parts)


def by_weight(shares: Shares, given: Sequence[int], lots: int) -> Lots:
    """Each share's part of a fill by its weight."""
    return split(lots, [share.weight or 0 for share in shares], given)


def in_turn(shares: Shares, given: Sequence[int], lots: int) -> Lots:
    """Each share's part of a fill: the first until it has its lots, then the next. They may be too few."""
    parts = []
    for share, had in zip(shares, given, strict=True):
        part = lots if share.lots is None else min(lots, share.lots - had)
        parts.append(part)
        lots -= part
    return tuple(parts)


class Rule(NamedTuple):
    """A method: how it divides, which field of a share it goes by, whether fills wait for the order's end."""

    divide: Callable[[Shares, Sequence[int], int], Lots]
    measure: str
    waits: bool = False


RULES: Final = {
    AllocationMethod.PRO_RATA: Rule(by_weight, "weight"),
    AllocationMethod.PRIORITY: Rule(in_turn, "lots"),
    AllocationMethod.AVERAGE_PRICE: Rule(by_weight, "weight", waits=True),
}


# -- fills


def is_repeat(account: BlockAccount, report: Execution) -> bool:
    """Whether the report was booked before: the venue's numbers only grow for an account."""
    return isinstance(report, VenueReport) and report.venue_sequence <= account.venue_sequence_last


def micros_per_tick_lot(instruments: Known[InstrumentListed], symbol: str) -> int | None:
    """What a tick of a lot is worth; None where nobody can read it. Raises LookupError: it will come yet."""
    listed = instruments.values.get(symbol) or DEALT_IN_BEFORE.get(symbol)
    if listed is not None:
        return listed.instrument.micros_per_tick_lot
    if symbol in instruments.unreadable:
        return None
    raise LookupError(f"the instrument {symbol[:64]!r} has a fill, and is not listed")


def fill(
    order: BlockOrder, instruction: SetAllocation | None, trade: TradeExecuted, accounts: Accounts
) -> tuple[BlockOrder, list[TradeAllocated]]:
    """Book a fill: divide it at once, or let it wait for the order's end."""
    order = replace(order, leaves_lots=trade.leaves_lots)
    filled = _filled(trade)
    if instruction is not None and RULES[instruction.method].waits:
        return replace(order, waiting=_together(order.waiting, filled)), []
    return _divide(order, instruction, trade, filled, accounts)


def end(
    order: BlockOrder, instruction: SetAllocation | None, report: VenueReport, accounts: Accounts
) -> list[TradeAllocated]:
    """Divide what has waited for the order's end, by the instruction that is in force then."""
    if order.waiting is None:
        return []
    return _divide(order, instruction, report, order.waiting, accounts)[1]


def _filled(trade: TradeExecuted) -> Filled:
    return Filled(
        lots=trade.quantity_lots,
        tick_lots=trade.price_ticks * trade.quantity_lots,
        trade_id=trade.trade_id,
        price_ticks=trade.price_ticks,
        fee_micros=trade.fee_micros,
        fee_currency=trade.fee_currency,
        trade_date=trade.trade_date,
        traded_at_ms=trade.traded_at_ms,
        counterparty=trade.counterparty,
    )


def _together(before: Filled | None, last: Filled) -> Filled:
    """Several fills as one, at their average price."""
    last = replace(last, trade_id=None, price_ticks=None)
    if before is None:
        return last
    fee_micros = None
    if None not in (before.fee_micros, last.fee_micros) and before.fee_currency == last.fee_currency:
        fee_micros = (before.fee_micros or 0) + (last.fee_micros or 0)
    return replace(
        last,
        lots=before.lots + last.lots,
        tick_lots=before.tick_lots + last.tick_lots,
        fee_micros=fee_micros,
        fee_currency=None if fee_micros is None else last.fee_currency,
        counterparty=last.counterparty if last.counterparty == before.counterparty else None,
    )


def _divide(
    order: BlockOrder,
    instruction: SetAllocation | None,
    about: VenueReport,
    filled: Filled,
    accounts: Accounts,
) -> tuple[BlockOrder, list[TradeAllocated]]:
    """Give every sub-account its lots, and notional and fee in proportion to them."""
    order = _under(order, instruction)
    parts: Lots = ()
    if instruction is not None:
        parts = RULES[instruction.method].divide(instruction.shares, order.given, filled.lots)
    lots, diverted = _who(instruction, about.account_id, parts, filled.lots, accounts)
    notional, fees = (
        [None] * len(lots) if amount is None else share_out(amount, list(lots.values()))
        for amount in (
            None if order.micros_per_tick_lot is None else filled.tick_lots * order.micros_per_tick_lot,
            filled.fee_micros,
        )
    )
    source = filled.trade_id if filled.trade_id is not None else about.order_id
    average = AveragePrice(tick_lots=filled.tick_lots, lots=filled.lots) if filled.trade_id is None else None
    allocations = [
        TradeAllocated(
            allocation_id=f"{source}/{sub_account}",
            account_id=about.account_id,
            sub_account=sub_account,
            order_id=about.order_id,
            trade_id=filled.trade_id,
            symbol=about.symbol,
            side=about.side,
            quantity_lots=lots[sub_account],
            price_ticks=filled.price_ticks,
            notional_micros=notional_micros,
            fee_micros=fee_micros,
            fee_currency=None if fee_micros is None else filled.fee_currency,
            trade_date=filled.trade_date,
            traded_at_ms=filled.traded_at_ms,
            counterparty=filled.counterparty,
            method=None if instruction is None else instruction.method,
            instruction_order=order.instruction_order,
            instruction_version=order.instruction_version,
            average=average,
            diverted=diverted if sub_account == about.account_id else (),
        )
        for sub_account, notional_micros, fee_micros in zip(lots, notional, fees, strict=True)
    ]
    given = tuple(had + part for had, part in zip(order.given, parts, strict=True))
    return replace(order, given=given, allocated_lots=order.allocated_lots + filled.lots), allocations


def _under(order: BlockOrder, instruction: SetAllocation | None) -> BlockOrder:
    """The order under the instruction in force: one that it has not met yet has given nothing."""
    named = (None, None) if instruction is None else (instruction.order_id, instruction.version)
    if named == (order.instruction_order, order.instruction_version):
        return order
    shares = 0 if instruction is None else len(instruction.shares)
    return replace(order, instruction_order=named[0], instruction_version=named[1], given=(0,) * shares)


def _who(
    instruction: SetAllocation | None, account_id: str, parts: Lots, all_lots: int, accounts: Accounts
) -> tuple[dict[str, int], tuple[Diverted, ...]]:
    """The lots of each sub-account. What one cannot have, and what no share had room for, the block account
    keeps: that is told."""
    lots: dict[str, int] = {}
    diverted = []
    for share, part in zip(() if instruction is None else instruction.shares, parts, strict=True):
        if not part:
            continue
        reason = barred(share.sub_account, accounts) if share.sub_account != account_id else None
        if reason is not None:
            diverted.append(Diverted(sub_account=share.sub_account, quantity_lots=part, reason=reason))
        receiver = share.sub_account if reason is None else account_id
        lots[receiver] = lots.get(receiver, 0) + part
    rest = all_lots - sum(parts)
    if rest:
        lots[account_id] = lots.get(account_id, 0) + rest
        if instruction is not None:
            no_room = Diverted(sub_account=None, quantity_lots=rest, reason=DivertedReason.NO_ROOM)
            diverted.append(no_room)
    return lots, tuple(diverted)


def barred(sub_account: str, accounts: Accounts) -> DivertedReason | None:
    """Why a sub-account can be given nothing now."""
    if sub_account in accounts.unreadable:
        return DivertedReason.UNREADABLE_ACCOUNT
    registered = accounts.values.get(sub_account)
    if registered is None:
        return DivertedReason.UNKNOWN_ACCOUNT
    return None if registered.status is PartyStatus.ACTIVE else DivertedReason.ACCOUNT_SUSPENDED


def given_by(allocations: Sequence[TradeAllocated]) -> Given:
    """What the allocations of one fill gave to whom."""
    first = allocations[0]
    return Given(
        order_id=first.order_id,
        trade_id=first.trade_id,
        parts=tuple(
            Part(
                sub_account=each.sub_account,
                lots=each.quantity_lots,
                notional_micros=each.notional_micros,
                fee_micros=each.fee_micros,
            )
            for each in allocations
        ),
    )


def after_report(account: BlockAccount, report: Execution, fills: int) -> BlockAccount:
    """The account after a report of which so many fills were allocated."""
    number = report.venue_sequence if isinstance(report, VenueReport) else account.venue_sequence_last
    return BlockAccount(venue_sequence_last=number, fills_given=account.fills_given + fills)


# -- instructions


class Standing(NamedTuple):
    """What an instruction is judged by: the one in force in its place, the accounts, and what was filled.

    `order` is the order that it names, `account` its account; None: not filled so far.
    """

    in_force: SetAllocation | None
    accounts: Accounts
    order: BlockOrder | None = None
    account: BlockAccount | None = None


def decide_instruction(command: SetAllocation, standing: Standing) -> CommandAnswered:
    """Accept an instruction, with what stays as it is, or refuse it: the first reason that there is."""
    refusal = "" if command == standing.in_force else next(_refusals(command, standing), "")
    return CommandAnswered(
        command=SetAllocation.__name__,
        subject=command.account_id,
        version=command.version,
        accepted=not refusal,
        reason=refusal or _stays(standing),
        who=command.who,
        why=command.why,
    )


def unread_answer(account_id: str, why_not: str) -> CommandAnswered:
    """The answer to a record that cannot be read."""
    return CommandAnswered(
        command=SetAllocation.__name__,
        subject=account_id[:256],
        version=None,
        accepted=False,
        reason=why_not[:1_024],
    )


def _stays(standing: Standing) -> str:
    """What an accepted instruction does not change."""
    if standing.order is not None:
        waiting = standing.order.waiting
        waits = f"; {waiting.lots} lots wait for the order's end and follow it" if waiting else ""
        return f"counts from the next fill on, {standing.order.allocated_lots} lots stay allocated{waits}"
    if standing.account is not None and standing.account.fills_given:
        return "counts from the next fill on, what is allocated stays"
    return ""


def _refusals(command: SetAllocation, standing: Standing) -> Iterator[str]:
    account_id, order_id, shares = command.account_id, command.order_id, command.shares
    if unusable := unusable_name(account_id):
        yield f"account_id: {unusable}"
    if order_id != EVERY_ORDER and not number_of(account_id, order_id):
        yield (
            f"order_id {order_id[:64]!r} is no order of the account: send its id, "
            f"<account_id>-<sequence>, or {EVERY_ORDER!r} for every order"
        )
    if standing.in_force is not None and command.version <= standing.in_force.version:
        yield (
            f"version {command.version} is not above {standing.in_force.version}, the one in force: send it "
            "again with a higher version"
        )
    if not 1 <= len(shares) <= SHARES_MAX:
        yield f"shares: there are {len(shares)}; send 1 to {SHARES_MAX}"
    names = [share.sub_account for share in shares]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"the sub-account {name!r} is there twice: send one share for each"
    yield from _of_measures(command)
    if command.method is AllocationMethod.PRIORITY and shares[-1].lots is not None:
        yield from _of_room(command, standing.order)
    yield from _of_accounts(command, standing.accounts)


def _of_measures(command: SetAllocation) -> Iterator[str]:
    measure = RULES[command.method].measure
    for at, share in enumerate(command.shares, 1):
        for name in {"weight", "lots"} - {measure}:
            if getattr(share, name) is not None:
                yield f"{name} of {share.sub_account!r}: {command.method} goes by {measure}; leave it out"
        value = getattr(share, measure)
        may_lack = measure == "lots" and at == len(command.shares)
        if value is None and not may_lack:
            yield f"{measure} of {share.sub_account!r}: {command.method} needs one of 1 or more"
        if value is not None and value < 1:
            yield f"{measure} of {share.sub_account!r} is {value}: send 1 or more"


def _of_room(command: SetAllocation, order: BlockOrder | None) -> Iterator[str]:
    """Why shares that are all limited cannot hold the order. That of an order without a fill nobody knows."""
    room = sum(share.lots or 0 for share in command.shares)
    if command.order_id == EVERY_ORDER:
        yield f"an order may have more than the {room} lots of all shares: leave out lots of the last one"
    open_lots = 0 if order is None else order.leaves_lots + (order.waiting.lots if order.waiting else 0)
    if open_lots > room:
        yield (
            f"the order has {open_lots} lots to divide, all shares hold {room}: raise them, or leave out "
            "lots of the last one"
        )


def _of_accounts(command: SetAllocation, accounts: Accounts) -> Iterator[str]:
    currencies = []
    for name in (command.account_id, *(share.sub_account for share in command.shares)):
        if name in accounts.unreadable:
            yield f"the account {name[:64]!r} cannot be read: register it again, then send this again"
        elif name not in accounts.values:
            yield f"the account {name[:64]!r} is not registered: register it, then send this again"
        else:
            currencies.append((accounts.values[name].base_currency, name))
    for currency, name in currencies[1:]:
        if currency != currencies[0][0]:
            yield (
                f"the base currency of {name[:64]!r} is {currency}, the block account's {currencies[0][0]}: "
                "choose sub-accounts of the same"
            )
