"""What `run` and `up` can be asked for, and what is refused in one line."""

import os
from pathlib import Path

import pytest

from app.run.plan import RunOptions
from cli import main as cli
from cli.options import run_options, up_plan


def parsed(*arguments: str) -> RunOptions:
    return run_options(cli.parser().parse_args(["run", *arguments]))


def test_every_option_arrives() -> None:
    options = parsed(
        *("--orders", "20000", "--speed", "max", "--exit", "--json", "out.json", "--seed", "7"),
        *("--partitions", "4", "--workers", "risk=2", "--workers", "exchange=3", "--data-dir", "d"),
    )

    assert options.plan.data_dir == Path("d").absolute()
    assert options.plan.workers == {"risk": 2, "exchange": 3}
    assert (options.plan.partitions, options.plan.port, options.plan.embedded) == (4, None, True)
    assert (options.orders, options.speed, options.seed) == (20_000, "max", 7)
    assert (options.exit, options.json) == (True, Path("out.json"))


def test_up_has_neither_kafka_nor_venue_of_its_own() -> None:
    assert not up_plan(cli.parser().parse_args(["up", "--workers", "risk=2"])).embedded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exit"], "error: --exit needs --orders"),
        (["--json", "f"], "error: --json needs --exit"),
        (["--workers", "gateway=2"], "'gateway=2': allowed is SERVICE=N"),
        (["--workers", "risk=0"], "'risk=0': allowed is SERVICE=N"),
        (["--speed", "fast"], "'fast': allowed is 'max' or a number above 0"),
        (["--speed", "nan"], "'nan': allowed is 'max' or a number above 0"),
        (["--partitions", "3"], "'3': allowed is a power of two from 1 to 256"),
        (["--partitions", "512"], "'512': allowed is a power of two from 1 to 256"),
        (["--data-dir", os.fsdecode(b"b\xfcro")], "'b\\udcfcro': allowed is a path in UTF-8"),
        (["--orders", "0"], "'0': allowed is a whole number from 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = cli.main(["run", *arguments])
    except SystemExit as ended:  # argparse's own way
        status = ended.code

    assert status == 2
    assert message in capsys.readouterr().err
