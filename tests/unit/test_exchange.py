"""The intents of the exchange: sent once, acknowledged, filled and removed; reports in sequence."""

from contextlib import nullcontext
from typing import Any

import pytest
from msgspec import structs
from msgspec.structs import replace

from app.domain.errors import InvariantBroken, ReportGap
from app.domain.exchange import (
    CLOCK_BEHIND_MS_MAX,
    NEW_SESSION,
    UNNUMBERED_MAX,
    Controls,
    Intent,
    IntentState,
    Request,
    Sent,
    Session,
    apply_late_answer,
    apply_limits,
    apply_venue_report,
    carried_over,
    claimed,
    disputed,
    is_awaited,
    is_misnumbered,
    is_repeat,
    last_look,
    last_look_at_request,
    new_intent,
    note_unnumbered,
    read_on,
    refused,
    replace_withheld,
    request_answered,
    require_answer,
    taken_on,
    to_venue_order,
    to_venue_request,
    withheld,
)
from app.domain.reference import Known
from models.events import (
    AnyVenueReport,
    CancelAccepted,
    CancelRejected,
    CancelRequested,
    OrderReceived,
    OrderReplaced,
    ReplaceRejected,
    ReplaceRequested,
)
from models.reasons import WithheldReason
from models.values import Side
from tables.sessions import SESSIONS
from tests.builders import (
    BTC,
    ETH,
    NOW_MS,
    PRICE_TICKS,
    a_fill,
    a_halt,
    a_price,
    a_restriction,
    acknowledged,
    an_order,
    cancel_rejected,
    cancelled,
    expired,
    known,
    limits,
    listed,
    registered,
    replace_rejected,
    replaced,
    surroundings,
    venue_rejected,
)
from tests.venue_world import cancel_of, order_of, replace_of


def controls(**changed: Any) -> Controls:
    """What `limits` leave at the last look."""
    known = {
        "version": 7,
        "kill_switch": False,
        "order_age_ms_max": 30_000,
        "price_age_ms_max": 5_000,
        "price_collar_bps": 500,
    }
    return Controls(**(known | changed))


def asked_by(report: AnyVenueReport) -> Request | None:
    """The request that a report answers just as it was asked."""
    if not isinstance(report, OrderReplaced | CancelRejected | ReplaceRejected):
        return None
    terms: dict[str, Any] = {}
    if isinstance(report, OrderReplaced):
        terms = {"quantity_lots": report.quantity_lots, "price_ticks": report.price_ticks}
    return Request(
        request_id=report.request_id,
        account_id=report.account_id,
        order_id=report.order_id,
        symbol=report.symbol,
        side=report.side,
        number=1,
        order_sequence=1,
        submitted_at_ms=NOW_MS,
        **terms,
    )


def after(*reports: AnyVenueReport) -> Intent | None:
    """The intent of `an_order` after `reports`, which are numbered as they stand here."""
    session, intent = NEW_SESSION, new_intent(an_order())
    for sequence, report in enumerate(reports, start=1):
        numbered = report.model_copy(update={"venue_sequence": sequence})
        request = asked_by(numbered)
        session, changed, emit = apply_venue_report(session, intent, numbered, request=request)
        assert emit
        assert session == Session(venue_sequence_last=sequence)
        if changed is None:
            assert sequence == len(reports)
            return None
        intent = changed
    return intent


def test_a_new_intent_is_pending_with_all_its_lots_open() -> None:
    assert new_intent(an_order()) == Intent(order=an_order(), state=IntentState.PENDING, open_lots=10)


def test_the_venue_order_carries_the_orders_own_id() -> None:
    assert to_venue_order(new_intent(an_order(time_in_force="ioc"))) == {
        "client_order_id": "o-1",
        "account_id": "acc-1",
        "symbol": "BTC-USD",
        "side": "buy",
        "quantity_lots": 10,
        "price_ticks": PRICE_TICKS,
        "time_in_force": "ioc",
    }


def test_an_acknowledged_intent_waits_for_its_fills() -> None:
    assert after(acknowledged()) == Intent(order=an_order(), state=IntentState.ACKNOWLEDGED, open_lots=10)


def test_a_partial_fill_leaves_the_rest_open() -> None:
    intent = after(acknowledged(), a_fill(4, leaves_lots=6))

    assert intent is not None
    assert intent.open_lots == 6


@pytest.mark.parametrize(
    "reports",
    [
        [acknowledged(), a_fill(10, leaves_lots=0)],
        [acknowledged(), a_fill(4, leaves_lots=6), a_fill(6, leaves_lots=0)],
        [acknowledged(), a_fill(4, leaves_lots=6), cancelled(6)],
        [acknowledged(), expired(10)],
        [venue_rejected(10)],
        [acknowledged(), venue_rejected(10)],
        [acknowledged(), a_fill(4, leaves_lots=6), replaced(4, leaves_lots=0)],
        [acknowledged(), a_fill(4, leaves_lots=6), replaced(12, leaves_lots=8), a_fill(8, leaves_lots=0)],
        [acknowledged(), replaced(12, leaves_lots=12), cancelled(12)],
        [acknowledged(), replaced(3, leaves_lots=3), cancel_rejected(), expired(3)],
    ],
)
def test_an_ended_order_has_no_intent(reports: list[AnyVenueReport]) -> None:
    assert after(*reports) is None


@pytest.mark.parametrize(
    "reports",
    [
        [a_fill(1, leaves_lots=9)],
        [cancelled(10)],
        [expired(10)],
        [acknowledged(), acknowledged()],
        [acknowledged(), a_fill(4, leaves_lots=6), venue_rejected(6)],
        [acknowledged(), a_fill(11, leaves_lots=0)],
        [acknowledged(), cancelled(9)],
        [acknowledged(side="sell")],
        [acknowledged(account_id="acc-2")],
        [acknowledged(order_id="o-2")],
        [replaced(12, leaves_lots=12)],
        [acknowledged(), replaced(12, leaves_lots=11)],
        [acknowledged(), a_fill(4, leaves_lots=6), replaced(12, leaves_lots=12)],
        [acknowledged(), a_fill(4, leaves_lots=6), replaced(3, leaves_lots=-1)],
        [acknowledged(), replaced(12, leaves_lots=12), cancelled(10)],
        [acknowledged(), cancel_rejected(side="sell")],
    ],
)
def test_an_illegal_path_is_a_bug(reports: list[AnyVenueReport]) -> None:
    with pytest.raises(InvariantBroken, match=reports[-1].order_id):
        after(*reports)


@pytest.mark.parametrize(
    ("filled", "report", "quantity_lots", "open_lots"),
    [
        ([], replaced(12, leaves_lots=12, price_ticks=7), 12, 12),
        ([], replaced(3, leaves_lots=3, price_ticks=7), 3, 3),
        ([a_fill(4, leaves_lots=6)], replaced(12, leaves_lots=8, price_ticks=7), 12, 8),
        ([a_fill(4, leaves_lots=6)], replaced(5, leaves_lots=1, price_ticks=7), 5, 1),
    ],
)
def test_a_replaced_order_has_another_quantity_and_price(
    filled: list[AnyVenueReport], report: AnyVenueReport, quantity_lots: int, open_lots: int
) -> None:
    intent = after(acknowledged(), *filled, report)

    order = an_order(quantity_lots=quantity_lots, price_ticks=7)
    assert intent == Intent(order=order, state=IntentState.ACKNOWLEDGED, open_lots=open_lots)


@pytest.mark.parametrize("report", [cancel_rejected(), replace_rejected()])
@pytest.mark.parametrize("before", [[], [acknowledged()], [acknowledged(), a_fill(4, leaves_lots=6)]])
def test_a_refused_request_leaves_the_intent_as_it_is(
    before: list[AnyVenueReport], report: AnyVenueReport
) -> None:
    assert after(*before, report) == after(*before)


@pytest.mark.parametrize("sequence", [1, 4, 5])
@pytest.mark.parametrize("intent", [None, new_intent(an_order())], ids=["ended", "open"])
def test_a_report_read_before_changes_nothing_and_is_not_emitted(sequence: int, intent: Any) -> None:
    session = Session(venue_sequence_last=5)
    report = a_fill(4, leaves_lots=6, venue_sequence=sequence)

    assert apply_venue_report(session, intent, report) == (session, intent, False)


def test_a_gap_asks_for_the_session_to_be_read_again() -> None:
    with pytest.raises(ReportGap, match="again after 5") as gap:
        apply_venue_report(
            Session(venue_sequence_last=5), new_intent(an_order()), acknowledged(venue_sequence=7)
        )

    assert (gap.value.venue_sequence_last, gap.value.venue_sequence) == (5, 7)


def test_numbers_may_leap_over_what_the_venue_says_is_not_there() -> None:
    session = Session(venue_sequence_last=5, by_partition=True)

    assert read_on(session, 9, follows=5) == read_on(session, 9, follows=0) == Session(venue_sequence_last=9)
    assert read_on(session, 5, follows=0) is None
    with pytest.raises(ReportGap):
        read_on(session, 9, follows=6)


def test_sessions_of_the_release_before_are_those_of_all_shards_of_their_partition() -> None:
    before = SESSIONS.decode(b'{"venue_sequence_last":7,"epoch":70000}')
    known = {3: before, 11: None, 19: None}
    carried = carried_over(known, 3)

    assert before == Session(venue_sequence_last=7, epoch=70_000, by_partition=True)
    assert carried == {11: before, 19: before}
    assert carried_over(known | carried, 3) == {}
    assert SESSIONS.decode(SESSIONS.encode(before)) == before


@pytest.mark.parametrize("own", [None, Session(venue_sequence_last=7)])
def test_nothing_is_carried_over_where_this_release_began(own: Session | None) -> None:
    assert carried_over({3: own, 11: None}, 3) == {}


def test_a_session_of_its_own_begins_with_the_first_report() -> None:
    session = Session(venue_sequence_last=7, epoch=70_000, by_partition=True)
    claims = claimed({3: session})[3]
    read, _, _ = apply_venue_report(
        claims, new_intent(an_order()), acknowledged(venue_sequence=12), follows=2
    )

    assert claims.by_partition
    assert read == Session(venue_sequence_last=12, epoch=70_001)


def test_a_report_of_an_order_without_an_intent_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="no intent"):
        apply_venue_report(NEW_SESSION, None, acknowledged())


def test_a_claim_is_above_all_earlier_ones() -> None:
    first = claimed({3: Session(venue_sequence_last=5), 11: Session(epoch=80_000)})
    after_days = claimed(first)
    read, _, _ = apply_venue_report(after_days[3], new_intent(an_order()), acknowledged(venue_sequence=6))

    assert {session.epoch for session in first.values()} == {80_001}
    assert {session.epoch for session in (*after_days.values(), read)} == {80_002}
    assert [session.venue_sequence_last for session in after_days.values()] == [5, 0]
    assert claimed({3: Session()})[3].epoch == 1


# The last look


def around(**changed: Known[Any]) -> dict[str, Any]:
    """A look in surroundings that have changed."""
    return {"around": surroundings(**changed)}


def price(**changed: Any) -> dict[str, Any]:
    return around(prices=known({"BTC-USD": a_price(**changed)}))


LOOKS: dict[str, tuple[dict[str, Any], WithheldReason | None]] = {
    "all is well": ({}, None),
    "the account is suspended": (
        around(accounts=known({"acc-1": registered(status="suspended")})),
        WithheldReason.ACCOUNT_SUSPENDED,
    ),
    "the account is not registered": (around(accounts=known({})), WithheldReason.ACCOUNT_SUSPENDED),
    "the account cannot be read": (
        around(accounts=known({"acc-1": registered()}, acc_1="newer")),
        WithheldReason.ACCOUNT_SUSPENDED,
    ),
    "another account is suspended": (
        around(accounts=known({"acc-1": registered(), "acc-2": registered(status="suspended")}, acc_3="no")),
        None,
    ),
    "the account is halted": (around(halts=known({"acc-1": a_halt()})), WithheldReason.HALTED),
    "all are halted": (around(halts=known({"*": a_halt(scope="*")})), WithheldReason.HALTED),
    "a halt cannot be read": (around(halts=known({}, acc_1="newer")), WithheldReason.HALTED),
    "the halt is over": (around(halts=known({"acc-1": a_halt(halted=False)})), None),
    "the instrument is halted": (
        around(instruments=known({"BTC-USD": listed(status="halted")})),
        WithheldReason.INSTRUMENT_NOT_TRADABLE,
    ),
    "the instrument is delisted": (
        around(instruments=known({"BTC-USD": listed(status="delisted")})),
        WithheldReason.INSTRUMENT_NOT_TRADABLE,
    ),
    "the instrument is not listed": (
        around(instruments=known({"ETH-USD": ETH})),
        WithheldReason.INSTRUMENT_NOT_TRADABLE,
    ),
    "the instrument cannot be read": (
        around(instruments=known({"BTC-USD": BTC}, BTC_USD="newer")),
        WithheldReason.INSTRUMENT_NOT_TRADABLE,
    ),
    "in the last millisecond of the instrument's time": (
        around(instruments=known({"BTC-USD": listed(valid_until_ms=NOW_MS + 1)})),
        None,
    ),
    "the instrument's time is over": (
        around(instruments=known({"BTC-USD": listed(valid_until_ms=NOW_MS)})),
        WithheldReason.INSTRUMENT_NOT_TRADABLE,
    ),
    "the instrument's time has begun by the broker's clock": (
        around(instruments=known({"BTC-USD": listed(valid_from_ms=NOW_MS + CLOCK_BEHIND_MS_MAX)})),
        None,
    ),
    "the instrument's time has not begun": (
        around(instruments=known({"BTC-USD": listed(valid_from_ms=NOW_MS + CLOCK_BEHIND_MS_MAX + 1)})),
        WithheldReason.INSTRUMENT_NOT_TRADABLE,
    ),
    "the instrument is restricted": (
        around(restricted=known({"BTC-USD": a_restriction()})),
        WithheldReason.RESTRICTED_INSTRUMENT,
    ),
    "a restriction cannot be read": (
        around(restricted=known({"BTC-USD": a_restriction(restricted=False)}, BTC_USD="newer")),
        WithheldReason.RESTRICTED_INSTRUMENT,
    ),
    "the restriction is lifted, and another one stands": (
        around(restricted=known({"BTC-USD": a_restriction(restricted=False), "ETH-USD": a_restriction()})),
        None,
    ),
    "the kill switch is on": ({"controls": controls(kill_switch=True)}, WithheldReason.KILL_SWITCH_ON),
    "the limits are gone": ({"controls": None}, WithheldReason.KILL_SWITCH_ON),
    "as old as it may be": (
        {"now_ms": NOW_MS + 30_000, **price(observed_at_ms=NOW_MS + 30_000)},
        None,
    ),
    "a millisecond older": (
        {"now_ms": NOW_MS + 30_001, **price(observed_at_ms=NOW_MS + 30_000)},
        WithheldReason.ORDER_TOO_OLD,
    ),
    "submitted in seconds": (
        {"order": an_order(submitted_at_ms=NOW_MS // 1000)},
        WithheldReason.ORDER_TOO_OLD,
    ),
    "submitted by a clock that is ahead": ({"order": an_order(submitted_at_ms=NOW_MS + 900)}, None),
    "no price": (around(prices=known({})), WithheldReason.NO_PRICE),
    "a price cannot be read": (
        around(prices=known({"BTC-USD": a_price()}, BTC_USD="newer")),
        WithheldReason.NO_PRICE,
    ),
    "a price in other ticks": (price(scale=2), WithheldReason.NO_PRICE),
    "a price as old as it may be": (price(observed_at_ms=NOW_MS - 5_000), None),
    "a price that is older": (price(observed_at_ms=NOW_MS - 5_001), WithheldReason.STALE_PRICE),
    "a price from a clock that is ahead": (price(observed_at_ms=NOW_MS + 900), None),
    "at the collar": ({"order": an_order(price_ticks=PRICE_TICKS * 105 // 100)}, None),
    "above the collar": (
        {"order": an_order(price_ticks=PRICE_TICKS * 105 // 100 + 1)},
        WithheldReason.PRICE_OUTSIDE_COLLAR,
    ),
    "below the collar": (
        {"order": an_order(price_ticks=PRICE_TICKS * 95 // 100 - 1)},
        WithheldReason.PRICE_OUTSIDE_COLLAR,
    ),
    "the market has moved away": (
        price(price_ticks=PRICE_TICKS * 2),
        WithheldReason.PRICE_OUTSIDE_COLLAR,
    ),
    "age comes before price": (
        {**around(prices=known({})), "now_ms": NOW_MS * 2},
        WithheldReason.ORDER_TOO_OLD,
    ),
}


@pytest.mark.parametrize(("changed", "reason"), LOOKS.values(), ids=LOOKS.keys())
def test_a_last_look(changed: dict[str, Any], reason: WithheldReason | None) -> None:
    looked_at: dict[str, Any] = {
        "order": an_order(),
        "now_ms": NOW_MS,
        "controls": controls(),
        "around": surroundings(),
        **changed,
    }
    assert last_look(looked_at.pop("order"), **looked_at) is reason


def test_of_several_reasons_the_first_one_is_told() -> None:
    wrong: dict[WithheldReason, dict[str, Any]] = {
        WithheldReason.ACCOUNT_SUSPENDED: {"accounts": known({})},
        WithheldReason.HALTED: {"halts": known({"acc-1": a_halt()})},
        WithheldReason.KILL_SWITCH_ON: {},
        WithheldReason.INSTRUMENT_NOT_TRADABLE: {"instruments": known({})},
        WithheldReason.RESTRICTED_INSTRUMENT: {"restricted": known({"BTC-USD": a_restriction()})},
        WithheldReason.ORDER_TOO_OLD: {},
        WithheldReason.NO_PRICE: {"prices": known({})},
    }
    for number, reason in enumerate(wrong):
        left = list(wrong)[number:]
        controlled = controls(kill_switch=WithheldReason.KILL_SWITCH_ON in left)
        now_ms = NOW_MS * 2 if WithheldReason.ORDER_TOO_OLD in left else NOW_MS
        world = surroundings(**{name: each for one in left for name, each in wrong[one].items()})
        assert last_look(an_order(), now_ms=now_ms, controls=controlled, around=world) is reason
    assert [each for each in WithheldReason if each in wrong] == list(wrong)


def test_a_withheld_order_says_what_it_was_and_when_it_was_looked_at() -> None:
    event = withheld(an_order(), WithheldReason.HALTED, NOW_MS)
    assert (event.order_id, event.account_id, event.withheld_lots, event.looked_at_ms) == (
        "o-1",
        "acc-1",
        10,
        NOW_MS,
    )


def test_limits_of_a_newer_version_replace_the_controls() -> None:
    assert apply_limits(None, limits(version=1)) == controls(version=1)
    assert apply_limits(controls(version=1), limits(version=2, price_collar_bps=7)) == controls(
        version=2, price_collar_bps=7
    )
    switched = apply_limits(controls(version=1, kill_switch=True), limits(version=2))
    assert switched == controls(version=2)


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_a_version_that_is_not_newer_change_nothing_but_a_kill_switch_always_takes(
    version: int,
) -> None:
    known = controls(version=2)
    assert apply_limits(known, limits(version=version, price_collar_bps=7)) is known
    stopped = apply_limits(known, limits(version=version, price_collar_bps=7, kill_switch=True))
    assert stopped == controls(version=2, kill_switch=True)
    assert apply_limits(stopped, limits(version=version)) is stopped


def test_removed_limits_leave_no_controls_and_any_version_begins_anew() -> None:
    assert apply_limits(controls(version=9), None) is None
    assert apply_limits(None, limits(version=1)) == controls(version=1)


# Repeats and disputes


@pytest.mark.parametrize(("last", "repeat"), [(None, False), (4, False), (5, True), (6, True)])
def test_an_approval_is_a_repeat_by_its_sequence(last: int | None, repeat: bool) -> None:
    sent = None if last is None else Sent(order_sequence_last=last)
    assert is_repeat(an_order(sequence=5), sent) is repeat


@pytest.mark.parametrize(
    "report",
    [
        acknowledged(),
        a_fill(4, leaves_lots=6),
        cancelled(10),
        venue_rejected(10),
        replaced(12, leaves_lots=12),
    ],
)
def test_nothing_is_booked_for_an_order_in_dispute(report: AnyVenueReport) -> None:
    with pytest.raises(InvariantBroken, match="did not fit"):
        apply_venue_report(NEW_SESSION, disputed(new_intent(an_order())), report, request=asked_by(report))


@pytest.mark.parametrize("report", [cancel_rejected(), replace_rejected()])
def test_a_refusal_books_nothing_and_is_told_of_an_order_in_dispute_too(report: AnyVenueReport) -> None:
    intent = disputed(new_intent(an_order()))

    _, left, emit = apply_venue_report(NEW_SESSION, intent, report, request=asked_by(report))

    assert (left, emit) == (intent, True)


@pytest.mark.parametrize("report", [cancel_rejected(), replace_rejected(), replaced(12, leaves_lots=12)])
def test_an_answer_that_nobody_waits_for_is_a_contradiction(report: AnyVenueReport) -> None:
    """Such as a restatement of the venue's own, or an answer that comes again under another number."""
    intent = after(acknowledged())

    with pytest.raises(InvariantBroken, match="nobody waits"):
        apply_venue_report(NEW_SESSION, intent, report)


@pytest.mark.parametrize("terms", [{"quantity_lots": 11}, {"price_ticks": PRICE_TICKS + 1}])
def test_an_order_replaced_on_other_terms_than_asked_is_a_contradiction(terms: dict[str, int]) -> None:
    report = replaced(12, leaves_lots=12)
    request = asked_by(report)
    assert request is not None

    with pytest.raises(InvariantBroken, match="were asked for"):
        apply_venue_report(
            NEW_SESSION, after(acknowledged()), report, request=structs.replace(request, **terms)
        )


# Requests

ORDER = order_of(sequence=5)
ASKED = CancelRequested(request_id="mine", account_id="acc-1", order_id="acc-1-5", submitted_at_ms=NOW_MS)


def a_cancel(number: int) -> CancelAccepted:
    return CancelAccepted(request=ASKED, number=number, symbol="BTC-USD", side=Side.BUY, source="orders/0/7")


def a_replace(sequence: int) -> ReplaceRequested:
    return ReplaceRequested(
        request_id=f"acc-1-{sequence}",
        account_id="acc-1",
        sequence=sequence,
        order_id="acc-1-5",
        quantity_lots=20,
        price_ticks=1,
        submitted_at_ms=NOW_MS,
    )


KNOWN = Sent(order_sequence_last=5, cancel_number_last=2, refused_sequence_last=4)


@pytest.mark.parametrize(
    ("approved", "sent", "repeat", "then"),
    [
        (order_of(sequence=1), None, False, Sent(order_sequence_last=1)),
        (order_of(sequence=6), KNOWN, False, replace(KNOWN, order_sequence_last=6)),
        (order_of(sequence=5), KNOWN, True, None),
        (a_replace(6), KNOWN, False, replace(KNOWN, order_sequence_last=6)),
        (a_replace(5), KNOWN, True, None),
        (a_cancel(1), None, False, Sent(order_sequence_last=0, cancel_number_last=1)),
        (a_cancel(3), KNOWN, False, replace(KNOWN, cancel_number_last=3)),
        (a_cancel(2), KNOWN, True, None),
    ],
)
def test_what_is_taken_on_is_remembered(
    approved: OrderReceived | ReplaceRequested | CancelAccepted,
    sent: Sent | None,
    repeat: bool,
    then: Sent | None,
) -> None:
    assert is_repeat(approved, sent) is repeat
    if then is not None:
        assert taken_on(sent, approved) == then
        assert is_repeat(approved, then)


def test_an_order_that_compliance_refused_is_remembered_beside_the_last_one() -> None:
    assert refused(None, order_of(sequence=6)) == Sent(order_sequence_last=0, refused_sequence_last=6)
    assert refused(KNOWN, order_of(sequence=6)) == replace(KNOWN, refused_sequence_last=6)
    assert refused(KNOWN, order_of(sequence=3)) == KNOWN


@pytest.mark.parametrize(
    ("sent", "awaited"),
    [
        (None, True),
        (Sent(order_sequence_last=4), True),
        (Sent(order_sequence_last=5), False),
        (Sent(order_sequence_last=9), False),
        (Sent(order_sequence_last=4, refused_sequence_last=5), False),
        (Sent(order_sequence_last=4, refused_sequence_last=4, cancel_number_last=9), True),
    ],
)
def test_an_order_is_awaited_until_compliance_has_gone_past_its_number(
    sent: Sent | None, awaited: bool
) -> None:
    assert is_awaited(cancel_of(ORDER), sent) is awaited
    assert is_awaited(replace_of(ORDER, 6), sent) is awaited


def test_a_request_for_no_order_of_the_account_is_none() -> None:
    with pytest.raises(InvariantBroken, match="no order id of account"):
        cancel_of(order_of().model_copy(update={"order_id": "acc-2-1"}))


def test_a_request_carries_its_own_id_and_a_replace_what_it_asks_for() -> None:
    about = {"account_id": "acc-1", "order_id": "acc-1-5", "symbol": "BTC-USD", "side": "buy"}
    assert to_venue_request(cancel_of(ORDER, 3)) == {"request_id": "acc-1-c3", "kind": "cancel", **about}
    assert to_venue_request(replace_of(ORDER, 6, price_ticks=7)) == {
        "request_id": "acc-1-6",
        "kind": "replace",
        "quantity_lots": 20,
        "price_ticks": 7,
        **about,
    }


@pytest.mark.parametrize("look", [None, WithheldReason.HALTED])
@pytest.mark.parametrize("intent", [None, new_intent(ORDER), disputed(new_intent(ORDER))])
def test_a_cancel_leaves_whatever_the_last_look_says(
    intent: Intent | None, look: WithheldReason | None
) -> None:
    assert last_look_at_request(cancel_of(ORDER), intent, lambda order: look) is None


@pytest.mark.parametrize(
    ("intent", "look", "reason"),
    [
        (new_intent(ORDER), None, None),
        (new_intent(ORDER), WithheldReason.HALTED, WithheldReason.HALTED),
        (None, None, WithheldReason.ORDER_ENDED),
        (None, WithheldReason.HALTED, WithheldReason.ORDER_ENDED),
        (disputed(new_intent(ORDER)), None, WithheldReason.ORDER_ENDED),
    ],
)
def test_a_replace_needs_an_order_that_stands_and_a_last_look(
    intent: Intent | None, look: WithheldReason | None, reason: WithheldReason | None
) -> None:
    looked_at = []

    def look_at(order: OrderReceived) -> WithheldReason | None:
        looked_at.append(order)
        return look

    found = last_look_at_request(replace_of(ORDER, 6, price_ticks=7, submitted_at_ms=9), intent, look_at)
    assert found is reason
    asked_for = ORDER.model_copy(update={"quantity_lots": 20, "price_ticks": 7, "submitted_at_ms": 9})
    assert looked_at == ([] if reason is WithheldReason.ORDER_ENDED else [asked_for])


def test_a_withheld_replace_says_what_it_was_and_when_it_was_looked_at() -> None:
    event = replace_withheld(replace_of(ORDER, 6), WithheldReason.HALTED, NOW_MS)
    assert (event.order_id, event.request_id, event.reason, event.looked_at_ms) == (
        "acc-1-5",
        "acc-1-6",
        WithheldReason.HALTED,
        NOW_MS,
    )


OF_THE_ORDER: Any = {"order_id": "acc-1-5"}
CANCEL, REPLACE = cancel_of(ORDER), replace_of(ORDER, 6)
ANSWERS = [
    (cancelled(10, request_id="acc-1-c1", **OF_THE_ORDER), CANCEL, True, False),
    (cancel_rejected(request_id="acc-1-c1", **OF_THE_ORDER), CANCEL, True, True),
    (replaced(20, leaves_lots=20, request_id="acc-1-6", **OF_THE_ORDER), REPLACE, True, False),
    (replace_rejected(request_id="acc-1-6", **OF_THE_ORDER), REPLACE, True, True),
    (replace_rejected(request_id="acc-1-c1", **OF_THE_ORDER), CANCEL, False, True),
    (cancel_rejected(request_id="acc-1-6", **OF_THE_ORDER), REPLACE, False, True),
    (cancel_rejected(request_id="acc-1-c1"), CANCEL, False, True),
    (cancel_rejected(request_id="acc-1-c1", side="sell", **OF_THE_ORDER), CANCEL, False, True),
    (cancel_rejected(request_id="acc-1-c1", symbol="ETH-USD", **OF_THE_ORDER), CANCEL, False, True),
]


@pytest.mark.parametrize(("report", "request_", "fits", "may_be_late"), ANSWERS)
def test_an_answer_fits_its_request_and_a_refusal_may_come_when_the_order_is_over(
    report: AnyVenueReport, request_: Request, fits: bool, may_be_late: bool
) -> None:
    assert request_answered(report) == request_.request_id
    with nullcontext() if fits else pytest.raises(InvariantBroken, match="no answer to"):
        require_answer(request_, report)
    session = Session(venue_sequence_last=5, epoch=3)
    late = report.model_copy(update={"venue_sequence": 6})
    with nullcontext() if may_be_late else pytest.raises(InvariantBroken, match="no intent"):
        read, is_new = apply_late_answer(session, request_, late)
        assert (read, is_new) == (Session(venue_sequence_last=6, epoch=3), True)
    assert apply_late_answer(session, request_, report) == (session, False)
    with pytest.raises(ReportGap):
        apply_late_answer(session, request_, report.model_copy(update={"venue_sequence": 7}))


@pytest.mark.parametrize("report", [acknowledged(), a_fill(1, leaves_lots=9), cancelled(10), expired(10)])
def test_a_report_that_nobody_asked_for_answers_no_request(report: AnyVenueReport) -> None:
    assert request_answered(report) is None


# Reports without a number


def test_reports_without_a_number_stand_for_as_many_that_are_missing() -> None:
    one = note_unnumbered(Session(venue_sequence_last=5, epoch=3), "a")
    assert one is not None
    assert note_unnumbered(one, "a") is None
    two = note_unnumbered(one, "b")
    assert two == Session(venue_sequence_last=5, epoch=3, unnumbered=("a", "b"))
    assert read_on(two, 8) == Session(venue_sequence_last=8, epoch=3)
    assert read_on(two, 6) == Session(venue_sequence_last=6, epoch=3)
    assert read_on(two, 5) is None
    with pytest.raises(ReportGap):
        read_on(two, 9)


def test_no_more_of_them_are_remembered_than_a_bound() -> None:
    session = NEW_SESSION
    for number in range(UNNUMBERED_MAX + 5):
        session = note_unnumbered(session, str(number)) or session
    assert len(session.unnumbered) == UNNUMBERED_MAX


@pytest.mark.parametrize(
    ("sequence", "later", "wrong"),
    [
        (6, {7, 8}, False),
        (99, {7, 8}, True),  # 6 is this one, the others go on
        (99, set(), False),
        (99, {100, 101}, False),  # reports are missing
        (7, {6, 8}, False),  # early
        (8, {6, 7}, False),
    ],
)
def test_a_number_is_wrong_when_those_behind_go_on_without_it(
    sequence: int, later: set[int], wrong: bool
) -> None:
    assert is_misnumbered(Session(venue_sequence_last=5), sequence, later) is wrong
