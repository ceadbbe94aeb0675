"""The venue as a process: real HTTP, real WebSockets, real kills; its ledger is read from outside."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from models import events
from tests.release_before import LedgerBefore
from tests.tied import end_with_parent

TOKEN = "secret"
DEMO = Path(__file__).parents[2] / "feed" / "demo.json"
LAST = 1_000
STOP_S_MAX = 10


def _where(data_dir: Path, instruments: Path = DEMO) -> tuple[str, ...]:
    return ("--data-dir", str(data_dir), "--instruments", str(instruments))


class VenueProcess:
    """A venue on a free port, with its data in `data_dir`; `kill` is SIGKILL."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        self.options = options
        self.start()

    def start(self, port: str = "0") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "venue", "--port", port, *_where(self.data_dir), *self.options],
            env={**os.environ, "VENUE_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("venue listening on http://127.0.0.1:"), line
        self.url = line.split()[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_S_MAX)

    def restart(self) -> None:
        """Start at the address that it had."""
        self.start(self.url.rsplit(":", 1)[1])

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The ledger of a venue that does not run, to be changed."""
        with closing(sqlite3.connect(self.data_dir / "ledger.sqlite")) as db, db:
            yield db

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(STOP_S_MAX)

    def ledger(self, query: str) -> list[Any]:
        with sqlite3.connect(f"file:{self.data_dir}/ledger.sqlite?mode=ro", uri=True) as db:
            return db.execute(query).fetchall()


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[VenueProcess]:
    venue = VenueProcess(tmp_path / "venue", "--die-with-parent")
    yield venue
    venue.kill()


class Client:
    """Calls one venue with the token; `post` gives the answer of a call that must succeed."""

    def __init__(self, venue: VenueProcess, http: aiohttp.ClientSession) -> None:
        self.venue = venue
        self.http = http

    async def post(self, path: str, body: object) -> Any:
        status, answer = await self.try_post(path, body)
        assert status == 200, answer
        return answer

    async def try_post(self, path: str, body: object) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http.post(self.venue.url + path, data=data) as response:
            return response.status, await response.json()

    async def orders(self, *orders: dict[str, Any], session: int = 0) -> Any:
        return await self.post("/orders", a_call(*orders, session=session))

    async def ask(self, *requests: dict[str, Any], session: int = 0) -> Any:
        return await self.post("/requests", a_request_call(*requests, session=session))

    async def tick(self, sequence: int, price_ticks: int = LAST, quantity_lots: int = 0) -> Any:
        return await self.post("/market", {"ticks": [a_tick(sequence, price_ticks, quantity_lots)]})

    @asynccontextmanager
    async def stream(self, session: int = 0, after: int = 0, **more: int) -> AsyncIterator["Stream"]:
        """Reports of `session` above `after`; `more` are other sessions, by `s<number>`."""
        wanted = {session: after} | {int(name[1:]): sequence for name, sequence in more.items()}
        named = ",".join(f"{number}:{sequence}" for number, sequence in wanted.items())
        async with self.http.ws_connect(f"{self.venue.url}/reports?after={named}") as socket:
            yield Stream(socket)

    async def reports(self, count: int, session: int = 0, after: int = 0) -> list[dict[str, Any]]:
        async with self.stream(session, after) as stream:
            return await stream.read(count)


class Stream:
    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
        self.socket = socket

    async def frame(self) -> list[dict[str, Any]]:
        frame: list[dict[str, Any]] = await self.socket.receive_json(timeout=5)
        return frame

    async def read(self, count: int) -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = []
        while len(reports) < count:
            reports += await self.frame()
        assert len(reports) == count
        return reports

    async def is_silent(self) -> bool:
        try:
            await self.socket.receive(timeout=0.3)
        except TimeoutError:
            return True
        return False

    async def close_code(self) -> int | None:
        message = await self.socket.receive(timeout=5)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
        return self.socket.close_code


@pytest.fixture
async def client(venue: VenueProcess) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        client = Client(venue, http)
        await client.tick(1)
        yield client


def an_order(order_id: str, side: str = "buy", quantity_lots: int = 5, **fields: Any) -> dict[str, Any]:
    return {
        "client_order_id": order_id,
        "account_id": "alice",
        "symbol": "BTC-USD",
        "side": side,
        "quantity_lots": quantity_lots,
        "price_ticks": LAST,
        "time_in_force": "gtc",
        **fields,
    }


def a_call(*orders: dict[str, Any], session: int = 0, epoch: int = 0) -> dict[str, Any]:
    """The body of POST /orders, all on one session."""
    return {"sessions": {session: epoch}, "orders": [{"session": session, **order} for order in orders]}


def a_cancel(request_id: str, order_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "account_id": "alice",
        "order_id": order_id,
        "symbol": "BTC-USD",
        "side": "buy",
        "kind": "cancel",
        **fields,
    }


def a_replace(request_id: str, order_id: str, quantity_lots: int, **fields: Any) -> dict[str, Any]:
    asked = {"quantity_lots": quantity_lots, "price_ticks": LAST, **fields}
    return a_cancel(request_id, order_id) | {"kind": "replace", **asked}


def a_request_call(*requests: dict[str, Any], session: int = 0, epoch: int = 0) -> dict[str, Any]:
    """The body of POST /requests, all on one session."""
    return {"sessions": {session: epoch}, "requests": [{"session": session, **each} for each in requests]}


def a_tick(sequence: int, price_ticks: int = LAST, quantity_lots: int = 0) -> dict[str, Any]:
    return {
        "symbol": "BTC-USD",
        "sequence": sequence,
        "price_ticks": price_ticks,
        "quantity_lots": quantity_lots,
        "exchange_at_ms": 1,
        "observed_at_ms": 1,
    }


def types(reports: list[dict[str, Any]]) -> list[str]:
    return [report["type"] for report in reports]


def sequences(reports: list[dict[str, Any]]) -> list[int]:
    return [report["venue_sequence"] for report in reports]


# Orders and reports


async def test_an_order_is_reported_on_its_own_session_in_the_words_of_the_models(client: Client) -> None:
    await client.orders(an_order("rest", "sell", 5, account_id="bob"), session=1)
    answer = await client.orders(an_order("in", "buy", 3), session=2)
    assert answer == {"accepted": ["in"], "duplicates": []}
    resting, incoming = await client.reports(2, session=1), await client.reports(2, session=2)
    assert types(resting) == types(incoming) == ["OrderAcknowledged", "TradeExecuted"]
    assert sequences(resting) == sequences(incoming) == [1, 2]
    assert (resting[1]["leaves_lots"], incoming[1]["leaves_lots"]) == (2, 0)
    for report in resting + incoming:
        assert report.pop("session") in (1, 2)
        getattr(events, report.pop("type")).model_validate(report)


async def test_a_refused_order_is_accepted_and_its_refusal_is_a_report(client: Client) -> None:
    assert (await client.orders(an_order("far", price_ticks=5 * LAST)))["accepted"] == ["far"]
    (report,) = await client.reports(1)
    assert (report["type"], report["reason"], report["rejected_lots"]) == (
        "VenueRejected",
        "price_out_of_band",
        5,
    )
    assert client.venue.ledger("SELECT status FROM orders") == [("rejected",)]


async def test_a_known_order_is_not_taken_again_and_its_receipts_are_counted(client: Client) -> None:
    await client.orders(an_order("a"))
    answer = await client.orders(an_order("a", quantity_lots=9), an_order("b"), an_order("b"))
    assert answer == {"accepted": ["b"], "duplicates": ["a", "b"]}
    await client.orders(an_order("a"), session=7)
    rows = client.venue.ledger(
        "SELECT client_order_id, quantity_lots, session, receipts FROM orders ORDER BY arrival"
    )
    assert rows == [("a", 5, 0, 3), ("b", 5, 0, 2)]
    assert types(await client.reports(2)) == ["OrderAcknowledged"] * 2


async def test_a_query_names_what_the_ledger_has(client: Client) -> None:
    ids = [f"order-{number}" for number in range(1_200)]
    await client.orders(*map(an_order, ids))
    odd = "odd \x00 name"
    await client.orders(an_order(odd))
    assert (await client.orders(an_order(odd)))["duplicates"] == [odd]
    answer = await client.post("/orders/query", {"client_order_ids": ["unknown", odd, *ids]})
    assert answer == {"known": [odd, *ids]}


async def test_the_market_moves_once_a_tick(client: Client) -> None:
    await client.orders(an_order("a", quantity_lots=5))
    ticks = {"ticks": [a_tick(2, LAST - 1, 2), a_tick(3, LAST - 2, 1)]}
    assert await client.post("/market", ticks) == {"applied": 2, "repeated": 0, "not_listed": 0}
    assert await client.post("/market", ticks) == {"applied": 0, "repeated": 2, "not_listed": 0}
    fills = (await client.reports(3))[1:]
    assert [(fill["quantity_lots"], fill["price_ticks"], fill["leaves_lots"]) for fill in fills] == [
        (2, LAST, 3),
        (1, LAST, 2),
    ]


async def test_close_expires_every_open_order(client: Client) -> None:
    await client.orders(*(an_order(f"a{number}") for number in range(1_000)))
    assert await client.post("/close", {}) == {"expired": 1_000}
    expired = (await client.reports(2_000))[1_000:]
    assert set(types(expired)) == {"OrderExpired"}
    assert client.venue.ledger("SELECT DISTINCT status FROM orders") == [("expired",)]
    await client.orders(an_order("late"))
    assert (await client.reports(1, after=2_000))[0]["reason"] == "market_closed"


async def test_the_ledger_alone_tells_every_execution(client: Client) -> None:
    await client.orders(*(an_order(f"s{n}", "sell", 3, account_id="bob") for n in range(20)), session=1)
    await client.orders(*(an_order(f"b{n}", "buy", 4) for n in range(10)), session=2)
    await client.tick(2, LAST, 7)
    miscounted = """
        SELECT client_order_id FROM orders
        JOIN (SELECT client_order_id, sum(quantity_lots) AS lots FROM trades GROUP BY 1)
        USING (client_order_id)
        WHERE filled_lots != lots OR filled_lots > quantity_lots
           OR (status = 'filled') != (filled_lots = quantity_lots)
    """
    unreported = """
        SELECT trade_id, client_order_id, quantity_lots, price_ticks, session, venue_sequence FROM trades
        EXCEPT SELECT json_extract(body, '$.trade_id'), order_id, json_extract(body, '$.quantity_lots'),
            json_extract(body, '$.price_ticks'), session, venue_sequence FROM reports
    """
    gaps = "SELECT session FROM reports GROUP BY session HAVING max(venue_sequence) != count(*)"
    assert [client.venue.ledger(query) for query in (miscounted, unreported, gaps)] == [[], [], []]
    (trades,) = client.venue.ledger("SELECT count(*), sum(quantity_lots) FROM trades")
    assert trades == (43, 87)  # 20 matches of 40 lots, two sides each, and 3 fills of the market's 7 lots


# Cancels and replaces


async def test_a_request_is_answered_by_one_report_in_the_words_of_the_models(client: Client) -> None:
    await client.orders(*map(an_order, "abc"))
    answer = await client.ask(
        a_cancel("c1", "a"),
        a_cancel("c2", "a"),
        a_replace("r1", "b", 3, price_ticks=LAST - 1),
        a_replace("r2", "a", 3),
        a_cancel("c1", "c"),
    )
    assert answer == {"accepted": ["c1", "c2", "r1", "r2"], "duplicates": ["c1"]}
    told = (await client.reports(7))[3:]
    assert [(each["order_id"], each["request_id"]) for each in told] == [
        ("a", "c1"),
        ("a", "c2"),
        ("b", "r1"),
        ("a", "r2"),
    ]
    assert types(told) == ["OrderCancelled", "CancelRejected", "OrderReplaced", "ReplaceRejected"]
    assert sequences(told) == [4, 5, 6, 7]
    assert told[2] | {"quantity_lots": 3, "price_ticks": LAST - 1, "leaves_lots": 3} == told[2]
    for report in told:
        assert report.pop("session") == 0
        getattr(events, report.pop("type")).model_validate(report)


async def test_a_known_request_is_not_answered_again_and_its_receipts_are_counted(client: Client) -> None:
    await client.orders(an_order("a"), an_order("b"))
    await client.ask(a_replace("r1", "a", 3))
    assert await client.ask(a_replace("r1", "b", 9)) == {"accepted": [], "duplicates": ["r1"]}
    assert len(await client.reports(3)) == 3
    found = client.venue.ledger("SELECT request_id, order_id, quantity_lots, receipts FROM requests")
    assert found == [("r1", "a", 3, 2)]


async def test_a_query_names_the_requests_that_the_ledger_has(client: Client) -> None:
    ids = [f"alice-c{number}" for number in range(1_200)]
    await client.ask(*(a_cancel(each, "none") for each in ids))
    answer = await client.post("/requests/query", {"request_ids": ["unknown", *ids]})
    assert answer == {"known": ids}


async def test_requests_are_fenced_by_the_epochs_of_orders(client: Client) -> None:
    await client.orders(an_order("a"), session=3)
    await client.post("/requests/query", {"sessions": {3: 8, 4: 8}, "request_ids": ["c1"]})
    for path, body in (
        ("/requests", a_request_call(a_cancel("c1", "a"), session=3, epoch=7)),
        ("/requests/query", {"sessions": {4: 7}, "request_ids": []}),
        ("/orders", a_call(an_order("b"), session=3, epoch=7)),
    ):
        status, answer = await client.try_post(path, body)
        assert (status, answer["what_to_do"]) == (409, "stop sending on this session")
    assert (await client.post("/requests/query", {"request_ids": ["c1"]}))["known"] == []
    await client.post("/requests", a_request_call(a_cancel("c1", "a"), session=3, epoch=8))
    assert types(await client.reports(2, session=3)) == ["OrderAcknowledged", "OrderCancelled"]


async def test_after_a_kill_requests_places_and_prices_are_as_they_were(client: Client) -> None:
    await client.orders(*(an_order(name, "sell") for name in ("moves", "stays", "shrinks", "goes")))
    await client.ask(a_replace("r1", "moves", 6), a_replace("r2", "shrinks", 4), a_cancel("c1", "goes"))
    client.venue.kill()
    client.venue.start()
    assert (await client.post("/requests/query", {"request_ids": ["c1", "c2"]})) == {"known": ["c1"]}
    assert (await client.ask(a_cancel("c1", "goes")))["duplicates"] == ["c1"]
    await client.ask(a_cancel("c2", "goes"))
    await client.orders(an_order("in", "buy", 50, account_id="bob"), session=1)
    told = (await client.reports(11))[7:]
    assert [(each["order_id"], each["type"], each.get("quantity_lots")) for each in told] == [
        ("goes", "CancelRejected", None),
        ("stays", "TradeExecuted", 5),
        ("shrinks", "TradeExecuted", 4),
        ("moves", "TradeExecuted", 6),
    ]
    assert told[-1]["venue_order_id"] == "V1"
    assert {each["leaves_lots"] for each in told[1:]} == {0}


async def test_kills_in_the_middle_of_requests_lose_and_double_nothing(client: Client) -> None:
    """Whatever was answered is there after the kill; what was not is sent again and taken once."""
    orders = [f"o{number}" for number in range(3_000)]
    await client.orders(*map(an_order, orders))
    for round_number in range(3):
        named = orders[round_number * 1_000 : (round_number + 1) * 1_000]
        requests = [a_cancel(f"c-{name}", name) for name in named]
        sending = asyncio.create_task(client.ask(*requests))
        await asyncio.sleep(0.02 * (round_number + 1))
        client.venue.kill()
        try:
            answered = await sending
        except aiohttp.ClientError:
            answered = None
        client.venue.start()
        ids = [each["request_id"] for each in requests]
        known = (await client.post("/requests/query", {"request_ids": ids}))["known"]
        assert known in ([], ids)
        assert answered is None or known == ids
        assert (await client.ask(*requests))["duplicates"] == known
    reports = (await client.reports(6_000))[3_000:]
    assert set(types(reports)) == {"OrderCancelled"}
    assert [each["order_id"] for each in reports] == orders
    assert client.venue.ledger("SELECT DISTINCT outcome FROM requests") == [("cancelled",)]


# Report streams


async def test_a_stream_resumes_after_the_sequence_it_is_given(client: Client) -> None:
    await client.orders(*(an_order(f"a{number}") for number in range(1_300)))
    assert sequences(await client.reports(1_300)) == list(range(1, 1_301))
    assert sequences(await client.reports(3, after=1_297)) == [1_298, 1_299, 1_300]
    async with client.stream(after=1_300) as stream:
        assert await stream.is_silent()
    async with client.stream(after=1_300) as stream:
        await client.orders(an_order("live"))
        assert sequences(await stream.read(1)) == [1_301]


async def test_a_new_stream_replaces_the_one_before(client: Client) -> None:
    async with client.stream() as old, client.stream() as new:
        assert await old.close_code() == 4001
        await client.orders(an_order("a"))
        assert sequences(await new.read(1)) == [1]


async def test_one_stream_has_the_reports_of_all_the_sessions_it_names(client: Client) -> None:
    for number in range(700):
        await client.orders(
            an_order(f"a{number}"), an_order(f"b{number}", account_id="bob"), session=number % 3
        )
    async with client.stream(0, 100, s1=0, s9=0) as stream:
        reports = await stream.read(468 - 100 + 466)
        assert await stream.is_silent()
        await client.orders(an_order("live"), session=9)
        await client.orders(an_order("elsewhere"), session=2)
        assert [(each["session"], each["order_id"]) for each in await stream.read(1)] == [(9, "live")]
    for session, first, last in ((0, 101, 468), (1, 1, 466)):
        own = [report for report in reports if report["session"] == session]
        assert sequences(own) == list(range(first, last + 1))


async def test_a_stream_is_replaced_by_one_that_shares_a_session_and_not_by_others(client: Client) -> None:
    async with client.stream(1, 0, s2=0) as old, client.stream(3) as other, client.stream(2):
        assert await old.close_code() == 4001
        await client.orders(an_order("a"), session=3)
        assert sequences(await other.read(1)) == [1]


async def test_one_call_may_have_orders_of_many_sessions(client: Client) -> None:
    orders = [{"session": number, **an_order(f"a{number}")} for number in range(256)]
    answer = await client.post("/orders", {"sessions": dict.fromkeys(range(256), 7), "orders": orders})
    assert len(answer["accepted"]) == 256
    everything = {f"s{number}": 0 for number in range(1, 256)}
    async with client.stream(0, 0, **everything) as stream:
        assert {report["session"] for report in await stream.read(256)} == set(range(256))


async def test_added_fields_are_on_the_next_answers_and_frames(client: Client) -> None:
    await client.post("/faults", {"added_fields": 2})
    assert "added_on_demand" in await client.orders(an_order("a"))
    async with client.stream() as stream:
        assert (await stream.frame())[0]["added_on_demand"] is True
        assert "added_on_demand" not in await client.orders(an_order("b"))
        assert "added_on_demand" not in (await stream.frame())[0]


async def test_a_feed_that_counts_anew_under_a_higher_epoch_moves_the_market(client: Client) -> None:
    await client.tick(900)
    answer = await client.post("/market", {"ticks": [a_tick(1, LAST + 1) | {"epoch": 1, "later_field": 2}]})
    assert answer["applied"] == 1
    client.venue.kill()
    client.venue.start()
    assert (await client.tick(901))["repeated"] == 1


async def test_an_instrument_that_is_gone_from_the_file_does_not_stop_the_venue(
    client: Client, tmp_path: Path
) -> None:
    await client.orders(an_order("rest"))
    assert client.venue.stop() == 0
    fewer = tmp_path / "fewer.json"
    rows = json.loads(DEMO.read_text())["instruments"]
    fewer.write_text(json.dumps({"instruments": [row for row in rows if row["symbol"] != "BTC-USD"]}))
    client.venue.options = (*client.venue.options, "--instruments", str(fewer))
    client.venue.start()
    await client.orders(an_order("late"))
    assert (await client.tick(2))["not_listed"] == 1
    assert [each.get("reason") for each in await client.reports(2)] == [None, "unknown_symbol"]
    assert client.venue.ledger("SELECT status FROM orders ORDER BY arrival") == [("open",), ("rejected",)]


async def test_a_client_that_reads_nothing_holds_up_nobody_and_resumes(client: Client) -> None:
    with _deaf_stream(client.venue, session=5):
        for batch in range(12):
            await client.orders(*(an_order(f"{batch}-{n}") for n in range(2_000)), session=5)
        await client.orders(an_order("other"), session=6)
        assert len(await client.reports(1, session=6)) == 1
        assert sequences(await client.reports(24_000, session=5)) == list(range(1, 24_001))


def _deaf_stream(venue: VenueProcess, session: int) -> socket.socket:
    """A report stream that is opened and never read; its buffers take less than a MiB."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    deaf.connect(("127.0.0.1", int(venue.url.rsplit(":", 1)[1])))
    head = [
        f"GET /reports?after={session}:0 HTTP/1.1",
        "Host: venue",
        f"Authorization: Bearer {TOKEN}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    deaf.sendall("\r\n".join([*head, "", ""]).encode())
    assert deaf.recv(12) == b"HTTP/1.1 101"
    return deaf


async def test_a_stream_from_a_ledger_that_is_ahead_is_refused(client: Client) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.reports(1, after=10)
    assert refused.value.status == 409


# Restarts


async def test_after_a_kill_book_ledger_and_reports_continue(client: Client) -> None:
    await client.orders(an_order("first", "sell", account_id="bob"), an_order("second", "sell"), session=3)
    await client.tick(2, LAST + 5, 0)
    await client.tick(3, LAST, 2)
    client.venue.kill()
    client.venue.start()
    assert await client.tick(3, LAST, 50) == {"applied": 0, "repeated": 1, "not_listed": 0}
    assert (await client.orders(an_order("first"), session=3))["duplicates"] == ["first"]
    await client.orders(an_order("in", "buy", 6, account_id="carol"), session=3)
    reports = await client.reports(8, session=3)
    assert sequences(reports) == list(range(1, 9))
    fills = [
        (report["order_id"], report["quantity_lots"], report["leaves_lots"], report["trade_id"])
        for report in reports
        if report["type"] == "TradeExecuted"
    ]
    assert fills == [
        ("first", 2, 3, "T1S"),
        ("in", 3, 3, "T2B"),
        ("first", 3, 0, "T2S"),
        ("in", 3, 0, "T3B"),
        ("second", 3, 2, "T3S"),
    ]
    assert reports[4]["venue_order_id"] == "V3"


async def test_kills_in_the_middle_of_orders_lose_and_double_nothing(client: Client) -> None:
    """Whatever was answered is there after the kill; what was not is sent again and taken once."""
    sent: list[str] = []
    for round_number in range(3):
        ids = [f"{round_number}-{number}" for number in range(4_000)]
        sending = asyncio.create_task(client.orders(*map(an_order, ids)))
        await asyncio.sleep(0.03 * (round_number + 1))
        client.venue.kill()
        try:
            answered = await sending
        except aiohttp.ClientError:
            answered = None
        client.venue.start()
        known = (await client.post("/orders/query", {"client_order_ids": ids}))["known"]
        assert known in ([], ids)
        assert answered is None or known == ids
        again = await client.orders(*map(an_order, ids))
        assert again["duplicates"] == known
        sent += ids
    reports = await client.reports(len(sent))
    assert [report["order_id"] for report in reports] == sent
    assert sequences(reports) == list(range(1, len(sent) + 1))


async def test_what_was_left_of_the_last_market_trade_outlives_a_kill(client: Client) -> None:
    await client.tick(2, LAST, 4)
    await client.orders(an_order("a", quantity_lots=1))
    client.venue.kill()
    client.venue.start()
    await client.orders(an_order("b", quantity_lots=9))
    assert (await client.reports(4))[3]["quantity_lots"] == 3


async def test_a_closed_market_stays_closed_over_a_restart(client: Client) -> None:
    await client.post("/close", {})
    assert client.venue.stop() == 0
    client.venue.start()
    await client.orders(an_order("a"))
    assert (await client.reports(1))[0]["reason"] == "market_closed"


# Faults


async def test_hang_delays_the_next_answers_only(client: Client) -> None:
    await client.post("/faults", {"hang_ms": 300, "requests": 2})
    assert await _seconds(client.orders(an_order("a"))) >= 0.3
    assert await _seconds(client.tick(2)) >= 0.3
    assert await _seconds(client.orders(an_order("b"))) < 0.3


async def test_hang_for_a_time_ends_with_it_and_the_order_is_taken_at_once(client: Client) -> None:
    await client.post("/faults", {"hang_ms": 400, "for_ms": 200})
    answer = asyncio.create_task(client.orders(an_order("a")))
    assert len(await client.reports(1)) == 1
    assert not answer.done()
    await answer
    assert await _seconds(client.orders(an_order("b"))) < 0.4


async def test_a_dropped_acknowledgement_is_an_order_taken_without_an_answer(client: Client) -> None:
    await client.post("/faults", {"drop_acks": 2})
    for order_id in ("a", "b"):
        with pytest.raises(aiohttp.ClientError):
            await client.orders(an_order(order_id))
    assert await client.post("/orders/query", {"client_order_ids": ["a", "b"]}) == {"known": ["a", "b"]}
    assert (await client.orders(an_order("a")))["duplicates"] == ["a"]


async def test_duplicate_reports_sends_the_next_frames_twice(client: Client) -> None:
    await client.post("/faults", {"duplicate_reports": 1})
    await client.orders(an_order("a"))
    async with client.stream() as stream:
        assert sequences(await stream.frame() + await stream.frame()) == [1, 1]
        await client.orders(an_order("b"))
        assert sequences(await stream.frame()) == [2]
        assert await stream.is_silent()


async def test_reject_next_refuses_new_orders_on_demand(client: Client) -> None:
    await client.orders(an_order("known"))
    await client.post("/faults", {"reject_next": 2})
    await client.orders(an_order("known"), an_order("a"), an_order("b"), an_order("c"))
    reports = await client.reports(4)
    assert [report.get("reason") for report in reports] == [
        None,
        "rejected_on_demand",
        "rejected_on_demand",
        None,
    ]


async def test_orders_that_come_to_rest_are_cancelled_unasked(client: Client) -> None:
    await client.post("/faults", {"cancel_next": 1})
    await client.orders(an_order("ioc", time_in_force="ioc"), an_order("far", price_ticks=9 * LAST))
    await client.orders(an_order("a"), an_order("b"))
    told = await client.reports(6)
    assert [(each["order_id"], each["type"]) for each in told[2:]] == [
        ("far", "VenueRejected"),
        ("a", "OrderAcknowledged"),
        ("a", "OrderCancelled"),
        ("b", "OrderAcknowledged"),
    ]
    assert (told[4]["cancelled_lots"], told[4]["request_id"]) == (5, None)


async def test_requests_are_refused_on_demand(client: Client) -> None:
    await client.orders(an_order("a"))
    await client.post("/faults", {"reject_requests_next": 2})
    await client.ask(a_cancel("c1", "a"), a_replace("r1", "a", 3), a_cancel("c2", "a"))
    told = (await client.reports(4))[1:]
    assert [each.get("reason") for each in told] == ["rejected_on_demand", "rejected_on_demand", None]


async def test_the_faults_of_orders_are_those_of_requests(client: Client) -> None:
    await client.orders(an_order("a"))
    await client.post("/faults", {"hang_ms": 300, "requests": 1, "added_fields": 1})
    started = time.monotonic()
    assert "added_on_demand" in await client.ask(a_replace("r1", "a", 4))
    assert time.monotonic() - started >= 0.3
    await client.post("/faults", {"drop_acks": 1})
    with pytest.raises(aiohttp.ClientError):
        await client.ask(a_cancel("c1", "a"))
    assert (await client.post("/requests/query", {"request_ids": ["c1"]})) == {"known": ["c1"]}
    await client.post("/faults", {"error_rate_per_mille": 1_000})
    assert (await client.try_post("/requests", a_request_call(a_cancel("c2", "a"))))[0] == 500
    await client.post("/faults", {"error_rate_per_mille": 0, "unavailable_ms": 60_000})
    assert (await client.try_post("/requests/query", {"request_ids": ["c2"]}))[0] == 503
    await client.post("/faults", {"unavailable_ms": 0})
    assert (await client.post("/requests/query", {"request_ids": ["c2"]})) == {"known": []}


async def test_unavailable_refuses_calls_and_cuts_streams_until_it_is_over(client: Client) -> None:
    async with client.stream() as stream:
        await client.post("/faults", {"unavailable_ms": 500})
        assert await stream.close_code() == aiohttp.WSCloseCode.TRY_AGAIN_LATER
    assert (await client.try_post("/orders", a_call(an_order("a"))))[0] == 503
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await client.reports(1)
    await asyncio.sleep(0.5)
    assert (await client.orders(an_order("a")))["accepted"] == ["a"]


async def test_the_error_rate_is_spread_evenly_and_what_failed_is_not_done(client: Client) -> None:
    await client.post("/faults", {"error_rate_per_mille": 250})
    body = a_call(an_order("a"))
    statuses = [(await client.try_post("/orders", body))[0] for _ in range(8)]
    assert statuses == [200, 200, 200, 500] * 2
    await client.post("/faults", {"error_rate_per_mille": 0})
    assert client.venue.ledger("SELECT receipts FROM orders") == [(6,)]


async def test_faults_are_told_and_taken_back(client: Client) -> None:
    await client.post("/faults", {"drop_acks": 3, "hang_ms": 5_000, "for_ms": 60_000})
    left = await client.post("/faults", {"drop_acks": 0, "hang_ms": 0})
    assert (left["drop_acks"], left["hang_ms"], left["for_ms"]) == (0, 0, 0)
    assert await _seconds(client.orders(an_order("a"))) < 1


async def _seconds(call: Any) -> float:
    started = time.monotonic()
    await call
    return time.monotonic() - started


# Bad input


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VenueProcess]:
    """One venue for many tests: none of them may change it."""
    venue = VenueProcess(tmp_path_factory.mktemp("untouched"), "--die-with-parent")
    yield venue
    venue.kill()


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer ", "Bearer \u00e9"])
async def test_nothing_is_answered_without_the_token(untouched: VenueProcess, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with aiohttp.ClientSession(headers=headers) as http:
        for method, path in [
            ("POST", "/orders"),
            ("GET", "/health"),
            ("GET", "/reports?after=0:0"),
            ("GET", "/x"),
        ]:
            async with http.request(method, untouched.url + path) as response:
                assert response.status == 401
                assert (await response.json()).keys() == {"error", "where", "what_to_do"}


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/orders", b"", "the body"),
        ("/orders", b"\xff", "the body"),
        ("/orders", b"[]", "the body"),
        ("/orders", b'{"sessions": {"0": 0}, "orders": [{"client_order_id": "\\ud800"}]}', "the body"),
        ("/orders", b'{"sessions": {"0": 0}, "orders": ' + b"[" * 100_000, "orders[0]"),
        ("/orders", {"sessions": {}}, "the body"),
        ("/orders", {"sessions": {"-1": 0}, "orders": []}, "the body"),
        ("/orders", {"sessions": {"0": -1}, "orders": []}, "sessions[...]"),
        ("/orders", {"sessions": {"x": 1}, "orders": []}, "the body"),
        ("/orders", {"sessions": {"1": 1}, "orders": [{"session": 2, **an_order("a")}]}, "orders[0].session"),
        ("/orders", {"sessions": {"1": 1}, "orders": [an_order("a")]}, "orders[0]"),
        ("/orders", a_call(an_order("good"), an_order("")), "orders[1].client_order_id"),
        ("/orders", a_call(an_order("a", quantity_lots=0)), "orders[0].quantity_lots"),
        ("/orders", a_call(an_order("a", quantity_lots=10**30)), "orders[0].quantity_lots"),
        ("/orders", a_call(an_order("a", price_ticks=1.5)), "orders[0].price_ticks"),
        ("/orders", a_call(an_order("a", side="both")), "orders[0].side"),
        ("/orders", a_call(an_order("a", extra=1)), "orders[0]"),
        ("/orders", a_call(*[an_order("a")] * 10_001), "orders"),
        ("/orders/query", {"client_order_ids": [1]}, "client_order_ids[0]"),
        ("/requests", {"sessions": {"1": 1}, "requests": [a_cancel("c", "a")]}, "requests[0]"),
        (
            "/requests",
            {"sessions": {"1": 1}, "requests": [{"session": 2, **a_cancel("c", "a")}]},
            "requests[0].session",
        ),
        ("/requests", a_request_call(a_cancel("c", "a", kind="erase")), "requests[0].kind"),
        ("/requests", a_request_call(a_cancel("c", "a", kind="replace")), "requests[0]"),
        ("/requests", a_request_call(a_cancel("c", "a", price_ticks=1)), "requests[0].price_ticks"),
        ("/requests", a_request_call(a_cancel("", "a")), "requests[0].request_id"),
        ("/requests", a_request_call(a_cancel("c", "a", extra=1)), "requests[0]"),
        ("/requests", a_request_call(a_replace("r", "a", 0)), "requests[0].quantity_lots"),
        ("/requests", a_request_call(a_replace("r", "a", 1, price_ticks=2**63)), "requests[0].price_ticks"),
        ("/requests", a_request_call(*[a_cancel("c", "a")] * 10_001), "requests"),
        ("/requests/query", {"request_ids": [1]}, "request_ids[0]"),
        ("/market", {"ticks": [a_tick(2), a_tick(3, price_ticks=0)]}, "ticks[1].price_ticks"),
        ("/market", {"ticks": [a_tick(2) | {"symbol": "DOGE-USD"}]}, "ticks[0].symbol"),
        ("/faults", {"hang_ms": 5}, "hang_ms, requests, for_ms"),
        ("/faults", {"explode": 1}, "the body"),
    ],
)
async def test_bad_input_is_refused_whole(
    untouched: VenueProcess, path: str, body: object, where: str
) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        status, answer = await Client(untouched, http).try_post(path, body)
    assert (status, answer["where"]) == (400, where)
    assert answer["error"]
    assert answer["what_to_do"]
    assert untouched.ledger("SELECT count(*) FROM orders") == [(0,)]
    assert untouched.ledger("SELECT count(*) FROM requests") == [(0,)]
    assert untouched.ledger("SELECT count(*) FROM markets") == [(0,)]


async def test_a_body_that_is_too_large_and_a_path_nobody_has_are_refused_in_json(client: Client) -> None:
    status, answer = await client.try_post("/orders", b" " * (16 * 1024 * 1024 + 1))
    assert (status, answer["what_to_do"]) == (413, "send at most 16777216 bytes")
    assert (await client.try_post("/nothing", {}))[0] == 404
    assert (await client.try_post("/health", {}))[0] == 405


@pytest.mark.parametrize(
    "path", ["/reports", *(f"/reports?after={named}" for named in ("x:0", "-1:0", "0:x", "0", "0:0,,1:0"))]
)
async def test_a_stream_with_a_bad_address_is_refused(client: Client, path: str) -> None:
    async with client.http.get(client.venue.url + path) as response:
        assert response.status == 400


# The process


def test_it_starts_within_a_second_and_stops_cleanly(tmp_path: Path) -> None:
    started = time.monotonic()
    venue = VenueProcess(tmp_path)
    seconds = time.monotonic() - started
    assert venue.stop() == 0
    assert not (tmp_path / "ledger.sqlite-wal").exists()
    assert seconds < 3  # under 1 s on an idle machine


async def test_it_stops_cleanly_with_open_streams(client: Client) -> None:
    async with client.stream() as stream:
        client.venue.process.send_signal(signal.SIGTERM)
        assert await stream.close_code() == aiohttp.WSCloseCode.GOING_AWAY
    assert await asyncio.to_thread(client.venue.process.wait, STOP_S_MAX) == 0


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys, time\n"
        "venue = subprocess.Popen([sys.executable, '-m', 'venue', '--port', '0', '--data-dir', sys.argv[1],"
        " '--die-with-parent'], stdout=subprocess.PIPE)\n"
        "venue.stdout.readline()\n"
        "print(venue.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path)],
        env={**os.environ, "VENUE_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + STOP_S_MAX
    while _is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_two_venues_never_share_a_ledger(venue: VenueProcess) -> None:
    _fails_with_one_line(venue.data_dir, f"in use by another venue (process {venue.process.pid})")


def test_without_a_token_it_does_not_start(tmp_path: Path) -> None:
    _fails_with_one_line(tmp_path, "VENUE_TOKEN is not set", token="")


def test_a_taken_port_is_one_line(venue: VenueProcess, tmp_path: Path) -> None:
    port = venue.url.rsplit(":", 1)[1]
    _fails_with_one_line(tmp_path / "other", "address already in use", port=port)


def test_a_ledger_of_before_whose_accounts_are_astray_is_refused_in_one_line_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    LedgerBefore(tmp_path / "ledger.sqlite", 8).place("somebody", session=6)
    _fails_with_one_line(tmp_path, "Let that release end its orders, then begin with an empty data directory")


def test_a_file_of_instruments_that_is_none_is_one_line(tmp_path: Path) -> None:
    _fails_with_one_line(tmp_path, "is no file of instruments", instruments=tmp_path / "none.json")


def test_a_ledger_of_another_version_is_one_line(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    _fails_with_one_line(tmp_path, "is a ledger of version 99")


def _fails_with_one_line(
    data_dir: Path, what: str, *, token: str = TOKEN, port: str = "0", instruments: Path = DEMO
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "venue", "--port", port, *_where(data_dir, instruments)],
        env={**os.environ, "VENUE_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=STOP_S_MAX,
        check=False,
    )
    assert ended.returncode == 2
    assert what in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


async def test_an_owner_of_a_session_whose_successor_has_spoken_is_refused(client: Client) -> None:
    await client.post("/orders/query", {"sessions": {3: 8, 4: 8}, "client_order_ids": ["a"]})
    status, answer = await client.try_post("/orders", a_call(an_order("a"), session=3, epoch=7))
    assert status == 409
    assert "8 has taken the session" in answer["error"]
    assert (await client.post("/orders/query", {"client_order_ids": ["a"]}))["known"] == []
    await client.post("/orders", a_call(an_order("a"), session=3, epoch=8))
    assert (await client.post("/orders/query", {"client_order_ids": ["a"]}))["known"] == ["a"]
