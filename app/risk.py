"""Risk service: pre-trade checks, reservations and positions: `faust -A app.risk worker`."""

from app.service import make_service

app = make_service("risk")
