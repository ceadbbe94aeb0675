"""Orders that the venue shall have and that have not ended, by account/order. Single writer: exchange."""

from app.codecs import TableCodec
from app.domain.exchange import Intent
from app.exchange import app

INTENTS = app.Table(
    "intents",
    value_type=TableCodec("exchange.intents", Intent),
    help="orders at stake at the venue by account/order",
)
