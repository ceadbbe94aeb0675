"""Every instrument as it is in force, by symbol. Single writer: refdata."""

from app.refdata import app
from models.events import InstrumentListed

INSTRUMENTS = app.Table("instruments", value_type=InstrumentListed, help="instruments by symbol")
