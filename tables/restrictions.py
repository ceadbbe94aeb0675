"""The restricted list, by symbol. Single writer: refdata."""

from app.refdata import app
from models.events import RestrictionInForce

RESTRICTIONS = app.Table("restrictions", value_type=RestrictionInForce, help="restrictions by symbol")
