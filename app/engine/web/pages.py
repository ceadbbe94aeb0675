"""Writes the web view's HTML. Text is escaped by construction: only `element` makes Html, and it escapes."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from app.engine.core import health
from app.engine.state.table import Table
from app.engine.web.cluster import Absent, Missing, Neighbour, Overview, Page, Record, Worker
from app.engine.web.columns import at, columns
from app.engine.web.html import CSS, Html, element, join, visible
from app.engine.web.read import LIMIT_DEFAULT, Count, Query, Row, TaskReport

InWords = Callable[[Sequence[str], int, Sequence[Mapping[str, Any]]], str | None]
"""`(path, value, within)`: what the integer at the path means, or None; `within` are the objects around it,
the outermost first."""

T = TypeVar("T")
KEY_CHARS_MAX = 120
SUMMARY_CHARS_MAX = 160
FIELD_CHARS_MAX = 48
REFRESH_S = 5
"""How often a page that nobody types into loads itself anew."""

RECORD_CHARS_MAX = 256 * 1024
NO_PATH = ("", ".", "..")
"""Keys that cannot be a path segment: browsers resolve them away."""


def table_path(table: str, query: Query | None = None, after: str | None = None, api: bool = False) -> str:
    """The address of a table's list, with what differs from the defaults."""
    path = f"{'/api' if api else ''}/tables/{quote(table, safe='')}/"
    if query is None:
        return path
    parameters: dict[str, object] = {}
    if query.text:
        parameters |= {"q": query.text, "match": query.match}
    if query.limit != LIMIT_DEFAULT:
        parameters["limit"] = query.limit
    if after is not None:
        parameters["after"] = after
    return f"{path}?{urlencode(parameters)}" if parameters else path


def record_path(table: str, key: str, api: bool = False) -> str:
    """The address of a record: the key is one path segment, its slashes encoded."""
    path = table_path(table, api=api)
    return f"{path}?{urlencode({'key': key})}" if key in NO_PATH else path + quote(key, safe="")


class Pages:
    """The pages of one service's web view. `addresses` are the services', by name, as they are now."""

    def __init__(self, service: str, addresses: Mapping[str, str], in_words: InWords) -> None:
        self._service = service
        self._addresses = addresses
        self._in_words = in_words

    def overview(self, overview: Overview, tables: Sequence[Table], seconds: float) -> str:
        body = [
            element("h1", overview.service),
            element("p", _state(overview.ready), " · worker ", element("code", overview.worker)),
            _reasons(overview.not_ready),
            element("h2", "Tables"),
            _tables(tables, overview),
            element("h2", "Tasks on this worker"),
            _tasks(overview),
            element("h2", "Workers of this service"),
            _rows(
                ("worker", "partitions", "state"),
                [_worker(each, overview.worker) for each in overview.workers],
            ),
            element("h2", "Services"),
            _rows(
                ("service", "usual address", "state"),
                [_neighbour(each) for each in overview.neighbours],
            ),
        ]
        return self._page(overview.service, tables, body, "/api/", overview.worker, seconds, refreshes=True)

    def listing(self, page: Page, table: Table, tables: Sequence[Table], worker: str, seconds: float) -> str:
        api = table_path(table.name, page.query, page.query.after, api=True)
        body = [
            element("h1", table.name),
            element("p", table.help, class_="soft"),
            _search_form(page),
            _missing(page.missing),
            _records(page),
            _pager(page),
        ]
        return self._page(table.name, tables, body, api, worker, seconds)

    def record(self, record: Record, tables: Sequence[Table], worker: str, seconds: float) -> str:
        title = record.key or "(empty key)"
        body = [
            element("h1", title),
            element(
                "dl",
                *_pair("table", element("a", record.table, href=table_path(record.table))),
                *_pair("partition", record.partition),
                *_pair("worker", element("a", record.worker, href=record.worker + "/")),
            ),
            _record_text(bytes(record.value), self._in_words),
        ]
        api = record_path(record.table, record.key, api=True)
        return self._page(title, tables, body, api, worker, seconds, refreshes=True)

    def absent(self, table: Table, key: str, absent: Absent, tables: Sequence[Table], worker: str) -> str:
        title = "No such record" if absent.certain else "Not to be said at the moment"
        body = [
            element("h1", title),
            element(
                "dl",
                *_pair("table", element("a", table.name, href=table_path(table.name))),
                *_pair("key", element("code", key)),
                *_pair("belongs to", _belongs(absent)),
                *_pair("asked", ", ".join(absent.asked) or "nobody who answered"),
            ),
            _missing(absent.missing),
            element("p", element("a", "Search for it", href=table_path(table.name, Query(text=key[:200])))),
        ]
        return self._page(title, tables, body, record_path(table.name, key, api=True), worker)

    def refusal(self, title: str, text: str, tables: Sequence[Table], worker: str) -> str:
        """The page for a request that is answered with an error."""
        return self._page(title, tables, [element("h1", title), element("p", text)], None, worker)

    def _page(
        self,
        title: str,
        tables: Sequence[Table],
        body: Iterable[object],
        api: str | None,
        worker: str,
        seconds: float | None = None,
        *,
        refreshes: bool = False,
    ) -> str:
        head = element(
            "head",
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
            Html(f'<meta http-equiv="refresh" content="{REFRESH_S}">') if refreshes else None,
            element("title", title if title == self._service else f"{title} · {self._service}"),
            element("style", Html(CSS)),
        )
        footer = element(
            "footer",
            "Committed state only · answered by ",
            worker,
            None if seconds is None else f" in {seconds * 1000:.0f} ms",
            None if api is None else join([" · ", element("a", "JSON", href=api)]),
        )
        content = element("body", self._header(title, tables), element("main", *body), footer)
        return "<!doctype html>" + element("html", head, content, lang="en")

    def _header(self, title: str, tables: Sequence[Table]) -> Html:
        links = [
            element(
                "a", table.name, href=table_path(table.name), class_="here" if table.name == title else None
            )
            for table in tables
        ]
        services = [
            element("span", name, class_="here") if name == self._service else _linked(name, address)
            for name, address in self._addresses.items()
        ]
        return element(
            "header",
            element("a", self._service, href="/", class_="name"),
            element("nav", *links),
            element("nav", *services, class_="services"),
        )


class JsonLines:
    """Lines of indented JSON, each with what its integer means, if that is known."""

    def __init__(self, in_words: InWords) -> None:
        self._in_words = in_words

    def of(
        self,
        value: Any,
        before: str = "",
        after: str = "",
        path: tuple[str, ...] = (),
        within: tuple[Mapping[str, Any], ...] = (),
    ) -> Iterator[tuple[str, str | None]]:
        """Yield the lines of `value`; `before` is the indentation and name it has, `after` its comma."""
        indent = before[: len(before) - len(before.lstrip(" "))]
        if isinstance(value, dict) and value:
            yield before + "{", None
            for comma, (name, each) in _with_commas(value.items()):
                label = f"{indent}  {json.dumps(name, ensure_ascii=False)}: "
                yield from self.of(each, label, comma, (*path, name), (*within, value))
            yield indent + "}" + after, None
        elif isinstance(value, list) and value:
            yield before + "[", None
            for comma, each in _with_commas(value):
                yield from self.of(each, indent + "  ", comma, path, within)
            yield indent + "]" + after, None
        else:
            words = self._in_words(path, value, within) if path and type(value) is int else None
            yield before + json.dumps(value, ensure_ascii=False) + after, words


def _with_commas(values: Collection[T]) -> Iterator[tuple[str, T]]:
    return ((",", each) if number < len(values) else ("", each) for number, each in enumerate(values, 1))


def _record_text(data: bytes, in_words: InWords) -> Html:
    parts: list[object] = []
    room = RECORD_CHARS_MAX
    for line, words in JsonLines(in_words).of(json.loads(data)):
        parts += [line[:room], None if words is None else element("span", words, class_="words"), "\n"]
        room -= len(line)
        if room <= 0:
            cut = element("p", "Only the beginning is shown; the JSON has it all.", class_="soft")
            return join([element("pre", *parts), cut])
    return element("pre", *parts)


def _state(ready: bool, why: str = "") -> Html:
    if ready:
        return element("span", "● ready", class_="good")
    return element("span", "● not ready", class_="bad", title=why or None)


def _reasons(not_ready: Sequence[str]) -> Html | None:
    if not not_ready:
        return None
    told = [element("li", each) for each in not_ready]
    return element("div", "It cannot work now:", element("ul", *told), class_="missing")


def _rows(heads: Sequence[str], rows: Iterable[Iterable[Html]], class_: str | None = None) -> Html:
    """A table; a head that starts with # is one of numbers."""
    cells = [
        element("th", head.lstrip("#"), class_="number" if head.startswith("#") else None) for head in heads
    ]
    body = [element("tr", *row) for row in rows]
    return element(
        "div",
        element("table", element("thead", element("tr", *cells)), element("tbody", *body), class_=class_),
        class_="wide",
    )


def _cell(*content: object, class_: str | None = None, title: str | None = None) -> Html:
    return element("td", *content, class_=class_, title=title)


def _number(value: int | str) -> Html:
    return _cell(f"{value:,}" if isinstance(value, int) else value, class_="number")


def _tables(tables: Sequence[Table], overview: Overview) -> Html:
    heads = ("table", "#records", "partitions here", "elsewhere", "")
    return _rows(heads, [_table(table, overview) for table in tables])


def _table(table: Table, overview: Overview) -> list[Html]:
    own = next((each.partitions for each in overview.workers if each.url == overview.worker), [])
    others = [p for each in overview.workers if each.url != overview.worker for p in each.partitions]
    counts = [count for count in overview.counts if count.table == table.name]
    return [
        _cell(element("a", table.name, href=table_path(table.name))),
        _number(_sum(counts, len(own) + len(others))),
        _cell(ranges(own) or "none"),
        _cell(ranges(others) or "none"),
        _cell(table.help, class_="soft"),
    ]


def _sum(counts: Sequence[Count], partitions: int) -> str:
    """How many there are over all partitions; "over" where not all could be counted."""
    exact = len(counts) >= partitions and all(count.exact for count in counts)
    return f"{'' if exact else 'over '}{sum(count.count for count in counts):,}"


def _tasks(overview: Overview) -> Html:
    own = overview.own
    if own is None or not own.tasks:
        return element("p", "None: the group has assigned no partitions to this worker.", class_="soft")
    heads = (
        "#partition",
        "state",
        "#records done",
        "#batches done",
        "next input offsets, +lag",
        "next changelog offsets",
    )
    return _rows(heads, [_task(task, own.counts) for task in own.tasks])


def _task(task: TaskReport, counts: Sequence[Count]) -> list[Html]:
    applied = {count.table: count.changelog_offset for count in counts if count.partition == task.partition}
    return [
        _number(task.partition),
        _cell(_task_state(task)),
        _number(task.records),
        _number(task.batches),
        _cell(_offsets(task.positions, task.lag)),
        _cell(_offsets(applied)),
    ]


def _task_state(task: TaskReport) -> Html:
    if task.fenced is not None:
        return element("span", "fenced", class_="bad", title=task.fenced)
    if task.waits:
        return element("span", "waits", class_="bad", title="; ".join(task.waits))
    return (
        element("span", "ready", class_="good") if task.ready else element("span", "restoring", class_="bad")
    )


def _offsets(offsets: Mapping[str, int], lag: Mapping[str, int] | None = None) -> Html:
    """The next offset of each, and how many records stand behind it."""
    return join(
        [
            element(
                "span",
                name,
                " ",
                element("b", f"{offset:,}"),
                element("span", f" +{behind:,}", class_="bad", title="records not taken in yet")
                if (behind := (lag or {}).get(name, 0))
                else None,
                class_="offset",
            )
            for name, offset in offsets.items()
        ]
    )


def _worker(worker: Worker, own: str) -> list[Html]:
    if worker.report is None:
        state = element("span", worker.reason, class_="bad")
    else:
        state = _state(worker.report.ready, "; ".join(worker.report.not_ready))
    here = element("span", " (this one)", class_="soft") if worker.url == own else None
    return [
        _cell(element("a", worker.url, href=worker.url + "/"), here),
        _cell(ranges(worker.partitions) or "none"),
        _cell(state),
    ]


def _linked(service: str, address: str) -> Html:
    """A link to a service, its name alone where no worker of it is known."""
    return element("a", service, href=address + "/") if address else element("span", service)


def _neighbour(neighbour: Neighbour) -> list[Html]:
    state = ("up", "good") if neighbour.alive else ("not reachable", "bad")
    return [
        _cell(_linked(neighbour.service, neighbour.url)),
        _cell(neighbour.url),
        _cell(element("span", state[0], class_=state[1])),
    ]


def ranges(numbers: Iterable[int]) -> str:
    """Partition numbers for people: 0–3, 5."""
    return health.ranges(numbers, dash="–")


def _search_form(page: Page) -> Html:
    query = page.query
    options = [
        element("option", words, value=value, selected="" if value == query.match else None)
        for value, words in (("anywhere", "key contains"), ("start", "key starts with"))
    ]
    limit = (
        element("input", type="hidden", name="limit", value=query.limit)
        if query.limit != LIMIT_DEFAULT
        else None
    )
    return element(
        "form",
        element("select", *options, name="match", aria_label="how"),
        element("input", type="search", name="q", value=query.text, aria_label="key", maxlength=200),
        limit,
        element("button", "Search"),
        method="get",
        action=table_path(page.table),
    )


def _records(page: Page) -> Html:
    if not page.records:
        return element("p", "No records here.", class_="soft")
    return _in_columns(page) or _rows(
        ("key", "#partition", "value"), [_row(page.table, row) for row in page.records], "records"
    )


def _in_columns(page: Page) -> Html | None:
    """The records with their fields side by side; None where the values have no fields in common."""
    values = [json.loads(bytes(row.value)) for row in page.records if row.text is None]
    fields = columns(values) if len(values) == len(page.records) else []
    if not fields:
        return None
    found = {path: [at(value, path) for value in values] for path in fields}
    numeric = {path: all(map(_is_number, found[path])) for path in fields}
    heads = [("#" if numeric[path] else "") + ".".join(path) for path in fields]
    cells = zip(*([_field(each, numeric[path]) for each in found[path]] for path in fields), strict=True)
    rows = [
        [_key(page.table, row), _number(str(row.partition)), *others]
        for row, others in zip(page.records, cells, strict=True)
    ]
    return _rows(("key", "#partition", *heads), rows, "fields")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _field(value: Any, is_number: bool) -> Html:
    """One field of a record, short; its title has more of it."""
    if value is None:
        return _cell()
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if is_number:
        return _number(text)
    short = shortened(text, FIELD_CHARS_MAX)
    return _cell(
        short, class_="field", title=None if short == text else visible(shortened(text, SUMMARY_CHARS_MAX))
    )


def _key(table: str, row: Row) -> Html:
    name = shortened(row.key, KEY_CHARS_MAX) or "(empty key)"
    if row.key_cut:
        return _cell(name, element("span", " too long for a link", class_="soft"), class_="key")
    return _cell(element("a", name, href=record_path(table, row.key)), class_="key")


def _row(table: str, row: Row) -> list[Html]:
    short = shortened(bytes(row.value).decode() if row.text is None else row.text, SUMMARY_CHARS_MAX)
    return [
        _key(table, row),
        _number(row.partition),
        _cell(short, class_="value", title=visible(short)),
    ]


def shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[:chars_max] + "…"


def _pager(page: Page) -> Html:
    query = page.query
    links = [
        element("a", "« First page", href=table_path(page.table, query)) if query.after is not None else None,
        element("a", "Next »", href=table_path(page.table, query, page.next), rel="next")
        if page.next is not None
        else None,
        element("span", _searched(page), class_="soft"),
    ]
    return element("div", *links, class_="pager")


def _searched(page: Page) -> str:
    if not page.query.text:
        return f"{len(page.records):,} records"
    more = ", there are more" if page.next is not None else ""
    return f"{len(page.records):,} found in the {page.searched:,} records searched{more}"


def _missing(missing: Sequence[Missing]) -> Html | None:
    if not missing:
        return None
    told = [
        element("li", "partitions ", ranges(each.partitions), " of ", each.worker, ": ", each.reason)
        for each in missing
    ]
    return element("div", "Missing here:", element("ul", *told), class_="missing")


def _belongs(absent: Absent) -> str:
    if absent.partition is None:
        return "no partition: the keys of this table are partition numbers"
    return f"partition {absent.partition}, worker {absent.owner}"


def _pair(term: str, *content: object) -> tuple[Html, Html]:
    return element("dt", term), element("dd", *content)
