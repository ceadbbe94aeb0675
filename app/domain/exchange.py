"""The exchange's side of an order: the intent to send it, and what the venue's reports make of it.

PENDING ── OrderAcknowledged ──▶ ACKNOWLEDGED ── last fill, OrderCancelled, OrderExpired ──▶ removed
   │ └──── VenueRejected ───────────┴──── VenueRejected, if nothing was filled ─────────────▶ removed
   │                                └──── a report that does not fit ──▶ disputed, for a person to look at
   └────── a last look, if the venue never had it: OrderWithheld ───────────────────────────▶ removed
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, TypedDict

from app.domain.errors import InvariantBroken, ReportGap
from app.domain.fills import open_lots_after
from app.domain.lifecycle import ENDS, OrderState, state_after
from app.domain.reference import Known, halted_by, untradable
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    AnyVenueReport,
    HaltInForce,
    InstrumentListed,
    OrderReceived,
    OrderWithheld,
    PriceUpdated,
    RestrictionInForce,
)
from models.reasons import WithheldReason
from models.values import Frozen, PartyStatus, Side, State

BASIS_POINTS: Final = 10_000
CLOCK_BEHIND_MS_MAX: Final = 1_000
"""How far our clock may run behind the broker's, by which risk has let an order in when trading began."""

UNNUMBERED_MAX: Final = 1_000
"""So many reports without a number are remembered by session: more, and a gap behind them stays a gap."""


class IntentState(StrEnum):
    """PENDING: committed here, maybe not known at the venue. ACKNOWLEDGED: the venue has it."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"


class Intent(Frozen):
    """One order that the venue shall have. Table `intents`, key account/order, written by exchange.

    It is removed when the order ends, so that the table is what is at stake at the venue. `disputed`: the
    venue reported something that does not fit. Nothing is booked for the order any more, every later report
    of it is a dead letter, and a person has to look.
    """

    order: OrderReceived
    state: IntentState
    open_lots: int
    disputed: bool = False

    @property
    def order_state(self) -> OrderState:
        if self.state is IntentState.PENDING:
            return OrderState.PENDING
        return OrderState.OPEN if self.open_lots == self.order.quantity_lots else OrderState.PARTLY_FILLED

    @property
    def may_be_unknown(self) -> bool:
        """Whether the venue may never have had it."""
        return self.state is IntentState.PENDING and not self.disputed


class Session(Frozen):
    """How far the venue's reports are read. Table `sessions`, key shard number, written by exchange.

    `epoch` is the one under which its owner speaks to the venue. `unnumbered` are digests of the dead letters
    that were made of reports without a number behind `venue_sequence_last`: they stand for missing numbers.
    `by_partition`: so far was read by the release that had one session for all shards of a partition, under
    the partition's number, and nothing since.
    """

    venue_sequence_last: int = 0
    epoch: int = 0
    unnumbered: tuple[str, ...] = ()
    by_partition: bool = False


class Sent(State, frozen=True, omit_defaults=True):
    """The account's last order or replace and its last cancel that were taken on. Table `sent`, key account.

    Written by exchange.
    """

    order_sequence_last: int
    cancel_number_last: int = 0


class Request(State, frozen=True):
    """A cancel or a replace that is not answered yet. Table `requests`, key account/request, by exchange.

    `quantity_lots` (the new total) and `price_ticks` are what a replace asks for; a cancel has None.
    """

    request_id: str
    account_id: str
    order_id: str
    symbol: str
    side: Side
    quantity_lots: int | None = None
    price_ticks: int | None = None


class Controls(Frozen):
    """What of an account's limits holds until an order leaves. Table `controls`, key account, by exchange."""

    version: int
    kill_switch: bool
    order_age_ms_max: int
    price_age_ms_max: int
    price_collar_bps: int


class Surroundings(NamedTuple):
    """What the last look looks at besides the account's controls, as it is in force now."""

    accounts: Known[AccountRegistered]
    instruments: Known[InstrumentListed]
    restricted: Known[RestrictionInForce]
    halts: Known[HaltInForce]
    prices: Known[PriceUpdated]


class VenueOrder(TypedDict):
    """One order in the body of the venue's `POST /orders`, but for its session."""

    client_order_id: str
    account_id: str
    symbol: str
    side: str
    quantity_lots: int
    price_ticks: int
    time_in_force: str


NEW_SESSION: Final = Session()


# -- orders out


def is_repeat(order: OrderReceived, sent: Sent | None) -> bool:
    """Whether the order's approval was taken before: an account's sequences only grow."""
    return sent is not None and order.sequence <= sent.order_sequence_last


def new_intent(order: OrderReceived) -> Intent:
    return Intent(order=order, state=IntentState.PENDING, open_lots=order.quantity_lots)


def to_venue_order(intent: Intent) -> VenueOrder:
    """What goes out. `client_order_id` is the order's own id: sent twice, it is still one order."""
    order = intent.order
    return VenueOrder(
        client_order_id=order.order_id,
        account_id=order.account_id,
        symbol=order.symbol,
        side=order.side.value,
        quantity_lots=order.quantity_lots,
        price_ticks=order.price_ticks,
        time_in_force=order.time_in_force.value,
    )


def claimed(sessions: Mapping[int, Session]) -> dict[int, Session]:
    """The sessions under one epoch above all that any of them has had: what is still on its way is older.

    Only the owner of the sessions can raise it, in a transaction; so it needs no other source.
    """
    epoch = max(session.epoch for session in sessions.values()) + 1
    return {number: session.model_copy(update={"epoch": epoch}) for number, session in sessions.items()}


def carried_over(known: Mapping[int, Session | None], partition: int) -> dict[int, Session]:
    """What the shards of a partition begin with behind the release that had one session for all of them.

    `known` are the rows of all its shards. Empty when there is nothing to do: another release has been here.
    """
    before = known.get(partition)
    missing = [shard for shard, session in known.items() if session is None]
    return dict.fromkeys(missing, before) if before is not None and before.by_partition else {}


# -- the last look


def apply_limits(controls: Controls | None, limits: SetRiskLimits | None) -> Controls | None:
    """The controls after limits have come; `limits` None is the removal of them.

    A version that is not above the one in force is an old one, but a kill switch that is on always takes.
    """
    if limits is None:
        return None
    if controls is None or limits.version > controls.version:
        return Controls(
            version=limits.version,
            kill_switch=limits.kill_switch,
            order_age_ms_max=limits.order_age_ms_max,
            price_age_ms_max=limits.price_age_ms_max,
            price_collar_bps=limits.price_collar_bps,
        )
    return killed(controls) if limits.kill_switch and not controls.kill_switch else controls


def killed(controls: Controls) -> Controls:
    """The same controls with the kill switch on."""
    return controls.model_copy(update={"kill_switch": True})


def last_look(
    order: OrderReceived,
    *,
    now_ms: int,
    controls: Controls | None,
    around: Surroundings,
) -> WithheldReason | None:
    """Why an approved order that the venue never had must not leave now; None when it may.

    `now_ms` is the worker's clock; the first reason in the order of `WithheldReason` wins. An account without
    controls is one whose limits were removed: as if its kill switch were on. What is missing or unreadable
    withholds the order, as risk and compliance refuse by it. SEC rule 15c3-5(c)(1) asks for these controls
    right before entry, 15c3-5(c)(2) for the restrictions; FIX's gap fill withholds aged orders likewise.
    """
    if is_suspended(around.accounts, order.account_id):
        return WithheldReason.ACCOUNT_SUSPENDED
    if halted_by(around.halts, order.account_id) is not None:
        return WithheldReason.HALTED
    if controls is None or controls.kill_switch:
        return WithheldReason.KILL_SWITCH_ON
    if not is_tradable(around.instruments, order.symbol, now_ms):
        return WithheldReason.INSTRUMENT_NOT_TRADABLE
    if is_restricted(around.restricted, order.symbol):
        return WithheldReason.RESTRICTED_INSTRUMENT
    if now_ms - order.submitted_at_ms > controls.order_age_ms_max:
        return WithheldReason.ORDER_TOO_OLD
    return _price_reason(order, now_ms, controls, around)


def is_suspended(accounts: Known[AccountRegistered], account_id: str) -> bool:
    """Whether the account may not trade, or nobody can tell that it may."""
    registered = accounts.values.get(account_id)
    return (
        registered is None or registered.status is not PartyStatus.ACTIVE or account_id in accounts.unreadable
    )


def is_tradable(instruments: Known[InstrumentListed], symbol: str, now_ms: int) -> bool:
    """Whether the instrument takes orders now. When it begins to, the broker's clock has said already."""
    listed = instruments.values.get(symbol)
    if listed is None or symbol in instruments.unreadable:
        return False
    times_ms = (now_ms, now_ms + CLOCK_BEHIND_MS_MAX)
    return any(untradable(listed.instrument, at_ms) is None for at_ms in times_ms)


def is_restricted(restricted: Known[RestrictionInForce], symbol: str) -> bool:
    """Whether the instrument is on the restricted list, or nobody can tell that it is not."""
    restriction = restricted.values.get(symbol)
    return symbol in restricted.unreadable or (restriction is not None and restriction.restricted)


def _price_reason(
    order: OrderReceived, now_ms: int, controls: Controls, around: Surroundings
) -> WithheldReason | None:
    """What the market has against the order. A price in ticks of another scale is no price."""
    price = around.prices.values.get(order.symbol)
    if price is None or order.symbol in around.prices.unreadable:
        return WithheldReason.NO_PRICE
    if price.scale != around.instruments.values[order.symbol].scale:
        return WithheldReason.NO_PRICE
    if now_ms - price.observed_at_ms > controls.price_age_ms_max:
        return WithheldReason.STALE_PRICE
    distance_ticks = abs(order.price_ticks - price.price_ticks)
    if distance_ticks * BASIS_POINTS > controls.price_collar_bps * price.price_ticks:
        return WithheldReason.PRICE_OUTSIDE_COLLAR
    return None


def withheld(order: OrderReceived, reason: WithheldReason, now_ms: int) -> OrderWithheld:
    return OrderWithheld(
        order_id=order.order_id,
        account_id=order.account_id,
        symbol=order.symbol,
        side=order.side,
        reason=reason,
        withheld_lots=order.quantity_lots,
        looked_at_ms=now_ms,
    )


# -- reports in


def apply_venue_report(
    session: Session, intent: Intent | None, report: AnyVenueReport, follows: int | None = None
) -> tuple[Session, Intent | None, bool]:
    """Fold one report of the session in: (session, intent, whether to emit the report as an execution).

    `intent` is the report's order, None when there is none; the one returned is None once the order ended. A
    report that was read before changes nothing and is not emitted. Raises ReportGap when reports are missing
    before this one (`follows`: see `read_on`), InvariantBroken when it is of no intent or does not fit it.
    """
    read = read_on(session, report.venue_sequence, follows)
    if read is None:
        return session, intent, False
    return read, _after(intent, report), True


def read_on(session: Session, venue_sequence: int, follows: int | None = None) -> Session | None:
    """The session with this number read; None when it was read before. Raises ReportGap.

    Reports that came without a number stand for as many that would be missing. Nothing is missing where the
    venue itself tells that the report follows one that was read: its numbers leap.
    """
    last = session.venue_sequence_last
    if venue_sequence <= last:
        return None
    if (follows is None or follows > last) and venue_sequence - last - 1 > len(session.unnumbered):
        raise ReportGap(last, venue_sequence)
    return Session(venue_sequence_last=venue_sequence, epoch=session.epoch)


def note_unnumbered(session: Session, digest: str) -> Session | None:
    """The session with one more report that has no number; None when this very one was noted before."""
    if digest in session.unnumbered:
        return None
    noted = (*session.unnumbered, digest)[-UNNUMBERED_MAX:]
    return session.model_copy(update={"unnumbered": noted})


def is_misnumbered(session: Session, venue_sequence: int, later: Collection[int]) -> bool:
    """Whether a report's number is wrong: those of its session that come `later` go on without it.

    A number that leaps while the missing ones come later is only early: the session is read again.
    """
    expected = session.venue_sequence_last + len(session.unnumbered) + 1
    return (
        venue_sequence > expected
        and expected not in later
        and any(expected < each < venue_sequence for each in later)
    )


def disputed(intent: Intent) -> Intent:
    return intent.model_copy(update={"disputed": True})


def _after(intent: Intent | None, report: AnyVenueReport) -> Intent | None:
    if intent is None:
        raise _illegal(report, "there is no intent for it")
    order = intent.order
    if intent.disputed:
        raise _illegal(report, "an earlier report of the order did not fit, and nothing is booked since")
    if (report.order_id, report.account_id, report.symbol, report.side) != (
        order.order_id,
        order.account_id,
        order.symbol,
        order.side,
    ):
        raise _illegal(report, f"it does not belong to {order!r}")
    after = state_after(intent.order_state, report)
    if after is None:
        raise _illegal(report, f"the order is {intent.order_state}")
    open_lots = open_lots_after(report, intent.open_lots)
    if after in ENDS:
        return None
    return Intent(order=order, state=IntentState.ACKNOWLEDGED, open_lots=open_lots)


def _illegal(report: AnyVenueReport, why: str) -> InvariantBroken:
    return InvariantBroken(
        f"{type(report).__name__} {report.venue_sequence} of order {report.order_id} "
        f"of account {report.account_id}: {why}"
    )
