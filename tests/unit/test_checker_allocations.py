"""What the checker must and must not hold against allocations: planted one by one in a legal history."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from checker.history import ALLOCATION
from checker.records import (
    ALLOCATION_INSTRUCTIONS,
    EXECUTIONS,
    AllocationShare,
    AveragePrice,
    Diverted,
    Logged,
    Order,
    Origin,
    SetAllocation,
    TradeAllocated,
    TradeExecuted,
)
from models.values import AllocationMethod
from tests.histories import World

Plant = Callable[["Blocks"], Any]


class Blocks(World):
    """A partition where an account gives two thirds of its fills to one sub-account, the rest to another."""

    def __init__(self, method: str = "pro_rata", *fills: int) -> None:
        super().__init__()
        self.log.allocates = True
        shares = (AllocationShare("a", weight=2), AllocationShare("b", weight=1))
        if method == "priority":
            shares = (AllocationShare("a", lots=4), AllocationShare("b"))
        command = SetAllocation("acc", "*", AllocationMethod(method), shares, 1, "ann", "why")
        self.command(ALLOCATION_INSTRUCTIONS, "acc", command)
        self.order: Order = self.cleared(quantity_lots=sum(fills))
        self.acknowledge(self.order)
        for lots in fills:
            self.fill(self.order, lots)

    @property
    def trades(self) -> list[TradeExecuted]:
        events = (each.event for each in self.log.executions)
        return [each for each in events if isinstance(each, TradeExecuted)]

    @property
    def told(self) -> list[Logged[TradeAllocated]]:
        return self.log.allocations

    def give(self, trade: TradeExecuted, parts: dict[str, int], **changed: Any) -> None:
        """Log what a fill gives to whom, with its money in proportion: a fee of a micro a lot."""
        for name, lots in parts.items():
            self._log(
                trade,
                allocation_id=f"{trade.trade_id}/{name}",
                sub_account=name,
                trade_id=trade.trade_id,
                quantity_lots=lots,
                price_ticks=trade.price_ticks,
                notional_micros=lots * trade.price_ticks,
                fee_micros=lots,
                **changed,
            )

    def give_all(self, parts: dict[str, int], **changed: Any) -> None:
        """Log what all fills of the order give, at their average price, which is the price of each."""
        lots = sum(each.quantity_lots for each in self.trades)
        average = AveragePrice(lots * self.trades[0].price_ticks, lots)
        for name, part in parts.items():
            self._log(
                self.trades[-1],
                allocation_id=f"{self.order.order_id}/{name}",
                sub_account=name,
                trade_id=None,
                quantity_lots=part,
                price_ticks=None,
                notional_micros=part * self.trades[0].price_ticks,
                fee_micros=part,
                method=AllocationMethod.AVERAGE_PRICE,
                average=average,
                **changed,
            )

    def _log(self, trade: TradeExecuted, **changed: Any) -> None:
        fields: dict[str, Any] = {
            "account_id": trade.account_id,
            "order_id": trade.order_id,
            "symbol": trade.symbol,
            "side": trade.side,
            "fee_currency": trade.fee_currency,
            "trade_date": trade.trade_date,
            "traded_at_ms": trade.traded_at_ms,
            "counterparty": trade.counterparty,
            "method": AllocationMethod.PRO_RATA,
            "instruction_order": "*",
            "instruction_version": 1,
        }
        event = TradeAllocated(**(fields | changed))
        self.told.append(Logged(len(self.told), self.now_ms, b"acc", event))

    def change(self, **changed: Any) -> None:
        """Make the last allocation another one."""
        last = self.told[-1]
        assert last.event is not None
        self.told[-1] = msgspec.structs.replace(last, event=msgspec.structs.replace(last.event, **changed))

    def found(self) -> set[str]:
        self.write_books()
        return {each.message for each in self.violations()}


def at_once() -> Blocks:
    """Two fills of 3 and 6 lots, each divided at once."""
    blocks = Blocks("pro_rata", 3, 6)
    first, second = blocks.trades
    blocks.give(first, {"a": 2, "b": 1})
    blocks.give(second, {"a": 4, "b": 2})
    return blocks


def at_the_end() -> Blocks:
    """Two fills that wait for the order's end."""
    blocks = Blocks("average_price", 3, 6)
    blocks.give_all({"a": 6, "b": 3})
    return blocks


def open_still(blocks: Blocks) -> None:
    """Its last fill is not the end of its order; the rest of the history does not matter."""
    *_, last = blocks.log.executions
    assert isinstance(last.event, TradeExecuted)
    blocks.log.executions[-1] = msgspec.structs.replace(
        last, event=msgspec.structs.replace(last.event, leaves_lots=5)
    )


@pytest.mark.parametrize("legal", [at_once, at_the_end])
def test_a_legal_history_has_no_violation(legal: Callable[[], Blocks]) -> None:
    blocks = legal()
    assert blocks.found() == set()
    assert not [each for each in blocks.findings().unverifiable if each.invariant == "I3"]


def test_what_comes_by_priority_is_judged_lot_by_lot() -> None:
    blocks = Blocks("priority", 3, 6)
    first, second = blocks.trades
    blocks.give(first, {"a": 3}, method=AllocationMethod.PRIORITY)
    blocks.give(second, {"a": 1, "b": 5}, method=AllocationMethod.PRIORITY)
    assert blocks.found() == set()


def test_what_the_block_account_keeps_for_others_is_theirs() -> None:
    blocks = at_once()
    for at in (1, 3):
        event = blocks.told[at].event
        assert event is not None
        kept = msgspec.structs.replace(
            event,
            sub_account="acc",
            allocation_id=f"{event.trade_id}/acc",
            diverted=(Diverted("b", event.quantity_lots, "account_suspended"),),
        )
        blocks.told[at] = msgspec.structs.replace(blocks.told[at], event=kept)
    assert blocks.found() == set()
    blocks.change(diverted=())
    assert blocks.found() == {"an allocation is not what its instruction says"}


def keep_all(blocks: Blocks) -> None:
    told = {"method": None, "instruction_order": None, "instruction_version": None}
    blocks.told.clear()
    for trade in blocks.trades:
        blocks.give(trade, {"other": trade.quantity_lots}, **told)


def divide_at_once(blocks: Blocks) -> None:
    blocks.told.clear()
    blocks.give(blocks.trades[0], {"a": 2, "b": 1}, method=AllocationMethod.AVERAGE_PRICE)


def unread(blocks: Blocks) -> None:
    blocks.told[-1] = msgspec.structs.replace(blocks.told[-1], event=None)


PLANTED: dict[str, Plant] = {
    "an allocation that nobody can read": unread,
    "a fill of an order that has ended was not allocated": lambda it: it.told.__delitem__(slice(2, 4)),
    "an allocation without its fill": lambda it: it.change(trade_id="T99"),
    "a fill was allocated to a sub-account more than once": lambda it: it.told.append(it.told[-1]),
    "an allocation has not the id of its fill and sub-account": lambda it: it.change(allocation_id="x"),
    "an allocation of no lots": lambda it: it.change(quantity_lots=0),
    "an allocation has not the terms of its fill": lambda it: it.change(price_ticks=1),
    "more was allocated than was filled": lambda it: it.change(quantity_lots=3),
    "less was allocated than was filled": lambda it: it.change(quantity_lots=1),
    "the fees of allocations are not the fee of their fill": lambda it: it.change(fee_micros=3),
    "the fee of an allocation is in another currency": lambda it: it.change(fee_currency="EUR"),
    "the notional of allocations is not that of their fill": lambda it: it.change(notional_micros=5),
    "an account without an instruction did not keep its fill": keep_all,
    "a fill was not allocated by one instruction alone": lambda it: it.change(
        method=AllocationMethod.PRIORITY
    ),
    "an allocation is not what its instruction says": lambda it: it.change(sub_account="c"),
}
"""By rule, what breaks it in a history where fills are divided at once."""


@pytest.mark.parametrize("message", PLANTED)
def test_what_is_planted_is_found(message: str) -> None:
    blocks = at_once()
    PLANTED[message](blocks)
    assert message in blocks.found()


WAITING: dict[str, Plant] = {
    "fills that wait were allocated before the order's end": open_still,
    "a fill was allocated that has to wait for the order's end": divide_at_once,
    "an allocation has not the terms of its fill": lambda it: it.change(average=AveragePrice(1, 9)),
    "less was allocated than was filled": lambda it: it.change(quantity_lots=1),
}
"""The same where they wait."""


@pytest.mark.parametrize("message", WAITING)
def test_what_is_planted_among_fills_that_wait_is_found(message: str) -> None:
    blocks = at_the_end()
    WAITING[message](blocks)
    assert message in blocks.found()


def test_a_lot_too_much_for_one_share_again_and_again_is_found() -> None:
    blocks = Blocks("pro_rata", 1, 1)
    for trade in blocks.trades:
        blocks.give(trade, {"a": 1})
    assert blocks.found() == set()
    blocks = Blocks("pro_rata", 1, 1, 1)
    for trade in blocks.trades:
        blocks.give(trade, {"a": 1})
    assert blocks.found() == {"an allocation is not what its instruction says"}


def test_a_fee_that_is_not_told_has_to_stay_so() -> None:
    blocks = at_once()
    for at, record in enumerate(blocks.log.executions):
        if isinstance(record.event, TradeExecuted):
            silent = msgspec.structs.replace(record.event, fee_micros=None, fee_currency=None)
            blocks.log.executions[at] = msgspec.structs.replace(record, event=silent)
    assert "the fees of allocations are not the fee of their fill" in blocks.found()


def test_what_is_missing_is_no_violation_while_things_move() -> None:
    blocks = at_once()
    del blocks.told[2:]
    blocks.log.quiet = False
    assert "a fill of an order that has ended was not allocated" not in blocks.found()


def test_a_history_without_the_service_is_not_judged() -> None:
    blocks = at_once()
    blocks.told.clear()
    blocks.log.allocates = False
    assert blocks.found() == set()


def test_what_nobody_can_know_is_said() -> None:
    blocks = at_once()
    blocks.told.clear()
    blocks.give(blocks.trades[0], {"a": 2, "b": 1}, instruction_version=7)
    blocks.bury(Origin(EXECUTIONS, 0, 1), service=ALLOCATION)
    told = {each.message for each in blocks.findings().unverifiable}
    assert "the instruction that an allocation names is not there" in told
    assert "allocation has a dead letter about this account" in told
