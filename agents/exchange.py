"""Approved orders in; each becomes a committed intent before the venue hears of it."""

from functools import partial
from typing import Any

from app.domain.exchange import new_intent
from app.engine import Task, unit_of_work
from app.exchange import app
from app.topics import COMPLIANCE_DECISIONS
from app.venue_session import VenueSession
from models.events import OrderComplianceApproved
from tables.intents import INTENTS
from tables.sessions import SESSIONS

sessions: dict[int, VenueSession] = {}


@app.agent(app.inputs(COMPLIANCE_DECISIONS))
async def intend(batches: Any) -> None:
    """Commit the intent to send each approved order, then tell the task's session with the venue."""
    async for batch in batches:
        async with unit_of_work(batch) as work:
            intents = []
            for record in work.records():
                if isinstance(record.value, OrderComplianceApproved):
                    order = record.value.order
                    intent = new_intent(order)
                    work[INTENTS][f"{order.account_id}/{order.order_id}"] = intent
                    intents.append(intent)
            if intents and (session := sessions.get(batch.task.partition)) is not None:
                work.after_commit(partial(session.submit, intents))


@app.per_task
async def talk_to_venue(task: Task) -> None:
    """Send what is intended and book what is reported, for as long as the task is ours."""
    session = sessions[task.partition] = VenueSession(task, INTENTS, SESSIONS)
    try:
        await session.run()
    finally:
        if sessions.get(task.partition) is session:
            del sessions[task.partition]
