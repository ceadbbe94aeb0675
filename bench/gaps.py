"""How long there was nothing, from when each answer came and when it was asked for."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    """When a reader had a decision, and when its order was sent."""

    at: float
    sent_at: float


def outage(answers: Sequence[Answer], killed_at: float) -> float | None:
    """Seconds from the kill to the first decision on an order sent after it; None: there is none yet."""
    return next((answer.at - killed_at for answer in answers if answer.sent_at >= killed_at), None)


def longest_gap(answers: Sequence[Answer], since: float, until: float) -> float:
    """The longest time between `since` and `until` without a decision."""
    times = [since, *(answer.at for answer in answers if since < answer.at < until), until]
    return max(after - before for before, after in itertools.pairwise(times))
