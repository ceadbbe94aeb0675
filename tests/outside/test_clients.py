"""Clients that partition, repeat, number, date or sign their records in a way that nobody meant."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.outside.client import Client, Heard, new_account
from tests.outside.pipeline import BTC, ETH, LIMITS, PRICE_TICKS, OutsidePipeline

DAY_MS = 24 * 3600 * 1000


def account_that_crc32_puts_elsewhere(pipeline: OutsidePipeline) -> str:
    """An account whose limits librdkafka's default partitioner sends to the wrong partition."""
    while True:
        account = new_account("crc32")
        pipeline.register(account)
        fields = {"account_id": account, "version": 1, **LIMITS, "position_lots_max": 10}
        partition, _ = pipeline.clumsy.send("risk-limits", account, fields, "SetRiskLimits")
        right, _ = pipeline.client.send("orders", account, b"where does this go?", None)
        if partition != right:
            pipeline.answer(account)
            return account


class TestAnotherPartitioner:
    def test_limits_on_the_wrong_partition_are_a_dead_letter_that_says_how_to_send(
        self, pipeline: OutsidePipeline
    ) -> None:
        account = account_that_crc32_puts_elsewhere(pipeline)
        letter = pipeline.dead_letter("WrongPartition", account)
        assert "murmur2" in letter.error
        assert letter.headers["dead-letter-topic"] == b"risk-limits"

    def test_a_limit_is_one_limit_whichever_way_orders_are_partitioned(
        self, pipeline: OutsidePipeline
    ) -> None:
        account = account_that_crc32_puts_elsewhere(pipeline)
        assert pipeline.limit(account, position_lots_max=10).value["accepted"]
        rightly = pipeline.send_order(account, 1, quantity_lots=10)
        fields = pipeline.order_fields(account, 2, quantity_lots=10)
        pipeline.clumsy.send("orders", account, fields, "OrderReceived")
        assert pipeline.ending(rightly).event_type == "TradeExecuted"
        letter = pipeline.dead_letter("WrongPartition", account)
        pipeline.listener.until(
            lambda: [
                each
                for each in pipeline.listener.heard("dead-letters")
                if each.key == account.encode() and each.headers["dead-letter-topic"] == b"orders"
            ],
            "buried the order",
        )
        assert letter.key == account.encode()
        assert pipeline.filled_lots(account) == 10

    def test_a_kill_switch_on_the_wrong_partition_is_no_silence(self, pipeline: OutsidePipeline) -> None:
        account = account_that_crc32_puts_elsewhere(pipeline)
        pipeline.limit(account)
        fields = {"account_id": account, "version": 99, **LIMITS, "kill_switch": True}
        pipeline.clumsy.send("risk-limits", account, fields, "SetRiskLimits")
        pipeline.listener.until(
            lambda: (
                len(
                    [each for each in pipeline.listener.heard("dead-letters") if each.key == account.encode()]
                )
                >= 3
            ),  # the first limits, the record that asks where, and this one
            "buried the kill switch",
        )

    @pytest.mark.parametrize(
        "topic", ["operator-commands", "restrictions", "account-commands", "market-data"]
    )
    def test_every_keyed_input_looks_at_the_partition(self, pipeline: OutsidePipeline, topic: str) -> None:
        name = new_account("nobody")
        right, _ = pipeline.client.send("orders", name, b"where does this go?", None)
        pipeline.client.send(topic, name, b"{}", "Anything", partition=(right + 1) % 8)
        letters = pipeline.listener
        letters.until(
            lambda: [
                each
                for each in letters.heard("dead-letters")
                if each.key == name.encode()
                and each.headers["dead-letter-topic"] == topic.encode()
                and "WrongPartition" in each.error
            ],
            f"buried a record on the wrong partition of {topic}",
        )

    def test_an_account_goes_on_after_a_record_of_it_went_astray(self, pipeline: OutsidePipeline) -> None:
        account = account_that_crc32_puts_elsewhere(pipeline)
        assert pipeline.limit(account).value["accepted"]
        assert pipeline.ending(pipeline.send_order(account, 1)).event_type == "TradeExecuted"


class TestTime:
    @pytest.mark.parametrize(
        ("submitted_at_ms", "reason"),
        [
            (lambda now_ms: now_ms - 81_000, "order_too_old"),
            (lambda now_ms: now_ms // 1000, "order_too_old"),
            (lambda now_ms: now_ms - DAY_MS, "order_too_old"),
            (lambda now_ms: now_ms * 1000, "timestamp_in_future"),
            (lambda now_ms: now_ms + 60_000, "timestamp_in_future"),
        ],
        ids=["81 s", "in seconds", "a day", "in microseconds", "a clock a minute ahead"],
    )
    def test_an_order_of_another_time_is_refused(
        self, pipeline: OutsidePipeline, submitted_at_ms: Callable[[int], int], reason: str
    ) -> None:
        account = pipeline.open_account(new_account())
        at_ms = submitted_at_ms(int(time.time() * 1000))
        assert pipeline.refusal(pipeline.send_order(account, 1, submitted_at_ms=at_ms)) == reason

    def test_a_clock_a_second_ahead_does_not_evade_the_duplicate_check(
        self, pipeline: OutsidePipeline
    ) -> None:
        account = pipeline.open_account(new_account())
        now_ms = int(time.time() * 1000)
        first = pipeline.send_order(account, 1, quantity_lots=7, submitted_at_ms=now_ms - 900)
        twin = pipeline.send_order(account, 2, quantity_lots=7, submitted_at_ms=now_ms + 900)
        assert pipeline.decision(first, "compliance-decisions").event_type == "OrderComplianceApproved"
        decision = pipeline.decision(twin, "compliance-decisions")
        assert (decision.event_type, decision.value["reason"]) == (
            "OrderComplianceRejected",
            "duplicate_order",
        )


class TestNumbers:
    def test_a_sequence_may_not_leap_and_the_account_goes_on(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        assert pipeline.refusal(pipeline.send_order(account, 2**63 - 1)) == "sequence_leap"
        assert pipeline.ending(pipeline.send_order(account, 1)).event_type == "TradeExecuted"

    def test_an_operator_sets_an_account_right_again(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account(), order_quantity_lots_max=10)
        far = 5_000_000
        assert pipeline.refusal(pipeline.send_order(account, far, quantity_lots=11)) == "order_too_large"
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "duplicate_order_id"
        answer = pipeline.command(
            "account-commands",
            account,
            "SetAccountSequence",
            account_id=account,
            last_sequence=1,
            who="test",
            why="a slip of the client",
        )
        assert answer.value["accepted"], answer
        assert pipeline.ending(pipeline.send_order(account, 2, quantity_lots=9)).event_type == "TradeExecuted"

    def test_it_is_never_set_below_an_approved_order(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        pipeline.ending(pipeline.send_order(account, 7))
        fields = {"account_id": account, "last_sequence": 3, "who": "test", "why": "test"}
        answer = pipeline.command("account-commands", account, "SetAccountSequence", **fields)
        assert not answer.value["accepted"]
        assert "7" in answer.value["reason"]

    def test_unknown_accounts_leave_no_state(self, pipeline: OutsidePipeline) -> None:
        account = new_account("stranger")
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "unknown_account"
        assert pipeline.refusal(pipeline.send_order(account, 2)) == "unknown_account"
        status, _ = pipeline.page("risk", f"/api/tables/positions/{account}")
        assert status == 404


class TestExposure:
    def test_reducing_ends_at_zero(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account(), position_lots_max=100)
        assert (
            pipeline.ending(pipeline.send_order(account, 1, quantity_lots=100)).event_type == "TradeExecuted"
        )
        assert pipeline.limit(account, position_lots_max=50).value["accepted"]
        through = pipeline.send_order(account, 2, side="sell", quantity_lots=200)
        assert pipeline.refusal(through) == "position_limit"
        towards = pipeline.send_order(account, 3, side="sell", quantity_lots=100)
        assert pipeline.ending(towards).event_type == "TradeExecuted"

    def test_a_buy_counts_at_its_own_price_when_that_is_worse(self, pipeline: OutsidePipeline) -> None:
        value_micros = 100 * PRICE_TICKS  # 100 lots at the reference: tick x lot is a micro
        account = pipeline.open_account(new_account(), gross_exposure_micros_max=value_micros * 101 // 100)
        above = PRICE_TICKS * 105 // 100
        refused = pipeline.send_order(account, 1, quantity_lots=100, price_ticks=above)
        assert pipeline.refusal(refused) == "gross_exposure_limit"
        fine = pipeline.send_order(account, 2, quantity_lots=100)
        assert pipeline.ending(fine).event_type == "TradeExecuted"

    def test_other_symbols_count_at_todays_price(self, pipeline: OutsidePipeline) -> None:
        eth_micros = 10 * PRICE_TICKS * 10  # 10 lots of 0.001 at 0.01: ten micros a tick and lot
        account = pipeline.open_account(
            new_account(), gross_exposure_micros_max=eth_micros * 105 // 100 + 10 * PRICE_TICKS
        )
        held = pipeline.send_order(account, 1, symbol=ETH, quantity_lots=10)
        assert pipeline.ending(held).event_type == "TradeExecuted"
        pipeline.price(ETH, PRICE_TICKS * 115 // 100)
        try:
            refused = pipeline.send_order(account, 2, quantity_lots=10)
            assert pipeline.refusal(refused) == "gross_exposure_limit"
        finally:
            pipeline.price(ETH, PRICE_TICKS)


class TestInstructions:
    def test_an_unknown_field_of_an_order_is_refused_by_name(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        order_id = pipeline.send_order(account, 1, stop_price_ticks=80_000)
        decision = pipeline.decision(order_id)
        assert decision.value["reason"] == "unknown_field"
        assert "stop_price_ticks" in decision.value["detail"]

    def test_an_unknown_field_of_limits_is_refused_by_name(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        fields = {"account_id": account, "version": 50, **LIMITS, "daily_loss_micros_max": 1}
        answer = pipeline.command("risk-limits", account, "SetRiskLimits", **fields)
        assert not answer.value["accepted"]
        assert "daily_loss_micros_max" in answer.value["reason"]


class TestTransactionsOfOthers:
    @pytest.mark.parametrize("topic", ["orders", "market-data"])
    def test_an_open_transaction_is_said_and_survived(self, pipeline: OutsidePipeline, topic: str) -> None:
        service = {"orders": "risk", "market-data": "marketdata"}[topic]
        client = Client(
            pipeline.bootstrap,
            settings={"transactional.id": f"dies-{topic}-{time.time_ns()}", "transaction.timeout.ms": 10_000},
        )
        client.producer.init_transactions(10)
        client.producer.begin_transaction()
        client.producer.produce(topic, key="nobody", value=b"never committed")
        client.producer.flush(10)

        def waits() -> list[str]:
            return [each for each in pipeline.reasons(service) if "open transaction" in each]

        (reason,) = pipeline.listener.until(waits, "said that it waits for the transaction")
        assert "producer" in reason
        assert topic in reason
        del client  # dies without a word; the broker ends what it left
        pipeline.listener.until(lambda: not waits(), "went on", within_s=40.0)


class TestMarketData:
    def test_one_absurd_sequence_does_not_stop_the_symbol(self, pipeline: OutsidePipeline) -> None:
        absurd = pipeline.tick(BTC, sequence=10**12)
        pipeline.price(BTC)
        alerts = pipeline.listener.until(
            lambda: [each for each in pipeline.listener.heard("market-alerts") if each.key == BTC.encode()],
            "alerted",
        )
        assert any(each.value["sequence"] == absurd["sequence"] for each in alerts)

    def test_a_feed_that_starts_again_at_one_is_followed(self, pipeline: OutsidePipeline) -> None:
        before = self._last_price(pipeline, ETH)
        for sequence in (1, 2, 3):
            pipeline.tick(ETH, sequence=sequence)
        pipeline.listener.until(
            lambda: self._last_price(pipeline, ETH)["tick_sequence"] == 3, "followed the feed"
        )
        assert before["tick_sequence"] > 3
        pipeline.tick(ETH, epoch=1, sequence=10)
        pipeline.listener.until(
            lambda: self._last_price(pipeline, ETH)["tick_sequence"] == 10, "followed a new feed session"
        )
        pipeline.client.send(  # and what is still on its way of the session before is late
            "market-data", ETH, pipeline.tick(ETH, epoch=1, sequence=11) | {"epoch": 0}, "TickReceived"
        )

    def test_a_print_far_off_needs_a_second_one(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account(), price_collar_bps=10_000)
        tick = pipeline.tick(BTC, PRICE_TICKS * 3)
        pipeline.listener.until(
            lambda: [
                each
                for each in pipeline.listener.heard("market-alerts")
                if each.value["sequence"] == tick["sequence"]
            ],
            "alerted",
        )
        order_id = pipeline.send_order(account, 1)
        approval = pipeline.decision(order_id)
        assert approval.value["reference_price_ticks"] == PRICE_TICKS
        pipeline.price(BTC)

    @staticmethod
    def _last_price(pipeline: OutsidePipeline, symbol: str) -> Any:
        prices: list[Heard] = pipeline.listener.heard("prices")
        return [each for each in prices if each.key == symbol.encode()][-1].value
