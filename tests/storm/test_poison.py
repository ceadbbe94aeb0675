"""A dose of poison: what is sound can be read, strays stand elsewhere, and doses go on from one another."""

import msgspec
import pytest

from app.engine.kafka.cluster import partition_of
from app.topics import ORDERS, TOPICS
from storm.poison import CLOSING, LATE, NAME_PREFIX, TRADER, Poison, poison

SPECS = {spec.name: spec for spec in TOPICS}
PARTITIONS = 8
BEGAN_AT = 1_700_000_000.0


def a_dose(index: int = 0) -> list[Poison]:
    return list(poison(f"{NAME_PREFIX}test-{index}", BEGAN_AT, index))


def test_what_has_headers_can_be_read_and_is_under_its_key() -> None:
    sound = [each for each in a_dose() if each.headers]
    for each in sound:
        spec, headers = SPECS[each.topic], dict(each.headers)
        value = spec.codec.decode(headers["event-type"], headers["schema-version"], each.value or b"")
        assert spec.key_of is not None
        assert spec.key_of(value) == each.key
    assert {each.topic for each in sound} == {
        *("orders", "market-data", "risk-limits", "restrictions", "operator-commands", "executions")
    }


def test_strays_stand_on_another_partition_than_their_key_s() -> None:
    strays = [each for each in a_dose() if each.astray]
    assert {each.topic for each in strays} == {"orders", "market-data", "risk-limits", "risk-decisions"}
    for each in strays:
        assert each.place(PARTITIONS) != partition_of(each.key or b"", PARTITIONS)
    assert {each.place(PARTITIONS) for each in a_dose() if not each.astray} == {None}


@pytest.mark.parametrize("index", [0, 1, 40])
def test_an_account_s_orders_go_on_from_one_dose_to_the_next(index: int) -> None:
    def sequences(dose: list[Poison]) -> list[int]:
        orders = [each for each in dose if each.topic == ORDERS.name and each.key == TRADER.encode()]
        found = [msgspec.json.decode(each.value or b"")["sequence"] for each in orders]
        return [sequence for sequence in found if sequence < 10_000_000]

    before, after = sequences(a_dose(index)), sequences(a_dose(index + 1))
    assert len(before) == len(after) >= 4
    assert max(before) < min(after)


def test_an_instrument_is_restricted_behind_the_orders_in_it_until_the_next_dose() -> None:
    def told(dose: list[Poison]) -> list[bool | str]:
        """Whether it is restricted, and the accounts of orders in it, in the order of the dose."""
        values = [msgspec.json.decode(each.value or b"") for each in dose if each.headers]
        return [
            value.get("restricted", value.get("account_id"))
            for value in values
            if value.get("symbol") == CLOSING and ("restricted" in value or "account_id" in value)
        ]

    def versions(dose: list[Poison]) -> list[int]:
        values = [msgspec.json.decode(each.value or b"") for each in dose if each.topic == "restrictions"]
        return [value["version"] for value in values if value["symbol"] == CLOSING]

    before, after = a_dose(0), a_dose(1)
    assert told(before) == [False, *LATE, True]
    assert versions(before) + versions(after) == sorted({*versions(before), *versions(after)})
