"""Contracts: old versions are upcast, newer ones wait; unknown fields are ignored or refused."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from app import topics
from app.codecs import JsonCodec, TableCodec
from app.domain.compliance import ComplianceAccount
from app.domain.exchange import Session
from app.domain.risk import AccountRisk, Holding
from app.engine.errors import NewerRelease
from models.commands import SetRiskLimits
from models.contract import UNKNOWN_KINDS_MAX, Contract, NewerVersion, Origin, UnknownCounts, ValueCodec
from models.events import (
    OrderNotUnderstood,
    OrderReceived,
    OrderRiskApproved,
    OrderRiskRejected,
    TickReceived,
    TradeExecuted,
)
from models.reasons import RiskReason
from models.registry import CONTRACTS, REPORTS, contract_of, table_values, unknown_fields
from models.values import Frozen, State
from tests.builders import PRICE_TICKS, a_fill, a_tick, an_order, limits


def an_approval() -> OrderRiskApproved:
    return OrderRiskApproved(
        order=an_order(),
        reference_price_ticks=PRICE_TICKS,
        reference_tick_sequence=1,
        price_age_ms=5,
        limits_version=7,
    )


def with_field(value: Frozen, *path: str, **fields: Any) -> bytes:
    """The JSON of a value with more fields, in the object at the path."""
    found = json.loads(value.model_dump_json())
    within = found
    for name in path:
        within = within[name]
    within.update(fields)
    return json.dumps(found).encode()


def ignored(what: str) -> dict[str, int]:
    return {name: count for (kind, name), count in unknown_fields().items() if kind == what}


# -- inside


def test_an_unknown_field_inside_is_ignored_and_counted() -> None:
    approval, codec = an_approval(), topics.RISK_DECISIONS.codec
    before = ignored("OrderRiskApproved").get("settles_at_ms", 0)

    found = codec.decode(b"OrderRiskApproved", b"1", with_field(approval, settles_at_ms=1))

    assert found == approval
    assert ignored("OrderRiskApproved")["settles_at_ms"] == before + 1


def test_an_unknown_field_deep_inside_is_counted_by_its_path() -> None:
    approval = an_approval()

    found = topics.RISK_DECISIONS.codec.decode(
        b"OrderRiskApproved", b"1", with_field(approval, "order", stop_price_ticks=1)
    )

    assert found == approval
    assert ignored("OrderRiskApproved")["order.stop_price_ticks"] >= 1


def test_an_unknown_field_does_not_excuse_anything_else() -> None:
    data = with_field(an_approval(), surprise=1, price_age_ms="long")

    with pytest.raises(ValueError, match="price_age_ms"):
        topics.RISK_DECISIONS.codec.decode(b"OrderRiskApproved", b"1", data)
    assert "surprise" not in ignored("OrderRiskApproved")


@pytest.mark.parametrize("event_type", [b"OrderRiskApproved", b"OrderRiskDeferred", b"TradeExecuted"])
def test_what_a_newer_release_wrote_inside_is_not_the_records_fault(event_type: bytes) -> None:
    with pytest.raises(NewerRelease) as caught:
        topics.RISK_DECISIONS.codec.decode(event_type, b"2", b"{}")

    assert (caught.value.what, caught.value.version) == (event_type.decode(), 2)
    assert caught.value.known == (1 if event_type == b"OrderRiskApproved" else 0)


@pytest.mark.parametrize(
    ("event_type", "version"),
    [
        (b"", b""),
        (b"OrderRiskApproved", b""),
        (b"OrderRiskApproved", b"0"),
        (b"OrderRiskApproved", b"-1"),
        (b"OrderRiskApproved", b"two"),
        (b"OrderRiskApproved", b"9" * 30),
        (b"Order Risk", b"1"),
        (b"OrderReceived", b"1"),
        (b"SetHalt", b"2"),
        (b"\xff\xfe", b"1"),
    ],
)
def test_headers_that_no_release_writes_are_the_records_fault(event_type: bytes, version: bytes) -> None:
    data = an_approval().model_dump_json().encode()

    with pytest.raises(ValueError, match="version"):
        topics.RISK_DECISIONS.codec.decode(event_type, version, data)


def test_a_reason_that_only_a_newer_release_knows_is_its_text() -> None:
    refusal = OrderRiskRejected(order=an_order(), reason=RiskReason.HALTED, source="orders/0/1")
    codec = topics.RISK_DECISIONS.codec

    known = codec.decode(b"OrderRiskRejected", b"1", refusal.model_dump_json().encode())
    newer = codec.decode(b"OrderRiskRejected", b"1", with_field(refusal, reason="moon_phase"))

    assert isinstance(known, OrderRiskRejected)
    assert known.reason is RiskReason.HALTED
    assert isinstance(newer, OrderRiskRejected)
    assert newer.reason == "moon_phase"
    assert codec.encode(newer)[2] == with_field(refusal, reason="moon_phase").replace(b" ", b"")


# -- the edge


def test_an_order_with_unknown_fields_is_read_as_not_understood() -> None:
    order = an_order(order_id="acc-1-1")
    data = with_field(order, stop_price_ticks=1, expires_at_ms=2)

    found = topics.ORDERS.codec.decode(b"OrderReceived", b"1", data)

    assert found == OrderNotUnderstood(order, ("expires_at_ms", "stop_price_ticks"))
    assert topics.ORDERS.key_of is not None
    assert topics.ORDERS.id_of is not None
    assert topics.ORDERS.key_of(found) == order.account_id.encode()
    assert topics.ORDERS.id_of(found) == order.order_id


def test_an_unknown_field_of_any_other_edge_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="SetRiskLimits has fields that this build does not know: vega_max"):
        topics.RISK_LIMITS.codec.decode(b"SetRiskLimits", b"1", with_field(limits(), vega_max=1))
    with pytest.raises(ValueError, match="venue"):
        topics.MARKET_DATA.codec.decode(b"TickReceived", b"1", with_field(a_tick(), venue="X"))


@pytest.mark.parametrize(("event_type", "version"), [(b"CancelOrder", b"1"), (b"OrderReceived", b"2")])
def test_what_is_unknown_at_the_edge_is_the_clients_fault(event_type: bytes, version: bytes) -> None:
    with pytest.raises(ValueError, match="known: OrderReceived 1"):
        topics.ORDERS.codec.decode(event_type, version, an_order().model_dump_json().encode())


# -- the venue


def test_an_unknown_field_of_the_venue_is_ignored_and_counted() -> None:
    fill = a_fill(1, 0)
    report = json.loads(with_field(fill, venue_mood="good"))

    assert REPORTS["venue.TradeExecuted"].decode_object(report) == fill
    assert ignored("venue.TradeExecuted")["venue_mood"] >= 1
    with pytest.raises(ValueError, match="order_id: Field required"):
        REPORTS["venue.TradeExecuted"].decode_object({"venue_mood": "good"})


def test_a_kind_of_liquidity_that_this_build_does_not_know_is_its_text() -> None:
    report = json.loads(with_field(a_fill(1, 0), liquidity="auction"))

    assert REPORTS["venue.TradeExecuted"].decode_object(report).liquidity == "auction"


@pytest.mark.parametrize(
    "changed", [{"trade_date": "2026-02-40"}, {"fee_micros": 2**63}, {"fee_currency": "usd"}], ids=repr
)
def test_terms_of_a_trade_that_cannot_be_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        REPORTS["venue.TradeExecuted"].decode_object(json.loads(with_field(a_fill(1, 0), **changed)))


# -- versions


class Balance(State, frozen=True):
    """Version 3: cash by currency. Version 2 had one currency, version 1 whole units of it."""

    minor: dict[str, int]


def _in_minor(value: dict[str, Any]) -> dict[str, Any]:
    return {"minor": value["units"] * 100, **{k: v for k, v in value.items() if k != "units"}}


def _by_currency(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "minor": {"USD": value["minor"]}}


BALANCE = Contract("bank.balances", Balance, upcasts=(_in_minor, _by_currency))
BALANCES = ValueCodec(BALANCE)


def test_a_contract_has_one_version_more_than_upcasters() -> None:
    assert BALANCE.version == 3


@pytest.mark.parametrize(
    "stored",
    [b'{"units":7}', b'{"$v":2,"minor":700}', b'{"$v":3,"minor":{"USD":700}}', b'{"$v":1,"units":7}'],
)
def test_every_version_of_a_table_value_is_read_as_todays(stored: bytes) -> None:
    assert BALANCES.decode(stored) == Balance(minor={"USD": 700})


def test_a_table_value_above_version_1_is_written_with_its_mark_first() -> None:
    data = BALANCES.encode(Balance(minor={"USD": 700}))

    assert data == b'{"$v":3,"minor":{"USD":700}}'
    assert BALANCES.decode(data) == Balance(minor={"USD": 700})


def test_a_table_value_without_members_has_a_mark_too() -> None:
    class Empty(State, frozen=True):
        pass

    codec = ValueCodec(Contract("bank.empty", Empty, upcasts=(lambda value: value,)))

    assert codec.encode(Empty()) == b'{"$v":2}'
    assert codec.decode(b'{"$v":2}') == Empty()
    assert codec.decode(b"{}") == Empty()


def test_a_table_value_in_version_1_has_no_mark() -> None:
    codec = table_values("exchange.requests", dict[str, int])

    assert codec.encode({"number": 1}) == b'{"number":1}'


def test_a_table_value_tells_its_version_and_one_of_version_1_is_read() -> None:
    codec = table_values("risk.positions", AccountRisk)
    data = codec.encode(AccountRisk(holdings={}))

    assert data == b'{"$v":2,"holdings":{}}'
    assert codec.decode(data) == AccountRisk(holdings={})
    assert codec.decode(b'{"holdings":{},"last_sequence":null,"open_orders":0}') == AccountRisk(holdings={})


def test_unknown_fields_of_an_old_version_are_ignored_as_those_of_todays() -> None:
    assert BALANCES.decode(b'{"units":7,"branch":"x"}') == Balance(minor={"USD": 700})
    assert ignored("bank.balances")["branch"] >= 1


def test_a_newer_version_names_what_was_found_and_what_is_known() -> None:
    with pytest.raises(
        NewerVersion, match=r"bank\.balances in version 4 .*; this build knows up to 3"
    ) as caught:
        BALANCES.decode(b'{"$v":4,"vault":[]}')
    assert (caught.value.what, caught.value.version, caught.value.known) == ("bank.balances", 4, 3)


@pytest.mark.parametrize(
    "stored",
    [
        b'{"$v":',
        b'{"$v":}',
        b'{"$v":"3","minor":{}}',
        b'{"$v":0,"units":1}',
        b'{"$v":3.0,"minor":{}}',
        b'{"$v":33333333333333,"minor":{}}',
        b'{"$v":2,"minor":{}',
        b'{"$v":1}',
        b'{"$v":1,"units":"x"}',
        b"[]",
        b"\xff",
        b"",
    ],
)
def test_damaged_table_values_are_errors_with_a_text(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        BALANCES.decode(stored)


def test_a_topic_reads_old_versions_at_the_edge_as_strictly_as_todays() -> None:
    class Opened(Frozen):
        account_id: str

    contract = Contract(
        "Opened", Opened, Origin.EDGE, upcasts=(lambda value: {"account_id": value.pop("id"), **value},)
    )

    assert contract.decode(1, b'{"id":"a"}') == Opened(account_id="a")
    with pytest.raises(ValueError, match="nickname"):
        contract.decode(1, b'{"id":"a","nickname":"b"}')


# -- table codecs


def test_a_tables_codec_tells_the_engine_of_a_newer_release() -> None:
    codec = TableCodec("risk.positions", AccountRisk)

    assert codec.frozen
    with pytest.raises(NewerRelease, match=r"risk\.positions in version 3 .*knows up to 2"):
        codec.decode(b'{"$v":3,"holdings":{}}')


def test_a_table_value_with_an_unknown_field_deep_in_a_map_is_read_and_counted_once_a_name() -> None:
    codec = TableCodec("risk.positions", AccountRisk)
    stored = b'{"holdings":{"A":{"position_lots":1,"delta":2},"B":{"delta":3}},"open_orders":1,"margin":4}'

    found = codec.decode(stored)

    assert found == AccountRisk(holdings={"A": Holding(position_lots=1), "B": Holding()}, open_orders=1)
    assert set(ignored("risk.positions")) == {"holdings.*.delta", "margin"}


def test_an_older_table_value_is_read_likewise() -> None:
    codec = TableCodec("compliance.recent_orders", ComplianceAccount)

    assert codec.decode(b'{"recent":{"k":{"order_id":"o","submitted_at_ms":1,"why":0}},"open_orders":{}}')
    assert "recent.*.why" in ignored("compliance.recent_orders")


def test_a_models_table_value_is_read_likewise() -> None:
    codec = TableCodec("exchange.sessions", Session)

    assert codec.decode(b'{"$v":2,"venue_sequence_last":1,"why":0}') == Session(venue_sequence_last=1)
    assert "why" in ignored("exchange.sessions")


def test_a_table_without_a_contract_is_told_where_to_write_it() -> None:
    with pytest.raises(LookupError, match=r"risk\.margins has no contract: add it to models/registry\.py"):
        TableCodec("risk.margins", AccountRisk)


def test_a_type_without_a_contract_is_told_where_to_write_it() -> None:
    class Stray(Frozen):
        pass

    with pytest.raises(LookupError, match=r"Stray has no contract: add it to models/registry\.py"):
        JsonCodec(Stray)


# -- the registry


def test_every_topic_reads_and_writes_the_versions_of_the_registry() -> None:
    for model, value in (
        (OrderReceived, an_order()),
        (SetRiskLimits, limits()),
        (TickReceived, a_tick()),
        (TradeExecuted, a_fill(1, 0)),
    ):
        name, version, data = JsonCodec(model).encode(value)
        assert (name, version) == (model.__name__.encode(), str(CONTRACTS[model.__name__].version).encode())
        assert JsonCodec(model).decode(name, version, data) == value


def test_edge_topics_carry_edge_types_and_no_others_do() -> None:
    for spec in topics.TOPICS:
        if isinstance(spec.codec, JsonCodec):
            assert spec.codec.origins == {Origin.EDGE if spec.edge else Origin.INSIDE}, spec.name


def test_counts_of_unknown_fields_are_bounded() -> None:
    counts = UnknownCounts()
    counts.add("T", [f"field-{number}" for number in range(UNKNOWN_KINDS_MAX + 10)])
    counts.add("T", ["x" * 10_000])

    found = counts.all()

    assert len(found) == UNKNOWN_KINDS_MAX + 1
    assert found["T", "(others)"] == 11


def test_a_model_that_may_be_two_objects_has_no_contract() -> None:
    class Either(BaseModel):
        which: OrderReceived | TickReceived

    with pytest.raises(TypeError, match="could be either of two objects"):
        Contract("Either", Either)


def test_the_registry_names_each_type_by_its_class() -> None:
    assert all(name == each.model.__name__ for name, each in CONTRACTS.items())
    assert contract_of(OrderReceived) is CONTRACTS["OrderReceived"]
