"""Each account's last order that was intended, so that a repeat changes nothing. Single writer: exchange."""

from app.codecs import TableCodec
from app.domain.exchange import Sent
from app.exchange import app

SENT = app.Table("sent", value_type=TableCodec("exchange.sent", Sent), help="the last order sent, by account")
