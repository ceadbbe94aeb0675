"""The web view of two real risk workers on a real broker: asked, seen in a browser, and one killed."""

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import urlopen

import pytest
from aiokafka import AIOKafkaProducer

from app.engine.kafka.cluster import partition_of
from app.processes.guarded import guarded
from app.topics import EXECUTIONS, ORDERS, RISK_LIMITS
from app.topology import SERVICES, WEB_PORTS
from tests.browser import BROWSER, HEADLESS
from tests.builders import limits
from tests.integration.topics import put, remove_topics

PARTITIONS = 4
START_S_MAX = 60.0
ODD = ["desk/7", "Zoë <b>&amp;", "..", "100%2F", 'say "hi"', "line\nbreak", "<script>alert(1)</script>"]
KEYS = sorted([f"acc-{number:04d}" for number in range(300)] + ODD)
TIED: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
HOSTILE = b"<script>alert(1)</script>\xff\x00"


class RiskWorker:
    """A worker of the risk service in a process that does not outlive this one."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        environment = {
            "KAFKA_BOOTSTRAP": bootstrap,
            "PIPELINE_DATA_DIR": str(directory),
            "PIPELINE_PARTITIONS": str(PARTITIONS),
            "PIPELINE_SESSION_TIMEOUT_S": "4",
        }
        arguments = ["-A", "app.risk", "--datadir", str(directory), "worker", "-l", "warn"]
        command = [sys.executable, "-m", "faust", *arguments, "--web-port", self.url.rpartition(":")[2]]
        self.log = directory.with_suffix(".log")
        with self.log.open("wb") as log:
            self.guard = subprocess.Popen(
                guarded(command, 1), env=os.environ | environment, **TIED, stderr=log
            )
        assert self.guard.stdout is not None
        self.pid = int(self.guard.stdout.readline())

    def get(self, path: str, **query: object) -> tuple[int, str]:
        return fetch(f"{self.url}{path}{'?' if query else ''}{urlencode(query)}")

    def json(self, path: str, **query: object) -> Any:
        status, text = self.get(f"/api{path}", **query)
        assert status == 200, text
        return json.loads(text)

    def keys(self, **query: object) -> list[str]:
        return [record["key"] for record in self.json("/tables/risk_limits/", **query)["records"]]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.guard.wait()

    def end(self) -> None:
        if self.guard.poll() is None:
            self.guard.terminate()
            self.guard.wait()


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def fetch(url: str) -> tuple[int, str]:
    """Status 0 when nobody listens."""
    try:
        with urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until(what: str, condition: Any, seconds: float = START_S_MAX) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {seconds} s: {what}"
        time.sleep(0.1)


async def produce_garbage(bootstrap: str, topic: str, key: bytes, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, key=key, headers=[("x-evil", HOSTILE)])


@pytest.fixture(scope="module")
def workers(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RiskWorker]]:
    """Two workers that share the partitions, with the limits of KEYS."""
    asyncio.run(remove_topics(bootstrap))
    directory = tmp_path_factory.mktemp("risk")
    workers = [RiskWorker(bootstrap, directory / name) for name in ("one", "two")]
    try:
        until("two workers are ready", lambda: all(shares(worker) == [2, 2] for worker in workers))
        asyncio.run(put(bootstrap, RISK_LIMITS, *(limits(account_id=each) for each in KEYS)))
        until("all limits are there", lambda: all(worker.keys(limit=500) == KEYS for worker in workers))
        yield workers
    except BaseException:
        for worker in workers:
            print(worker.log.read_text()[-4000:])
        raise
    finally:
        for worker in workers:
            worker.end()
        asyncio.run(remove_topics(bootstrap))


def shares(worker: RiskWorker) -> list[int]:
    if worker.get("/ready")[0] != 200:
        return []
    return [len(each["partitions"]) for each in worker.json("/")["workers"]]


def test_each_worker_has_a_part_and_shows_all(workers: list[RiskWorker]) -> None:
    for worker in workers:
        assert worker.json("/tables/risk_limits/", limit=500)["missing"] == []
        status, page = worker.get("/")
        assert status == 200
        assert f">{len(KEYS)}<" in page
        assert all(other.url in page for other in workers)
    held = [{each["partition"] for each in json.loads(each.get("/state")[1])["tables"]} for each in workers]
    assert held[0] | held[1] == set(range(PARTITIONS))
    assert not held[0] & held[1]


def hash_of(table: Any) -> tuple[str, int, str]:
    return table["table"], table["partition"], table["sha256"]


def test_each_worker_tells_what_it_owns_and_what_it_follows(workers: list[RiskWorker]) -> None:
    def told(worker: RiskWorker) -> Any:
        return json.loads(worker.get("/status")[1])

    for worker in workers:
        until("standbys are there", lambda: told(worker)["standbys"])  # noqa: B023
        until(
            "standbys have caught up",
            lambda: all(not any(each["lag"].values()) for each in told(worker)["standbys"]),  # noqa: B023
        )
    one, two = map(told, workers)
    owned = [{each["partition"] for each in found["partitions"]} for found in (one, two)]
    followed = [{each["partition"] for each in found["standbys"]} for found in (one, two)]
    assert owned[0] | owned[1] == set(range(PARTITIONS))
    assert followed == [owned[1], owned[0]]
    states = [json.loads(each.get("/state")[1]) for each in workers]
    for his, other in (states, reversed(states)):
        assert sorted(map(hash_of, his["tables"])) == sorted(map(hash_of, other["standbys"]))
    assert {each["state"] for each in one["partitions"]} == {"ready"}
    assert all(each["restored"]["seconds"] > 0 for each in one["partitions"])

    status, text = workers[0].get("/metrics")
    assert status == 200
    assert 'engine_worker_ready{service="risk"} 1.0\n' in text
    for partition in followed[0]:
        labels = f'partition="{partition}",service="risk",table="positions"'
        assert f"engine_standby_lag_offsets{{{labels}}} 0.0\n" in text


def test_links_lead_to_who_is_in_the_consumer_groups(workers: list[RiskWorker]) -> None:
    """Not to the usual ports, where another pipeline's services may be."""

    def neighbours() -> dict[str, tuple[str, bool]]:
        return {each["service"]: (each["url"], each["alive"]) for each in workers[0].json("/")["neighbours"]}

    until("know its group", lambda: neighbours()["risk"][1])
    own = neighbours().pop("risk")
    assert own == (workers[0].url, True)
    assert neighbours() == dict.fromkeys(SERVICES, ("", False)) | {"risk": own}
    _, page = workers[0].get("/")
    assert not any(str(port) in page for port in WEB_PORTS.values())
    assert "<span>marketdata</span>" in page


def test_pages_lead_through_all_keys(workers: list[RiskWorker]) -> None:
    for worker in workers:
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = worker.json("/tables/risk_limits/", limit=70, **after)
            seen += [record["key"] for record in page["records"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert seen == KEYS


def test_search_covers_all_workers(workers: list[RiskWorker]) -> None:
    for worker in workers:
        assert worker.keys(q="c-029") == [f"acc-029{number}" for number in range(10)]
        assert worker.keys(q="desk", match="start") == ["desk/7"]
        assert worker.keys(q="nobody") == []


def test_any_record_can_be_had_from_any_worker(workers: list[RiskWorker]) -> None:
    owners = set()
    for worker in workers:
        for key in [*KEYS[::25], *(odd for odd in ODD if odd != "..")]:
            record = worker.json(f"/tables/risk_limits/{quote(key, safe='')}")
            owners.add(record["worker"])
            assert (record["key"], record["value"]["account_id"]) == (key, key)
            status, page = worker.get(f"/tables/risk_limits/{quote(key, safe='')}")
            assert status == 200
            assert "<script>" not in page
        assert worker.json("/tables/risk_limits/", key="..")["value"]["account_id"] == ".."
    assert owners == {worker.url for worker in workers}


def test_a_record_nobody_has_is_not_found_in_words(workers: list[RiskWorker]) -> None:
    partition = partition_of(b"nobody", PARTITIONS)
    for worker in workers:
        status, page = worker.get("/tables/risk_limits/nobody")
        assert status == 404
        assert "No such record" in page
        assert f"partition {partition}, worker http://127.0.0.1:" in page
        assert worker.get("/api/tables/risk_limits/nobody")[0] == 404
        assert worker.get("/tables/nothing/")[0] == 404
        assert worker.get("/stats")[0] == 404


def test_faust_itself_serves_no_tables_and_no_router(workers: list[RiskWorker]) -> None:
    for path in ("/table/", "/router/", "/graph/", "/assignment/"):
        assert workers[0].get(path)[0] == 404


def test_dead_letters_and_the_keys_behind_them_are_shown_by_every_worker(
    workers: list[RiskWorker], bootstrap: str
) -> None:
    """Garbage at the edge, a key that waits behind garbage of our own, and a value of 900 kB in between."""
    asyncio.run(produce_garbage(bootstrap, ORDERS.name, b"edge", HOSTILE, b"x" * 900_000, HOSTILE))
    asyncio.run(produce_garbage(bootstrap, EXECUTIONS.name, b"waits", HOSTILE, b"second", b"third"))

    def letters(worker: RiskWorker) -> Any:
        return worker.json("/dead-letters/")["found"]["letters"]

    until("there are all letters", lambda: len(letters(workers[0])) == 6)
    until("the key waits", lambda: [each["held"] for each in quarantine(workers[1])] == [2])
    for worker in workers:
        found = letters(worker)
        assert {each["service"] for each in found} == {"risk"}
        assert sorted(each["value_bytes"] for each in found) == [5, 6, 27, 27, 27, 900_000]
        assert [each["time_ms"] for each in found] == sorted(
            (each["time_ms"] for each in found), reverse=True
        )
        (held,) = quarantine(worker)
        behind = [each for each in found if each["behind"] is not None]
        assert {each["behind"] for each in behind} == {held["behind"]}
        assert [each["preview"] for each in behind] == ["third", "second"]
        first = next(each for each in found if each["source"] == held["behind"])
        place = f"/dead-letters/{first['partition']}/{first['offset']}"
        whole = worker.json(place)
        assert whole["letter"] == first
        assert b64decode(whole["value"]) == b64decode(dict(whole["headers"])["x-evil"]) == HOSTILE
        for path, told in (("/dead-letters/", held["behind"]), (place, "3c 73 63 72 69 70 74 3e")):
            status, page = worker.get(path)
            assert status == 200
            assert told in page
            assert "<script" not in page
        assert worker.get("/dead-letters/0/99999999")[0] == 404


def quarantine(worker: RiskWorker) -> Any:
    return worker.json("/dead-letters/")["quarantine"]


@pytest.mark.skipif(BROWSER is None, reason="no chromium here (Debian: apt install chromium)")
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/", "Tasks on this worker"),
        ("/tables/risk_limits/?limit=20", "acc-0001"),
        ("/tables/risk_limits/acc-0007", "1,000.00</span>"),
        ("/tables/risk_limits/nobody", "No such record"),
        ("/dead-letters/", "Quarantine"),
    ],
)
def test_a_browser_shows_the_page(workers: list[RiskWorker], tmp_path: Path, path: str, told: str) -> None:
    assert BROWSER is not None
    shot = tmp_path / "page.png"
    headless = [*HEADLESS, f"--user-data-dir={tmp_path}/profile"]
    headless += ["--enable-logging=stderr", "--window-size=1200,900"]

    page = [BROWSER, *headless, f"--screenshot={shot}", workers[1].url + path]
    said = subprocess.run(page, capture_output=True, text=True, timeout=60, check=True).stderr
    dom = subprocess.run(
        [BROWSER, *headless, "--dump-dom", workers[1].url + path], capture_output=True, text=True, timeout=60
    ).stdout

    assert "CONSOLE" not in said  # neither errors nor a style that the policy refuses
    assert told in dom
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (1200, 900)
    assert shot.stat().st_size > 15_000  # an empty page has 5,000


def test_when_a_worker_is_killed_the_other_says_what_is_missing_until_it_has_it_all(
    workers: list[RiskWorker],
) -> None:
    """The last one: it leaves one worker."""
    survivor, victim = workers
    theirs = next(each for each in survivor.json("/")["workers"] if each["url"] == victim.url)
    victim.kill()

    page = survivor.json("/tables/risk_limits/", limit=500)
    assert page["missing"] == [
        {"worker": victim.url, "partitions": theirs["partitions"], "reason": "cannot be reached"}
    ]
    assert 0 < len(page["records"]) < len(KEYS)
    status, shown = survivor.get("/tables/risk_limits/")
    assert status == 200
    assert "Missing here" in shown
    assert victim.url in shown
    gone = next(key for key in KEYS if partition_of(key.encode(), PARTITIONS) in theirs["partitions"])
    assert survivor.get(f"/tables/risk_limits/{quote(gone, safe='')}")[0] == 503

    until("the survivor has it all", lambda: survivor.keys(limit=500) == KEYS, 30)
    assert survivor.json("/tables/risk_limits/")["missing"] == []
    assert survivor.get(f"/tables/risk_limits/{quote(gone, safe='')}")[0] == 200
