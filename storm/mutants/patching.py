"""How a mutant replaces something: for ever in a worker of its own, or until a test is over."""

from typing import Any, Protocol


class Patch(Protocol):
    """Replaces attributes; pytest's MonkeyPatch is one."""

    def setattr(self, owner: Any, name: str, value: Any, /) -> None: ...


class Permanent:
    """A patch that nobody takes back: the process is the mutant."""

    def setattr(self, owner: Any, name: str, value: Any, /) -> None:
        setattr(owner, name, value)
