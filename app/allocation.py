"""Allocation service: fills of block orders to sub-accounts: `faust -A app.allocation worker`."""

from app.service import make_service
from app.topology import ALLOCATION

app = make_service(ALLOCATION)
