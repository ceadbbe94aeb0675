"""Operators' commands in; what is in force, and an answer to each of them, out."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

from app.counts import Count
from app.domain.refdata import (
    Decision,
    decide_account,
    decide_counterparty,
    decide_halt,
    decide_instrument,
    decide_restriction,
)
from app.domain.unread import CLOSED_BY, NOTE_CHARS_MAX, UNKNOWN, Unread, understand
from app.engine import Batches, RawRecord, Table, TopicSpec, UnitOfWork, unit_of_work
from app.engine.core.manager import TaskManager
from app.engine.kafka.cluster import partition_of
from app.engine.topics import EVENT_TYPE
from app.refdata import app
from app.topics import (
    ACCOUNTS,
    COMMAND_ANSWERS,
    COUNTERPARTIES,
    HALTS,
    INSTRUMENTS,
    OPERATOR_COMMANDS,
    RESTRICTED_LIST,
    RESTRICTIONS,
    named,
)
from app.topology import REFDATA
from models.commands import (
    OperatorCommand,
    SetAccount,
    SetCounterparty,
    SetHalt,
    SetInstrument,
    SetRestriction,
)
from models.events import CommandAnswered
from tables import accounts, counterparties, halts, instruments, restrictions

log = logging.getLogger(__name__)


class Rule(NamedTuple):
    """How a command is judged, where what is in force stands, and where the command and its effect travel."""

    decide: Callable[[Any, Any], Decision[Any]]
    table: Table
    topic: TopicSpec
    commands: TopicSpec = OPERATOR_COMMANDS


RULES: dict[type, Rule] = {
    SetInstrument: Rule(decide_instrument, instruments.INSTRUMENTS, INSTRUMENTS),
    SetAccount: Rule(decide_account, accounts.ACCOUNTS, ACCOUNTS),
    SetCounterparty: Rule(decide_counterparty, counterparties.COUNTERPARTIES, COUNTERPARTIES),
    SetHalt: Rule(decide_halt, halts.HALTS, HALTS),
    SetRestriction: Rule(decide_restriction, restrictions.RESTRICTIONS, RESTRICTED_LIST, RESTRICTIONS),
}


COMMANDS = Count(
    app,
    "refdata_commands_total",
    "Commands since this worker's start, by what came of them.",
    "command",
    "outcome",
)


@app.agent(app.inputs(*named(*REFDATA.inputs)))
async def keep(batches: Batches[OperatorCommand]) -> None:
    """Judge each command; write down and tell what is in force after it."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            for record in work.records():
                obey(work, record.value)


def obey(work: UnitOfWork, command: OperatorCommand) -> None:
    """Take one command or refuse it, and answer it."""
    rule = RULES[type(command)]
    subject = rule.commands.key_of(command).decode() if rule.commands.key_of else ""
    decision = take(work, command, subject)
    answer = CommandAnswered(
        command=type(command).__name__,
        subject=subject,
        version=command.version,
        accepted=decision.accepted,
        reason=decision.refusal,
        who=command.who,
        why=command.why,
    )
    work.emit(COMMAND_ANSWERS, answer)
    COMMANDS.add(work, command=answer.command, outcome="accepted" if answer.accepted else "refused")
    if not answer.accepted:
        work.after_commit(
            lambda: log.warning("%s of %s refused: %s", answer.command, answer.subject, answer.reason)
        )


def take(work: UnitOfWork, command: OperatorCommand, subject: str) -> Decision[Any]:
    """Judge a command and put what it changes in force. What it does not change is told again: no harm."""
    rule = RULES[type(command)]
    before = work[rule.table].get(subject)
    decision = rule.decide(command, before)
    if decision.accepted and decision.in_force is not None:
        if decision.in_force is not before:
            work[rule.table][subject] = decision.in_force
        work.emit(rule.topic, decision.in_force)
    return decision


@app.buried
def refuse(work: UnitOfWork, spec: TopicSpec, raw: RawRecord, error: BaseException) -> None:
    """Answer a command that could not be read; what protects fails closed under each name it may have."""
    told = dict(raw.headers).get(EVENT_TYPE) or b""
    command = SetRestriction.__name__ if spec is RESTRICTIONS else told.decode("utf-8", "backslashreplace")
    unread = understand(command, raw.key, raw.value, f"{type(error).__name__}: {error}")
    for closing in unread.closes:
        close(work, closing)
    answer = CommandAnswered(
        command=unread.command if unread.command != UNKNOWN else command[:64] or UNKNOWN,
        subject=unread.subject,
        version=unread.version,
        accepted=False,
        reason=f"{type(error).__name__}: {error}"[:NOTE_CHARS_MAX] + _closed(unread),
        who=unread.who,
        why=unread.why,
    )
    work.emit(COMMAND_ANSWERS, answer)
    COMMANDS.add(work, command=unread.command, outcome="unreadable")
    work.after_commit(lambda: _alert(f"{spec.name}/{work.task.partition}/{raw.offset}", answer.reason))


def close(work: UnitOfWork, closing: SetRestriction | SetHalt) -> None:
    """Restrict or halt at once where the name is this task's; else tell the task that it belongs to."""
    commands = RULES[type(closing)].commands
    name = closing.symbol if isinstance(closing, SetRestriction) else closing.scope
    if partition_of(name.encode(), work.task.partition_counts[commands.name]) == work.task.partition:
        take(work, closing, name)
    else:
        work.emit(commands, closing)


@app.notices
def closed_to_be_safe() -> Iterable[str]:
    """What is restricted or halted only because a command could not be read: somebody has to look."""
    for task in list(cast(TaskManager, app.tables).tasks.values()):
        if task.ready.is_set():
            for symbol, restriction in task.table(restrictions.RESTRICTIONS).items():
                if restriction.restricted and restriction.who == CLOSED_BY:
                    yield f"{symbol!r} is restricted: {restriction.why}; 'restrict' it, or '--lift' it"
            for scope, halt in task.table(halts.HALTS).items():
                if halt.halted and halt.who == CLOSED_BY:
                    yield f"{scope!r} is halted: {halt.why}; 'halt' it, or 'resume' it"


def _closed(unread: Unread) -> str:
    done = [
        f"{each.symbol!r} is restricted" if isinstance(each, SetRestriction) else f"{each.scope!r} is halted"
        for each in unread.closes
    ]
    return f"; to be safe {' and '.join(done)} until a good command says otherwise" if done else ""


def _alert(source: str, reason: str) -> None:
    so_far = COMMANDS.so_far(outcome="unreadable")
    log.error("command %s could not be read (%d so far): %s", source, so_far, reason)
