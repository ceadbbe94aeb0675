"""Stock Faust making the risk service's decisions: `app.domain.risk` and two RocksDB tables.

Limits and reference data are in memory from the start, outputs have no headers and no alerts are sent: less
work than the real agent has.
"""

import time
from typing import Any

import msgspec
from pydantic import TypeAdapter

from app.domain.reference import Known, Reference
from app.domain.risk import (
    NEW_ACCOUNT,
    AccountRisk,
    Refusal,
    apply_decision,
    decide_risk,
    rejection,
    reserve,
)
from bench import job
from bench.risk import LISTED, PRICE, limits, registered
from bench.stock_faust import make_app, run, table
from bench.worker import options
from models.events import OrderReceived, OrderRiskApproved

read_order = TypeAdapter(OrderReceived).validator.validate_json
read_account = msgspec.json.Decoder(AccountRisk).decode


def main() -> None:
    given = options()
    app = make_app(given)
    orders = app.topic(given.input)
    decisions = app.topic(given.output)
    positions = table(app, "positions", given.partitions)
    reservations = table(app, "reservations", given.partitions)
    accounts = [*map(job.account_id, range(job.ACCOUNTS))]
    limits_in_force = {name: limits(name) for name in accounts}
    reference = Reference(
        accounts=Known({name: registered(name) for name in accounts}, {}),
        instruments=Known({PRICE.symbol: LISTED}, {}),
        halts=Known({}, {}),
        prices=Known({PRICE.symbol: PRICE}, {}),
    )

    async def check_risk(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            order = read_order(event.value)
            known = positions.get(event.key)
            account = read_account(known) if known else NEW_ACCOUNT
            decided = decide_risk(
                order,
                received_at_ms=int(message.timestamp * 1000),
                decided_at_ms=time.time_ns() // 1_000_000,
                account=account,
                limits=limits_in_force.get(order.account_id),
                reference=reference,
            )
            source = f"{message.topic}/{message.partition}/{message.offset}"
            outcome = rejection(order, decided, source) if isinstance(decided, Refusal) else decided
            positions[event.key] = job.encode(apply_decision(account, outcome, reference.instruments))
            if isinstance(outcome, OrderRiskApproved):
                key = f"{order.account_id}/{order.order_id}".encode()
                reservations[key] = job.encode(reserve(outcome))
            await decisions.send(key=event.key, value=outcome.model_dump_json().encode())

    app.agent(orders)(check_risk)
    run(app)


if __name__ == "__main__":
    main()
