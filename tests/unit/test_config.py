"""Settings: a right value is read, a wrong one is refused in one line that names it."""

import ast
import os
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from app import allowed, config
from app.config import Settings
from app.engine import KEY_SHARDS
from app.errors import SettingError
from venue.config import read_config
from venue.errors import StartError

ROOT = Path(__file__).parents[2]


def read(environment: Mapping[str, str]) -> Settings:
    """What a process reads that has this environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", dict(environment))
        return config.read_settings()


def test_an_empty_environment_gives_the_defaults() -> None:
    found = read({})
    assert found.kafka_bootstrap is None
    assert found.bootstrap == "127.0.0.1:9092"
    assert found.partitions == 8
    assert found.data_dir == Path.cwd() / ".data"
    assert found.cache_dir == Path.home() / ".cache" / "trading-pipeline"


def test_every_variable_is_read() -> None:
    found = read(
        {
            "KAFKA_BOOTSTRAP": "one:9092,two:9092",
            "PIPELINE_PARTITIONS": "32",
            "PIPELINE_SESSION_TIMEOUT_S": "1.5",
            "PIPELINE_DATA_DIR": "/somewhere",
            "VENUE_TOKEN": "secret",
        }
    )
    assert found.bootstrap == "one:9092,two:9092"
    assert found.partitions == 32
    assert found.session_timeout_s == 1.5
    assert found.data_dir == Path("/somewhere")
    assert found.reveal_venue_token() == "secret"


def test_an_empty_variable_counts_as_unset() -> None:
    assert read({"PIPELINE_PARTITIONS": "", "KAFKA_BOOTSTRAP": ""}) == (read({}))


def test_the_cache_follows_the_xdg_variable_unless_it_is_relative() -> None:
    absolute = read({"XDG_CACHE_HOME": "/caches"})
    relative = read({"XDG_CACHE_HOME": "caches"})
    assert absolute.cache_dir == Path("/caches/trading-pipeline")
    assert relative.cache_dir == Path.home() / ".cache" / "trading-pipeline"


@pytest.mark.parametrize("home", ["/two\nlines", os.fsdecode(b"/b\xfcro")])
def test_the_cache_is_never_where_no_java_finds_it(home: str) -> None:
    assert read({"XDG_CACHE_HOME": home}).cache_dir == Path.home() / ".cache" / "trading-pipeline"


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("KAFKA_BOOTSTRAP", "nowhere", "host:port"),
        ("PIPELINE_PARTITIONS", "0", "a power of two from 1 to 256"),
        ("PIPELINE_PARTITIONS", "3", "a power of two from 1 to 256"),
        ("PIPELINE_PARTITIONS", "512", "a power of two from 1 to 256"),
        ("PIPELINE_PARTITIONS", "-8", "a power of two from 1 to 256"),
        ("PIPELINE_PARTITIONS", "eight", "unset it for 8"),
        ("PIPELINE_GUARANTEE", "at_least_once", "the pipeline is always exactly once now; unset it"),
        ("PIPELINE_GUARANTEE", "Exactly_Once", "unset it"),
        ("PIPELINE_DATA_DIR", "two\nlines", "a path in UTF-8 without control characters"),
        ("PIPELINE_SESSION_TIMEOUT_S", "nan", "a number from 0.5 to 300"),
        ("PIPELINE_HEARTBEAT_INTERVAL_S", "5", "at most a third of PIPELINE_SESSION_TIMEOUT_S"),
        ("PIPELINE_BATCH_RECORDS_MAX", "1e3", "a whole number from 1 to 100000"),
        ("PIPELINE_DATA_DIR", " ", "a path in UTF-8 without control characters"),
        ("KAFKA_BOOTSTRAP", "one:9092,two:65536", "host:port"),
        ("KAFKA_BOOTSTRAP", "one:0", "host:port"),
        ("KAFKA_BOOTSTRAP", "one..two:9092", "host:port"),
        ("KAFKA_BOOTSTRAP", "[:::]:9092", "host:port"),
        ("PIPELINE_WEB_HOST", "one..two", "a host name or an address"),
        ("PIPELINE_WEB_HOST", "a" * 64, "a host name or an address"),
        ("VENUE_URL", "127.0.0.1:8700", "http://host:port"),
        ("VENUE_URL", "http://127.0.0.1:65536", "http://host:port"),
        ("VENUE_URL", "http://[:::::]", "http://host:port"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_its_name(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as refused:
        read({variable: value})
    message = str(refused.value)
    assert message.startswith(f"{variable} is ")
    assert repr(value) in message or value in message
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "host", ["one", "one.two.", "my_kafka", "127.0.0.1", "[::1]", "xn--bcher-kva.example"]
)
def test_every_host_is_taken(host: str) -> None:
    found = read({"KAFKA_BOOTSTRAP": f"{host}:1,{host}:65535", "VENUE_URL": f"https://{host}:443"})
    assert found.bootstrap == f"{host}:1,{host}:65535"
    assert found.venue_url == f"https://{host}:443"
    assert read({"PIPELINE_WEB_HOST": host, "VENUE_URL": f"http://{host}"}).web_host == host


def test_a_partition_has_whole_shards() -> None:
    assert allowed.PARTITIONS_MAX == KEY_SHARDS


def test_who_still_asks_for_exactly_once_gets_it() -> None:
    assert read({"PIPELINE_GUARANTEE": "exactly_once"}) == read({})


def test_a_path_that_is_no_utf_8_is_refused_and_shown_in_ascii() -> None:
    with pytest.raises(SettingError, match=r"PIPELINE_DATA_DIR is '/b\\udcfcro': allowed is a path in UTF-8"):
        read({"PIPELINE_DATA_DIR": os.fsdecode(b"/b\xfcro")})


@pytest.mark.parametrize("home", [None, "", "nonsense"])
def test_without_a_home_the_system_tells_it(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_home", lambda: "/home/of/the/list")
    found = read({} if home is None else {"HOME": home})
    assert found.cache_dir == Path("/home/of/the/list/.cache/trading-pipeline")


def test_nobody_needs_a_home_who_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_home", lambda: None)
    assert read({"PIPELINE_CACHE_DIR": "/caches"}).cache_dir == Path("/caches")


def test_no_home_at_all_is_one_line_when_the_cache_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_home", lambda: None)
    found = read({"HOME": "nonsense"})
    assert found.partitions == 8
    with pytest.raises(
        SettingError, match=r"no home directory .*: set PIPELINE_CACHE_DIR to a directory"
    ) as refused:
        found.cache_dir  # noqa: B018
    assert "\n" not in str(refused.value)


def test_the_token_shows_neither_in_an_error_nor_in_the_settings() -> None:
    with pytest.raises(SettingError) as refused:
        read({"VENUE_TOKEN": "my secret"})
    assert "my secret" not in str(refused.value)
    assert "hidden" not in repr(read({"VENUE_TOKEN": "hidden"}))


def test_the_token_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert read({"VENUE_TOKEN_FILE": str(file)}).reveal_venue_token() == "secret"
    both = {"VENUE_TOKEN_FILE": str(file), "VENUE_TOKEN": "nearer"}
    assert read(both).reveal_venue_token() == "nearer"


def test_the_venue_takes_its_token_as_its_clients_do(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    arguments = ["--port", "0", "--data-dir", str(tmp_path), "--instruments", "feed/demo.json"]
    assert read_config(arguments, {"VENUE_TOKEN_FILE": str(file)}).token == "secret"
    assert read_config(arguments, {"VENUE_TOKEN_FILE": str(file), "VENUE_TOKEN": "nearer"}).token == "nearer"
    with pytest.raises(StartError, match=r"VENUE_TOKEN_FILE is '.*/none', which can't be read: No such file"):
        read_config(arguments, {"VENUE_TOKEN_FILE": str(tmp_path / "none")})


def test_a_file_without_a_token_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(SettingError, match=r"VENUE_TOKEN_FILE is '.*/token', which can't be read"):
        read({"VENUE_TOKEN_FILE": str(file)})
    for text in ("", "my secret", "geheim mit Ümlaut"):
        file.write_text(text)
        with pytest.raises(SettingError, match="allowed in that file is printable characters") as refused:
            read({"VENUE_TOKEN_FILE": str(file)})
        assert "my secret" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("package", ["agents", "app", "models", "tables"])
def test_only_config_reads_the_environment(package: str) -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    }
    assert readers <= {"app/config.py"}
