"""Pauses grow, differ by chance and have a limit; a call is repeated until it works, or is cancelled."""

import asyncio
import logging
import time

import pytest

from app.engine.retries import Pauses

QUICK = Pauses(0.001, 0.002)


class Failing:
    """Fails so many times for a reason, then works."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left = times
        self.error = error
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


@pytest.mark.parametrize(
    ("failures", "longest_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (5, 1.0), (1_000, 1.0), (10**9, 1.0)]
)
def test_a_pause_is_between_half_and_all_of_what_it_may_be(failures: int, longest_s: float) -> None:
    found = [Pauses(0.1, 1.0).after(failures) for _ in range(200)]
    assert longest_s / 2 <= min(found) < max(found) <= longest_s


async def test_a_call_is_repeated_until_it_works() -> None:
    call = Failing(15, OSError("away"))
    assert await QUICK.until_done(OSError, call) == "done"
    assert call.calls == 16


async def test_the_pauses_are_those_of_the_policy() -> None:
    started = time.monotonic()
    await Pauses(0.05, 0.05).until_done((OSError, KeyError), Failing(4, OSError("away")))
    assert 0.1 <= time.monotonic() - started < 1.0


async def test_another_error_ends_it_at_once() -> None:
    call = Failing(1, ValueError("wrong"))
    with pytest.raises(ValueError, match=r"^wrong$"):
        await QUICK.until_done(OSError, call)
    assert call.calls == 1


async def test_a_timeout_and_a_cancellation_end_it_in_a_call_and_in_a_pause() -> None:
    async def hanging() -> None:
        await asyncio.sleep(60)

    for attempt in (hanging, Failing(1_000_000, OSError("away"))):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Pauses(30.0, 60.0).until_done(OSError, attempt)
        task = asyncio.create_task(Pauses(30.0, 60.0).until_done(OSError, attempt))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 5


async def test_each_try_is_one_quiet_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await QUICK.until_done(OSError, Failing(2, OSError("away")))
    told = [record for record in caplog.records if record.name != "asyncio"]
    assert [(record.levelname, record.name) for record in told] == [("DEBUG", "app.engine.retries")] * 2
    assert told[0].getMessage() == "trying again in 0.00 s: OSError('away')"
