"""Changes to a history that the checker must catch: the means, and those about cancels and replaces."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from checker.records import (
    CancelAccepted,
    CancelRejected,
    Logged,
    Order,
    OrderReplaced,
    Origin,
    ReplaceRejected,
    ReplaceRiskApproved,
)
from models.values import InstrumentStatus, PartyStatus, Side
from tests.histories import OTHER_SYMBOL, PRICE_TICKS, SYMBOL, World, an_instrument


class Planted(NamedTuple):
    """A change to the busy world, and the invariant and words with which it must be caught."""

    plant: Callable[[World], Any]
    invariant: str
    message: str


def edit(records: list[Logged[Any]], index: int, **changes: Any) -> None:
    """Change fields of the event of one record."""
    event: Any = records[index].event
    records[index] = replace(records[index], event=replace(event, **changes))


def first(records: Sequence[Logged[Any]], kind: type, **wanted: Any) -> int:
    """The index of the first event of a type with these fields."""
    return next(
        index
        for index, record in enumerate(records)
        if isinstance(record.event, kind)
        and all(getattr(record.event, name) == value for name, value in wanted.items())
    )


def again(records: list[Logged[Any]], index: int) -> None:
    """Log a record a second time, at the end."""
    records.append(replace(records[index], offset=records[-1].offset + 1))


def drop(records: list[Any], index: int) -> None:
    del records[index]


def swap(records: list[Logged[Any]], one: int, other: int) -> None:
    """Let two records change places: each takes the other's offset."""
    a, b = records[one], records[other]
    records[one] = replace(b, offset=a.offset)
    records[other] = replace(a, offset=b.offset)


def rewrite(values: dict[bytes, bytes], key: bytes, **changes: Any) -> None:
    values[key] = msgspec.json.encode(msgspec.json.decode(values[key]) | changes)


# -- requests


def cancelled(world: World, account_id: str = "acc", **changed: Any) -> tuple[Order, CancelAccepted]:
    """An order that rests, and is cancelled since its client asks for it."""
    order = world.resting(account_id, **changed)
    let = world.asked(world.ask_cancel(order))
    world.cancel(order, let.venue_id)
    return order, let


def replaced(world: World, **changed: Any) -> tuple[Order, ReplaceRiskApproved]:
    """An order that rests, and rests on other terms since its client asks for them."""
    order = world.resting()
    let = world.asked(world.ask_replace(order, **changed))
    world.replace(let)
    return order, let


def replaced_and_filled(world: World, **changed: Any) -> tuple[Order, ReplaceRiskApproved]:
    order, let = replaced(world, **changed)
    world.fill(order)
    return order, let


def asking_for_much(world: World) -> None:
    """Every way that a cancel or a replace can go, each once."""
    order, _ = replaced(world, quantity_lots=20, price_ticks=PRICE_TICKS + 5)
    world.fill(order, 12)
    less = world.asked(world.ask_replace(order, quantity_lots=15, price_ticks=PRICE_TICKS + 5))
    world.fill(order, 1)
    world.replace(less)
    cancel = world.asked(world.ask_cancel(order))
    world.refuse_request(world.ask_cancel(order), "cancel_pending")
    world.refuse_request(world.ask_replace(order), "cancel_pending")
    world.cancel(order, cancel.venue_id)
    world.refuse_request(world.ask_cancel(order), "order_ended")
    world.refuse_request(world.ask_cancel(order, order_id="acc-999999"), "unknown_order")
    filled_already(world)
    too_late(world)
    never_sent(world)
    refused_on_the_way(world)
    under_a_halt(world)
    by_itself(world)
    cancelled(world, "other", side=Side.SELL, price_ticks=PRICE_TICKS + 50)
    behind_a_quarantine(world)


def filled_already(world: World) -> None:
    """A replace to no more than what is filled."""
    order = world.resting()
    world.fill(order, 4)
    world.replace(world.asked(world.ask_replace(order, quantity_lots=3)))


def too_late(world: World) -> None:
    """The order is filled while it is asked to be another one, and to be cancelled on top of it."""
    order = world.resting()
    let, cancel = world.asked(world.ask_replace(order)), world.asked(world.ask_cancel(order))
    world.fill(order)
    world.reject_request(let)
    world.reject_request(cancel)


def never_sent(world: World) -> None:
    """The order is withheld, for its cancel or for something else; what is asked of it goes its own way."""
    for reason in ("cancel_requested", "order_too_old"):
        order = world.receive()
        world.approve(order)
        world.clear(order)
        let, cancel = world.let(world.ask_replace(order)), world.let(world.ask_cancel(order))
        assert isinstance(let, ReplaceRiskApproved)
        world.pass_on(let)
        world.pass_on(cancel)
        world.withhold(order, reason)
        world.withhold_replace(let, "order_ended")
        if reason != "cancel_requested":
            world.send_request(cancel)
            world.reject_request(cancel, "unknown_order")


def refused_on_the_way(world: World) -> None:
    """Risk refuses a replace and its repeat, compliance another one, the venue a third."""
    order = world.resting()
    refused = world.ask_replace(order, quantity_lots=10**6)
    world.refuse_request(refused, "order_too_large")
    world.refuse_request(refused, "duplicate_order_id", world.log_request(refused))
    barred = world.let(world.ask_replace(order, quantity_lots=50))
    assert isinstance(barred, ReplaceRiskApproved)
    world.bar_replace(barred)
    world.reject_request(world.asked(world.ask_replace(order)), "market_closed")
    world.fill(order)


def under_a_halt(world: World) -> None:
    """Trading is halted, the account's kill switch is on: a replace is withheld, a cancel leaves."""
    order = world.resting()
    let = world.let(world.ask_replace(order))
    assert isinstance(let, ReplaceRiskApproved)
    world.pass_on(let)
    world.halt(version=8)
    world.withhold_replace(let)
    world.limit("acc", kill_switch=True)
    world.refuse_request(world.ask_replace(order), "halted")
    world.cancel(order, world.asked(world.ask_cancel(order)).venue_id)
    world.limit("acc")
    world.halt(halted=False, version=9)


def by_itself(world: World) -> None:
    """The venue cancels an order that nobody has asked it to cancel; a cancel is late then."""
    order = world.resting()
    cancel = world.asked(world.ask_cancel(order))
    world.cancel(order)
    world.reject_request(cancel)


def behind_a_quarantine(world: World) -> None:
    """The cancel of an order passes what the account's next one waits behind."""
    order = world.resting("stuck")
    head = world.receive("stuck")
    origin = Origin("orders", 0, world.log.orders[-1].offset)
    world.bury(origin, key=b"stuck")
    asked = world.ask_replace(order)
    world.bury(Origin("orders", 0, world.log.asked[-1].offset), behind=origin, key=b"stuck")
    assert asked.sequence > head.sequence
    world.cancel(order, world.asked(world.ask_cancel(order)).venue_id)


def let_unsent(world: World) -> None:
    replaced_and_filled(world)
    drop(world.log.asked, -1)


def refuse_unsent(world: World) -> None:
    order = world.traded()
    world.refuse_request(world.ask_cancel(order), "order_ended")
    drop(world.log.asked, -1)


def answer_unasked(world: World) -> None:
    cancelled(world)
    drop(world.log.asked_compliance, -1)
    drop(world.log.asked_risk, -1)


def withhold_unasked(world: World) -> None:
    order = world.receive()
    world.approve(order)
    world.clear(order)
    world.withhold(order, "cancel_requested")


def decide_twice(world: World) -> None:
    cancelled(world)
    again(world.log.asked_risk, -1)


def refuse_what_was_let(world: World) -> None:
    replaced_and_filled(world)
    request = world.log.asked[-1].event
    assert request is not None
    world.refuse_request(request, "duplicate_order_id")


def let_again(world: World) -> None:
    """What a risk service without deduplication does."""
    order, let = replaced(world)
    world.log_request(let.request)
    world.replace(world.asked(let.request))
    world.fill(order)


def edit_let(world: World, **changes: Any) -> None:
    replaced_and_filled(world)
    edit(world.log.asked_risk, -1, **changes)


def let_more(world: World) -> None:
    _, let = replaced_and_filled(world)
    edit(world.log.asked_risk, -1, request=replace(let.request, quantity_lots=16))


def key_otherwise(world: World) -> None:
    cancelled(world)
    world.log.asked_risk[-1] = replace(world.log.asked_risk[-1], key=b"other")


def skip_a_number(world: World) -> None:
    cancelled(world)
    order = world.resting()
    let: Any = world.let(world.ask_cancel(order), number=3)
    world.pass_on(let)
    world.send_request(let)
    world.cancel(order, let.venue_id)


def ask_of_the_refused(world: World) -> None:
    order = world.receive()
    world.refuse(order)
    world.terms[order.order_id] = world._terms_of(order)
    world.reject_request(world.asked(world.ask_cancel(order)), "unknown_order")


def let_on_the_other_side(world: World) -> None:
    order = world.resting()
    let: Any = world.let(world.ask_cancel(order), side=Side.SELL)
    world.pass_on(let)
    world.send_request(let)
    world.cancel(order, let.venue_id)


def ask_for(world: World, what: str, order: Order) -> Any:
    """Ask for a cancel or a replace; the venue has it, and has not answered."""
    return world.asked(world.ask_cancel(order) if what == "cancel" else world.ask_replace(order))


def let_a_second(world: World, what: str, also: str) -> None:
    """Risk lets a request through while another one of the order is on its way."""
    order = world.resting()
    one, other = ask_for(world, what, order), ask_for(world, also, order)
    world.fill(order)
    world.reject_request(one)
    world.reject_request(other)


def refuse_a_cancel(world: World, reason: str) -> None:
    order = world.resting()
    world.refuse_request(world.ask_cancel(order), reason)
    world.fill(order)


def pass_on_the_unlet(world: World) -> None:
    cancelled(world)
    drop(world.log.asked_risk, -1)


def judge_twice(world: World, kind: str) -> None:
    cancelled(world) if kind == "cancel" else replaced_and_filled(world)
    again(world.log.asked_compliance, -1)


def pass_on_more(world: World) -> None:
    _, let = replaced_and_filled(world)
    edit(world.log.asked_compliance, -1, request=replace(let.request, quantity_lots=16))


def pass_on_another_side(world: World) -> None:
    replaced_and_filled(world)
    edit(world.log.asked_compliance, -1, side=Side.SELL)


def pass_on_another_source(world: World) -> None:
    cancelled(world)
    edit(world.log.asked_compliance, -1, source="orders/0/0")


def replace_the_barred(world: World) -> None:
    order = world.receive()
    world.approve(order)
    let: Any = world.let(world.ask_replace(order))
    world.bar(order)
    world.pass_on(let)
    world.withhold_replace(let, "order_ended")


def answer_twice(world: World) -> None:
    order = world.resting()
    cancel = world.asked(world.ask_cancel(order))
    world.cancel(order, cancel.venue_id)
    world.reject_request(cancel)


def answer_the_barred(world: World) -> None:
    order = world.resting()
    let: Any = world.let(world.ask_replace(order))
    world.bar_replace(let)
    world.withhold_replace(let)
    world.fill(order)


def answer_before_compliance(world: World) -> None:
    replaced_and_filled(world)
    drop(world.log.asked_compliance, -1)


def answer_a_cancel_as_a_replace(world: World) -> None:
    order = world.resting()
    let = world.asked(world.ask_cancel(order))
    world.fill(order)
    world._report(order, ReplaceRejected, request_id=let.venue_id, reason="order_ended")
    world._answered(let.venue_id)


def answer_for_another_order(world: World) -> None:
    other = world.resting()
    order = world.resting(quantity_lots=11)
    let = world.asked(world.ask_cancel(other))
    world.cancel(order, let.venue_id)
    world.fill(other)


def reject_as_unknown(world: World) -> None:
    order = world.resting()
    world.reject_request(world.asked(world.ask_cancel(order)), "unknown_order")
    world.fill(order)


def reject_as_ended(world: World, what: str) -> None:
    order = world.resting()
    world.reject_request(ask_for(world, what, order))
    world.fill(order)


def withhold_as_ended(world: World) -> None:
    order = world.resting()
    let: Any = world.let(world.ask_replace(order))
    world.pass_on(let)
    world.withhold_replace(let, "order_ended")
    world.fill(order)


def never_pass_on(world: World) -> None:
    order = world.resting()
    world.let(world.ask_cancel(order))
    world.fill(order)


def never_answer(world: World, what: str = "cancel") -> None:
    order = world.resting()
    ask_for(world, what, order)
    world.fill(order)


def replace_unacknowledged(world: World) -> None:
    order = world.cleared()
    world.replace(world.asked(world.ask_replace(order)))
    world.acknowledge(order)
    world.fill(order)


def replace_with(world: World, **changed: Any) -> None:
    order = world.resting()
    world.fill(order, 2)
    world.replace(world.asked(world.ask_replace(order)), **changed)


def replace_what_has_ended(world: World) -> None:
    order, let = replaced_and_filled(world)
    terms = {"quantity_lots": 15, "price_ticks": PRICE_TICKS, "leaves_lots": 5}
    world._report(order, OrderReplaced, request_id=let.venue_id, **terms)


def fill_at_the_old_price(world: World) -> None:
    order, _ = replaced(world, price_ticks=PRICE_TICKS - 5)
    world.fill(order)
    edit(world.log.executions, -1, price_ticks=PRICE_TICKS)


REQUESTS = {
    "a replace let through that nobody sent": Planted(
        let_unsent, "I1", "risk has decided a request that nobody has sent"
    ),
    "a cancel refused that nobody sent": Planted(
        refuse_unsent, "I1", "risk has decided a request that nobody has sent"
    ),
    "an answer to nothing": Planted(answer_unasked, "I1", "an answer to a request that risk has not let"),
    "an order withheld for no cancel": Planted(
        withhold_unasked, "I1", "an answer to a request that risk has not let through"
    ),
    "a cancel accepted twice": Planted(decide_twice, "I1", "risk has decided a request more than once"),
    "a replace refused that was let through": Planted(
        refuse_what_was_let, "I1", "risk has decided a request more than once"
    ),
    "a replace let through again": Planted(let_again, "I1", "risk has decided a request more than once"),
    "a replace let through again, for its number": Planted(
        let_again, "I1", "a sequence that is not above the account's last was not refused"
    ),
    "a request risk never decided": Planted(
        lambda w: w.ask_cancel(w.traded()), "I1", "a request was never decided by risk"
    ),
    "a replace risk never decided": Planted(
        lambda w: w.ask_replace(w.traded()), "I5", "a record has neither been decided nor is it a dead letter"
    ),
    "more let through than asked for": Planted(
        let_more, "I1", "risk has decided a request on other terms than those received"
    ),
    "an approval of another receipt": Planted(
        lambda w: edit_let(w, received_at_ms=w.now_ms), "I1", "names another time of receipt"
    ),
    "a decision of a request under a wrong key": Planted(
        key_otherwise, "I1", "an event of a request does not have its account as key"
    ),
    "a number left out": Planted(
        skip_a_number, "I1", "the cancels of an account are not counted up one by one"
    ),
    "a cancel of an order that was refused": Planted(
        ask_of_the_refused, "I1", "a request was let through for an order that risk has not approved"
    ),
    "a cancel on the other side": Planted(
        let_on_the_other_side, "I1", "a request names another account, symbol or side than its order"
    ),
    "a second replace": Planted(
        lambda w: let_a_second(w, "replace", "replace"),
        "I1",
        "a replace was let through while a request of its order was not answered",
    ),
    "a replace behind a cancel": Planted(
        lambda w: let_a_second(w, "cancel", "replace"),
        "I1",
        "a replace was let through while a request of its order was not answered",
    ),
    "a second cancel": Planted(
        lambda w: let_a_second(w, "cancel", "cancel"),
        "I1",
        "a cancel was let through while another one of its order was not answered",
    ),
    "a cancel refused beside no other": Planted(
        lambda w: refuse_a_cancel(w, "cancel_pending"),
        "I1",
        "a cancel was refused as one of several, but there is no other",
    ),
    "a cancel refused for the kill switch": Planted(
        lambda w: refuse_a_cancel(w, "kill_switch_on"),
        "I1",
        "a cancel was refused, and not since there is nothing to cancel",
    ),
    "a cancel of an open order refused": Planted(
        lambda w: refuse_a_cancel(w, "order_ended"), "I1", "a cancel was refused though its order is open"
    ),
    "a cancel of a known order refused": Planted(
        lambda w: refuse_a_cancel(w, "unknown_order"), "I1", "a cancel was refused though its order is open"
    ),
    "a request passed on that risk did not let through": Planted(
        pass_on_the_unlet, "I1", "compliance has decided a request that risk has not let through"
    ),
    "a cancel passed on twice": Planted(
        lambda w: judge_twice(w, "cancel"), "I1", "compliance has decided a request more than once"
    ),
    "a replace approved twice": Planted(
        lambda w: judge_twice(w, "replace"), "I1", "compliance has decided a request more than once"
    ),
    "more passed on than let through": Planted(
        pass_on_more, "I1", "compliance has decided a request on other terms than risk"
    ),
    "a replace passed on for the other side": Planted(
        pass_on_another_side, "I1", "compliance has decided a request on other terms than risk"
    ),
    "a cancel passed on changed": Planted(
        pass_on_another_source, "I1", "compliance has decided a request on other terms than risk"
    ),
    "a replace of an order that compliance refused": Planted(
        replace_the_barred, "I1", "a replace was approved of an order that compliance has not approved"
    ),
    "a cancel answered twice": Planted(answer_twice, "I1", "a request was answered more than once"),
    "a refused replace answered": Planted(
        answer_the_barred, "I1", "a request was answered that compliance has not let through"
    ),
    "a replace answered before compliance": Planted(
        answer_before_compliance, "I1", "a request was answered that compliance has not let through"
    ),
    "a cancel answered as a replace": Planted(
        answer_a_cancel_as_a_replace, "I1", "an answer does not fit its request"
    ),
    "a cancel answered by another order": Planted(
        answer_for_another_order, "I1", "an answer does not fit its request"
    ),
    "an order called unknown that is not": Planted(
        reject_as_unknown, "I1", "since it does not know an order that it reports"
    ),
    "an open order called ended": Planted(
        lambda w: reject_as_ended(w, "cancel"), "I1", "withheld since an order had ended that was open"
    ),
    "an open order called ended to a replace": Planted(
        lambda w: reject_as_ended(w, "replace"), "I1", "withheld since an order had ended that was open"
    ),
    "a replace withheld as of an ended order": Planted(
        withhold_as_ended, "I1", "withheld since an order had ended that was open"
    ),
    "a cancel compliance never passed on": Planted(
        never_pass_on, "I1", "a request that risk let through was never decided by compliance"
    ),
    "a cancel never answered": Planted(never_answer, "I1", "a request that may go out was never answered"),
    "a replace never answered": Planted(
        lambda w: never_answer(w, "replace"), "I1", "a request that may go out was never answered"
    ),
    "a replace never answered is in flight": Planted(
        lambda w: never_answer(w, "replace"), "I5", "a record is still in flight"
    ),
    "a replace before the acknowledgement": Planted(
        replace_unacknowledged, "I1", "an order was replaced before its acknowledgement"
    ),
    "leaves_lots of a replace that do not follow": Planted(
        lambda w: replace_with(w, leaves_lots=14), "I1", "the leaves_lots of a replace do not follow"
    ),
    "an order replaced by more than was asked": Planted(
        lambda w: replace_with(w, quantity_lots=16, leaves_lots=14),
        "I1",
        "an order was replaced on other terms than asked for",
    ),
    "an order replaced at another price": Planted(
        lambda w: replace_with(w, price_ticks=PRICE_TICKS + 1),
        "I1",
        "an order was replaced on other terms than asked for",
    ),
    "a fill at the price before": Planted(
        fill_at_the_old_price, "I1", "a fill at a worse price than the limit"
    ),
    "an order replaced after its end": Planted(
        replace_what_has_ended,
        "I1",
        "a report after the order's end",
    ),
}


# -- the ledger


def edit_request(world: World, ask: str = "cancel", **changes: Any) -> None:
    ways: dict[str, Callable[[World], tuple[Order, Any]]] = {
        "cancel": cancelled,
        "replace": replaced_and_filled,
    }
    venue_id = ways[ask](world)[1].venue_id
    world.ledger_requests[venue_id] = world.ledger_requests[venue_id]._replace(**changes)


def send_what_was_withheld(world: World) -> None:
    order = world.resting()
    let: Any = world.asked(world.ask_replace(order))
    world.withhold_replace(let)
    world.fill(order)


def cancel_what_was_never_sent(world: World) -> None:
    """The order is withheld for its cancel, and yet the venue gets that."""
    order = world.receive()
    world.approve(order)
    world.clear(order)
    world.asked(world.ask_cancel(order))
    world.withhold(order, "cancel_requested")


def invent_a_request(world: World) -> None:
    _, let = cancelled(world)
    row = world.ledger_requests[let.venue_id]
    world.ledger_requests["acc-c99"] = row._replace(request_id="acc-c99")


def keep_the_old_terms(world: World) -> None:
    order, _ = replaced_and_filled(world)
    row = world.ledger_orders[order.order_id]
    world.ledger_orders[order.order_id] = row._replace(quantity_lots=order.quantity_lots)


def bury_an_answer(world: World, what: str) -> None:
    order = world.resting()
    let = ask_for(world, what, order)
    world.fill(order)
    kind = CancelRejected if what == "cancel" else ReplaceRejected
    world.dispute(order, kind, request_id=let.venue_id, reason="order_ended")


LEDGER = {
    "an order in another symbol": Planted(
        lambda w: w.ledger_orders.update(
            {name: row._replace(symbol=OTHER_SYMBOL) for name, row in w.ledger_orders.items()}
        ),
        "I2",
        "the venue has an order of another account, symbol, side or time in force than approved",
    ),
    "a request sent twice": Planted(
        lambda w: edit_request(w, receipts=2), "I2", "a request was sent to the venue more than once"
    ),
    "a request on a foreign session": Planted(
        lambda w: edit_request(w, session=3),
        "I2",
        "a request was sent on a session that is not its account's key shard",
    ),
    "a request that nobody let through": Planted(
        invent_a_request, "I2", "the venue has a request that compliance has not let through"
    ),
    "a request sent that compliance has not": Planted(
        answer_before_compliance, "I2", "the venue has a request that compliance has not let through"
    ),
    "a withheld replace sent": Planted(
        send_what_was_withheld, "I2", "the venue has a request that was withheld"
    ),
    "a cancel sent whose order was withheld for it": Planted(
        cancel_what_was_never_sent, "I2", "the venue has a request that was withheld"
    ),
    "a replace sent on other terms": Planted(
        lambda w: edit_request(w, "replace", price_ticks=1),
        "I2",
        "the venue has a request on other terms than let through",
    ),
    "a cancel sent for another order": Planted(
        lambda w: edit_request(w, order_id="acc-1"),
        "I2",
        "the venue has a request on other terms than let through",
    ),
    "an outcome that is not the answer": Planted(
        lambda w: edit_request(w, "replace", outcome="market_closed"),
        "I2",
        "the outcome of a request in the ledger is not its answer in executions",
    ),
    "a request never sent": Planted(
        lambda w: w.ledger_requests.pop(cancelled(w)[1].venue_id),
        "I2",
        "a request that may go out is not in the venue's ledger",
    ),
    "an order on the terms before its replace": Planted(
        keep_the_old_terms, "I2", "the venue has an order on other terms than approved and replaced"
    ),
    "a sound refusal of a cancel buried": Planted(
        lambda w: bury_an_answer(w, "cancel"), "I2", "a report that fits its order is a dead letter"
    ),
    "a sound refusal of a replace buried": Planted(
        lambda w: bury_an_answer(w, "replace"), "I2", "a report that fits its order is a dead letter"
    ),
}


# -- tables


def resting_replaced(world: World) -> tuple[Order, bytes]:
    """An order on other terms, in all tables; with its key."""
    order, _ = replaced(world, price_ticks=PRICE_TICKS + 1)
    world.write_books()
    return order, f"acc/{order.order_id}".encode()


def pending(world: World) -> tuple[Order, bytes, bytes]:
    """An order for which a replace is on its way, in all tables; with its key and that of the request."""
    order = world.resting()
    let = world.asked(world.ask_replace(order))
    world.write_books()
    return order, f"acc/{order.order_id}".encode(), f"acc/{let.venue_id}".encode()


def release_too_early(world: World) -> None:
    """Risk does not reserve what the pending replace adds."""
    pending(world)
    books = msgspec.json.decode(world.log.positions[b"acc"])
    books["holdings"][SYMBOL]["open_buy_lots"] -= 5
    world.log.positions[b"acc"] = msgspec.json.encode(books)


def cancel_again(world: World) -> None:
    cancelled(world)
    world.write_books()
    rewrite(world.log.sent, b"acc", cancel_number_last=0)


TABLES = {
    "more not reserved while a replace is pending": Planted(
        release_too_early, "I3", "open lots (buy, sell) are not those"
    ),
    "a reservation on the terms before": Planted(
        lambda w: rewrite(w.log.reservations, resting_replaced(w)[1], price_ticks=PRICE_TICKS),
        "I3",
        "a reservation is not what is open of its order",
    ),
    "a reservation that forgot its replace": Planted(
        lambda w: rewrite(w.log.reservations, pending(w)[1], replace=None),
        "I3",
        "a reservation is not what is open of its order",
    ),
    "a reservation with a cancel that nobody sent": Planted(
        lambda w: rewrite(w.log.reservations, pending(w)[1], cancel_id="acc-c1"),
        "I3",
        "a reservation is not what is open of its order",
    ),
    "an intent on the terms before": Planted(
        lambda w: rewrite(
            w.log.intents,
            resting_replaced(w)[1],
            order={"quantity_lots": 15, "price_ticks": PRICE_TICKS},
        ),
        "I3",
        "an intent is not on the terms approved or replaced last",
    ),
    "an open order at the price before": Planted(
        lambda w: rewrite(w.log.open_orders, resting_replaced(w)[1], price_ticks=PRICE_TICKS),
        "I3",
        "compliance has an open order on other terms than approved",
    ),
    "an open order without its pending price": Planted(
        lambda w: rewrite(w.log.open_orders, pending(w)[1], replace_id=None),
        "I3",
        "compliance has an open order on other terms than approved",
    ),
    "a request forgotten by the exchange": Planted(
        lambda w: w.log.requests.pop(pending(w)[2]),
        "I3",
        "a request that is not answered has no row at the exchange",
    ),
    "a request kept by the exchange": Planted(
        lambda w: w.log.requests.update({b"acc/acc-c9": b"{}"}),
        "I3",
        "the exchange has a request that is answered or was not let through",
    ),
    "a request changed by the exchange": Planted(
        lambda w: rewrite(w.log.requests, pending(w)[2], price_ticks=1),
        "I3",
        "the exchange has a request on other terms than let through",
    ),
    "a request nobody can read": Planted(
        lambda w: w.log.requests.update({pending(w)[2]: b"{"}),
        "I3",
        "a value of requests that nobody can read",
    ),
    "a cancel that the exchange would take on again": Planted(
        cancel_again, "I3", "the last cancel that was taken on is not the account's last accepted one"
    ),
    "a replace that the exchange would take on again": Planted(
        lambda w: rewrite(w.log.sent, resting_replaced(w)[1][:3], order_sequence_last=1),
        "I3",
        "the last order that was intended is not the account's last approved one",
    ),
    "a replace that compliance would judge again": Planted(
        lambda w: rewrite(w.log.recent_orders, resting_replaced(w)[1][:3], last_sequence=13),
        "I3",
        "the last order that compliance has judged is not the account's last that it decided",
    ),
    "a replace that risk would take on again": Planted(
        lambda w: rewrite(w.log.positions, resting_replaced(w)[1][:3], last_sequence=13),
        "I3",
        "last_sequence is not that of the account's last order",
    ),
}


# -- order, dead letters, conditions


def swap_decisions(world: World, records: list[Logged[Any]]) -> None:
    """A replace and the cancel behind it change places."""
    too_late(world)
    swap(records, -1, -2)


def hold_a_cancel(world: World, topic: str = "orders") -> None:
    order = world.resting("stuck")
    world.receive("stuck")
    origin = Origin("orders", 0, world.log.orders[-1].offset)
    world.bury(origin, key=b"stuck")
    let = world.asked(world.ask_cancel(order))
    world.cancel(order, let.venue_id)
    offset = world.log.asked_on(topic)[-1].offset
    world.bury(Origin(topic, 0, offset), behind=origin, key=b"stuck")


def overtake_with_a_replace(world: World) -> None:
    order = world.resting()
    world.receive()
    world.bury(Origin("orders", 0, world.log.orders[-1].offset))
    world.replace(world.asked(world.ask_replace(order)))
    world.fill(order)


def answer_a_dead_letter(world: World, topic: str) -> None:
    cancelled(world)
    service = "compliance" if topic == "risk-decisions" else "exchange"
    world.bury(Origin(topic, 0, world.log.asked_on(topic)[-1].offset), service=service)


def meet_itself(world: World) -> None:
    sold = world.resting(side=Side.SELL, price_ticks=PRICE_TICKS + 10)
    order, _ = replaced(world, price_ticks=PRICE_TICKS + 10)
    world.fill(order)
    world.fill(sold)


def meet_what_is_pending(world: World) -> None:
    """An order that meets the price which another one may get."""
    sold = world.resting(side=Side.SELL, price_ticks=PRICE_TICKS + 10)
    let = world.asked(world.ask_replace(sold, price_ticks=PRICE_TICKS))
    world.traded()
    world.fill(sold)
    world.reject_request(let)


def replace_after(world: World, operate: Callable[[], Any], **changed: Any) -> None:
    """A replace goes all its way behind what somebody has done."""
    order = world.resting()
    operate()
    world.replace(world.asked(world.ask_replace(order, **changed)))
    world.fill(order)


def leave_after(world: World, operate: Callable[[], Any]) -> None:
    """What happens behind compliance's approval should have withheld the replace."""
    order = world.resting()
    let: Any = world.let(world.ask_replace(order))
    operate()
    world.now_ms += 2_000
    world.pass_on(let)
    world.now_ms += 2_000
    world.send_request(let)
    world.replace(let)
    world.fill(order)


def suspend(world: World) -> None:
    world.register("acc", status=PartyStatus.SUSPENDED)
    world.now_ms += 2_000


def restrict_between(world: World) -> None:
    order = world.resting()
    let: Any = world.let(world.ask_replace(order))
    world.restrict()
    world.pass_on(let)
    world.withhold_replace(let, "restricted_instrument")
    world.fill(order)


def edit_approval(world: World, **changes: Any) -> None:
    replaced_and_filled(world)
    edit(world.log.asked_risk, -1, **changes)


CONDITIONS = {
    "a cancel passed on before the replace": Planted(
        lambda w: swap_decisions(w, w.log.asked_compliance),
        "I7",
        "compliance has decided orders of an account out of order",
    ),
    "a cancel accepted before the replace": Planted(
        lambda w: swap_decisions(w, w.log.asked_risk),
        "I7",
        "risk has decided orders of an account out of order",
    ),
    "a cancel held at risk": Planted(hold_a_cancel, "I7", "a cancel waits behind a dead letter"),
    "a cancel held at compliance": Planted(
        lambda w: hold_a_cancel(w, "risk-decisions"), "I7", "a cancel waits behind a dead letter"
    ),
    "a cancel held at the exchange": Planted(
        lambda w: hold_a_cancel(w, "compliance-decisions"), "I7", "a cancel waits behind a dead letter"
    ),
    "a replace that was not held": Planted(
        overtake_with_a_replace, "I7", "risk has not held a record behind the dead letter of its key"
    ),
    "a dead letter of compliance passed on": Planted(
        lambda w: answer_a_dead_letter(w, "risk-decisions"),
        "I5",
        "compliance has acted on a request that is its dead letter",
    ),
    "a dead letter of the exchange answered": Planted(
        lambda w: answer_a_dead_letter(w, "compliance-decisions"),
        "I5",
        "exchange has acted on a request that is its dead letter",
    ),
    "a replace that meets an own order": Planted(
        meet_itself, "I7", "a replace was approved that meets an own resting order"
    ),
    "an order that meets a pending price": Planted(
        meet_what_is_pending, "I7", "an order was approved that meets an own resting one"
    ),
    "a replace under a halt": Planted(
        lambda w: replace_after(w, w.halt), "I7", "a replace was approved while trading was halted"
    ),
    "a replace under the kill switch": Planted(
        lambda w: replace_after(w, lambda: w.limit(kill_switch=True)),
        "I7",
        "a replace was approved while the kill switch was on",
    ),
    "a replace of a suspended account": Planted(
        lambda w: replace_after(w, lambda: suspend(w)), "I7", "a replace of a suspended account was approved"
    ),
    "a replace from the future": Planted(
        lambda w: replace_after(w, lambda: None, submitted_at_ms=w.now_ms + 60_000),
        "I7",
        "a replace that comes from the future was approved",
    ),
    "a replace too old": Planted(
        lambda w: replace_after(w, lambda: None, submitted_at_ms=w.now_ms - 60_000),
        "I7",
        "a replace was approved that was too old",
    ),
    "a replace on a tick that never was": Planted(
        lambda w: edit_approval(w, reference_tick_sequence=99),
        "I7",
        "an approval names a tick that is not in the log",
    ),
    "a replace in a restricted instrument": Planted(
        restrict_between, "I7", "a replace in a restricted instrument was approved"
    ),
    "a replace sent under a halt": Planted(
        lambda w: leave_after(w, w.halt), "I7", "a replace was sent while trading was halted"
    ),
    "a replace sent under the kill switch": Planted(
        lambda w: leave_after(w, lambda: w.limit(kill_switch=True)),
        "I7",
        "a replace was sent while the kill switch was on",
    ),
    "a replace sent too late": Planted(
        lambda w: leave_after(w, lambda: setattr(w, "now_ms", w.now_ms + 60_000)),
        "I7",
        "a replace was sent that was too old",
    ),
}


# -- limits


def replace_within(world: World, limits: dict[str, Any], **changed: Any) -> None:
    """An order of 10 lots is replaced under these limits."""
    order = world.resting("narrow")
    world.limit("narrow", **limits)
    world.replace(world.asked(world.ask_replace(order, **changed)))
    if order.order_id in world.open_lots:
        world.fill(order)


def order_beside_a_pending_replace(world: World) -> None:
    """What a pending replace adds is not left for another order."""
    world.limit("narrow", position_lots_max=30)
    order = world.resting("narrow")
    let = world.asked(world.ask_replace(order, quantity_lots=21))
    other = world.resting("narrow", price_ticks=PRICE_TICKS - 1)
    world.reject_request(let, "market_closed")
    world.fill(order)
    world.fill(other)


def order_beside_a_dear_replace(world: World) -> None:
    """The higher price counts while a replace is pending."""
    world.limit("narrow", gross_exposure_micros_max=20 * PRICE_TICKS + 99)
    order = world.resting("narrow")
    let = world.asked(world.ask_replace(order, quantity_lots=10, price_ticks=PRICE_TICKS + 9))
    other = world.resting("narrow", price_ticks=PRICE_TICKS - 1)
    world.reject_request(let, "market_closed")
    world.fill(order)
    world.fill(other)


def beside_others(world: World) -> None:
    """Two orders are one too many for a replace of either."""
    other = world.resting("narrow", price_ticks=PRICE_TICKS - 1)
    replace_within(world, {"open_orders_max": 1})
    world.fill(other)


def delist(world: World) -> None:
    world.list_instrument(an_instrument(status=InstrumentStatus.HALTED), version=2)
    world.now_ms += 2_000


LIMITS = {
    "a replace above the size limit": Planted(
        lambda w: replace_within(w, {"order_quantity_lots_max": 14}),
        "I4",
        "a replace above the size limit was approved",
    ),
    "a replace above the notional limit": Planted(
        lambda w: replace_within(w, {"order_notional_micros_max": 15 * PRICE_TICKS - 1}),
        "I4",
        "a replace above the notional limit was approved",
    ),
    "a replace outside the collar": Planted(
        lambda w: replace_within(w, {}, price_ticks=PRICE_TICKS * 2),
        "I4",
        "a replace outside the price collar was approved",
    ),
    "a replace of nothing": Planted(
        lambda w: replace_within(w, {}, quantity_lots=0),
        "I4",
        "a replace without a positive quantity and price was approved",
    ),
    "a replace beside too many orders": Planted(
        beside_others, "I4", "a replace above the number of open orders was approved"
    ),
    "a replace above the position limit": Planted(
        lambda w: replace_within(w, {"position_lots_max": 14}),
        "I4",
        "a replace above the position limit was approved",
    ),
    "a replace above the exposure limit": Planted(
        lambda w: replace_within(w, {"gross_exposure_micros_max": 15 * PRICE_TICKS - 1}),
        "I4",
        "a replace above the gross exposure limit was approved",
    ),
    "a dearer replace above the exposure limit": Planted(
        lambda w: replace_within(
            w,
            {"gross_exposure_micros_max": 10 * PRICE_TICKS},
            quantity_lots=10,
            price_ticks=PRICE_TICKS + 1,
        ),
        "I4",
        "a replace above the gross exposure limit was approved",
    ),
    "an order beside a pending replace": Planted(
        order_beside_a_pending_replace, "I4", "an order above the position limit was approved"
    ),
    "an order beside a dear replace": Planted(
        order_beside_a_dear_replace, "I4", "an order above the gross exposure limit was approved"
    ),
    "a replace in an instrument that takes none": Planted(
        lambda w: replace_after(w, lambda: delist(w)),
        "I4",
        "a replace in an instrument that takes none was approved",
    ),
}

PLANTED_REQUESTS = REQUESTS | LEDGER | TABLES | CONDITIONS | LIMITS
