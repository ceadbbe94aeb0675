"""What of each account's limits holds until its orders leave for the venue. Single writer: exchange."""

from app.codecs import TableCodec
from app.domain.exchange import Controls
from app.exchange import app

CONTROLS = app.Table(
    "controls",
    value_type=TableCodec("exchange.controls", Controls),
    help="kill switch, ages and collar at the last look, by account",
)
