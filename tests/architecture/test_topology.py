"""What a service's code does is what its declaration says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.topics import TOPICS, named
from app.topology import SERVICES, WEB_PORTS, answerer_of, readers_of
from cli.main import main
from cli.topology import text
from models.registry import TABLES

DOCS = Path(__file__).parents[2] / "docs" / "architecture.md"
LOOK: str = """if True:
    import json
    from importlib import import_module
    from app.topology import SERVICES

    apps = {name: import_module(f"agents.{name}").app for name in SERVICES}
    print(json.dumps({
        name: {
            "inputs": [spec.name for spec in app.input_specs],
            "outputs": sorted(spec.name for spec in app.topic_specs),
            "reads": sorted(table.topic.name for table in app.global_tables),
            "tables": sorted(app.tables),
        }
        for name, app in apps.items()
    }))
"""
WORDS = "instruments"
"""Every service reads it for its pages: what a number of ticks is in money."""


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", LOOK], check=True, capture_output=True, text=True)
    apps: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return apps


@pytest.mark.parametrize("name", SERVICES)
def test_the_code_reads_writes_and_keeps_what_is_declared(name: str, found: dict[str, Any]) -> None:
    declared = SERVICES[name]
    assert found[name] == {
        "inputs": list(declared.inputs),
        "outputs": sorted(declared.outputs),
        "reads": sorted({*declared.reads, WORDS}),
        "tables": sorted(
            ["quarantine", *(table.split(".")[1] for table in TABLES if table.startswith(f"{name}."))]
        ),
    }


def test_every_topic_that_is_declared_exists_and_every_one_that_exists_has_a_part() -> None:
    declared = {topic for each in SERVICES.values() for topic in (*each.inputs, *each.outputs, *each.reads)}
    assert set(named(*declared)) | set(named("dead-letters")) == set(TOPICS)


def test_ports_are_one_a_service_and_commands_are_answered_by_one() -> None:
    assert sorted(WEB_PORTS.values()) == list(range(6101, 6101 + len(SERVICES)))
    assert (answerer_of("risk-limits"), readers_of("risk-limits")) == ("risk", ("risk", "exchange"))
    with pytest.raises(LookupError, match="nobody"):
        answerer_of("prices")


def test_the_docs_show_it_as_it_is() -> None:
    picture = "\n".join(["```", *text(), "```"])
    assert picture in DOCS.read_text(encoding="utf-8")


def test_it_is_printed_for_people_for_machines_and_as_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology"]) == 0
    assert "risk, port 6102\n    takes in  risk-limits," in capsys.readouterr().out
    assert main(["topology", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exchange"]["tables"] == [
        "intents",
        "sessions",
        "controls",
        "sent",
        "requests",
    ]
    assert main(["topology", "--dot"]) == 0
    assert '"compliance" -> "compliance-decisions";' in capsys.readouterr().out
