"""The rounds of faults in which a planted bug has to show."""

import argparse

from storm.mutants.registry import MUTANTS
from storm.options import storm_arguments, storm_options
from storm.run import rounds_for


def test_every_fault_of_a_mutants_rounds_has_a_number_of_its_own() -> None:
    """Doses of poison go on from one another by it: an order that comes again shows nothing."""
    parser = argparse.ArgumentParser()
    storm_arguments(parser)
    options = storm_options(parser.parse_args([]))
    for mutant in MUTANTS.values():
        numbers = [fault.index for faults in rounds_for(mutant, options) for fault in faults]
        assert len(set(numbers)) == len(numbers), mutant.name
