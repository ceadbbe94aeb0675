"""`python -m storm.worker -A app.<service> … worker …`: Faust's own command line on an instrumented engine.

The environment says what else is different: `STORM_MUTANT` names one planted bug to run with, `STORM_ARM` a
file that arms a step. The file is read, and removed, at the start and at every SIGUSR1; from then on the
process kills or freezes itself when it reaches the step for the how manieth time. `arm` is the other side.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Literal

import msgspec
from mode import Worker

from storm import steps
from storm.mutants.patching import Permanent
from storm.mutants.registry import MUTANTS

ActionName = Literal["kill", "freeze"]

ACTIONS: dict[ActionName, steps.Action] = {"kill": steps.kill, "freeze": steps.freeze}


class Arming(msgspec.Struct, frozen=True):
    """Do `action` the `number`th time that `step` is reached from now on (1 is the next)."""

    step: steps.Step
    number: int
    action: ActionName


def arm(pid: int | None, path: Path, step: steps.Step, number: int, action: ActionName) -> None:
    """Arm a step of the worker `pid`, whose STORM_ARM is `path`, or of its next start.

    A worker that is only just starting finds the file by itself: it is signalled when it listens, not before.
    """
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(msgspec.json.encode(Arming(step, number, action)))
    unfinished.replace(path)
    if pid is not None and _listens(pid):
        send(pid, signal.SIGUSR1)


def disarm(pid: int | None, path: Path) -> None:
    """Take an arming back, whether the worker has read it or not."""
    path.unlink(missing_ok=True)
    if pid is not None and _listens(pid):
        send(pid, signal.SIGUSR1)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False when the process has just gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _listens(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def _take_arming(path: Path) -> None:
    """Do what the file says, or no longer what one before it said."""
    steps.PROCESS_PLAN.clear()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    path.unlink()
    arming = msgspec.json.decode(data, type=Arming)
    _say(f"armed: {arming.action} {arming.step}, time {arming.number}")

    def act() -> None:
        _say(f"{arming.action} {arming.step}")
        steps.PROCESS_PLAN.clear()
        ACTIONS[arming.action]()

    steps.PROCESS_PLAN[arming.step] = steps.at_time(arming.number, act)


def _say(what: str) -> None:
    """Tell the log what happens here, at once: there may be no later."""
    os.write(2, f"storm: {what}\n".encode())


def _listen(path: Path) -> None:
    """Take armings from now on; Faust's worker puts its own method behind SIGUSR1 when its loop runs."""
    signal.signal(signal.SIGUSR1, lambda *_: _take_arming(path))
    Worker._on_sigusr1 = lambda self: _take_arming(path)  # type: ignore[method-assign]
    _take_arming(path)


def main() -> None:
    """Become a worker. A mutant is applied before the agents are imported and take their names along."""
    from faust.cli.faust import cli

    steps.instrument()
    if name := os.environ.get("STORM_MUTANT"):
        MUTANTS[name].patch(Permanent())
        _say(f"mutant {name}")
    if path := os.environ.get("STORM_ARM"):
        _listen(Path(path))
    sys.exit(cli())


if __name__ == "__main__":
    main()
