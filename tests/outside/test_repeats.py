"""A record that comes once more: an offset was reset, a tool has copied, a producer has sent twice."""

import pytest

from tests.outside.client import Heard, new_account
from tests.outside.pipeline import BTC, PRICE_TICKS, OutsidePipeline


def again(pipeline: OutsidePipeline, record: Heard) -> None:
    """Put the very record on its topic once more."""
    pipeline.client.send(
        record.topic,
        record.key,
        record.raw,
        None,
        partition=record.partition,
        headers=list(record.headers.items()),
    )


@pytest.mark.parametrize("topic", ["risk-decisions", "compliance-decisions", "executions"])
def test_a_repeat_about_an_open_order_changes_nothing(pipeline: OutsidePipeline, topic: str) -> None:
    account = pipeline.open_account(new_account())
    resting = pipeline.send_order(account, 1, time_in_force="gtc", price_ticks=PRICE_TICKS * 97 // 100)
    pipeline.decision(resting, "executions")
    again(pipeline, pipeline.decision(resting, topic))
    pipeline.tick(BTC, PRICE_TICKS * 97 // 100)  # it fills
    assert pipeline.ending(resting).event_type == "TradeExecuted"
    pipeline.price(BTC)
    assert pipeline.ending(pipeline.send_order(account, 2)).event_type == "TradeExecuted"
    assert pipeline.filled_lots(account) == 10 + 11
    assert pipeline.all_ready()


@pytest.mark.parametrize("topic", ["orders", "risk-decisions", "compliance-decisions", "executions"])
def test_a_repeat_about_an_ended_order_changes_nothing(pipeline: OutsidePipeline, topic: str) -> None:
    account = pipeline.open_account(new_account())
    first = pipeline.send_order(account, 1)
    pipeline.ending(first)
    for record in [each for each in pipeline.listener.of_order(first) if each.topic == topic]:
        again(pipeline, record)
    if topic == "orders":
        (record,) = [each for each in pipeline.listener.heard("orders") if each.order_id == first]
        again(pipeline, record)
    assert pipeline.ending(pipeline.send_order(account, 2)).event_type == "TradeExecuted"
    assert pipeline.filled_lots(account) == 10 + 11
    assert pipeline.all_ready()


def test_a_report_that_fits_no_order_costs_one_dead_letter(pipeline: OutsidePipeline) -> None:
    account, other = pipeline.open_account(new_account()), pipeline.open_account(new_account())
    pipeline.ending(pipeline.send_order(account, 1))
    forged = {
        "order_id": f"{account}-999",
        "account_id": account,
        "symbol": BTC,
        "side": "buy",
        "venue_order_id": "V1",
        "venue_sequence": 2**40,
        "trade_id": "T1B",
        "quantity_lots": 1,
        "price_ticks": PRICE_TICKS,
        "leaves_lots": 0,
    }
    pipeline.client.send("executions", account, forged, "TradeExecuted")
    pipeline.dead_letter("InvariantBroken", account)
    assert pipeline.ending(pipeline.send_order(other, 1)).event_type == "TradeExecuted"
    assert pipeline.all_ready()
