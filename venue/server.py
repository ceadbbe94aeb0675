"""The venue on the network: REST for orders, requests, market and faults, a WebSocket for sessions' reports.

Every answer is JSON; one that refuses is `{"error": what, "where": where, "what_to_do": what to do}`.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from venue.errors import BadRequestError
from venue.exchange import Exchange, Submission
from venue.faults import Faults
from venue.reports import frame_of
from venue.requests import (
    BODY_BYTES_MAX,
    read_after,
    read_faults,
    read_market,
    read_orders,
    read_query,
    read_requests,
    read_requests_query,
)

REPORTS_PATH = "/reports"
REPORTS_PER_FRAME_MAX = 500
STREAM_HEARTBEAT_S = 20.0
STREAM_CLOSE_S = 1.0
CLIENT_MESSAGE_BYTES_MAX = 1_024
REPLACED_CODE = 4001
"""Close code of a report stream when one of its sessions was opened again."""

ADDED_FIELD = "added_on_demand"

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Stream:
    """An open report stream: `after` is what was sent of each of its sessions, `waiting` has those that may
    have more.
    """

    def __init__(self, after: Mapping[int, int]) -> None:
        self.after = dict(after)
        self.waiting = dict.fromkeys(after)
        self.fresh = asyncio.Event()
        self.cut = asyncio.Event()
        self.cut_code: int = WSCloseCode.OK
        self.cut_why = ""

    def wake(self, session: int) -> None:
        self.waiting[session] = None
        self.fresh.set()

    def end(self, code: int, why: str) -> None:
        self.cut_code, self.cut_why = code, why
        self.cut.set()


class Server:
    """Handlers of one exchange. State changes run without a pause, so that requests never interleave."""

    def __init__(self, exchange: Exchange, token: str) -> None:
        self._exchange = exchange
        exchange.on_reports = self._wake_stream
        self._expected = f"Bearer {token}".encode()
        self._faults = Faults(clock_ms=lambda: time.monotonic_ns() // 1_000_000)
        self._streams: dict[int, _Stream] = {}

    def application(self) -> web.Application:
        application = web.Application(
            client_max_size=BODY_BYTES_MAX,
            middlewares=[_errors_as_json, self._only_with_token, self._with_faults],
        )
        application.add_routes(
            [
                web.post("/orders", self._orders),
                web.post("/orders/query", self._query),
                web.post("/requests", self._requests),
                web.post("/requests/query", self._requests_query),
                web.get(REPORTS_PATH, self._reports),
                web.post("/market", self._market),
                web.post("/close", self._close),
                web.post("/faults", self._set_faults),
                web.get("/health", self._health),
            ]
        )
        application.on_shutdown.append(self._cut_streams)
        return application

    async def _orders(self, request: web.Request) -> web.Response:
        asked, orders = read_orders(await request.read())
        self._claim(asked.sessions)
        outcome = self._exchange.submit(
            orders,
            rejects_next=lambda: self._faults.take("reject_next"),
            cancels_next=lambda: self._faults.take("cancel_next"),
        )
        return self._acknowledge(request, outcome)

    async def _query(self, request: web.Request) -> web.Response:
        asked = read_query(await request.read())
        self._claim(asked.sessions)
        return self._tell({"known": self._exchange.known(asked.client_order_ids)})

    async def _requests(self, request: web.Request) -> web.Response:
        asked, requests = read_requests(await request.read())
        self._claim(asked.sessions)
        outcome = self._exchange.ask(requests, rejects_next=lambda: self._faults.take("reject_requests_next"))
        return self._acknowledge(request, outcome)

    async def _requests_query(self, request: web.Request) -> web.Response:
        asked = read_requests_query(await request.read())
        self._claim(asked.sessions)
        return self._tell({"known": self._exchange.known_requests(asked.request_ids)})

    def _acknowledge(self, request: web.Request, outcome: Submission) -> web.Response:
        if self._faults.take("drop_acks") and request.transport:
            request.transport.abort()
        return self._tell(outcome._asdict())

    def _tell(self, content: dict[str, object]) -> web.Response:
        if self._faults.take("added_fields"):
            content[ADDED_FIELD] = True
        return _answer(content)

    def _claim(self, epochs: Mapping[int, int]) -> None:
        """Refuse an owner of sessions who has a successor in one of them."""
        if later := self._exchange.claim(epochs):
            session, newest = next(iter(later.items()))
            raise BadRequestError(
                f"epoch {epochs[session]} of session {session} is over: {newest} has taken the session",
                where=f"sessions.{session}",
                what_to_do="stop sending on this session",
                status=409,
            )

    async def _market(self, request: web.Request) -> web.Response:
        ticks = read_market(await request.read(), self._exchange.knows)
        return _answer(self._exchange.move_market(ticks)._asdict())

    async def _close(self, request: web.Request) -> web.Response:
        return _answer({"expired": self._exchange.close_market()})

    async def _set_faults(self, request: web.Request) -> web.Response:
        self._faults.set(read_faults(await request.read()))
        if self._faults.is_unavailable():
            self._end_streams(WSCloseCode.TRY_AGAIN_LATER, "unavailable on demand")
        return _answer(self._faults.left())

    async def _health(self, request: web.Request) -> web.Response:
        return _answer({"status": "up"})

    async def _reports(self, request: web.Request) -> web.StreamResponse:
        after = read_after(request.query.get("after", ""))
        self._refuse_unknown_reports(after)
        socket = web.WebSocketResponse(
            heartbeat=STREAM_HEARTBEAT_S,
            timeout=STREAM_CLOSE_S,
            compress=False,
            max_msg_size=CLIENT_MESSAGE_BYTES_MAX,
        )
        if not socket.can_prepare(request):
            raise BadRequestError(
                "this is a WebSocket", where=request.path, what_to_do="open it with a WebSocket client"
            )
        await socket.prepare(request)
        await self._run_stream(socket, after)
        if request.transport:  # a client that reads nothing would keep the connection for ever
            request.transport.abort()
        return socket

    def _refuse_unknown_reports(self, after: Mapping[int, int]) -> None:
        for session, sequence in after.items():
            last = self._exchange.last_sequence(session)
            if sequence > last:
                raise BadRequestError(
                    f"session {session} has {last} reports, {sequence} were asked for as known",
                    where="after",
                    what_to_do="start the venue with the ledger of this run",
                    status=409,
                )

    def _open_stream(self, after: Mapping[int, int]) -> _Stream:
        """A stream of these sessions; an older one that has any of them ends."""
        for older in {self._streams[session] for session in after if session in self._streams}:
            older.end(REPLACED_CODE, "replaced by a newer connection")
        stream = _Stream(after)
        self._streams.update(dict.fromkeys(after, stream))
        return stream

    async def _run_stream(self, socket: web.WebSocketResponse, after: Mapping[int, int]) -> None:
        """Send and listen until the client goes, or the stream is cut or replaced by a newer one."""
        stream = self._open_stream(after)
        tasks = [
            asyncio.create_task(self._send_reports(socket, stream)),
            asyncio.create_task(_wait_for_close(socket)),
            asyncio.create_task(stream.cut.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for session in after:
                if self._streams.get(session) is stream:
                    del self._streams[session]
            for task in tasks:
                task.cancel()
            failures = await asyncio.gather(*tasks, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, Exception) and not isinstance(failure, ConnectionError):
                _log.error("report stream of sessions %s failed", sorted(after), exc_info=failure)
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(STREAM_CLOSE_S):
                await socket.close(code=stream.cut_code, message=stream.cut_why.encode())

    async def _send_reports(self, socket: web.WebSocketResponse, stream: _Stream) -> None:
        """Read the ledger as fast as the client reads the socket: nothing is queued in between."""
        while True:
            reports = self._next_reports(stream)
            if not reports:
                stream.fresh.clear()
                await stream.fresh.wait()
                continue
            frame = frame_of(reports, f'"{ADDED_FIELD}":true,' if self._faults.take("added_fields") else "")
            await socket.send_str(frame)
            if self._faults.take("duplicate_reports"):
                await socket.send_str(frame)
            await asyncio.sleep(0)

    def _next_reports(self, stream: _Stream) -> list[tuple[int, str]]:
        """A frame of reports that were not sent yet: (session, body), those of a session in order."""
        found: list[tuple[int, str]] = []
        while stream.waiting and (room := REPORTS_PER_FRAME_MAX - len(found)):
            session = next(iter(stream.waiting))
            del stream.waiting[session]
            reports = self._exchange.reports_after(session, stream.after[session], room)
            if reports:
                stream.after[session] = reports[-1][0]
                found += [(session, body) for _, body in reports]
            if len(reports) == room:
                stream.waiting[session] = None  # behind the others, which may have some too
        return found

    def _wake_stream(self, session: int) -> None:
        if stream := self._streams.get(session):
            stream.wake(session)

    def _end_streams(self, code: int, why: str) -> None:
        for stream in set(self._streams.values()):
            stream.end(code, why)

    async def _cut_streams(self, application: web.Application) -> None:
        self._end_streams(WSCloseCode.GOING_AWAY, "the venue stops")

    @web.middleware
    async def _only_with_token(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._expected):
            raise BadRequestError(
                "wrong token" if given else "no token",
                where="header Authorization",
                what_to_do="send Authorization: Bearer and the venue's token",
                status=401,
            )
        return await handler(request)

    @web.middleware
    async def _with_faults(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path == "/faults":
            return await handler(request)
        if self._faults.is_unavailable():
            raise _on_demand("unavailable", request, status=503)
        if self._faults.take_error():
            raise _on_demand("error", request, status=500)
        if request.path == REPORTS_PATH:
            return await handler(request)
        hang_ms = self._faults.take_hang_ms()
        try:
            return await handler(request)
        finally:
            await asyncio.sleep(hang_ms / 1_000)


async def _wait_for_close(socket: web.WebSocketResponse) -> None:
    """Answer pings until the client closes; anything it says ends the stream."""
    message = await socket.receive()
    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
        _log.warning("a client spoke on its report stream, which only sends: closed")


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadRequestError as error:
        return _refuse(error)
    except web.HTTPException as error:
        return _refuse(_as_bad_request(error, request))
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return _refuse(
            BadRequestError(
                "the venue failed, nothing was done",
                where=f"{request.method} {request.path}",
                what_to_do="send it again; the venue's log says what happened",
                status=500,
            )
        )


def _as_bad_request(error: web.HTTPException, request: web.Request) -> BadRequestError:
    what_to_do = "see the table of calls in docs/architecture.md"
    if error.status == web.HTTPRequestEntityTooLarge.status_code:
        what_to_do = f"send at most {BODY_BYTES_MAX} bytes"
    return BadRequestError(
        error.reason, where=f"{request.method} {request.path}", what_to_do=what_to_do, status=error.status
    )


def _on_demand(what: str, request: web.Request, status: int) -> BadRequestError:
    return BadRequestError(
        f"{what} on demand",
        where=f"{request.method} {request.path}",
        what_to_do="send it again later, or take the fault back by POST /faults",
        status=status,
    )


def _refuse(error: BadRequestError) -> web.Response:
    return _answer(
        {"error": error.what, "where": error.where, "what_to_do": error.what_to_do}, status=error.status
    )


def _answer(content: object, status: int = 200) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == web.HTTPUnauthorized.status_code else None
    return web.Response(
        body=msgspec.json.encode(content), status=status, content_type="application/json", headers=headers
    )
