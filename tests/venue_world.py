"""A session with the venue in memory: a task without Kafka, and a venue that may do anything."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSCloseCode, web
from pydantic import SecretStr

from app.config import Settings
from app.domain.exchange import (
    Controls,
    Intent,
    Request,
    Sent,
    Session,
    Surroundings,
    new_intent,
    new_request,
)
from app.engine import Fenced, shard_of
from app.engine.core import effects as effects_module
from app.engine.core.dead_letter import DeadLetters
from app.engine.core.event_ids import Endings
from app.engine.core.watchdog import Turn
from app.engine.retries import Pauses
from app.topics import DEAD_LETTERS, TOPICS
from app.venue_session import client as venue_client
from app.venue_session import session as venue_session
from app.venue_session.client import VenueClient
from app.venue_session.gathering import OrderCalls
from app.venue_session.session import VenueSession, VenueTables
from app.venue_session.status import Tally, Troubles
from models.events import (
    CancelAccepted,
    CancelRequested,
    OrderReceived,
    ReplaceComplianceApproved,
    ReplaceRequested,
)
from tables.controls import CONTROLS
from tables.intents import INTENTS
from tables.requests import REQUESTS
from tables.sent import SENT
from tables.sessions import SESSIONS
from tests.builders import BTC, NOW_MS, a_halt, a_price, an_order, known, registered

PARTITIONS = 8
TOKEN = "the-secret"
TABLES = VenueTables(INTENTS, SESSIONS, CONTROLS, REQUESTS, SENT)


class MemoryTable:
    """A task's table: what is committed."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def items(self) -> Iterator[tuple[str, Any]]:
        return iter(sorted(self.values.items()))


class MemoryOutbox:
    """Keeps what a unit of work puts out, readable."""

    def __init__(self, transactional: bool) -> None:
        self.records: list[SimpleNamespace] = []

    @property
    def partitions(self) -> list[Any]:
        return [record.tp for record in self.records]

    def append(self, tp: Any, key: Any, value: Any, headers: Any, timestamp_ms: int) -> None:
        self.records.append(SimpleNamespace(tp=tp, key=key, value=value, headers=dict(headers)))

    def lane(self, tp: Any) -> Any:
        return SimpleNamespace(append=lambda *record: self.append(tp, *record))


class MemoryTask:
    """Commits into memory. `fail` is raised by the next commits; `commit_s` is how long one takes."""

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self.shards = range(partition, 256, PARTITIONS)
        self.app_id = "exchange"
        self.transactional = True
        self.epoch = 1
        self.closed = False
        self.waits_for: str | None = None
        self.behind: set[str] = set()
        self.asked = 0
        self.endings = Endings(self.app_id)
        self.lock = asyncio.Lock()
        self.agent_turn, self.companion_turn = Turn(), Turn()
        self.tables = {table.name: MemoryTable() for table in TABLES}
        self.partition_counts = {topic.name: PARTITIONS for topic in TOPICS}
        self.dead_letters = DeadLetters(
            "exchange",
            DEAD_LETTERS,
            SimpleNamespace(),  # type: ignore[arg-type]
            partition,
            self.partition_counts,
        )
        self.log: list[SimpleNamespace] = []
        self.fail: Exception | None = None
        self.commit_s = 0.0
        self.commits = 0

    def table(self, table: Any) -> MemoryTable:
        return self.tables[table.name]

    def is_behind(self, topic: Any) -> bool:
        self.asked += 1
        return topic.name in self.behind

    async def commit(self, work: Any) -> None:
        await asyncio.sleep(self.commit_s)
        if self.fail is not None:
            raise self.fail
        self.commits += 1
        for name, view in work.views.items():
            for key, value in view.changes.items():
                self.tables[name].values[key] = value
                if value is None:
                    del self.tables[name].values[key]
        self.log += work.outbox.records

    async def abort(self) -> None:
        pass

    def give_up(self, error: Exception) -> None:
        assert isinstance(error, Fenced)
        self.closed = True

    def on(self, topic: str) -> list[SimpleNamespace]:
        return [record for record in self.log if record.tp.topic == topic]

    @property
    def executions(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (each.headers["event-type"].decode(), json.loads(each.value)) for each in self.on("executions")
        ]

    @property
    def letters(self) -> list[SimpleNamespace]:
        return self.on("dead-letters")


Answer = tuple[int, str | bytes]
Rule = Callable[[str, dict[str, Any]], Answer | None]


class FakeVenue:
    """Takes orders and requests like the venue; `rule` answers a call in its place, `refuse` the stream."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.orders: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, dict[str, Any]] = {}
        self.rule: Rule = lambda path, body: None
        self.refuse: Answer | None = None
        self.opened: list[dict[int, int]] = []
        self.tokens: set[str] = set()
        self.frames: list[str] = []
        self._sockets: list[web.WebSocketResponse] = []
        self.url = ""

    async def call(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization", ""))
        body = await request.json()
        self.calls.append((request.path, body))
        answer = self.rule(request.path, body)
        if answer is None:
            return web.json_response(self._taken(request.path, body))
        if answer[0] == 0:  # it is done, and nobody is told
            self._taken(request.path, body)
            assert request.transport is not None
            request.transport.abort()
        status, text = answer
        data = text if isinstance(text, bytes) else text.encode()
        return web.Response(status=status or 200, body=data, headers={"Location": "/elsewhere"})

    def _taken(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        of_orders = path.startswith("/orders")
        taken, name = (self.orders, "client_order_id") if of_orders else (self.requests, "request_id")
        if path.endswith("/query"):
            return {"known": [each for each in body[f"{name}s"] if each in taken]}
        told = body["orders" if of_orders else "requests"]
        ids = [each[name] for each in told]
        fresh = [each for each in ids if each not in taken]
        taken.update((each[name], each) for each in told)
        return {"accepted": fresh, "duplicates": [each for each in ids if each not in fresh]}

    async def reports(self, request: web.Request) -> web.StreamResponse:
        if self.refuse is not None:
            return web.Response(status=self.refuse[0], text=str(self.refuse[1]))
        named = (part.split(":") for part in request.query["after"].split(","))
        self.opened.append({int(session): int(sequence) for session, sequence in named})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.append(socket)
        for frame in self.frames:
            await socket.send_str(frame)
        await socket.receive()
        return socket

    async def send(self, *reports: Any, text: str | None = None) -> None:
        """A frame to whoever listens, and to whoever comes later; `text` is one in place of reports."""
        frame = json.dumps(reports) if text is None else text
        self.frames.append(frame)
        for socket in self._sockets:
            if not socket.closed:
                await socket.send_str(frame)

    async def hang_up(self) -> None:
        for socket in self._sockets:
            await socket.close(code=WSCloseCode.GOING_AWAY)
        self._sockets.clear()

    def was_opened(self, times: int) -> bool:
        """Whether the report stream has been opened so often, and somebody listens."""
        return len(self.opened) >= times and bool(self._sockets)

    def posted(self, path: str) -> list[dict[str, Any]]:
        return [body for called, body in self.calls if called == path]


class World:
    """A session at work between a task and a venue."""

    def __init__(self, task: MemoryTask, venue: FakeVenue) -> None:
        self.task, self.venue = task, venue
        self.tally, self.troubles = Tally(), Troubles()
        self.client = VenueClient(self.tally)
        self.calls = OrderCalls(self.client)
        self.around = Surroundings(*(known({}) for _ in Surroundings._fields))
        self.session: VenueSession = None  # type: ignore[assignment]
        self.running: asyncio.Task[None] | None = None

    def start(self) -> None:
        task: Any = self.task
        self.session = VenueSession(task, TABLES, self.around, self.client, self.calls, self.troubles)
        self.running = asyncio.create_task(self.session.run())

    def beside(self, partition: int) -> "World":
        """Another task of the same worker, at the same venue."""
        other = World(MemoryTask(partition), self.venue)
        other.tally, other.troubles, other.around = self.tally, self.troubles, self.around
        other.client, other.calls = self.client, self.calls
        return other

    async def end(self) -> None:
        self.task.closed = True
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)

    def tell(self, **told: Mapping[str, Any]) -> None:
        """What global tables say, named as by the last look: values by key, None for what is gone."""
        for name, values in told.items():
            table: dict[str, Any] = getattr(self.around, name).values
            table.update(values)
            for key in [key for key, value in table.items() if value is None]:
                del table[key]

    def halt(self, scope: str) -> None:
        self.tell(halts={scope: a_halt(scope=scope)})

    def intended(self, *orders: OrderReceived) -> list[Intent]:
        """Commit intents, as the agent does."""
        intents = [new_intent(order) for order in orders]
        table = self.task.table(INTENTS).values
        table.update((each.key, each) for each in intents)
        sent = self.task.table(SENT).values
        for order in orders:
            sent[order.account_id] = Sent(order_sequence_last=order.sequence)
        return intents

    def asked(self, *requests: Request) -> list[Request]:
        """Commit requests, as the agent does."""
        self.task.table(REQUESTS).values.update((each.key, each) for each in requests)
        return list(requests)

    def ask(self, *requests: Request) -> None:
        self.session.submit([], self.asked(*requests))

    @property
    def unanswered(self) -> set[str]:
        """The ids of requests that have a row."""
        return {each.request_id for each in self.task.table(REQUESTS).values.values()}

    def submit(self, *orders: OrderReceived) -> None:
        self.session.submit(self.intended(*orders))

    def cursor(self, account: str = "acc-1") -> Session:
        session: Session = self.task.table(SESSIONS).values[str(shard_of(account.encode()))]
        return session

    def intent(self, order: OrderReceived) -> Intent | None:
        found: Intent | None = self.task.table(INTENTS).get(f"{order.account_id}/{order.order_id}")
        return found

    async def until(self, condition: Callable[[], object], within_s: float = 10.0) -> None:
        """Wait until it holds; a session that has ended meanwhile is an error of its own."""
        async with asyncio.timeout(within_s):
            while not condition():
                assert self.running is not None
                if self.running.done():
                    self.running.result()
                    raise AssertionError("the session has ended")
                await asyncio.sleep(0.005)

    async def stays(self, condition: Callable[[], object], for_s: float = 0.3) -> None:
        until = asyncio.get_running_loop().time() + for_s
        while asyncio.get_running_loop().time() < until:
            assert condition()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_world(patch: pytest.MonkeyPatch, *, partition: int | None = None) -> AsyncIterator[World]:
    """The world of account acc-1's partition; its session is started by the test."""
    patch.setattr(effects_module, "Outbox", MemoryOutbox)
    patch.setattr(venue_session, "RETRY_S_MIN", 0.01)
    patch.setattr(venue_session, "REFUSED", Pauses(0.01, 0.05))
    patch.setattr(venue_session, "RECONNECT", Pauses(0.01, 0.05))
    patch.setattr(venue_session, "LIVED_S_MIN", 0.1)
    patch.setattr(venue_session, "GAP_RETRY_S", 0.2)
    patch.setattr(venue_session, "HOLD_S", 0.05)
    venue = FakeVenue()
    application = web.Application()
    application.add_routes(
        [
            web.post("/orders", venue.call),
            web.post("/orders/query", venue.call),
            web.post("/requests", venue.call),
            web.post("/requests/query", venue.call),
            web.get("/reports", venue.reports),
        ]
    )
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = Settings(venue_url=venue.url, venue_token=SecretStr(TOKEN))
    patch.setattr(venue_client, "settings", lambda: settings)
    task = MemoryTask(shard_of(b"acc-1") % PARTITIONS if partition is None else partition)
    world = World(task, venue)
    try:
        yield world
    finally:
        await world.end()
        await runner.cleanup()


def generous(**changed: Any) -> Controls:
    return Controls(
        **{
            "version": 1,
            "kill_switch": False,
            "order_age_ms_max": 10**15,
            "price_age_ms_max": 10**15,
            "price_collar_bps": 500,
            **changed,
        }
    )


def provide(world: World, *accounts: str) -> None:
    """Register accounts, with controls under which `an_order` passes; list BTC-USD, with a price."""
    for account in accounts or ("acc-1",):
        world.task.table(CONTROLS).values[account] = generous()
        world.tell(accounts={account: registered(account_id=account)})
    world.tell(instruments={"BTC-USD": BTC}, prices={"BTC-USD": a_price()})


def order_of(account: str = "acc-1", sequence: int = 1, **changed: Any) -> OrderReceived:
    return an_order(account_id=account, order_id=f"{account}-{sequence}", sequence=sequence, **changed)


def cancel_of(order: OrderReceived, number: int = 1) -> Request:
    asked = CancelRequested(
        request_id=f"please-{number}",
        account_id=order.account_id,
        order_id=order.order_id,
        submitted_at_ms=NOW_MS,
    )
    accepted = CancelAccepted(
        request=asked, number=number, symbol=order.symbol, side=order.side, source="orders/0/7"
    )
    return new_request(accepted)


def replace_of(order: OrderReceived, sequence: int, **changed: Any) -> Request:
    """A replace that asks for 20 lots at the order's price, submitted now."""
    asked = {
        "request_id": f"{order.account_id}-{sequence}",
        "account_id": order.account_id,
        "sequence": sequence,
        "order_id": order.order_id,
        "quantity_lots": 20,
        "price_ticks": order.price_ticks,
        "submitted_at_ms": NOW_MS,
        **changed,
    }
    request = ReplaceRequested(**asked)
    return new_request(ReplaceComplianceApproved(request=request, symbol=order.symbol, side=order.side))


def accounts_of(partition: int, count: int) -> list[str]:
    """Accounts whose keys lie on the partition."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if shard_of(f"acc-{number}".encode()) % PARTITIONS == partition:
            found.append(f"acc-{number}")
    return found


def report(kind: str, order: OrderReceived, sequence: Any, **fields: Any) -> dict[str, Any]:
    """A report as the venue sends it; a field that is `...` is left out."""
    body = {
        "session": shard_of(order.account_id.encode()),
        "type": kind,
        "order_id": order.order_id,
        "account_id": order.account_id,
        "symbol": order.symbol,
        "side": order.side.value,
        "venue_order_id": "V1",
        "venue_sequence": sequence,
        **fields,
    }
    return {name: value for name, value in body.items() if value is not ...}
