"""Mutants and steps hang on public names: a change inside a function or a class breaks none of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

STORM = Path(__file__).parents[2] / "storm"
OF_OTHERS = {
    "_getframe",  # of sys
    "_on_sigusr1",  # mode has no other way to take a signal
    "_replace",  # of every NamedTuple
}


def private_names(tree: ast.Module) -> Iterator[str]:
    """The private names of others that a module touches, or replaces by `setattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id == "self"
        ):
            yield node.attr
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            constants = (each.value for each in node.args if isinstance(each, ast.Constant))
            yield from (each for each in constants if isinstance(each, str))


HOOKED = [*sorted(STORM.glob("mutants/*.py")), STORM / "steps.py", STORM / "worker.py"]


@pytest.mark.parametrize("path", HOOKED, ids=lambda path: path.stem)
def test_nothing_private_is_replaced(path: Path) -> None:
    names = set(private_names(ast.parse(path.read_text(encoding="utf-8"))))
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert not private - OF_OTHERS
