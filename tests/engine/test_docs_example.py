"""The code in docs/engine.md is a service: it runs as it stands there, is killed, grows, and counts right."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer, ConsumerRecord

from app.engine import shard_of
from app.processes.guarded import guarded
from tests.engine.waiting import until
from tests.engine.world import read_all

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python (\w+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMAND = re.findall(r"^KAFKA_BOOTSTRAP=\S+ faust (.+)$", PAGE, re.MULTILINE)
LIMIT_CENTS = 100_000

BANK = """
from collections import namedtuple

Refund = namedtuple("Refund", "number customer cents")

async def refunds(shard, after):
    return [each for each in (Refund(1, "refunded", 700), Refund(2, "refunded", 300))
            if shard == {shard} and each.number > after]
"""

Payment = tuple[str, int]


def some_payments(start: int, end: int) -> list[Payment]:
    return [(f"customer-{number % 37}", number * 7919 % 5_000) for number in range(start, end)]


def expected_alerts(payments: list[Payment]) -> Counter[Payment]:
    """What each customer had paid with the payment that reached the limit."""
    alerts: Counter[Payment] = Counter()
    totals: Counter[str] = Counter()
    for customer, cents in payments:
        before = totals[customer]
        totals[customer] += cents
        if before < LIMIT_CENTS <= totals[customer]:
            alerts[customer, totals[customer]] += 1
    return alerts


def expected_totals(payments: list[Payment]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for customer, cents in payments:
        totals[customer] += cents
    return dict(totals)


class Service:
    """The page's files in a directory, and the page's command run there."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        self.directory = directory
        self.bootstrap = bootstrap

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    @contextmanager
    def running(self) -> Iterator[int]:
        """Yield the worker's pid; at the end it is told to stop, if it still runs."""
        command = [sys.executable, "-m", "faust", *shlex.split(COMMAND[0])]
        environment = {**os.environ, "KAFKA_BOOTSTRAP": self.bootstrap, "PYTHONPATH": str(ROOT)}
        with (
            (self.directory / "log").open("a") as log,
            subprocess.Popen(
                guarded(command, 10),
                cwd=self.directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            ) as guard,
        ):
            assert guard.stdout is not None
            yield int(guard.stdout.readline())
            guard.terminate()

    def directories(self) -> set[str]:
        return {each.name for each in self.directory.iterdir() if each.is_dir()}

    def said(self, what: str) -> bool:
        return what in (self.directory / "log").read_text(errors="replace")

    async def read(self, topic: str) -> list[ConsumerRecord]:
        return await read_all(self.bootstrap, topic)

    async def alerts(self) -> Counter[Payment]:
        found: list[Any] = [msgspec.json.decode(each.value) for each in await self.read("payment-alerts")]
        return Counter((each["customer"], each["cents"]) for each in found)

    async def totals(self) -> dict[str, int]:
        """The table, as its changelog has it."""
        changelog = await self.read("payments-totals-changelog")
        return {each.key.decode(): msgspec.json.decode(each.value) for each in changelog}


async def pay(producer: AIOKafkaProducer, payments: list[Payment]) -> None:
    for customer, cents in payments:
        value = msgspec.json.encode({"customer": customer, "cents": cents})
        await producer.send("payments", value, customer.encode())
    await producer.flush()


def test_the_service_has_at_most_30_lines() -> None:
    assert len([line for line in FILES["payments.py"].splitlines() if line.strip()]) <= 30


def test_the_code_is_formatted_and_clean(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


async def test_the_service_counts_exactly_once_though_killed(bootstrap: str, tmp_path: Path) -> None:
    service = Service(tmp_path, bootstrap)
    service.write("payments.py", FILES["payments.py"])
    before = [*some_payments(0, 1_000), ("refunded", LIMIT_CENTS)]
    after = some_payments(1_000, 3_000)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        with service.running() as pid:
            await until(lambda: all(service.said(f"task payments-{p} is ours") for p in range(4)))
            await pay(producer, before)
            await producer.send_and_wait("payments", b"no payment", b"customer-1")
            await producer.send_and_wait("payments", b'{"customer":"other","cents":1}', b"customer-1")

            async def counted() -> bool:
                return await service.totals() == expected_totals(before)

            await until(counted)
            assert await service.alerts() == expected_alerts(before)
            await pay(producer, after[:1_000])
            os.kill(pid, signal.SIGKILL)
            await pay(producer, after[1_000:])
    finally:
        await producer.stop()

    service.write("payments.py", FILES["payments.py"].replace("modules=[]", 'modules=["refunds"]'))
    service.write("refunds.py", FILES["refunds.py"])
    service.write("bank.py", BANK.format(shard=shard_of(b"refunded")))
    with service.running():
        totals = expected_totals([*before, *after, ("refunded", -1_000)])

        async def all_counted() -> bool:
            return await service.totals() == totals

        await until(all_counted)
    assert await service.alerts() == expected_alerts([*before, *after])
    dead = [dict(each.headers) for each in await service.read("payments-dead-letters")]
    assert len(dead) == 2
    assert b"malformed" in dead[0]["dead-letter-error"]
    assert b"is not the one of the value" in dead[1]["dead-letter-error"]
    assert service.directories() - {"__pycache__"} == {"data"}
