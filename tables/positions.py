"""What each account holds and has open, by symbol. Single writer: risk."""

from app.codecs import TableCodec
from app.domain.risk import AccountRisk
from app.risk import app

POSITIONS = app.Table(
    "positions",
    value_type=TableCodec("risk.positions", AccountRisk),
    help="positions and open lots by account",
)
