"""The sole reader of the environment: every setting, its variable, its default and what it may be.

`settings()` reads the environment once; a value that is not allowed raises `SettingError`, whose one line
names the variable, the value and what is allowed. An empty variable counts as unset. The secret may stand in
a file, as containers get theirs: VENUE_TOKEN_FILE names it; where both are set, VENUE_TOKEN counts.
"""

import os
import pwd
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.allowed import (
    PARTITIONS_ALLOWED,
    PATH_ALLOWED,
    absolute,
    is_address,
    is_nameable,
    partition_count,
)
from app.errors import SettingError

EMBEDDED_BOOTSTRAP: Final = "127.0.0.1:9092"
CACHE_NAME: Final = "trading-pipeline"
TOKEN_ALLOWED: Final = "printable characters without spaces"

_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)"
_PORT = r":[0-9]{1,5}"
_PATH = BeforeValidator(absolute)


def _text(pattern: str) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, pattern=f"^{pattern}$")


def _addressed(text: str) -> str:
    """A host, or addresses with commas between, behind http:// or not. Raises ValueError."""
    if not all(map(is_address, re.sub(r"^https?://", "", text).split(","))):
        raise ValueError("no host, or no port, goes by this")
    return text


def _token(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("a secret is not shown")
    return SecretStr(text)


def _cache_home() -> Path | None:
    """Where caches go, by the XDG base directory specification: a relative path counts as none.

    So does one that is not what PATH_ALLOWED says.
    """
    for home, below in (
        (os.environ.get("XDG_CACHE_HOME"), "."),
        (os.environ.get("HOME"), ".cache"),
        (_home(), ".cache"),
    ):
        if home is not None and home.startswith("/") and is_nameable(home):
            return Path(home, below, CACHE_NAME)
    return None


def _home() -> str | None:
    """What the system's list of users has for us; None when we are not in it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _secret_in(file: str) -> SecretStr:
    try:
        return _token(SecretStr(Path(file).read_text(encoding="ascii")))
    except OSError as error:
        raise SettingError(f"VENUE_TOKEN_FILE is {file!a}, which can't be read: {error.strerror}") from None
    except ValueError:
        raise SettingError(f"VENUE_TOKEN_FILE is {file!a}: allowed in that file is {TOKEN_ALLOWED}") from None


_ADDRESSED = AfterValidator(_addressed)


class Settings(BaseSettings):
    """Every setting of every process of the pipeline; units come last in the names.

    A field's variable is PIPELINE_ and its name, but for those that have another `validation_alias`. Its
    `description` says what is allowed, where that is not a number's bounds.
    """

    model_config = SettingsConfigDict(
        alias_generator=lambda name: f"PIPELINE_{name.upper()}",
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=False,
    )

    kafka_bootstrap: Annotated[str, _text(f"{_HOST}{_PORT}(,{_HOST}{_PORT})*"), _ADDRESSED] | None = Field(
        None, validation_alias="KAFKA_BOOTSTRAP", description="host:port, or several with commas between"
    )
    """An outside cluster; None means the embedded broker."""
    partitions: Annotated[int, BeforeValidator(partition_count)] = Field(8, description=PARTITIONS_ALLOWED)
    data_dir: Annotated[Path, _PATH] = Field(Path(".data"), description=PATH_ALLOWED, validate_default=True)
    """Kafka's log, the tables and the venue's ledger; one run at a time."""
    cache: Annotated[Path | None, _PATH] = Field(
        default_factory=_cache_home, validation_alias="PIPELINE_CACHE_DIR", description=PATH_ALLOWED
    )
    web_host: Annotated[str, _text(_HOST), _ADDRESSED] = Field(
        "127.0.0.1", description="a host name or an address"
    )
    venue_url: Annotated[str, _text(f"https?://{_HOST}({_PORT})?"), _ADDRESSED] = Field(
        "http://127.0.0.1:8700",
        validation_alias="VENUE_URL",
        description="http://host:port or https://host:port",
    )
    venue_token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        None, validation_alias="VENUE_TOKEN", description=TOKEN_ALLOWED
    )
    venue_token_file: str | None = Field(None, validation_alias="VENUE_TOKEN_FILE", description=PATH_ALLOWED)
    """Where the token stands, if not in the environment."""
    transaction_timeout_ms: int = Field(10_000, ge=1_000, le=900_000)
    session_timeout_s: float = Field(6.0, ge=0.5, le=300)
    heartbeat_interval_s: float = Field(0.1, ge=0.05, le=100)
    batch_records_max: int = Field(4_000, ge=1, le=100_000)
    disk_free_bytes_min: int = Field(64 * 1024 * 1024, ge=0, le=2**50)
    """Room that the tables' disk must have: with less, a worker waits. 0 switches the check off."""
    stuck_s_max: float = Field(10.0, ge=0, le=3600)
    """How long a worker's event loop or agent may be stuck before the worker is ended; 0 for ever."""
    replication_factor: int = Field(1, ge=1, le=9)
    guarantee: Literal["exactly_once"] = Field(
        "exactly_once", description="exactly_once: the pipeline is always exactly once now"
    )

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

    def reveal_venue_token(self) -> str | None:
        """The token itself, for those who call the venue."""
        return None if self.venue_token is None else self.venue_token.get_secret_value()

    @model_validator(mode="before")
    @classmethod
    def _read_secret(cls, given: dict[str, Any]) -> dict[str, Any]:
        file = given.get("VENUE_TOKEN_FILE")
        return given if file is None or "VENUE_TOKEN" in given else given | {"VENUE_TOKEN": _secret_in(file)}

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "Settings":
        if self.heartbeat_interval_s * 3 > self.session_timeout_s:
            raise SettingError(
                f"PIPELINE_HEARTBEAT_INTERVAL_S is {self.heartbeat_interval_s}: allowed is at most a third "
                f"of PIPELINE_SESSION_TIMEOUT_S, which is {self.session_timeout_s}"
            )
        return self


def read_settings() -> Settings:
    """What the environment says now; raises SettingError for the first wrong value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(str(wrong["loc"][0]), wrong["input"]) from None


def _refusal(variable: str, value: object) -> SettingError:
    field = next(each for each in Settings.model_fields.values() if each.validation_alias == variable)
    shown = "not usable" if variable == "VENUE_TOKEN" else ascii(value)[:200]
    if (allowed := field.description) is None:
        low, high = field.metadata
        what = "a whole number" if field.annotation is int else "a number"
        allowed = f"{what} from {low.ge} to {high.le}"
    otherwise = "" if field.get_default() is None else f"; unset it for {field.default}"
    return SettingError(f"{variable} is {shown}: allowed is {allowed}{otherwise}")


@cache
def settings() -> Settings:
    """This process's settings, read from the environment at the first call."""
    return read_settings()


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with some variables set: what a child is started with."""
    return {**os.environ, **changes}


def for_faust(path: Path) -> str:
    """A path as Faust takes it, which fills in what stands between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")
