"""Writes the web view's pages: what each shows is arranged here, how it looks is in `templates/`."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from app.engine.core.dead_letter import QUARANTINE
from app.engine.state.table import Table
from app.engine.web.cluster import Absent, Overview, Page, Record
from app.engine.web.columns import at, columns
from app.engine.web.letters import DeadLetters, WholeLetter
from app.engine.web.read import LIMIT_DEFAULT, Query, Row, TaskState
from app.engine.web.templating import shortened, templates

InWords = Callable[[Sequence[str], int, Sequence[Mapping[str, Any]]], str | None]
"""`(path, value, within)`: what the integer at the path means, or None; `within` are the objects around it,
the outermost first."""

T = TypeVar("T")
KEY_CHARS_MAX = 120
SUMMARY_CHARS_MAX = 160
FIELD_CHARS_MAX = 48
RECORD_CHARS_MAX = 256 * 1024
LETTER_BYTES_MAX, HEX_BYTES_MAX, HEX_BYTES_A_LINE = 16 * 1024, 4096, 16
HEADER_BYTES_MAX = 512
NO_PATH = ("", ".", "..")
"""Keys that cannot be a path segment: browsers resolve them away."""


class Frame(NamedTuple):
    """What is around the content of every page.

    `tables` are named in the head; `services` has an address of each, "" for one that has none. `api` is
    where the same is as JSON. `refreshes` means that the page loads itself anew.
    """

    service: str
    title: str
    tables: Sequence[str]
    services: Mapping[str, str]
    worker: str
    seconds: float | None
    api: str | None
    refreshes: bool


class TableLine(NamedTuple):
    """A table in the overview; `exact` False means that not all its records could be counted."""

    name: str
    help: str
    records: int
    exact: bool
    here: list[int]
    elsewhere: list[int]


class Cell(NamedTuple):
    """A field of a record: how it looks ("number", "field", "value" or ""), its text, and more of it."""

    kind: str
    text: str
    title: str | None


class Line(NamedTuple):
    """A record in a list; its path is None where its key is too long for one."""

    key: str
    path: str | None
    partition: int
    cells: Sequence[Cell]


class Lines(NamedTuple):
    """A list of records: "fields" in columns, or "records" whole. Heads are names, and whether of numbers."""

    kind: str
    heads: Sequence[tuple[str, bool]]
    rows: Sequence[Line]


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
        self._templates = templates(table_path=table_path, record_path=record_path)

    def overview(self, overview: Overview, tables: Sequence[Table], seconds: float) -> str:
        own = overview.own
        return self._page(
            "overview.html",
            self._frame(overview.service, tables, overview.worker, "/api/", seconds, refreshes=True),
            overview=overview,
            tables=[_table_line(table, overview) for table in tables],
            tasks=[] if own is None else [(task, _changelogs(task, overview)) for task in own.tasks],
        )

    def listing(self, page: Page, table: Table, tables: Sequence[Table], worker: str, seconds: float) -> str:
        api = table_path(table.name, page.query, page.query.after, api=True)
        return self._page(
            "list.html",
            self._frame(table.name, tables, worker, api, seconds),
            page=page,
            help=table.help,
            records=_in_columns(page) or _whole(page),
            limit_default=LIMIT_DEFAULT,
        )

    def record(self, record: Record, tables: Sequence[Table], worker: str, seconds: float) -> str:
        api = record_path(record.table, record.key, api=True)
        lines, is_cut = _record_lines(bytes(record.value), self._in_words)
        return self._page(
            "record.html",
            self._frame(record.key or "(empty key)", tables, worker, api, seconds, refreshes=True),
            record=record,
            lines=lines,
            is_cut=is_cut,
        )

    def absent(self, table: Table, key: str, absent: Absent, tables: Sequence[Table], worker: str) -> str:
        title = "No such record" if absent.certain else "Not to be said at the moment"
        return self._page(
            "absent.html",
            self._frame(title, tables, worker, record_path(table.name, key, api=True)),
            table=table.name,
            key=key,
            absent=absent,
            search=table_path(table.name, Query(text=key[:200])),
        )

    def letters(self, found: DeadLetters, tables: Sequence[Table], worker: str, seconds: float) -> str:
        return self._page(
            "dead_letters.html",
            self._frame("dead letters", tables, worker, "/api/dead-letters/", seconds),
            page=found,
            quarantine=QUARANTINE,
        )

    def letter(self, found: WholeLetter, tables: Sequence[Table], worker: str, seconds: float) -> str:
        letter, value = found.letter, found.value or b""
        return self._page(
            "dead_letter.html",
            self._frame(
                f"dead letter {letter.partition}/{letter.offset}",
                tables,
                worker,
                f"/api/dead-letters/{letter.partition}/{letter.offset}",
                seconds,
            ),
            letter=letter,
            headers=[
                (name, None if data is None else as_text(data[:HEADER_BYTES_MAX]))
                for name, data in found.headers
            ],
            text=None if found.value is None else as_text(value[:LETTER_BYTES_MAX]),
            text_bytes=min(len(value), LETTER_BYTES_MAX),
            hex_lines=hex_lines(value[:HEX_BYTES_MAX]),
            hex_bytes=min(len(value), HEX_BYTES_MAX),
        )

    def refusal(self, title: str, text: str, tables: Sequence[Table], worker: str) -> str:
        """The page for a request that is answered with an error."""
        return self._page("refusal.html", self._frame(title, tables, worker, None), text=text)

    def _frame(
        self,
        title: str,
        tables: Sequence[Table],
        worker: str,
        api: str | None,
        seconds: float | None = None,
        *,
        refreshes: bool = False,
    ) -> Frame:
        names = [table.name for table in tables]
        return Frame(self._service, title, names, self._addresses, worker, seconds, api, refreshes)

    def _page(self, template: str, frame: Frame, **shown: Any) -> str:
        return self._templates.get_template(template).render(frame=frame, **shown)


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


def as_text(data: bytes) -> str:
    """Bytes that are not UTF-8 are shown as escapes."""
    return data.decode("utf-8", "backslashreplace")


def hex_lines(data: bytes) -> list[str]:
    """Where each line begins, its bytes, and those of them that are ASCII."""
    lines = []
    for start in range(0, len(data), HEX_BYTES_A_LINE):
        part = data[start : start + HEX_BYTES_A_LINE]
        ascii_ = "".join(chr(each) if 32 <= each < 127 else "." for each in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{3 * HEX_BYTES_A_LINE - 1}}  {ascii_}")
    return lines


def _record_lines(data: bytes, in_words: InWords) -> tuple[list[tuple[str, str | None]], bool]:
    """The lines of a record, each with what its integer means; and whether it has more than is shown."""
    lines: list[tuple[str, str | None]] = []
    room = RECORD_CHARS_MAX
    for line, words in JsonLines(in_words).of(json.loads(data)):
        lines.append((line[:room], words))
        room -= len(line)
        if room <= 0:
            return lines, True
    return lines, False


def _table_line(table: Table, overview: Overview) -> TableLine:
    own = next((each.partitions for each in overview.workers if each.url == overview.worker), [])
    others = [p for each in overview.workers if each.url != overview.worker for p in each.partitions]
    counts = [count for count in overview.counts if count.table == table.name]
    exact = len(counts) >= len(own) + len(others) and all(count.exact for count in counts)
    return TableLine(table.name, table.help, sum(count.count for count in counts), exact, own, others)


def _changelogs(task: TaskState, overview: Overview) -> dict[str, int]:
    """The next changelog offset of each table of a task."""
    return {
        count.table: count.changelog_offset for count in overview.counts if count.partition == task.partition
    }


def _in_columns(page: Page) -> Lines | None:
    """The records with their fields side by side; None where the values have no fields in common."""
    values = [json.loads(bytes(row.value)) for row in page.records if row.text is None]
    fields = columns(values) if len(values) == len(page.records) else []
    if not fields:
        return None
    found = {path: [at(value, path) for value in values] for path in fields}
    numeric = {path: all(map(_is_number, found[path])) for path in fields}
    cells = zip(*([_field(each, numeric[path]) for each in found[path]] for path in fields), strict=True)
    return Lines(
        "fields",
        [(".".join(path), numeric[path]) for path in fields],
        [_line(page.table, row, others) for row, others in zip(page.records, cells, strict=True)],
    )


def _whole(page: Page) -> Lines:
    """The records with their values as JSON."""
    return Lines(
        "records", [("value", False)], [_line(page.table, row, [_value(row)]) for row in page.records]
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _field(value: Any, is_number: bool) -> Cell:
    """One field of a record, short; its title has more of it."""
    if value is None:
        return Cell("", "", None)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if is_number:
        return Cell("number", text, None)
    short = shortened(text, FIELD_CHARS_MAX)
    return Cell("field", short, None if short == text else shortened(text, SUMMARY_CHARS_MAX))


def _value(row: Row) -> Cell:
    text = bytes(row.value).decode() if row.text is None else row.text
    short = shortened(text, SUMMARY_CHARS_MAX)
    return Cell("value", short, short)


def _line(table: str, row: Row, cells: Sequence[Cell]) -> Line:
    key = shortened(row.key, KEY_CHARS_MAX) or "(empty key)"
    return Line(key, None if row.key_cut else record_path(table, row.key), row.partition, cells)
