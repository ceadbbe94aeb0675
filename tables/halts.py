"""Halts by account, or `*` for all. Single writer: refdata."""

from app.codecs import TableCodec
from app.refdata import app
from models.events import HaltInForce

HALTS = app.Table(
    "halts", value_type=TableCodec("refdata.halts", HaltInForce), help="halts by account, * for all"
)
