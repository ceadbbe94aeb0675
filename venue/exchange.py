"""The exchange without its network: takes commands, changes the book, commits to the ledger, then tells."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from models.values import Instrument
from venue.book import Fact, Filled, Market, Order, OrderStatus, Refused, Request, Tick
from venue.ledger import Ledger
from venue.reports import report_of
from venue.requests import MarketTick
from venue.terms import DEFAULT_RULES, Rules, moment_of, terms_of


class Submission(NamedTuple):
    """Ids of orders or requests: `accepted` were taken (a refusal is a report), `duplicates` were known."""

    accepted: list[str]
    duplicates: list[str]


class Moves(NamedTuple):
    """How many market trades were new, had been applied before, or are of a symbol that is not listed."""

    applied: int
    repeated: int
    not_listed: int


@dataclass(slots=True)
class _State:
    """What the ledger says, in memory: the market, and each session's last `venue_sequence` and owner."""

    market: Market
    sequences: dict[int, int]
    epochs: dict[int, int]


def _never() -> bool:
    return False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Exchange:
    """One transaction a call; `on_reports(session)` is called after the commit, once a session.

    All trades of a call are of the moment that `clock_ms` says at its end.
    Memory follows the ledger: a call that fails leaves the ledger as it was, and the next one reads the
    state from it again. sqlite3.Error passes through.
    """

    def __init__(
        self,
        ledger: Ledger,
        listed: Mapping[str, Instrument],
        on_reports: Callable[[int], None] = lambda session: None,
        *,
        rules: Rules = DEFAULT_RULES,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._ledger = ledger
        self._listed = listed
        self._rules = rules
        self._clock_ms = clock_ms
        self.on_reports = on_reports
        self._state: _State | None = self._load()

    def submit(
        self,
        orders: Sequence[Order],
        rejects_next: Callable[[], bool] = _never,
        cancels_next: Callable[[], bool] = _never,
    ) -> Submission:
        """Take the orders whose id is new; count the others as received once more.

        `rejects_next` is asked once for each order taken: True refuses it on demand. `cancels_next` is asked
        once for each that comes to rest: True cancels it unasked.
        """
        known = self._ledger.known([order.order_id for order in orders])
        accepted: list[str] = []
        duplicates: list[str] = []
        facts: list[Fact] = []
        with self._changing() as state:
            for order in orders:
                if order.order_id in known:
                    duplicates.append(order.order_id)
                    continue
                known.add(order.order_id)
                accepted.append(order.order_id)
                facts += state.market.place(order, reject_on_demand=rejects_next())
                if order.status is OrderStatus.OPEN and cancels_next():
                    facts += state.market.cancel_unasked(order)
            sessions = self._record(state, facts)
            self._ledger.count_repeats(duplicates)
        self._tell(sessions)
        return Submission(accepted, duplicates)

    def ask(self, requests: Sequence[Request], rejects_next: Callable[[], bool] = _never) -> Submission:
        """Answer the requests whose id is new, each by a report; count the others as received once more.

        `rejects_next` is asked once for each request taken: True refuses it on demand.
        """
        known = self._ledger.known_requests([request.request_id for request in requests])
        answered: list[tuple[Request, Fact]] = []
        duplicates: list[str] = []
        facts: list[Fact] = []
        with self._changing() as state:
            orders = self._orders(state, [request.order_id for request in requests])
            for request in requests:
                if request.request_id in known:
                    duplicates.append(request.request_id)
                    continue
                known.add(request.request_id)
                answer, *fills = state.market.answer(
                    request, orders.get(request.order_id), reject_on_demand=rejects_next()
                )
                answered.append((request, answer))
                facts += [answer, *fills]
            sessions = self._record(state, facts)
            self._ledger.add_requests(answered)
            self._ledger.count_repeated_requests(duplicates)
        self._tell(sessions)
        return Submission([request.request_id for request, _ in answered], duplicates)

    def _orders(self, state: _State, order_ids: Sequence[str]) -> dict[str, Order]:
        """The orders that the venue has, by id: those of the book as far as they rest."""
        return {
            order_id: state.market.books[order.symbol].resting(order.side, order_id)
            if order.status is OrderStatus.OPEN
            else order
            for order_id, order in self._ledger.load_orders(order_ids).items()
        }

    def claim(self, epochs: Mapping[int, int]) -> dict[int, int]:
        """Make each epoch its session's owner; all of them, or none when a session has a later one.

        Returns the later ones by session: empty when the caller is the owner of all.
        """
        owners = self._current().epochs
        later = {
            session: owners[session] for session, epoch in epochs.items() if owners.get(session, 0) > epoch
        }
        raised = {session: epoch for session, epoch in epochs.items() if epoch > owners.get(session, 0)}
        if raised and not later:
            with self._changing() as state:
                state.epochs.update(raised)
                self._ledger.save_epochs(raised.items())
        return later

    def known(self, client_order_ids: Sequence[str]) -> list[str]:
        """Those the ledger has, in the order asked."""
        known = self._ledger.known(client_order_ids)
        return [client_order_id for client_order_id in client_order_ids if client_order_id in known]

    def known_requests(self, request_ids: Sequence[str]) -> list[str]:
        """Those the ledger has, in the order asked."""
        known = self._ledger.known_requests(request_ids)
        return [request_id for request_id in request_ids if request_id in known]

    def knows(self, symbol: str) -> bool:
        """Whether the symbol is listed, or has been."""
        return symbol in self._current().market.books

    def move_market(self, ticks: Sequence[MarketTick]) -> Moves:
        """Apply the market trades that are new; those of a symbol that is not listed any more do nothing."""
        applied = not_listed = 0
        facts: list[Fact] = []
        with self._changing() as state:
            for each in ticks:
                tick = Tick(each.epoch, each.sequence)
                if each.symbol not in self._listed:
                    not_listed += 1
                elif not state.market.has_seen(each.symbol, tick):
                    applied += 1
                    facts += state.market.trade(each.symbol, tick, each.price_ticks, each.quantity_lots)
            sessions = self._record(state, facts)
        self._tell(sessions)
        return Moves(applied, len(ticks) - applied - not_listed, not_listed)

    def close_market(self) -> int:
        """Expire every open order; returns how many."""
        with self._changing() as state:
            facts = state.market.close()
            sessions = self._record(state, facts)
        self._tell(sessions)
        return len(facts)

    def reports_after(self, session: int, after: int, count_max: int) -> list[tuple[int, str]]:
        """The next committed reports of the session: (venue_sequence, JSON body), in order."""
        return self._ledger.reports_after(session, after, count_max)

    def last_sequence(self, session: int) -> int:
        """The number that the session's next report follows."""
        return self._last(self._current(), session)

    def _last(self, state: _State, session: int) -> int:
        return max(state.sequences.get(session, 0), self._ledger.numbered_before)

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        state = self._current()
        self._state = None  # a failure below must not leave a half-changed book behind
        with self._ledger.transaction():
            yield state
        self._state = state

    def _current(self) -> _State:
        if self._state is None:
            self._state = self._load()
        return self._state

    def _load(self) -> _State:
        market = self._ledger.load_market(self._listed)
        return _State(market, self._ledger.load_sequences(), self._ledger.load_epochs())

    def _record(self, state: _State, facts: Iterable[Fact]) -> dict[int, int]:
        """Write what happened; returns the sessions that got reports, with their last sequence."""
        touched: dict[str, Order] = {}
        reports = []
        fills = []
        sessions: dict[int, int] = {}
        moment = moment_of(self._clock_ms(), self._rules.zone)
        for fact in facts:
            order = fact.order
            sequence = self._last(state, order.session) + 1
            state.sequences[order.session] = sessions[order.session] = sequence
            if not isinstance(fact, Refused):
                touched[order.order_id] = order
            terms = None
            if isinstance(fact, Filled):
                terms = terms_of(fact, self._listed[order.symbol], self._rules, moment)
                fills.append((fact, terms, sequence))
            reports.append(report_of(fact, sequence, terms))
        self._ledger.save_orders(touched.values())
        self._ledger.add_reports(reports)
        self._ledger.add_trades(fills)
        self._ledger.save_sequences(sessions.items())
        self._ledger.save_prices(state.market)
        return sessions

    def _tell(self, sessions: Iterable[int]) -> None:
        for session in sessions:
            self.on_reports(session)
