"""Approved orders and requests in; each becomes a committed row before the venue hears of it."""

from collections.abc import Iterable
from functools import partial

from prometheus_client import Metric

from app.domain.exchange import (
    Intent,
    Request,
    Surroundings,
    apply_limits,
    is_repeat,
    killed,
    new_intent,
    new_request,
    refused,
    taken_on,
)
from app.domain.limits import asks_to_kill
from app.engine import Batches, RawRecord, Task, TopicSpec, UnitOfWork, WrongPartition, unit_of_work
from app.exchange import app
from app.service import known
from app.topics import (
    ACCOUNTS,
    HALTS,
    INSTRUMENTS,
    PRICES,
    RESTRICTED_LIST,
    RISK_LIMITS,
    account_of,
    named,
)
from app.topology import EXCHANGE
from app.venue_session.client import VenueClient
from app.venue_session.gathering import OrderCalls
from app.venue_session.session import VenueSession, VenueTables
from app.venue_session.status import Tally, Troubles, measures, notices
from models.commands import SetRiskLimits
from models.events import (
    CancelAccepted,
    ComplianceDecision,
    OrderComplianceApproved,
    OrderComplianceRejected,
    OrderReceived,
    ReplaceComplianceApproved,
    ReplaceComplianceRejected,
)
from tables.controls import CONTROLS
from tables.intents import INTENTS
from tables.requests import REQUESTS
from tables.sent import SENT
from tables.sessions import SESSIONS

around = Surroundings(
    accounts=known(app, ACCOUNTS),
    instruments=known(app, INSTRUMENTS),
    restricted=known(app, RESTRICTED_LIST),
    halts=known(app, HALTS),
    prices=known(app, PRICES),
)
sessions: dict[int, VenueSession] = {}
tally, troubles = Tally(), Troubles()
venue = VenueClient(tally)
calls = OrderCalls(venue)


@app.agent(app.inputs(*named(*EXCHANGE.inputs)))
async def intend(batches: Batches[SetRiskLimits | ComplianceDecision | None]) -> None:
    """Commit approved orders and requests as what shall be sent, then tell the task's session of them."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            intents: list[Intent] = []
            requests: list[Request] = []
            has_news = False
            for record in work.records():
                match record.value:
                    case OrderComplianceApproved(order=order):
                        intents += take_on(work, order)
                    case CancelAccepted() | ReplaceComplianceApproved() as approved:
                        requests += take_on_request(work, approved)
                    case OrderComplianceRejected(order=order):
                        work[SENT][order.account_id] = refused(work[SENT].get(order.account_id), order)
                        has_news = True
                    case ReplaceComplianceRejected():
                        pass
                    case limits:
                        control(work, account_of(record.key), limits)
            if intents or requests or has_news:
                work.after_commit(partial(hand_over, batch.task.partition, intents, requests))


def hand_over(partition: int, intents: list[Intent], requests: list[Request]) -> None:
    """Tell the session of what is committed; one that begins later finds it in its tables."""
    if (session := sessions.get(partition)) is not None:
        session.submit(intents, requests)


def take_on(work: UnitOfWork, order: OrderReceived) -> list[Intent]:
    """The intent of an approved order, none for one that was taken on before."""
    sent = work[SENT].get(order.account_id)
    if is_repeat(order, sent):
        work.after_commit(partial(tally.orders.update, ["repeated"]))
        return []
    intent = new_intent(order)
    work[INTENTS][intent.key] = intent
    work[SENT][order.account_id] = taken_on(sent, order)
    return [intent]


def take_on_request(work: UnitOfWork, approved: CancelAccepted | ReplaceComplianceApproved) -> list[Request]:
    """The request to cancel or replace an order, none for one that was taken on before."""
    request = new_request(approved)
    numbered = approved if isinstance(approved, CancelAccepted) else approved.request
    sent = work[SENT].get(request.account_id)
    if is_repeat(numbered, sent):
        work.after_commit(partial(tally.requests.update, [f"{request.kind} repeated"]))
        return []
    work[REQUESTS][request.key] = request
    work[SENT][request.account_id] = taken_on(sent, numbered)
    return [request]


def control(work: UnitOfWork, account_id: str, limits: SetRiskLimits | None) -> None:
    """Take over what of an account's limits counts at the last look; None removes them."""
    known = work[CONTROLS].get(account_id)
    controls = apply_limits(known, limits)
    if controls is known:
        return
    if controls is None:
        del work[CONTROLS][account_id]
    else:
        work[CONTROLS][account_id] = controls


@app.buried
def refuse(work: UnitOfWork, spec: TopicSpec, raw: RawRecord, error: BaseException) -> None:
    """Switch the kill switch on, as risk does, by limits that cannot be read: orders may be on their way."""
    if spec is not RISK_LIMITS or isinstance(error, WrongPartition) or not asks_to_kill(raw.value):
        return
    account_id = account_of(raw.key)
    known = work[CONTROLS].get(account_id)
    if known is not None and not known.kill_switch:
        work[CONTROLS][account_id] = killed(known)


@app.per_task
async def talk_to_venue(task: Task) -> None:
    """Send what is intended and book what is reported, for as long as the task is ours."""
    tables = VenueTables(INTENTS, SESSIONS, CONTROLS, REQUESTS, SENT)
    session = VenueSession(task, tables, around, venue, calls, troubles)
    sessions[task.partition] = session
    try:
        await session.run()
    finally:
        if sessions.get(task.partition) is session:
            del sessions[task.partition]


@app.health
def venue_troubles() -> Iterable[str]:
    return troubles.reasons()


@app.notices
def disputes() -> Iterable[str]:
    return notices(key for session in sessions.values() for key in session.disputed)


@app.measures
def counts() -> Iterable[Metric]:
    waiting = sum(session.waiting for session in sessions.values())
    requests_waiting = sum(session.requests_waiting for session in sessions.values())
    disputed = sum(len(session.disputed) for session in sessions.values())
    return measures(tally, waiting, requests_waiting, disputed)
