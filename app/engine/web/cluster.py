"""Reads a table over all workers of the service: each answers for its own partitions, in parallel.

A worker that does not answer is named in the answer as missing; it never fails the whole.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from aiohttp import ClientError, ClientTimeout
from yarl import URL

from app.engine.state.table import Table
from app.engine.web.read import Count, Lookup, Query, Reader, Row, Rows, WorkerState

ANSWER_S_MAX = 2.0
ALIVE_S_MAX = 0.7
ANSWER_BYTES_MAX = 32 * 1024 * 1024


class Missing(msgspec.Struct, frozen=True):
    """Partitions that could not be read, of which worker, and why."""

    worker: str
    partitions: list[int]
    reason: str


class Page(msgspec.Struct, frozen=True):
    """Records of all workers in the order of keys; `next` is the cursor of what follows, None at the end."""

    service: str
    table: str
    query: Query
    records: list[Row]
    searched: int
    next: str | None
    missing: list[Missing]


class Record(msgspec.Struct, frozen=True):
    """One record, whole, and where it is."""

    service: str
    table: str
    key: str
    partition: int
    worker: str
    value: msgspec.Raw


class Absent(msgspec.Struct, frozen=True):
    """No worker that answers has the key. `partition` is where it belongs, None if it belongs nowhere.

    `certain` means that the worker which would have it has looked.
    """

    partition: int | None
    owner: str | None
    asked: list[str]
    missing: list[Missing]
    certain: bool


class Worker(msgspec.Struct, frozen=True):
    """A worker of the service, its partitions and its own report, or the reason why there is none."""

    url: str
    partitions: list[int]
    report: WorkerState | None
    reason: str


class Neighbour(msgspec.Struct, frozen=True):
    """Another service, at the address of one of its workers; "" where it has none."""

    service: str
    url: str
    alive: bool


class Overview(msgspec.Struct, frozen=True):
    """The service as seen from `worker`."""

    service: str
    worker: str
    ready: bool
    workers: list[Worker]
    neighbours: list[Neighbour]
    not_ready: Sequence[str] = ()

    @property
    def own(self) -> WorkerState | None:
        return next((each.report for each in self.workers if each.url == self.worker), None)

    @property
    def counts(self) -> list[Count]:
        return [count for each in self.workers if each.report for count in each.report.counts]


class _Answer(NamedTuple):
    """What a worker said of partitions that are its; `value` is None when it said nothing, for `reason`."""

    url: str
    partitions: list[int]
    value: Any
    reason: str = ""

    @property
    def missing(self) -> Missing | None:
        if self.value is None:
            return Missing(self.url, self.partitions, self.reason)
        unread = [each for each in self.partitions if each not in self.value.partitions]
        return Missing(self.url, unread, "restoring, or moving to another worker") if unread else None


class Workers:
    """All workers of the service, this one among them, as the group's last assignment has them."""

    def __init__(self, app: Any, reader: Reader, neighbours: Mapping[str, str]) -> None:
        self._app = app
        self._reader = reader
        self._neighbours = neighbours

    @property
    def own_url(self) -> str:
        return str(self._app.conf.canonical_url).rstrip("/")

    def owners(self, table: Table) -> dict[int, str]:
        """Which worker has which partition of the table; {} before the first assignment."""
        return {
            partition: str(url).rstrip("/")
            for url, topics in self._app.router.tables_metadata().items()
            for partition in topics.get(table.changelog, ())
        }

    async def page(self, table: Table, query: Query) -> Page:
        """Merge what the workers found, no further than each of them has looked."""
        answers = await self._ask(
            _by_owner(self.owners(table)), lambda url, theirs: self._rows(url, table, theirs, query)
        )
        found: list[Rows] = [each.value for each in answers if each.value is not None]
        bound = min((rows.reached for rows in found if rows.reached is not None), default=None)
        merged = heapq.merge(*(rows.records for rows in found), key=attrgetter("key"))
        records = [row for row in merged if bound is None or row.key <= bound]
        shown = records[: query.limit]
        return Page(
            service=self._app.conf.id,
            table=table.name,
            query=query,
            records=shown,
            searched=sum(rows.searched for rows in found),
            next=shown[-1].cursor if len(records) > query.limit else bound,
            missing=_missing(answers),
        )

    async def _rows(self, url: str, table: Table, partitions: list[int], query: Query) -> Rows:
        if url == self.own_url:
            return await self._reader.rows(table.name, partitions, query)
        parameters = {
            "q": query.text,
            "match": query.match,
            "limit": str(query.limit),
            "partitions": ",".join(map(str, partitions)),
        }
        if query.after is not None:
            parameters["after"] = query.after
        rows: Rows = await self._get(URL(url) / "worker/tables" / table.name % parameters, Rows)
        return rows

    async def record(self, table: Table, key: str) -> Record | Absent:
        """Ask the worker that should have the key, then, as keys may stray, the others."""
        owners = self.owners(table)
        partition = home(table, key, len(owners))
        owner = None if partition is None else owners[partition]
        by_owner = _by_owner(owners)
        answers: list[_Answer] = []
        for urls in ([url for url in by_owner if url == owner], [url for url in by_owner if url != owner]):
            answers += await self._ask(
                {url: by_owner[url] for url in urls}, lambda url, _: self._lookup(url, table, key)
            )
            for each in answers:
                if each.value is not None and each.value.found is not None:
                    found = each.value.found
                    return Record(self._app.conf.id, table.name, key, found.partition, each.url, found.value)
        missing = _missing(answers)
        return Absent(
            partition=partition,
            owner=owner,
            asked=[each.url for each in answers if each.value is not None],
            missing=missing,
            certain=bool(owners) and not any(partition in each.partitions for each in missing),
        )

    async def _lookup(self, url: str, table: Table, key: str) -> Lookup:
        if url == self.own_url:
            return self._reader.find(table.name, key)
        address = URL(url) / "worker/tables" / table.name / "record" % {"key": key}
        found: Lookup = await self._get(address, Lookup)
        return found

    async def overview(self) -> Overview:
        """What every worker of the service tells of itself, and who else is up."""
        owners = [self.owners(table) for table in self._reader.tables()]
        by_owner = {self.own_url: list[int]()} | _by_owner({p: u for each in owners for p, u in each.items()})
        answers, neighbours = await asyncio.gather(
            self._ask(by_owner, lambda url, _: self._worker(url)),
            asyncio.gather(*(self._neighbour(*each) for each in self._neighbours.items())),
        )
        workers = [Worker(*each) for each in sorted(answers)]
        reasons = self._app.not_ready()
        return Overview(self._app.conf.id, self.own_url, not reasons, workers, neighbours, reasons)

    async def _worker(self, url: str) -> WorkerState:
        if url == self.own_url:
            return await self._reader.report()
        report: WorkerState = await self._get(URL(url) / "worker", WorkerState)
        return report

    async def _neighbour(self, service: str, url: str) -> Neighbour:
        if service == self._app.conf.id:
            return Neighbour(service, self.own_url, True)
        if not url:
            return Neighbour(service, url, False)
        try:
            said = await self._get(URL(url) / "alive", dict[str, Any], ALIVE_S_MAX)
        except (ClientError, TimeoutError, ValueError):
            return Neighbour(service, url, False)
        return Neighbour(service, url, said.get("service") == service)

    # -- asking

    async def _ask(
        self, by_owner: Mapping[str, list[int]], ask: Callable[[str, list[int]], Awaitable[Any]]
    ) -> list[_Answer]:
        return await asyncio.gather(*(self._answer(url, theirs, ask) for url, theirs in by_owner.items()))

    async def _answer(
        self, url: str, partitions: list[int], ask: Callable[[str, list[int]], Awaitable[Any]]
    ) -> _Answer:
        try:
            return _Answer(url, partitions, await ask(url, partitions))
        except TimeoutError:
            return _Answer(url, partitions, None, f"no answer within {ANSWER_S_MAX:g} s")
        except ClientError:
            return _Answer(url, partitions, None, "cannot be reached")
        except ValueError as error:
            return _Answer(url, partitions, None, f"answered strangely: {error}"[:200])

    async def _get(self, url: URL, kind: Any, seconds: float = ANSWER_S_MAX) -> Any:
        """Fetch JSON of the given type. Raises ClientError, TimeoutError or ValueError."""
        async with self._app.http_client.get(
            url, timeout=ClientTimeout(total=seconds), allow_redirects=False
        ) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            if (response.content_length or 0) > ANSWER_BYTES_MAX:
                raise ValueError(f"{response.content_length} bytes")
            return msgspec.json.decode(await response.read(), type=kind)


def home(table: Table, key: str, partitions: int) -> int | None:
    """The partition that a key belongs to, None where it is no possible key or nothing is assigned."""
    if partitions == 0:
        return None
    return table.home(key, partitions)


def _by_owner(owners: Mapping[int, str]) -> dict[str, list[int]]:
    by_owner: dict[str, list[int]] = {}
    for partition, url in sorted(owners.items()):
        by_owner.setdefault(url, []).append(partition)
    return by_owner


def _missing(answers: list[_Answer]) -> list[Missing]:
    return [missing for each in answers if (missing := each.missing) is not None]
