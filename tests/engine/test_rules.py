"""Each rule holds in the scenario made for it, and the scenario notices when somebody breaks the rule."""

from pathlib import Path

import pytest

from storm.mutants.engine import BROKEN_RULES, BrokenRule
from tests.engine.conftest import MakeWorld
from tests.engine.scenarios import PARTITIONS, SCENARIOS
from tests.engine.waiting import PATIENCE_S

IN_VAIN_S = 3.0
TRIES = 3


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_rules_hold(name: str, make_world: MakeWorld) -> None:
    world = await make_world(partitions=PARTITIONS.get(name, 1))
    assert await SCENARIOS[name](world, PATIENCE_S) == []


@pytest.mark.parametrize("mutant", BROKEN_RULES.values(), ids=lambda mutant: f"{mutant.rule}-{mutant.name}")
async def test_a_broken_rule_is_noticed(mutant: BrokenRule, make_world: MakeWorld, tmp_path: Path) -> None:
    """A few mutants need two workers to meet: one that was lucky gets two more chances."""
    for attempt in range(TRIES):
        partitions = PARTITIONS.get(mutant.scenario, 1)
        world = await make_world(directory=str(tmp_path / str(attempt)), partitions=partitions)
        with pytest.MonkeyPatch.context() as patch:
            mutant.patch(patch)
            try:
                findings = await SCENARIOS[mutant.scenario](world, IN_VAIN_S)
            except (AssertionError, TimeoutError) as error:
                findings = [str(error)]
        if any(mutant.shows in each for each in findings):
            return
    raise AssertionError(findings)
