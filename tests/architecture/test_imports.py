"""The rules of pyproject.toml for imports are kept. Here is what they cannot say: what pure code may use."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from sys import stdlib_module_names

import pytest

ROOT = Path(__file__).parents[2]
IMPURE = {
    *("asyncio", "concurrent", "ctypes", "http", "io", "logging", "multiprocessing", "os", "pathlib"),
    *("random", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3"),
    *("ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid"),
}
"""Standard library modules with a clock, chance or the outside world in them."""

NOW = {"now", "today", "utcnow"}


def modules(package: str) -> dict[str, ast.Module]:
    """Every module below `package` (dotted), by dotted name, parsed; {} when there is no such package."""
    base = ROOT.joinpath(*package.split("."))
    paths = [base.with_suffix(".py"), *base.rglob("*.py")] if base.is_dir() else [base.with_suffix(".py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8"), str(path)
        )
        for path in paths
        if path.exists()
    }


def imported(module: str, tree: ast.Module) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it; `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{name.name}" for name in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def reads_environment(tree: ast.Module) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"})
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(name.name in {"environ", "environb", "getenv", "getenvb"} for name in node.names)
        )
        for node in ast.walk(tree)
    )


def test_the_rules_of_pyproject_are_kept() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_models_import_pydantic_msgspec_and_the_standard_library_only() -> None:
    assert {
        f"{module} imports {name}"
        for module, tree in modules("models").items()
        for name in imported(module, tree)
        if not within(name, "models", "msgspec", "pydantic", *stdlib_module_names)
    } == set()


def test_the_domain_imports_models_msgspec_and_the_pure_standard_library_only() -> None:
    assert {
        f"{module} imports {name}"
        for module, tree in modules("app.domain").items()
        for name in imported(module, tree)
        if not within(name, "app.domain", "models", "msgspec", *(stdlib_module_names - IMPURE))
    } == set()


@pytest.mark.parametrize("package", ["app.domain", "models"])
def test_nothing_pure_asks_for_the_time_or_the_outside(package: str) -> None:
    names = {
        f"{module} uses {name}"
        for module, tree in modules(package).items()
        for node in ast.walk(tree)
        for name in [getattr(node, "attr", None) or getattr(node, "id", None)]
        if (isinstance(node, ast.Attribute) and name in NOW)
        or (isinstance(node, ast.Name) and name in {"open", "print", "input", "__import__", "eval", "exec"})
    }

    assert names == set()


def test_one_module_reads_the_environment_and_the_venue_has_its_own() -> None:
    readers = {
        module
        for package in ("agents", "app", "feed", "models", "tables", "venue")
        for module, tree in modules(package).items()
        if reads_environment(tree)
    }

    assert readers <= {"app.config", "venue.config"}


def test_the_walk_sees_the_modules_it_judges() -> None:
    assert {"app", "app.domain", "app.domain.risk"} <= modules("app").keys()
    assert list(imported("app.domain.risk", ast.parse("from . import errors\nimport os.path"))) == [
        "app.domain.errors",
        "os.path",
    ]
    assert reads_environment(ast.parse("from os import environ"))
    assert reads_environment(ast.parse("import os\nos.getenv('A')"))
