"""Settings: a right value is read, a wrong one is refused in one line that names it."""

import ast
import os
from pathlib import Path

import pytest

from app import config
from app.config import Settings
from app.engine import KEY_SHARDS
from app.errors import SettingError

ROOT = Path(__file__).parents[2]


def test_an_empty_environment_gives_the_defaults() -> None:
    found = Settings.from_environment({})
    assert found.kafka_bootstrap is None
    assert found.bootstrap == "127.0.0.1:9092"
    assert found.partitions == 8
    assert found.data_dir == Path.cwd() / ".data"
    assert found.cache_dir == Path.home() / ".cache" / "trading-pipeline"


def test_every_variable_is_read() -> None:
    found = Settings.from_environment(
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
    assert found.venue_token == "secret"


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environment({"PIPELINE_PARTITIONS": "", "KAFKA_BOOTSTRAP": ""}) == (
        Settings.from_environment({})
    )


def test_the_cache_follows_the_xdg_variable_unless_it_is_relative() -> None:
    absolute = Settings.from_environment({"XDG_CACHE_HOME": "/caches"})
    relative = Settings.from_environment({"XDG_CACHE_HOME": "caches"})
    assert absolute.cache_dir == Path("/caches/trading-pipeline")
    assert relative.cache_dir == Path.home() / ".cache" / "trading-pipeline"


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
        ("VENUE_URL", "127.0.0.1:8700", "http://host:port"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_its_name(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as refused:
        Settings.from_environment({variable: value})
    message = str(refused.value)
    assert message.startswith(f"{variable} is ")
    assert repr(value) in message or value in message
    assert allowed in message
    assert "\n" not in message


def test_a_partition_has_whole_shards() -> None:
    assert config.PARTITIONS_MAX == KEY_SHARDS


def test_who_still_asks_for_exactly_once_gets_it() -> None:
    assert Settings.from_environment({"PIPELINE_GUARANTEE": "exactly_once"}) == Settings.from_environment({})


def test_a_path_that_is_no_utf_8_is_refused_and_shown_in_ascii() -> None:
    with pytest.raises(SettingError, match=r"PIPELINE_DATA_DIR is '/b\\udcfcro': allowed is a path in UTF-8"):
        Settings.from_environment({"PIPELINE_DATA_DIR": os.fsdecode(b"/b\xfcro")})


@pytest.mark.parametrize("home", [None, "", "nonsense"])
def test_without_a_home_the_system_tells_it(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_home", lambda: "/home/of/the/list")
    found = Settings.from_environment({} if home is None else {"HOME": home})
    assert found.cache_dir == Path("/home/of/the/list/.cache/trading-pipeline")


def test_nobody_needs_a_home_who_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_home", lambda: None)
    assert Settings.from_environment({"PIPELINE_CACHE_DIR": "/caches"}).cache_dir == Path("/caches")


def test_no_home_at_all_is_one_line_when_the_cache_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_home", lambda: None)
    found = Settings.from_environment({"HOME": "nonsense"})
    assert found.partitions == 8
    with pytest.raises(
        SettingError, match=r"no home directory .*: set PIPELINE_CACHE_DIR to a directory"
    ) as refused:
        found.cache_dir  # noqa: B018
    assert "\n" not in str(refused.value)


def test_the_token_shows_neither_in_an_error_nor_in_the_settings() -> None:
    with pytest.raises(SettingError) as refused:
        Settings.from_environment({"VENUE_TOKEN": "my secret"})
    assert "my secret" not in str(refused.value)
    assert "hidden" not in repr(Settings.from_environment({"VENUE_TOKEN": "hidden"}))


@pytest.mark.parametrize("package", ["agents", "app", "models", "tables"])
def test_only_config_reads_the_environment(package: str) -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    }
    assert readers <= {"app/config.py"}
