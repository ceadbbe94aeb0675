"""The intents of the exchange: sent once, acknowledged, filled and removed; reports in sequence."""

from typing import Any

import pytest

from app.domain.errors import InvariantBroken, ReportGap
from app.domain.exchange import (
    NEW_SESSION,
    Intent,
    IntentState,
    Session,
    apply_venue_report,
    claimed,
    new_intent,
    to_venue_order,
)
from models.events import VenueReport
from tests.builders import PRICE_TICKS, a_fill, acknowledged, an_order, cancelled, expired, venue_rejected


def after(*reports: VenueReport) -> Intent | None:
    """The intent of `an_order` after `reports`, which are numbered as they stand here."""
    session, intent = NEW_SESSION, new_intent(an_order())
    for sequence, report in enumerate(reports, start=1):
        numbered = report.model_copy(update={"venue_sequence": sequence})
        session, changed, emit = apply_venue_report(session, intent, numbered)
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
    ],
)
def test_an_ended_order_has_no_intent(reports: list[VenueReport]) -> None:
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
    ],
)
def test_an_illegal_path_is_a_bug(reports: list[VenueReport]) -> None:
    with pytest.raises(InvariantBroken, match=reports[-1].order_id):
        after(*reports)


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


def test_a_report_of_an_order_without_an_intent_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="no intent"):
        apply_venue_report(NEW_SESSION, None, acknowledged())


def test_a_claim_is_above_all_earlier_ones_whatever_epoch_kafka_gives() -> None:
    first = claimed({3: Session(venue_sequence_last=5), 11: Session(epoch=80_000)}, task_epoch=70_000)
    after_days = claimed(first, task_epoch=65_536)
    read, _, _ = apply_venue_report(after_days[3], new_intent(an_order()), acknowledged(venue_sequence=6))

    assert {session.epoch for session in first.values()} == {80_001}
    assert {session.epoch for session in (*after_days.values(), read)} == {80_002}
    assert [session.venue_sequence_last for session in after_days.values()] == [5, 0]
    assert claimed({3: Session()}, task_epoch=70_000)[3].epoch == 70_000
