"""The invariants I1 to I7, pure functions over the history: they compare sets of ids, never counts."""

from checker.invariants.conduct import check_conduct
from checker.invariants.exposure import check_exposure
from checker.invariants.intake import check_intake, check_origins
from checker.invariants.lives import check_lives
from checker.invariants.order import check_key_order, check_market_conditions
from checker.invariants.positions import check_positions
from checker.invariants.standing import check_standing
from checker.invariants.tables import check_tables
from checker.invariants.venue import check_venue

__all__ = [
    "check_conduct",
    "check_exposure",
    "check_intake",
    "check_key_order",
    "check_lives",
    "check_market_conditions",
    "check_origins",
    "check_positions",
    "check_standing",
    "check_tables",
    "check_venue",
]
