"""A service is its own files and one declaration: nothing else has to know it."""

import json
from pathlib import Path

import pytest

from storm.release import Edit, make_release
from tests.integration.running import Running

ORDERS = 300
DECLARATION = """\
TOY: Final = Service("toy", inputs=("executions",), outputs=(), reads=("prices",), steady=False)

SERVICES: Final = {
    each.name: each for each in (MARKETDATA, RISK, COMPLIANCE, EXCHANGE, REFDATA, ALLOCATION, TOY)
}
"""
FILES = {
    "app/toy.py": """
from app.service import make_service
from app.topology import TOY

app = make_service(TOY)
""",
    "tables/toys.py": """
from app.toy import app

FILLS = app.Table("fills", value_type=dict[str, int], help="fills by account")
""",
    "agents/toy.py": """
import logging

from app.engine import unit_of_work
from app.topics import named
from app.topology import TOY
from app.toy import app
from models.events import TradeExecuted
from tables.toys import FILLS

log = logging.getLogger(__name__)
prices = app.global_table(*named(*TOY.reads))


@app.agent(app.inputs(*named(*TOY.inputs)))
async def count(batches):
    async for batch in batches:
        async with unit_of_work(batch) as work:
            for record in work.records():
                if isinstance(record.value, TradeExecuted):
                    before = work[FILLS].get(record.value.account_id, {"fills": 0})
                    work[FILLS][record.value.account_id] = {"fills": before["fills"] + 1}
                    log.warning("toy has counted %s", record.value.account_id)
""",
}


@pytest.mark.timeout(180)
def test_a_service_needs_its_own_files_and_a_declaration(tmp_path: Path) -> None:
    before = (Path(__file__).parents[2] / "app" / "topology.py").read_text(encoding="utf-8")
    start = before.index("SERVICES: Final = {")
    anchor = before[start : before.index("}\n", start) + 2]
    edit = Edit("app/topology.py", anchor, DECLARATION, "a service")
    tree = make_release(tmp_path / "tree", edits=(edit,))
    for name, text in FILES.items():
        (tree / name).write_text(text, encoding="utf-8")
    data_dir, report = tmp_path / "data", tmp_path / "result.json"

    to_the_end = ("--orders", str(ORDERS), "--speed", "max", "--exit", "--json", str(report))
    where = ("--data-dir", str(data_dir), "--port", "0", "--workers", "toy=2")
    with Running("run", *to_the_end, *where, tree=tree) as running:
        assert running.wait(150) == 0, running.said

    assert "8 workers ready" in running.said
    assert " toy http://127.0.0.1:" in running.said
    assert json.loads(report.read_text())["orders"] >= ORDERS
    assert any("toy has counted" in log.read_text() for log in data_dir.rglob("toy-*.log"))
