"""A real refdata worker on a real broker: commands as they should be sent, and as they should not."""

import asyncio
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.engine.kafka.admin import ensure_topics
from app.engine.kafka.cluster import partition_of
from app.engine.topics import COMPACTED, TopicSpec
from app.operators.controls import LIMITS_IN_FORCE
from app.operators.desk import Desk, Unreadable, record_of
from app.operators.holders import INTENTS, POSITIONS
from app.operators.refdata import EXIT_DIFFERENT
from app.processes.guarded import start_guarded
from app.topics import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    COMMAND_ANSWERS,
    DEAD_LETTERS,
    HALTS,
    INSTRUMENTS,
    OPERATOR_COMMANDS,
    RESTRICTED_LIST,
    RESTRICTIONS,
    RISK_LIMITS,
    TOPICS,
)
from cli import main as cli
from feed.demo import DEMO
from models.commands import SetHalt, SetRestriction
from models.events import CommandAnswered
from tests.engine.world import read_all
from tests.integration.topics import remove_topics
from tests.unit.test_refdata import set_account, set_instrument

T = TypeVar("T")

PARTITIONS = 4
PATIENCE_S = 60.0

CHANGELOGS = (POSITIONS, INTENTS, LIMITS_IN_FORCE)
RISK_HEADERS = [("event-type", b"SetRiskLimits"), ("schema-version", b"1"), ("correlation-id", b"old")]

Headers = list[tuple[str, bytes]]


class World:
    """The broker with a refdata worker; every test has subjects of its own."""

    def __init__(self, bootstrap: str, port: int) -> None:
        self.bootstrap = bootstrap
        self._port = port

    def page(self, path: str) -> str:
        """A page of the worker's."""
        with urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def notices(self) -> list[str]:
        return list(json.loads(self.page("/status"))["notices"])

    def write(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        async def send() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
                await producer.send_and_wait(topic, value, key, partition, headers=headers)

        asyncio.run(send())

    def command(self, spec: TopicSpec, command: Any, **changed: Any) -> None:
        """Send a command as it has to be, or with another key, value, headers or partition."""
        value, headers = record_of(spec, command, "an-id")
        assert spec.key_of is not None
        fields = {
            "key": spec.key_of(command),
            "value": value,
            "headers": headers,
            "partition": None,
        } | changed
        self.write(spec.name, **fields)

    def answers(self, subject: str) -> list[CommandAnswered]:
        records = asyncio.run(read_all(self.bootstrap, COMMAND_ANSWERS.name))
        found = [CommandAnswered.model_validate_json(each.value or b"") for each in records]
        return [each for each in found if each.subject == subject]

    def answered(self, subject: str, count: int = 1) -> list[CommandAnswered]:
        """Wait for so many answers."""
        return self.until(lambda: self.answers(subject), lambda found: len(found) >= count)

    def in_force(self, spec: TopicSpec, key: str) -> Any:
        async def look() -> Any:
            async with Desk.open(self.bootstrap) as desk:
                return await desk.last_of(spec, key)

        return asyncio.run(look())

    def until_in_force(self, spec: TopicSpec, key: str, good: Callable[[Any], bool]) -> Any:
        return self.until(lambda: self.in_force(spec, key), lambda found: found is not None and good(found))

    @staticmethod
    def until(look: Callable[[], T], good: Callable[[T], bool]) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while not good(found := look()):
            assert time.monotonic() < deadline, f"it stays at {found}"
            time.sleep(0.1)
        return found

    def run(self, *arguments: str) -> int:
        """The command line; gives its exit status."""
        return cli.main([*arguments, "--bootstrap", self.bootstrap])


@pytest.fixture(scope="module")
def world(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    async def prepare() -> None:
        await remove_topics(bootstrap)
        tables = [TopicSpec(name, RISK_LIMITS.codec, config=COMPACTED) for name in CHANGELOGS]
        await ensure_topics(
            bootstrap, [*TOPICS, *tables], partitions=PARTITIONS, replication_factor=1, client_id="test"
        )

    asyncio.run(prepare())
    directory = tmp_path_factory.mktemp("refdata")
    command = [sys.executable, "-m", "faust", "-A", "app.refdata", "--datadir", str(directory / "data")]
    with pytest.MonkeyPatch.context() as patch, (directory / "worker.log").open("wb") as output:
        patch.setitem(os.environ, "KAFKA_BOOTSTRAP", bootstrap)
        patch.setitem(os.environ, "PIPELINE_PARTITIONS", str(PARTITIONS))
        port = free_port()
        started = [*command, "worker", "-l", "info", "--web-port", str(port)]
        with start_guarded(started, grace_s=5, output=output):
            yield World(bootstrap, port)
    asyncio.run(remove_topics(bootstrap))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def elsewhere(key: str) -> int:
    """A partition that is not the key's."""
    return (partition_of(key.encode(), PARTITIONS) + 1) % PARTITIONS


def restriction(symbol: str, restricted: bool = True, version: int | None = None) -> SetRestriction:
    return SetRestriction(symbol=symbol, restricted=restricted, version=version, who="ann", why="a test")


# -- the service -------------------------------------------------------------------------------------------


def test_a_command_is_answered_under_its_id_and_its_repeat_and_an_old_one_too(world: World) -> None:
    for command in (
        set_instrument(1, symbol="S-1"),
        set_instrument(1, symbol="S-1"),
        set_instrument(1, symbol="S-1", status="halted"),
        set_instrument(2, symbol="S-1", tick="0.1"),
    ):
        world.command(OPERATOR_COMMANDS, command)
    answers = world.answered("S-1", 4)
    assert [each.accepted for each in answers] == [True, True, False, False]
    assert "version 1 is not above 1" in answers[2].reason
    assert "tick: may only change while the instrument is delisted" in answers[3].reason
    assert (answers[0].command, answers[0].who, answers[0].why) == ("SetInstrument", "ann", "a test")
    assert world.in_force(INSTRUMENTS, "S-1").version == 1
    records = asyncio.run(read_all(world.bootstrap, COMMAND_ANSWERS.name))
    ours = [dict(each.headers) for each in records if each.key == b"S-1"]
    assert {each["correlation-id"] for each in ours} == {b"an-id"}


@pytest.mark.parametrize("value", [b"restrict it!", None])
def test_an_unreadable_restriction_closes_its_symbol_until_a_good_lift(
    world: World, value: bytes | None
) -> None:
    symbol = f"R-{value is None}"
    world.command(RESTRICTIONS, restriction(symbol, False, 4))
    world.command(RESTRICTIONS, restriction(symbol, False), value=value)
    found = world.until_in_force(RESTRICTED_LIST, symbol, lambda found: found.restricted)
    assert found.why.startswith("a command could not be read")
    assert found.version == 4
    good, bad = world.answered(symbol, 2)
    assert (good.accepted, bad.accepted) == (True, False)
    assert f"'{symbol}' is restricted until a good command says otherwise" in bad.reason
    letters = asyncio.run(read_all(world.bootstrap, DEAD_LETTERS.name))
    assert symbol.encode() in {each.key for each in letters}
    assert world.run("restrict", symbol, "--lift", "--why", "it was garbage") == 0
    assert world.in_force(RESTRICTED_LIST, symbol).version == 5
    assert not world.in_force(RESTRICTED_LIST, symbol).restricted


def test_a_restriction_on_another_partition_closes_its_symbol(world: World) -> None:
    world.command(RESTRICTIONS, restriction("W-1"), partition=elsewhere("W-1"))
    found = world.until_in_force(RESTRICTED_LIST, "W-1", lambda found: found.restricted)
    assert "WrongPartition" in found.why
    refused = [each for each in world.answered("W-1", 2) if not each.accepted]
    assert "WrongPartition" in refused[0].reason
    world.command(RESTRICTIONS, restriction("W-1", False, 1))
    world.until_in_force(RESTRICTED_LIST, "W-1", lambda found: not found.restricted)


def test_a_restriction_under_another_key_closes_both_symbols(world: World) -> None:
    world.command(RESTRICTIONS, restriction("K-2"), key=b"K-1")
    for symbol in ("K-1", "K-2"):
        world.until_in_force(RESTRICTED_LIST, symbol, lambda found: found.restricted)


@pytest.mark.parametrize(
    ("scope", "changed"),
    [
        ("h-no-type", {"headers": []}),
        ("h-garbage", {"value": b"\xff"}),
        ("h-field", {"value": b'{"scope": "h-field", "halted": true, "version": 1, "until": "noon"}'}),
        ("h-partition", {"partition": elsewhere("h-partition")}),
    ],
)
def test_a_halt_that_can_not_be_read_halts(world: World, scope: str, changed: dict[str, Any]) -> None:
    halt = SetHalt(scope=scope, halted=True, version=1, who="ann", why="a test")
    world.command(OPERATOR_COMMANDS, halt, **changed)
    world.until_in_force(HALTS, scope, lambda found: found.halted)
    assert not all(each.accepted for each in world.answered(scope))


def test_what_garbage_has_closed_is_a_notice_until_somebody_has_looked_and_all_is_counted(
    world: World,
) -> None:
    halt = SetHalt(scope="n-1", halted=True, version=1, who="ann", why="a test")
    world.command(OPERATOR_COMMANDS, halt, value=b"?")
    world.until_in_force(HALTS, "n-1", lambda found: found.halted)
    said = "'n-1' is halted: a command could not be read"  # a worker's tables follow its commits
    world.until(world.notices, lambda found: any(each.startswith(said) for each in found))
    counted = 'command="SetHalt",outcome="unreadable"'
    world.until(lambda: world.page("/metrics"), lambda page: counted in page)
    assert world.run("resume", "n-1", "--why", "it was garbage") == 0
    world.until(world.notices, lambda found: not any("n-1" in each for each in found))


def test_an_unreadable_instrument_changes_nothing_and_is_refused_by_name(world: World) -> None:
    world.command(OPERATOR_COMMANDS, set_instrument(1, symbol="U-1"))
    value, _ = record_of(OPERATOR_COMMANDS, set_instrument(2, symbol="U-1", status="halted"), "x")
    spoilt = json.loads(value) | {"colour": "red"}
    world.command(OPERATOR_COMMANDS, set_instrument(2, symbol="U-1"), value=json.dumps(spoilt).encode())
    _, refused = world.answered("U-1", 2)
    assert not refused.accepted
    assert "colour" in refused.reason
    assert refused.version == 2
    assert world.in_force(INSTRUMENTS, "U-1").instrument.status == "active"


# -- the command line: reference data ----------------------------------------------------------------------


def test_the_demo_is_loaded_shown_compared_and_loaded_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("refdata", "diff", str(DEMO)) == EXIT_DIFFERENT
    assert "+ instruments BTC-USD: symbol BTC-USD, base BTC" in capsys.readouterr().out
    assert world.run("refdata", "load", str(DEMO)) == 0
    assert "accepted: SetInstrument BTC-USD version 1" in capsys.readouterr().out
    assert world.run("refdata", "diff", str(DEMO)) == 0
    assert "0 of 4 entries would change" in capsys.readouterr().out
    assert world.run("refdata", "load", str(DEMO)) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert world.run("refdata", "show", "counterparties") == 0
    assert "clearing-house" in capsys.readouterr().out


def test_what_is_shown_is_changed_and_loaded_and_a_stale_copy_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("account_id,owner,firm,base_currency\nshown-1,Ann,f,USD\nshown-2,Bob,f,EUR\n")
    assert world.run("refdata", "load", str(path), "--who", "ann", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert [(each["subject"], each["version"], each["who"]) for each in answers] == [
        ("shown-1", 1, "ann"),
        ("shown-2", 1, "ann"),
    ]
    assert world.run("refdata", "show", "accounts", "--json") == 0
    rows = [each for each in json.loads(capsys.readouterr().out)["accounts"] if "shown" in each["account_id"]]
    rows[0]["status"] = "suspended"
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps({"accounts": rows}, indent=1))
    assert world.run("refdata", "diff", str(copy)) == EXIT_DIFFERENT
    assert "~ accounts shown-1: status active → suspended" in capsys.readouterr().out
    assert world.run("refdata", "load", str(copy)) == 0
    capsys.readouterr()
    rows[0]["owner"] = "Eve"
    copy.write_text(json.dumps({"accounts": rows}, indent=1))
    assert world.run("refdata", "load", str(copy)) == 2
    assert "made from version 1 of 'shown-1', in force is 2" in capsys.readouterr().err
    assert world.in_force(ACCOUNTS, "shown-1").owner == "Ann"


def test_what_would_be_refused_is_told_by_line_and_nothing_of_the_file_is_sent(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("symbol,base,currency,tick,lot\nT-1,T,USD,0.01,1\n")
    assert world.run("refdata", "load", str(path)) == 0
    path.write_text("symbol,base,currency,tick,lot\nT-2,T,USD,0.01,1\nT-1,T,USD,0.1,1\n")
    capsys.readouterr()
    assert world.run("refdata", "load", str(path)) == 2
    said = capsys.readouterr().err
    assert f"{path}:3: 'T-1' would be refused: tick: may only change" in said
    assert world.in_force(INSTRUMENTS, "T-2") is None


def test_a_tick_does_not_change_while_somebody_holds_the_instrument(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    heading = "symbol,base,currency,tick,lot,status\n"
    for status in ("active", "delisted"):
        path.write_text(f"{heading}P-1,P,USD,0.01,1,{status}\n")
        assert world.run("refdata", "load", str(path)) == 0
    held = {"holdings": {"P-1": {"position_lots": 3}, "T-1": {}}}
    world.write(POSITIONS, b"holder", json.dumps(held).encode(), [])
    order = {"order_id": "o-1", "account_id": "orderer", "sequence": 1, "symbol": "P-1", "side": "buy"}
    order |= {"quantity_lots": 1, "price_ticks": 1, "submitted_at_ms": 1}
    intent = {"order": order, "state": "pending", "open_lots": 1}
    world.write(INTENTS, b"orderer/o-1", json.dumps(intent).encode(), [])
    path.write_text(f"{heading}P-1,P,USD,0.1,1,delisted\n")
    capsys.readouterr()
    assert world.run("refdata", "load", str(path)) == 2
    said = capsys.readouterr().err
    assert f"{path}:2: tick: 'P-1' can't change: positions or open orders of holder" in said
    assert "orders at the venue of orderer" in said
    held["holdings"]["P-1"]["position_lots"] = 0
    world.write(POSITIONS, b"holder", json.dumps(held).encode(), [])
    world.write(INTENTS, b"orderer/o-1", None, [])
    assert world.run("refdata", "load", str(path)) == 0
    assert world.in_force(INSTRUMENTS, "P-1").scale == 2


def test_a_tick_changes_back_to_the_scale_in_which_it_is_held(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A raw command, which nobody compares with the holders, changed it by mistake."""
    for version, tick in enumerate(("0.01", "0.1"), 1):
        command = set_instrument(version, symbol="P-2", status="delisted", tick=tick)
        world.command(OPERATOR_COMMANDS, command)
    world.until_in_force(INSTRUMENTS, "P-2", lambda found: found.scale == 2)
    held = {"holdings": {"P-2": {"position_lots": 3, "scale": 1}}}
    world.write(POSITIONS, b"holder-2", json.dumps(held).encode(), [])
    path = tmp_path / "x.csv"
    heading = "symbol,base,currency,tick,lot,status\n"
    path.write_text(f"{heading}P-2,BTC,USD,1,0.0001,delisted\n")
    assert world.run("refdata", "load", str(path)) == 2
    assert "'P-2' can't change: positions or open orders of holder-2" in capsys.readouterr().err
    path.write_text(f"{heading}P-2,BTC,USD,0.01,0.0001,active\n")
    assert world.run("refdata", "load", str(path)) == 0
    assert world.in_force(INSTRUMENTS, "P-2").scale == 1


def test_show_tells_all_kinds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("refdata", "show") == 0
    said = capsys.readouterr().out
    for kind in ("instruments", "accounts", "counterparties", "restrictions", "halts"):
        assert f"{kind}: " in said


# -- the command line: controls ----------------------------------------------------------------------------


def register(world: World, account_id: str) -> None:
    world.command(OPERATOR_COMMANDS, set_account(1, account_id=account_id))
    world.until_in_force(ACCOUNTS, account_id, lambda found: True)


def test_an_account_is_halted_and_resumed_and_the_versions_grow(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    register(world, "halt-1")
    assert world.run("halt", "halt-1", "--why", "a test") == 0
    assert "accepted: SetHalt halt-1 version 1: halt-1 is halted" in capsys.readouterr().out
    assert world.in_force(HALTS, "halt-1").halted
    assert world.run("resume", "halt-1", "--why", "all is well") == 0
    assert "version 2: halt-1 is not halted any more" in capsys.readouterr().out
    assert world.run("resume", "halt-1", "--why", "all is well") == 0
    assert "nothing to do: halt-1 is not halted" in capsys.readouterr().out


@pytest.mark.parametrize("spoilt", [None, b"garbage"])
def test_a_halt_whose_record_is_removed_or_garbage_is_mended_by_resume_halted_or_not(
    world: World, capsys: pytest.CaptureFixture[str], spoilt: bytes | None
) -> None:
    """The services go by the topic, refdata by its own table: `resume` has to mend the one by the other."""
    scope = f"mend-{spoilt is None}"
    register(world, scope)
    assert world.run("halt", scope, "--why", "a test") == 0
    for version in (2, 3):
        world.write(HALTS.name, scope.encode(), spoilt, [])
        assert isinstance(world.in_force(HALTS, scope), Unreadable)
        assert world.run("refdata", "show", "halts") == 0
        assert re.search(rf"{scope} +(somebody has removed it|unknown event type)", capsys.readouterr().out)
        assert world.run("resume", scope, "--why", "all is well") == 0
        assert f"version {version}: {scope} is not halted any more" in capsys.readouterr().out
        assert not world.in_force(HALTS, scope).halted


def test_a_command_that_comes_again_tells_again_what_somebody_has_removed(world: World) -> None:
    command = SetHalt(scope="again-1", halted=True, version=1, who="ann", why="a test")
    lift = command.model_copy(update={"halted": False, "version": 2})
    for each in (command, lift):
        world.command(OPERATOR_COMMANDS, each)
    world.until_in_force(HALTS, "again-1", lambda found: not found.halted)
    world.write(HALTS.name, b"again-1", None, [])
    world.command(OPERATOR_COMMANDS, lift)
    assert [each.accepted for each in world.answered("again-1", 3)] == [True, True, True]
    assert not world.in_force(HALTS, "again-1").halted


def test_a_restriction_that_somebody_has_removed_is_mended_by_a_lift(world: World) -> None:
    world.command(OPERATOR_COMMANDS, set_instrument(1, symbol="L-2"))
    world.until_in_force(INSTRUMENTS, "L-2", lambda found: True)
    assert world.run("restrict", "L-2", "--why", "a rumour") == 0
    world.write(RESTRICTED_LIST.name, b"L-2", None, [])
    assert world.run("restrict", "L-2", "--lift", "--why", "it was wrong") == 0
    assert world.in_force(RESTRICTED_LIST, "L-2").version == 2


def test_reference_data_that_somebody_has_removed_are_mended_by_loading_them(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("account_id,owner,firm,base_currency\nmend-1,Ann,f,USD\n")
    assert world.run("refdata", "load", str(path)) == 0
    world.write(ACCOUNTS.name, b"mend-1", None, [])
    assert world.run("refdata", "diff", str(path)) == EXIT_DIFFERENT
    assert "~ accounts mend-1: told again, it can't be read: somebody has" in capsys.readouterr().out
    assert world.run("refdata", "load", str(path)) == 0
    assert world.in_force(ACCOUNTS, "mend-1").version == 2


def test_all_accounts_are_halted_and_resumed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("halt", "--why", "a test", "--json") == 0
    assert json.loads(capsys.readouterr().out)["subject"] == "*"
    register(world, "halt-2")
    world.run("halt", "halt-2", "--why", "a test")
    assert world.run("resume", "halt-2", "--why", "a test") == 0
    assert "everybody is still halted" in capsys.readouterr().out
    assert world.run("resume", "--why", "a test") == 0
    assert not world.in_force(HALTS, "*").halted


def test_a_mistyped_account_or_symbol_is_refused_with_what_was_meant(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    register(world, "typo-1")
    assert world.run("halt", "tpyo-1", "--why", "a test") == 2
    assert "no account 'tpyo-1' is in force; did you mean typo-1" in capsys.readouterr().err
    assert world.run("restrict", "BTCUSD", "--why", "a test") == 2
    assert "no instrument 'BTCUSD' is in force" in capsys.readouterr().err


def test_an_instrument_is_restricted_and_the_restriction_lifted(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.command(OPERATOR_COMMANDS, set_instrument(1, symbol="L-1"))
    world.until_in_force(INSTRUMENTS, "L-1", lambda found: True)
    assert world.run("restrict", "L-1", "--why", "a rumour") == 0
    assert world.in_force(RESTRICTED_LIST, "L-1").restricted
    assert world.run("restrict", "L-1", "--lift", "--why", "it was wrong") == 0
    assert "version 2: L-1 is not restricted any more" in capsys.readouterr().out
    assert not world.in_force(RESTRICTED_LIST, "L-1").restricted


def test_who_loses_a_race_is_told(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(world, "race-1")
    assert world.run("halt", "race-1", "--why", "a test") == 0
    send = Desk._send

    async def too_late(desk: Desk, spec: TopicSpec, commands: Any) -> Any:
        monkeypatch.setattr(Desk, "_send", send)
        (command, _) = commands[0]
        await desk.order(spec, [command.model_copy(update={"halted": True, "who": "bob"})])
        return await send(desk, spec, commands)

    monkeypatch.setattr(Desk, "_send", too_late)
    assert world.run("resume", "race-1", "--why", "a test") == 1
    said = capsys.readouterr().out
    assert "refused: SetHalt race-1 version 2: version 2 is not above 2" in said
    assert "somebody else was first" in said
    assert world.in_force(HALTS, "race-1").halted


def test_without_an_answer_the_command_says_where_it_stands(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    register(world, "quiet-1")
    assert world.run("sequence", "quiet-1", "7", "--why", "risk does not run here", "--wait", "1") == 2
    said = capsys.readouterr().err
    assert (
        "no answer within 1 s to SetAccountSequence of 'quiet-1', which stands in account-commands/" in said
    )


class Risk:
    """Stands in for risk: answers limits and sequences as it does, and keeps the limits in its changelog."""

    def __init__(self, world: World) -> None:
        self._bootstrap = world.bootstrap
        self._versions: dict[str, int] = {}
        self._over = threading.Event()
        self._began = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._answer()))

    def __enter__(self) -> None:
        self._thread.start()
        assert self._began.wait(PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _answer(self) -> None:
        specs = {spec.name: spec for spec in (RISK_LIMITS, ACCOUNT_COMMANDS)}
        async with (
            AIOKafkaConsumer(bootstrap_servers=self._bootstrap) as consumer,
            AIOKafkaProducer(bootstrap_servers=self._bootstrap) as producer,
        ):
            consumer.assign([TopicPartition(name, p) for name in specs for p in range(PARTITIONS)])
            await consumer.seek_to_end()
            self._began.set()
            while not self._over.is_set():
                for tp, records in (await consumer.getmany(timeout_ms=50)).items():
                    for record in records:
                        await self._judge(producer, specs[tp.topic], record)

    async def _judge(self, producer: AIOKafkaProducer, spec: TopicSpec, record: Any) -> None:
        headers = dict(record.headers)
        assert record.partition == partition_of(record.key, PARTITIONS)
        command = spec.codec.decode(headers["event-type"], headers["schema-version"], record.value)
        version = getattr(command, "version", None)
        stale = version is not None and version <= self._versions.get(command.account_id, 0)
        if version is not None and not stale:
            self._versions[command.account_id] = version
            await producer.send_and_wait(LIMITS_IN_FORCE, record.value, record.key)
        answer = CommandAnswered(
            command=type(command).__name__,
            subject=command.account_id,
            version=version,
            accepted=not stale,
            reason="old" if stale else "",
        )
        kind, number, value = COMMAND_ANSWERS.codec.encode(answer)
        back = [
            ("event-type", kind),
            ("schema-version", number),
            ("correlation-id", headers["correlation-id"]),
        ]
        await producer.send_and_wait(COMMAND_ANSWERS.name, value, record.key, headers=back)


ALL_LIMITS = (
    "order_quantity_lots_max=5_000",
    "order_notional_micros_max=700USD",
    "position_lots_max=3000000",
    "gross_exposure_micros_max=400_000 USD",
    "price_collar_bps=10%",
    "price_age_ms_max=10s",
    "open_orders_max=1000",
)


def test_limits_are_set_changed_and_shown_in_units_of_people(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    register(world, "lim-1")
    with Risk(world):
        assert world.run("limits", "set", "lim-1", *ALL_LIMITS, "--why", "a new account") == 0
        assert "accepted: SetRiskLimits lim-1 version 1" in capsys.readouterr().out
        assert (
            world.run("limits", "set", "lim-1", "price_age_ms_max=45s", "kill_switch=on", "--why", "x") == 0
        )
        said = capsys.readouterr().out
        assert "version 2: price_age_ms_max 10000 (10 s) → 45000 (45 s), kill_switch off → on" in said
        assert world.run("limits", "show", "lim-1") == 0
        said = capsys.readouterr().out
        assert "limits of lim-1, version 2" in said
        assert "700000000 (700.00 USD)" in said
        assert "400000000000 (400,000.00 USD)" in said
        assert world.run("limits", "show", "lim-1", "--json") == 0
        assert json.loads(capsys.readouterr().out)["order_quantity_lots_max"] == 5_000


def test_an_old_command_at_the_end_of_the_topic_does_not_mislead_the_next_one(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    register(world, "lim-2")
    with Risk(world):
        assert world.run("limits", "set", "lim-2", *ALL_LIMITS, "--why", "x") == 0
        assert world.run("limits", "set", "lim-2", "open_orders_max=7", "--why", "x") == 0
        known = asyncio.run(read_all(world.bootstrap, LIMITS_IN_FORCE))
        first = next(each for each in known if each.key == b"lim-2")
        world.write(RISK_LIMITS.name, b"lim-2", first.value, RISK_HEADERS)
        assert [each.accepted for each in world.answered("lim-2", 4)] == [True, True, True, False]
        capsys.readouterr()
        assert world.run("limits", "set", "lim-2", "open_orders_max=8", "--why", "x") == 0
        assert "version 3: open_orders_max 7 → 8" in capsys.readouterr().out


def test_the_sequence_of_an_account_is_set_right(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    register(world, "seq-1")
    with Risk(world):
        assert world.run("sequence", "seq-1", "41", "--why", "it leapt") == 0
    assert "accepted: SetAccountSequence seq-1: orders of seq-1 count from 42 on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            ["open_orders_max=3"],
            "'lim-3' has no limits yet, so all are needed; missing: order_quantity_lots_max",
        ),
        (["open_orders=3"], "'open_orders' is no limit; did you mean open_orders_max?"),
        (["open_orders_max"], "'open_orders_max' is no name=value"),
        (["version=3"], "'version' is no limit"),
        (["open_orders_max=3", "open_orders_max=4"], "open_orders_max is there twice"),
        (["order_notional_micros_max=5EUR"], "'EUR' is no unit of it; known: USD"),
        (["open_orders_max=5s"], "'s' is no unit of it; known: none, a plain number is meant"),
        (["price_age_ms_max=0.0001s"], "is no whole number of the unit in its name"),
        ([*ALL_LIMITS[:-1], "open_orders_max=few"], "open_orders_max: 'few' is refused"),
    ],
)
def test_limits_that_can_not_be_meant_are_refused_before_anything_is_sent(
    world: World, capsys: pytest.CaptureFixture[str], values: list[str], text: str
) -> None:
    if world.in_force(ACCOUNTS, "lim-3") is None:
        register(world, "lim-3")
    assert world.run("limits", "set", "lim-3", *values, "--why", "x") == 2
    assert text in capsys.readouterr().err
    assert world.in_force(RISK_LIMITS, "lim-3") is None


def test_limits_of_nobody_are_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run("limits", "show", "nobody") == 2
    assert "'nobody' has no limits: every order of it is refused" in capsys.readouterr().err


def test_kafka_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["halt", "--why", "x", "--bootstrap", "127.0.0.1:1", "--wait", "1"]
    assert cli.main(arguments) == 2
    assert "Kafka at 127.0.0.1:1 does not answer within 1 s" in capsys.readouterr().err
