"""Keeps a log readable while Kafka is away: what repeats itself is said once in a while."""

import logging
import time

SILENT_S = 5.0


class Repeats(logging.Filter):
    """Lets a warning through once in SILENT_S, whatever its arguments, and says how many it held back."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        message = str(record.msg)
        now = time.monotonic()
        if now - self._said_at.get(message, -SILENT_S) < SILENT_S:
            self._held_back[message] = self._held_back.get(message, 0) + 1
            return False
        self._said_at[message] = now
        if count := self._held_back.pop(message, 0):
            record.msg = f"{message} (and {count} times more since)"
        return True
