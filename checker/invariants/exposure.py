"""I4: at every approval, what is held and reserved is within the limits that the approval names.

`docs/architecture.md` ("Exposure, exactly") says why more knowledge only lessens exposure: so every release
that is logged before an approval may be applied before it, whether risk knew of it or not. One rule is not
monotone, that an order which only reduces needs no limit: with what risk knew it may have reduced, with what
the log knows it does not. An approval above a limit is then only a violation when it is above every bound
that any earlier knowledge allows; otherwise it is noted as unverifiable.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from checker.findings import Findings
from checker.history import LimitsBook, Slice, ends
from checker.records import (
    Limits,
    Order,
    OrderAcknowledged,
    OrderComplianceRejected,
    OrderRiskApproved,
    TradeExecuted,
)
from models.values import INSTRUMENTS, Side

I4 = "I4"
BASIS_POINTS = 10_000
GONE = "the limits that an approval names are gone from the compacted topic"
UNKNOWN_MAX = 1 << 62  # stands for a limit that is gone: no bound


def check_exposure(history: Slice, limits: LimitsBook) -> Findings:
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
        _judge(approval, account, limits, found)
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
class _Holding:
    """One symbol of an account; `sides` are those of its approvals so far, `released` whether any ended."""

    position_lots: int = 0
    open_buy_lots: int = 0
    open_sell_lots: int = 0
    reference_price_ticks: int = 0
    lowest_price_ticks: int = 0
    sides: set[Side] = field(default_factory=set)
    released: bool = False

    def worst_lots(self, buy_lots: int = 0, sell_lots: int = 0) -> int:
        """The worst case when these lots are open as well."""
        return max(
            abs(self.position_lots + self.open_buy_lots + buy_lots),
            abs(self.position_lots - self.open_sell_lots - sell_lots),
        )

    def open(self, side: Side, lots: int) -> None:
        if side is Side.BUY:
            self.open_buy_lots += lots
        else:
            self.open_sell_lots += lots


class _Account:
    """Books of one account as the log allows to know them at a time."""

    def __init__(self, releases: list[_Release]) -> None:
        self.holdings: dict[str, _Holding] = {}
        self.limits_version = -1
        self.position_lots_max = 0
        self.gross_exposure_micros_max = 0
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
        holding.open(order.side, order.quantity_lots)
        holding.sides.add(order.side)
        price_ticks = approval.reference_price_ticks
        holding.reference_price_ticks = price_ticks
        holding.lowest_price_ticks = min(holding.lowest_price_ticks or price_ticks, price_ticks)
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
        holding.released = True
        holding.open(order.side, -ended_lots)
        holding.position_lots += release.filled_lots if order.side is Side.BUY else -release.filled_lots
        if release.is_end:
            del self._open[release.order_id]
        else:
            self._open[release.order_id] = (order, open_lots - ended_lots)
        return True


def _judge(approval: OrderRiskApproved, account: _Account, book: LimitsBook, found: Findings) -> None:
    order, version = approval.order, approval.limits_version
    if version < account.limits_version:
        found.violate(I4, "an approval names older limits than one before it", order.order_id)
    account.limits_version = max(account.limits_version, version)
    limits = book.find(order.account_id, version)
    if limits is None:
        latest = book.latest(order.account_id)
        if latest is None or version > latest:
            found.violate(I4, "an approval names limits that were never set", order.order_id)
        else:
            found.skip(I4, GONE, order.order_id)
            account.position_lots_max = account.gross_exposure_micros_max = UNKNOWN_MAX
        return
    for message in _order_faults(approval, account, limits):
        found.violate(I4, message, order.order_id)
    account.position_lots_max = max(account.position_lots_max, limits.position_lots_max)
    account.gross_exposure_micros_max = max(
        account.gross_exposure_micros_max, limits.gross_exposure_micros_max
    )
    _judge_exposure(approval, account, limits, found)


def _order_faults(approval: OrderRiskApproved, account: _Account, limits: Limits) -> Iterator[str]:
    order, reference_ticks = approval.order, approval.reference_price_ticks
    instrument = INSTRUMENTS.get(order.symbol)
    if instrument is None:
        yield "an order in an unknown instrument was approved"
        return
    if order.quantity_lots <= 0 or order.price_ticks <= 0:
        yield "an order without a positive quantity and price was approved"
    if order.quantity_lots > limits.order_quantity_lots_max:
        yield "an order above the size limit was approved"
    if instrument.notional_micros(order.price_ticks, order.quantity_lots) > limits.order_notional_micros_max:
        yield "an order above the notional limit was approved"
    if abs(order.price_ticks - reference_ticks) * BASIS_POINTS > limits.price_collar_bps * reference_ticks:
        yield "an order outside the price collar was approved"
    if account.open_orders >= limits.open_orders_max:
        yield "an order above the number of open orders was approved"


def _judge_exposure(approval: OrderRiskApproved, account: _Account, limits: Limits, found: Findings) -> None:
    order = approval.order
    if order.symbol not in INSTRUMENTS:
        return
    holding = account.holding(order.symbol)
    buy_lots, sell_lots = (order.quantity_lots, 0) if order.side is Side.BUY else (0, order.quantity_lots)
    worst_lots = holding.worst_lots(buy_lots, sell_lots)
    if worst_lots <= holding.worst_lots():
        return
    certain = not _may_have_reduced(holding, order)
    if worst_lots > limits.position_lots_max:
        is_beyond = certain or worst_lots > account.position_lots_max
        _report("an order above the position limit", is_beyond, order, found)
    gross = _gross_micros(account, order.symbol, worst_lots, approval.reference_price_ticks)
    if gross > limits.gross_exposure_micros_max:
        lowest = _lowest_gross_micros(account, order.symbol, worst_lots, approval.reference_price_ticks)
        is_beyond = certain or lowest > account.gross_exposure_micros_max
        _report("an order above the gross exposure limit", is_beyond, order, found)


def _report(what: str, is_beyond: bool, order: Order, found: Findings) -> None:
    if is_beyond:
        found.violate(I4, f"{what} was approved", order.order_id)
    else:
        found.skip(I4, f"{what} may only have reduced, as far as risk could know", order.order_id)


def _may_have_reduced(holding: _Holding, order: Order) -> bool:
    """Whether with less knowledge the order may have left the worst case as it was.

    It takes open lots or a position on the other side, and releases that risk may not have known of.
    """
    other = Side.SELL if order.side is Side.BUY else Side.BUY
    return holding.released and other in holding.sides


def _gross_micros(account: _Account, symbol: str, worst_lots: int, price_ticks: int) -> int:
    """The exposure of all symbols, with these worst lots at this price in one of them."""
    others = (
        (name, holding.worst_lots(), holding.reference_price_ticks)
        for name, holding in account.holdings.items()
        if name != symbol
    )
    return _sum_micros([*others, (symbol, worst_lots, price_ticks)])


def _lowest_gross_micros(account: _Account, symbol: str, worst_lots: int, price_ticks: int) -> int:
    """The same at the lowest price that each symbol ever had in an approval.

    An order that reduces is not held against the exposure limit, but moves the reference price; at the
    lowest prices exposure was within the highest limit at every earlier knowledge, and stays so.
    """
    others = (
        (name, holding.worst_lots(), holding.lowest_price_ticks)
        for name, holding in account.holdings.items()
        if name != symbol
    )
    lowest = account.holding(symbol).lowest_price_ticks or price_ticks
    return _sum_micros([*others, (symbol, worst_lots, min(lowest, price_ticks))])


def _sum_micros(parts: Iterable[tuple[str, int, int]]) -> int:
    return sum(
        INSTRUMENTS[symbol].notional_micros(price_ticks, worst_lots)
        for symbol, worst_lots, price_ticks in parts
        if symbol in INSTRUMENTS
    )
