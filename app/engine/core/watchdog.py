"""Ends a worker that is stuck, so that others take its partitions: its event loop, or the service's own code.

A thread looks. Waiting for a broker, for room on the disk or between two attempts is not being stuck, nor is
a restore: only the event loop and what an agent or a companion does with a task in its hands are timed.
A process that was stopped and continued has not been stuck either: only time that the thread has seen counts.
The thread sees nothing while a call into C keeps the interpreter for itself: then a timer that needs no
interpreter ends the worker, after GRIP_FACTOR times the bound.
"""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_REAL_STDERR: Any = sys.__stderr__
"""Faust puts one that logs, and is no file, in the place of `sys.stderr`."""

EXIT_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""

LAST_WORDS_S_MAX = 2.0

LOOKS = 10
"""How often the thread looks within the bound."""

GRIP_FACTOR = 3
"""The timer does not know of a process that was stopped, so it is patient; its exit status is 1."""


class Turn:
    """A stretch of time in which the service's code has a task in its hands; `number` is None between two."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._count = 0

    def begin(self) -> None:
        self._count += 1
        self.number = self._count

    def end(self) -> None:
        self.number = None


class Watchdog:
    """Watches one event loop and the turns that `turns` tells by name; a bound of 0 s watches nothing."""

    def __init__(self, stuck_s_max: float, turns: Callable[[], Mapping[str, Turn]]) -> None:
        self.stuck: list[str] = []
        self._stuck_s_max = stuck_s_max
        self._turns = turns
        self._over = threading.Event()
        self._asked = self._answered = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stuck_s_max > 0:
            threading.Thread(target=self._watch, args=(loop,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        period_s = self._stuck_s_max / LOOKS
        held: dict[str, tuple[int, float]] = {}
        looked_at = time.monotonic()
        while not self._over.wait(period_s):
            faulthandler.dump_traceback_later(GRIP_FACTOR * self._stuck_s_max, exit=True, file=_REAL_STDERR)
            now = time.monotonic()
            seen_s, looked_at = min(now - looked_at, 2 * period_s), now
            held = self._longer_held(held, self._in_hand(loop), seen_s)
            self.stuck = [f"{who} ({s:.1f} s)" for who, (_, s) in held.items() if s > self._stuck_s_max]
            if self.stuck and not self._over.is_set():
                self._end()
        faulthandler.cancel_dump_traceback_later()

    @staticmethod
    def _longer_held(
        held: Mapping[str, tuple[int, float]], in_hand: Mapping[str, int], seen_s: float
    ) -> dict[str, tuple[int, float]]:
        """For how long what is in hand now has been in the same hands."""
        return {
            who: (number, held[who][1] + seen_s if who in held and held[who][0] == number else 0.0)
            for who, number in in_hand.items()
        }

    def _in_hand(self, loop: asyncio.AbstractEventLoop) -> dict[str, int]:
        found = {who: turn.number for who, turn in self._turns().items() if turn.number is not None}
        if self._asked != self._answered:
            return {"the event loop": self._asked, **found}
        self._asked += 1
        try:
            loop.call_soon_threadsafe(self._answer, self._asked)
        except RuntimeError:  # the loop is closed
            self._over.set()
        return found

    def _answer(self, number: int) -> None:
        self._answered = number

    def _end(self) -> None:
        threading.Timer(LAST_WORDS_S_MAX, os._exit, [EXIT_STATUS]).start()  # who reads may be stuck too
        told = ", ".join(self.stuck)
        print(f"stuck for more than {self._stuck_s_max:g} s: {told}. Ending.", file=_REAL_STDERR, flush=True)
        faulthandler.dump_traceback(_REAL_STDERR)
        os._exit(EXIT_STATUS)
