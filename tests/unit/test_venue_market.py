"""What the feed's log says of a venue that does not take its ticks."""

import asyncio
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

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
