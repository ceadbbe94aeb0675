"""Every instrument as it is in force, by symbol. Single writer: refdata."""

from app.codecs import TableCodec
from app.refdata import app
from models.events import InstrumentListed

INSTRUMENTS = app.Table(
    "instruments",
    value_type=TableCodec("refdata.instruments", InstrumentListed),
    help="instruments by symbol",
)
