"""Writes a history's tables as the services' own code makes them of it, for the checker to judge."""

from operator import attrgetter
from typing import Any

import msgspec

import models.events
from app.domain import compliance, requests, risk
from app.domain.compliance import ComplianceAccount
from app.domain.exchange import (
    NEW_SESSION,
    Intent,
    Sent,
    Session,
    apply_venue_report,
    new_intent,
    read_on,
)
from app.domain.reference import Known
from app.domain.resting import OpenOrder
from app.domain.risk import AccountRisk, Reservation
from checker import records
from checker.records import Event
from checker.requests import CANCEL_REQUESTED, answered_id
from checker.shards import shard_of
from tests.histories import World


def as_model(event: Event) -> Any:
    """The services' own model of an event that the checker has read."""
    return getattr(models.events, type(event).__name__).model_validate(msgspec.to_builtins(event))


def write_compliance(world: World) -> None:
    """Write the tables of compliance."""
    log = world.log
    accounts: dict[str, ComplianceAccount] = {}
    open_orders: dict[str, OpenOrder] = {}
    for event in _in_order(log.compliance, log.asked_compliance, log.executions):
        about = _about(event)
        account_id, key = about.account_id, f"{about.account_id}/{about.order_id}"
        account = accounts.get(account_id, compliance.NEW_COMPLIANCE_ACCOUNT)
        match as_model(event):
            case models.events.OrderComplianceApproved(order=order):
                accounts[account_id] = compliance.apply_compliance(account, order.sequence)
                open_orders[key] = compliance.open_order(order)
            case models.events.ReplaceComplianceApproved(request=request):
                accounts[account_id] = compliance.apply_compliance(account, request.sequence)
                open_orders[key] = compliance.replacing(open_orders[key], request)
            case models.events.OrderComplianceRejected() | models.events.ReplaceComplianceRejected():
                accounts[account_id] = compliance.apply_compliance(account, about.sequence)
            case models.events.CancelAccepted():
                pass
            case execution if not compliance.is_repeat(account, open_orders.get(key), execution):
                accounts[account_id], left = compliance.apply_execution(
                    account, open_orders.pop(key), execution
                )
                if left is not None:
                    open_orders[key] = left
    log.recent_orders = {key.encode(): msgspec.json.encode(each) for key, each in accounts.items()}
    log.open_orders = {key.encode(): msgspec.json.encode(each) for key, each in open_orders.items()}


def write_exchange(world: World) -> None:
    """Write the tables of the exchange."""
    log = world.log
    intents: dict[str, Intent] = {}
    sessions: dict[int, Session] = {}
    asked: dict[str, dict[str, Any]] = {}
    sent: dict[str, Sent] = {}
    for event in _in_order(log.compliance, log.asked_compliance, log.executions):
        about = _about(event)
        account_id, key = about.account_id, f"{about.account_id}/{about.order_id}"
        before = sent.get(account_id, Sent(order_sequence_last=0))
        match as_model(event):
            case models.events.OrderComplianceApproved(order=order):
                intents[key] = new_intent(order)
                sent[account_id] = msgspec.structs.replace(before, order_sequence_last=order.sequence)
            case models.events.ReplaceComplianceApproved(request=request) as passed:
                asked[request.request_id] = _row(request.request_id, passed) | {
                    "quantity_lots": request.quantity_lots,
                    "price_ticks": request.price_ticks,
                }
                sent[account_id] = msgspec.structs.replace(before, order_sequence_last=request.sequence)
            case models.events.CancelAccepted() as passed:
                asked[passed.cancel_id] = _row(passed.cancel_id, passed)
                sent[account_id] = msgspec.structs.replace(before, cancel_number_last=passed.number)
            case models.events.OrderWithheld(reason=reason):
                del intents[key]
                if reason == CANCEL_REQUESTED:
                    asked = {
                        name: row
                        for name, row in asked.items()
                        if row["order_id"] != about.order_id or "price_ticks" in row
                    }
            case models.events.VenueReport() as report:
                shard = shard_of(account_id.encode())
                session, intent = _reported(sessions.get(shard, NEW_SESSION), intents.pop(key, None), report)
                sessions[shard] = session
                if intent is not None:
                    intents[key] = intent
        if isinstance(event, records.Execution):
            asked.pop(answered_id(event) or "", None)
    log.intents = {key.encode(): each.model_dump_json().encode() for key, each in intents.items()}
    log.sessions = {str(key).encode(): each.model_dump_json().encode() for key, each in sessions.items()}
    log.sent = {key.encode(): msgspec.json.encode(each) for key, each in sent.items()}
    log.requests = {
        f"{row['account_id']}/{name}".encode(): msgspec.json.encode(row) for name, row in asked.items()
    }


def _row(request_id: str, passed: Any) -> dict[str, Any]:
    """What the checker looks at of a request's row, but for the terms of a replace."""
    return {
        "request_id": request_id,
        "account_id": passed.request.account_id,
        "order_id": passed.request.order_id,
        "symbol": passed.symbol,
        "side": passed.side,
    }


def _reported(session: Session, intent: Intent | None, report: Any) -> tuple[Session, Intent | None]:
    """The session and the order's intent behind a report."""
    match report:
        case models.events.CancelRejected() | models.events.ReplaceRejected():
            after = intent
        case models.events.OrderReplaced(quantity_lots=quantity_lots, price_ticks=price_ticks) if intent:
            terms = {"quantity_lots": quantity_lots, "price_ticks": price_ticks}
            order = intent.order.model_copy(update=terms)
            after = intent.model_copy(update={"order": order, "open_lots": report.leaves_lots})
        case _:
            read, after, _ = apply_venue_report(session, intent, report)
            return read, after
    read_through = read_on(session, report.venue_sequence)
    assert read_through is not None
    return read_through, after if after is not None and after.open_lots else None


def write_risk(world: World) -> None:
    """Write the books of risk."""
    log = world.log
    books = _Books(world)
    for event in _in_order(log.risk, log.asked_risk, log.compliance, log.asked_compliance, log.executions):
        books.take(as_model(event))
    log.positions = {key.encode(): msgspec.json.encode(each) for key, each in books.accounts.items()}
    log.reservations = {key.encode(): msgspec.json.encode(each) for key, each in books.reservations.items()}


class _Books:
    """What risk has of all accounts; the cases are those of its agent."""

    def __init__(self, world: World) -> None:
        self.accounts: dict[str, AccountRisk] = {}
        self.reservations: dict[str, Reservation] = {}
        told = world.shared.reference.instruments
        listed = {symbol: told.last(symbol) for symbol in told}
        self._instruments = Known(
            {symbol: as_model(each) for symbol, each in listed.items() if isinstance(each, Event)}, {}
        )

    def take(self, event: Any) -> None:
        about = _about(event)
        key = f"{about.account_id}/{about.order_id}"
        account = self.accounts.get(about.account_id, risk.NEW_ACCOUNT)
        reservation = self.reservations.get(key)
        after: tuple[AccountRisk, Reservation | None] | None = None
        match event:
            case models.events.OrderRiskApproved():
                after = risk.apply_decision(account, event, self._instruments), risk.reserve(event)
            case models.events.OrderRiskRejected():
                after = risk.apply_decision(account, event, self._instruments), reservation
            case models.events.CancelAccepted():
                if event.number > account.cancels:  # compliance passes it on as it is
                    after = requests.apply_cancel(account, reservation, event)
            case models.events.ReplaceRiskApproved():
                after = requests.apply_replace(account, reservation, event)
            case models.events.ReplaceRiskRejected():
                after = requests.apply_rejection(account, event), reservation
            case (
                models.events.OrderReplaced()
                | models.events.CancelRejected()
                | models.events.ReplaceRejected()
                | models.events.ReplaceWithheld()
                | models.events.ReplaceComplianceRejected()
            ):
                if reservation is not None and not requests.is_answered(account, reservation, event):
                    after = requests.apply_answer(account, reservation, event)
            case (
                models.events.CancelRefused()
                | models.events.OrderComplianceApproved()
                | models.events.ReplaceComplianceApproved()
            ):
                pass
            case report if not risk.is_repeat(account, reservation, report):
                after = risk.apply_report(account, reservation, report)
        if after is not None:
            self._keep(about.account_id, key, *after)

    def _keep(self, account_id: str, key: str, account: AccountRisk, left: Reservation | None) -> None:
        self.accounts[account_id] = account
        self.reservations.pop(key, None)
        if left is not None:
            self.reservations[key] = left


def _about(event: Any) -> Any:
    """What names the order and the account that an event is about."""
    return getattr(event, "order", None) or getattr(event, "request", None) or event


def _in_order(*topics: Any) -> list[Any]:
    """The events of several topics, by the broker's clock."""
    logged = sorted((each for topic in topics for each in topic), key=attrgetter("timestamp_ms"))
    return [each.event for each in logged if each.event is not None]
