"""I3: position = sum of executions, and what is reserved = what is open, by account and symbol."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from checker.findings import Findings
from checker.history import RISK, Slice, Trace, Traces
from checker.invariants.sequences import last_sequences
from checker.records import (
    COMPLIANCE_DECISIONS,
    EXECUTIONS,
    CancelAccepted,
    Order,
    ReplaceRiskApproved,
)
from checker.reference import Reference
from checker.requests import Asking
from models.values import Side

I3 = "I3"

T = TypeVar("T")


class Holding(msgspec.Struct):
    """Lots of one symbol in the changelog of `positions`."""

    position_lots: int = 0
    open_buy_lots: int = 0
    open_sell_lots: int = 0
    reference_price_ticks: int = 0

    @property
    def lots(self) -> tuple[int, int, int]:
        return self.position_lots, self.open_buy_lots, self.open_sell_lots


class Books(msgspec.Struct):
    """What counts here of a value of the changelog of `positions`."""

    last_sequence: int | None = None
    open_orders: int = 0
    holdings: dict[str, Holding] = {}


class Pending(msgspec.Struct, frozen=True):
    """A replace that is on its way: the new total quantity and the new price."""

    request_id: str
    quantity_lots: int
    price_ticks: int


class Reservation(msgspec.Struct, frozen=True):
    """A value of the changelog of `reservations`.

    `quantity_lots` is the total in force, None in what a release has written that did not keep it.
    """

    order_id: str
    symbol: str
    side: Side
    price_ticks: int
    open_lots: int
    quantity_lots: int | None = None
    cancel_id: str | None = None
    replace: Pending | None = None


NO_BOOKS = Books()
NOTHING = Holding()


def check_positions(history: Slice, traces: Traces, reference: Reference) -> Findings:
    """Compare risk's books, as its changelogs have them, with what the log makes of the orders.

    Only a quiet history has the changelogs and the events at one cut; accounts of which risk has a decision
    or execution as a dead letter are left out. An account that risk does not know has no books.
    """
    found = Findings()
    if not history.quiet:
        found.skip(I3, "books are compared with the log only when all is quiet", history.partition)
        return found
    blind = {letter.key for letter in history.letters(RISK, COMPLIANCE_DECISIONS, EXECUTIONS)}
    for key in blind:
        found.skip(I3, "risk has a dead letter about this account", (key or b"?").decode(errors="replace"))
    blind_ids = {(key or b"").decode(errors="replace") for key in blind}
    expected, reservations = _expected(traces)
    sequences = last_sequences(history, reference)
    _compare_books(history.positions, expected, blind_ids, found)
    _compare_sequences(history, sequences, expected.keys() | blind_ids, found)
    _compare_reservations(history.reservations, reservations, blind_ids, found)
    return found


def _expected(traces: Traces) -> tuple[dict[str, Books], dict[str, Reservation]]:
    books: dict[str, Books] = {}
    reservations: dict[str, Reservation] = {}
    for trace in traces:
        order = trace.order
        if order is None or not trace.approvals:
            continue
        account = books.setdefault(order.account_id, Books(holdings={}))
        reservation = _reservation(trace, order, traces.requests.of(order.order_id))
        holding = account.holdings.setdefault(order.symbol, Holding())
        _add(holding, order.side, trace.filled_lots, _reserved_lots(reservation))
        if reservation is not None:
            account.open_orders += 1
            reservations[f"{order.account_id}/{order.order_id}"] = reservation
    return books, reservations


def _reservation(trace: Trace, order: Order, asked: Sequence[Asking]) -> Reservation | None:
    """What is reserved for an order that is open, by the terms in force and by those that are asked for."""
    total_lots = trace.quantity_lots(order)
    if trace.ended or total_lots == trace.filled_lots:
        return None
    cancel_id, wanted = None, None
    for asking in asked:
        if asking.answered_at_ms is not None:
            continue
        match asking.let:
            case CancelAccepted():
                cancel_id = asking.venue_id
            case ReplaceRiskApproved(request=request):
                wanted = Pending(request.request_id, request.quantity_lots, request.price_ticks)
    return Reservation(
        order.order_id,
        order.symbol,
        order.side,
        trace.price_ticks(order),
        total_lots - trace.filled_lots,
        total_lots,
        cancel_id,
        wanted,
    )


def _reserved_lots(reservation: Reservation | None) -> int:
    """What is open, and what a pending replace asks for beyond the order as it is."""
    if reservation is None:
        return 0
    wanted, total_lots = reservation.replace, reservation.quantity_lots or 0
    return reservation.open_lots + (max(0, wanted.quantity_lots - total_lots) if wanted is not None else 0)


def _add(holding: Holding, side: Side, filled_lots: int, open_lots: int) -> None:
    if side is Side.BUY:
        holding.position_lots += filled_lots
        holding.open_buy_lots += open_lots
    else:
        holding.position_lots -= filled_lots
        holding.open_sell_lots += open_lots


def _compare_books(
    changelog: Mapping[bytes, bytes], expected: Mapping[str, Books], blind: set[str], found: Findings
) -> None:
    actual = {key.decode(): _read(value, Books) for key, value in changelog.items()}
    for account_id in sorted((actual.keys() | expected.keys()) - blind):
        theirs, ours = actual.get(account_id, NO_BOOKS), expected.get(account_id, NO_BOOKS)
        if theirs is None:
            found.violate(I3, "a value of positions that nobody can read", account_id)
            continue
        if theirs.open_orders != ours.open_orders:
            found.violate(I3, "open_orders are not the orders that are open", account_id)
        for symbol in theirs.holdings.keys() | ours.holdings.keys():
            _compare_holding(
                theirs.holdings.get(symbol, NOTHING),
                ours.holdings.get(symbol, NOTHING),
                f"{account_id} {symbol}",
                found,
            )


def _compare_sequences(
    history: Slice, sequences: Mapping[str, frozenset[int]], known: AbstractSet[str], found: Findings
) -> None:
    for key, value in history.positions.items():
        account_id = key.decode()
        theirs = _read(value, Books)
        if theirs is None:
            continue  # told before
        possible = sequences.get(account_id, frozenset())
        if not possible and account_id not in known and history.whole:
            found.violate(I3, "risk has books of an account that it does not know", account_id)
        elif possible and (theirs.last_sequence or 0) not in possible:
            found.violate(I3, "last_sequence is not that of the account's last order", account_id)
    for account_id in sorted(sequences.keys() - {key.decode() for key in history.positions}):
        if sequences[account_id] != {0} and account_id not in known:
            found.violate(I3, "last_sequence is not that of the account's last order", account_id)


def _compare_holding(theirs: Holding, ours: Holding, identity: str, found: Findings) -> None:
    if theirs.position_lots != ours.position_lots:
        message = "a position is not the sum of its executions"
        found.violate(I3, message, f"{identity}: {theirs.position_lots}, not {ours.position_lots}")
    if theirs.lots[1:] != ours.lots[1:]:
        message = "open lots (buy, sell) are not those of the orders that are open"
        found.violate(I3, message, f"{identity}: {theirs.lots[1:]}, not {ours.lots[1:]}")


def _compare_reservations(
    changelog: Mapping[bytes, bytes], expected: Mapping[str, Reservation], blind: set[str], found: Findings
) -> None:
    actual = {key.decode(): _read(value, Reservation) for key, value in changelog.items()}
    for key in sorted(actual.keys() | expected.keys()):
        if key.partition("/")[0] in blind:
            continue
        theirs, ours = actual.get(key), expected.get(key)
        if key not in actual:
            found.violate(I3, "an open order has no reservation", key)
        elif ours is None:
            found.violate(I3, "a reservation without an open order", key)
        elif theirs is None or _kept(theirs, ours) != ours:
            found.violate(I3, "a reservation is not what is open of its order", key)


def _kept(theirs: Reservation, ours: Reservation) -> Reservation:
    """The reservation with the total that a release before did not keep."""
    return replace(theirs, quantity_lots=ours.quantity_lots) if theirs.quantity_lots is None else theirs


def _read(value: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(value, type=kind)
    except ValueError:
        return None
