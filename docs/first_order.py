"""Send one order as any client would, and print its events."""

import argparse
import asyncio
import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("kafka", nargs="?", default="127.0.0.1:9092", help="default: %(default)s")
parser.add_argument(
    "pages", nargs="?", default="http://127.0.0.1:6102", help="risk's pages; default: %(default)s"
)
given = parser.parse_args()
KAFKA, PAGES = given.kafka, given.pages
ACCOUNT, SYMBOL = "newcomer", "BTC-USD"
ANSWERS = ("risk-decisions", "compliance-decisions", "executions")
PATIENCE_S = 20.0


def shown(path: str) -> Any:
    """A page of risk as JSON; None if the row does not exist."""
    try:
        with urllib.request.urlopen(f"{PAGES}{path}", timeout=PATIENCE_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        sys.exit(f"{PAGES} answers {error.code}: is that risk's address? `make run` prints it")
    except OSError as error:
        sys.exit(f"{PAGES} does not answer ({error}): is `make run` up? It prints the address of risk")


async def main() -> None:
    """Send the account's next order: its sequence is above the last one, its id is account-sequence."""
    books = shown(f"/api/tables/positions/{ACCOUNT}")
    sequence = (books["value"]["last_sequence"] or 0) + 1 if books else 1
    order = {
        "order_id": f"{ACCOUNT}-{sequence}",
        "account_id": ACCOUNT,
        "sequence": sequence,
        "symbol": SYMBOL,
        "side": "buy",
        "quantity_lots": 100,
        "price_ticks": await last_price() * 101 // 100,  # above the market, so that it is filled
        "submitted_at_ms": time.time_ns() // 1_000_000,
        "time_in_force": "ioc",
    }
    consumer = AIOKafkaConsumer(*ANSWERS, bootstrap_servers=KAFKA, isolation_level="read_committed")
    async with consumer, AIOKafkaProducer(bootstrap_servers=KAFKA, acks="all") as producer:
        for tp in consumer.assignment():
            await consumer.position(tp)  # from here on; known before the order is sent
        headers = [("event-type", b"OrderReceived"), ("schema-version", b"1")]
        await producer.send_and_wait("orders", json.dumps(order).encode(), ACCOUNT.encode(), headers=headers)
        print("orders", json.dumps(order))
        await follow(consumer)
    print(f"its positions: {PAGES}/tables/positions/{ACCOUNT}")


async def follow(consumer: AIOKafkaConsumer) -> None:
    """Print what is said of the account's order until it has ended."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for record in consumer:
                if record.key == ACCOUNT.encode():
                    event_type = dict(record.headers)["event-type"].decode()
                    print(record.topic, event_type, record.value.decode())
                    if is_over(json.loads(record.value), event_type):
                        return
    except TimeoutError:
        sys.exit(f"the order has not ended within {PATIENCE_S:.0f} s: {PAGES}/ready says whether risk works")


async def last_price() -> int:
    """The symbol's last price, in ticks."""
    consumer = AIOKafkaConsumer(
        "prices",
        bootstrap_servers=KAFKA,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    async with consumer:
        tps = list(consumer.assignment())
        ends, prices = await consumer.end_offsets(tps), []
        async with asyncio.timeout(PATIENCE_S):
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    prices += [json.loads(each.value) for each in records if each.key == SYMBOL.encode()]
    if not prices:
        sys.exit(f"{SYMBOL} has no price yet: is the feed running?")
    return int(prices[-1]["price_ticks"])


def is_over(value: dict[str, Any], event_type: str) -> bool:
    """Whether the order has ended."""
    return event_type in ENDS or value.get("leaves_lots") == 0


ENDS = (
    "OrderRiskRejected",
    "OrderComplianceRejected",
    "OrderCancelled",
    "OrderExpired",
    "VenueRejected",
    "OrderWithheld",
)

if __name__ == "__main__":
    asyncio.run(main())
