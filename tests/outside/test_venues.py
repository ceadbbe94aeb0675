"""Venues of another release, with a fault, or with another token."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import Running
from tests.outside import odd_venue
from tests.outside.client import new_account
from tests.outside.pipeline import BTC, DEMO, ETH, OutsidePipeline, outside_pipeline


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutsidePipeline]:
    program = ("-m", "tests.outside.odd_venue")
    with outside_pipeline(tmp_path_factory.mktemp("odd-venue"), venue_program=program) as running:
        yield running


def test_a_field_that_the_venue_adds_is_ignored(odd: OutsidePipeline) -> None:
    account = odd.open_account(new_account())
    order_id = odd.send_order(account, 1, quantity_lots=odd_venue.TALKATIVE_LOTS)
    assert odd.ending(order_id).event_type == "TradeExecuted"
    assert odd.all_ready()


@pytest.mark.parametrize(
    "lots",
    [
        odd_venue.STRANGER_LOTS,
        odd_venue.UNKNOWN_TYPE_LOTS,
        odd_venue.GARBLED_LOTS,
        odd_venue.TOO_MUCH_LOTS,
    ],
    ids=["of no order of ours", "of an unknown type", "garbled", "of more than was ordered"],
)
def test_a_report_that_cannot_be_used_costs_one_order(odd: OutsidePipeline, lots: int) -> None:
    account, other = odd.open_account(new_account()), odd.open_account(new_account())
    before = len(odd.listener.heard("dead-letters"))
    odd.send_order(account, 1, quantity_lots=lots)
    letter = odd.listener.until(
        lambda: next(
            (
                each
                for each in odd.listener.heard("dead-letters")[before:]
                if b"venue/" in each.headers.get("dead-letter-source", b"")
            ),
            None,
        ),
        "buried the report",
    )
    assert letter.raw, "the report's own bytes are kept"
    assert odd.ending(odd.send_order(other, 1)).event_type == "TradeExecuted"
    assert odd.ending(odd.send_order(account, 2)).event_type == "TradeExecuted"


def test_the_wrong_token_is_said_where_people_look(odd: OutsidePipeline, tmp_path: Path) -> None:
    known = {"KAFKA_BOOTSTRAP": odd.bootstrap, "VENUE_URL": odd.venue_url, "VENUE_TOKEN": "another"}
    with Running("up", "--data-dir", str(tmp_path), environment=known) as more_workers:
        more_workers.until_said("exchange-1 is not ready", 120.0)
        more_workers.until_said("the venue refuses VENUE_TOKEN", 60.0)
    assert "Traceback" not in more_workers.said


def test_an_instrument_that_the_venue_has_no_more_is_refused_by_it(tmp_path: Path) -> None:
    demo = json.loads(DEMO.read_text())
    demo["instruments"] = [each for each in demo["instruments"] if each["symbol"] != ETH]
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(demo))
    with outside_pipeline(tmp_path / "data", venue_instruments=fewer, priced=[BTC]) as running:
        running.tick(ETH, quantity_lots=1)
        account = running.open_account(new_account())
        time.sleep(0.5)  # the price is on its way
        refused = running.send_order(account, 1, symbol=ETH)
        assert running.ending(refused).event_type == "VenueRejected"
        assert running.ending(running.send_order(account, 2, symbol=BTC)).event_type == "TradeExecuted"
