"""The restricted list, by symbol. Single writer: refdata."""

from app.codecs import TableCodec
from app.refdata import app
from models.events import RestrictionInForce

RESTRICTIONS = app.Table(
    "restrictions",
    value_type=TableCodec("refdata.restrictions", RestrictionInForce),
    help="restrictions by symbol",
)
