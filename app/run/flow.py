"""How many orders came to each service, and what became of them: numbers that add up.

Of each step `came` is the sum of the others. Topics are read side by side, so a decision may be seen before
its order: then the order, which must have been there, is counted as well.
"""

from collections.abc import Mapping
from typing import NamedTuple

from app.domain.lifecycle import ENDED_UNFILLED
from app.run.monitor import REQUESTS
from app.topics import COMPLIANCE_DECISIONS, ORDERS, RISK_DECISIONS


class Step(NamedTuple):
    """Orders at one service: those that came are passed on, refused, dead letters, or still waiting.

    At the exchange `passed` are filled, `refused` ended otherwise, and `waiting` open or on their way.
    """

    service: str
    came: int
    passed: int
    refused: int
    dead: int

    @property
    def waiting(self) -> int:
        return self.came - self.passed - self.refused - self.dead


class Flow(NamedTuple):
    """The way of all orders."""

    risk: Step
    compliance: Step
    exchange: Step

    @property
    def orders(self) -> int:
        return self.risk.came

    @property
    def refused(self) -> int:
        """By risk or compliance."""
        return self.risk.refused + self.compliance.refused

    @property
    def dead(self) -> int:
        """Dead letters before a decision to send."""
        return self.risk.dead + self.compliance.dead

    @property
    def waiting(self) -> int:
        """For a decision of risk or compliance."""
        return self.risk.waiting + self.compliance.waiting

    @property
    def approved(self) -> int:
        """To be sent to the venue."""
        return self.compliance.passed


def flow(
    orders: int, events: Mapping[str, int], dead_letters: Mapping[tuple[str, str], int], filled: int
) -> Flow:
    """From counts of records on `orders`, events by type, dead letters by origin, and filled orders.

    Cancels and replaces, which stand on `orders` as well, are none.
    """
    orders -= sum(events.get(each, 0) for each in REQUESTS)
    ended = sum(events.get(each, 0) for each in ENDED_UNFILLED)
    exchange = _step(
        "exchange",
        events.get("OrderComplianceApproved", 0),
        (filled, ended, dead_letters.get(("exchange", COMPLIANCE_DECISIONS.name), 0)),
    )
    compliance = _step(
        "compliance",
        events.get("OrderRiskApproved", 0),
        (
            exchange.came,
            events.get("OrderComplianceRejected", 0),
            dead_letters.get(("compliance", RISK_DECISIONS.name), 0),
        ),
    )
    risk = _step(
        "risk",
        orders,
        (
            compliance.came,
            events.get("OrderRiskRejected", 0),
            dead_letters.get(("risk", ORDERS.name), 0),
        ),
    )
    return Flow(risk, compliance, exchange)


def _step(service: str, came: int, became: tuple[int, int, int]) -> Step:
    return Step(service, max(came, sum(became)), *became)
