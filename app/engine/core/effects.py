"""What a unit of work has changed and emitted so far: all of it happens, or none."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, overload

from typing_extensions import TypeVar

from app.engine.core.chunk import Chunk
from app.engine.kafka.transaction import Outbox
from app.engine.state.table import Table, TaskTable

V = TypeVar("V", default=Any)

_MISSING: Any = object()


class TableView(Generic[V]):
    """One table inside a unit of work: committed records under the changes made so far.

    Values are replaced, never edited in place: assign the new value. Keys are text.
    """

    __slots__ = ("_table", "changes")

    def __init__(self, table: TaskTable[V]) -> None:
        self._table = table
        self.changes: dict[str, V | None] = {}

    @property
    def name(self) -> str:
        return self._table.name

    @overload
    def get(self, key: str) -> V | None: ...
    @overload
    def get(self, key: str, default: V) -> V: ...
    def get(self, key: str, default: V | None = None) -> V | None:
        value = self.changes.get(key, _MISSING)
        if value is _MISSING:
            value = self._table.get(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> V:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __setitem__(self, key: str, value: V) -> None:
        self.changes[key] = value

    def __delitem__(self, key: str) -> None:
        self.changes[key] = None


class Effects:
    """Changes of tables by name, records by partition, and what is called after the commit.

    `chunk` is what was taken in for them, None where that came from outside Kafka. `brief`: its dead letters
    go cut, since the topic does not take them whole.
    """

    def __init__(
        self,
        tables: Mapping[str, TaskTable[Any]],
        chunk: Chunk | None,
        *,
        transactional: bool,
        brief: bool = False,
    ) -> None:
        self.chunk = chunk
        self.brief = brief
        self.outbox = Outbox(transactional)
        self.views: dict[str, TableView[Any]] = {}
        self.callbacks: list[Callable[[], None]] = []
        self._tables = tables

    def __getitem__(self, table: Table[V]) -> TableView[V]:
        view = self.views.get(table.name)
        if view is None:
            view = self.views[table.name] = TableView(self._tables[table.name])
        return view

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when what this unit of work did is committed; not if the process dies."""
        self.callbacks.append(callback)
