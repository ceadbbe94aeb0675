"""Drives the pipeline: ticks to Kafka and the venue, and after each chunk of them the accounts' orders."""

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from app import topics
from app.errors import UserError
from app.topology import MARKETDATA, RISK
from feed import history
from feed.accounts import REPEAT, Accounts, Placed, roster
from feed.garbage import RawRecord
from feed.introduction import Introduction
from feed.outlet import Outlet, patiently
from feed.readers import Readers
from feed.replay import FIRST_SESSION, Pace, Replay, Session
from feed.venue_market import VenueMarket
from feed.wire import Record, order_record, tick_record, to_json
from models.values import INT64_MAX

T = TypeVar("T")
log = logging.getLogger(__name__)

MARKET_DATA = topics.MARKET_DATA.name
ORDERS = topics.ORDERS.name
RISK_GROUP = RISK.name
MARKETDATA_GROUP = MARKETDATA.name

CHUNK_ORDERS = 200
"""Ticks go out in chunks that call for about so many orders: prices are never older than that."""

FRESH_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
STOP_GRACE_SECONDS = 3.0
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to feed and how fast; `orders` None goes on for ever, `speed` None is as fast as possible.

    In `requests_percent` of 100 cases an account rather cancels or replaces an earlier order.
    """

    bootstrap: str
    venue_url: str | None
    venue_token: str | None
    market_data: Path
    orders: int | None = None
    speed: float | None = 10.0
    seed: int = 1
    accounts: int = 32
    orders_per_tick: float = 4.0
    requests_percent: int = 0
    outstanding_max: int = 5_000
    resume: bool = False
    new_session: bool = False


@dataclass
class Summary:
    """What was sent. `orders_sent` counts all records put on `orders`: requests and garbage too."""

    orders_sent: int = 0
    ticks_sent: int = 0
    garbage_sent: int = 0
    refused: int = 0
    last_tick: int = 0
    venue_ticks_dropped: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Some ticks, and what the accounts do about them."""

    ticks: range
    reactions: list[Placed | RawRecord]


def next_chunk(accounts: Accounts, ticks: range, orders_left: int | None) -> Chunk:
    """As many of the ticks as it takes to use up the orders that are left; the last tick's may be cut."""
    reactions: list[Placed | RawRecord] = []
    for tick in ticks:
        reactions.extend(accounts.reactions(tick))
        if orders_left is not None and len(reactions) >= orders_left:
            return Chunk(range(ticks.start, tick + 1), reactions[:orders_left])
    return Chunk(ticks, reactions)


def next_session(own: history.Told | None, found: list[history.Told], *, new: bool) -> Session:
    """The session that goes on after `own`, our last tick, or a new one above every epoch that is there.

    A new one it also has to be where the topic has ticks but none of ours, or some of a higher epoch: ours
    would be taken for late.
    """
    epoch = max(told.tick.epoch for told in found)
    if own is None or new or own.tick.epoch < epoch:
        if epoch >= INT64_MAX:
            raise UserError(f"topic {MARKET_DATA!r} has ticks of epoch {epoch}: there is none above it")
        if not new:
            log.warning("others have written ticks of epoch %d: ours are a new session, %d", epoch, epoch + 1)
        return Session(epoch + 1, own.number if own else 0)
    return Session(epoch, own.number - own.tick.sequence)


class Feed:
    """One run of the feed, from `start` to its last order or to `stop`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._market = Replay.load(options.market_data)
        self._who = roster(options.accounts)
        self._accounts = Accounts(
            self._market, self._who, options.seed, options.orders_per_tick, options.requests_percent
        )
        self._pace = Pace(self._market, options.speed, time.monotonic)
        self._outlet = Outlet(options.bootstrap)
        self._readers = Readers(options.bootstrap)
        self._venue = VenueMarket(options.venue_url, options.venue_token) if options.venue_url else None
        self._stopping = asyncio.Event()
        self._session = FIRST_SESSION
        self._ticked_at = float("-inf")
        self._started_at = time.monotonic()
        self.summary = Summary()

    def stop(self) -> None:
        """End after the chunk that is being sent."""
        self._stopping.set()

    async def run(self) -> Summary:
        """Feed until all orders are sent or `stop` is called.

        Raises UserError for what the one who started us must put right.
        """
        helpers = [asyncio.create_task(self._report_progress())]
        if self._venue is not None:
            helpers.append(asyncio.create_task(self._venue.run()))
        try:
            await self._guarded(asyncio.create_task(self._work()), helpers)
        finally:
            await _end(helpers)
            await self._outlet.stop()
            await self._readers.stop()
            self._count()
        return self.summary

    async def _guarded(self, work: "asyncio.Task[None]", helpers: list["asyncio.Task[None]"]) -> None:
        """Wait for the work; a helper that fails ends it, and so does `stop`, after some grace."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([work, stopped, *helpers], return_when=asyncio.FIRST_COMPLETED)
            for helper in helpers:
                if helper.done():
                    helper.result()
            if not work.done():
                await asyncio.wait([work], timeout=STOP_GRACE_SECONDS)
        finally:
            stopped.cancel()
            await _end([work])
        if not work.cancelled():
            work.result()

    async def _work(self) -> None:
        await self._outlet.start()
        await self._readers.start()
        tick = await self._first_tick()
        introduction = Introduction(self._options.bootstrap, self._who)
        if await introduction.send(self._send) and self._options.outstanding_max:
            await introduction.confirm(self._known_to)
        await introduction.instruct(self._send)
        await self._replay(tick)
        if self._venue is not None:
            await self._venue.drained(PATIENCE_SECONDS)

    async def _first_tick(self) -> int:
        """The number of the tick after the last one of ours in the topic; fixes how ticks are called."""
        market, options = self._market, self._options

        def is_own(told: history.Told) -> bool:
            return market.is_own(told.tick, told.number)

        found = await _ask(lambda: history.last_ticks(options.bootstrap, MARKET_DATA, market.symbol, is_own))
        if not found:
            return 1
        if not options.resume and not options.new_session:
            last = max(told.tick.sequence for told in found)
            raise UserError(
                f"topic {MARKET_DATA!r} has ticks up to {last}: --resume goes on after them, --new-session "
                "counts its ticks from 1 again"
            )
        own = max((each for each in found if is_own(each)), key=lambda each: each.number, default=None)
        self._session = next_session(own, found, new=options.new_session)
        return own.number + 1 if own else 1

    async def _replay(self, tick: int) -> None:
        while (left := self._orders_left()) != 0 and await self._due(tick):
            await self._make_room()
            ticks = self._pace.take(tick, max(1, int(CHUNK_ORDERS / self._options.orders_per_tick)))
            chunk = next_chunk(self._accounts, ticks, left)
            await self._send_ticks(chunk.ticks)
            await self._send_orders(chunk.reactions)
            tick = chunk.ticks.stop

    def _orders_left(self) -> int | None:
        if self._options.orders is None:
            return None
        return self._options.orders - self.summary.orders_sent

    async def _due(self, tick: int) -> bool:
        """Wait until the tick is due; False when we are to stop."""
        seconds = self._pace.seconds_until(tick)
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self._stopping.is_set()

    async def _make_room(self) -> None:
        if self._options.outstanding_max:
            await self._readers.room(RISK_GROUP, ORDERS, self._options.outstanding_max)

    async def _send_ticks(self, ticks: range) -> None:
        """Send a chunk of prices; after a pause wait until they are known: no order meets a stale one."""
        observed_at_ms = _now_ms()
        market, session = self._market, self._session
        records = [tick_record(market.tick(each, observed_at_ms, session), each) for each in ticks]
        await self._send(MARKET_DATA, records)
        if self._venue is not None:  # which counts the market's ticks, whatever session they come in
            self._venue.offer([to_json(market.tick(each, observed_at_ms)) for each in ticks])
        self.summary.ticks_sent += len(ticks)
        self.summary.last_tick = ticks[-1]
        paused_s = time.monotonic() - self._ticked_at
        self._ticked_at = time.monotonic()
        if paused_s > FRESH_SECONDS:
            await self._known_to(MARKETDATA_GROUP, MARKET_DATA)

    async def _known_to(self, group: str, topic: str) -> None:
        """Wait, not for ever, until a service has what we sent; not at all when nothing is to hold us up."""
        if not self._options.outstanding_max:
            return
        if not await self._readers.caught_up(group, topic, PATIENCE_SECONDS):
            log.warning(
                "%s has not read what we sent to %s after %.0f s: going on", group, topic, PATIENCE_SECONDS
            )

    async def _send_orders(self, reactions: list[Placed | RawRecord]) -> None:
        now_ms = _now_ms()
        refused = self._outlet.refused
        await self._send(ORDERS, [_record(each, now_ms) for each in reactions])
        refused = self._outlet.refused - refused
        broken = sum(isinstance(each, RawRecord) or each.intent == REPEAT for each in reactions)
        self.summary.orders_sent += len(reactions) - refused
        self.summary.garbage_sent += broken - refused
        self.summary.refused += refused

    async def _send(self, topic: str, records: list[Record]) -> None:
        if records:
            self._readers.sent(topic, await self._outlet.send(topic, records))

    async def _report_progress(self) -> None:
        """One line of JSON a second on standard error."""
        orders_before = 0
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            self._count()
            orders = self.summary.orders_sent
            rate = round((orders - orders_before) / PROGRESS_SECONDS)
            orders_before = orders
            line = asdict(self.summary) | {"orders_per_second": rate, "outstanding": self._outstanding()}
            print(json.dumps({"feed": "progress"} | line), file=sys.stderr, flush=True)

    def _outstanding(self) -> int:
        return self._readers.behind(RISK_GROUP, ORDERS)

    def _count(self) -> None:
        self.summary.seconds = round(time.monotonic() - self._started_at, 3)
        if self._venue is not None:
            self.summary.venue_ticks_dropped = self._venue.dropped


def _record(reaction: Placed | RawRecord, now_ms: int) -> Record:
    if isinstance(reaction, RawRecord):
        return Record(reaction.key, reaction.value, reaction.headers)
    return order_record(reaction.order, now_ms)


async def _ask(question: Callable[[], Awaitable[T]]) -> T:
    return await patiently(question, "reading from Kafka")


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
