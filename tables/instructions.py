"""Allocation instructions in force, by account/order, or account/* for all orders. Single writer: allocation.

An order's own instruction goes when the order ends at the venue; for one that never gets there it stays.
"""

from app.allocation import app
from app.codecs import TableCodec
from models.commands import SetAllocation

INSTRUCTIONS = app.Table(
    "instructions",
    value_type=TableCodec("allocation.instructions", SetAllocation),
    help="who gets what, by account/order, account/* for all",
)
