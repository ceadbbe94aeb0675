"""I3: cost, realised profit and fees are what the executions make them, by account and symbol, in fractions.

Average cost: a fill that opens or adds pays its price, one that reduces takes the average price of what is
open with it, rounded so that the cost that stays is a whole unit not above its share. A unit is one tick of
one lot. Fees are in the currency of the first one that is not zero; others count as missing.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import floor

import msgspec

from checker.findings import Findings
from checker.history import RISK, Slice, Traces
from checker.records import COMPLIANCE_DECISIONS, EXECUTIONS, TradeExecuted
from checker.reference import Reference
from models.values import Side

I3 = "I3"


class Profit(msgspec.Struct):
    """The profit of a holding in the changelog of `positions`."""

    since_venue_sequence: int
    cost_tick_lots: int = 0
    realised_tick_lots: int = 0
    realised_micros: int = 0
    fee_micros: int = 0
    fee_currency: str = ""
    fees_missing: int = 0

    @property
    def fees(self) -> tuple[int, str, int]:
        return self.fee_micros, self.fee_currency, self.fees_missing


class _Holding(msgspec.Struct):
    profit: Profit | None = None


class _Books(msgspec.Struct):
    holdings: dict[str, _Holding] = {}


_read_books = msgspec.json.Decoder(_Books).decode


def check_profits(history: Slice, traces: Traces, reference: Reference) -> Findings:
    """Compare the profits in risk's books with the executions from the fill on that each of them begins with.

    Only in a quiet history, and without the accounts of which risk has a dead letter: both are said with the
    positions. A profit is not known in what a release has written that kept none. The log does not tell at
    which fill an instrument has changed its scale: of such a one only the cost and the fees are compared.
    """
    found = Findings()
    if not history.quiet:
        return found
    if not history.whole:
        found.skip(I3, "the first fills that profits are made of are gone", history.partition)
        return found
    blind = {letter.key for letter in history.letters(RISK, COMPLIANCE_DECISIONS, EXECUTIONS)}
    fills = _fills(history, traces)
    for key, value in history.positions.items():
        if key in blind:
            continue
        try:
            books = _read_books(value)
        except ValueError:
            continue  # told with the positions
        for symbol, holding in books.holdings.items():
            told = _Told(found, f"{key.decode()} {symbol}", reference.was_rescaled(symbol))
            told.compare(holding.profit, fills.get((key.decode(), symbol), ()))
    return found


def _fills(history: Slice, traces: Traces) -> dict[tuple[str, str], list[TradeExecuted]]:
    """The fills of approved orders by account and symbol, in the order of the log."""
    fills: dict[tuple[str, str], list[TradeExecuted]] = {}
    for record in history.executions:
        fill = record.event
        if not isinstance(fill, TradeExecuted):
            continue
        trace = traces.get(fill.order_id)
        if trace is not None and trace.approvals and trace.order is not None:
            fills.setdefault((trace.order.account_id, trace.order.symbol), []).append(fill)
    return fills


class _Told:
    """What is found of one account in one symbol."""

    def __init__(self, found: Findings, identity: str, was_rescaled: bool) -> None:
        self._found = found
        self._identity = identity
        self._was_rescaled = was_rescaled

    def compare(self, theirs: Profit | None, fills: Sequence[TradeExecuted]) -> None:
        if theirs is None:
            if fills:
                self._skip("a profit is not known, as in books of a release that kept none")
            return
        numbers = [fill.venue_sequence for fill in fills]
        if theirs.since_venue_sequence not in numbers:
            self._violate(
                "a profit begins with a fill that is not in executions", theirs.since_venue_sequence
            )
            return
        first = numbers.index(theirs.since_venue_sequence)
        if sum(map(_signed, fills[:first])):
            self._violate("a profit begins with a fill that did not find the position flat", numbers[first])
        elif first:
            self._skip("what was realised before a profit began is not known")
        self._compare(theirs, made_of(fills[first:]))

    def _compare(self, theirs: Profit, ours: Profit) -> None:
        if theirs.cost_tick_lots != ours.cost_tick_lots:
            message = "the cost of a position is not what its executions make it"
            self._violate(message, f"{theirs.cost_tick_lots}, not {ours.cost_tick_lots}")
        if self._was_rescaled:
            self._skip("what was realised in an instrument whose lots and ticks have changed")
        elif (theirs.realised_tick_lots, theirs.realised_micros) != (ours.realised_tick_lots, 0):
            message = "the realised profit is not what the executions make it"
            self._violate(message, f"{theirs.realised_tick_lots}, not {ours.realised_tick_lots}")
        if theirs.fees != ours.fees:
            self._violate("the fees are not those of the executions", f"{theirs.fees}, not {ours.fees}")

    def _violate(self, message: str, what: object) -> None:
        self._found.violate(I3, message, f"{self._identity}: {what}")

    def _skip(self, message: str) -> None:
        self._found.skip(I3, message, self._identity)


def _signed(fill: TradeExecuted) -> int:
    return fill.quantity_lots if fill.side is Side.BUY else -fill.quantity_lots


def made_of(fills: Sequence[TradeExecuted]) -> Profit:
    """The profit that fills make, of which the first one finds the position flat."""
    made = Profit(fills[0].venue_sequence)
    held = 0
    for fill in fills:
        lots = _signed(fill)
        against = min(abs(lots), abs(held)) if lots * held < 0 else 0
        closed = against if held > 0 else -against
        if closed:
            average = Fraction(made.cost_tick_lots, held)
            stays = floor(average * (held - closed))
            made.realised_tick_lots += closed * fill.price_ticks - (made.cost_tick_lots - stays)
            made.cost_tick_lots = stays
        made.cost_tick_lots += (lots + closed) * fill.price_ticks
        held += lots
        _add_fee(made, fill)
    return made


def _add_fee(made: Profit, fill: TradeExecuted) -> None:
    if fill.fee_micros == 0:
        return
    if fill.fee_micros is None or fill.fee_currency is None:
        made.fees_missing += 1
    elif made.fee_currency in ("", fill.fee_currency):
        made.fee_currency = fill.fee_currency
        made.fee_micros += fill.fee_micros
    else:
        made.fees_missing += 1
