"""Downloads: checked, whole or not at all, once; every obstacle is one line."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.config import Settings
from app.devkafka import artifacts
from app.devkafka.artifacts import Pin, kafka_classpath, make_once, market_data_csv, pins_of
from app.errors import ArtifactError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""

    def unreachable(coordinate: str, repository: Path) -> Path:
        raise ArtifactError(f"{coordinate} can't be downloaded")

    monkeypatch.setattr(artifacts, "settings", lambda: Settings(cache=tmp_path))
    monkeypatch.setattr(artifacts, "_fetch", unreachable)
    return tmp_path


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let every download give this content."""

    def fetch(coordinate: str, repository: Path) -> Path:
        repository.mkdir(exist_ok=True)
        jar = repository / hashlib.sha256(coordinate.encode()).hexdigest()
        jar.write_bytes(content)
        return jar

    monkeypatch.setattr(artifacts, "_fetch", fetch)


def pin(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    """Let the lock name one jar of Kafka."""
    monkeypatch.setattr(artifacts, "pins_of", lambda name: [Pin(name, sha256, "org.example:kafka:1.0")])


def test_the_lock_pins_each_kafka_with_its_log_binding_and_the_market_data() -> None:
    for version, name in artifacts.KAFKA_SETS.items():
        assert set(artifacts.kafka_roots(version)) <= {each.coordinate for each in pins_of(name)}
    assert [each.coordinate for each in pins_of("market-data")] == [artifacts.MARKET_DATA_ROOT]
    pins = [pin for name in (*artifacts.KAFKA_SETS.values(), "market-data") for pin in pins_of(name)]
    assert all(len(each.sha256) == 64 for each in pins)


def test_a_download_is_kept_and_not_repeated(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"jar")
    pin(monkeypatch, hashlib.sha256(b"jar").hexdigest())
    first = kafka_classpath()
    serve(monkeypatch, b"something else")
    assert kafka_classpath() == first
    assert Path(first).read_bytes() == b"jar"


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, b"tampered")
    pin(monkeypatch, hashlib.sha256(b"jar").hexdigest())
    with pytest.raises(ArtifactError, match=r"org\.example:kafka:1\.0 has SHA-256 .*, artifacts\.lock says"):
        kafka_classpath()
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_no_network_and_nothing_cached_is_one_line(cache: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be downloaded"):
        market_data_csv()


def test_an_unreachable_registry_says_what_and_what_to_do(tmp_path: Path) -> None:
    code = (
        "import requests, jgo.util.http\n"
        "def refuse(*a, **k): raise requests.ConnectionError('Connection refused')\n"
        "requests.request = refuse\n"
        "from app.devkafka.artifacts import market_data_csv\n"
        "try: market_data_csv()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PIPELINE_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ArtifactError org.ta4j:ta4j-examples:0.18 can't be downloaded")
    assert "check the network" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_full_disk_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ArtifactError, match="has 3 MB free, 500 are needed"):
        kafka_classpath()


def test_a_crash_half_way_leaves_nothing_and_the_next_call_cleans_up(tmp_path: Path) -> None:
    def crash(directory: Path) -> None:
        (directory / "half").touch()
        raise KeyboardInterrupt

    target = tmp_path / "made"
    (tmp_path / "made.tmp-of-a-killed-process").mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_once(target, "making", crash)
    assert [path.name for path in tmp_path.iterdir()] == ["made.lock"]


def test_processes_that_start_together_make_it_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from app.devkafka.artifacts import make_once\n"
        "def make(directory): time.sleep(0.3); (directory / 'file').touch(); print('made')\n"
        f"make_once(Path({str(tmp_path)!r}) / 'target', 'making', make)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(4)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert sorted(outputs) == [b"", b"", b"", b"made\n"]
    assert (tmp_path / "target" / "file").exists()


def test_what_is_cached_is_found_at_once() -> None:
    kafka_classpath(), market_data_csv()
    started = time.perf_counter()
    kafka_classpath(), market_data_csv()
    assert time.perf_counter() - started < 0.05


def test_the_market_data_are_100_000_trades() -> None:
    header, *trades = market_data_csv().read_text(encoding="ascii").splitlines()
    assert header == "timestamp,price,amount"
    assert len(trades) == 100_000
