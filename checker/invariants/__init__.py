"""The invariants I1 to I7, pure functions over the history: they compare sets of ids, never counts."""

from checker.invariants.allocations import check_allocations
from checker.invariants.asked import check_requests
from checker.invariants.commands import check_commands
from checker.invariants.conditions import check_conditions
from checker.invariants.conduct import check_conduct
from checker.invariants.exposure import check_exposure
from checker.invariants.intake import check_intake, check_origins
from checker.invariants.lastlook import check_last_look
from checker.invariants.lives import check_lives
from checker.invariants.order import check_key_order
from checker.invariants.positions import check_positions
from checker.invariants.profits import check_profits
from checker.invariants.standing import check_standing
from checker.invariants.strays import Strays
from checker.invariants.tables import check_tables
from checker.invariants.venue import check_sessions, check_venue

__all__ = [
    "Strays",
    "check_allocations",
    "check_commands",
    "check_conditions",
    "check_conduct",
    "check_exposure",
    "check_intake",
    "check_key_order",
    "check_last_look",
    "check_lives",
    "check_origins",
    "check_positions",
    "check_profits",
    "check_requests",
    "check_sessions",
    "check_standing",
    "check_tables",
    "check_venue",
]
