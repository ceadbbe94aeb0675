"""Who is not ready, and when that is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.errors import StuckError
from app.run.readiness import PATIENCE_S, REPEAT_S, Ledger, Readiness, reasons_of


def test_a_short_absence_is_nobodys_business() -> None:
    ledger = Ledger()
    ledger.note("risk-1", ["partition 3 is restoring"], 100.0)
    assert ledger.news(100.0 + PATIENCE_S - 0.1) == []
    ledger.note("risk-1", [], 105.0)
    assert ledger.news(105.0) == []


def test_a_long_one_is_told_with_its_reasons_and_so_is_its_end() -> None:
    ledger = Ledger()
    ledger.note("risk-1", ["partition 3 is restoring", "the disk is full"], 100.0)
    assert ledger.news(106.0) == ["risk-1 is not ready for 6 s: partition 3 is restoring; the disk is full"]
    assert ledger.news(107.0) == []
    ledger.note("risk-1", [], 108.0)
    assert ledger.news(108.0) == ["risk-1 is ready"]
    assert ledger.news(109.0) == []


def test_the_same_reason_is_told_once_a_minute_and_another_one_soon() -> None:
    ledger = Ledger()
    ledger.note("risk-1", ["waits for Kafka"], 100.0)
    assert len(ledger.news(106.0)) == 1
    assert ledger.news(106.0 + REPEAT_S - 1) == []
    assert len(ledger.news(106.0 + REPEAT_S)) == 1
    ledger.note("risk-1", ["the disk is full"], 170.0)
    assert ledger.news(172.0) == ["risk-1 is not ready for 72 s: the disk is full"]


def test_many_reasons_are_cut_short() -> None:
    ledger = Ledger()
    ledger.note("risk-1", [f"partition {number} is restoring" for number in range(8)], 0.0)
    assert ledger.unready["risk-1"].describe().endswith("partition 2 is restoring; and 5 more")


@pytest.mark.parametrize(
    ("said", "reasons"),
    [
        (b'{"service": "risk", "ready": true}', []),
        (b'{"ready": true, "reasons": []}', []),
        (b'{"ready": false, "reasons": ["one", "two"]}', ["one", "two"]),
        (b'{"ready": false}', ["it does not say why"]),
    ],
)
def test_an_answer_is_read(said: bytes, reasons: list[str]) -> None:
    assert reasons_of(said) == reasons


@pytest.mark.parametrize("said", [b"", b"<html>", b"[]", b"{}"])
def test_a_strange_answer_is_a_reason(said: bytes) -> None:
    (reason,) = reasons_of(said)
    assert reason.startswith("its answer to /ready can't be read: ")


class Worker:
    """As far as it is asked."""

    def __init__(self, url: str, pid: int | None = 1) -> None:
        self.name = "risk-1"
        self.url = url
        self.pid = pid
        self.has_worked = False


@asynccontextmanager
async def serving(*answers: str) -> AsyncIterator[str]:
    """A worker's web server that gives these answers, and then the last for ever."""
    left = list(answers)

    async def ready(_: web.Request) -> web.Response:
        return web.Response(text=left.pop(0) if len(left) > 1 else left[0])

    application = web.Application()
    application.router.add_get("/ready", ready)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def test_a_worker_is_waited_for_until_it_says_that_it_is_ready() -> None:
    async with serving('{"ready": false, "reasons": ["restoring"]}', '{"ready": true}') as url:
        worker = Worker(url)
        readiness = Readiness([worker], print)
        assert not await readiness.look()
        assert readiness.ledger.unready["risk-1"].reasons == ("restoring",)
        await readiness.until_ready(10)
        assert worker.has_worked
        await readiness.stop()


async def test_the_wait_may_have_an_end_that_says_why() -> None:
    async with serving('{"ready": false, "reasons": ["the venue refuses VENUE_TOKEN"]}') as url:
        readiness = Readiness([Worker(url)], print)
        with pytest.raises(StuckError, match="not ready after 0 s: risk-1: the venue refuses VENUE_TOKEN"):
            await readiness.until_ready(0.2)
        await readiness.stop()


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        (Worker("http://127.0.0.1:9"), "it starts: nothing listens on http://127.0.0.1:9 yet"),
        (Worker("http://127.0.0.1:9", pid=None), "its process has ended and is about to be started again"),
    ],
)
async def test_one_that_does_not_answer_is_not_ready(worker: Worker, reason: str) -> None:
    readiness = Readiness([worker], print)
    assert not await asyncio.wait_for(readiness.look(), 5)
    assert readiness.ledger.unready["risk-1"].reasons == (reason,)
    await readiness.stop()
