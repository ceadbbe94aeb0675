"""Records of a newer release between services: what an old build does with what it does not know."""

import time
from pathlib import Path

from tests.outside.client import Heard, new_account
from tests.outside.pipeline import OutsidePipeline, outside_pipeline


def approval(pipeline: OutsidePipeline, account: str, sequence: int) -> Heard:
    """A real approval of risk, to be changed and sent under the next sequence of its account."""
    order_id = pipeline.send_order(account, sequence)
    pipeline.ending(order_id)
    return pipeline.decision(order_id)


def test_a_field_that_a_newer_release_adds_between_services_is_ignored(pipeline: OutsidePipeline) -> None:
    account = pipeline.open_account(new_account())
    seen = approval(pipeline, account, 1)
    order = seen.value["order"] | {"sequence": 2, "order_id": f"{account}-2", "quantity_lots": 11}
    newer = seen.value | {"order": order, "desk": "a new optional field"}
    pipeline.client.send("risk-decisions", account, newer, "OrderRiskApproved")
    decision = pipeline.decision(f"{account}-2", "compliance-decisions")
    assert decision.event_type == "OrderComplianceApproved"
    assert pipeline.all_ready()


def test_a_newer_version_makes_its_partition_wait_and_say_so(tmp_path: Path) -> None:
    with outside_pipeline(tmp_path) as pipeline:
        wait_for_a_newer_build(pipeline)


def wait_for_a_newer_build(pipeline: OutsidePipeline) -> None:
    """Make a partition of compliance wait: for good, since no newer build comes."""
    account = pipeline.open_account(new_account("zz-newer"))
    seen = approval(pipeline, account, 1)
    partition, _ = pipeline.client.send(
        "risk-decisions", account, seen.value, "OrderRiskApproved", version="99"
    )

    def waits() -> list[str]:
        return [each for each in pipeline.reasons("compliance") if "99" in each]

    (reason,) = pipeline.listener.until(waits, "said that it waits for a newer build")
    assert "OrderRiskApproved" in reason
    assert "newer release" in reason
    time.sleep(1.0)
    assert not [each for each in pipeline.listener.heard("dead-letters") if each.key == account.encode()]
    others = (pipeline.open_account(new_account()) for _ in range(100))
    elsewhere = next(
        each for each in others if pipeline.client.send("orders", each, b"where?", None)[0] != partition
    )
    assert pipeline.ending(pipeline.send_order(elsewhere, 1)).event_type == "TradeExecuted"
