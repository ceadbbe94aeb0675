"""How far the venue's reports are read, by key shard. Single writer: exchange."""

from app.codecs import TableCodec
from app.domain.exchange import Session
from app.exchange import app

SESSIONS = app.Table(
    "sessions",
    value_type=TableCodec("exchange.sessions", Session),
    by_shard=True,
    help="the venue's reports read so far by key shard",
)
