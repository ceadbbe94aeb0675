"""A real pipeline for outsiders to be clumsy with: Kafka, the venue and every service as processes."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.integration.running import Running
from tests.outside.client import Client, Heard, Listener
from tests.tied import end_with_parent

DEMO = Path("feed/demo.json")
TOKEN = "outside-secret"
BTC, ETH = "BTC-USD", "ETH-USD"
PRICE_TICKS = 90_000
VENUE: Sequence[str] = ("-m", "venue")
OUTPUTS = (
    "orders",
    "prices",
    "market-alerts",
    "risk-decisions",
    "risk-alerts",
    "compliance-decisions",
    "executions",
    "command-answers",
    "dead-letters",
)
LIMITS: Mapping[str, Any] = {
    "order_quantity_lots_max": 5_000,
    "order_notional_micros_max": 10**12,
    "position_lots_max": 10_000,
    "gross_exposure_micros_max": 10**14,
    "price_collar_bps": 1_000,
    "price_age_ms_max": 600_000,
    "open_orders_max": 100,
}


class OutsidePipeline:
    """What an outsider knows of a running pipeline: addresses, topics, the venue's token."""

    def __init__(self, bootstrap: str, venue_url: str, said: Callable[[], str]) -> None:
        self.bootstrap = bootstrap
        self.venue_url = venue_url
        self._said = said
        self.client = Client(bootstrap)
        self.clumsy = Client(bootstrap, "consistent_random")
        self._ticks = int(time.time())
        self._versions: dict[str, int] = {}
        self.listener: Listener

    # -- sending, as the documentation for clients says

    def command(self, topic: str, key: str, event_type: str, **fields: Any) -> Heard:
        """Send an operator's command and return its answer."""
        before = len(self.listener.heard("command-answers"))
        self.client.send(topic, key, fields, event_type)
        return self.answer(key, before, event_type)

    def answer(self, key: str, before: int = 0, command: str = "SetRiskLimits") -> Heard:
        """The first answer to such a command on this key, from the `before`th answer on."""

        def answered() -> Any:
            answers = self.listener.heard("command-answers")[before:]
            found = (each for each in answers if each.key == key.encode())
            return next((each for each in found if each.value["command"] == command), None)

        found: Heard = self.listener.until(answered, f"answered {command} of {key}")
        return found

    def version(self, subject: str) -> int:
        self._versions[subject] = self._versions.get(subject, 0) + 1
        return self._versions[subject]

    def register(self, account: str, currency: str = "USD") -> None:
        answer = self.command(
            "operator-commands",
            account,
            "SetAccount",
            account_id=account,
            owner="an outsider",
            firm="outside",
            base_currency=currency,
            version=1,
            who="test",
            why="test",
        )
        assert answer.value["accepted"], answer

    def limit(self, account: str, **changed: Any) -> Heard:
        fields = {"account_id": account, "version": self.version(account), **LIMITS, **changed}
        return self.command("risk-limits", account, "SetRiskLimits", **fields)

    def open_account(self, account: str, **limits: Any) -> str:
        self.register(account)
        assert self.limit(account, **limits).value["accepted"]
        return account

    def order_fields(self, account: str, sequence: int, **changed: Any) -> dict[str, Any]:
        """A small order at the market; orders in a row differ, or the later ones would be duplicates."""
        return {
            "order_id": f"{account}-{sequence}",
            "account_id": account,
            "sequence": sequence,
            "symbol": BTC,
            "side": "buy",
            "quantity_lots": 9 + sequence % 100,
            "price_ticks": PRICE_TICKS,
            "submitted_at_ms": int(time.time() * 1000),
            "time_in_force": "ioc",
            **changed,
        }

    def send_order(self, account: str, sequence: int, **changed: Any) -> str:
        """Send an order; returns its id."""
        fields = self.order_fields(account, sequence, **changed)
        self.client.send("orders", account, fields, "OrderReceived")
        return str(fields["order_id"])

    def tick(self, symbol: str = BTC, price_ticks: int = PRICE_TICKS, **changed: Any) -> dict[str, Any]:
        """Send a tick; its fields. The venue hears of it too, unless it is numbered out of line."""
        self._ticks += 1
        now_ms = int(time.time() * 1000)
        fields = {
            "symbol": symbol,
            "sequence": self._ticks,
            "price_ticks": price_ticks,
            "quantity_lots": 1_000_000,
            "exchange_at_ms": now_ms,
            "observed_at_ms": now_ms,
            **changed,
        }
        self.client.send("market-data", symbol, fields, "TickReceived")
        if not changed:
            self.venue("/market", {"ticks": [fields]})
        return fields

    def price(self, symbol: str = BTC, price_ticks: int = PRICE_TICKS) -> None:
        """A tick, and its price on its way to the services."""
        tick = self.tick(symbol, price_ticks)

        def priced() -> bool:
            prices = [each.value for each in self.listener.heard("prices")]
            return any((p["symbol"], p["tick_sequence"]) == (symbol, tick["sequence"]) for p in prices)

        self.listener.until(priced, f"priced {symbol} at {price_ticks}")
        time.sleep(0.3)  # the services follow `prices` by themselves, as the listener does

    def venue(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.venue_url}{path}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    # -- hearing

    def decision(self, order_id: str, topic: str = "risk-decisions") -> Heard:
        """The first record of a topic about an order."""

        def decided() -> Any:
            return next((each for each in self.listener.of_order(order_id) if each.topic == topic), None)

        found: Heard = self.listener.until(decided, f"told of {order_id} on {topic}")
        return found

    def refusal(self, order_id: str) -> str:
        """Risk's reason against an order; fails when it was approved."""
        decision = self.decision(order_id)
        assert decision.event_type == "OrderRiskRejected", decision
        return str(decision.value["reason"])

    def ending(self, order_id: str) -> Heard:
        """The record that ends an approved order."""
        endings = ("OrderCancelled", "OrderExpired", "VenueRejected", "OrderWithheld")

        def is_ending(each: Heard) -> bool:
            filled = each.event_type == "TradeExecuted" and each.value["leaves_lots"] == 0
            return filled or each.event_type in endings or each.event_type.endswith("ComplianceRejected")

        def ended() -> Any:
            return next((each for each in self.listener.of_order(order_id) if is_ending(each)), None)

        found: Heard = self.listener.until(ended, f"ended {order_id}")
        return found

    def filled_lots(self, account: str) -> int:
        """What the venue has filled; a report that stands on the topic twice counts once."""
        reports = [each for each in self.listener.heard("executions") if each.key == account.encode()]
        fills = [each.value for each in reports if each.event_type == "TradeExecuted"]
        return sum({each["trade_id"]: each["quantity_lots"] for each in fills}.values())

    def dead_letter(self, containing: str, key: str) -> Heard:
        """A dead letter of this key whose error contains the text."""

        def buried() -> Any:
            letters = self.listener.heard("dead-letters")
            return next(
                (each for each in letters if containing in each.error and each.key == key.encode()), None
            )

        found: Heard = self.listener.until(buried, f"buried {key} for {containing!r}")
        return found

    # -- watching

    def page(self, service: str, path: str) -> tuple[int, Any]:
        """Status and JSON of a page of a service's worker."""
        try:
            with urllib.request.urlopen(f"{self._address(service)}{path}", timeout=5) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def _address(self, service: str) -> str:
        found = re.search(rf"\b{service} (http://\S+)", self._said())
        assert found, f"no address of {service} in:\n{self._said()}"
        return found.group(1)

    def reasons(self, service: str) -> list[str]:
        """Why a service is not ready; empty when it is."""
        return list(self.page(service, "/ready")[1].get("reasons", []))

    def all_ready(self) -> bool:
        services = ("marketdata", "risk", "compliance", "exchange", "refdata", "allocation")
        return all(self.page(service, "/ready")[0] == 200 for service in services)


@contextlib.contextmanager
def venue_process(
    data_dir: Path, *, program: Sequence[str] = VENUE, instruments: Path = DEMO
) -> Iterator[str]:
    """The venue's address."""
    command = [
        sys.executable,
        *program,
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        "--instruments",
        str(instruments),
    ]
    process = subprocess.Popen(
        command,
        env=os.environ | {"VENUE_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    threading.Thread(target=process.stdout.read, daemon=True).start()
    try:
        yield line.rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.wait(15)


@contextlib.contextmanager
def outside_pipeline(
    data_dir: Path,
    *,
    venue_program: Sequence[str] = VENUE,
    venue_instruments: Path = DEMO,
    priced: Sequence[str] = (BTC, ETH),
) -> Iterator[OutsidePipeline]:
    """Everything up, the demo's reference data loaded, the instruments priced."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Running("kafka", "--data-dir", str(data_dir / "kafka"), "--port", "0"))
        broker.until_said("listens on", 90.0)
        found = re.search(r"listens on (\S+?),?\s", broker.said)
        assert found, broker.said
        bootstrap = found.group(1)
        url = stack.enter_context(
            venue_process(data_dir / "venue", program=venue_program, instruments=venue_instruments)
        )
        known = {"KAFKA_BOOTSTRAP": bootstrap, "VENUE_URL": url, "VENUE_TOKEN": TOKEN}
        services = stack.enter_context(
            Running("up", "--data-dir", str(data_dir / "services"), environment=known)
        )
        services.until_said("tables: ", 120.0)
        pipeline = OutsidePipeline(bootstrap, url, lambda: services.said)
        pipeline.listener = Listener(bootstrap, OUTPUTS)
        stack.callback(pipeline.listener.close)
        with Running("refdata", "load", str(DEMO), environment=known) as loading:
            assert loading.wait(60) == 0, loading.said
        for symbol in priced:
            pipeline.price(symbol)
        yield pipeline
