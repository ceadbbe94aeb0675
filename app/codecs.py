"""The contracts of `models/registry.py` as the engine wants them: codecs of topics and of table values."""

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

from prometheus_client import Metric

from app.engine.errors import NewerRelease
from app.engine.web.metrics import counter
from models.contract import Contract, Origin
from models.registry import CONTRACTS, NewerVersion, contract_of, table_values, unknown_fields

V = TypeVar("V")

RAW_VERSION: Final = b"1"
_SHOWN_MAX: Final = 64


class JsonCodec(Generic[V]):
    """JSON of the given models, by their contracts; the wire name of a model is the name of its class.

    What only a newer release of ours can have written raises NewerRelease: a type in a version above ours, or
    a well-formed type that this build does not put there. On a topic of the edge both are the client's fault,
    and so is a type of the edge on one of ours: somebody has mistaken the topic.
    """

    def __init__(self, *types: type[V]) -> None:
        contracts = [contract_of(each) for each in types]
        self.origins = {each.origin for each in contracts}
        self._edge = Origin.EDGE in self.origins
        self._contracts = {each.name: each for each in contracts}
        self._current: dict[tuple[bytes, bytes], Contract] = {
            (each.name.encode(), str(each.version).encode()): each for each in contracts
        }
        self._encoders: dict[type, tuple[bytes, bytes, Callable[[Any], bytes]]] = {
            each.model: (each.name.encode(), str(each.version).encode(), each.encode) for each in contracts
        }

    def decode(self, event_type: bytes, schema_version: bytes, data: bytes) -> V:
        current = self._current.get((event_type, schema_version))
        if current is not None:
            try:
                return cast(V, current.strict(data))
            except ValueError as error:
                return cast(V, current.decode_amiss(data, error))
        version = _number(schema_version)
        contract = self._contracts.get(event_type.decode("utf-8", "replace"))
        if contract is None or version is None:
            self._refuse(event_type, schema_version)
        try:
            return cast(V, contract.decode(version, data))
        except NewerVersion as error:
            if self._edge:
                raise ValueError(f"{error}: {self._known()}") from None
            raise NewerRelease(error.what, error.version, error.known) from None

    def encode(self, value: V) -> tuple[bytes, bytes, bytes]:
        name, version, encode = self._encoders[type(value)]
        return name, version, encode(value)

    def _refuse(self, event_type: bytes, schema_version: bytes) -> NoReturn:
        version = _number(schema_version)
        name = event_type.decode("utf-8", "replace")
        if version is not None and self._may_be_newer(name):
            raise NewerRelease(name[:_SHOWN_MAX], version, 0)
        raise ValueError(
            f"unknown event type {_shown(event_type)} in version {_shown(schema_version)}; {self._known()}"
        )

    def _may_be_newer(self, name: str) -> bool:
        """Whether a later release of ours may have put a type on this topic that does not stand there now."""
        strays = name in CONTRACTS and CONTRACTS[name].origin is Origin.EDGE
        return not (self._edge or strays) and name not in self._contracts and name.isidentifier()

    def _known(self) -> str:
        return "known: " + ", ".join(f"{each.name} {each.version}" for each in self._contracts.values())


class RawCodec:
    """Dead letters are bytes that nobody could read: their bytes are their value."""

    def decode(self, event_type: bytes, schema_version: bytes, data: bytes) -> bytes:
        return data

    def encode(self, value: bytes) -> tuple[bytes, bytes, bytes]:
        return b"DeadLetter", RAW_VERSION, value


class TableCodec(Generic[V]):
    """The values of the table `<service>.<table>`: what `app.Table(value_type=…)` takes."""

    def __init__(self, name: str, value_type: type[V]) -> None:
        self._values = table_values(name, value_type)
        self.contract: Contract = self._values.contract
        self.encode: Callable[[V], bytes] = self._values.encode
        self.frozen = self._values.frozen
        TABLE_CODECS[name] = self

    def decode(self, data: bytes) -> V:
        """Raises NewerRelease for a value of a version that this build does not know, else ValueErrors."""
        try:
            return cast(V, self._values.decode(data))
        except NewerVersion as error:
            raise NewerRelease(error.what, error.version, error.known) from None


TABLE_CODECS: Final[dict[str, TableCodec[Any]]] = {}
"""Those of the tables that this process has declared, by `<service>.<table>`."""


def contract_measures() -> Iterable[Metric]:
    """What this process has ignored, for `/metrics`."""
    counts = sorted(unknown_fields().items())
    yield counter(
        "contracts_unknown_fields_total",
        "Fields of a newer release that were ignored, by type or table and field.",
        ("type", "field"),
        counts,
    )


def _number(schema_version: bytes) -> int | None:
    """The version that a header tells; None where it tells none."""
    return int(schema_version) if schema_version.isdigit() and len(schema_version) <= 9 else None


def _shown(name: bytes) -> str:
    return repr(name[:_SHOWN_MAX].decode("utf-8", "backslashreplace"))
