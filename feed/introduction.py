"""Makes what the demo trades known before it trades: commands for what is missing, and their answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Final, TypeVar

from app import topics, topology
from app.engine.kafka.cluster import TP
from feed import history
from feed.limits import (
    WHO,
    initial_accounts,
    initial_allocations,
    initial_counterparties,
    initial_instruments,
    initial_limits,
    initial_restrictions,
    initial_sub_accounts,
)
from feed.outlet import patiently
from feed.roster import Roster
from feed.wire import Record, command_record, limits_record

log = logging.getLogger(__name__)
T = TypeVar("T")

OPERATOR_COMMANDS: Final = topics.OPERATOR_COMMANDS.name
RESTRICTIONS: Final = topics.RESTRICTIONS.name
RISK_LIMITS: Final = topics.RISK_LIMITS.name
ALLOCATIONS: Final = topics.ALLOCATION_INSTRUCTIONS.name
ANSWERS: Final = topics.COMMAND_ANSWERS.name
REFDATA_GROUP: Final = topology.REFDATA.name
RISK_GROUP: Final = topology.RISK.name

READ_EVERYWHERE_S: Final = 0.5
"""Workers follow what is in force on their own: this is how long all of them may take to have read it."""

STATES: Final = (
    topics.INSTRUMENTS,
    topics.COUNTERPARTIES,
    topics.ACCOUNTS,
    topics.RESTRICTED_LIST,
    topics.RESTRICTIONS,
    topics.RISK_LIMITS,
)
"""Where the keys of what is known stand: what is in force, or the commands themselves."""

Known = Mapping[str, Set[bytes]]


class Introduction:
    """Lists, registers, limits and restricts what is missing; what an operator has changed since stays."""

    def __init__(self, bootstrap: str, who: Roster) -> None:
        self._bootstrap = bootstrap
        self._who = who
        self._since: dict[TP, int] = {}

    async def send(self, send: Callable[[str, list[Record]], Awaitable[None]]) -> bool:
        """Send a command for all that is missing with `send(topic, records)`; False when nothing is."""
        names = [spec.name for spec in STATES]
        known = await _patiently(lambda: history.keys(self._bootstrap, *names))
        missing = {
            OPERATOR_COMMANDS: _unknown_subjects(self._who, known),
            RESTRICTIONS: _unrestricted(known),
            RISK_LIMITS: _unlimited(self._who, known),
        }
        if not any(missing.values()):
            return False
        self._since = await _patiently(lambda: history.ends(self._bootstrap, ANSWERS))
        for topic, records in missing.items():
            await send(topic, records)
        return True

    async def confirm(self, known_to: Callable[[str, str], Awaitable[None]]) -> None:
        """Wait for the services with `known_to(group, topic)`, then warn of every command that was refused:
        orders that need it will be refused too, and say why."""
        await known_to(REFDATA_GROUP, OPERATOR_COMMANDS)
        await known_to(REFDATA_GROUP, RESTRICTIONS)
        await known_to(RISK_GROUP, RISK_LIMITS)
        for answer in await _patiently(
            lambda: history.answers(self._bootstrap, topics.COMMAND_ANSWERS, self._since)
        ):
            if answer.who == WHO and not answer.accepted:
                log.warning("%s of %s was refused: %s", answer.command, answer.subject, answer.reason)
        await asyncio.sleep(READ_EVERYWHERE_S)

    async def instruct(self, send: Callable[[str, list[Record]], Awaitable[None]]) -> None:
        """Say how fills are divided, where that is missing; sub-accounts have to be known by now."""
        known = await _patiently(lambda: history.keys(self._bootstrap, ALLOCATIONS))
        records = [
            command_record(topics.ALLOCATION_INSTRUCTIONS, each) for each in initial_allocations(self._who)
        ]
        missing = [each for each in records if each.key not in known[ALLOCATIONS]]
        if missing:
            await send(ALLOCATIONS, missing)


def _unknown_subjects(who: Roster, known: Known) -> list[Record]:
    wanted = (
        (topics.INSTRUMENTS, initial_instruments()),
        (topics.COUNTERPARTIES, initial_counterparties()),
        (topics.ACCOUNTS, [*initial_accounts(who), *initial_sub_accounts(who)]),
    )
    records = [
        (state.name, command_record(topics.OPERATOR_COMMANDS, each))
        for state, commands in wanted
        for each in commands
    ]
    return [record for state, record in records if record.key not in known[state]]


def _unrestricted(known: Known) -> list[Record]:
    decided = known[topics.RESTRICTED_LIST.name] | known[RESTRICTIONS]
    records = [command_record(topics.RESTRICTIONS, each) for each in initial_restrictions()]
    return [each for each in records if each.key not in decided]


def _unlimited(who: Roster, known: Known) -> list[Record]:
    records = [limits_record(each) for each in initial_limits(who)]
    return [each for each in records if each.key not in known[RISK_LIMITS]]


async def _patiently(question: Callable[[], Awaitable[T]]) -> T:
    return await patiently(question, "reading from Kafka")
