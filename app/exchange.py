"""Exchange service: approved orders to the venue, its reports back: `faust -A app.exchange worker`."""

from app.service import make_service
from app.topology import EXCHANGE

app = make_service(EXCHANGE)
