"""What is shown of the orders adds up, whatever of the log is read first."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.run.flow import Flow, flow

EVENTS = (
    *("OrderRiskApproved", "OrderRiskRejected", "OrderComplianceApproved", "OrderComplianceRejected"),
    *("VenueRejected", "OrderCancelled", "OrderExpired", "OrderWithheld", "TradeExecuted"),
)
ORIGINS = (("risk", "orders"), ("compliance", "risk-decisions"), ("exchange", "compliance-decisions"))
counts = st.integers(0, 1_000)


def adds_up(found: Flow) -> bool:
    return (
        all(step.came == step.passed + step.refused + step.dead + step.waiting for step in found)
        and all(step.waiting >= 0 for step in found)
        and found.orders == found.approved + found.refused + found.dead + found.waiting
        and found.risk.passed == found.compliance.came
        and found.compliance.passed == found.exchange.came
    )


def test_each_order_is_somewhere() -> None:
    events = Counter({"OrderRiskApproved": 80, "OrderRiskRejected": 10, "OrderComplianceApproved": 60})
    events += Counter({"OrderComplianceRejected": 15, "OrderCancelled": 4, "TradeExecuted": 90})

    found = flow(100, events, {("risk", "orders"): 3, ("marketdata", "market-data"): 9}, filled=30)

    assert (found.orders, found.approved, found.refused, found.dead, found.waiting) == (100, 60, 25, 3, 12)
    assert (found.exchange.passed, found.exchange.refused, found.exchange.waiting) == (30, 4, 26)
    assert adds_up(found)


def test_a_decision_that_is_read_before_its_order_counts_the_order() -> None:
    found = flow(5, {"OrderRiskApproved": 9, "OrderRiskRejected": 2}, {}, filled=0)
    assert (found.orders, found.waiting) == (11, 9)
    assert adds_up(found)


@given(
    counts,
    st.dictionaries(st.sampled_from(EVENTS), counts),
    st.dictionaries(st.sampled_from(ORIGINS), counts),
    counts,
)
def test_the_numbers_add_up_whatever_is_read(
    orders: int, events: dict[str, int], dead: dict[tuple[str, str], int], filled: int
) -> None:
    assert adds_up(flow(orders, events, dead, filled))
