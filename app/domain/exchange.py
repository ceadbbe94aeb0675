"""The exchange's side of an order: the intent to send it, and what the venue's reports make of it.

PENDING ── OrderAcknowledged ──▶ ACKNOWLEDGED ── last fill, OrderCancelled, OrderExpired ──▶ removed
   │                                │ └─ OrderReplaced: another quantity and price, the same intent
   │ └──── VenueRejected ───────────┴──── VenueRejected, if nothing was filled ─────────────▶ removed
   │                                └──── a report that does not fit ──▶ disputed, for a person to look at
   └────── a last look, if the venue never had it: OrderWithheld ───────────────────────────▶ removed

A request to cancel or replace an order has a row of its own until the venue has answered it. It leaves behind
its order, and whatever becomes of the order meanwhile, a cancel leaves.
"""

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Final, NamedTuple, NotRequired, TypedDict

from msgspec.structs import replace

from app.domain.errors import InvariantBroken, ReportGap
from app.domain.fills import number_of, open_lots_after
from app.domain.lifecycle import ENDS, OrderState, state_after
from app.domain.reference import Known, halted_by, untradable
from models.commands import SetRiskLimits
from models.events import (
    AccountRegistered,
    AnyVenueReport,
    CancelAccepted,
    CancelRejected,
    HaltInForce,
    InstrumentListed,
    OrderCancelled,
    OrderReceived,
    OrderReplaced,
    OrderWithheld,
    PriceUpdated,
    ReplaceComplianceApproved,
    ReplaceRejected,
    ReplaceRequested,
    ReplaceWithheld,
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
    def account_id(self) -> str:
        return self.order.account_id

    @property
    def key(self) -> str:
        """Its key in the table."""
        return f"{self.order.account_id}/{self.order.order_id}"

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among its account's."""
        return 0, self.order.sequence

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

    `refused_sequence_last` is the last order that compliance refused: no cancel waits for it. Written by
    exchange.
    """

    order_sequence_last: int
    cancel_number_last: int = 0
    refused_sequence_last: int = 0


class Request(State, frozen=True):
    """A cancel or a replace that is not answered yet. Table `requests`, key account/request, by exchange.

    `number` is the account's sequence of a replace, and a cancel's own number; `order_sequence` is that of
    the order. `quantity_lots` (the new total) and `price_ticks` are what a replace asks for; a cancel has
    None.
    """

    request_id: str
    account_id: str
    order_id: str
    symbol: str
    side: Side
    number: int
    order_sequence: int
    submitted_at_ms: int
    quantity_lots: int | None = None
    price_ticks: int | None = None

    @property
    def key(self) -> str:
        """Its key in the table."""
        return f"{self.account_id}/{self.request_id}"

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among its account's: no replace is asked for behind a cancel of its order."""
        return int(self.is_cancel), self.number

    @property
    def is_cancel(self) -> bool:
        return self.quantity_lots is None

    @property
    def kind(self) -> str:
        return "cancel" if self.is_cancel else "replace"

    @property
    def may_be_unknown(self) -> bool:
        """Whether the venue may never have had it: as long as it has not answered."""
        return True


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


class VenueRequest(TypedDict):
    """One request in the body of the venue's `POST /requests`, but for its session."""

    request_id: str
    account_id: str
    order_id: str
    symbol: str
    side: str
    kind: str
    quantity_lots: NotRequired[int]
    price_ticks: NotRequired[int]


NEW_SESSION: Final = Session()
NOTHING_SENT: Final = Sent(order_sequence_last=0)


# -- orders and requests out


def is_repeat(approved: OrderReceived | ReplaceRequested | CancelAccepted, sent: Sent | None) -> bool:
    """Whether an approval was taken before: an account's sequences only grow, its cancels' numbers too."""
    known = sent or NOTHING_SENT
    if isinstance(approved, CancelAccepted):
        return approved.number <= known.cancel_number_last
    return approved.sequence <= known.order_sequence_last


def taken_on(sent: Sent | None, approved: OrderReceived | ReplaceRequested | CancelAccepted) -> Sent:
    """What is remembered of the account when an approval is taken on."""
    known = sent or NOTHING_SENT
    orders, cancels = known.order_sequence_last, known.cancel_number_last
    if isinstance(approved, CancelAccepted):
        cancels = approved.number
    else:
        orders = approved.sequence
    return replace(known, order_sequence_last=orders, cancel_number_last=cancels)


def refused(sent: Sent | None, order: OrderReceived) -> Sent:
    """What is remembered of the account when compliance has refused an order."""
    known = sent or NOTHING_SENT
    return replace(known, refused_sequence_last=max(order.sequence, known.refused_sequence_last))


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


def new_request(approved: CancelAccepted | ReplaceComplianceApproved) -> Request:
    """What the venue is to be asked, under the id by which it knows the request.

    Raises InvariantBroken for an order_id that is none of the account's.
    """
    asked = approved.request
    order_sequence = number_of(asked.account_id, asked.order_id)
    if order_sequence is None:
        raise InvariantBroken(
            f"{type(approved).__name__} of {asked.order_id[:64]!r}, no order id of account "
            f"{asked.account_id[:64]!r}"
        )
    if isinstance(approved, CancelAccepted):
        request_id, number, total_lots, price_ticks = approved.cancel_id, approved.number, None, None
    else:
        wanted = approved.request
        request_id, number = wanted.request_id, wanted.sequence
        total_lots, price_ticks = wanted.quantity_lots, wanted.price_ticks
    return Request(
        request_id=request_id,
        account_id=asked.account_id,
        order_id=asked.order_id,
        symbol=approved.symbol,
        side=approved.side,
        number=number,
        order_sequence=order_sequence,
        submitted_at_ms=asked.submitted_at_ms,
        quantity_lots=total_lots,
        price_ticks=price_ticks,
    )


def is_awaited(request: Request, sent: Sent | None) -> bool:
    """Whether the request's order is still to come: it waits in a quarantine, which its cancel has passed.

    The order's number is above all that compliance has decided on.
    """
    known = sent or NOTHING_SENT
    return request.order_sequence > max(known.order_sequence_last, known.refused_sequence_last)


def to_venue_request(request: Request) -> VenueRequest:
    """What goes out; sent twice, it is still one request."""
    body = VenueRequest(
        request_id=request.request_id,
        account_id=request.account_id,
        order_id=request.order_id,
        symbol=request.symbol,
        side=request.side.value,
        kind=request.kind,
    )
    if request.quantity_lots is not None and request.price_ticks is not None:
        body["quantity_lots"], body["price_ticks"] = request.quantity_lots, request.price_ticks
    return body


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


def order_asked_for(order: OrderReceived, request: Request) -> OrderReceived:
    """The order as a replace would have it: what the last look judges."""
    return order.model_copy(
        update={
            "quantity_lots": request.quantity_lots,
            "price_ticks": request.price_ticks,
            "submitted_at_ms": request.submitted_at_ms,
        }
    )


def last_look_at_request(
    request: Request, intent: Intent | None, look: Callable[[OrderReceived], WithheldReason | None]
) -> WithheldReason | None:
    """Why a request that the venue never had must not leave now; None when it may.

    `intent` is its order's, `look` the last look at an order. A cancel leaves in any case: it takes a risk
    away, and the venue says what has become of its order. A replace needs an order that stands; nobody knows
    whether one in dispute does.
    """
    if request.is_cancel:
        return None
    if intent is None or intent.disputed:
        return WithheldReason.ORDER_ENDED
    return look(order_asked_for(intent.order, request))


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


def replace_withheld(request: Request, reason: WithheldReason, now_ms: int) -> ReplaceWithheld:
    return ReplaceWithheld(
        order_id=request.order_id,
        account_id=request.account_id,
        symbol=request.symbol,
        side=request.side,
        request_id=request.request_id,
        reason=reason,
        looked_at_ms=now_ms,
    )


# -- reports in


def apply_venue_report(
    session: Session,
    intent: Intent | None,
    report: AnyVenueReport,
    follows: int | None = None,
    request: Request | None = None,
) -> tuple[Session, Intent | None, bool]:
    """Fold one report of the session in: (session, intent, whether to emit the report as an execution).

    `intent` is the report's order, `request` the request that it answers, None when there is none; the intent
    returned is None once the order ended. A report that was read before changes nothing and is not emitted.
    Raises ReportGap when reports are missing before this one (`follows`: see `read_on`), InvariantBroken when
    it is of no intent, does not fit it, or answers what was not asked.
    """
    read = read_on(session, report.venue_sequence, follows)
    if read is None:
        return session, intent, False
    return read, _after(intent, report, request), True


def request_answered(report: AnyVenueReport) -> str | None:
    """The id of the request that a report answers; None for a report that nobody asked for."""
    match report:
        case OrderCancelled(request_id=request_id):
            return request_id
        case OrderReplaced() | CancelRejected() | ReplaceRejected():
            return report.request_id
    return None


def apply_late_answer(
    session: Session, request: Request, report: AnyVenueReport, follows: int | None = None
) -> tuple[Session, bool]:
    """Fold in the answer to a request whose order has ended: (session, whether to emit it as an execution).

    Raises as `apply_venue_report`: only a refusal may come so late.
    """
    read = read_on(session, report.venue_sequence, follows)
    if read is None:
        return session, False
    if not isinstance(report, CancelRejected | ReplaceRejected):
        raise _illegal(report, "there is no intent for it")
    return read, True


def require_answer(request: Request, report: AnyVenueReport) -> None:
    """Raise InvariantBroken unless a report with the request's id can be its answer."""
    is_of_cancels = isinstance(report, OrderCancelled | CancelRejected)
    if is_of_cancels is not request.is_cancel or _subject(report) != _subject(request):
        raise _illegal(report, f"it is no answer to {request!r}")


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


def _after(intent: Intent | None, report: AnyVenueReport, request: Request | None) -> Intent | None:
    if intent is None:
        raise _illegal(report, "there is no intent for it")
    order = intent.order
    if isinstance(report, OrderReplaced | CancelRejected | ReplaceRejected) and request is None:
        raise _illegal(report, f"nobody waits for an answer to {report.request_id[:64]!r}")
    if _subject(report) != _subject(order):
        raise _illegal(report, f"it does not belong to {order!r}")
    if isinstance(report, CancelRejected | ReplaceRejected):
        return intent  # which may be disputed: a refusal books nothing
    if intent.disputed:
        raise _illegal(report, "an earlier report of the order did not fit, and nothing is booked since")
    after = state_after(intent.order_state, report)
    if after is None:
        raise _illegal(report, f"the order is {intent.order_state}")
    if isinstance(report, OrderReplaced):
        order, open_lots = _replaced(intent, report, request), report.leaves_lots
    else:
        open_lots = open_lots_after(report, intent.open_lots)
    if after in ENDS:
        return None
    return Intent(order=order, state=IntentState.ACKNOWLEDGED, open_lots=open_lots)


def _replaced(intent: Intent, report: OrderReplaced, request: Request | None) -> OrderReceived:
    """The order on the terms that were asked for; what is filled of it stays."""
    order = intent.order
    filled_lots = order.quantity_lots - intent.open_lots
    if report.leaves_lots < 0 or report.quantity_lots - report.leaves_lots != filled_lots:
        raise _illegal(report, f"{filled_lots} lots of the order are filled")
    if request is not None and not request.is_cancel:
        asked = max(request.quantity_lots or 0, filled_lots), request.price_ticks
        if (report.quantity_lots, report.price_ticks) != asked:
            raise _illegal(report, f"{asked[0]} lots at {asked[1]} were asked for")
    return order.model_copy(update={"quantity_lots": report.quantity_lots, "price_ticks": report.price_ticks})


def _subject(about: AnyVenueReport | OrderReceived | Request) -> tuple[str, str, str, Side]:
    return about.order_id, about.account_id, about.symbol, about.side


def _illegal(report: AnyVenueReport, why: str) -> InvariantBroken:
    return InvariantBroken(
        f"{type(report).__name__} {report.venue_sequence} of order {report.order_id} "
        f"of account {report.account_id}: {why}"
    )
