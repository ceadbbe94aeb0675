"""Commands about one account, answered by risk: its limits, and which order counts as its last."""

from app.counts import Count
from app.domain.limits import (
    apply_limits,
    apply_sequence,
    decide_limits,
    decide_removal,
    decide_sequence,
    decide_unread,
)
from app.domain.risk import NEW_ACCOUNT
from app.engine import RawRecord, Record, TopicSpec, UnitOfWork, WrongPartition
from app.risk import app
from app.topics import ACCOUNT_COMMANDS, COMMAND_ANSWERS, RISK_LIMITS, account_of
from models.commands import SetAccountSequence, SetRiskLimits
from models.events import CommandAnswered
from tables.positions import POSITIONS
from tables.risk_limits import LIMITS

ANSWERED = Count(
    app, "risk_commands_total", "Commands that risk has answered, by type and answer.", "type", "answer"
)
UNREAD = {RISK_LIMITS.name: SetRiskLimits.__name__, ACCOUNT_COMMANDS.name: SetAccountSequence.__name__}
"""What a record is taken for that cannot be read."""


def set_limits(work: UnitOfWork, command: SetRiskLimits) -> None:
    """Put limits in force, or the kill switch alone."""
    in_force = work[LIMITS].get(command.account_id)
    answer = decide_limits(command, in_force)
    if answer.accepted:
        work[LIMITS][command.account_id] = apply_limits(command, in_force)
    tell(work, answer)


def remove_limits(work: UnitOfWork, record: Record) -> None:
    """Take an account's limits away: its record has no value."""
    account_id = account_of(record.key)
    answer = decide_removal(account_id, work[LIMITS].get(account_id))
    if answer.accepted:
        del work[LIMITS][account_id]
    tell(work, answer)


def set_sequence(work: UnitOfWork, command: SetAccountSequence, *, is_registered: bool) -> None:
    """Set an account right again after an order with a sequence too high."""
    account = work[POSITIONS].get(command.account_id, NEW_ACCOUNT)
    is_known = is_registered and command.account_id in work[LIMITS]
    answer = decide_sequence(command, account, is_known=is_known)
    if answer.accepted:
        work[POSITIONS][command.account_id] = apply_sequence(account, command)
    tell(work, answer)


@app.buried
def refuse(work: UnitOfWork, spec: TopicSpec, raw: RawRecord, error: BaseException) -> None:
    """Answer a command that cannot be read; a kill switch takes all the same, if its account is ours."""
    command = UNREAD.get(spec.name)
    if command is None:
        return
    account_id, why_not = account_of(raw.key), f"{type(error).__name__}: {error}"
    in_force = None if isinstance(error, WrongPartition) else work[LIMITS].get(account_id)
    answer, after = decide_unread(command, account_id, raw.value, why_not, in_force)
    if after is not None and after is not in_force:
        work[LIMITS][account_id] = after
    tell(work, answer)


def tell(work: UnitOfWork, answer: CommandAnswered) -> None:
    """Answer a command."""
    work.emit(COMMAND_ANSWERS, answer)
    ANSWERED.add(work, type=answer.command, answer="accepted" if answer.accepted else "refused")
