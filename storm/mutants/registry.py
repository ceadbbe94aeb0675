"""Every mutant that a worker can be started as, by name."""

from typing import Final

from storm.mutants.engine import BROKEN_RULES
from storm.mutants.mutant import Mutant
from storm.mutants.outside import OUTSIDE
from storm.mutants.pipeline import PIPELINE, SERVICES
from storm.mutants.requests import REQUESTS


def _rule(
    name: str,
    told: str,
    invariant: str,
    *faults: str,
    services: tuple[str, ...] = SERVICES,
    workers: int | None = None,
) -> Mutant:
    return Mutant(name, services, faults, invariant, BROKEN_RULES[name].patch, told, workers)


_ENGINE: Final = (
    _rule(
        "offsets_before_fencing",
        "A successor reads the committed offsets while its predecessor still commits.",
        "I1",
        "kill",
    ),
    _rule(
        "processing_before_restore",
        "A task begins with its tables as they are.",
        "I1",
        "kill",
    ),
    _rule(
        "inputs_read_uncommitted",
        "What a service sends in a transaction that is then aborted is taken in.",
        "I1",
        "kill-at:before the commit",
    ),
    _rule(
        "restore_reads_uncommitted",
        "Tables are restored with changes that were never committed.",
        "I1",
        "kill-at:after it produced",
    ),
    _rule(
        "standby_reads_uncommitted",
        "A standby applies changes that were never committed.",
        "I1",
        "kill-at:after it produced",
    ),
    _rule(
        "store_before_commit",
        "RocksDB has a batch before Kafka has committed it.",
        "I1",
        "kill-at:before the commit",
        workers=1,  # of two, the other one would do the same work once more, and heal the first one's tables
    ),
    _rule(
        "offset_before_data",
        "The changelog offset is written to RocksDB before the changes that it stands for.",
        "I3",
        "kill-at:after the store's write",
    ),
    _rule(
        "restore_waits_for_a_record_behind_the_marker",
        "A restore does not count transaction markers as read, and waits for ever.",
        "engine",
        "kill",
    ),
    _rule(
        "fenced_goes_on",
        "A task that is fenced takes its id back and goes on.",
        "I1",
        "freeze-at:before the commit",
    ),
    _rule(
        "fenced_writes_its_store",
        "A task that is fenced writes the batch to RocksDB that Kafka has refused.",
        "I1",
        "freeze-at:before the commit",
    ),
    _rule(
        "offsets_in_front_of_the_transaction",
        "Input offsets are committed before the output they stand for is sent.",
        "I1",
        "kill-at:before it produces",
    ),
    _rule(
        "offsets_behind_the_transaction",
        "Input offsets are committed after the transaction, not in it.",
        "I1",
        "kill-at:after the commit",
    ),
    _rule(
        "exception_acknowledges",
        "A record on which the agent fails is read past.",
        "I5",
        "poison",
    ),
    _rule(
        "dead_letter_outside_the_transaction",
        "A dead letter is sent before the transaction that reads past its record.",
        "I5",
        "kill-at:before the commit",
        services=("risk",),
    ),
    _rule(
        "partition_not_checked",
        "A record is taken in wherever it stands, whatever partition its key belongs to.",
        "I5",
        "poison",
    ),
    _rule("no_quarantine", "Records do not wait behind a dead letter of their key.", "I7", "poison"),
    _rule("dead_letter_is_rewritten", "A dead letter's bytes are made text.", "I5", "poison"),
    _rule(
        "told_before_the_commit",
        "The venue is called before the intent is committed.",
        "I2",
        "kill-at:before the commit",
        services=("exchange",),
    ),
)

_ALL: Final = (*_ENGINE, *PIPELINE.values(), *REQUESTS.values(), *OUTSIDE.values())

MUTANTS: Final = {each.name: each for each in _ALL}
