"""The web view over two workers in one process: paging, search, routing, and workers that are away."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from aiohttp import ClientSession, web

from app.engine.kafka.cluster import TP, partition_of
from app.engine.state.store import TaskStore
from app.engine.state.table import Table, TaskTable
from app.engine.web import cluster as web_cluster
from app.engine.web import read as web_read
from app.engine.web.cluster import home
from app.engine.web.metrics import registry
from app.engine.web.read import Query, Reader, just_before
from app.engine.web.templating import STATIC
from app.engine.web.view import attach

PARTITIONS = 4


def a_table(name: str, *, by_shard: bool = False) -> Any:
    table = SimpleNamespace(
        name=name,
        help=f"all {name}",
        changelog=f"risk-{name}-changelog",
        by_shard=by_shard,
        frozen=False,
        routing_key=Table.routing_key,
        decode=msgspec.json.decode,
        encode=msgspec.json.encode,
    )
    table.home = partial(Table.home, cast(Any, table))
    return table


TABLES = [a_table("quarantine"), a_table("positions"), a_table("sessions", by_shard=True)]


def a_task(partition: int, directory: Path) -> Any:
    """As much of a task as can be seen from the web: a store with the tables."""
    store = TaskStore(directory / str(partition))
    task = SimpleNamespace(
        partition=partition,
        ready=asyncio.Event(),
        waits_for=None,
        watermarks=SimpleNamespace(waiting=[]),
        closed=False,
        fenced=None,
        lock=asyncio.Lock(),
        store=store,
        tables={table.name: TaskTable(table, store, partition) for table in TABLES},
        counts=SimpleNamespace(records=12, batches=3),
        positions={TP("orders", partition): 7},
        lag={"orders": 2},
    )
    task.ready.set()
    return task


class Group:
    """Workers that know of each other, and what each of them has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.apps: list[Any] = []
        self.runners: list[web.AppRunner] = []

    async def start(self, partitions: Iterable[int], session: ClientSession) -> None:
        tasks = {number: a_task(number, self.directory) for number in partitions}
        app = SimpleNamespace(
            conf=SimpleNamespace(id="risk", canonical_url="not known yet"),
            router=SimpleNamespace(tables_metadata=self.assignment),
            tables=SimpleNamespace(
                declared=TABLES,
                tasks=tasks,
                standbys={},
                watchdog=SimpleNamespace(stuck=[]),
            ),
            not_ready=lambda: [] if tasks else ["no partitions"],
            noticed=[],
            metrics=registry(),
            settings=SimpleNamespace(
                bootstrap="127.0.0.1:1", dead_letters=SimpleNamespace(name="dead-letters")
            ),
            http_client=session,
            web=SimpleNamespace(web_app=web.Application()),
        )
        attach(app, services={"risk": "http://127.0.0.1:1", "venue": "http://127.0.0.1:1"})
        runner = web.AppRunner(app.web.web_app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        app.conf.canonical_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.apps.append(app)
        self.runners.append(runner)

    def assignment(self) -> dict[str, dict[str, list[int]]]:
        return {
            app.conf.canonical_url: {table.changelog: list(app.tables.tasks) for table in TABLES}
            for app in self.apps
        }

    def task(self, partition: int) -> Any:
        return next(app.tables.tasks[partition] for app in self.apps if partition in app.tables.tasks)

    def put(self, key: str, value: Any = None, *, table: str = "positions", at: int | None = None) -> None:
        partition = partition_of(key.partition("/")[0].encode(), PARTITIONS) if at is None else at
        data = msgspec.json.encode({"key": key} if value is None else value)
        self.task(partition).store.apply({table: {key.encode(): data}}, {table: 5})

    async def get(self, path: str, worker: int = 0) -> tuple[int, str]:
        app = self.apps[worker]
        async with ClientSession() as session, session.get(app.conf.canonical_url + path) as response:
            return response.status, await response.text()

    async def json(self, path: str, worker: int = 0) -> tuple[int, Any]:
        status, text = await self.get(path, worker)
        return status, msgspec.json.decode(text)

    async def keys(self, path: str, worker: int = 0) -> list[str]:
        status, page = await self.json(path, worker)
        assert status == 200, page
        return [record["key"] for record in page["records"]]


@asynccontextmanager
async def a_group(directory: Path) -> AsyncIterator[Group]:
    group = Group(directory)
    async with ClientSession() as session:
        await group.start([0, 2], session)
        await group.start([1, 3], session)
        yield group
        for runner in group.runners:
            await runner.cleanup()
        for app in group.apps:
            for task in app.tables.tasks.values():
                task.store.close()


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    async with a_group(tmp_path) as group:
        yield group


@pytest.mark.parametrize("worker", [0, 1])
async def test_every_worker_lists_all_keys_in_order(group: Group, worker: int) -> None:
    keys = sorted(f"acc-{number:02d}" for number in range(40))
    for key in keys:
        group.put(key)

    assert await group.keys("/api/tables/positions/", worker) == keys


async def test_pages_follow_each_other_without_gap_or_repeat(group: Group) -> None:
    keys = {f"acc-{number}" for number in range(23)} | {"a/b", "é", "𝄞", "z"}
    for key in keys:
        group.put(key)
    seen: list[str] = []
    after: dict[str, str] = {}

    async with ClientSession() as session:
        while True:
            url = f"{group.apps[1].conf.canonical_url}/api/tables/positions/"
            async with session.get(url, params={"limit": "5", **after}) as response:
                page = await response.json()
            seen += [record["key"] for record in page["records"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}

    assert seen == sorted(keys)


async def test_search_anywhere_and_at_the_start(group: Group) -> None:
    for key in ("maker-1", "maker-2", "momentum-1", "x-maker", "mak", "n"):
        group.put(key)

    assert await group.keys("/api/tables/positions/?q=maker") == ["maker-1", "maker-2", "x-maker"]
    assert await group.keys("/api/tables/positions/?q=mak&match=start") == ["mak", "maker-1", "maker-2"]
    assert await group.keys("/api/tables/positions/?q=mak&match=start&after=maker-1") == ["maker-2"]
    assert await group.keys("/api/tables/positions/?q=Maker") == []


async def test_a_bounded_search_goes_on_where_it_stopped(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_read, "SCAN_RECORDS_MAX", 10)
    for number in range(100):
        group.put(f"acc-{number:03d}")
    group.put("needle")
    found: list[str] = []
    after, pages = "", 0

    while True:
        _, page = await group.json(f"/api/tables/positions/?q=needle&after={after}")
        found += [record["key"] for record in page["records"]]
        pages += 1
        assert page["searched"] <= 20
        if page["next"] is None:
            break
        after = page["next"]

    assert found == ["needle"]
    assert pages >= 5


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("acc-1/acc-1-5", "acc-1/acc-1-5"),
        ("acc-1%2Facc-1-5", "acc-1/acc-1-5"),
        ("%252F", "%2F"),
        ("100%25", "100%"),
        ("?key=..", ".."),
        ("?key=", ""),
        ("x%0Ay", "x\ny"),
        ("%3Cb%3E", "<b>"),
        ("Zo%C3%AB", "Zoë"),
        ("a%3Fb%23c", "a?b#c"),
        ("tail%2F", "tail/"),
    ],
)
async def test_a_record_is_fetched_from_where_it_is(group: Group, worker: int, path: str, key: str) -> None:
    group.put(key)

    status, record = await group.json(f"/api/tables/positions/{path}", worker)

    assert (status, record["key"], record["value"]) == (200, key, {"key": key})
    page_status, page = await group.get(f"/tables/positions/{path}", worker)
    assert page_status == 200
    assert "<b>" not in page.replace("<h1>", "").replace("</h1>", "")


async def test_a_key_that_strayed_is_found(group: Group) -> None:
    right = partition_of(b"stray", PARTITIONS)
    group.put("stray", at=(right + 1) % PARTITIONS)

    status, record = await group.json("/api/tables/positions/stray")

    assert (status, record["partition"]) == (200, (right + 1) % PARTITIONS)


async def test_a_key_nobody_has_is_not_found_and_says_where_it_was_looked_for(group: Group) -> None:
    partition = partition_of(b"nobody", PARTITIONS)
    owner = group.apps[partition % 2].conf.canonical_url

    status, said = await group.json("/api/tables/positions/nobody%2Fno-1")

    assert status == 404
    assert (said["partition"], said["owner"], said["certain"]) == (partition, owner, True)
    assert set(said["asked"]) == {app.conf.canonical_url for app in group.apps}
    status, page = await group.get("/tables/positions/nobody%2Fno-1")
    assert status == 404
    for told in ("positions", "nobody/no-1", f"partition {partition}", owner):
        assert told in page


async def test_a_table_by_shard_has_numbers_of_shards_as_keys(group: Group) -> None:
    group.put("255", table="sessions", at=3)

    assert (await group.json("/api/tables/sessions/255"))[1]["partition"] == 3
    assert (await group.get("/tables/sessions/256"))[0] == 404
    shards = ("3", "4", "254", "255")
    assert [home(TABLES[2], key, PARTITIONS) for key in shards] == [3, 0, 2, 3]
    assert [home(TABLES[2], key, PARTITIONS) for key in ("256", "03", "x", "²", "-1", "")] == [None] * 6


async def test_a_worker_that_is_away_is_named_and_the_rest_is_shown(group: Group) -> None:
    for number in range(20):
        group.put(f"acc-{number:02d}")
    await group.runners[1].cleanup()
    url = group.apps[1].conf.canonical_url

    status, page = await group.json("/api/tables/positions/")

    assert status == 200
    assert page["missing"] == [{"worker": url, "partitions": [1, 3], "reason": "cannot be reached"}]
    assert {record["partition"] for record in page["records"]} == {0, 2}
    for path in ("/", "/tables/positions/"):
        status, html = await group.get(path)
        assert status == 200
        assert url in html
        assert "cannot be reached" in html


async def test_a_record_of_a_worker_that_is_away_is_neither_shown_nor_denied(group: Group) -> None:
    gone = next(f"acc-{n}" for n in range(9) if partition_of(f"acc-{n}".encode(), PARTITIONS) in (1, 3))
    await group.runners[1].cleanup()

    assert (await group.get(f"/tables/positions/{gone}"))[0] == 503
    assert (await group.json(f"/api/tables/positions/{gone}"))[1]["certain"] is False


async def test_a_worker_that_hangs_is_waited_for_no_longer_than_allowed(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: Reader, *_: Any) -> Any:
        if self._app is group.apps[1]:
            await asyncio.sleep(1)
        return await rows(self, *_)

    rows = Reader.rows
    monkeypatch.setattr(Reader, "rows", hang)
    monkeypatch.setattr(web_cluster.Workers._get, "__defaults__", (0.2,))

    async with asyncio.timeout(2):
        _, page = await group.json("/api/tables/positions/")

    assert [each["partitions"] for each in page["missing"]] == [[1, 3]]
    assert "no answer" in page["missing"][0]["reason"]


async def test_a_partition_that_is_being_restored_is_missing(group: Group) -> None:
    group.put("a", at=0)
    group.put("b", at=3)
    group.task(3).ready.clear()

    _, page = await group.json("/api/tables/positions/")

    assert [record["key"] for record in page["records"]] == ["a"]
    assert [each["partitions"] for each in page["missing"]] == [[3]]


async def test_before_the_first_assignment_a_table_cannot_be_shown(group: Group) -> None:
    for app in group.apps:
        app.router.tables_metadata = dict

    assert (await group.get("/tables/positions/"))[0] == 503
    assert (await group.get("/api/tables/positions/a"))[0] == 503
    assert (await group.get("/"))[0] == 200


async def test_a_task_that_has_ended_is_not_read(group: Group) -> None:
    group.put("a", at=0)
    task = group.task(0)
    task.closed = True
    task.store.close()

    assert await group.keys("/api/tables/positions/") == []
    assert (await group.get("/"))[0] == 200
    _, state = await group.json("/state")
    assert {each["partition"] for each in state["tables"]} == {2}


async def test_state_has_offset_count_and_digest_of_each_table(group: Group) -> None:
    group.put("a", at=0)

    _, state = await group.json("/state")

    found = {(each["table"], each["partition"]): each for each in state["tables"]}
    assert len(found) == 2 * len(TABLES)
    count, digest = group.task(0).tables["positions"].digest()
    assert found["positions", 0] == {
        "table": "positions",
        "partition": 0,
        "changelog_topic": "risk-positions-changelog",
        "offset": 5,
        "count": count,
        "sha256": digest,
    }


async def test_state_waits_for_the_unit_of_work_but_not_for_ever(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_read, "LOCK_WAIT_S_MAX", 0.05)
    async with group.task(2).lock:
        status, said = await group.json("/state")

    assert status == 503
    assert "partition 2" in said["error"]
    assert (await group.get("/state"))[0] == 200


async def test_counts_follow_the_tables(group: Group) -> None:
    group.put("a", at=0)
    for number in range(3):
        group.put(f"b{number}", at=1)
    assert ">4<" in (await group.get("/"))[1]

    group.task(0).store.apply({"positions": {b"c": b"1"}}, {"positions": 6})

    assert ">5<" in (await group.get("/"))[1]


async def test_ready_and_alive(group: Group) -> None:
    assert await group.json("/ready") == (200, {"service": "risk", "ready": True, "reasons": []})
    assert await group.json("/alive") == (200, {"service": "risk", "alive": True})
    group.apps[0].not_ready = lambda: ["disk full", "partition 2: upgrade this one"]
    told = {"service": "risk", "ready": False, "reasons": ["disk full", "partition 2: upgrade this one"]}
    assert await group.json("/ready") == (503, told)
    assert (await group.json("/api/"))[1]["not_ready"] == told["reasons"]
    _, page = await group.get("/")
    assert "disk full" in page
    assert "partition 2: upgrade this one" in page


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=99999999999", "match=end", "q=" + "x" * 201]
)
async def test_a_query_that_makes_no_sense_is_refused(group: Group, query: str) -> None:
    assert (await group.get(f"/tables/positions/?{query}"))[0] == 400
    status, said = await group.json(f"/api/tables/positions/?{query}")
    assert status == 400
    assert said["error"]


async def test_what_is_not_there_is_a_page_that_says_so(group: Group) -> None:
    for path in ("/tables/nothing/", "/tables/nothing/x", "/nothing"):
        status, page = await group.get(path)
        assert status == 404
        assert "<h1>" in page
    status, said = await group.json("/api/tables/%3Cb%3E/")
    assert status == 404
    assert "positions, quarantine, sessions" in said["error"]


@pytest.mark.parametrize("foreign", [b"nope", b"\xff\x00garbage", b"", b'{"a": "\xff"}', b"[" * 1_500])
async def test_what_is_no_json_is_shown_as_text(group: Group, foreign: bytes) -> None:
    partition = partition_of(b"foreign", PARTITIONS)
    group.task(partition).store.apply({"positions": {b"foreign": foreign}}, {"positions": 5})
    shown = foreign.decode(errors="backslashreplace")

    _, page = await group.json("/api/tables/positions/")
    _, record = await group.json("/api/tables/positions/foreign")

    assert page["records"][0]["value"] == record["value"] == shown
    for path in ("/tables/positions/", "/tables/positions/foreign"):
        assert (await group.get(path))[0] == 200


async def test_answers_are_bounded(group: Group) -> None:
    for number in range(700):
        group.put(f"k{number:03d}", {"text": "x" * (4_000 if number % 2 else 1_500)})

    status, text = await group.get("/api/tables/positions/?limit=1000")

    page = msgspec.json.decode(text)
    assert status == 200
    assert 300 < len(page["records"]) <= 500
    assert len(text) < 3 * web_read.PAGE_BYTES_MAX
    assert all("value" not in record for record in page["records"] if record["bytes"] > 2_000)


async def test_keys_too_long_for_an_address_do_not_stop_the_paging(group: Group) -> None:
    for key in ("a", "b" * 5_000, "c"):
        group.put(key)
    keys: list[str] = []
    after = ""
    for _ in range(3):
        _, page = await group.json(f"/api/tables/positions/?limit=1&after={after}")
        keys += [record["key"] for record in page["records"]]
        after = page["next"]

    assert keys == ["a", "b" * 512, "c"]
    assert after is None


async def test_only_reading_is_possible_and_pages_run_no_script_but_ours(group: Group) -> None:
    url = f"{group.apps[0].conf.canonical_url}/tables/positions/"
    async with ClientSession() as session:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with session.request(method, url) as response:
                assert response.status == 405
        async with session.get(url) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("name", "kind"), [("style.css", "text/css"), ("refresh.js", "text/javascript")])
async def test_the_files_that_pages_name_are_served_and_kept(group: Group, name: str, kind: str) -> None:
    _, page = await group.get("/")
    (path,) = re.findall(rf'"(/static/{name}\?[0-9a-f]+)"', page)
    url = group.apps[0].conf.canonical_url + path
    async with ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        assert response.content_type == kind
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert await response.read() == STATIC[name].content
    for nothing in ("/static/nothing.css", "/static/..%2Fview.py", "/static/"):
        assert (await group.get(nothing))[0] == 404


async def test_others_have_their_turn_during_a_scan(tmp_path: Path) -> None:
    store = TaskStore(tmp_path / "0")
    store.apply({"positions": {f"{n:06d}".encode(): b"{}" for n in range(60_000)}}, {})
    task = SimpleNamespace(partition=0, ready=asyncio.Event(), closed=False)
    task.tables = {"positions": TaskTable(TABLES[1], store, 0)}
    task.ready.set()
    app: Any = SimpleNamespace(tables=SimpleNamespace(tasks={0: task}))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    rows = await Reader(app).rows("positions", None, Query(text="nothing"))
    other.cancel()
    store.close()

    assert rows.searched == web_read.SCAN_RECORDS_MAX
    assert turns >= 5


def test_the_place_just_before_a_key_is_below_it_and_above_all_below() -> None:
    keys = sorted(
        key.encode() for key in ("a", "a\x00", "a\x00b", "ab", "aa𝄞", "a\U0010ffff", "b", "b0", "é")
    )
    for number, key in enumerate(keys):
        assert all(other < just_before(key) for other in keys[:number] if other != key[:-1])
        assert just_before(key) < key
