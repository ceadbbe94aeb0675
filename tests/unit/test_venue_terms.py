"""The terms of a trade: its fee and how it is rounded, its date in the venue's zone, its settings."""

from fractions import Fraction
from math import ceil
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.values import Liquidity, Side, TimeInForce
from tests.builders import an_instrument
from venue.book import Filled, Order
from venue.config import Config, read_config
from venue.terms import Rules, fee_of, moment_of, terms_of

ARGUMENTS = ("--port", "0", "--data-dir", "nowhere", "--instruments", "feed/demo.json")
NEW_YEAR_MS = 1_767_225_600_000
"""The first moment of 2026 in UTC."""


def config(*more: str) -> Config:
    return read_config([*ARGUMENTS, *more], {"VENUE_TOKEN": "secret"})


@pytest.mark.parametrize(
    ("notional_micros", "bps", "fee_micros"),
    [
        (900_000, 1, 90),
        (900_000, 0, 0),
        (900_001, 1, 91),
        (1, 1, 1),
        (0, 5, 0),
        (900_000, -1, -90),
        (909_999, -1, -90),
        (1, -1, 0),
        (10**18, 10, 10**15),
    ],
)
def test_a_fee_is_rounded_up(notional_micros: int, bps: int, fee_micros: int) -> None:
    assert fee_of(notional_micros, bps) == fee_micros


@given(st.integers(0, 10**20), st.integers(-10_000, 10_000))
def test_a_fee_is_the_next_whole_micro(notional_micros: int, bps: int) -> None:
    assert fee_of(notional_micros, bps) == ceil(Fraction(notional_micros * bps, 10_000))


@pytest.mark.parametrize(
    ("zone", "date"),
    [("UTC", "2026-01-01"), ("America/New_York", "2025-12-31"), ("Asia/Tokyo", "2026-01-01")],
)
def test_the_date_is_that_of_the_venues_zone(zone: str, date: str) -> None:
    assert moment_of(NEW_YEAR_MS, ZoneInfo(zone)) == (NEW_YEAR_MS, date)


def test_the_moment_before_is_of_the_day_before() -> None:
    assert moment_of(NEW_YEAR_MS - 1, Rules.zone) == (NEW_YEAR_MS - 1, "2025-12-31")


@pytest.mark.parametrize(
    ("liquidity", "with_market", "fee_micros", "counterparty"),
    [
        (Liquidity.ADDED, True, -200, "MARKET"),
        (Liquidity.ADDED, False, -200, "house"),
        (Liquidity.REMOVED, True, 300, "MARKET"),
        (Liquidity.REMOVED, False, 300, "house"),
    ],
)
def test_the_rate_is_that_of_the_liquidity_and_the_currency_the_instruments(
    liquidity: Liquidity, with_market: bool, fee_micros: int, counterparty: str
) -> None:
    order = Order("o", "acc", 0, "BTC-EUR", Side.BUY, 10, 100_000, TimeInForce.GTC)
    fill = Filled(order, "T1B", 10, 100_000, 0, liquidity, with_market)
    instrument = an_instrument(symbol="BTC-EUR", currency="EUR")
    rules = Rules(maker_bps=-2, taker_bps=3, clearing_house="house")
    found = terms_of(fill, instrument, rules, moment_of(NEW_YEAR_MS, rules.zone))
    assert found == (NEW_YEAR_MS, "2026-01-01", fee_micros, "EUR", counterparty, liquidity)


def test_the_settings_have_defaults() -> None:
    assert config().rules == Rules()


def test_the_settings_are_the_venues(tmp_path: Path) -> None:
    told = config(
        *("--maker-bps", "-2", "--taker-bps", "5"),
        *("--clearing-house", "another", "--time-zone", "Asia/Tokyo"),
    )
    zone = ZoneInfo("Asia/Tokyo")
    assert told.rules == Rules(maker_bps=-2, taker_bps=5, clearing_house="another", zone=zone)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("--time-zone", "Nowhere/Land", "is no time zone that this machine knows"),
        ("--time-zone", "../../etc/passwd", "is no time zone that this machine knows"),
        ("--maker-bps", "1.5", "invalid"),
        ("--taker-bps", "10001", "more than all of the notional"),
    ],
)
def test_a_wrong_setting_stops_the_start(
    name: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        config(name, value)
    assert told in capsys.readouterr().err
