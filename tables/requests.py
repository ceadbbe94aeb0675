"""Cancels and replaces that the venue has not answered yet. Single writer: exchange."""

from app.codecs import TableCodec
from app.domain.exchange import Request
from app.exchange import app

REQUESTS = app.Table(
    "requests", value_type=TableCodec("exchange.requests", Request), help="what is asked of the venue"
)
