"""The services, one declaration each. What the rest of the pipeline knows of its shape derives from here.

Topics and tables are named, not imported, so that whoever needs names alone stays light: `app/topics.py` has
the topics' types, `models/registry.py` those of the tables.
"""

from typing import Final, NamedTuple


class Service(NamedTuple):
    """One Faust app: `app/<name>.py`, with its agent in `agents/<name>.py` and its consumer group `<name>`.

    `inputs` are read by partition, the most urgent first: within a batch records come in this order.
    `outputs` are written. `reads` are held whole in memory by each worker. `gathers_s` is how long records
    wait behind a batch for others to share its transaction. `steady`: the first output flows as long as ticks
    and orders do, so that its silence is an outage.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...] = ()
    gathers_s: float = 0.01
    steady: bool = True


MARKETDATA: Final = Service(
    "marketdata",
    inputs=("market-data",),
    outputs=("prices", "market-alerts"),
    reads=("instruments",),
    gathers_s=0.05,  # conflation: ticks gather behind prices that have gone out
)
RISK: Final = Service(
    "risk",
    inputs=("risk-limits", "account-commands", "executions", "compliance-decisions", "orders"),
    outputs=("risk-decisions", "risk-alerts", "command-answers"),
    reads=("accounts", "instruments", "halts", "prices"),
)
COMPLIANCE: Final = Service(
    "compliance",
    inputs=("executions", "risk-decisions"),
    outputs=("compliance-decisions",),
    reads=("restricted-list",),
)
EXCHANGE: Final = Service(
    "exchange",
    inputs=("risk-limits", "compliance-decisions"),
    outputs=("executions",),
    reads=("accounts", "instruments", "restricted-list", "halts", "prices"),
)
REFDATA: Final = Service(
    "refdata",
    inputs=("restrictions", "operator-commands"),
    outputs=("command-answers", "instruments", "accounts", "counterparties", "restricted-list", "halts"),
    steady=False,
)
ALLOCATION: Final = Service(
    "allocation",
    inputs=("allocation-instructions", "executions"),
    outputs=("allocations", "command-answers"),
    reads=("accounts", "instruments"),
)

SERVICES: Final = {each.name: each for each in (MARKETDATA, RISK, COMPLIANCE, EXCHANGE, REFDATA, ALLOCATION)}
"""All of them, in the order in which they are started, shown and given ports."""

FIRST_WEB_PORT: Final = 6101
WEB_PORTS: Final = {name: FIRST_WEB_PORT + number for number, name in enumerate(SERVICES)}
"""The port of a service's first worker, if nobody else has it."""


COMMAND_ANSWERS: Final = "command-answers"


def readers_of(topic: str) -> tuple[str, ...]:
    """The services that take in what stands on a topic."""
    return tuple(name for name, each in SERVICES.items() if topic in each.inputs)


def answerer_of(topic: str) -> str:
    """The one service that answers the commands on a topic; raises LookupError when it is not one."""
    found = [name for name in readers_of(topic) if COMMAND_ANSWERS in SERVICES[name].outputs]
    if len(found) != 1:
        raise LookupError(f"commands on {topic} are answered by {found or 'nobody'}: one service has to")
    return found[0]
