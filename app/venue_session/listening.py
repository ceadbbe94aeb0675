"""The frames of the venue's report stream, as they come and as they are taken."""

import asyncio
from typing import Any, Final

import aiohttp

from app.venue_session.client import VenueRefuses
from app.venue_session.reports import Reported, Unreadable, read_frame

FRAMES_MAX: Final = 100
FULL_S: Final = 0.05


async def listen(socket: Any, arrived: "asyncio.Queue[list[Reported]]") -> None:
    """Put in what comes, frame by frame, and an empty frame at the end."""
    try:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                try:
                    reports = read_frame(message.data)
                except Unreadable as error:
                    raise VenueRefuses(str(error), kind="frame") from None
                if reports:
                    arrived.put_nowait(reports)
            while arrived.qsize() > FRAMES_MAX:  # noqa: ASYNC110  (the venue waits with us)
                await asyncio.sleep(FULL_S)
    finally:
        arrived.put_nowait([])


async def all_of(arrived: "asyncio.Queue[list[Reported]]") -> list[Reported]:
    """What has come: the first frame is waited for. Empty when no more will come."""
    reports = await arrived.get()
    while reports and not arrived.empty():
        more = arrived.get_nowait()
        if not more:
            arrived.put_nowait(more)
            break
        reports = reports + more
    return reports
