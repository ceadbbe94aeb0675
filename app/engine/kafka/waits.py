"""What holds up commits though Kafka answers, for so long that people have to know."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

LASTS_S = 5.0
"""Most waits are over within milliseconds: the last transaction is being ended, a coordinator moves."""


class Wait:
    """Something that is under way; `because` says why it does not get on."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._text = ""

    def because(self, why: str) -> None:
        """Note why, in one line; the first of several counts."""
        if self._since is None:
            self._since = time.monotonic()
            self._text = f"{why} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"

    def no_more(self) -> None:
        """Forget why: it is something else now, which is told elsewhere."""
        self._since = None

    @property
    def lasting(self) -> str | None:
        """Why it has not got on for long, else None."""
        if self._since is None or time.monotonic() - self._since < LASTS_S:
            return None
        return self._text


class Waits:
    """Whatever is under way for those who commit under one id."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()

    @contextmanager
    def begin(self) -> Iterator[Wait]:
        """Watch one thing until it is over."""
        wait = Wait()
        self._waits.add(wait)
        try:
            yield wait
        finally:
            self._waits.discard(wait)

    @property
    def lasting(self) -> list[str]:
        """One line for each reason that has lasted long."""
        return sorted({text for each in self._waits if (text := each.lasting) is not None})
