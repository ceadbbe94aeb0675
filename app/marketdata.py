"""Market data service: ticks in, conflated last prices out: `faust -A app.marketdata worker`."""

from app.domain.marketdata import CONFLATION_S
from app.service import make_service

app = make_service("marketdata", commit_interval_s=CONFLATION_S)
