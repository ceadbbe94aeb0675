"""Quix Streams as its documentation shows it: JSON in, JSON out, JSON in the state, all at its defaults."""

from typing import Any

from bench.quix import GUARANTEES
from bench.worker import options


def decide(order: dict[str, Any], state: Any) -> dict[str, Any]:
    """The job of `bench.job`, on dictionaries."""
    lots, price = order["quantity_lots"], order["price_ticks"]
    before = state.get("position") or {"orders": 0, "position_lots": 0, "turnover_ticks": 0}
    position = {
        "account_id": order["account_id"],
        "orders": before["orders"] + 1,
        "position_lots": before["position_lots"] + (lots if order["side"] == "buy" else -lots),
        "turnover_ticks": before["turnover_ticks"] + lots * price,
    }
    state.set("position", position)
    return {
        "order": order,
        "orders": position["orders"],
        "position_lots": position["position_lots"],
        "reference_price_ticks": price,
        "price_age_ms": 0,
        "limits_version": 1,
    }


def main() -> None:
    from quixstreams import Application

    given = options()
    app = Application(
        broker_address=given.bootstrap,
        consumer_group=given.app_id,
        auto_offset_reset="earliest",
        state_dir=given.data_dir,
        producer_extra_config={"partitioner": "murmur2_random", "transaction.timeout.ms": 10_000},
        processing_guarantee=GUARANTEES[given.guarantee],
        loglevel="WARNING",
    )
    app.dataframe(app.topic(given.input)).apply(decide, stateful=True).to_topic(app.topic(given.output))
    app.run()


if __name__ == "__main__":
    main()
