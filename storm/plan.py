"""What shall happen when: a schedule of faults, drawn from a seed. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.topology import SERVICES
from storm.options import KILLS, Kind

VICTIMS: Mapping[str, int] = {name: len(each.inputs) for name, each in SERVICES.items() if each.steady}
"""How often each service is the victim, relative to the others: who reads more has more to lose."""

KIND_WEIGHTS: Mapping[Kind, int] = {
    Kind.KILL: 6,
    Kind.KILL_AT: 5,
    Kind.KILL_UNSEEN: 1,
    Kind.FREEZE: 2,
    Kind.FREEZE_AT: 2,
    Kind.DAMAGE: 3,
    Kind.BROKER: 3,
    Kind.CUT: 3,
    Kind.SLOW: 3,
    Kind.RESET: 4,
    Kind.POISON: 4,
    Kind.VENUE_HANG: 4,
    Kind.VENUE_DROP_ACK: 4,
    Kind.VENUE_TWICE: 4,
    Kind.VENUE_KILL: 3,
    Kind.ROLLING: 1,
}
ALONE_PERCENT = 5
"""How many faults wait until everybody is well again; the others come on top of what is under way."""

PAUSE_S = (0.1, 1.2)
NUMBER_MAX = 3
ALL_WORKERS_PERCENT = 25


@dataclass(frozen=True)
class Fault:
    """One thing to do. `worker` 0 means all of the service; `step` and `number` are for faults at a step.

    `alone` faults begin when all is well and are waited for; `pause_s` passes before the fault.
    """

    index: int
    kind: Kind
    service: str
    worker: int
    pause_s: float
    alone: bool
    length: float
    """How long or how strong, from 0 to 1."""
    step: str | None = None
    number: int = 1

    def __str__(self) -> str:
        at = f" {self.step!r} #{self.number}" if self.step else ""
        return f"{self.kind}{at} {self.service}-{self.worker or 'all'}"


def schedule(
    seed: int,
    wanted: Mapping[Kind, int],
    steps: Sequence[str],
    workers: int,
    *,
    services: Sequence[str] = tuple(VICTIMS),
    exchange_steps: Sequence[str] = (),
    all_alone: bool = False,
) -> list[Fault]:
    """So many faults of each kind in an order, at moments, on workers and at steps that the seed decides.

    `exchange_steps` are those that only workers of the exchange get to. `all_alone` lets no fault come on top
    of another.
    """
    dice = random.Random(seed)
    kinds = [kind for kind, count in wanted.items() for _ in range(count)]
    dice.shuffle(kinds)
    where = (steps, workers, services, exchange_steps)
    faults = [_fault(dice, index, kind, *where) for index, kind in enumerate(kinds)]
    return [replace(each, alone=True) for each in faults] if all_alone else faults


def _fault(
    dice: random.Random,
    index: int,
    kind: Kind,
    steps: Sequence[str],
    workers: int,
    services: Sequence[str],
    exchange_steps: Sequence[str],
) -> Fault:
    (service,) = dice.choices(services, [VICTIMS[each] for each in services])
    worker = dice.randint(1, workers)
    if kind in (Kind.CUT, Kind.SLOW, Kind.RESET) and dice.randrange(100) < ALL_WORKERS_PERCENT:
        worker = 0
    step = None
    if kind in (Kind.KILL_AT, Kind.FREEZE_AT):
        step = dice.choice([*steps, *exchange_steps])
        service = "exchange" if step in exchange_steps else service
    return Fault(
        index,
        kind,
        service,
        worker,
        pause_s=dice.uniform(*PAUSE_S),
        alone=dice.randrange(100) < ALONE_PERCENT,
        length=dice.random(),
        step=step,
        number=dice.randint(1, NUMBER_MAX),
    )


def counts(seed: int, kills: int, others: int, faults: Mapping[Kind, int | None]) -> dict[Kind, int]:
    """How many of each kind: as told, the rest of `kills` and `others` drawn among the other kinds."""
    dice = random.Random(f"{seed} counts")
    wanted = {kind: count or 0 for kind, count in faults.items()}
    for total, group in ((kills, KILLS), (others, tuple(set(Kind) - set(KILLS)))):
        open_ = [kind for kind in faults if kind in group and faults[kind] is None]
        told = sum(wanted[kind] for kind in wanted if kind in group)
        if open_:
            for kind in dice.choices(open_, [KIND_WEIGHTS[each] for each in open_], k=max(0, total - told)):
                wanted[kind] += 1
    return wanted
