"""Risk service: pre-trade checks, reservations and positions: `faust -A app.risk worker`."""

from app.service import make_service
from app.topology import RISK

app = make_service(RISK)
