"""I4: at every approval, what is held and reserved is within the limits that the approval names.

More knowledge only lessens what counts here. Take any fill, end or release that risk may not have known of:
with it the side that an order grows is as large or smaller, the room that an order has for reducing as large
or larger, the worst case of a symbol as small or smaller, and a side is empty no less often, so that its
highest price is as low or lower. So everything logged before an approval is applied before it, and what is
above a limit then was above it for risk too.

A replace is judged like an order of the lots that it adds, at its own price; by itself, by its new total.
Until it is answered the larger quantity is reserved at the higher price, and any answer only lessens that.
One that adds nothing and is not dearer than what is open on its side may cost no more, and is let through. An
order that has ended by the log has nothing to be replaced.

One thing the log does not tell: at which prices risk valued the account's other symbols. It was one of those
that `prices` had lately. Above the limit at the lowest of them is a violation, above it only at the newest
one is noted as unverifiable.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from checker.findings import Findings
from checker.history import LimitsBook, Slice, ends, of_kinds
from checker.invariants.conditions import decided_at_ms
from checker.records import (
    AccountRegistered,
    Execution,
    Instrument,
    InstrumentListed,
    Limits,
    Logged,
    Order,
    OrderComplianceRejected,
    OrderReplaced,
    OrderRiskApproved,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceWithheld,
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
    for decision in _approvals(history):
        approval = decision.event
        if approval is None:
            continue
        if history.risk_cut is not None and decision.offset >= history.risk_cut:
            break
        account_id = _terms(approval).account_id
        account = accounts.get(account_id)
        if account is None:
            account = accounts[account_id] = _Account(releases.get(account_id, []))
        account.learn(decision.timestamp_ms)
        at_ms = decided_at_ms(approval, decision.timestamp_ms)
        _judge(_asked(approval, account), account, limits, _World(reference, at_ms), found)
        account.reserve(approval)
    return found


Approval = OrderRiskApproved | ReplaceRiskApproved


def _approvals(history: Slice) -> Iterable[Logged[Approval]]:
    """Approvals of orders and of replaces, in log order."""
    return of_kinds((OrderRiskApproved, ReplaceRiskApproved), history.risk, history.asked_risk)


def _terms(approval: Approval) -> Order | ReplaceRequested:
    return approval.order if isinstance(approval, OrderRiskApproved) else approval.request


class _Asked(NamedTuple):
    """What an account wants to have at the venue, by an order or by a replace (`what`).

    `more_lots` is what it adds to the lots that are open, None for a replace of an order that has ended;
    `others` are the account's other open orders.
    """

    approval: Approval
    what: str
    identity: str
    account_id: str
    symbol: str
    side: Side
    total_lots: int
    price_ticks: int
    more_lots: int | None
    others: int


def _asked(approval: Approval, account: "_Account") -> _Asked:
    if isinstance(approval, OrderRiskApproved):
        order = approval.order
        return _Asked(
            approval,
            "an order",
            order.order_id,
            order.account_id,
            order.symbol,
            order.side,
            order.quantity_lots,
            order.price_ticks,
            order.quantity_lots,
            account.open_orders,
        )
    request = approval.request
    opened = account.opened(request.order_id)
    return _Asked(
        approval,
        "a replace",
        request.request_id,
        request.account_id,
        approval.symbol,
        approval.side,
        request.quantity_lots,
        request.price_ticks,
        None if opened is None else max(0, request.quantity_lots - opened.total_lots),
        account.open_orders - (opened is not None),
    )


class _Release(NamedTuple):
    """What was taken out of an order's open lots, and how much of it went into the position.

    Or, with a `request_id`, the answer to a replace: `total_lots` is then what is in force, None as before.
    """

    timestamp_ms: int
    order_id: str
    filled_lots: int = 0
    is_end: bool = False
    request_id: str | None = None
    total_lots: int | None = None


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
            yield order.account_id, _Release(refused.timestamp_ms, order.order_id, is_end=True)
    for judged in history.asked_compliance:
        if isinstance(judged.event, ReplaceComplianceRejected):
            request = judged.event.request
            release = _Release(judged.timestamp_ms, request.order_id, request_id=request.request_id)
            yield request.account_id, release
    for record in history.executions:
        release_of = _release_of(record.event, record.timestamp_ms)
        if record.event is not None and release_of is not None:
            yield record.event.account_id, release_of


def _release_of(report: Execution | None, at_ms: int) -> _Release | None:
    """What an execution releases; None for one that releases nothing."""
    match report:
        case TradeExecuted():
            return _Release(at_ms, report.order_id, report.quantity_lots, ends(report))
        case OrderReplaced():
            order_id, request_id = report.order_id, report.request_id
            return _Release(at_ms, order_id, 0, ends(report), request_id, report.quantity_lots)
        case ReplaceRejected() | ReplaceWithheld():
            return _Release(at_ms, report.order_id, request_id=report.request_id)
    return _Release(at_ms, report.order_id, is_end=True) if report is not None and ends(report) else None


@dataclass(slots=True)
class _Side:
    """The open lots of one side, and the highest limit price among them since there were none.

    `ever_ticks` is the highest of all: it counts for a risk service that knows of no release.
    """

    lots: int = 0
    highest_ticks: int = 0
    ever_ticks: int = 0

    def open(self, lots: int, price_ticks: int) -> None:
        self.lots += lots
        self.highest_ticks = max(self.highest_ticks, price_ticks)
        self.ever_ticks = max(self.ever_ticks, price_ticks)

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

    def grown_lots(self, side: Side, more_lots: int) -> int:
        """Where an order's own direction leads."""
        return (self.long_lots() if side is Side.BUY else self.short_lots()) + more_lots

    def reduces(self, side: Side, more_lots: int) -> bool:
        """Whether an order leads towards zero and not through it, with all that is open beside it."""
        against = self.position_lots < 0 if side is Side.BUY else self.position_lots > 0
        return against and self.grown_lots(side, more_lots) <= 0

    def worst_lots(self, side: Side | None = None, more_lots: int = 0) -> int:
        """The largest position that open orders can lead to, with more lots of one side among them."""
        long_lots, short_lots = self.long_lots(), self.short_lots()
        if side is Side.BUY:
            long_lots += more_lots
        elif side is not None:
            short_lots += more_lots
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


@dataclass(slots=True)
class _Opened:
    """An open order: its total in force, what is open of it, and what a pending replace would add."""

    symbol: str
    side: Side
    total_lots: int
    open_lots: int
    replace_id: str | None = None
    more_lots: int = 0


class _Account:
    """Books of one account as the log allows to know them at a time."""

    def __init__(self, releases: list[_Release]) -> None:
        self.holdings: dict[str, _Holding] = {}
        self.limits_version = -1
        self._open: dict[str, _Opened] = {}
        self._releases = releases
        self._next = 0
        self._early: dict[str, list[_Release]] = {}

    @property
    def open_orders(self) -> int:
        return len(self._open)

    def learn(self, timestamp_ms: int) -> None:
        """Apply every release logged up to then; one of what is not approved yet has to wait."""
        while self._next < len(self._releases) and self._releases[self._next].timestamp_ms <= timestamp_ms:
            release = self._releases[self._next]
            self._next += 1
            self._take(release)

    def reserve(self, approval: Approval) -> None:
        if isinstance(approval, ReplaceRiskApproved):
            self._reserve_more(approval)
            return
        order = approval.order
        holding = self.holding(order.symbol)
        holding.side(order.side).open(order.quantity_lots, order.price_ticks)
        holding.reference_ticks = approval.reference_price_ticks
        lots = order.quantity_lots
        self._open[order.order_id] = _Opened(order.symbol, order.side, lots, lots)
        for release in self._early.pop(order.order_id, ()):
            self._take(release)

    def _reserve_more(self, approval: ReplaceRiskApproved) -> None:
        request = approval.request
        opened = self._open.get(request.order_id)
        if opened is None:
            return
        opened.replace_id = request.request_id
        opened.more_lots = max(0, request.quantity_lots - opened.total_lots)
        side = self.holding(opened.symbol).side(opened.side)
        side.open(opened.more_lots, request.price_ticks)
        for release in self._early.pop(request.request_id, ()):
            self._take(release)

    def opened(self, order_id: str) -> _Opened | None:
        """An order that is open; None once it has ended."""
        return self._open.get(order_id)

    def holding(self, symbol: str) -> _Holding:
        return self.holdings.setdefault(symbol, _Holding())

    def _take(self, release: _Release) -> None:
        opened = self._open.get(release.order_id)
        if opened is None:
            self._early.setdefault(release.order_id, []).append(release)
        elif release.request_id not in (None, opened.replace_id):
            self._early.setdefault(release.request_id or "", []).append(release)
        else:
            self._apply(release, opened)

    def _apply(self, release: _Release, opened: _Opened) -> None:
        holding = self.holding(opened.symbol)
        reserved_lots = opened.open_lots + opened.more_lots
        opened.open_lots -= release.filled_lots
        if release.request_id is not None:
            opened.replace_id, opened.more_lots = None, 0
            if release.total_lots is not None:
                opened.open_lots += release.total_lots - opened.total_lots
                opened.total_lots = release.total_lots
        if release.is_end:
            opened.open_lots = opened.more_lots = 0
            del self._open[release.order_id]
        holding.side(opened.side).close(reserved_lots - opened.open_lots - opened.more_lots)
        holding.position_lots += release.filled_lots if opened.side is Side.BUY else -release.filled_lots


def _judge(asked: _Asked, account: _Account, book: LimitsBook, world: _World, found: Findings) -> None:
    version = asked.approval.limits_version
    if version < account.limits_version and asked.account_id not in book.removed:
        found.violate(I4, "an approval names older limits than one before it", asked.identity)
    account.limits_version = max(account.limits_version, version)
    if asked.approval.decided_at_ms:
        for message in _reference_faults(asked, world):
            found.violate(I4, message, asked.identity)
    else:
        found.skip(I4, UNTOLD, asked.identity)
    limits = book.find(asked.account_id, version)
    if limits is None:
        latest = book.latest(asked.account_id)
        if latest is None or version > latest:
            found.violate(I4, "an approval names limits that were never set", asked.identity)
        else:
            found.skip(I4, GONE, asked.identity)
        return
    for message in _order_faults(asked, limits, world):
        found.violate(I4, message, asked.identity)
    _judge_exposure(asked, account, limits, world, found)


def _reference_faults(asked: _Asked, world: _World) -> Iterator[str]:
    """What the reference data forbid; where all that was in force then is gone, nobody can tell."""
    if not world.is_known(asked.symbol):
        yield f"{asked.what} in an unknown instrument was approved"
    if not world.is_registered(asked.account_id):
        yield f"{asked.what} of an account that nobody has registered was approved"
    instruments, accounts = world.instruments(asked.symbol), world.accounts(asked.account_id)
    if instruments and not any(_is_tradable(each, asked.approval) for each in instruments):
        yield f"{asked.what} in an instrument that takes none was approved"
    currencies = {each.currency for each in instruments}
    if accounts and instruments and currencies.isdisjoint(each.base_currency for each in accounts):
        yield f"{asked.what} in another currency than its account's was approved"


def _is_tradable(instrument: Instrument, approval: Approval) -> bool:
    """Whether it was active, and within its time at the receipt or at the decision."""
    since_ms, until_ms = instrument.valid_from_ms, instrument.valid_until_ms
    return instrument.status is InstrumentStatus.ACTIVE and any(
        (since_ms is None or since_ms <= at_ms) and (until_ms is None or at_ms < until_ms)
        for at_ms in (approval.received_at_ms, approval.decided_at_ms)
    )


def _order_faults(asked: _Asked, limits: Limits, world: _World) -> Iterator[str]:
    what, total_lots, price_ticks = asked.what, asked.total_lots, asked.price_ticks
    reference_ticks = asked.approval.reference_price_ticks
    if total_lots <= 0 or price_ticks <= 0:
        yield f"{what} without a positive quantity and price was approved"
    if total_lots > limits.order_quantity_lots_max:
        yield f"{what} above the size limit was approved"
    if price_ticks * total_lots * world.micros(asked.symbol)[0] > limits.order_notional_micros_max:
        yield f"{what} above the notional limit was approved"
    if abs(price_ticks - reference_ticks) * BASIS_POINTS > limits.price_collar_bps * reference_ticks:
        yield f"{what} outside the price collar was approved"
    if asked.others >= limits.open_orders_max:
        yield f"{what} above the number of open orders was approved"


def _judge_exposure(asked: _Asked, account: _Account, limits: Limits, world: _World, found: Findings) -> None:
    holding, more_lots = account.holding(asked.symbol), asked.more_lots
    if more_lots is None or holding.reduces(asked.side, more_lots):
        return
    complain = (
        found.violate if asked.approval.decided_at_ms else found.skip
    )  # the release before: other rules
    if isinstance(asked.approval, ReplaceRiskApproved) and not more_lots:
        side = holding.side(asked.side)
        if asked.price_ticks <= side.highest_ticks:
            return
        if asked.price_ticks <= side.ever_ticks:
            complain = found.skip  # dearer orders that have ended may have been open for risk
    if holding.grown_lots(asked.side, more_lots) > limits.position_lots_max:
        complain(I4, f"{asked.what} above the position limit was approved", asked.identity)
    lowest_micros, newest_micros = _gross_micros(asked, more_lots, account, world)
    if lowest_micros > limits.gross_exposure_micros_max:
        complain(I4, f"{asked.what} above the gross exposure limit was approved", asked.identity)
    elif newest_micros > limits.gross_exposure_micros_max:
        told = "an order is above the gross exposure limit at the newest prices, not at those just before"
        found.skip(I4, told, asked.identity)


def _gross_micros(asked: _Asked, more_lots: int, account: _Account, world: _World) -> tuple[int, int]:
    """The exposure of all symbols with the order, at the lowest prices that may count and at the newest."""
    own = account.holding(asked.symbol)
    price_ticks = max(asked.approval.reference_price_ticks, asked.price_ticks, own.highest_ticks())
    own_lots = own.worst_lots(asked.side, more_lots)
    low, high = (own_lots * price_ticks * each for each in world.micros(asked.symbol))
    for symbol, holding in account.holdings.items():
        if symbol == asked.symbol or not (lots := holding.worst_lots()):
            continue
        lowest_mark, newest_mark = world.marks(symbol, holding.reference_ticks)
        lowest, highest = world.micros(symbol)
        low += lots * max(lowest_mark, holding.highest_ticks()) * lowest
        high += lots * max(newest_mark, holding.highest_ticks()) * highest
    return low, high
