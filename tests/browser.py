"""A browser without a window, told what to do over its debugging protocol."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HEADLESS = ("--headless=new", "--no-sandbox", "--disable-gpu")
START_S_MAX = 60.0
POLL_S = 0.1


class Tab:
    """One page in a browser."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        self._number += 1
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        await self._socket.send_json({"id": self._number, "method": "Runtime.evaluate", "params": parameters})
        while (answer := await self._socket.receive_json())["id"] != self._number:
            pass
        return answer["result"]["result"].get("value")

    async def until(self, expression: str, seconds: float = START_S_MAX) -> None:
        """Wait until an expression is true. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not await self.evaluate(expression):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)


@asynccontextmanager
async def a_tab(url: str, profile: Path, size: str = "390,800") -> AsyncIterator[Tab]:
    """A browser that shows `url` in a window of the given size; it ends with the context."""
    assert BROWSER is not None
    told = ("--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={size}")
    process = await asyncio.create_subprocess_exec(
        BROWSER, *HEADLESS, *told, url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with ClientSession() as session:
            async with asyncio.timeout(START_S_MAX):
                socket = await session.ws_connect(await _page(session, profile / "DevToolsActivePort"))
            yield Tab(socket)
    finally:
        process.terminate()
        await process.wait()


async def _page(session: ClientSession, address: Path) -> str:
    """Where the page is debugged; `address` is the file in which the browser says where it listens."""
    while not (address.exists() and "\n" in (told := address.read_text())):  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(POLL_S)
    while True:
        async with session.get(f"http://127.0.0.1:{told.splitlines()[0]}/json") as answer:
            pages = [each for each in await answer.json() if each["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        await asyncio.sleep(POLL_S)
