"""The sole reader of the environment: every setting, its variable, its default and what it may be.

`settings()` reads the environment once; a value that is not allowed raises `SettingError`, whose one
line names the variable, the value and what is allowed. An empty variable counts as unset.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from app.errors import SettingError

Guarantee = Literal["exactly_once", "at_least_once"]

EMBEDDED_BOOTSTRAP: Final = "127.0.0.1:9092"

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


def _one_of(*choices: str) -> _Reader:
    def read(text: str) -> object:
        if text not in choices:
            raise ValueError(text)
        return text

    return _Reader(" or ".join(choices), read)


def _like(pattern: str, allowed: str) -> _Reader:
    def read(text: str) -> object:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return _Reader(allowed, read)


def _directory(text: str) -> object:
    if "\0" in text:
        raise ValueError(text)
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # no such user
        raise ValueError(text) from error


_ADDRESSES = _like(f"{_HOST}{_PORT}(,{_HOST}{_PORT})*", "host:port, or several with commas between")
_URL = _like(f"https?://{_HOST}({_PORT})?", "http://host:port or https://host:port")
_HOST_NAME = _like(_HOST, "a host name or an address")
_TOKEN = _like(r"[\x21-\x7e]+", "printable characters without spaces")
_DIRECTORY = _Reader("the path of a directory", _directory)


def _setting(variable: str, default: object, reader: _Reader, *, secret: bool = False) -> Any:
    metadata = {"variable": variable, "reader": reader, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of every process of the pipeline; units come last in the names."""

    kafka_bootstrap: str | None = _setting("KAFKA_BOOTSTRAP", None, _ADDRESSES)
    """An outside cluster; None means the embedded broker."""
    partitions: int = _setting("PIPELINE_PARTITIONS", 8, _number(int, 1, 256))
    guarantee: Guarantee = _setting(
        "PIPELINE_GUARANTEE", "exactly_once", _one_of("exactly_once", "at_least_once")
    )
    data_dir: Path = _setting("PIPELINE_DATA_DIR", Path(".data"), _DIRECTORY)
    """Kafka's log, the tables and the venue's ledger; one run at a time."""
    cache_dir: Path = _setting(
        "PIPELINE_CACHE_DIR", Path("~/.cache/trading-pipeline").expanduser(), _DIRECTORY
    )
    """Kafka's jars and the market data; any number of runs share it."""
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
    def bootstrap(self) -> str:
        """Where Kafka is reached: the outside cluster, or the embedded broker's usual address."""
        return self.kafka_bootstrap or EMBEDDED_BOOTSTRAP

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read every variable, or raise SettingError for the first one with a wrong value."""
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


def _with_derived_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Drop empty variables; fill in the paths, whose defaults depend on where and who we are."""
    known = {name: text for name, text in environment.items() if text}
    cache_home = known.get("XDG_CACHE_HOME", "")
    if not cache_home.startswith("/"):  # the XDG base directory specification: ignore a relative one
        cache_home = "~/.cache"
    known.setdefault("PIPELINE_CACHE_DIR", f"{cache_home}/trading-pipeline")
    known.setdefault("PIPELINE_DATA_DIR", ".data")
    return known


def _read(reader: _Reader, metadata: Mapping[str, Any], text: str, default: object) -> Any:
    try:
        return reader.read(text.strip())
    except ValueError:
        shown = "not usable" if metadata["secret"] else repr(text)
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
