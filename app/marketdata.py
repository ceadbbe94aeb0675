"""Market data service: ticks in, conflated last prices out: `faust -A app.marketdata worker`."""

from app.service import make_service
from app.topology import MARKETDATA

app = make_service(MARKETDATA)
