"""The life of an order as `trace` tells it: which records are about it, in which order, and what they say."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from app.engine.kafka.cluster import TP
from app.operators.trace import in_order, is_about, show
from app.topics import COMPLIANCE_DECISIONS, DEAD_LETTERS, EXECUTIONS, ORDERS, RISK_DECISIONS

ORDER = {"order_id": "a-1", "account_id": "a", "sequence": 1}


def a_record(value: Any, event: str = "Event", at_ms: int = 0, offset: int = 0, **headers: str) -> Any:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    told = [("event-type", event.encode())]
    told += [(f"dead-letter-{name}".replace("_", "-"), text.encode()) for name, text in headers.items()]
    return SimpleNamespace(value=data, headers=told, timestamp=at_ms, offset=offset)


@pytest.mark.parametrize(
    ("value", "about"),
    [
        (ORDER, True),
        ({"order": ORDER, "reason": "halted"}, True),
        ({"request": {"request_id": "a-2", "order_id": "a-1"}}, True),
        ({"request": {"request_id": "a-1", "order_id": "a-0"}}, True),
        ({"order_id": "a-11"}, False),
        ({"order_id": "a-2", "why": "a-1"}, False),
        ({"order": ["a-1"], "order_id": 7}, False),
        (["a-1"], False),
        (b'{"order_id": "a-1"', False),
        (b"", False),
    ],
)
def test_a_record_is_about_the_order_that_it_names(value: Any, about: bool) -> None:
    assert is_about("a-1", a_record(value)) is about


def test_steps_are_in_the_order_of_the_clock_and_of_the_way_within_a_millisecond() -> None:
    steps = list(
        in_order(
            [
                (TP(EXECUTIONS.name, 1), a_record(ORDER, "OrderAcknowledged", 130)),
                (TP(COMPLIANCE_DECISIONS.name, 1), a_record({"order": ORDER}, "Approved", 110, offset=4)),
                (TP(RISK_DECISIONS.name, 1), a_record({"order": ORDER}, "RiskApproved", 110, offset=9)),
                (TP(ORDERS.name, 1), a_record(ORDER, "OrderReceived", 100)),
            ]
        )
    )

    assert [(each.event, each.since_ms) for each in steps] == [
        ("OrderReceived", None),
        ("RiskApproved", 10),
        ("Approved", 0),
        ("OrderAcknowledged", 20),
    ]


def test_a_decision_says_its_inputs_and_a_dead_letter_why(capsys: pytest.CaptureFixture[str]) -> None:
    decided = {"order": ORDER, "reference_price_ticks": 90_000, "limits_version": 7, "detail": ""}
    letter = a_record(ORDER, "OrderReceived", 5, service="risk", topic="orders", error="ValueError: no")
    steps = list(in_order([(TP("risk-decisions", 0), a_record(decided)), (TP(DEAD_LETTERS.name, 0), letter)]))

    assert dict(steps[0].said) == {"reference_price_ticks": 90_000, "limits_version": 7, "detail": ""}
    asked = {"request": {"request_id": "a-2", "order_id": "a-1", "quantity_lots": 7}, "reason": "halted"}
    (rejected,) = in_order([(TP("risk-decisions", 0), a_record(asked))])
    assert dict(rejected.said) == {"request_id": "a-2", "quantity_lots": 7, "reason": "halted"}
    assert steps[1].event == "dead letter (OrderReceived)"
    assert dict(steps[1].said) == {"service": "risk", "topic": "orders", "error": "ValueError: no"}

    show("a-1", steps)
    assert "limits_version 7" in " ".join(capsys.readouterr().out.split())
