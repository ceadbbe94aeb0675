"""What the feed's log says of a venue that does not take its ticks."""

import asyncio
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.errors import UserError
from feed.venue_market import VenueMarket


async def test_the_token_is_in_no_line_whatever_the_venue_answers(caplog: pytest.LogCaptureFixture) -> None:
    """A call that is sent round in circles fails with the headers of its request in hand."""

    async def round_in_circles(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/market")

    application = web.Application()
    application.router.add_post("/market", round_in_circles)
    async with TestServer(application) as server:
        with caplog.at_level(logging.DEBUG):
            market = VenueMarket(str(server.make_url("/")), "secret")
            market.offer([b"{}"])
            running = asyncio.create_task(market.run())
            assert not await market.drained(0.3)
            running.cancel()

    assert "the venue is away: TooManyRedirects: " in caplog.text
    assert "secret" not in caplog.text


async def test_a_refusal_is_one_line_without_the_token() -> None:
    async def refuse(request: web.Request) -> web.Response:
        text = "no\n" + "x" * 190 + request.headers["Authorization"] + "y" * 100_000
        headers = {"Content-Type": "text/plain; charset=nonsense"}
        return web.Response(status=400, body=text.encode(), headers=headers)

    application = web.Application()
    application.router.add_post("/market", refuse)
    async with TestServer(application) as server:
        market = VenueMarket(str(server.make_url("/")), "0123456789")
        market.offer([b"{}"])
        with pytest.raises(UserError, match=r"refuses our ticks \(400\): no xxx") as refused:
            await asyncio.wait_for(market.run(), 10)

    told = str(refused.value)
    assert "01" not in told.partition("(400)")[2]
    assert len(told.splitlines()) == 1
    assert len(told) < 400
