"""Instruments scale integers exactly; integers that a state would keep have to fit 64 bits."""

import json

import pytest
from pydantic import ValidationError

from app.engine import TopicSpec
from app.topics import MARKET_DATA, ORDERS, RISK_LIMITS
from feed.demo import instruments
from models.events import OrderReceived
from models.values import Frozen, maker
from tests.builders import a_tick, an_instrument, an_order, limits


@pytest.mark.parametrize(("symbol", "micros"), [("BTC-USD", 1), ("ETH-USD", 10)])
def test_one_tick_of_one_lot_in_micros(symbol: str, micros: int) -> None:
    assert instruments()[symbol].notional_micros(price_ticks=1, quantity_lots=1) == micros


@pytest.mark.parametrize(
    "changed", [{"tick": "0.0000001"}, {"tick": "0.01", "lot": "0.00001", "multiplier": 3}, {"lot": "0"}]
)
def test_a_tick_of_a_lot_that_is_no_whole_number_of_micros_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not whole|greater than 0"):
        an_instrument(**changed)


@pytest.mark.parametrize(
    ("topic", "sound", "field"),
    [
        (ORDERS, an_order(), "sequence"),
        (MARKET_DATA, a_tick(), "price_ticks"),
        (RISK_LIMITS, limits(), "position_lots_max"),
        (RISK_LIMITS, limits(), "order_quantity_lots_max"),
        (RISK_LIMITS, limits(), "order_notional_micros_max"),
    ],
)
def test_an_integer_that_a_state_could_not_keep_is_refused_by_name(
    topic: TopicSpec, sound: Frozen, field: str
) -> None:
    event_type, version, data = topic.codec.encode(sound)
    kept, refused = (json_with(data, field, value) for value in (10**15, 2**63))

    assert getattr(topic.codec.decode(event_type, version, kept), field) == 10**15
    with pytest.raises(ValueError, match=f"^{field}: "):
        topic.codec.decode(event_type, version, refused)


@pytest.mark.parametrize("account_id", ["", "a" * 257])
def test_an_account_that_the_venue_would_not_take_is_refused_by_name(account_id: str) -> None:
    event_type, version, data = ORDERS.codec.encode(an_order())

    with pytest.raises(ValueError, match=r"^account_id: "):
        ORDERS.codec.decode(event_type, version, json_with(data, "account_id", account_id))


def json_with(data: bytes, field: str, value: int | str) -> bytes:
    return json.dumps(json.loads(data) | {field: value}).encode()


def test_a_field_that_is_left_out_of_a_model_of_checked_fields_has_its_default() -> None:
    order = an_order(time_in_force="gtc")
    fields = {name: getattr(order, name) for name in OrderReceived.model_fields if name != "time_in_force"}
    assert maker(OrderReceived)(**fields).model_dump_json() == order.model_dump_json()


def test_a_model_of_checked_fields_is_like_one_that_was_checked() -> None:
    order = an_order()
    cheap = maker(OrderReceived)(**{name: getattr(order, name) for name in OrderReceived.model_fields})

    assert cheap == order
    assert hash(cheap) == hash(order)
    assert repr(cheap) == repr(order)
    assert cheap.model_dump_json() == order.model_dump_json()
    assert cheap.model_copy(update={"sequence": 2}) == an_order(sequence=2)
    assert OrderReceived.model_validate_json(cheap.model_dump_json()) == order
    with pytest.raises(ValidationError, match="frozen"):
        cheap.sequence = 2  # type: ignore[misc]
