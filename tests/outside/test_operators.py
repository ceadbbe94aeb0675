"""Operators who send a kill switch, a limit or a restriction in a hurry."""

import time

import pytest

from tests.outside.client import new_account
from tests.outside.pipeline import ETH, LIMITS, OutsidePipeline

NOTES = {"who": "test", "why": "test"}


class TestLimits:
    def test_a_kill_switch_takes_under_an_unchanged_version(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        fields = {"account_id": account, "version": 1, **LIMITS, "kill_switch": True}
        answer = pipeline.command("risk-limits", account, "SetRiskLimits", **fields)
        assert answer.value["accepted"], answer
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "kill_switch_on"

    def test_limits_under_an_unchanged_version_are_refused_with_an_answer(
        self, pipeline: OutsidePipeline
    ) -> None:
        account = pipeline.open_account(new_account())
        fields = {"account_id": account, "version": 1, **LIMITS, "position_lots_max": 10**9}
        answer = pipeline.command("risk-limits", account, "SetRiskLimits", **fields)
        assert not answer.value["accepted"]
        assert "version" in answer.value["reason"]

    def test_a_tombstone_takes_the_limits_away(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        pipeline.client.send("risk-limits", account, None, "SetRiskLimits")
        pipeline.listener.until(
            lambda: [
                each
                for each in pipeline.listener.heard("command-answers")
                if each.key == account.encode() and each.value["version"] is None
            ],
            "answered the tombstone",
        )
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "unknown_account"

    def test_a_kill_switch_passes_a_quarantine(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        pipeline.client.send(  # on a topic of the services' own: its key is quarantined
            "executions", account, b"garbage", "TradeExecuted", headers=[("event-id", b"forged")]
        )
        pipeline.listener.until(
            lambda: [
                each
                for each in pipeline.listener.heard("dead-letters")
                if each.key == account.encode() and each.headers["dead-letter-service"] == b"risk"
            ],
            "quarantined the account",
        )
        answer = pipeline.limit(account, kill_switch=True)
        assert answer.value["accepted"], answer


class TestHalts:
    def test_halt_and_resume_one_account(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        self._halt(pipeline, account, halted=True, version=1)
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "halted"
        self._halt(pipeline, account, halted=False, version=2)
        assert pipeline.ending(pipeline.send_order(account, 2)).event_type == "TradeExecuted"

    def test_a_halt_takes_whatever_its_version_and_a_resume_does_not(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        self._halt(pipeline, account, halted=True, version=5)
        fields = {"scope": account, "halted": False, "version": 5, **NOTES}
        answer = pipeline.command("operator-commands", account, "SetHalt", **fields)
        assert not answer.value["accepted"]
        self._halt(pipeline, account, halted=True, version=1)
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "halted"

    @staticmethod
    def _halt(pipeline: OutsidePipeline, account: str, *, halted: bool, version: int) -> None:
        fields = {"scope": account, "halted": halted, "version": version, **NOTES}
        answer = pipeline.command("operator-commands", account, "SetHalt", **fields)
        assert answer.value["accepted"], answer
        time.sleep(0.5)  # `halts` is followed by every worker by itself


class TestRestrictions:
    def test_a_restriction_under_another_key_is_a_dead_letter_and_fails_closed_for_it(
        self, pipeline: OutsidePipeline
    ) -> None:
        account = pipeline.open_account(new_account())
        pipeline.client.send(
            "restrictions", ETH, {"symbol": "DOGE-USD", "restricted": True}, "SetRestriction"
        )
        pipeline.dead_letter("key", ETH)
        try:
            assert self._refused_by_compliance(pipeline, account, 1) == "restricted_instrument"
        finally:
            pipeline.command("restrictions", ETH, "SetRestriction", symbol=ETH, restricted=False)
            time.sleep(0.5)

    def test_a_restriction_without_an_event_type_fails_closed(self, pipeline: OutsidePipeline) -> None:
        account = pipeline.open_account(new_account())
        pipeline.client.send("restrictions", ETH, {"symbol": ETH, "restricted": True}, None)
        pipeline.dead_letter("event type", ETH)
        try:
            assert self._refused_by_compliance(pipeline, account, 1) == "restricted_instrument"
        finally:
            pipeline.command("restrictions", ETH, "SetRestriction", symbol=ETH, restricted=False)
            time.sleep(0.5)
        lifted = pipeline.send_order(account, 2, symbol=ETH)
        assert pipeline.ending(lifted).event_type == "TradeExecuted"

    @staticmethod
    def _refused_by_compliance(pipeline: OutsidePipeline, account: str, sequence: int) -> str:
        time.sleep(0.5)  # the restricted list is followed by every worker by itself
        decision = pipeline.decision(
            pipeline.send_order(account, sequence, symbol=ETH), "compliance-decisions"
        )
        assert decision.event_type == "OrderComplianceRejected", decision
        return str(decision.value["reason"])


class TestReferenceData:
    @pytest.mark.parametrize(
        "changed", [{"tick": "0.1"}, {"lot": "1"}, {"currency": "EUR"}, {"multiplier": 10}]
    )
    def test_the_scale_of_a_listed_instrument_is_not_changed(
        self, pipeline: OutsidePipeline, changed: dict[str, object]
    ) -> None:
        instrument = {"symbol": ETH, "base": "ETH", "currency": "USD", "tick": "0.01", "lot": "0.001"}
        fields = {"instrument": instrument | changed, "version": 1_000, **NOTES}
        answer = pipeline.command("operator-commands", ETH, "SetInstrument", **fields)
        assert not answer.value["accepted"]
        assert "delist" in answer.value["reason"]

    def test_cash_of_another_currency_is_never_added(self, pipeline: OutsidePipeline) -> None:
        account = new_account("european")
        pipeline.register(account, currency="EUR")
        assert pipeline.limit(account).value["accepted"]
        time.sleep(0.5)
        assert pipeline.refusal(pipeline.send_order(account, 1)) == "currency_mismatch"

    def test_a_delisted_instrument_takes_no_new_orders_and_can_still_be_read(
        self, pipeline: OutsidePipeline
    ) -> None:
        instrument = {"symbol": "LTC-USD", "base": "LTC", "currency": "USD", "tick": "0.01", "lot": "0.001"}
        for version, status in ((1, "active"), (2, "delisted")):
            fields = {"instrument": instrument | {"status": status}, "version": version, **NOTES}
            assert pipeline.command("operator-commands", "LTC-USD", "SetInstrument", **fields).value[
                "accepted"
            ]
        time.sleep(0.5)
        account = pipeline.open_account(new_account())
        order_id = pipeline.send_order(account, 1, symbol="LTC-USD")
        assert pipeline.refusal(order_id) == "instrument_not_tradable"
