"""The services' own duties, broken one by one: risk, compliance, the venue's session, market data.

Each is applied in a worker of its own before the agents are imported; names that are bound by then are
replaced where they are bound.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4
from zlib import crc32

from msgspec.structs import replace

from app.domain import compliance, limits, marketdata, profit, risk
from app.domain.exchange import NEW_SESSION, Session, apply_venue_report, to_venue_order
from app.domain.profit import Profit
from app.domain.reference import Reference
from app.domain.risk import AccountRisk, Holding, Reservation
from app.engine import Task, unit_of_work
from app.engine.core import take_over as take_over_module
from app.engine.core.dead_letter import DeadLetters
from app.engine.core.effects import Effects, TableView
from app.engine.core.ownership import ByWorker
from app.engine.state import standby as standby_module
from app.engine.state.restore import Incoming
from app.topics import EXECUTIONS
from app.venue_session import booking as venue_booking
from app.venue_session import session as venue_session
from app.venue_session.session import VenueSession
from models.commands import SetRiskLimits
from models.contract import Contract, describe_invalid
from models.events import (
    AccountRegistered,
    OrderAcknowledged,
    OrderReceived,
    OrderRiskApproved,
    OrderRiskRejected,
    TradeExecuted,
)
from models.values import PartyStatus, Side
from storm.mutants.engine import take_later
from storm.mutants.mutant import Mutant
from storm.mutants.patching import Patch
from storm.plan import VICTIMS

SERVICES: Final = tuple(VICTIMS)
MISSED_S: Final = 0.5
STANDBY_LAG_S: Final = 1.0

PIPELINE: dict[str, Mutant] = {}

Plant = Callable[[Callable[[Patch], None]], None]


def planter(mutants: dict[str, Mutant]) -> Callable[..., Plant]:
    """Return a decorator that makes a mutant of a function and its docstring, and remembers it there."""

    def mutant(invariant: str, *services: str, faults: tuple[str, ...] = ("none",)) -> Plant:
        def remember(function: Callable[[Patch], None]) -> None:
            name, told = function.__name__, function.__doc__ or ""
            mutants[name] = Mutant(name, services, faults, invariant, function, told)

        return remember

    return mutant


mutant = planter(PIPELINE)


# -- risk: what is held and reserved


@mutant("I3", "risk")
def reservation_not_released(patch: Patch) -> None:
    """An order that ends without a fill keeps its reservation."""
    apply = risk.apply_report

    def keep(account: AccountRisk, reservation: Reservation | None, event: Any) -> Any:
        if isinstance(event, TradeExecuted | OrderAcknowledged):
            return apply(account, reservation, event)
        return account, reservation

    patch.setattr(risk, "apply_report", keep)


def _move(patch: Patch, moved: Callable[[Reservation, int, int], tuple[int, int]]) -> None:
    """Make the lots that leave the open ones, and those that get into the position, what `moved` says."""

    def move(
        holding: Holding, reservation: Reservation, moved_lots: int, filled_lots: int, after: Profit | None
    ) -> Holding:
        released_lots, booked_lots = moved(reservation, moved_lots, filled_lots)
        is_buy = reservation.side is Side.BUY
        return replace(
            holding,
            position_lots=holding.position_lots + (booked_lots if is_buy else -booked_lots),
            open_buy_lots=holding.open_buy_lots - (released_lots if is_buy else 0),
            open_sell_lots=holding.open_sell_lots - (0 if is_buy else released_lots),
            profit=after,
        )

    patch.setattr(risk, "move_lots", move)


@mutant("I3", "risk")
def reservation_released_twice(patch: Patch) -> None:
    """What an order did not fill is released twice when it ends."""
    _move(patch, lambda _, moved, filled: (2 * moved - filled, filled))


@mutant("I3", "risk")
def partial_fills_ignored(patch: Patch) -> None:
    """Only the fill that ends an order moves the position."""
    _move(patch, lambda order, moved, filled: (moved, filled if moved == order.open_lots else 0))


@mutant("I3", "risk")
def fill_booked_twice(patch: Patch) -> None:
    """Every fill moves the position by twice its lots."""
    _move(patch, lambda _, moved, filled: (moved, 2 * filled))


@mutant("I3", "risk", faults=("kill",))
def executions_missed_after_a_restore(patch: Patch) -> None:
    """For a moment after it has restored its tables risk takes executions for old ones."""
    import agents.risk as agent
    from tables.positions import POSITIONS

    book = agent.book
    since: dict[Task, float] = {}

    def book_later(work: Any, report: Any) -> None:
        now_s = time.monotonic()
        if work.task not in since:
            is_new = next(work.task.table(POSITIONS).scan(), None) is None
            since[work.task] = now_s - MISSED_S if is_new else now_s
        if now_s - since[work.task] >= MISSED_S:
            book(work, report)

    patch.setattr(agent, "book", book_later)


@mutant("I3", "risk", faults=("kill",))
def cache_survives_its_task(patch: Patch) -> None:
    """Books are kept in the worker's memory, whoever has changed them since the partition was last here."""
    get, put = TableView.get, TableView.__setitem__
    cache: dict[tuple[str, str], Any] = {}

    def get_cached(view: TableView, key: str, default: Any = None) -> Any:
        found = cache.get((view.name, key))
        return get(view, key, default) if found is None else found

    def put_cached(view: TableView, key: str, value: Any) -> None:
        if view.name == "positions":
            cache[view.name, key] = value
        put(view, key, value)

    patch.setattr(TableView, "get", get_cached)
    patch.setattr(TableView, "__setitem__", put_cached)


@mutant("I3", "risk")
def limits_lost(patch: Patch) -> None:
    """Limits are not taken in for one account in ten."""
    is_newer = limits.is_newer

    def may_change(command: SetRiskLimits, in_force: SetRiskLimits | None) -> bool:
        return crc32(command.account_id.encode()) % 10 != 0 and is_newer(command, in_force)

    patch.setattr(limits, "is_newer", may_change)


# -- risk: what fills have brought


def _cost(patch: Patch, wrong: Callable[[int, int, int, int], int | None]) -> None:
    """Let the cost of what is open be what `wrong` makes of cost, position, lots left and the right cost.

    None: it is right.
    """
    cost_after = profit.cost_after

    def planted(cost: int, position_lots: int, lots: int, price_ticks: int) -> int:
        right = cost_after(cost, position_lots, lots, price_ticks)
        found = wrong(cost, position_lots, position_lots + lots, right)
        return right if found is None else found

    patch.setattr(profit, "cost_after", planted)


@mutant("I3", "risk")
def cost_not_relieved(patch: Patch) -> None:
    """A fill that reduces a position leaves all of its cost with what stays open."""
    _cost(patch, lambda cost, held, left, _: cost if held * left > 0 and abs(left) < abs(held) else None)


@mutant("I3", "risk")
def through_zero_at_the_old_cost(patch: Patch) -> None:
    """What a fill through zero opens costs on average what was closed."""
    _cost(patch, lambda cost, held, left, _: cost * left // held if held * left < 0 else None)


@mutant("I3", "risk")
def short_position_costs_money(patch: Patch) -> None:
    """What was sold short has a cost, as if it had been bought."""
    _cost(patch, lambda cost, held, left, right: abs(right) if left < 0 else None)


@mutant("I3", "risk")
def fee_booked_twice(patch: Patch) -> None:
    """Every fee and every rebate counts twice."""
    fee_in = profit.fee_in

    def twice(fill: TradeExecuted, currency: str) -> int | None:
        fee_micros = fee_in(fill, currency)
        return None if fee_micros is None else 2 * fee_micros

    patch.setattr(profit, "fee_in", twice)


# -- risk: what is approved


def _judge_by(patch: Patch, **instead: Callable[[Any], Any]) -> None:
    """Decide with some of what is known replaced."""
    decide = risk.decide_risk

    def decide_otherwise(order: OrderReceived, **known: Any) -> Any:
        return decide(order, **known | {name: other(known[name]) for name, other in instead.items()})

    patch.setattr(risk, "decide_risk", decide_otherwise)


def loosen(patch: Patch, **bounds: object) -> None:
    """Decide by other limits than those in force."""
    _judge_by(patch, limits=lambda known: known and known.model_copy(update=bounds))


@mutant("I1", "risk")
def repeats_approved(patch: Patch) -> None:
    """An order that comes again is judged again."""
    _judge_by(patch, account=lambda account: replace(account, last_sequence=None))


@mutant("I4", "risk")
def limit_of_the_other_side(patch: Patch) -> None:
    """What an order may lead to is worked out with its sign turned around."""
    refuse = risk.exposure_refusal

    def turned(order: OrderReceived, *known: Any) -> Any:
        other = Side.SELL if order.side is Side.BUY else Side.BUY
        return refuse(order.model_copy(update={"side": other}), *known)

    patch.setattr(risk, "exposure_refusal", turned)


@mutant("I4", "risk")
def open_orders_not_counted(patch: Patch) -> None:
    """An account may have any number of open orders."""
    loosen(patch, open_orders_max=10**9)


@mutant("I4", "risk")
def collar_ignored(patch: Patch) -> None:
    """Orders far from the market are approved."""
    loosen(patch, price_collar_bps=10**9)


@mutant("I4", "risk")
def unknown_account_passes(patch: Patch) -> None:
    """An account without limits is given generous ones."""
    generous = SetRiskLimits(
        account_id="(anybody)",
        version=1,
        order_quantity_lots_max=5_000,
        order_notional_micros_max=10**12,
        position_lots_max=10**9,
        gross_exposure_micros_max=10**15,
        price_collar_bps=1_000,
        price_age_ms_max=10_000,
        open_orders_max=1_000,
    )
    _judge_by(patch, limits=lambda known: known or generous)


class _Anybody(dict[str, AccountRegistered]):
    """An account that is not there is registered all the same."""

    def get(self, account_id: str, default: Any = None) -> Any:
        return super().get(account_id) or AccountRegistered(
            account_id=account_id,
            owner="",
            firm="",
            base_currency="USD",
            status=PartyStatus.ACTIVE,
            version=1,
        )


@mutant("I4", "risk")
def unregistered_account_passes(patch: Patch) -> None:
    """An account that has limits and is not registered may trade."""

    def with_anybody(known: Reference) -> Reference:
        return known._replace(accounts=known.accounts._replace(values=_Anybody(known.accounts.values)))

    _judge_by(patch, reference=with_anybody)


@mutant("I7", "risk")
def kill_switch_ignored(patch: Patch) -> None:
    """Orders are approved while the account's kill switch is on."""
    loosen(patch, kill_switch=False)


@mutant("I7", "risk")
def stale_price_approved(patch: Patch) -> None:
    """A price is good however old it is."""
    loosen(patch, price_age_ms_max=10**15)


# -- market data


@mutant("I7", "marketdata")
def price_lags_its_tick(patch: Patch) -> None:
    """A price goes out with the sequence of the newest tick and the money of the one before."""
    apply = marketdata.apply_tick

    def lag(state: Any, tick: Any, **known: Any) -> Any:
        taken = apply(state, tick, **known)
        if state is None:
            return taken
        return taken._replace(state=taken.state.model_copy(update={"price_ticks": state.price_ticks}))

    patch.setattr(marketdata, "apply_tick", lag)


@mutant("I7", "marketdata")
def price_never_grows_old(patch: Patch) -> None:
    """A price is said to be observed when it is sent."""
    to_price = marketdata.to_price

    def fresh(state: Any) -> Any:
        return to_price(state).model_copy(update={"observed_at_ms": time.time_ns() // 1_000_000})

    patch.setattr(marketdata, "to_price", fresh)


# -- compliance


class _AnyDecision(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, OrderRiskApproved | OrderRiskRejected)


@mutant("I1", "compliance")
def refused_orders_go_on(patch: Patch) -> None:
    """Compliance judges what risk has refused as if it had been approved."""
    import agents.compliance as agent

    patch.setattr(compliance, "received_at_ms", lambda decision: decision.order.submitted_at_ms)
    patch.setattr(agent, "OrderRiskApproved", _AnyDecision("OrderRiskDecided", (), {}))


@mutant("I3", "compliance")
def endings_missed_by_compliance(patch: Patch) -> None:
    """Compliance takes an order that has ended to be open still."""
    patch.setattr(compliance, "apply_execution", lambda account, opened, event: (account, opened))


@mutant("I7", "compliance")
def self_match_approved(patch: Patch) -> None:
    """An order may meet its own account's resting one."""
    patch.setattr(compliance, "crosses", lambda order, resting_ticks: False)


@mutant("I7", "compliance")
def twin_approved(patch: Patch) -> None:
    """The same order under another id within a second is not noticed."""
    patch.setattr(compliance, "repeats", lambda order, recent: False)


# -- the venue


@mutant("I2", "exchange")
def client_order_id_random(patch: Patch) -> None:
    """The venue gets an order under an id drawn by lot."""
    patch.setattr(
        venue_session,
        "to_venue_order",
        lambda intent: {**to_venue_order(intent), "client_order_id": str(uuid4())},
    )


def _settle(patch: Patch, settle: Callable[[VenueSession], None]) -> None:
    """Settle what is in doubt without a question."""

    async def settle_doubts(session: VenueSession) -> None:
        settle(session)
        session.in_doubt.clear()

    patch.setattr(VenueSession, "settle_doubts", settle_doubts)


@mutant("I2", "exchange", faults=("venue-drop-ack", "kill-at:after the venue's answer"))
def doubts_resent_blindly(patch: Patch) -> None:
    """An order that may have reached the venue is sent again without asking."""
    _settle(patch, lambda session: session.fresh.update(session.in_doubt))


@mutant("engine", "exchange", faults=("kill-at:before the call to the venue", "venue-hang"))
def doubts_forgotten(patch: Patch) -> None:
    """An order that may have reached the venue is taken to have reached it."""
    _settle(patch, lambda session: None)


@mutant("I2", "exchange", faults=("venue-drop-ack", "kill-at:after the venue's answer"))
def resent_under_a_fresh_id(patch: Patch) -> None:
    """An order that may have reached the venue is sent under another id, which the venue does not know."""
    again: set[str] = set()

    def settle(session: VenueSession) -> None:
        again.update(session.in_doubt)
        session.fresh.update(session.in_doubt)

    def named(intent: Any) -> Any:
        order = to_venue_order(intent)
        suffix = f"-{os.getpid()}" if order["client_order_id"] in again else ""
        return {**order, "client_order_id": f"{order['client_order_id']}{suffix}"}

    _settle(patch, settle)
    patch.setattr(venue_session, "to_venue_order", named)


@mutant("I2", "exchange", faults=("freeze-at:before the call to the venue",))
def epoch_of_everybody(patch: Patch) -> None:
    """The venue is not told whose call it is: one that has lost the session may still send."""

    async def claim_nothing(session: VenueSession) -> None:
        session.epoch = 1

    patch.setattr(VenueSession, "claim", claim_nothing)


@mutant("I2", "exchange", faults=("venue-twice",))
def repeated_report_booked(patch: Patch) -> None:
    """A report that comes twice is booked twice."""

    def apply(session: Session, intent: Any, report: Any, follows: int | None) -> Any:
        if report.venue_sequence <= session.venue_sequence_last:
            return session, intent, True
        return apply_venue_report(session, intent, report, follows)

    patch.setattr(venue_booking, "apply_venue_report", apply)


@mutant("I2", "exchange", faults=("kill",))
def cursor_not_committed(patch: Patch) -> None:
    """How far the reports are read is known in memory only: a new task books them from the first one on."""
    cursors: dict[tuple[VenueSession, int], Session] = {}

    async def read_from_memory(session: VenueSession, reports: Any) -> dict[int, Any]:
        async with unit_of_work(session.task) as work:
            for reported in reports:
                number, report = reported.session, reported.report
                cursor = cursors.get((session, number), NEW_SESSION)
                key = f"{report.account_id}/{report.order_id}"
                known = work[session.intents].get(key)
                if known is None and report.venue_sequence > cursor.venue_sequence_last:
                    cursor, intent, is_new = Session(venue_sequence_last=report.venue_sequence), None, True
                else:
                    cursor, intent, is_new = apply_venue_report(cursor, known, report)
                cursors[session, number] = cursor
                if not is_new:
                    continue
                if intent is None:
                    del work[session.intents][key]
                else:
                    work[session.intents][key] = intent
                report_id = f"venue/{number}/{report.venue_sequence}"
                work.emit(EXECUTIONS, report, event_id=report_id, correlation_id=report.order_id)
        return {}

    patch.setattr(VenueSession, "book", read_from_memory)


@mutant("I2", "exchange", faults=("kill",))
def late_reports_dropped(patch: Patch) -> None:
    """What the venue reported while nobody listened is passed over when somebody does again."""
    read, book = VenueSession.read, VenueSession.book
    resumed: set[VenueSession] = set()

    async def read_again(session: VenueSession) -> None:
        if any(session.cursors().values()):
            resumed.add(session)
        await read(session)

    async def book_what_is_new(session: VenueSession, reports: Any) -> Any:
        if session not in resumed:
            return await book(session, reports)
        resumed.discard(session)
        async with unit_of_work(session.task) as work:
            for reported in reports:
                cursor = work[session.sessions].get(str(reported.session), NEW_SESSION)
                read = cursor.model_copy(update={"venue_sequence_last": reported.sequence})
                work[session.sessions][str(reported.session)] = read
        return {}

    patch.setattr(VenueSession, "read", read_again)
    patch.setattr(VenueSession, "book", book_what_is_new)


# -- what all services share


@mutant("I5", *SERVICES, faults=("poison",))
def dead_letters_dropped(patch: Patch) -> None:
    """What cannot be decoded is passed over."""
    patch.setattr(DeadLetters, "bury", lambda *_, **__: None)


@mutant("I5", *SERVICES, faults=("poison",))
def dead_letter_without_headers(patch: Patch) -> None:
    """A dead letter has its origin's key and value, and none of its headers."""
    append = DeadLetters.append

    class Bare:
        def __init__(self, raw: Any) -> None:
            self.key, self.value, self.offset, self.timestamp = raw.key, raw.value, raw.offset, raw.timestamp
            self.headers = ()

    def append_bare(self: DeadLetters, effects: Effects, spec: Any, raw: Any, why: Any) -> None:
        append(self, effects, spec, Bare(raw), why)

    patch.setattr(DeadLetters, "append", append_bare)


@mutant("engine", "risk", "compliance", "exchange", faults=("rolling", "none", "none", "none"))
def unknown_field_is_an_error_inside(patch: Patch) -> None:
    """A record or table value of the next release, with a field more, is an error."""

    def refuse(contract: Contract, data: bytes, error: ValueError) -> Any:
        raise ValueError(f"{contract.name}: {describe_invalid(error)}")

    patch.setattr(Contract, "decode_amiss", refuse)


@mutant("I1", *SERVICES, faults=("freeze-at:before the commit", "kill"))
def no_fencing(patch: Patch) -> None:
    """Nobody is ever fenced, and offsets are committed as nobody's, in whatever generation."""
    take_later(patch)  # and never
    patch.setattr(ByWorker, "assigned", lambda way, membership: None)


@mutant("I1", *SERVICES, faults=("kill",))
def standby_promoted_without_its_tail(patch: Patch) -> None:
    """Who has followed a partition's changelogs takes it over as it stands, though it was a second behind."""
    come, restore = Incoming.next, vars(take_over_module)["restore"]

    async def come_late(incoming: Incoming, within_s: float) -> Any:
        await asyncio.sleep(STANDBY_LAG_S)
        return await come(incoming, within_s)

    async def restore_if_empty(store: Any, cluster: Any, changelogs: Any, *more: Any) -> int:
        if any(store.applied(table) is not None for table in changelogs):
            return 0
        count: int = await restore(store, cluster, changelogs, *more)
        return count

    patch.setattr(Incoming, "next", come_late)
    patch.setattr(take_over_module, "restore", restore_if_empty)
    patch.setattr(standby_module, "restore", restore_if_empty)
