"""The job every contender runs: decode an order, move the account's position, emit a decision.

The records have the fields of `models.events.OrderReceived`; a decision has about the size of an
`OrderRiskApproved`. All Python contenders share this codec, so that what differs is what carries it.
"""

import random
from collections.abc import Iterator
from typing import Literal

import msgspec

ACCOUNTS = 1_000


class Order(msgspec.Struct, frozen=True, gc=False):
    """`models.events.OrderReceived`, as a msgspec struct."""

    order_id: str
    account_id: str
    sequence: int
    symbol: str
    side: Literal["buy", "sell"]
    quantity_lots: int
    price_ticks: int
    submitted_at_ms: int
    time_in_force: Literal["gtc", "ioc"] = "gtc"


class Position(msgspec.Struct, frozen=True, gc=False):
    """The table's value: what an account has, and how many orders made it so."""

    account_id: str
    orders: int
    position_lots: int
    turnover_ticks: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The output. `orders` counts the account's orders so far, so it must equal the order's sequence."""

    order: Order
    orders: int
    position_lots: int
    reference_price_ticks: int
    price_age_ms: int
    limits_version: int


decode_order = msgspec.json.Decoder(Order).decode
decode_position = msgspec.json.Decoder(Position).decode
decode_decision = msgspec.json.Decoder(Decision).decode
encode = msgspec.json.Encoder().encode


def decide(order: Order, position: Position | None) -> tuple[Position, Decision]:
    """The account's new position and the decision made on it."""
    signed_lots = order.quantity_lots if order.side == "buy" else -order.quantity_lots
    turnover_ticks = order.quantity_lots * order.price_ticks
    if position is None:
        position = Position(order.account_id, 1, signed_lots, turnover_ticks)
    else:
        position = Position(
            order.account_id,
            position.orders + 1,
            position.position_lots + signed_lots,
            position.turnover_ticks + turnover_ticks,
        )
    return position, Decision(order, position.orders, position.position_lots, order.price_ticks, 0, 1)


def decide_bytes(order: bytes, position: bytes | None) -> tuple[bytes, bytes]:
    """`decide`, on encoded values: (position, decision)."""
    moved, decision = decide(decode_order(order), decode_position(position) if position else None)
    return encode(moved), encode(decision)


class Audit:
    """Takes all outputs of a run, each partition's in order, and says what is wrong with them.

    Each order must have one decision, made on the state that all orders of the account before it left.
    """

    def __init__(self) -> None:
        self.count = 0
        self.wrong = 0
        self._sequences: dict[str, int] = {}

    def add(self, value: bytes) -> None:
        decision = decode_decision(value)
        account, sequence = decision.order.account_id, decision.order.sequence
        self.count += 1
        self.wrong += not self._sequences.get(account, 0) + 1 == sequence == decision.orders
        self._sequences[account] = sequence

    def problem(self, expected: int) -> str | None:
        if self.count == expected and not self.wrong:
            return None
        return f"{self.count} decisions for {expected} orders, {self.wrong} out of order or on a wrong state"


def account_id(number: int) -> str:
    return f"acct-{number:07d}"


def orders(count: int, accounts: int = ACCOUNTS, warm: bool = False) -> Iterator[Order]:
    """`count` orders of random accounts, always the same; a shorter run is the start of a longer one.

    With `warm`, one order of every account comes first (and is not part of `count`).
    """
    rng = random.Random(accounts)
    sequences = [0] * accounts
    drawn = (int(rng.random() * accounts) for _ in range(count))
    for number in (*range(accounts), *drawn) if warm else drawn:
        sequences[number] += 1
        account = account_id(number)
        yield Order(
            order_id=f"{account}-{sequences[number]}",
            account_id=account,
            sequence=sequences[number],
            symbol="BTC-USD",
            side="buy" if rng.random() < 0.5 else "sell",
            quantity_lots=1 + int(rng.random() * 1_000),
            price_ticks=9_300_000 + int(rng.random() * 10_000),
            submitted_at_ms=1_700_000_000_000,
        )


def records(count: int, accounts: int = ACCOUNTS, warm: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """The orders as Kafka records: key account, value JSON."""
    return ((order.account_id.encode(), encode(order)) for order in orders(count, accounts, warm))


def changelog_records(count: int) -> Iterator[tuple[bytes, bytes]]:
    """A changelog of the job's table with `count` keys."""
    for number in range(count):
        account = account_id(number)
        yield account.encode(), encode(Position(account, 1, number % 1_000, number))
