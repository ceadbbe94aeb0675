"""I4: at every approval, what is held and reserved is within the limits that the approval names.

More knowledge only lessens what counts here. Take any fill, end or release that risk may not have known of:
with it the side that an order grows is as large or smaller, the room that an order has for reducing as large
or larger, the worst case of a symbol as small or smaller, and a side is empty no less often, so that its
highest price is as low or lower. So everything logged before an approval is applied before it, and what is
above a limit then was above it for risk too.

One thing the log does not tell: at which prices risk valued the account's other symbols. It was one of those
that `prices` had lately. Above the limit at the lowest of them is a violation, above it only at the newest
one is noted as unverifiable.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from checker.findings import Findings
from checker.history import LimitsBook, Slice, ends
from checker.invariants.conditions import decided_at_ms
from checker.records import (
    AccountRegistered,
    Instrument,
    InstrumentListed,
    Limits,
    Order,
    OrderAcknowledged,
    OrderComplianceRejected,
    OrderRiskApproved,
    TradeExecuted,
)
from checker.reference import BINDS_WITHIN_MS, MARKS_WITHIN_MS, Mark, Reference
from models.values import InstrumentStatus, Side

I4 = "I4"
BASIS_POINTS = 10_000
MICROS = 1_000_000
GONE = "the limits that an approval names are gone from the compacted topic"
UNTOLD = "an approval of a release that went by no reference data"


def check_exposure(history: Slice, limits: LimitsBook, reference: Reference) -> Findings:
    """Replay the approvals of each account in log order against the limits that they name."""
    found = Findings()
    releases = _releases(history)
    accounts: dict[str, _Account] = {}
    for decision in history.risk:
        approval = decision.event
        if not isinstance(approval, OrderRiskApproved):
            continue
        if history.risk_cut is not None and decision.offset >= history.risk_cut:
            break
        account_id = approval.order.account_id
        account = accounts.get(account_id)
        if account is None:
            account = accounts[account_id] = _Account(releases.get(account_id, []))
        account.learn(decision.timestamp_ms)
        at_ms = decided_at_ms(approval, decision.timestamp_ms)
        _judge(approval, account, limits, _World(reference, at_ms), found)
        account.reserve(approval)
    return found


class _Release(NamedTuple):
    """What was taken out of an order's open lots, and how much of it went into the position."""

    timestamp_ms: int
    order_id: str
    filled_lots: int
    is_end: bool


def _releases(history: Slice) -> dict[str, list[_Release]]:
    """By account, in the order of the broker's clock."""
    releases: dict[str, list[_Release]] = {}
    for account_id, release in _each_release(history):
        releases.setdefault(account_id, []).append(release)
    for each in releases.values():
        each.sort(key=lambda release: release.timestamp_ms)
    return releases


def _each_release(history: Slice) -> Iterator[tuple[str, _Release]]:
    for refused in history.compliance:
        if isinstance(refused.event, OrderComplianceRejected):
            order = refused.event.order
            yield order.account_id, _Release(refused.timestamp_ms, order.order_id, 0, True)
    for record in history.executions:
        report = record.event
        if report is None or isinstance(report, OrderAcknowledged):
            continue
        filled = report.quantity_lots if isinstance(report, TradeExecuted) else 0
        yield report.account_id, _Release(record.timestamp_ms, report.order_id, filled, ends(report))


@dataclass(slots=True)
class _Side:
    """The open lots of one side, and the highest limit price among them since there were none."""

    lots: int = 0
    highest_ticks: int = 0

    def open(self, lots: int, price_ticks: int) -> None:
        self.lots += lots
        self.highest_ticks = max(self.highest_ticks, price_ticks)

    def close(self, lots: int) -> None:
        self.lots -= lots
        if not self.lots:
            self.highest_ticks = 0


@dataclass(slots=True)
class _Holding:
    """One symbol of an account; `reference_ticks` is the reference price of its last approval."""

    position_lots: int = 0
    buys: _Side = field(default_factory=_Side)
    sells: _Side = field(default_factory=_Side)
    reference_ticks: int = 0

    def side(self, side: Side) -> _Side:
        return self.buys if side is Side.BUY else self.sells

    def long_lots(self) -> int:
        """What the position becomes when every buy is filled, and no sell."""
        return self.position_lots + self.buys.lots

    def short_lots(self) -> int:
        """How far short it becomes when every sell is filled, and no buy."""
        return self.sells.lots - self.position_lots

    def grown_lots(self, order: Order) -> int:
        """Where an order's own direction leads."""
        return (self.long_lots() if order.side is Side.BUY else self.short_lots()) + order.quantity_lots

    def reduces(self, order: Order) -> bool:
        """Whether an order leads towards zero and not through it, with all that is open beside it."""
        against = self.position_lots < 0 if order.side is Side.BUY else self.position_lots > 0
        return against and self.grown_lots(order) <= 0

    def worst_lots(self, order: Order | None = None) -> int:
        """The largest position that open orders can lead to, the order among them."""
        long_lots, short_lots = self.long_lots(), self.short_lots()
        if order is not None and order.side is Side.BUY:
            long_lots += order.quantity_lots
        elif order is not None:
            short_lots += order.quantity_lots
        return max(abs(long_lots), abs(short_lots))

    def highest_ticks(self) -> int:
        return max(self.buys.highest_ticks, self.sells.highest_ticks)


class _World:
    """What the reference data and the market were at a decision, as far as the log tells."""

    def __init__(self, reference: Reference, at_ms: int) -> None:
        self._reference = reference
        self._at_ms = at_ms

    def listings(self, symbol: str) -> list[InstrumentListed]:
        """The instrument as it may have been in force: none when it is not told of."""
        told = self._reference.instruments.between(symbol, self._at_ms - BINDS_WITHIN_MS, self._at_ms)
        return [each for each in told if isinstance(each, InstrumentListed)]

    def instruments(self, symbol: str) -> list[Instrument]:
        return [each.instrument for each in self.listings(symbol)]

    def is_known(self, symbol: str) -> bool:
        """Whether anything was ever said of an instrument."""
        return symbol in self._reference.instruments

    def accounts(self, account_id: str) -> list[AccountRegistered]:
        told = self._reference.accounts.between(account_id, self._at_ms - BINDS_WITHIN_MS, self._at_ms)
        return [each for each in told if isinstance(each, AccountRegistered)]

    def is_registered(self, account_id: str) -> bool:
        return account_id in self._reference.accounts

    def marks(self, symbol: str, reference_ticks: int) -> tuple[int, int]:
        """The lowest price that may have been the last one, and the newest; 0 for a lowest that is not known.

        A symbol without any price in ticks of its scale counts at `reference_ticks`.
        """
        since_ms = self._at_ms - MARKS_WITHIN_MS
        told = self._reference.prices.between(symbol, since_ms, self._at_ms)
        scales = {each.scale for each in self.listings(symbol)}
        marks = [
            each.price_ticks
            for each in told
            if isinstance(each, Mark) and (each.scale in scales or not scales)
        ]
        if len(marks) < len(told):
            marks.insert(0, reference_ticks)
        is_certain = self._reference.prices.begins_by(symbol, since_ms)
        return min(marks) if is_certain else 0, marks[-1]

    def micros(self, symbol: str) -> tuple[int, int]:
        """Cash of one lot at one tick, the lowest and the highest that may have been meant."""
        each = [micros_per_tick_lot(instrument) for instrument in self.instruments(symbol)]
        if not each and isinstance(last := self._reference.instruments.last(symbol), InstrumentListed):
            each = [micros_per_tick_lot(last.instrument)]
        return (min(each), max(each)) if each else (0, 0)


def micros_per_tick_lot(instrument: Instrument) -> int:
    """Millionths of the currency that one lot is worth a tick."""
    return int(instrument.tick * instrument.lot * instrument.multiplier * MICROS)


class _Account:
    """Books of one account as the log allows to know them at a time."""

    def __init__(self, releases: list[_Release]) -> None:
        self.holdings: dict[str, _Holding] = {}
        self.limits_version = -1
        self._open: dict[str, tuple[Order, int]] = {}
        self._releases = releases
        self._next = 0
        self._early: dict[str, list[_Release]] = {}

    @property
    def open_orders(self) -> int:
        return len(self._open)

    def learn(self, timestamp_ms: int) -> None:
        """Apply every release logged up to then; one of an order that is not approved yet has to wait."""
        while self._next < len(self._releases) and self._releases[self._next].timestamp_ms <= timestamp_ms:
            release = self._releases[self._next]
            self._next += 1
            if not self._apply(release):
                self._early.setdefault(release.order_id, []).append(release)

    def reserve(self, approval: OrderRiskApproved) -> None:
        order = approval.order
        holding = self.holding(order.symbol)
        holding.side(order.side).open(order.quantity_lots, order.price_ticks)
        holding.reference_ticks = approval.reference_price_ticks
        self._open[order.order_id] = (order, order.quantity_lots)
        for release in self._early.pop(order.order_id, ()):
            self._apply(release)

    def holding(self, symbol: str) -> _Holding:
        return self.holdings.setdefault(symbol, _Holding())

    def _apply(self, release: _Release) -> bool:
        if release.order_id not in self._open:
            return False
        order, open_lots = self._open[release.order_id]
        ended_lots = open_lots if release.is_end else release.filled_lots
        holding = self.holding(order.symbol)
        holding.side(order.side).close(ended_lots)
        holding.position_lots += release.filled_lots if order.side is Side.BUY else -release.filled_lots
        if release.is_end:
            del self._open[release.order_id]
        else:
            self._open[release.order_id] = (order, open_lots - ended_lots)
        return True


def _judge(
    approval: OrderRiskApproved, account: _Account, book: LimitsBook, world: _World, found: Findings
) -> None:
    order, version = approval.order, approval.limits_version
    if version < account.limits_version and order.account_id not in book.removed:
        found.violate(I4, "an approval names older limits than one before it", order.order_id)
    account.limits_version = max(account.limits_version, version)
    if approval.decided_at_ms:
        for message in _reference_faults(approval, world):
            found.violate(I4, message, order.order_id)
    else:
        found.skip(I4, UNTOLD, order.order_id)
    limits = book.find(order.account_id, version)
    if limits is None:
        latest = book.latest(order.account_id)
        if latest is None or version > latest:
            found.violate(I4, "an approval names limits that were never set", order.order_id)
        else:
            found.skip(I4, GONE, order.order_id)
        return
    for message in _order_faults(approval, account, limits, world):
        found.violate(I4, message, order.order_id)
    _judge_exposure(approval, account, limits, world, found)


def _reference_faults(approval: OrderRiskApproved, world: _World) -> Iterator[str]:
    """What the reference data forbid; where all that was in force then is gone, nobody can tell."""
    order = approval.order
    if not world.is_known(order.symbol):
        yield "an order in an unknown instrument was approved"
    if not world.is_registered(order.account_id):
        yield "an order of an account that nobody has registered was approved"
    instruments, accounts = world.instruments(order.symbol), world.accounts(order.account_id)
    if instruments and not any(_is_tradable(each, approval) for each in instruments):
        yield "an order in an instrument that takes none was approved"
    currencies = {each.currency for each in instruments}
    if accounts and instruments and currencies.isdisjoint(each.base_currency for each in accounts):
        yield "an order in another currency than its account's was approved"


def _is_tradable(instrument: Instrument, approval: OrderRiskApproved) -> bool:
    """Whether it was active, and within its time at the receipt or at the decision."""
    since_ms, until_ms = instrument.valid_from_ms, instrument.valid_until_ms
    return instrument.status is InstrumentStatus.ACTIVE and any(
        (since_ms is None or since_ms <= at_ms) and (until_ms is None or at_ms < until_ms)
        for at_ms in (approval.received_at_ms, approval.decided_at_ms)
    )


def _order_faults(
    approval: OrderRiskApproved, account: _Account, limits: Limits, world: _World
) -> Iterator[str]:
    order, reference_ticks = approval.order, approval.reference_price_ticks
    if order.quantity_lots <= 0 or order.price_ticks <= 0:
        yield "an order without a positive quantity and price was approved"
    if order.quantity_lots > limits.order_quantity_lots_max:
        yield "an order above the size limit was approved"
    notional_micros = order.price_ticks * order.quantity_lots * world.micros(order.symbol)[0]
    if notional_micros > limits.order_notional_micros_max:
        yield "an order above the notional limit was approved"
    if abs(order.price_ticks - reference_ticks) * BASIS_POINTS > limits.price_collar_bps * reference_ticks:
        yield "an order outside the price collar was approved"
    if account.open_orders >= limits.open_orders_max:
        yield "an order above the number of open orders was approved"


def _judge_exposure(
    approval: OrderRiskApproved, account: _Account, limits: Limits, world: _World, found: Findings
) -> None:
    order = approval.order
    holding = account.holding(order.symbol)
    if holding.reduces(order):
        return
    complain = found.violate if approval.decided_at_ms else found.skip  # the release before had other rules
    if holding.grown_lots(order) > limits.position_lots_max:
        complain(I4, "an order above the position limit was approved", order.order_id)
    lowest_micros, newest_micros = _gross_micros(approval, account, world)
    if lowest_micros > limits.gross_exposure_micros_max:
        complain(I4, "an order above the gross exposure limit was approved", order.order_id)
    elif newest_micros > limits.gross_exposure_micros_max:
        told = "an order is above the gross exposure limit at the newest prices, not at those just before"
        found.skip(I4, told, order.order_id)


def _gross_micros(approval: OrderRiskApproved, account: _Account, world: _World) -> tuple[int, int]:
    """The exposure of all symbols with the order, at the lowest prices that may count and at the newest."""
    order = approval.order
    own = account.holding(order.symbol)
    price_ticks = max(approval.reference_price_ticks, order.price_ticks, own.highest_ticks())
    low, high = (own.worst_lots(order) * price_ticks * each for each in world.micros(order.symbol))
    for symbol, holding in account.holdings.items():
        if symbol == order.symbol or not (lots := holding.worst_lots()):
            continue
        lowest_mark, newest_mark = world.marks(symbol, holding.reference_ticks)
        lowest, highest = world.micros(symbol)
        low += lots * max(lowest_mark, holding.highest_ticks()) * lowest
        high += lots * max(newest_mark, holding.highest_ticks()) * highest
    return low, high
