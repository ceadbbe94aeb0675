"""Every counterparty as it is in force. Single writer: refdata."""

from app.codecs import TableCodec
from app.refdata import app
from models.events import CounterpartyRegistered

COUNTERPARTIES = app.Table(
    "counterparties",
    value_type=TableCodec("refdata.counterparties", CounterpartyRegistered),
    help="counterparties by id",
)
