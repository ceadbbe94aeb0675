"""Fills of block orders in, what each sub-account gets of them out; instructions are answered."""

import time
from collections.abc import Iterable
from typing import cast

from msgspec.structs import replace

from app.allocation import app
from app.counts import Count
from app.domain.allocation import (
    GIVEN_KEPT_MAX,
    NEW_BLOCK_ACCOUNT,
    BlockOrder,
    Standing,
    after_report,
    barred,
    decide_instruction,
    end,
    fill,
    given_by,
    is_repeat,
    micros_per_tick_lot,
    unread_answer,
)
from app.domain.lifecycle import ends
from app.engine import Batches, RawRecord, TopicSpec, Transient, UnitOfWork, unit_of_work
from app.engine.core.manager import TaskManager
from app.service import known
from app.topics import (
    ACCOUNTS,
    ALLOCATION_INSTRUCTIONS,
    ALLOCATIONS,
    COMMAND_ANSWERS,
    INSTRUMENTS,
    account_of,
    named,
)
from app.topology import ALLOCATION
from models.commands import SetAllocation
from models.events import (
    CommandAnswered,
    Execution,
    OrderReplaced,
    TradeAllocated,
    TradeExecuted,
    VenueReport,
)
from models.values import EVERY_ORDER
from tables.block_accounts import BLOCK_ACCOUNTS
from tables.block_orders import BLOCK_ORDERS
from tables.given import GIVEN
from tables.instructions import INSTRUCTIONS

LISTED_WITHIN_S = 10.0
"""An instrument that is not known by then is not listed any more: nobody can say what its lots are worth."""

accounts = known(app, ACCOUNTS)
instruments = known(app, INSTRUMENTS)

ALLOCATED = Count(app, "allocation_allocations_total", "Allocations to sub-accounts, by method.", "method")
DIVERTED = Count(
    app,
    "allocation_diverted_lots_total",
    "Lots that block accounts kept because a sub-account could not have them, by reason.",
    "reason",
)
REPEATS = Count(
    app, "allocation_repeats_ignored_total", "Reports that had been booked before, by type.", "type"
)
ANSWERED = Count(app, "allocation_commands_total", "Instructions that were answered, by answer.", "answer")


@app.agent(app.inputs(*named(*ALLOCATION.inputs)))
async def allocate(batches: Batches[SetAllocation | Execution]) -> None:
    """Put instructions in force; divide fills by them."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            for record in work.records():
                match record.value:
                    case SetAllocation() as command:
                        instruct(work, command)
                    case report:
                        book(work, report, age_s=time.time() - record.timestamp_ms / 1_000)


def instruct(work: UnitOfWork, command: SetAllocation) -> None:
    """Put an instruction in force, or refuse it."""
    key = f"{command.account_id}/{command.order_id}"
    standing = Standing(
        work[INSTRUCTIONS].get(key),
        accounts,
        order=work[BLOCK_ORDERS].get(key),
        account=work[BLOCK_ACCOUNTS].get(command.account_id),
    )
    answer = decide_instruction(command, standing)
    if answer.accepted:
        work[INSTRUCTIONS][key] = command
    tell(work, answer)


def book(work: UnitOfWork, report: Execution, age_s: float) -> None:
    """Allocate what a report says is filled; what comes again changes nothing."""
    account = work[BLOCK_ACCOUNTS].get(report.account_id, NEW_BLOCK_ACCOUNT)
    if is_repeat(account, report):
        REPEATS.add(work, type=type(report).__name__)
        return
    key = f"{report.account_id}/{report.order_id}"
    order, divided = divide(work, key, report, age_s)
    for number, allocations in enumerate(divided, account.fills_given):
        give(work, allocations, number)
    if ends(report):
        forget(work, key)
    elif order is not None:
        work[BLOCK_ORDERS][key] = order
    if order is not None:  # the numbers of what comes before the first fill do not matter
        work[BLOCK_ACCOUNTS][report.account_id] = after_report(account, report, len(divided))


def divide(
    work: UnitOfWork, key: str, report: Execution, age_s: float
) -> tuple[BlockOrder | None, list[list[TradeAllocated]]]:
    """The order after the report, and who gets what: of a fill, of all fills that have waited for the end."""
    every = f"{report.account_id}/{EVERY_ORDER}"
    instruction = work[INSTRUCTIONS].get(key) or work[INSTRUCTIONS].get(every)
    order = work[BLOCK_ORDERS].get(key)
    divided: list[list[TradeAllocated]] = []
    if isinstance(report, TradeExecuted):
        order, allocations = fill(order or first_met(report, age_s), instruction, report, accounts)
        divided.append(allocations)
    elif isinstance(report, OrderReplaced) and order is not None:
        order = replace(order, leaves_lots=report.leaves_lots)
    if order is not None and isinstance(report, VenueReport) and ends(report):
        divided.append(end(order, instruction, report, accounts))
    return order, [allocations for allocations in divided if allocations]


def first_met(trade: TradeExecuted, age_s: float) -> BlockOrder:
    """An order that has its first fill. Raises Transient while its instrument may be on its way here."""
    micros = None
    try:
        micros = micros_per_tick_lot(instruments, trade.symbol)
    except LookupError as error:
        if age_s < LISTED_WITHIN_S:
            raise Transient(str(error)) from error
    return BlockOrder(leaves_lots=trade.leaves_lots, micros_per_tick_lot=micros, given=())


def forget(work: UnitOfWork, key: str) -> None:
    """Forget an order that has ended, and its own instruction."""
    for rows in (work[BLOCK_ORDERS], work[INSTRUCTIONS]):
        if key in rows:
            del rows[key]


def give(work: UnitOfWork, allocations: list[TradeAllocated], number: int) -> None:
    """Tell the sub-accounts what they get of a fill, and keep it among the account's last ones."""
    for each in allocations:
        work.emit(ALLOCATIONS, each)
        ALLOCATED.add(work, method=each.method or "none")
        for diverted in each.diverted:
            DIVERTED.add(work, diverted.quantity_lots, reason=diverted.reason)
    work[GIVEN][f"{allocations[0].account_id}/{number % GIVEN_KEPT_MAX}"] = given_by(allocations)


@app.buried
def refuse(work: UnitOfWork, spec: TopicSpec, raw: RawRecord, error: BaseException) -> None:
    """Answer an instruction that cannot be read."""
    if spec.name == ALLOCATION_INSTRUCTIONS.name:
        tell(work, unread_answer(account_of(raw.key), f"{type(error).__name__}: {error}"))


def tell(work: UnitOfWork, answer: CommandAnswered) -> None:
    """Answer an instruction."""
    work.emit(COMMAND_ANSWERS, answer)
    ANSWERED.add(work, answer="accepted" if answer.accepted else "refused")


@app.notices
def cannot_be_given() -> Iterable[str]:
    """Sub-accounts of instructions in force that get nothing now: the block account keeps their part."""
    for task in list(cast(TaskManager, app.tables).tasks.values()):
        if task.ready.is_set():
            for key, instruction in task.table(INSTRUCTIONS).items():
                for share in instruction.shares:
                    reason = barred(share.sub_account, accounts)
                    if reason is not None and share.sub_account != instruction.account_id:
                        yield f"{share.sub_account!r} gets nothing of {key!r}: {reason}"
