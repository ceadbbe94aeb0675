"""The web view of a service on each worker's own web server: its tables, for people and as JSON. Read only.

Whichever worker is asked, lists cover all workers and a record is fetched from where it is. What is shown is
committed. `attach(app)` adds it; then there are

    /                             the service: tables, tasks, workers, other services
    /tables/<table>/              keys: ?q= what they contain, &match=start what they begin with,
                                  &after= the key to go on behind, &limit= how many
    /tables/<table>/<key>         one record; a slash in the key is %2F (or a slash)
    /api/...                      the JSON of each of these
    /dead-letters/                the service's last dead letters, and the keys that wait behind one
    /dead-letters/<partition>/<offset>    one of them, by its place in the topic
    /static/...                   the style, and the script that keeps a page fresh
    /state                        of this worker: offset, count and SHA-256 of its tables and its standbys'
    /status                       of this worker: partitions owned, standbys and their lag
    /metrics                      the same for Prometheus
    /ready                        200, or 503 with the reasons
    /alive                        200, or 503 while stuck
    /worker...                    what this worker has itself: what the others ask
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from app.engine.core.dead_letter import QUARANTINE
from app.engine.state.table import Table
from app.engine.web.cluster import Absent, Workers
from app.engine.web.letters import DeadLetters, KafkaAway, LetterReader, WholeLetter, dead_letters
from app.engine.web.metrics import WorkerMetrics, exposed
from app.engine.web.pages import InWords, Pages
from app.engine.web.read import LIMIT_DEFAULT, LIMIT_MAX, QUERY_CHARS_MAX, Busy, Match, Query, Reader
from app.engine.web.status import status
from app.engine.web.templating import STATIC

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FOR_LONG = {"Cache-Control": "public, max-age=31536000, immutable"}
"""Of static files: a changed one has another address."""


class Refused(Exception):
    """A request that is answered with an error: its status, a title and a text for people."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.title = title


def _no_words(path: Sequence[str], value: int, within: Sequence[Mapping[str, Any]]) -> None:
    return None


def attach(app: Any, *, services: Mapping[str, str] | None = None, in_words: InWords = _no_words) -> None:
    """Add the web view to an app's web server.

    `services` has an address of each service, by name, "" for one that has none now, and whoever made it may
    change it at any time; `in_words` says what integers mean.
    """
    site = Site(app, services or {}, in_words)
    server = app.web.web_app
    server.middlewares.append(site.answer_errors)
    for path, handler in site.routes():
        server.router.add_get(path, handler, name=handler.__name__)  # before Faust's own: the first one wins


class Site:
    """Requests in, responses out."""

    def __init__(self, app: Any, services: Mapping[str, str], in_words: InWords) -> None:
        self._app = app
        self._reader = Reader(app)
        self._workers = Workers(app, self._reader, services)
        self._metrics = WorkerMetrics(app)
        self._letters = LetterReader(app)
        self._pages = Pages(app.conf.id, services, in_words)

    def routes(self) -> list[tuple[str, Handler]]:
        anything = r"{key:[\s\S]+}"
        place = r"{partition:\d{1,9}}/{offset:\d{1,18}}"
        return [
            ("/", self.overview_page),
            ("/tables/{table}/" + anything, self.record_page),
            (r"/tables/{table:[^{}/]+/?}", self.list_page),
            (r"/dead-letters{slash:/?}", self.letters_page),
            ("/dead-letters/" + place, self.letter_page),
            ("/api/", self.overview_json),
            ("/api/tables/{table}/" + anything, self.record_json),
            (r"/api/tables/{table:[^{}/]+/?}", self.list_json),
            (r"/api/dead-letters{slash:/?}", self.letters_json),
            ("/api/dead-letters/" + place, self.letter_json),
            ("/static/{name}", self.static),
            ("/state", self.state),
            ("/status", self.status),
            ("/metrics", self.metrics),
            ("/ready", self.ready),
            ("/alive", self.alive),
            ("/worker", self.worker),
            ("/worker/tables/{table}", self.worker_rows),
            ("/worker/tables/{table}/record", self.worker_record),
        ]

    # -- for people

    async def overview_page(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        overview = await self._workers.overview()
        return _html(self._pages.overview(overview, self._tables, time.perf_counter() - started))

    async def list_page(self, request: web.Request) -> web.Response:
        if "key" in request.query:
            return await self._record_page(request, request.query["key"])
        started = time.perf_counter()
        table = self._table(request)
        page = await self._workers.page(table, _query(request))
        seconds = time.perf_counter() - started
        return _html(self._pages.listing(page, table, self._tables, self._workers.own_url, seconds))

    async def record_page(self, request: web.Request) -> web.Response:
        return await self._record_page(request, request.match_info["key"])

    async def _record_page(self, request: web.Request, key: str) -> web.Response:
        started = time.perf_counter()
        table = self._table(request)
        own_url = self._workers.own_url
        record = await self._workers.record(table, _key(key))
        if isinstance(record, Absent):
            text = self._pages.absent(table, key, record, self._tables, own_url)
            return _html(text, _status(record))
        return _html(self._pages.record(record, self._tables, own_url, time.perf_counter() - started))

    async def letters_page(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        found = await self._dead_letters()
        seconds = time.perf_counter() - started
        text = self._pages.letters(found, self._tables, self._workers.own_url, seconds)
        return _html(text, 503 if found.problem else 200)

    async def letter_page(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        letter = await self._letter(request)
        seconds = time.perf_counter() - started
        return _html(self._pages.letter(letter, self._tables, self._workers.own_url, seconds))

    async def static(self, request: web.Request) -> web.Response:
        found = STATIC.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": found.content_type, **FOR_LONG}
        return web.Response(body=found.content, headers=headers)

    # -- as JSON

    async def overview_json(self, request: web.Request) -> web.Response:
        return _json(await self._workers.overview())

    async def list_json(self, request: web.Request) -> web.Response:
        if "key" in request.query:
            return await self._record_json(request, request.query["key"])
        return _json(await self._workers.page(self._table(request), _query(request)))

    async def record_json(self, request: web.Request) -> web.Response:
        return await self._record_json(request, request.match_info["key"])

    async def _record_json(self, request: web.Request, key: str) -> web.Response:
        table = self._table(request)
        record = await self._workers.record(table, _key(key))
        if isinstance(record, Absent):
            error = {"error": "no such record" if record.certain else "not to be said at the moment"}
            return _json(
                error | {"table": table.name, "key": key} | msgspec.to_builtins(record), _status(record)
            )
        return _json(record)

    async def letters_json(self, request: web.Request) -> web.Response:
        found = await self._dead_letters()
        return _json(found, 503 if found.problem else 200)

    async def letter_json(self, request: web.Request) -> web.Response:
        return _json(await self._letter(request))

    # -- of this worker

    async def state(self, request: web.Request) -> web.Response:
        tables = await self._reader.states()
        return _json({"tables": tables, "standbys": await self._reader.standby_states()})

    async def status(self, request: web.Request) -> web.Response:
        return _json(status(self._app))

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = exposed(self._metrics, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def ready(self, request: web.Request) -> web.Response:
        reasons = self._app.not_ready()
        answer = {"service": self._app.conf.id, "ready": not reasons, "reasons": reasons}
        return _json(answer, 503 if reasons else 200)

    async def alive(self, request: web.Request) -> web.Response:
        alive = not self._app.tables.watchdog.stuck
        return _json({"service": self._app.conf.id, "alive": alive}, 200 if alive else 503)

    async def worker(self, request: web.Request) -> web.Response:
        return _json(await self._reader.report())

    async def worker_rows(self, request: web.Request) -> web.Response:
        table = self._declared_table(request)
        return _json(await self._reader.rows(table.name, _partitions(request), _query(request)))

    async def worker_record(self, request: web.Request) -> web.Response:
        table = self._declared_table(request)
        return _json(self._reader.find(table.name, _key(request.query.get("key", ""))))

    # -- what they share

    @property
    def _tables(self) -> list[Table]:
        return self._reader.tables()

    async def _dead_letters(self) -> DeadLetters:
        quarantine = next(table for table in self._tables if table.name == QUARANTINE)
        return await dead_letters(self._app.conf.id, self._letters, self._workers, quarantine)

    async def _letter(self, request: web.Request) -> WholeLetter:
        partition, offset = (int(request.match_info[name]) for name in ("partition", "offset"))
        try:
            letter = await self._letters.one(partition, offset)
        except KafkaAway as error:
            raise Refused(503, "It cannot be read now", str(error)) from None
        if letter is None:
            place = f"{self._letters.topic}/{partition}/{offset}"
            raise Refused(404, "No such dead letter", f"There is no dead letter at {place}.")
        return letter

    def _declared_table(self, request: web.Request) -> Table:
        name = request.match_info["table"].rstrip("/")
        for table in self._tables:
            if table.name == name:
                return table
        known = ", ".join(sorted(table.name for table in self._tables))
        raise Refused(404, "No such table", f"{self._app.conf.id} has no table {name!r}; its tables: {known}")

    def _table(self, request: web.Request) -> Table:
        table = self._declared_table(request)
        if not self._workers.owners(table):
            raise Refused(503, "Not ready", "The group has not assigned any partitions yet: try again soon.")
        return table

    @web.middleware
    async def answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every answer gets the headers; an error is told as HTML, or as JSON where JSON was asked for."""
        try:
            response = await handler(request)
        except Refused as refused:
            response = self._refusal(request, refused)
        except Busy as busy:
            response = self._refusal(request, Refused(503, "Busy", str(busy)))
        except web.HTTPNotFound:
            text = f"There is nothing at {request.path[:200]} here."
            response = self._refusal(request, Refused(404, "Not found", text))
        response.headers.update({**HEADERS, **response.headers})
        return response

    def _refusal(self, request: web.Request, refused: Refused) -> web.Response:
        if request.path.startswith(("/api/", "/worker/", "/state")):
            return _json({"error": str(refused)}, refused.status)
        text = self._pages.refusal(refused.title, str(refused), self._tables, self._workers.own_url)
        return _html(text, refused.status)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html")


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _status(absent: Absent) -> int:
    return 404 if absent.certain else 503


def _query(request: web.Request) -> Query:
    """The query of a list. Raises Refused for what it cannot be."""
    asked = request.query
    text, match, limit = asked.get("q", ""), asked.get("match") or "anywhere", asked.get("limit") or ""
    if len(text) > QUERY_CHARS_MAX:
        raise Refused(
            400, "Too long", f"q has {len(text)} characters; at most {QUERY_CHARS_MAX} are looked for"
        )
    if match not in ("anywhere", "start"):
        raise Refused(400, "Bad request", f"match is {match[:20]!r}; it can be anywhere or start")
    if limit and not (limit.isascii() and limit.isdecimal() and len(limit) < 10 and int(limit)):
        raise Refused(
            400, "Bad request", f"limit is {limit[:20]!r}; it can be a number from 1 to {LIMIT_MAX}"
        )
    after = asked.get("after")
    chosen: Match = "start" if match == "start" else "anywhere"
    return Query(
        _key(text),
        chosen,
        None if after is None else _key(after),
        min(int(limit or LIMIT_DEFAULT), LIMIT_MAX),
    )


def _partitions(request: web.Request) -> list[int] | None:
    """The partitions that are meant, None for all."""
    text = request.query.get("partitions")
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise Refused(400, "Bad request", f"partitions is {text[:40]!r}; it can be like 0,1,2") from None


def _key(text: str) -> str:
    """A key is UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, "Bad request", "a key is UTF-8 text") from None
    return text
