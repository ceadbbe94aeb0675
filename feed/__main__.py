"""`python -m feed`: replay the market and let the accounts trade; prints a summary in JSON at the end."""

import argparse
import asyncio
import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from app.config import settings
from app.devkafka.artifacts import market_data_csv
from app.errors import UserError
from feed.accounts import SLOTS_MAX
from feed.main import Feed, Options, Summary

EXIT_USER_ERROR = 2
REQUESTS_PERCENT = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the feed; gives the exit status. A UserError is one line on standard error."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="feed: %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    try:
        summary = uvloop.run(_run(_options(arguments)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(json.dumps(asdict(summary)), flush=True)
    return 0


async def _run(options: Options) -> Summary:
    """Ctrl-C and SIGTERM end the feed in good order, with its summary."""
    feed = Feed(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, feed.stop)
    return await feed.run()


def _options(arguments: Sequence[str] | None) -> Options:
    given = _parser().parse_args(arguments)
    known = settings()
    return Options(
        bootstrap=given.bootstrap or known.bootstrap,
        venue_url=None if given.no_venue else given.venue_url or known.venue_url,
        venue_token=known.reveal_venue_token(),
        market_data=given.market_data or market_data_csv(),
        orders=given.orders,
        speed=given.speed,
        seed=given.seed,
        accounts=given.accounts,
        orders_per_tick=given.orders_per_tick,
        requests_percent=given.requests,
        outstanding_max=given.max_outstanding,
        resume=given.resume,
        new_session=given.new_session,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m feed", description=__doc__)
    add = parser.add_argument
    add("--bootstrap", metavar="HOST:PORT", help="Kafka; default: KAFKA_BOOTSTRAP, else the embedded one")
    add(
        "--venue-url",
        metavar="URL",
        help="default: VENUE_URL; its token is VENUE_TOKEN, or in VENUE_TOKEN_FILE",
    )
    add("--no-venue", action="store_true", help="tell no venue about the market")
    add("--market-data", type=Path, metavar="CSV", help="default: 100,000 real trades, fetched once")
    add("--orders", type=_orders, default=None, metavar="N", help="records on 'orders', or 'unlimited'")
    add("--speed", type=_speed, default=10.0, metavar="X", help="times real speed, or 'max'; default: 10")
    add("--seed", type=_whole(0), default=1, metavar="S", help="default: 1")
    add("--accounts", type=_whole(1), default=32, metavar="A", help="ordinary accounts; default: 32")
    add("--orders-per-tick", type=_rate, default=4.0, metavar="R", help="up to 8; default: 4")
    add(
        "--requests",
        type=_percent,
        default=REQUESTS_PERCENT,
        metavar="P",
        help="in P of 100 cases cancel or replace an earlier order instead; default: %(default)s",
    )
    add(
        "--max-outstanding",
        type=_whole(0),
        default=5_000,
        metavar="M",
        help="orders risk has not decided yet",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on after the last tick in Kafka")
    start.add_argument(
        "--new-session",
        action="store_true",
        help="go on after the last tick in Kafka, and count ticks from 1 again, in a higher epoch",
    )
    return parser


def _whole(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from {low}")
        return int(text)

    return read


def _percent(text: str) -> int:
    if not text.isdecimal() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from 0 to 100")
    return int(text)


def _orders(text: str) -> int | None:
    return None if text == "unlimited" else _whole(1)(text)


def _positive(text: str, allowed: str, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is {allowed}")
    return number


def _speed(text: str) -> float | None:
    return None if text == "max" else _positive(text, "'max' or a number above 0", 1e6)


def _rate(text: str) -> float:
    return _positive(text, f"a number above 0, up to {SLOTS_MAX}", SLOTS_MAX)


if __name__ == "__main__":
    sys.exit(main())
