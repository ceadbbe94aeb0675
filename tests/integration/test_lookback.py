"""`state` and `whatif` on the log of a real run."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.codecs import TableCodec
from app.devkafka.server import KafkaServer
from app.domain.books import NO_BOOKS, Books
from app.domain.risk import AccountRisk, Reservation
from app.operators.desk import Desk
from app.operators.history import read_log
from app.operators.state import books_at
from tests.integration.running import Running

ORDERS = 1_000
END_OF_TIME_MS = 10**14


@pytest.fixture(scope="module")
def remains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run to the end has left its data."""
    data_dir = tmp_path_factory.mktemp("run")
    where = ("--data-dir", str(data_dir), "--port", "0")
    with Running("run", "--orders", str(ORDERS), "--speed", "max", "--exit", *where) as run:
        run.wait(240)
        assert "checking the invariants" in run.said, run.said
    return data_dir


@pytest.fixture
async def kafka(remains: Path) -> AsyncIterator[str]:
    async with KafkaServer(remains / "kafka") as server:
        await server.ready()
        yield server.bootstrap


async def asked(kafka: str, *arguments: str) -> dict[str, Any]:
    """What a command prints for machines."""
    command = [sys.executable, "-m", "app", *arguments, "--json", "--bootstrap", kafka]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def rows(desk: Desk, table: str, codec: TableCodec[Any]) -> Mapping[str, Any]:
    """A table of risk's, from its changelog."""
    records = await desk.last_records(f"risk-{table}-changelog")
    return {key.decode(): codec.decode(record.value) for key, record in records.items()}


@pytest.mark.timeout(400)
async def test_a_run_is_explained_and_other_limits_change_it(kafka: str, tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    limits.write_text("{}")
    same = await asked(kafka, "whatif", "--limits", str(limits))

    assert same["decided"] > 0.9 * ORDERS
    assert (same["unexplained"], same["limits_gone"]) == (0, 0)
    assert same["differences"] == []
    assert same["first_difference"] is None
    assert all(
        each["gross_exposure_micros"]["recorded"] == each["gross_exposure_micros"]["otherwise"]
        for each in same["accounts"]
    )

    limits.write_text(json.dumps({"*": {"order_quantity_lots_max": 1_000}}))
    stricter = await asked(kafka, "whatif", "--limits", str(limits))
    refused = [each for each in stricter["differences"] if each["otherwise"] == "order_too_large"]
    assert sum(each["count"] for each in refused) > 100
    assert stricter["decided"] == same["decided"]
    first = stricter["first_difference"]
    assert first["asked"]["quantity_lots"] > 1_000
    assert first["limits"]["otherwise"]["order_quantity_lots_max"] == 1_000
    peaks = [each["gross_exposure_micros"] for each in stricter["accounts"]]
    assert sum(each["otherwise"]["peak"] for each in peaks) < sum(each["recorded"]["peak"] for each in peaks)


@pytest.mark.timeout(400)
async def test_the_books_folded_from_the_log_are_those_of_risks_tables(kafka: str) -> None:
    async with Desk.open(kafka) as desk:
        read = await read_log(desk)
        positions = await rows(desk, "positions", TableCodec("risk.positions", AccountRisk))
        reservations = await rows(desk, "reservations", TableCodec("risk.reservations", Reservation))
    assert len(positions) > 10
    for name, history in read.histories.items():
        mine = {
            key.partition("/")[2]: each for key, each in reservations.items() if key.startswith(f"{name}/")
        }
        books = Books(positions.get(name, NO_BOOKS.account), mine)
        assert books_at(history, read.market, END_OF_TIME_MS) == books, name

    name = max(positions, key=lambda each: len(positions[each].holdings))
    told = await asked(kafka, "state", "--account", name)
    held = {each["symbol"]: each["position_lots"] for each in told["positions"]}
    assert held == {symbol: each.position_lots for symbol, each in positions[name].holdings.items()}
    assert told["limits"]["version"] >= 1
    assert told["last_sequence"] == positions[name].last_sequence

    before = await asked(kafka, "state", "--account", name, "--at", "2020-01-01T00:00:00Z")
    assert (before["positions"], before["open_orders"], before["limits"]) == ([], [], None)
