"""What one call of the bench shall do, and the rounds it goes through: A B C, A B C, … never A A A."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.contenders import Contender
from bench.kafka import KafkaException
from bench.processes import BenchError

FAILURES_MAX = 2

Measured = TypeVar("Measured")


class Load(NamedTuple):
    """What the whole pipeline is measured with: orders a second on so many partitions, for so many seconds.

    `tree` is another checkout that takes turns with this one. `step` makes the rates rise until one is too
    much: by adding so many orders a second, or, with `factor`, by multiplying.
    """

    partitions: Sequence[int] = (8,)
    rates: Sequence[int] = (200,)
    seconds: float | None = None
    tree: Path | None = None
    step: float | None = None
    factor: bool = False


@dataclass
class Plan:
    """`names` choose contenders by the start of their name, all when empty.

    One that fails twice in a benchmark is out of it; `failures` are told at the end, `lost` are those that
    could not be measured at all.
    """

    runs: int
    records: int
    names: Sequence[str] = ()
    load: Load = field(default_factory=Load)
    failures: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def chosen(self, contenders: Sequence[Contender]) -> list[Contender]:
        """Those asked for that can take part; says which can't, and why."""
        chosen = []
        for contender in contenders:
            if self.names and not any(contender.name.startswith(name) for name in self.names):
                continue
            reason = contender.missing()
            if reason:
                self.say(f"{contender}: skipped, {reason}")
            else:
                chosen.append(contender)
        return chosen

    def rounds(
        self,
        contenders: Sequence[Contender],
        measure: Callable[[Contender], Measured],
        runs: int | None = None,
    ) -> dict[Contender, dict[int, Measured]]:
        """Measure all in turn, `runs` times; results by round, without those that have none."""
        results: dict[Contender, dict[int, Measured]] = {contender: {} for contender in contenders}
        failed: Counter[Contender] = Counter()
        for number in range(runs or self.runs):
            for contender in contenders:
                if failed[contender] == FAILURES_MAX:
                    continue
                try:
                    results[contender][number] = result = measure(contender)
                    self.say(f"round {number + 1}: {contender}: {result}")
                except (BenchError, KafkaException, TimeoutError) as error:
                    failed[contender] += 1
                    self.failures.append(f"round {number + 1}: {contender}: {error}")
                    self.say(self.failures[-1])
        self.lost += [str(contender) for contender in contenders if not results[contender]]
        return {contender: done for contender, done in results.items() if done}

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
