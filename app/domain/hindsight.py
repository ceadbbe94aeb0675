"""What risk would have decided under other limits: its recorded decisions of one account, made again.

There are two worlds: the recorded one, and the one with the changed limits. Both begin with the same books.
Each decision is first made again in the recorded world, by the limits that were in force. What risk knew when
it decided is the log as of a moment not after the decision and at most `LOOKS_BACK_MS` before it: the latest
one at which the decision comes out as it is recorded. With the same inputs it is then made under the changed
limits, on the books of the other world. One that cannot be made again stands as it is recorded, and is
counted.

The reaction of the market is not simulated:

- An order that is newly refused has none of its reports.
- One that is newly passed rests unfilled until its time in force ends: an IOC at once, a GTC when the venue
  next expires an order of the account. A cancel ends it at once. A replace of it is never answered.
- A replace that is newly refused leaves its order on the old terms. Once the venue has made the replace, the
  order's reports are of other terms: from then on it rests, like one that is newly passed.
- A replace that is newly passed stays reserved, unanswered, until its order ends or the next replace comes.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from app.domain.books import NO_BOOKS, Booked, Books, Logged, folded, in_order, is_report, order_of
from app.domain.errors import InvariantBroken
from app.domain.limit_history import Gone, InForce
from app.domain.profit import marked
from app.domain.reference import Known, Reference
from app.domain.requests import ANSWERS, Answer, answers, decide_cancel, decide_replace
from app.domain.risk import Refusal, decide_risk, with_last_sequence, worst_exposure_micros
from app.domain.timeline import AsOf, Timeline
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    CancelAccepted,
    CancelRefused,
    CancelRejected,
    CancelRequested,
    HaltInForce,
    InstrumentListed,
    OrderAcknowledged,
    OrderExpired,
    OrderReceived,
    OrderReplaced,
    OrderRiskApproved,
    OrderRiskRejected,
    OrderWithheld,
    PriceUpdated,
    ReplaceComplianceRejected,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
    ReplaceWithheld,
    RiskDecision,
)
from models.reasons import RiskReason, WithheldReason
from models.values import TimeInForce, maker

LOOKS_BACK_MS: Final = 10_000
"""How old what risk knew at a decision may be."""

MOMENTS_MAX: Final = 500

STANDS: Final = frozenset(
    {
        *tuple(RiskReason)[: tuple(RiskReason).index(RiskReason.KILL_SWITCH_ON)],
        RiskReason.UNKNOWN_INSTRUMENT,
        RiskReason.INSTRUMENT_NOT_TRADABLE,
        RiskReason.CURRENCY_MISMATCH,
        RiskReason.QUANTITY_NOT_POSITIVE,
        RiskReason.PRICE_NOT_POSITIVE,
        RiskReason.TIMESTAMP_IN_FUTURE,
        RiskReason.NO_PRICE,
    }
)
"""Refusals that depend neither on limits nor on the account's books: they stay as they are."""

READABLE: Final[Mapping[str, str]] = {}
NO_HALTS: Final[Known[HaltInForce]] = Known({}, {})
"""Whoever comes as far as to be judged by limits was not halted."""

NOTHING_LISTED: Final[Known[InstrumentListed]] = Known({}, {})
"""For reports: instruments count for decisions alone."""

_PASSES: Final = frozenset({OrderRiskApproved, ReplaceRiskApproved, CancelAccepted})
_REPLACE_ANSWERS: Final = (OrderReplaced, ReplaceRejected, ReplaceWithheld, ReplaceComplianceRejected)
_OF_REPLACE: Final = (ReplaceRiskApproved, ReplaceRiskRejected)
_APPROVED: Final = (OrderRiskApproved, ReplaceRiskApproved)
_OF_ORDER: Final = (OrderRiskApproved, OrderRiskRejected)
_price: Final = maker(PriceUpdated)

Approved = OrderRiskApproved | ReplaceRiskApproved
Outcome = Approved | CancelAccepted | CancelRefused | Refusal


class Market(NamedTuple):
    """What the log tells of instruments and prices, by symbol."""

    instruments: Mapping[str, Timeline[InstrumentListed]]
    prices: Mapping[str, Timeline[PriceUpdated]]

    def listed(self, ms: int) -> Known[InstrumentListed]:
        return Known(AsOf(self.instruments, ms), READABLE)


class History(NamedTuple):
    """What the log tells of one account: decisions in risk's order, reports in theirs, limits by time."""

    account_id: str
    registered: AccountRegistered | None
    limits: Timeline[InForce]
    decisions: list[Logged]
    reports: list[Logged]


class Inputs(NamedTuple):
    """What a decision was made by, besides the books: those of the account as of `moment_ms`."""

    moment_ms: int
    received_at_ms: int
    decided_at_ms: int
    limits: SetRiskLimits | None
    reference: Reference


class Difference(NamedTuple):
    """A decision that comes out otherwise; a reason that is None means that it passes.

    `asked` is the order or the request. `limits` and `books` are those of the other world.
    """

    logged: Logged
    asked: OrderReceived | CancelRequested | ReplaceRequested
    symbol: str
    inputs: Inputs
    limits: SetRiskLimits | None
    books: Books
    books_recorded: Books
    recorded: str | None
    otherwise: str | None
    detail: str

    @property
    def is_of_reason(self) -> bool:
        """Refused in both worlds, for different reasons."""
        return self.recorded is not None and self.otherwise is not None


class Change(NamedTuple):
    """What is counted: `kind` is order, replace or cancel; a reason that is None means that it passes."""

    kind: str
    recorded: str | None
    otherwise: str | None


class Exposure(NamedTuple):
    """Gross worst-case exposure in micros: the highest after any approval, and the one at the end."""

    peak_micros: int
    end_micros: int


class Verdict(NamedTuple):
    """What came of one account, whose cash is `currency`.

    `realised` has, by currency, micros as recorded and otherwise.

    Of the `decided` decisions, `unexplained` did not come out as recorded by any inputs of the log, and
    `limits_gone` were made by limits that the log has no more; both stand as recorded. `first` is the first
    decision that passes or is refused otherwise; where there is none, the first one that is refused for
    another reason. `unknown` says why a symbol's profit or exposure is not in the sums.
    """

    account_id: str
    currency: str
    decided: int
    unexplained: int
    limits_gone: int
    changes: Counter[Change]
    first: Difference | None
    recorded: Exposure
    otherwise: Exposure
    realised: Mapping[str, tuple[int, int]]
    unknown: Mapping[str, str]


class _Step(NamedTuple):
    """What changed the books, and the books before. Risk may learn of it later than the log has it."""

    at_ms: int
    event: Booked
    before: Books
    is_late: bool


class World:
    """The books of an account as they change, and what changed them of late."""

    def __init__(self, books: Books, recent: Iterable[_Step] = ()) -> None:
        self.books = books
        self._recent = deque(recent)

    def fork(self) -> "World":
        return World(self.books, self._recent)

    def take(
        self, at_ms: int, event: Booked, listed: Known[InstrumentListed], *, is_late: bool = False
    ) -> None:
        before, recent = self.books, self._recent
        self.books = folded(before, event, listed)
        if self.books is not before:
            while recent and recent[0].at_ms < at_ms - LOOKS_BACK_MS:
                recent.popleft()
            recent.append(_Step(at_ms, event, before, is_late))

    def as_of(self, ms: int, listed: Known[InstrumentListed]) -> Books | None:
        """The books without the reports after that time; None if what was decided since needs one of them."""
        if not self._recent or self._recent[-1].at_ms <= ms:
            return self.books
        books = None
        try:
            for step in self._recent:
                if step.is_late and step.at_ms > ms:
                    books = books or step.before
                elif books is not None:
                    books = folded(books, step.event, listed)
        except InvariantBroken:
            return None
        return books or self.books

    def learned(self, after_ms: int) -> Iterator[int]:
        """When the log had a report, after that time."""
        return (each.at_ms for each in self._recent if each.is_late and each.at_ms > after_ms)


def hindsight(
    history: History,
    market: Market,
    changes: Mapping[str, object],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> Verdict:
    """Decide again what was decided from `from_ms` on and before `until_ms`, with fields of limits changed.

    None: from the beginning, to the end. Raises InvariantBroken where the log contradicts itself.
    """
    return _Hindsight(history, market, changes, from_ms, until_ms).verdict()


class _Hindsight:
    def __init__(
        self,
        history: History,
        market: Market,
        changes: Mapping[str, object],
        from_ms: int | None,
        until_ms: int | None,
    ) -> None:
        self._history = history
        self._market = market
        self._changes = changes
        self._from_ms, self._until_ms = from_ms, until_ms
        registered = history.registered
        known = {} if registered is None else {registered.account_id: registered}
        self._accounts: Known[AccountRegistered] = Known(known, READABLE)
        self._versions = {
            each.version: each
            for each in history.limits.values
            if isinstance(each, SetRiskLimits) and not each.kill_switch
        }
        self._changed: dict[int, SetRiskLimits] = {}
        self._recorded = self._other = World(NO_BOOKS)
        self._resting: set[str] = set()
        """Orders of the other world that have no reports of their own: see above."""
        self._unanswered: set[str] = set()
        """Orders of the other world of which a replace waits that nobody answers."""
        self._counts: Counter[Change] = Counter()
        self._first: Difference | None = None
        self._decided = self._unexplained = self._gone = 0
        self._unknown: dict[str, str] = {}
        self._peaks = (0, 0)

    def verdict(self) -> Verdict:
        began = False
        last_ms = 0
        for logged in in_order(self._history.decisions, self._history.reports):
            if self._until_ms is not None and logged.at_ms >= self._until_ms:
                break
            last_ms = max(last_ms, logged.at_ms)
            event = logged.event
            if type(event) is OrderAcknowledged:
                continue  # it changes nothing
            listed = NOTHING_LISTED if is_report(event) else self._market.listed(logged.at_ms)
            if self._from_ms is not None and logged.at_ms < self._from_ms:
                is_late = is_report(logged.event)
                self._recorded.take(logged.at_ms, logged.event, listed, is_late=is_late)
                continue
            if not began:
                began = True
                self._measure(self._reference(logged.at_ms))
            if is_report(event):
                self._report(logged, listed)
            elif isinstance(event, RiskDecision):
                self._decide(logged, event, listed)
            else:
                self._take_both(logged, listed)
        return self._sum(self._until_ms or last_ms)

    # -- decisions

    def _decide(self, logged: Logged, event: RiskDecision, listed: Known[InstrumentListed]) -> None:
        self._decided += 1
        if _stays(event):
            self._take_both(logged, listed)
            return
        found = self._explain(logged, event, listed)
        if found is None:
            self._stand(logged, event, listed)
        else:
            self._again(logged, event, *found, listed)
        if type(event) is not CancelAccepted and type(event) is not CancelRefused:
            self._measure(self._reference(logged.at_ms) if found is None else found[0].reference)
            self._end_immediate(logged, event, listed)

    def _explain(
        self, logged: Logged, event: RiskDecision, listed: Known[InstrumentListed]
    ) -> tuple[Inputs, Books] | None:
        """The inputs by which the decision comes out as it is recorded, the latest first."""
        if isinstance(event, _APPROVED) and (event.limits_version not in self._versions):
            self._gone += 1
            return None
        for moment_ms in self._moments(logged, event):
            if moment_ms != logged.at_ms:
                listed = self._market.listed(moment_ms)
            inputs = self._inputs(logged, event, moment_ms, listed)
            books = self._recorded.as_of(moment_ms, inputs.reference.instruments)
            if books is not None and _reason_of(_judge(event, inputs, books)) == _reason_of(event):
                return inputs, books
        if isinstance(self._history.limits.at(logged.at_ms), Gone):
            self._gone += 1
        else:
            self._unexplained += 1
        return None

    def _moments(self, logged: Logged, event: RiskDecision) -> Iterator[int]:
        """Now, then just before each change of what the decision may depend on, backwards."""
        yield logged.at_ms
        after_ms = logged.at_ms - LOOKS_BACK_MS
        symbols = {_symbol_of(event, self._recorded.books), *self._recorded.books.account.holdings}
        changed = {*self._recorded.learned(after_ms), *self._history.limits.changes(after_ms, logged.at_ms)}
        for symbol in symbols:
            if symbol in self._market.prices:
                changed.update(self._market.prices[symbol].changes(after_ms, logged.at_ms))
        yield from (each - 1 for each in sorted(changed, reverse=True)[:MOMENTS_MAX])

    def _inputs(
        self, logged: Logged, event: RiskDecision, moment_ms: int, listed: Known[InstrumentListed]
    ) -> Inputs:
        """What the log tells of the decision's inputs, as of a moment."""
        received_at_ms = logged.received_at_ms or logged.at_ms
        decided_at_ms = max(received_at_ms, moment_ms)
        limits, instead = self._history.limits.at(moment_ms), None
        if isinstance(event, _APPROVED):
            if not isinstance(limits, SetRiskLimits) or limits.version != event.limits_version:
                limits = self._versions[event.limits_version]
            decided_at_ms = event.decided_at_ms or logged.at_ms
            price = _price_of(event, decided_at_ms, listed)
            instead = {price.symbol: price}
        prices = Known(AsOf(self._market.prices, moment_ms, instead), READABLE)
        reference = Reference(self._accounts, listed, NO_HALTS, prices)
        in_force = limits if isinstance(limits, SetRiskLimits) else None
        return Inputs(moment_ms, received_at_ms, decided_at_ms, in_force, reference)

    def _again(
        self,
        logged: Logged,
        event: RiskDecision,
        inputs: Inputs,
        books_recorded: Books,
        listed: Known[InstrumentListed],
    ) -> None:
        """Decide in the other world, and let both go on."""
        limits = self._with_changes(inputs.limits)
        is_same = self._other is self._recorded
        if is_same and limits == inputs.limits:
            self._take_both(logged, listed)
            return
        books = books_recorded
        if not is_same:
            if self._unanswered and isinstance(event, _OF_REPLACE):
                self._drop_unanswered(logged.at_ms, event.request.order_id, listed)
            books = self._other.as_of(inputs.moment_ms, inputs.reference.instruments) or self._other.books
        outcome = _judge(event, inputs._replace(limits=limits), books)
        recorded, otherwise = _reason_of(event), _reason_of(outcome)
        agrees = (recorded is None) == (otherwise is None)
        if otherwise != recorded:
            self._count(event, recorded, otherwise)
            if self._first is None or (self._first.is_of_reason and not agrees):
                detail = outcome.detail if isinstance(outcome, Refusal) else ""
                asked = event.order if isinstance(event, _OF_ORDER) else event.request
                symbol = _symbol_of(event, books_recorded)
                self._first = Difference(
                    logged, asked, symbol, inputs, limits, books, books_recorded, recorded, otherwise, detail
                )
        if agrees and is_same:
            self._take_both(logged, listed)
            return
        other = self._apart()
        self._recorded.take(logged.at_ms, event, listed)
        if agrees:
            other.take(logged.at_ms, event, listed)
        else:
            self._take_otherwise(other, logged.at_ms, event, outcome, listed)
        if otherwise is None and not (recorded is None and type(event) is OrderRiskApproved):
            self._follow(event, listed, logged.at_ms, newly_passed=recorded is not None)

    def _take_otherwise(
        self,
        other: World,
        at_ms: int,
        event: RiskDecision,
        outcome: Outcome,
        listed: Known[InstrumentListed],
    ) -> None:
        match outcome, event:
            case Refusal(reason, detail), OrderRiskApproved(order=order):
                refused = OrderRiskRejected(order=order, reason=reason, source="", detail=detail)
                other.take(at_ms, refused, listed)
            case Refusal(reason, detail), ReplaceRiskApproved(request=request):
                rejected = ReplaceRiskRejected(request=request, reason=reason, source="", detail=detail)
                other.take(at_ms, rejected, listed)
            case (OrderRiskApproved() | ReplaceRiskApproved() | CancelAccepted()) as passed, _:
                other.take(at_ms, passed, listed)

    def _follow(
        self, event: RiskDecision, listed: Known[InstrumentListed], at_ms: int, *, newly_passed: bool
    ) -> None:
        """What follows in the other world from what passes there and nobody reports."""
        order_id = order_of(event)
        if isinstance(event, OrderRiskRejected):
            self._resting.add(order_id)
        elif isinstance(event, _OF_REPLACE):
            if newly_passed or order_id in self._resting:
                self._unanswered.add(order_id)
        elif isinstance(event, CancelAccepted | CancelRefused) and order_id in self._resting:
            self._release(at_ms, order_id, listed)

    def _stand(self, logged: Logged, event: RiskDecision, listed: Known[InstrumentListed]) -> None:
        """Take a decision as it is recorded, in the other world as far as its order is there."""
        if self._other is self._recorded:
            self._take_both(logged, listed)
            return
        self._recorded.take(logged.at_ms, event, listed)
        reservation = self._other.books.reservations.get(order_of(event))
        if isinstance(event, ReplaceRiskApproved):
            if reservation is None:
                account = with_last_sequence(self._other.books.account, event.request.sequence)
                self._other.books = self._other.books._replace(account=account)
                return
            self._drop_unanswered(logged.at_ms, event.request.order_id, listed)
        if isinstance(event, CancelAccepted) and (reservation is None or reservation.cancel_id is not None):
            return
        self._other.take(logged.at_ms, event, listed)
        if _reason_of(event) is None:
            self._follow(event, listed, logged.at_ms, newly_passed=False)

    def _count(self, event: RiskDecision, recorded: str | None, otherwise: str | None) -> None:
        if isinstance(event, CancelRefused) and otherwise is not None:
            return
        kind = {OrderRiskApproved: "order", OrderRiskRejected: "order"}.get(type(event))
        if kind is None:
            kind = "cancel" if isinstance(event, CancelAccepted | CancelRefused) else "replace"
        self._counts[Change(kind, recorded, otherwise)] += 1

    # -- reports

    def _report(self, logged: Logged, listed: Known[InstrumentListed]) -> None:
        if self._other is self._recorded:
            self._recorded.take(logged.at_ms, logged.event, listed, is_late=True)
            return
        event = logged.event
        self._recorded.take(logged.at_ms, event, listed, is_late=True)
        if type(event) is OrderExpired:
            for order_id in tuple(self._resting):
                self._release(logged.at_ms, order_id, listed)
        if self._is_of_other(event):
            self._other.take(logged.at_ms, event, listed, is_late=True)

    def _is_of_other(self, event: Booked) -> bool:
        """Whether what is reported has happened in the other world too."""
        order_id = order_of(event)
        reservation = self._other.books.reservations.get(order_id)
        if reservation is None or order_id in self._resting:
            return False
        if type(event) not in ANSWERS:
            return True
        if isinstance(event, CancelRejected):
            return reservation.cancel_id == event.request_id
        if isinstance(event, _REPLACE_ANSWERS) and (
            reservation.replace is None or reservation.replace.request_id != answers(event)
        ):
            if isinstance(event, OrderReplaced):
                self._resting.add(order_id)
            return False
        return True

    def _release(self, at_ms: int, order_id: str, listed: Known[InstrumentListed]) -> None:
        """End an order that rests in the other world."""
        self._resting.discard(order_id)
        self._unanswered.discard(order_id)
        reservation = self._other.books.reservations.get(order_id)
        if reservation is None:
            return
        ended = OrderWithheld(
            order_id=order_id,
            account_id=self._history.account_id,
            symbol=reservation.symbol,
            side=reservation.side,
            reason=WithheldReason.ORDER_ENDED,
            withheld_lots=reservation.open_lots,
            looked_at_ms=at_ms,
        )
        self._other.take(at_ms, ended, listed)

    def _drop_unanswered(self, at_ms: int, order_id: str, listed: Known[InstrumentListed]) -> None:
        reservation = self._other.books.reservations.get(order_id)
        if order_id not in self._unanswered or reservation is None or reservation.replace is None:
            return
        self._unanswered.discard(order_id)
        answer: Answer = ReplaceWithheld(
            order_id=order_id,
            account_id=self._history.account_id,
            symbol=reservation.symbol,
            side=reservation.side,
            request_id=reservation.replace.request_id,
            reason=WithheldReason.ORDER_ENDED,
            looked_at_ms=at_ms,
        )
        self._other.take(at_ms, answer, listed)

    def _end_immediate(self, logged: Logged, event: RiskDecision, listed: Known[InstrumentListed]) -> None:
        """An IOC does not rest."""
        if not self._resting or not isinstance(event, OrderRiskRejected):
            return
        if event.order.order_id not in self._resting:
            return
        if event.order.time_in_force is TimeInForce.IOC:
            self._release(logged.at_ms, event.order.order_id, listed)

    # -- both worlds

    def _take_both(self, logged: Logged, listed: Known[InstrumentListed]) -> None:
        self._recorded.take(logged.at_ms, logged.event, listed)
        if self._other is not self._recorded:
            self._other.take(logged.at_ms, logged.event, listed)

    def _apart(self) -> World:
        if self._other is self._recorded:
            self._other = self._recorded.fork()
        return self._other

    def _with_changes(self, limits: SetRiskLimits | None) -> SetRiskLimits | None:
        if limits is None or not self._changes:
            return limits
        changed = self._changed.get(id(limits))
        if changed is None:
            changed = self._changed[id(limits)] = limits.model_copy(update=dict(self._changes))
        return changed

    # -- what came of it

    def _reference(self, at_ms: int) -> Reference:
        prices = Known(AsOf(self._market.prices, at_ms), READABLE)
        return Reference(self._accounts, self._market.listed(at_ms), NO_HALTS, prices)

    def _measure(self, reference: Reference) -> tuple[int, int]:
        recorded = self._gross_micros(self._recorded.books, reference)
        other = recorded
        if self._other is not self._recorded:
            other = self._gross_micros(self._other.books, reference)
        peak, other_peak = self._peaks
        if recorded > peak or other > other_peak:
            self._peaks = (max(peak, recorded), max(other_peak, other))
        return recorded, other

    def _gross_micros(self, books: Books, reference: Reference) -> int:
        gross_micros = 0
        for symbol, holding in books.account.holdings.items():
            if holding.is_flat:
                continue
            micros = worst_exposure_micros(symbol, holding, reference)
            if micros is None:
                self._unknown[symbol] = f"nobody can say what {symbol} is worth"
            else:
                gross_micros += micros
        return gross_micros

    def _realised(self, books: Books, at_ms: int) -> dict[str, int]:
        listed, sums = self._market.listed(at_ms).values, Counter[str]()
        for symbol, holding in books.account.holdings.items():
            instrument = listed.get(symbol)
            if holding.profit is None or instrument is None:
                if holding.position_lots:
                    self._unknown[symbol] = f"the profit of {symbol} is not known"
                continue
            micros = marked(holding, instrument, None, at_ms).realised_micros
            if micros is None:
                self._unknown[symbol] = f"the profit of {symbol} is not known"
            else:
                sums[instrument.instrument.currency] += micros
        return dict(sums)

    def _sum(self, end_ms: int) -> Verdict:
        ends, registered = self._measure(self._reference(end_ms)), self._history.registered
        recorded, other = (self._realised(world.books, end_ms) for world in (self._recorded, self._other))
        return Verdict(
            account_id=self._history.account_id,
            currency="" if registered is None else registered.base_currency,
            decided=self._decided,
            unexplained=self._unexplained,
            limits_gone=self._gone,
            changes=self._counts,
            first=self._first,
            recorded=Exposure(self._peaks[0], ends[0]),
            otherwise=Exposure(self._peaks[1], ends[1]),
            realised={
                currency: (recorded.get(currency, 0), other.get(currency, 0))
                for currency in sorted({*recorded, *other})
            },
            unknown=self._unknown,
        )


def _judge(event: RiskDecision, inputs: Inputs, books: Books) -> Outcome:
    """The decision by these inputs and books."""
    _, received_at_ms, decided_at_ms, limits, reference = inputs
    match event:
        case OrderRiskApproved(order=order) | OrderRiskRejected(order=order):
            return decide_risk(
                order,
                received_at_ms=received_at_ms,
                decided_at_ms=decided_at_ms,
                account=books.account,
                limits=limits,
                reference=reference,
            )
        case ReplaceRiskApproved(request=request) | ReplaceRiskRejected(request=request):
            return decide_replace(
                request,
                received_at_ms=received_at_ms,
                decided_at_ms=decided_at_ms,
                account=books.account,
                reservation=books.reservations.get(request.order_id),
                limits=limits,
                reference=reference,
            )
        case CancelAccepted() | CancelRefused():
            reservation = books.reservations.get(event.request.order_id)
            return decide_cancel(event.request, books.account, reservation, event.source)


def _reason_of(outcome: RiskDecision | Outcome) -> str | None:
    """Why it is refused; None: it passes."""
    return None if type(outcome) in _PASSES else outcome.reason  # type: ignore[union-attr]


def _stays(event: RiskDecision) -> bool:
    """Whether it is a refusal that no limits and no books can change."""
    if type(event) in _PASSES or not isinstance(event, (OrderRiskRejected, ReplaceRiskRejected)):
        return False
    return not isinstance(event.reason, RiskReason) or event.reason in STANDS


def _price_of(event: Approved, decided_at_ms: int, listed: Known[InstrumentListed]) -> PriceUpdated:
    """The price that an approval names."""
    symbol = event.order.symbol if isinstance(event, OrderRiskApproved) else event.symbol
    instrument = listed.values.get(symbol)
    return _price(
        symbol=symbol,
        price_ticks=event.reference_price_ticks,
        tick_sequence=event.reference_tick_sequence,
        observed_at_ms=decided_at_ms - event.price_age_ms,
        epoch=event.reference_tick_epoch,
        scale=1 if instrument is None else instrument.scale,
    )


def _symbol_of(event: RiskDecision, books: Books) -> str:
    if isinstance(event, _OF_ORDER):
        return event.order.symbol
    reservation = books.reservations.get(event.request.order_id)
    return "" if reservation is None else reservation.symbol
