"""What the log tells of accounts and of the market, for the commands that look back: `state` and `whatif`."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, TypeVar

from app.domain.books import Logged
from app.domain.hindsight import History, Market
from app.domain.limit_history import Answered, Commanded, Garbled, limit_history
from app.domain.timeline import Timeline
from app.engine.core.event_ids import shortened
from app.engine.errors import NewerRelease
from app.engine.kafka.cluster import TP
from app.engine.topics import EVENT_ID, EVENT_TYPE, TopicSpec
from app.errors import UserError
from app.log_reader import decoded, header
from app.operators.desk import Desk
from app.topics import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    COMMAND_ANSWERS,
    COMPLIANCE_DECISIONS,
    DEAD_LETTERS,
    EXECUTIONS,
    INSTRUMENTS,
    ORDERS,
    PRICES,
    RISK_DECISIONS,
    RISK_LIMITS,
    account_of,
)
from models.commands import SetAccountSequence, SetRiskLimits
from models.events import (
    AccountRegistered,
    OrderComplianceRejected,
    OrderRiskApproved,
    OrderRiskRejected,
    ReplaceComplianceRejected,
    ReplaceRiskApproved,
    ReplaceRiskRejected,
)

V = TypeVar("V")

BOOKED: Final = (RISK_DECISIONS, COMPLIANCE_DECISIONS, EXECUTIONS)
"""The topics that books are folded from: without their beginning nobody knows what was before."""
WITHOUT_BEGINNING: Final = (
    "{place} begins at offset {offset}: retention has deleted what was before, and books are folded from the "
    "beginning; use a copy of the log that has it all, and set retention.ms of {topics} to -1"
)
_REJECTED: Final = {each.__name__.encode() for each in (OrderComplianceRejected, ReplaceComplianceRejected)}
_ENDING: Final = b":risk:0"
"""What an answer's id has behind that of its command."""


class Read(NamedTuple):
    """What was read. `registered` are all accounts, of which `histories` may have one only.

    `held` counts, by account, the records that risk has made dead letters: they are not booked.
    """

    market: Market
    registered: Mapping[str, AccountRegistered]
    histories: Mapping[str, History]
    held: Mapping[str, int]
    answers_cut: bool


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


async def read_log(desk: Desk, account_id: str | None = None) -> Read:
    """Read all that concerns one account, or all of them. Raises UserError for what cannot be told."""
    registered = {
        name: each
        for name, each in (await desk.in_force(ACCOUNTS)).items()
        if isinstance(each, AccountRegistered)
    }
    if account_id is not None:
        await _require(desk, account_id, registered)
    for spec in (ORDERS, *BOOKED):
        for partition in await _partitions(desk, spec, account_id):
            offset = await desk.begins_at(spec.name, partition)
            if offset:
                place = f"{spec.name}/{partition}"
                topics = ", ".join(each.name for each in (ORDERS, *BOOKED))
                raise UserError(WITHOUT_BEGINNING.format(place=place, offset=offset, topics=topics))
    market = Market(await _timelines(desk, INSTRUMENTS), await _timelines(desk, PRICES))
    gathered = _Gathered(desk, account_id)
    await gathered.read()
    histories = {
        name: gathered.history(name, registered.get(name))
        for name in sorted({account_id} if account_id is not None else {*registered, *gathered.accounts()})
    }
    return Read(market, registered, histories, gathered.held, gathered.answers_cut)


class _Gathered:
    """The records about accounts, by account."""

    def __init__(self, desk: Desk, account_id: str | None) -> None:
        self._desk = desk
        self._account_id = account_id
        self.held: Counter[str] = Counter()
        self.answers_cut = False
        self._dead: set[Place] = set()
        self._received: dict[Place, int] = {}
        self._decisions: dict[str, list[Logged]] = defaultdict(list)
        self._reports: dict[str, list[Logged]] = defaultdict(list)
        self._limits: dict[str, list[Commanded]] = defaultdict(list)
        self._answers: dict[str, list[Answered]] = defaultdict(list)
        self._sequences: dict[str, list[tuple[str, SetAccountSequence]]] = defaultdict(list)

    def accounts(self) -> set[str]:
        return {*self._decisions, *self._limits}

    async def read(self) -> None:
        async for _, record in self._records(DEAD_LETTERS):
            if header(record, "dead-letter-service") == b"risk":
                self._bury(record)
        async for tp, record in self._records(ORDERS):
            self._received[Place(*tp, record.offset)] = record.timestamp
        async for tp, record in self._records(RISK_DECISIONS):
            event = _decoded(RISK_DECISIONS, Place(*tp, record.offset), record)
            place = str(Place(*tp, record.offset))
            logged = Logged(record.timestamp, event, self._received_at_ms(event), place)
            self._decisions[account_of(record.key)].append(logged)
        async for tp, record in self._records(COMPLIANCE_DECISIONS):
            if header(record, EVENT_TYPE) in _REJECTED:
                self._report(COMPLIANCE_DECISIONS, tp, record)
        async for tp, record in self._records(EXECUTIONS):
            self._report(EXECUTIONS, tp, record)
        await self._read_commands()

    async def _read_commands(self) -> None:
        for partition in await _partitions(self._desk, COMMAND_ANSWERS, self._account_id):
            self.answers_cut |= bool(await self._desk.begins_at(COMMAND_ANSWERS.name, partition))
        async for tp, record in self._records(RISK_LIMITS):
            place = Place(*tp, record.offset)
            command: SetRiskLimits | Garbled | None = None
            if record.value is not None:
                try:
                    command = decoded(RISK_LIMITS, record)
                except (ValueError, NewerRelease) as error:
                    command = Garbled(record.value, str(error))
            commanded = Commanded(record.timestamp, _id_of(place, record), command)
            self._limits[account_of(record.key)].append(commanded)
        async for tp, record in self._records(COMMAND_ANSWERS):
            answer = _decoded(COMMAND_ANSWERS, Place(*tp, record.offset), record)
            id_ = header(record, EVENT_ID).removesuffix(_ENDING).decode(errors="replace")
            self._answers[account_of(record.key)].append(Answered(record.timestamp, id_, answer))
        async for tp, record in self._records(ACCOUNT_COMMANDS):
            place = Place(*tp, record.offset)
            if place not in self._dead:
                sequence = _decoded(ACCOUNT_COMMANDS, place, record)
                self._sequences[account_of(record.key)].append((_id_of(place, record), sequence))

    def history(self, account_id: str, registered: AccountRegistered | None) -> History:
        """What was gathered of one account."""
        answers = self._answers[account_id]
        of_limits = [each for each in answers if each.answer.command == SetRiskLimits.__name__]
        limits = limit_history(account_id, self._limits[account_id], of_limits, answers_cut=self.answers_cut)
        decisions = sorted(
            [*self._sequences_set(account_id), *self._decisions[account_id]], key=lambda each: each.at_ms
        )
        reports = sorted(self._reports[account_id], key=lambda each: each.at_ms)
        return History(account_id, registered, limits, decisions, reports)

    def _sequences_set(self, account_id: str) -> Iterator[Logged]:
        accepted = {
            each.id: each.at_ms
            for each in self._answers[account_id]
            if each.answer.accepted and each.answer.command == SetAccountSequence.__name__
        }
        for id_, command in self._sequences[account_id]:
            if id_ in accepted:
                yield Logged(accepted[id_], command)

    def _report(self, spec: TopicSpec[Any], tp: TP, record: Any) -> None:
        place = Place(*tp, record.offset)
        if place not in self._dead:
            event = _decoded(spec, place, record)
            self._reports[account_of(record.key)].append(Logged(record.timestamp, event, 0, str(place)))

    def _bury(self, record: Any) -> None:
        topic, partition, offset = (
            header(record, f"dead-letter-{name}").decode() for name in ("topic", "partition", "offset")
        )
        if topic:
            self._dead.add(Place(topic, int(partition), int(offset)))
            self.held[account_of(record.key)] += 1

    def _received_at_ms(self, event: Any) -> int:
        if isinstance(event, OrderRiskApproved | ReplaceRiskApproved):
            return event.received_at_ms
        if isinstance(event, OrderRiskRejected | ReplaceRiskRejected):
            topic, _, place = event.source.partition("/")
            partition, _, offset = place.partition("/")
            return self._received.get(Place(topic, int(partition), int(offset)), 0)
        return 0

    async def _records(self, spec: TopicSpec[Any]) -> AsyncIterator[tuple[TP, Any]]:
        """The records of the account, or of all."""
        if not self._desk.has_topic(spec.name):
            return
        if self._account_id is not None:
            async for each in self._desk.records_of(spec.name, self._account_id):
                yield each
            return
        for partition in range(await self._desk.partition_count(spec.name)):
            async for each in self._desk.records(spec.name, partition):
                yield each


def _id_of(place: Place, record: Any) -> str:
    return shortened(header(record, EVENT_ID) or str(place).encode()).decode(errors="replace")


def _decoded(spec: TopicSpec[V], place: Place, record: Any) -> Any:
    try:
        return decoded(spec, record)
    except NewerRelease as error:
        raise UserError(f"{place}: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{place} cannot be read, so nobody knows what it changed: {error}; see 'python -m app check'"
        ) from None


async def _partitions(desk: Desk, spec: TopicSpec[Any], account_id: str | None) -> list[int]:
    if not desk.has_topic(spec.name):
        return []
    if account_id is not None:
        return [await desk.home(spec.name, account_id)]
    return [*range(await desk.partition_count(spec.name))]


async def _timelines(desk: Desk, spec: TopicSpec[V]) -> dict[str, Timeline[V]]:
    """What a global table had when, by symbol: as far back as compaction has left it.

    A record that cannot be read is left out: risk refuses all orders of its symbol until the next one,
    whatever the limits. Raises UserError for one of a newer release.
    """
    changes: dict[str, list[tuple[int, V]]] = defaultdict(list)
    for partition in range(await desk.partition_count(spec.name)):
        async for tp, record in desk.records(spec.name, partition):
            try:
                value = decoded(spec, record)
            except NewerRelease as error:
                raise UserError(f"{Place(*tp, record.offset)}: {error}") from None
            except ValueError:
                continue
            changes[(record.key or b"").decode(errors="replace")].append((record.timestamp, value))
    return {symbol: Timeline(each) for symbol, each in changes.items()}


async def _require(desk: Desk, account_id: str, registered: Mapping[str, Any]) -> None:
    """A name with a typing error would have empty books."""
    if account_id in registered or await desk.last_record(RISK_LIMITS.name, account_id) is not None:
        return
    raise UserError(unknown_account(account_id, registered))


def unknown_account(account_id: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(account_id, sorted(known), 3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"no account {account_id!r} is known; {meant}'refdata show accounts' lists them all"
