"""The sole reader of the environment: every setting, its variable, its default and what it may be.

`settings()` reads the environment once; a value that is not allowed raises `SettingError`, whose one
line names the variable, the value and what is allowed. An empty variable counts as unset.
"""

import os
import pwd
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.errors import SettingError

EMBEDDED_BOOTSTRAP: Final = "127.0.0.1:9092"

PARTITIONS_MAX: Final = 256
"""The number of key shards. Powers of two divide it, so that a shard is on one partition, its keys' own."""

CACHE_NAME: Final = "trading-pipeline"

_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)"
_PORT = r":[0-9]{1,5}"


class _Reader(NamedTuple):
    """Turns a variable's text into its value or raises ValueError; `allowed` says what it takes."""

    allowed: str
    read: Callable[[str], object]


def _number(kind: type[int] | type[float], low: float, high: float) -> _Reader:
    def read(text: str) -> object:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    what = "a whole number" if kind is int else "a number"
    return _Reader(f"{what} from {low} to {high}", read)


def partition_count(text: str) -> int:
    """Raises ValueError for anything but `PARTITIONS_ALLOWED`."""
    count = int(text)
    if not 1 <= count <= PARTITIONS_MAX or count.bit_count() != 1:
        raise ValueError(text)
    return count


PARTITIONS_ALLOWED: Final = f"a power of two from 1 to {PARTITIONS_MAX}"


def _like(pattern: str, allowed: str) -> _Reader:
    def read(text: str) -> object:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return _Reader(allowed, read)


PATH_ALLOWED: Final = "a path in UTF-8 without control characters"


def is_nameable(path: str) -> bool:
    """Whether Java, RocksDB and a log line can name this path: bytes that are no UTF-8 are surrogates."""
    return not any(unicodedata.category(each) in ("Cc", "Cs") for each in path)


def _directory(text: str) -> object:
    if not is_nameable(text):
        raise ValueError(text)
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # no such user, or nobody knows where we are at home
        raise ValueError(text) from error


_ADDRESSES = _like(f"{_HOST}{_PORT}(,{_HOST}{_PORT})*", "host:port, or several with commas between")
_URL = _like(f"https?://{_HOST}({_PORT})?", "http://host:port or https://host:port")
_HOST_NAME = _like(_HOST, "a host name or an address")
_TOKEN = _like(r"[\x21-\x7e]+", "printable characters without spaces")
_DIRECTORY = _Reader(PATH_ALLOWED, _directory)


def _setting(variable: str, default: object, reader: _Reader, *, secret: bool = False) -> Any:
    metadata = {"variable": variable, "reader": reader, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of every process of the pipeline; units come last in the names."""

    kafka_bootstrap: str | None = _setting("KAFKA_BOOTSTRAP", None, _ADDRESSES)
    """An outside cluster; None means the embedded broker."""
    partitions: int = _setting("PIPELINE_PARTITIONS", 8, _Reader(PARTITIONS_ALLOWED, partition_count))
    data_dir: Path = _setting("PIPELINE_DATA_DIR", Path(".data"), _DIRECTORY)
    """Kafka's log, the tables and the venue's ledger; one run at a time."""
    cache: Path | None = _setting("PIPELINE_CACHE_DIR", None, _DIRECTORY)
    web_host: str = _setting("PIPELINE_WEB_HOST", "127.0.0.1", _HOST_NAME)
    venue_url: str = _setting("VENUE_URL", "http://127.0.0.1:8700", _URL)
    venue_token: str | None = _setting("VENUE_TOKEN", None, _TOKEN, secret=True)
    transaction_timeout_ms: int = _setting(
        "PIPELINE_TRANSACTION_TIMEOUT_MS", 10_000, _number(int, 1_000, 900_000)
    )
    session_timeout_s: float = _setting("PIPELINE_SESSION_TIMEOUT_S", 6.0, _number(float, 0.5, 300))
    heartbeat_interval_s: float = _setting("PIPELINE_HEARTBEAT_INTERVAL_S", 0.1, _number(float, 0.05, 100))
    batch_records_max: int = _setting("PIPELINE_BATCH_RECORDS_MAX", 4_000, _number(int, 1, 100_000))
    disk_free_bytes_min: int = _setting(
        "PIPELINE_DISK_FREE_BYTES_MIN", 64 * 1024 * 1024, _number(int, 0, 2**50)
    )
    """Room that the tables' disk must have: with less, a worker waits. 0 switches the check off."""
    stuck_s_max: float = _setting("PIPELINE_STUCK_S_MAX", 10.0, _number(float, 0, 3600))
    """How long a worker's event loop or agent may be stuck before the worker is ended; 0 for ever."""
    replication_factor: int = _setting("PIPELINE_REPLICATION_FACTOR", 1, _number(int, 1, 9))

    @property
    def cache_dir(self) -> Path:
        """Kafka's jars and the market data; any number of runs share it. SettingError without a home."""
        if self.cache is None:
            raise SettingError(
                "there is no home directory to keep Kafka in (HOME is no absolute path, and the user has no "
                "other): set PIPELINE_CACHE_DIR to a directory"
            )
        return self.cache

    @property
    def bootstrap(self) -> str:
        """Where Kafka is reached: the outside cluster, or the embedded broker's usual address."""
        return self.kafka_bootstrap or EMBEDDED_BOOTSTRAP

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read every variable, or raise SettingError for the first one with a wrong value."""
        _refuse_what_is_gone(environment)
        known = _with_derived_defaults(environment)
        found = cls(
            **{
                each.name: _read(each.metadata["reader"], each.metadata, text, each.default)
                for each in fields(cls)
                if (text := known.get(each.metadata["variable"])) is not None
            }
        )
        found._refuse_contradictions()
        return found

    def _refuse_contradictions(self) -> None:
        if self.heartbeat_interval_s * 3 > self.session_timeout_s:
            raise SettingError(
                f"PIPELINE_HEARTBEAT_INTERVAL_S is {self.heartbeat_interval_s}: allowed is at most a third "
                f"of PIPELINE_SESSION_TIMEOUT_S, which is {self.session_timeout_s}"
            )


def _refuse_what_is_gone(environment: Mapping[str, str]) -> None:
    guarantee = environment.get("PIPELINE_GUARANTEE", "").strip()
    if guarantee not in ("", "exactly_once"):
        raise SettingError(
            f"PIPELINE_GUARANTEE is {guarantee!r}: the pipeline is always exactly once now; unset it"
        )


def _with_derived_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Drop empty variables; fill in the paths, whose defaults depend on where and who we are."""
    known = {name: text for name, text in environment.items() if text}
    if (cache_home := _cache_home(known)) is not None:
        known.setdefault("PIPELINE_CACHE_DIR", f"{cache_home}/{CACHE_NAME}")
    known.setdefault("PIPELINE_DATA_DIR", ".data")
    return known


def _cache_home(known: Mapping[str, str]) -> str | None:
    """Where caches go, by the XDG base directory specification: a relative path counts as none."""
    for home, below in (
        (known.get("XDG_CACHE_HOME"), ""),
        (known.get("HOME"), "/.cache"),
        (_home(), "/.cache"),
    ):
        if home is not None and home.startswith("/"):
            return home.rstrip("/") + below
    return None


def _home() -> str | None:
    """What the system's list of users has for us; None when we are not in it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _read(reader: _Reader, metadata: Mapping[str, Any], text: str, default: object) -> Any:
    try:
        return reader.read(text.strip())
    except ValueError:
        shown = "not usable" if metadata["secret"] else ascii(text)[:200]
        otherwise = "" if default is None else f"; unset it for {default}"
        raise SettingError(
            f"{metadata['variable']} is {shown}: allowed is {reader.allowed}{otherwise}"
        ) from None


@cache
def settings() -> Settings:
    """This process's settings, read from the environment at the first call."""
    return Settings.from_environment(os.environ)


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with some variables set: what a child is started with."""
    return {**os.environ, **changes}


def for_faust(path: Path) -> str:
    """A path as Faust takes it, which fills in what stands between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")
