"""Every account as it is in force. Single writer: refdata."""

from app.codecs import TableCodec
from app.refdata import app
from models.events import AccountRegistered

ACCOUNTS = app.Table(
    "accounts", value_type=TableCodec("refdata.accounts", AccountRegistered), help="accounts by id"
)
