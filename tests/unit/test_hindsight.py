"""Decisions made again: nothing differs under the same limits, other limits give what they would have given.

What would have been is asked of a second pipeline, which gets the same orders and has the other limits from
the beginning.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.domain.books import NO_BOOKS, Books
from app.domain.hindsight import Change, Verdict, hindsight
from app.errors import UserError
from app.operators.state import books_at
from app.operators.whatif import as_json, first_of, judge
from app.topics import RISK_DECISIONS
from tables.positions import POSITIONS
from tables.reservations import RESERVATIONS
from tests.builders import PRICE_TICKS
from tests.lookback import Floor, read

Script = list[tuple[Any, ...]]
NEVER = 10**15

SIDES = st.sampled_from(["buy", "sell"])
ACCOUNTS = st.sampled_from(["a", "b"])
LOTS = st.integers(1, 40)
PRICES = st.integers(PRICE_TICKS - 12_000, PRICE_TICKS + 12_000)
TIFS = st.sampled_from(["gtc", "gtc", "gtc", "ioc"])
SYMBOLS = st.sampled_from(["BTC-USD", "BTC-USD", "ETH-USD"])
CHOICE = st.integers(0, 7)
ORDER = st.tuples(st.just("order"), ACCOUNTS, SYMBOLS, SIDES, LOTS, PRICES, TIFS)
TICK = st.tuples(st.just("tick"), SYMBOLS, PRICES)
CANCEL = st.tuples(st.just("cancel"), CHOICE)
LIMIT = st.tuples(
    st.just("limit"),
    ACCOUNTS,
    st.fixed_dictionaries(
        {},
        optional={
            "open_orders_max": st.integers(1, 8),
            "position_lots_max": st.integers(10, 120),
            "order_quantity_lots_max": st.integers(5, 50),
            "gross_exposure_micros_max": st.integers(1, 12) | st.just(10**7),
            "kill_switch": st.booleans(),
        },
    ),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "open_orders_max": st.integers(1, 10),
        "position_lots_max": st.integers(5, 200),
        "order_quantity_lots_max": st.integers(5, 50),
        "price_collar_bps": st.integers(100, 1_400),
        "gross_exposure_micros_max": st.integers(10**6, 10**7),
        "kill_switch": st.booleans(),
    },
)
ANYTHING = st.lists(
    st.one_of(
        ORDER,
        ORDER,
        TICK,
        CANCEL,
        LIMIT,
        st.tuples(st.just("fill"), CHOICE, LOTS),
        st.tuples(st.just("replace"), CHOICE, LOTS, PRICES),
        st.tuples(st.just("answer"), st.booleans()),
        st.tuples(st.just("expire")),
    ),
    max_size=30,
)


@pytest.fixture
def floors() -> Iterator[Callable[..., Floor]]:
    """Makes one pipeline after the other, the last of which is the one that the agents see."""
    patches: list[pytest.MonkeyPatch] = []

    def make(**options: Any) -> Floor:
        patches.append(pytest.MonkeyPatch())
        return Floor(patches[-1], **options)

    yield make
    for each in reversed(patches):
        each.undo()


def play(floor: Floor, script: Script, **tight: Any) -> None:
    """Let a floor have what a script says. An order is chosen among all there were."""
    orders: list[str] = []
    for account in ("a", "b"):
        floor.limit(account, **tight)
    for what, *told in script:
        if what == "order":
            account, symbol, side, lots, price_ticks, tif = told
            terms = {"side": side, "price_ticks": price_ticks, "time_in_force": tif, "symbol": symbol}
            orders.append(floor.order(account, lots, **terms))
        elif what == "tick":
            floor.pipeline.tick(told[1], told[0])
        elif what == "limit":
            floor.limit(told[0], **(tight | told[1]))
        elif what == "answer":
            floor.answer(refuse=told[0])
        elif what == "expire":
            floor.expire()
        elif orders:
            chosen = orders[-1 - told[0] % len(orders)]
            if what == "cancel":
                floor.cancel(chosen)
            elif what == "replace":
                floor.replace(chosen, told[1], told[2])
            elif chosen in floor.resting:
                floor.fill(chosen, told[1])


def verdicts(floor: Floor, changes: Mapping[str, Any]) -> dict[str, Verdict]:
    found = read(floor.pipeline)
    return {name: hindsight(each, found.market, changes) for name, each in found.histories.items()}


def decisions(floor: Floor) -> dict[str, tuple[str, str | None]]:
    """What was decided of each request: its kind, and the reason if it was refused."""
    kinds = {"Order": "order", "Replace": "replace", "Cancel": "cancel"}
    found = {}
    for record in floor.pipeline.records[RISK_DECISIONS.name]:
        headers: dict[str, Any] = dict(record.headers)
        event: Any = RISK_DECISIONS.codec.decode(headers["event-type"], b"1", record.value or b"")
        about = getattr(event, "order", None) or event.request
        kind = next(name for start, name in kinds.items() if type(event).__name__.startswith(start))
        id_ = getattr(about, "request_id", None) or about.order_id
        found[id_] = kind, getattr(event, "reason", None)
    return found


def differences(recorded: Floor, otherwise: Floor) -> Counter[Change]:
    """What two pipelines have decided otherwise."""
    before, after = decisions(recorded), decisions(otherwise)
    assert before.keys() == after.keys()
    return Counter(
        Change(kind, reason, after[id_][1])
        for id_, (kind, reason) in before.items()
        if reason != after[id_][1] and not (kind == "cancel" and reason and after[id_][1])
    )


def counted(found: Mapping[str, Verdict]) -> Counter[Change]:
    return sum((each.changes for each in found.values()), Counter[Change]())


@settings(deadline=None)
@given(script=ANYTHING)
def test_under_the_same_limits_nothing_differs_and_all_is_explained(script: Script) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        floor = Floor(monkeypatch)
        play(floor, script, gross_exposure_micros_max=6_000_000)
        found = verdicts(floor, {})

    assert counted(found) == {}
    assert sum(each.unexplained + each.limits_gone for each in found.values()) == 0
    assert sum(each.decided for each in found.values()) == len(floor.pipeline.records[RISK_DECISIONS.name])
    for each in found.values():
        assert each.recorded == each.otherwise
        assert all(before == after for before, after in each.realised.values())


@settings(deadline=None)
@given(script=ANYTHING)
def test_the_books_folded_from_the_log_are_those_of_risk(script: Script) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        floor = Floor(monkeypatch)
        play(floor, script)
        found = read(floor.pipeline)
        positions, reservations = floor.pipeline.table(POSITIONS), floor.pipeline.table(RESERVATIONS)

    for name, history in found.histories.items():
        folded = books_at(history, found.market, floor.pipeline.now_ms)
        known = {
            key.partition("/")[2]: each for key, each in reservations.items() if key.startswith(f"{name}/")
        }
        assert folded == Books(positions.get(name, NO_BOOKS.account), known)


@settings(deadline=None)
@given(script=ANYTHING, changes=CHANGES)
def test_whatever_comes_the_recorded_world_stays_and_the_other_one_has_its_books_in_order(
    script: Script, changes: Mapping[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        floor = Floor(monkeypatch)
        play(floor, script, gross_exposure_micros_max=6_000_000)
        same, found = verdicts(floor, {}), verdicts(floor, changes)

    for name, each in found.items():
        assert (each.decided, each.unexplained) == (same[name].decided, 0)
        assert each.recorded == same[name].recorded
        assert {key: before for key, (before, _) in each.realised.items() if before} == {
            key: before for key, (before, _) in same[name].realised.items() if before
        }
        assert (each.first is None) == (not each.changes)
        assert min(each.otherwise) >= 0


@settings(deadline=None)
@given(script=st.lists(st.one_of(ORDER, ORDER, TICK, CANCEL, LIMIT), max_size=30), changes=CHANGES)
def test_where_nothing_is_filled_other_limits_give_what_they_would_have_given(
    script: Script, changes: Mapping[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorded = Floor(monkeypatch, compliance=False)
        answered = [step for each in script for step in (each, ("answer", False))]
        play(recorded, answered, gross_exposure_micros_max=6_000_000)
        otherwise = Floor(monkeypatch, compliance=False)
        otherwise.changes = changes
        play(otherwise, answered, gross_exposure_micros_max=6_000_000)
        found, expected = verdicts(recorded, changes), verdicts(otherwise, {})

    assert counted(found) == differences(recorded, otherwise)
    for name, each in found.items():
        assert each.otherwise == expected[name].recorded


@settings(deadline=None)
@given(script=st.lists(st.one_of(ORDER, ORDER, TICK, LIMIT), max_size=30), changes=CHANGES)
def test_where_all_is_filled_stricter_limits_give_what_they_would_have_given(
    script: Script, changes: Mapping[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorded = Floor(monkeypatch, compliance=False)
        recorded.fills = True
        play(recorded, script)
        found = verdicts(recorded, changes)
        assume(all(each.otherwise is not None for each in counted(found)))
        otherwise = Floor(monkeypatch, compliance=False)
        otherwise.changes, otherwise.fills = changes, True
        play(otherwise, script)
        expected = verdicts(otherwise, {})

    assert counted(found) == differences(recorded, otherwise)
    for name, each in found.items():
        assert each.otherwise == expected[name].recorded
        assert {key: after for key, (_, after) in each.realised.items() if after} == {
            key: before for key, (before, _) in expected[name].realised.items() if before
        }


def passed(kind: str, reason: str) -> Change:
    return Change(kind, reason, None)


def test_an_order_newly_refused_never_had_its_fills(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a")
    floor.fill(floor.order("a", 10), 10)
    floor.fill(floor.order("a", 30), 30)
    found = verdicts(floor, {"order_quantity_lots_max": 20})["a"]

    assert found.changes == {Change("order", None, "order_too_large"): 1}
    assert (found.recorded.end_micros, found.otherwise.end_micros) == (40 * PRICE_TICKS, 10 * PRICE_TICKS)
    assert found.first is not None
    assert found.first.limits is not None
    assert found.first.limits.order_quantity_lots_max == 20
    assert found.first.books.account.holdings["BTC-USD"].position_lots == 10


def test_what_an_order_had_reserved_makes_room_for_others(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a", position_lots_max=30)
    floor.order("a", 25)
    floor.order("a", 10)
    found = verdicts(floor, {"order_quantity_lots_max": 20})["a"]

    assert found.changes == {
        Change("order", None, "order_too_large"): 1,
        passed("order", "position_limit"): 1,
    }


@pytest.mark.parametrize(("tif", "end_lots"), [("gtc", 30), ("ioc", 0)])
def test_an_order_newly_passed_rests_until_its_time_in_force_ends(
    floors: Callable[..., Floor], tif: str, end_lots: int
) -> None:
    floor = floors()
    floor.limit("a", order_quantity_lots_max=20)
    floor.order("a", 30, time_in_force=tif)
    found = verdicts(floor, {"order_quantity_lots_max": 40})["a"]

    assert found.changes == {passed("order", "order_too_large"): 1}
    assert found.otherwise.peak_micros == 30 * PRICE_TICKS
    assert found.otherwise.end_micros == end_lots * PRICE_TICKS


def test_when_the_venue_expires_orders_those_newly_passed_end_too(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a", order_quantity_lots_max=20)
    floor.order("a", 30)
    floor.order("a", 5)
    floor.expire()
    found = verdicts(floor, {"order_quantity_lots_max": 40})["a"]

    assert found.otherwise.peak_micros == 35 * PRICE_TICKS
    assert found.otherwise.end_micros == 0


def test_a_cancel_of_an_order_newly_passed_ends_it(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a", order_quantity_lots_max=20)
    order_id = floor.order("a", 30)
    floor.cancel(order_id)
    found = verdicts(floor, {"order_quantity_lots_max": 40})["a"]

    assert found.changes == {
        passed("order", "order_too_large"): 1,
        passed("cancel", "unknown_order"): 1,
    }
    assert found.otherwise.end_micros == 0


def test_requests_for_an_order_newly_refused_find_none(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a")
    order_id = floor.order("a", 30)
    floor.replace(order_id, 10)
    floor.answer()
    floor.cancel(order_id)
    floor.answer()
    found = verdicts(floor, {"order_quantity_lots_max": 20})["a"]

    assert found.changes == {
        Change("order", None, "order_too_large"): 1,
        Change("replace", None, "unknown_order"): 1,
        Change("cancel", None, "unknown_order"): 1,
    }
    assert found.otherwise.end_micros == 0


def test_an_order_whose_replace_is_newly_refused_keeps_its_terms_and_rests(
    floors: Callable[..., Floor],
) -> None:
    floor = floors()
    floor.limit("a")
    order_id = floor.order("a", 10)
    floor.fill(order_id, 4)
    floor.replace(order_id, 30)
    floor.answer()
    floor.fill(order_id, 26)
    found = verdicts(floor, {"order_quantity_lots_max": 20})["a"]

    assert found.changes == {Change("replace", None, "order_too_large"): 1}
    assert found.recorded.end_micros == 30 * PRICE_TICKS
    assert found.otherwise.end_micros == 10 * PRICE_TICKS  # 4 filled, 6 still open


def test_a_replace_newly_passed_is_reserved_and_fills_go_on(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a", order_quantity_lots_max=20)
    order_id = floor.order("a", 10)
    floor.replace(order_id, 30)
    floor.fill(order_id, 4)
    still_open = verdicts(floor, {"order_quantity_lots_max": 40})["a"]
    floor.fill(order_id, 6)
    over = verdicts(floor, {"order_quantity_lots_max": 40})["a"]

    assert still_open.changes == {passed("replace", "order_too_large"): 1}
    assert still_open.otherwise.end_micros == 30 * PRICE_TICKS
    assert over.otherwise.end_micros == over.recorded.end_micros == 10 * PRICE_TICKS


def test_only_the_stretch_is_decided_again_and_begins_with_the_books_as_they_were(
    floors: Callable[..., Floor],
) -> None:
    floor = floors()
    floor.limit("a")
    floor.fill(floor.order("a", 30), 30)
    begins = floor.pipeline.now_ms + 1
    floor.order("a", 25)
    ends = floor.pipeline.now_ms + 1
    floor.order("a", 22)
    found = read(floor.pipeline)
    cut = hindsight(
        found.histories["a"], found.market, {"order_quantity_lots_max": 20}, from_ms=begins, until_ms=ends
    )

    assert cut.decided == 1
    assert cut.changes == {Change("order", None, "order_too_large"): 1}
    assert cut.otherwise.end_micros == 30 * PRICE_TICKS


def test_what_risk_did_not_know_yet_explains_a_refusal(floors: Callable[..., Floor]) -> None:
    """The fill of a sale is in the log before an order is refused that risk judged without it."""
    floor = floors(compliance=False)
    floor.limit("a", position_lots_max=30)
    first = floor.order("a", 30)
    floor.pipeline.away.add("risk")
    floor.end(first)
    floor.pipeline.order("a", quantity_lots=20)
    found = read(floor.pipeline)  # not decided yet
    assert counted({"a": hindsight(found.histories["a"], found.market, {})}) == {}

    refused_late(floor)
    again = verdicts(floor, {})["a"]
    assert (again.decided, again.unexplained, again.changes) == (2, 0, {})
    looser = verdicts(floor, {"position_lots_max": 50})["a"]
    assert looser.changes == {passed("order", "position_limit"): 1}


def refused_late(floor: Floor) -> None:
    """Risk takes the order in before the report that stands before it in the log."""
    held = floor.pipeline.records["executions"]
    floor.pipeline.records["executions"] = held[:-1]
    floor.pipeline.away.discard("risk")
    floor.pipeline.step()
    floor.pipeline.records["executions"] = held
    floor.pipeline.step()


def test_a_decision_that_does_not_follow_from_the_log_stands_and_is_counted(
    floors: Callable[..., Floor],
) -> None:
    floor = floors(compliance=False)
    floor.limit("a")
    floor.order("a", 10)
    records = floor.pipeline.records[RISK_DECISIONS.name]
    claimed = (records[0].value or b"").replace(b'"quantity_lots":10', b'"quantity_lots":4000')
    records[0] = msgspec.structs.replace(records[0], value=claimed)
    found = verdicts(floor, {"open_orders_max": 0})["a"]

    assert (found.decided, found.unexplained, found.changes) == (1, 1, {})


def test_limits_that_are_gone_from_the_log_are_counted(floors: Callable[..., Floor]) -> None:
    floor = floors(compliance=False)
    floor.limit("a")
    floor.order("a", 10)
    floor.limit("a", position_lots_max=100)
    floor.order("a", 10)
    del floor.pipeline.records["risk-limits"][0]
    found = verdicts(floor, {"order_quantity_lots_max": 5})["a"]

    assert (found.decided, found.limits_gone, found.unexplained) == (2, 1, 0)
    assert found.changes == {Change("order", None, "order_too_large"): 1}


def test_a_log_without_its_beginning_is_refused_with_what_to_do(floors: Callable[..., Floor]) -> None:
    floor = floors()
    floor.limit("a")
    with pytest.raises(
        UserError, match=r"executions/0 begins at offset 7: retention .* retention.ms of orders"
    ):
        read(floor.pipeline, executions=7)


def test_accounts_are_judged_by_their_own_changes_and_those_for_all(floors: Callable[..., Floor]) -> None:
    floor = floors()
    for account in ("a", "b"):
        floor.limit(account)
        floor.order(account, 30)
    found = judge(
        read(floor.pipeline),
        {"*": {"order_quantity_lots_max": 20}, "b": {"order_quantity_lots_max": NEVER}},
    )
    told = as_json(found)

    assert told["differences"] == [
        {"account_id": "a", "kind": "order", "recorded": "passed", "otherwise": "order_too_large", "count": 1}
    ]
    first = first_of(found)
    assert first is not None
    assert told["first_difference"]["asked"]["order_id"] == first.asked.order_id
    assert told["first_difference"]["limits"]["otherwise"]["order_quantity_lots_max"] == 20
    assert told["first_difference"]["inputs"]["price"]["price_ticks"] == PRICE_TICKS
    with pytest.raises(UserError, match="no account 'c' is known"):
        judge(read(floor.pipeline), {"c": {}})
