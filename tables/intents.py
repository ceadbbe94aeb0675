"""Orders that the venue shall have and that have not ended, by account/order. Single writer: exchange."""

from app.domain.exchange import Intent
from app.exchange import app

INTENTS = app.Table("intents", value_type=Intent, help="orders at stake at the venue by account/order")
