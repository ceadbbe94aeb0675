"""When the pipeline counts as quiet, and when it counts as stuck."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.engine.kafka.cluster import TP
from app.errors import StuckError
from app.run.quiet import Standing, until_quiet

QUIET = Standing(ends={TP("orders", 0): 7}, behind={})
BUSY = Standing(ends={TP("orders", 0): 7}, behind={"risk": {TP("orders", 0): 3}})


def looks(*standings: Standing) -> Callable[[], Awaitable[Standing]]:
    """A look that finds these, one after the other, and then the last for ever."""
    left = list(standings)

    async def look() -> Standing:
        return left.pop(0) if len(left) > 1 else left[0]

    return look


async def test_two_looks_that_agree_make_it_quiet() -> None:
    moved = Standing(ends={TP("orders", 0): 8}, behind={})

    assert await until_quiet(looks(BUSY, QUIET, moved, BUSY, QUIET)) == QUIET


@pytest.mark.parametrize("left", [{"unsent": 1}, {"unread": 1}, {"uncounted": True}])
def test_what_the_venue_has_not_settled_is_not_quiet(left: dict[str, int]) -> None:
    assert not Standing(ends={}, behind={}, **left).is_quiet  # type: ignore[arg-type]


async def test_no_movement_for_long_is_an_error_that_says_where() -> None:
    stuck = Standing(ends={}, behind=BUSY.behind, unsent=2, unread=5)

    with pytest.raises(StuckError) as raised:
        await until_quiet(looks(stuck), still_s_max=0.3)

    assert str(raised.value) == (
        "nothing has moved for 0 s: risk is 3 records behind (orders/0: 3); 2 approved orders or requests "
        "have not reached the venue; 5 reports of the venue are not booked"
    )


async def test_a_broker_that_does_not_answer_is_an_error_too() -> None:
    async def look() -> Standing:
        await asyncio.sleep(10)
        return QUIET

    with pytest.raises(StuckError, match="Kafka has not answered"):
        await until_quiet(look, still_s_max=0.1)
