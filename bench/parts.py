"""Where a worker's processor time goes: samples of its main thread, each counted for a part of the work."""

import signal
from collections import Counter
from types import FrameType

INTERVAL_S = 0.003
REST = "rest"
PARTS = {
    "drain": {"Fetcher._poll", "Inbox.take"},
    "decode": {"UnitOfWork.records"},
    "table": {
        "TableView.get",
        "TableView.__setitem__",
        "OwnedPartition.encode_changes",
        "OwnedPartition.apply",
    },
    "encode": {"UnitOfWork.emit"},
    "produce": {"Producer.send", "Producer._produce_to"},
    "commit": {"Producer._coordinated"},
    "decide": {"TaskAgent._again_and_again"},
}
"""The functions of each part, those that they call included: of all on the stack the innermost counts.

What the service's own code does is under the agent. The rest is the event loop with its connections. What
RocksDB's threads use meanwhile counts for whatever the main thread is at.
"""
_PART_OF = {function: part for part, functions in PARTS.items() for function in functions}


class Parts:
    """Samples from `start` on; the timer counts processor time, so that waiting is in no part."""

    def __init__(self) -> None:
        self._samples: Counter[str] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def shares(self) -> dict[str, float]:
        """Stop, and return each part's share of the processor time; empty when there was none."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = self._samples.total()
        return {part: self._samples[part] / total for part in (*PARTS, REST)} if total else {}

    def _take(self, _: int, frame: FrameType | None) -> None:
        self._samples[part_of(frame)] += 1


def part_of(frame: FrameType | None) -> str:
    """What the work under way at a frame counts for."""
    while frame is not None and frame.f_code.co_qualname not in _PART_OF:
        frame = frame.f_back
    return REST if frame is None else _PART_OF[frame.f_code.co_qualname]
