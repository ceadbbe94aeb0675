"""Runs the venue: `python -m venue --port P --data-dir D --instruments FILE`, until SIGTERM or SIGINT.

Its secret is VENUE_TOKEN, or in the file VENUE_TOKEN_FILE.
"""

import asyncio
import logging
import signal
import sqlite3
import sys
from contextlib import closing, suppress

from aiohttp import web

from venue.config import Config, read_config
from venue.errors import StartError
from venue.exchange import Exchange
from venue.instruments import read_listing
from venue.ledger import Ledger
from venue.lock import lock_directory
from venue.parent import signal_at_parent_death, wait_until_orphaned
from venue.server import Server

SHUTDOWN_S = 1.0


def main() -> int:
    """Exit status 0 after a clean stop, 2 with one line on stderr when the venue can't start."""
    logging.basicConfig(level=logging.WARNING, format="venue %(levelname)s %(message)s")
    try:
        config = read_config(sys.argv[1:])
        if config.parent_pid is not None:
            signal_at_parent_death()
        listed = read_listing(config.instruments)
        config.data_dir.mkdir(parents=True, exist_ok=True)
        with lock_directory(config.data_dir), closing(Ledger(config.data_dir / "ledger.sqlite")) as ledger:
            asyncio.run(_serve(config, Exchange(ledger, listed, rules=config.rules)))
    except StartError as error:
        print(f"venue: {error}", file=sys.stderr)
        return 2
    except (OSError, sqlite3.Error) as error:
        print(f"venue: {error}: check --data-dir, --host and --port", file=sys.stderr)
        return 2
    return 0


async def _serve(config: Config, exchange: Exchange) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        Server(exchange, config.token).application(),
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port).start()
        port = runner.addresses[0][1]
        print(f"venue listening on http://{config.host}:{port}", flush=True)
        await _wait_for_stop(stop, config.parent_pid)
    finally:
        await runner.cleanup()


async def _wait_for_stop(stop: asyncio.Event, parent_pid: int | None) -> None:
    waits: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait())]
    if parent_pid is not None:
        waits.append(asyncio.create_task(wait_until_orphaned(parent_pid)))
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
        with suppress(asyncio.CancelledError):
            await wait


if __name__ == "__main__":
    sys.exit(main())
