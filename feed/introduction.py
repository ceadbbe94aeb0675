"""Makes what the demo trades known before it trades: commands for what is missing, and their answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from app import topics
from app.engine.topics import TopicSpec
from feed import history
from feed.limits import (
    WHO,
    initial_accounts,
    initial_counterparties,
    initial_instruments,
    initial_limits,
    initial_restrictions,
)
from feed.outlet import patiently
from feed.roster import Roster
from feed.wire import Record, command_record, limits_record

log = logging.getLogger(__name__)

OPERATOR_COMMANDS: Final = topics.OPERATOR_COMMANDS.name
RESTRICTIONS: Final = topics.RESTRICTIONS.name
RISK_LIMITS: Final = topics.RISK_LIMITS.name
ANSWERS: Final = topics.COMMAND_ANSWERS.name
REFDATA_GROUP: Final = "refdata"
RISK_GROUP: Final = "risk"

READ_EVERYWHERE_S: Final = 0.5
"""Workers follow what is in force on their own: this is how long all of them may take to have read it."""

Send = Callable[[str, list[Record]], Awaitable[None]]
KnownTo = Callable[[str, str], Awaitable[None]]


async def introduce(bootstrap: str, who: Roster, send: Send, known_to: KnownTo) -> None:
    """List, register, limit and restrict whatever is missing; what an operator has changed since stays.

    `send(topic, records)` sends; `known_to(group, topic)` waits, not for ever, until the group has read it. A
    refused command is a warning: its orders will be refused too, and say why.
    """
    commands = await _missing_commands(bootstrap, who)
    restrictions = await _missing_restrictions(bootstrap)
    limits = [limits_record(each) for each in initial_limits(who)]
    limited = await _keys(bootstrap, topics.RISK_LIMITS)
    limits = [each for each in limits if each.key not in limited]
    if not (commands or restrictions or limits):
        return
    since = await patiently(lambda: history.ends(bootstrap, ANSWERS), "reading from Kafka")
    await send(OPERATOR_COMMANDS, commands)
    await send(RESTRICTIONS, restrictions)
    await send(RISK_LIMITS, limits)
    await known_to(REFDATA_GROUP, OPERATOR_COMMANDS)
    await known_to(REFDATA_GROUP, RESTRICTIONS)
    await known_to(RISK_GROUP, RISK_LIMITS)
    for answer in await patiently(lambda: history.answers(bootstrap, ANSWERS, since), "reading from Kafka"):
        if answer.who == WHO and not answer.accepted:
            log.warning("%s of %s was refused: %s", answer.command, answer.subject, answer.reason)
    await asyncio.sleep(READ_EVERYWHERE_S)


async def _missing_commands(bootstrap: str, who: Roster) -> list[Record]:
    wanted = (
        (topics.INSTRUMENTS, initial_instruments()),
        (topics.COUNTERPARTIES, initial_counterparties()),
        (topics.ACCOUNTS, initial_accounts(who)),
    )
    missing: list[Record] = []
    for state, commands in wanted:
        known = await _keys(bootstrap, state)
        records = [command_record(topics.OPERATOR_COMMANDS, each) for each in commands]
        missing += [each for each in records if each.key not in known]
    return missing


async def _missing_restrictions(bootstrap: str) -> list[Record]:
    known = await _keys(bootstrap, topics.RESTRICTED_LIST) | await _keys(bootstrap, topics.RESTRICTIONS)
    records = [command_record(topics.RESTRICTIONS, each) for each in initial_restrictions()]
    return [each for each in records if each.key not in known]


async def _keys(bootstrap: str, topic: TopicSpec) -> set[bytes]:
    return await patiently(lambda: history.keys(bootstrap, topic.name), "reading from Kafka")
