"""The set-up of .venv: what is missing is one line that says what and what to do."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def interpreters(tmp_path: Path) -> Path:
    """A directory of interpreters to pretend with; nothing else is on the path but system tools."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for tool in ("awk", "cat", "date", "df", "grep", "rm", "tail"):
        (directory / tool).symlink_to(Path("/usr/bin", tool))
    return directory


def install(directory: Path, name: str, *, version: str, recent: bool, venv: str = "exit 1") -> None:
    """An interpreter that answers what the script asks."""
    script = directory / name
    script.write_text(
        f"""#!/bin/sh
case "$2" in
    *python_version*) echo {version} ;;
    *version_info*) exit {0 if recent else 1} ;;
    *ensurepip*) {"exit 1" if venv == "exit 1" else "exit 0"} ;;
    venv) {venv} ;;
esac
"""
    )
    script.chmod(0o755)


def make_venv(directory: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "make-venv.sh"), str(target / ".venv"), "requirements.lock"],
        env=environment | {"PATH": str(directory)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_python_that_is_too_old_is_named(interpreters: Path, tmp_path: Path) -> None:
    install(interpreters, "python3", version="3.9.2", recent=False)
    done = make_venv(interpreters, tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: Python 3.11 or later is needed, found: python3=3.9.2; "
        "install one or set PYTHON=/path/to/python3.11\n"
    )


def test_no_python_at_all_is_said(interpreters: Path, tmp_path: Path) -> None:
    assert "found: none; install one" in make_venv(interpreters, tmp_path).stderr


def test_a_python_without_venv_is_named(interpreters: Path, tmp_path: Path) -> None:
    install(interpreters, "python3", version="3.9.2", recent=False)
    install(interpreters, "python3.12", version="3.12.1", recent=True)
    done = make_venv(interpreters, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: python3.12 has no venv module; install it")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("pip_says", "message"),
    [
        (
            "NewConnectionError: refused",
            "the Python package registry can't be reached and pip has not cached",
        ),
        ("OSError: [Errno 28] No space left on device", "the disk is full; free some space"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "a package is not the one requirements.lock names"),
        ("ERROR: something else", "pip could not install requirements.lock: ERROR: something else; see"),
    ],
)
def test_a_failing_pip_is_one_line(interpreters: Path, tmp_path: Path, pip_says: str, message: str) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || {{ echo "{pip_says}"; exit 1; }}\n')
    python.chmod(0o755)
    done = make_venv(interpreters, tmp_path)
    assert done.returncode == 2
    _, error, end = done.stderr.split("\n")
    assert error.startswith(f"error: {message}")
    assert end == ""
